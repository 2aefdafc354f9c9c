//! Token ids in a file, read on demand for each batch: kinglet's own files, nanoGPT's and llm.c's.

use crate::{
    system::disk::{hex, read_exact_at, sha256},
    text::tokenizer::Tokenizer,
};
use kinglet_core::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::{fs::File, io::Read, ops::Range, path::Path, sync::Arc};

pub(super) const MAGIC: &[u8; 8] = b"KINGLET\0";

pub(super) const VERSION: u32 = 1;

pub(super) const HEADER: u64 = 128;

/// llm.c's magic number, the first of 256 32-bit words in the header, and whether ids then have 32 bits.
const LLM_C: [(u32, bool); 2] = [(20_240_520, false), (20_240_801, true)];

const LLM_C_HEADER: u64 = 1024;

/// A file of token ids.
#[derive(Clone, Debug)]
pub(super) struct TokenFile {
    file: Arc<File>,
    path: Arc<Path>,
    /// Offset of the ids, in bytes.
    start: u64,
    /// Whether ids have 32 bits instead of 16.
    wide: bool,
    len: usize,
}

impl TokenFile {
    /// Number of ids.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn width(&self) -> usize {
        if self.wide { 4 } else { 2 }
    }

    /// Appends the ids in `range` to `out`.
    pub(super) fn read(&self, range: Range<usize>, out: &mut Vec<u32>) -> Result<()> {
        let mut bytes = vec![0; range.len() * self.width()];
        let at = self.start + (range.start * self.width()) as u64;
        read_exact_at(&self.file, &mut bytes, at).map_err(Error::io("read", &self.path))?;
        self.decode(&bytes, out);
        Ok(())
    }

    /// Decodes these bytes and appends the ids to `out`.
    fn decode(&self, bytes: &[u8], out: &mut Vec<u32>) {
        if self.wide {
            out.extend(bytes.as_chunks().0.iter().map(|&id| u32::from_le_bytes(id)));
        } else {
            out.extend(bytes.as_chunks().0.iter().map(|&id| u32::from(u16::from_le_bytes(id))));
        }
    }

    /// A part of the file.
    pub(super) fn part(&self, range: Range<usize>) -> TokenFile {
        let start = self.start + (range.start * self.width()) as u64;
        TokenFile { start, len: range.len(), ..self.clone() }
    }

    /// Reads all ids, checks that each is below `vocab_size`, and returns their checksum.
    pub(super) fn verify(&self, vocab_size: usize) -> Result<String> {
        let (mut hasher, mut bytes, mut ids, mut before) = (Sha256::new(), vec![0; 1 << 20], Vec::new(), 0);
        let mut left = self.len * self.width();
        let mut at = self.start;
        while left > 0 {
            let piece = &mut bytes[..left.min(1 << 20)];
            read_exact_at(&self.file, piece, at).map_err(Error::io("read", &self.path))?;
            hasher.update(&*piece);
            ids.clear();
            self.decode(piece, &mut ids);
            if let Some(i) = ids.iter().position(|&id| id as usize >= vocab_size) {
                let (id, at) = (ids[i], before + i);
                return Err(Error::run(
                    &self.path,
                    format!("id {id} at position {at} is not in the tokenizer's vocabulary of {vocab_size}"),
                ));
            }
            before += ids.len();
            (at, left) = (at + piece.len() as u64, left - piece.len());
        }
        Ok(hex(&hasher.finalize()))
    }

    /// Opens a file of any known kind; kinglet's own files must have been made with this tokenizer.
    pub(super) fn open(path: &Path, tokenizer: &Tokenizer) -> Result<TokenFile> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let bytes = file.metadata().map_err(Error::io("open", path))?.len();
        let mut first = Vec::new();
        (&file).take(HEADER).read_to_end(&mut first).map_err(Error::io("read", path))?;
        let header = Header::parse(&first, bytes).map_err(|error| Error::run(path, error.to_string()))?;
        let bad = |what: &str| Err(Error::run(path, what));
        let Header { start, wide, tokens, .. } = header;
        if header.tokenizer.is_some_and(|sum| sum != sha256(tokenizer.to_json().as_bytes())) {
            return bad("its ids are from another tokenizer");
        }
        let opened = TokenFile { file: file.into(), path: path.into(), start, wide, len: tokens as usize };
        let sum = opened.verify(tokenizer.vocab_size())?;
        if header.ids.is_some_and(|ids| ids != sum) {
            return bad("damaged: its SHA-256 differs from the one in its header");
        }
        Ok(opened)
    }
}

/// The header of a file of ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Offset of the ids, in bytes.
    pub start: u64,
    /// Whether ids have 32 bits instead of 16.
    pub wide: bool,
    /// Number of ids.
    pub tokens: u64,
    /// SHA-256 of the tokenizer's file, in kinglet's own files.
    pub tokenizer: Option<String>,
    /// SHA-256 of the ids, in kinglet's own files.
    pub ids: Option<String>,
}

impl Header {
    /// Parses the `first` 128 bytes (fewer if the file is shorter) of a file of `len` bytes.
    ///
    /// # Errors
    /// If the header does not match the file's length, or the file has no ids.
    pub fn parse(first: &[u8], len: u64) -> Result<Header> {
        let word =
            |at: usize| first.get(at..at + 4).map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")));
        let llm_c = LLM_C.iter().find(|(magic, _)| word(0) == Some(*magic) && word(4) == Some(1));
        let own = first.get(..HEADER as usize).filter(|header| header.starts_with(MAGIC));
        let (start, wide, claimed) = if let Some(header) = own {
            if word(8) != Some(VERSION) || !matches!(word(12), Some(2 | 4)) {
                return Err(Error::Data("this file needs a newer kinglet".into()));
            }
            let tokens = u64::from_le_bytes(header[16..24].try_into().expect("eight bytes"));
            (HEADER, word(12) == Some(4), Some(tokens))
        } else if let Some((_, wide)) = llm_c {
            (LLM_C_HEADER, *wide, word(8).map(u64::from))
        } else {
            // nanoGPT's files are plain 16-bit ids without a header.
            (0, false, None)
        };
        let (width, rest) = (if wide { 4 } else { 2 }, len.saturating_sub(start));
        let tokens = rest / width;
        if claimed.is_some_and(|claimed| claimed != tokens) || rest % width != 0 || tokens == 0 {
            let claimed = claimed.map_or("a whole number of".to_owned(), |claimed| claimed.to_string());
            return Err(Error::Data(format!(
                "damaged: {len} bytes are not {claimed} ids of {width} bytes and a header"
            )));
        }
        let sum = |at: usize| own.map(|header| hex(&header[at..at + 32]));
        Ok(Header { start, wide, tokens, tokenizer: sum(24), ids: sum(56) })
    }
}
