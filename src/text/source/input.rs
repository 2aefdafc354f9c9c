//! A source's bytes: opened, decompressed, and as UTF-8.

use super::format::{self, Compression, Encoding, Format, HEAD};
use crate::text::{
    builtin::Builtin,
    compression,
    names::{Count, many},
    refused::{refused, unreadable},
    utf16::Utf16,
};
use kinglet_core::{config::InvalidUtf8, error::Result};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Cursor, Read},
    path::PathBuf,
    sync::Arc,
};

/// One file, stream or text of a corpus.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// Its name in errors.
    pub(super) name: String,
    pub(super) from: Origin,
    pub(super) format: Format,
    /// The compression that its name promises; its first bytes show the one it has.
    pub(super) promised: Compression,
}

#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// One of the corpora that come with kinglet.
    Own(Builtin, Arc<str>),
    Memory(Arc<[u8]>),
    File(PathBuf),
}

/// How sources are read.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// The field or column with the text.
    pub(super) field: String,
    /// Whether a conversation is read where a record has both one and a text.
    pub(super) conversations: bool,
    pub(super) invalid_utf8: InvalidUtf8,
    /// Whether records that cannot be read are left out.
    pub(super) skip_bad: bool,
    /// Maximum bytes of a record, or less in tests.
    pub(super) longest: usize,
}

/// An open source.
pub(super) struct Input<'a> {
    pub(super) reader: Box<dyn BufRead + 'a>,
    /// Length of the byte order mark, which is not part of the text.
    pub(super) mark: usize,
    pub(super) encoding: Encoding,
}

/// What reading found out about the bytes of all sources, to be told.
#[derive(Clone, Debug, Default)]
pub(super) struct Bytes {
    marks: Count,
    utf16: Count,
    pub(super) replaced: Count,
}

impl Bytes {
    /// Counts what is special about an open source.
    pub(super) fn see(&mut self, input: &Input, name: &str) {
        match input.encoding {
            Encoding::Utf16 { .. } => self.utf16.add(|| name.to_owned()),
            Encoding::Utf8 if input.mark > 0 => self.marks.add(|| name.to_owned()),
            Encoding::Utf8 => {}
        }
    }

    pub(super) fn notes(&self) -> impl Iterator<Item = String> {
        let sources =
            |n: u64, first: &str| if n == 1 { first.to_owned() } else { format!("{first} and {} more", n - 1) };
        let marks = self.marks.note(|n, first| format!("{}: the byte order mark is removed", sources(n, first)));
        let utf16 = self.utf16.note(|n, first| format!("{}: read as UTF-16", sources(n, first)));
        let replaced = self.replaced.note(|n, first| {
            let what = many(n, "invalid byte is", "invalid bytes are");
            format!("{what} replaced with U+FFFD, first in {first}")
        });
        [marks, utf16, replaced].into_iter().flatten()
    }
}

impl Source {
    /// Opens the source, to be read from its start.
    pub(super) fn open(&self, policy: impl Into<Option<InvalidUtf8>>) -> Result<Input<'_>> {
        self.input(policy.into()).map_err(|error| unreadable(&self.name, error))
    }

    fn input(&self, policy: Option<InvalidUtf8>) -> io::Result<Input<'_>> {
        let raw: Box<dyn BufRead + '_> = match &self.from {
            // Nothing in it is special, not even a byte order mark.
            Origin::Own(_, text) => return Ok(Input::plain(Box::new(text.as_bytes()))),
            Origin::Memory(bytes) => Box::new(&bytes[..]),
            Origin::File(path) => Box::new(BufReader::new(File::open(path)?)),
        };
        let (head, raw) = peek(raw)?;
        let raw = match format::compression(&head) {
            Compression::None if self.promised == Compression::None || head.is_empty() => raw,
            Compression::None => {
                let program = if self.promised == Compression::Gzip { "gzip" } else { "zstd" };
                let kind =
                    format::foreign(&self.name, &head).map_or(String::new(), |(kind, _)| format!("; it is {kind}"));
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("this is not compressed with {program}{kind}"),
                ));
            }
            Compression::Gzip => compression::gzip(raw)?,
            Compression::Zstd => compression::zstd(raw)?,
        };
        let (head, mut reader) = peek(raw)?;
        if let Some((kind, advice)) = format::foreign(&self.name, &head) {
            let advice = format::with_name(advice, &self.name);
            return Err(refused(format!(" is not plain text but {kind}: {advice}")));
        }
        let (encoding, mark) = format::encoding(&head);
        io::copy(&mut reader.by_ref().take(mark as u64), &mut io::sink())?;
        if let Encoding::Utf16 { big_endian } = encoding {
            reader = Box::new(BufReader::new(Utf16::new(reader, big_endian, policy)));
        }
        Ok(Input { reader, mark, encoding })
    }
}

impl<'a> Input<'a> {
    fn plain(reader: Box<dyn BufRead + 'a>) -> Input<'a> {
        Input { reader, mark: 0, encoding: Encoding::Utf8 }
    }
}

/// The first bytes, and the reader as if they had not been read.
fn peek<'a>(mut reader: Box<dyn BufRead + 'a>) -> io::Result<(Vec<u8>, Box<dyn BufRead + 'a>)> {
    // What a file's reader has read ahead is enough, as a rule.
    let ahead = reader.fill_buf()?;
    if ahead.len() >= HEAD {
        return Ok((ahead[..HEAD].to_vec(), reader));
    }
    let mut head = Vec::new();
    reader.by_ref().take(HEAD as u64).read_to_end(&mut head)?;
    Ok((head.clone(), Box::new(Cursor::new(head).chain(reader))))
}
