//! Corpora larger than memory: token ids in files, written once and read on demand for each batch.
//!
//! ```text
//! prepared.json    tokens, bytes and characters of each split
//! tokenizer.json   the tokenizer that produced the ids
//! train-00000.bin, val-00000.bin ...    the ids, 16 bits each where the vocabulary allows, else 32, little-endian,
//!                  after a header of 128 bytes: magic, version, bytes per id, number of ids, SHA-256 of tokenizer.json
//!                  and of the ids
//! SHA256SUMS       sha256sum -c verifies the folder
//! ```
//!
//! nanoGPT's `train.bin` and `val.bin` and llm.c's `.bin` files are read as they are. Files are read at offsets rather
//! than memory-mapped: the OS page cache serves both equally well, and a file that shrinks meanwhile causes an error
//! instead of killing the process.

use super::{
    dataset::{Dataset, Made},
    encode::{Encoded, encode},
    split::{Size, Split},
    survey::{Survey, found},
    token_file::{HEADER, MAGIC, TokenFile, VERSION},
};
use crate::{
    system::disk::{self, FolderReader, FolderWriter, hex},
    text::{many, source::Corpus, tokenizer::Tokenizer},
};
use kinglet_core::{
    config::{Config, TokenizerKind},
    error::{Error, Result},
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, BufWriter, Seek, Write},
    ops::ControlFlow,
    path::{Path, PathBuf},
};

const ABOUT: &str = "prepared.json";
const TOKENIZER: &str = "tokenizer.json";
/// Ids per file: 200 MB at 16 bits each.
const IDS_PER_FILE: u64 = 100_000_000;

/// Tokens to decode from a foreign file to estimate how much text its ids represent.
const SAMPLE: usize = 1 << 20;

/// A corpus in files.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) tokenizer: Tokenizer,
    pub(super) train: Split,
    pub(super) val: Split,
    pub(super) sha256: String,
    pub(super) notes: Vec<String>,
    /// What they were made with, if kinglet made them.
    pub(super) made: Option<Made>,
}

impl From<Files> for Dataset {
    fn from(files: Files) -> Dataset {
        let Files { train, val, sha256, notes, made, .. } = files;
        Dataset { train, val, floor: None, sha256, notes, made, chats: None }
    }
}

/// Description of a split.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PartAbout {
    /// Token ids, including one end-of-text token per document if there are several.
    pub tokens: u64,
    /// Bytes of text.
    pub bytes: u64,
    /// Characters of text.
    pub chars: u64,
    /// Token ids that are no part of the text and never predicted: those of `bos_token`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub given: u64,
    /// Its files, in order.
    pub files: Vec<String>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Description of a prepared corpus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// Version of the format.
    pub format_version: u32,
    /// A hash that identifies the corpus, in hexadecimal.
    pub sha256: String,
    /// The tokenizer setting it was made with.
    pub tokenizer: TokenizerKind,
    /// The train_split setting it was made with.
    pub train_split: f64,
    /// The token before each document, if there is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bos_token: String,
    /// The token behind each document, if it is not the tokenizer's own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub eos_token: String,
    /// Documents.
    pub documents: u64,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// The training split.
    pub train: PartAbout,
    /// The validation split.
    pub val: PartAbout,
    /// Notes for the user on how it was written.
    #[serde(skip)]
    pub notes: Vec<String>,
}

/// Opens the files of ids that `config.data` names: a folder written by [`prepare`], a folder with `train.bin` and
/// `val.bin`, or `.bin` files, where those with `val` in their name are for validation. `None` if it names text. If a
/// tokenizer is `known`, the ids must be compatible with it.
///
/// # Errors
/// If a file is damaged, or its ids do not belong to the tokenizer.
pub(super) fn open(config: &Config, known: Option<&Tokenizer>) -> Result<Option<Files>> {
    let paths: Vec<PathBuf> = config.data.iter().map(PathBuf::from).collect();
    let [path] = &paths[..] else { return open_foreign(&paths, config, known) };
    if path.join(ABOUT).exists() {
        let files = open_prepared(path, config, known)?;
        if known.is_some_and(|known| !known.extends(&files.tokenizer)) {
            return Err(Error::Data(format!("{} contains ids from another tokenizer", path.display())));
        }
        return Ok(Some(files));
    }
    let nano_gpt = [path.join("train.bin"), path.join("val.bin")];
    let paths = if nano_gpt.iter().all(|path| path.exists()) { &nano_gpt[..] } else { &paths };
    open_foreign(paths, config, known)
}

fn open_prepared(folder: &Path, config: &Config, known: Option<&Tokenizer>) -> Result<Files> {
    let files = FolderReader::new(folder)?;
    let text = |name: &str| -> Result<String> {
        let bytes = files.read(name, 1 << 28)?;
        String::from_utf8(bytes).map_err(|error| Error::run(&folder.join(name), error.to_string()))
    };
    let about: About = serde_json::from_str(&text(ABOUT)?)
        .map_err(|error| Error::run(&folder.join(ABOUT), format!("not a description of prepared data: {error}")))?;
    if about.format_version != VERSION {
        return Err(Error::run(&folder.join(ABOUT), "this file needs a newer kinglet"));
    }
    let tokenizer = Tokenizer::from_json(&text(TOKENIZER)?).map_err(|error| files.error(TOKENIZER, &error))?;
    let tokenizer = tokenizer.with_ends(&about.bos_token, &about.eos_token)?;
    if let Some(known) = known.filter(|known| known.extends(&tokenizer)) {
        same_ends(folder, known, &tokenizer)?;
    }
    let part = |part: &PartAbout| -> Result<Split> {
        // Use only the file name, so that a path cannot point outside the folder.
        let name = |name: &String| Path::new(name).file_name().map(|name| folder.join(name)).unwrap_or_default();
        let opened: Vec<_> =
            part.files.par_iter().map(|file| TokenFile::open(&name(file), &tokenizer)).collect::<Result<_>>()?;
        let size = Size { bytes: part.bytes, chars: part.chars, given: part.given };
        Split::of_files(opened, size, &tokenizer, config)
    };
    let (train, val) = (part(&about.train)?, part(&about.val)?);
    let About { tokenizer: kind, train_split, bos_token, eos_token, .. } = about;
    let made = Some(Made { tokenizer: kind, train_split, bos_token, eos_token });
    Ok(Files { train, val, tokenizer, sha256: about.sha256, notes: Vec::new(), made })
}

/// Returns an error if a run's texts begin and end with other tokens than those that were prepared.
fn same_ends(folder: &Path, run: &Tokenizer, files: &Tokenizer) -> Result<()> {
    let ends = |tokenizer: &Tokenizer| [tokenizer.begin_of_text(), tokenizer.end_of_text()];
    // Characters may have been added to the run's tokenizer, and with them an end.
    if ends(run) == ends(files) || ends(files)[1].is_none() && ends(run)[0] == ends(files)[0] {
        return Ok(());
    }
    let name = |tokenizer: &Tokenizer| {
        let [begin, end] = [tokenizer.begin_of_text_name().map(str::to_owned), tokenizer.end_of_text_name()];
        format!("bos_token = {:?} and eos_token = {:?}", begin.unwrap_or_default(), end.unwrap_or_default())
    };
    let (made, wanted) = (name(files), name(run));
    Err(Error::Data(format!("{} was prepared with {made}, but this run has {wanted}", folder.display())))
}

fn open_foreign(paths: &[PathBuf], config: &Config, known: Option<&Tokenizer>) -> Result<Option<Files>> {
    if paths.is_empty() || !paths.iter().all(|path| path.extension().is_some_and(|e| e == "bin") && path.is_file()) {
        return Ok(None);
    }
    let tokenizer = match (known, &config.tokenizer) {
        (Some(known), _) => known.clone(),
        (None, TokenizerKind::Byte) => Tokenizer::byte(),
        (None, TokenizerKind::File(path)) => Tokenizer::from_file(Path::new(path))?,
        (None, _) => {
            return Err(Error::Data(format!(
                "{} contains token ids: name their tokenizer.json (for example GPT-2's) with --tokenizer FILE",
                paths[0].display()
            )));
        }
    };
    let tokenizer = match known {
        Some(_) => tokenizer,
        None => tokenizer.with_ends(&config.bos_token, &config.eos_token)?,
    };
    let open = |path: &PathBuf| TokenFile::open(path, &tokenizer);
    let is_val = |path: &&PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains("val"));
    let mut val: Vec<_> = paths.iter().filter(is_val).map(open).collect::<Result<_>>()?;
    let mut train: Vec<_> = paths.iter().filter(|path| !is_val(path)).map(open).collect::<Result<_>>()?;
    if train.is_empty() {
        std::mem::swap(&mut train, &mut val);
    }
    if val.is_empty() {
        let tokens: usize = train.iter().map(TokenFile::len).sum();
        let cut = (config.train_split * tokens as f64) as usize;
        let mut first = 0;
        let whole = std::mem::take(&mut train);
        for file in whole {
            let inside = cut.saturating_sub(first).min(file.len());
            train.extend((inside > 0).then(|| file.part(0..inside)));
            val.extend((inside < file.len()).then(|| file.part(inside..file.len())));
            first += file.len();
        }
    }
    let mut hasher = Sha256::new();
    let mut part = |files: Vec<TokenFile>| -> Result<Split> {
        for file in &files {
            hasher.update(file.verify(tokenizer.vocab_size())?);
        }
        let Size { bytes, chars, .. } =
            text_size(&Split::of_files(files.clone(), Size::default(), &tokenizer, config)?, &tokenizer)?;
        Split::of_files(files, Size { bytes, chars, given: 0 }, &tokenizer, config)
    };
    let (train, val) = (part(train)?, part(val)?);
    let notes = vec![format!(
        "token ids from a vocabulary of {}; losses per byte and per character are estimates",
        tokenizer.vocab_size()
    )];
    let sha256 = hex(&hasher.finalize());
    Ok(Some(Files { tokenizer, train, val, sha256, notes, made: None }))
}

/// About how much text ids are, by the last of them: nothing says it of ids from elsewhere.
pub(super) fn text_size(split: &Split, tokenizer: &Tokenizer) -> Result<Size> {
    let sample = split.last_ids(SAMPLE)?;
    let text = tokenizer.decode(&sample);
    let scaled = |n: usize| (n as f64 / sample.len().max(1) as f64 * split.tokens() as f64) as u64;
    Ok(Size { bytes: scaled(text.len()), chars: scaled(text.chars().count()), given: 0 })
}

/// A split being written.
struct PartWriter {
    folder: PathBuf,
    name: &'static str,
    wide: bool,
    /// SHA-256 of the tokenizer's file.
    tokenizer: [u8; 32],
    about: PartAbout,
    current: Option<OpenFile>,
}

struct OpenFile {
    file: BufWriter<File>,
    sum: Sha256,
    tokens: u64,
}

impl PartWriter {
    fn write(&mut self, encoded: &Encoded) -> Result<()> {
        self.about.tokens += encoded.ids.len() as u64;
        self.about.bytes += encoded.bytes;
        self.about.chars += encoded.chars;
        self.about.given += encoded.given;
        let mut ids = &encoded.ids[..];
        while !ids.is_empty() {
            let open = match &mut self.current {
                Some(open) => open,
                None => {
                    let name = format!("{}-{:05}.bin", self.name, self.about.files.len());
                    self.about.files.push(name);
                    let path = self.path();
                    let file = File::create(&path).and_then(|mut file| {
                        file.write_all(&[0; HEADER as usize])?;
                        Ok(BufWriter::with_capacity(1 << 20, file))
                    });
                    let file = file.map_err(Error::io("write", &path))?;
                    self.current.insert(OpenFile { file, sum: Sha256::new(), tokens: 0 })
                }
            };
            let (now, later) = ids.split_at(ids.len().min((IDS_PER_FILE - open.tokens) as usize));
            // Convert to the file's byte order. On little-endian machines only the width changes.
            let (wide, narrow): (Vec<u32>, Vec<u16>);
            let bytes: &[u8] = if self.wide {
                wide = now.iter().map(|id| id.to_le()).collect();
                bytemuck::cast_slice(&wide)
            } else {
                narrow = now.iter().map(|&id| (id as u16).to_le()).collect();
                bytemuck::cast_slice(&narrow)
            };
            open.sum.update(bytes);
            open.tokens += now.len() as u64;
            let (written, full) = (open.file.write_all(bytes), open.tokens == IDS_PER_FILE);
            written.map_err(Error::io("write", &self.path()))?;
            if full {
                self.finish_file()?;
            }
            ids = later;
        }
        Ok(())
    }

    /// The path of the file being written.
    fn path(&self) -> PathBuf {
        self.folder.join(self.about.files.last().expect("one is written"))
    }

    /// Finishes the file by writing the header, whose content is known only now.
    fn finish_file(&mut self) -> Result<()> {
        let Some(OpenFile { mut file, sum, tokens }) = self.current.take() else { return Ok(()) };
        let width: u32 = if self.wide { 4 } else { 2 };
        let words = [VERSION.to_le_bytes(), width.to_le_bytes()].concat();
        let header = [&MAGIC[..], &words, &tokens.to_le_bytes(), &self.tokenizer, &sum.finalize()].concat();
        let written =
            file.seek(io::SeekFrom::Start(0)).and_then(|_| file.write_all(&header)).and_then(|()| file.flush());
        written.map_err(Error::io("write", &self.path()))
    }
}

/// Writes the tokens of a corpus to a new folder `out`, atomically. `progress` receives the bytes of text done; if it
/// breaks, no folder is written and the result is `None`.
///
/// # Errors
/// If the corpus is unusable, or the folder is not empty or cannot be written.
pub fn prepare(
    corpus: &Corpus,
    survey: &Survey,
    tokenizer: &Tokenizer,
    config: &Config,
    out: &Path,
    mut progress: impl FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<About>> {
    if survey.conversations > 0 {
        let names = corpus.names();
        return Err(Error::Data(format!("{names}: conversations need no preparation: train on them directly")));
    }
    disk::refuse_full(out, |_| false)?;
    let mut folder = FolderWriter::beside(out)?;
    let part = |name| PartWriter {
        folder: folder.aside().to_owned(),
        name,
        wide: tokenizer.vocab_size() > 1 << 16,
        tokenizer: Sha256::digest(tokenizer.to_json()).into(),
        about: PartAbout::default(),
        current: None,
    };
    let mut parts = [part("train"), part("val")];
    let (mut bytes, mut stopped) = (0, false);
    let encoded = encode(corpus, survey, tokenizer, config, survey.cut(config), |behind, encoded| {
        bytes += encoded.bytes;
        stopped |= progress(bytes).is_break();
        if stopped {
            return Err(Error::Data("asked to stop".into()));
        }
        parts[usize::from(behind)].write(&encoded)
    });
    if stopped {
        return Ok(None);
    }
    let mut notes = encoded?;
    notes.append(&mut folder.notes);
    parts.iter_mut().try_for_each(PartWriter::finish_file)?;
    let [train, val] = parts.map(|part| part.about);
    for (name, part) in [("training", &train), ("validation", &val)] {
        if part.tokens < 2 {
            return Err(Error::Data(format!(
                "the {name} part of the text has only {}: use a longer text",
                many(part.tokens, "token", "tokens")
            )));
        }
    }
    for name in train.files.iter().chain(&val.files) {
        folder.add(name, |_| Ok(()))?;
    }
    let about = About {
        format_version: VERSION,
        sha256: survey.sha256.clone(),
        tokenizer: found(config, tokenizer),
        train_split: config.train_split,
        bos_token: config.bos_token.clone(),
        eos_token: config.eos_token.clone(),
        documents: survey.documents,
        vocab_size: tokenizer.vocab_size(),
        train,
        val,
        notes,
    };
    let json = serde_json::to_string_pretty(&about).expect("plain values");
    folder.add(TOKENIZER, |path| std::fs::write(path, tokenizer.to_json()))?;
    folder.add(ABOUT, |path| std::fs::write(path, &json))?;
    folder.finish()?;
    Ok(Some(about))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::dataset::Dataset;
    use kinglet_core::batch::Batch;

    fn config(temp: &Path, settings: &[&str]) -> Config {
        let mut config = Config::default().with(settings).unwrap();
        config.data = vec![temp.join("text.txt").display().to_string()];
        config
    }

    /// Prepares a text; what it is in memory.
    fn prepared(temp: &Path, tokenizer: impl FnOnce(&Survey) -> Tokenizer) -> (Dataset, About) {
        std::fs::write(
            temp.join("text.txt"),
            "in winter the kinglet weighs no more than a coin.
"
            .repeat(99),
        )
        .unwrap();
        let config = config(temp, &[]);
        let corpus = Corpus::open(&config).unwrap();
        let survey = Survey::of(&corpus, &config).unwrap();
        let tokenizer = tokenizer(&survey);
        let about = prepare(&corpus, &survey, &tokenizer, &config, &temp.join("out"), |_| ControlFlow::Continue(()))
            .unwrap()
            .unwrap();
        (Dataset::new(&corpus, &survey, &tokenizer, &config).unwrap(), about)
    }

    fn open_folder(temp: &Path) -> Result<Option<Files>> {
        let mut config = config(temp, &[]);
        config.data = vec![temp.join("out").display().to_string()];
        open(&config, None)
    }

    fn batch(split: &Split) -> Vec<Vec<u32>> {
        let mut batch = Batch::default();
        (0..split.windows()).for_each(|i| split.window(i, &mut batch).unwrap());
        (0..batch.len()).map(|i| batch.sequence(i).1.to_vec()).collect()
    }

    #[test]
    fn what_is_read_back_is_what_is_trained_on_in_memory() {
        // More words than 16 bits can count.
        let wide = |survey: &Survey| {
            let many = (0x4e00..0x4e00 + 0x5200u32).chain(0xac00..0xd7a3).chain(0x2_0000..0x2_a000);
            survey.char_tokenizer().extended(many.filter_map(char::from_u32), true)
        };
        for (tokenizer, width) in
            [(Survey::char_tokenizer as fn(&Survey) -> _, 2), (|_: &Survey| Tokenizer::byte(), 2), (wide, 4)]
        {
            let temp = tempfile::tempdir().unwrap();
            let (memory, about) = prepared(temp.path(), tokenizer);
            let files = open_folder(temp.path()).unwrap().unwrap();
            assert_eq!(batch(&files.train), batch(&memory.train));
            assert_eq!(batch(&files.val), batch(&memory.val));
            assert_eq!(files.train.tokens_per_byte_and_char(), memory.train.tokens_per_byte_and_char());
            assert_eq!(files.sha256, memory.sha256);
            let size = temp.path().join("out/train-00000.bin").metadata().unwrap().len();
            assert_eq!(size, HEADER + width * about.train.tokens);
            let error = prepare_again(temp.path()).unwrap_err().to_string();
            assert!(error.contains("not empty"), "{error}");
        }
    }

    fn prepare_again(temp: &Path) -> Result<About> {
        let config = config(temp, &[]);
        let corpus = Corpus::open(&config)?;
        let survey = Survey::of(&corpus, &config)?;
        let made = prepare(&corpus, &survey, &survey.char_tokenizer(), &config, &temp.join("out"), |_| {
            ControlFlow::Continue(())
        })?;
        Ok(made.unwrap())
    }

    #[test]
    fn a_damaged_file_is_refused_by_name() {
        let temp = tempfile::tempdir().unwrap();
        prepared(temp.path(), Survey::char_tokenizer);
        for (name, at, message) in [
            ("train-00000.bin", 40, "from another tokenizer"),
            ("train-00000.bin", 70, "damaged: its SHA-256"),
            ("train-00000.bin", 8, "newer kinglet"),
            ("train-00000.bin", 16, "damaged: "),
            ("val-00000.bin", 200, "damaged: its SHA-256"),
            ("val-00000.bin", 201, "not in the tokenizer's vocabulary"),
            ("tokenizer.json", 50, "damaged: its SHA-256"),
            ("prepared.json", 5, "damaged: its SHA-256"),
        ] {
            let path = temp.path().join("out").join(name);
            let good = std::fs::read(&path).unwrap();
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            let error = open_folder(temp.path()).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(message), "{error}");
            std::fs::write(&path, &good[..good.len() - 1]).unwrap();
            let error = open_folder(temp.path()).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("damaged"), "{error}");
            std::fs::write(&path, &good).unwrap();
        }
        open_folder(temp.path()).unwrap().unwrap();
        std::fs::remove_file(temp.path().join("out/val-00000.bin")).unwrap();
        assert!(open_folder(temp.path()).unwrap_err().to_string().contains("cannot open"));
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_trained_on_is_an_error() {
        let temp = tempfile::tempdir().unwrap();
        prepared(temp.path(), Survey::char_tokenizer);
        let files = open_folder(temp.path()).unwrap().unwrap();
        File::options().write(true).open(temp.path().join("out/train-00000.bin")).unwrap().set_len(500).unwrap();
        let last = files.train.windows() - 1;
        let error = files.train.window(last, &mut Batch::default()).unwrap_err().to_string();
        assert!(error.contains("cannot read") && error.contains("train-00000.bin"), "{error}");
    }

    #[test]
    fn files_of_nano_gpt_and_llm_c_are_read_as_they_are() {
        let temp = tempfile::tempdir().unwrap();
        let ids: Vec<u16> = (0..500).map(|i| i % 256).collect();
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let header = |magic: u32| {
            let mut header: Vec<u8> = [magic, 1, 500].iter().flat_map(|word| word.to_le_bytes()).collect();
            header.resize(1024, 0);
            header
        };
        let wide: Vec<u8> = ids.iter().flat_map(|&id| u32::from(id).to_le_bytes()).collect();
        std::fs::create_dir(temp.path().join("nano")).unwrap();
        for (name, bytes) in [
            ("nano/train.bin", bytes.clone()),
            ("nano/val.bin", bytes[..200].to_vec()),
            ("x_train.bin", [header(20_240_520), bytes.clone()].concat()),
            ("x_val.bin", [header(20_240_801), wide].concat()),
            ("alone.bin", bytes.clone()),
            ("odd.bin", bytes[..201].to_vec()),
            ("short.bin", [header(20_240_520), bytes[..200].to_vec()].concat()),
        ] {
            std::fs::write(temp.path().join(name), bytes).unwrap();
        }
        let open_all = |names: &[&str], settings: &[&str]| {
            let mut config = config(temp.path(), settings);
            config.data = names.iter().map(|name| temp.path().join(name).display().to_string()).collect();
            open(&config, None)
        };
        for (names, train, val) in
            [(&["nano"][..], 500, 100), (&["x_train.bin", "x_val.bin"], 500, 500), (&["alone.bin"], 450, 50)]
        {
            let files = open_all(names, &["tokenizer=byte"]).unwrap().unwrap();
            assert_eq!((files.train.tokens(), files.val.tokens()), (train, val));
            let all: Vec<u32> = ids.iter().map(|&id| u32::from(id)).collect();
            assert_eq!(files.train.last_ids(1000).unwrap(), all[..train]);
        }
        for (name, settings, message) in [
            ("nano", &[][..], "with --tokenizer FILE"),
            ("odd.bin", &["tokenizer=byte"], "damaged: 201 bytes"),
            ("short.bin", &["tokenizer=byte"], "damaged: 1224 bytes are not 500 ids"),
        ] {
            let error = open_all(&[name], settings).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        assert!(open_all(&["text.txt"], &[]).unwrap().is_none());
    }
}
