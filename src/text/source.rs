//! Text sources: files, folders, glob patterns, standard input and the corpora that come with kinglet; as plain text,
//! JSON, JSON lines or CSV, optionally compressed. Documents are streamed as pieces, in order, so that files need not
//! fit into memory.

use super::{
    builtin::{Builtin, dates},
    chat::Message,
    compression, csv, download,
    tokenizer::Cuts,
    utf8::{MOST_OF_CHAR, NEAR, Utf8, line_to_cut, place_to_cut, without_mark},
};
use kinglet_core::{
    config::{Config, InvalidUtf8},
    error::{Error, Result},
};
use serde_json::Value;
use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The name of the built-in corpus that is used when no data is named.
pub const BUILTIN: &str = "builtin";
/// The name of the corpus that the published models were trained on.
pub const TINY_SHAKESPEARE: &str = "tinyshakespeare";

/// The data name in a configuration for a text given in memory.
pub const MEMORY: &str = "(memory)";

/// Bytes of text from which on to look for a place to cut. Pieces are small because Hugging Face's encoder needs 150
/// times their memory.
const PIECE: usize = 1 << 18;

/// Maximum bytes of a JSON line, a CSV record or a JSON array. Text without a suitable place to cut is cut anyway at
/// this length.
const LONGEST: usize = 1 << 28;

/// A piece of a corpus.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Text of a document.
    Text {
        /// The text.
        text: String,
        /// Whether the document ends here.
        end: bool,
    },
    /// A conversation: a document with answers by the assistant.
    Messages(Vec<Message>),
}

/// A corpus: the sources of its documents, and how to read them.
#[derive(Clone, Debug)]
pub struct Corpus {
    sources: Vec<Source>,
    field: String,
    invalid_utf8: InvalidUtf8,
    /// [`LONGEST`], or less in tests.
    longest: usize,
    /// Notes for the user on which files were chosen.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug)]
struct Source {
    /// Its name in errors.
    name: String,
    from: Origin,
    format: Format,
    compression: Compression,
}

#[derive(Clone, Debug)]
enum Origin {
    /// One of the corpora that come with kinglet.
    Own(Builtin, Arc<str>),
    Memory(Arc<[u8]>),
    File(PathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Text,
    JsonLines,
    JsonArray,
    Separated(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

/// U+FEFF, the byte order mark that some programs put at the start of a file.
const BOM: &[u8] = "\u{feff}".as_bytes();

/// The format and compression of a file, judging by its name.
fn format_of(path: &Path) -> (Format, Compression) {
    let extension = |path: &Path| path.extension().and_then(OsStr::to_str).unwrap_or_default().to_ascii_lowercase();
    let (compression, inner) = match extension(path).as_str() {
        "gz" => (Compression::Gzip, path.with_extension("")),
        "zst" => (Compression::Zstd, path.with_extension("")),
        _ => (Compression::None, path.to_owned()),
    };
    let format = match extension(&inner).as_str() {
        "jsonl" | "ndjson" => Format::JsonLines,
        "json" => Format::JsonArray,
        "csv" => Format::Separated(b','),
        "tsv" => Format::Separated(b'\t'),
        _ => Format::Text,
    };
    (format, compression)
}

impl Corpus {
    /// Opens the corpus that `config.data` names, to be read as configured. Only standard input and other streams are
    /// read now.
    ///
    /// # Errors
    /// If a named source does not exist.
    pub fn open(config: &Config) -> Result<Corpus> {
        Corpus::named(&config.data, config)
    }

    /// Opens the corpus with these names, to be read as configured; no names means the built-in corpus.
    ///
    /// # Errors
    /// As [`Corpus::open`].
    pub fn named(names: &[String], config: &Config) -> Result<Corpus> {
        let mut corpus = Corpus {
            sources: Vec::new(),
            field: config.data_field.clone(),
            invalid_utf8: config.invalid_utf8,
            longest: LONGEST,
            notes: Vec::new(),
        };
        let builtin = [BUILTIN.to_owned()];
        for name in if names.is_empty() { &builtin } else { names } {
            corpus.add(name)?;
        }
        Ok(corpus)
    }

    /// A text in memory, as one document.
    pub fn from_text(text: &str) -> Corpus {
        Corpus::from_bytes("the text", text.as_bytes())
    }

    /// A corpus with the content of a file of this name and these bytes.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Corpus {
        let Config { data_field, invalid_utf8, .. } = Config::default();
        let mut corpus =
            Corpus { sources: Vec::new(), field: data_field, invalid_utf8, longest: LONGEST, notes: Vec::new() };
        let (format, compression) = format_of(Path::new(name));
        corpus.push(name, Origin::Memory(bytes.into()), format);
        corpus.sources.iter_mut().for_each(|source| source.compression = compression);
        corpus
    }

    fn add(&mut self, name: &str) -> Result<()> {
        let path = Path::new(name);
        if name == "-" {
            self.add_stream("standard input", io::stdin())?;
        } else if name == MEMORY {
            return Err(Error::Data(
                "the text of this run was given in memory, not in a file: go on with Job::resume_on_text".to_owned(),
            ));
        } else if path.is_dir() && !is_run(path) {
            self.add_folder(path)?;
        } else if path.is_file() {
            self.add_file(path);
        } else if let Some(own) = Builtin::named(name) {
            self.push(name, Origin::Own(own, own.text().into()), Format::Text);
        } else if name == dates::NAME {
            self.push(name, Origin::Memory(dates::json_lines().into_bytes().into()), Format::JsonLines);
        } else if name == TINY_SHAKESPEARE {
            let bytes = download::tiny_shakespeare()?;
            self.push(name, Origin::Memory(bytes.into()), Format::Text);
        } else if name.contains(['*', '?', '[']) {
            self.add_pattern(name)?;
        } else if path.is_dir() {
            return Err(Error::Data(format!("{name} is the folder of a run: name the text that it was trained on")));
        } else if path.exists() {
            self.add_stream(name, File::open(path).map_err(Error::io("open", path))?)?;
        } else {
            let names: Vec<_> = Builtin::ALL.iter().map(|corpus| format!("{:?}", corpus.name())).collect();
            return Err(Error::Data(format!(
                "there is no file {name}, nor a corpus of that name; name text files, a folder, \"-\", {}, {:?} or {TINY_SHAKESPEARE:?}",
                names.join(", "),
                dates::NAME
            )));
        }
        Ok(())
    }

    fn push(&mut self, name: &str, from: Origin, format: Format) {
        self.sources.push(Source { name: name.to_owned(), from, format, compression: Compression::None });
    }

    /// Adds a source that can be read only once, by reading it into memory.
    fn add_stream(&mut self, name: &str, mut from: impl Read) -> Result<()> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).map_err(Error::io("read", Path::new(name)))?;
        let text = bytes.strip_prefix(BOM).unwrap_or(&bytes);
        let first = text.iter().find(|byte| !byte.is_ascii_whitespace());
        let format = if first == Some(&b'{') { Format::JsonLines } else { Format::Text };
        self.push(name, Origin::Memory(bytes.into()), format);
        Ok(())
    }

    fn add_file(&mut self, path: &Path) {
        let (format, compression) = format_of(path);
        self.push(&path.display().to_string(), Origin::File(path.to_owned()), format);
        self.sources.last_mut().expect("it was added").compression = compression;
    }

    /// Adds every text file below a folder, ordered by name. Hidden files are skipped. So are runs and prepared data: a
    /// run inside its own data folder would otherwise change its own data.
    fn add_folder(&mut self, folder: &Path) -> Result<()> {
        let visible = |entry: &walkdir::DirEntry| {
            entry.depth() == 0 || !entry.file_name().to_str().is_some_and(|name| name.starts_with('.'))
        };
        let (before, mut skipped, mut made) = (self.sources.len(), Vec::new(), Vec::new());
        let walk = walkdir::WalkDir::new(folder).follow_links(true).sort_by_file_name();
        let mut walk = walk.into_iter().filter_entry(visible);
        while let Some(entry) = walk.next() {
            let entry = entry.map_err(|error| {
                let path = error.path().unwrap_or(folder).to_owned();
                Error::io("read", &path)(error.into())
            })?;
            let path = entry.path();
            if entry.depth() > 0 && path.is_dir() && (is_run(path) || path.join(PREPARED).exists()) {
                made.push(path.display().to_string());
                walk.skip_current_dir();
            } else if entry.file_type().is_file() {
                self.add_file(entry.path());
                let source = self.sources.last().expect("it was added");
                if !source.begins_as_text()? {
                    skipped.push(source.name.clone());
                    self.sources.pop();
                }
            }
        }
        if let Some(first) = made.first() {
            let (folder, n) = (folder.display(), made.len());
            self.notes.push(format!("{folder}: left out {n} folders of runs or prepared data, such as {first}"));
        }
        if !skipped.is_empty() {
            let (n, first) = (skipped.len(), &skipped[0]);
            self.notes.push(format!("{}: left out {n} that are empty or not text, such as {first}", folder.display()));
        }
        if self.sources.len() == before {
            return Err(Error::Data(format!("{}: there is no text file in this folder", folder.display())));
        }
        Ok(())
    }

    fn add_pattern(&mut self, pattern: &str) -> Result<()> {
        let paths = glob::glob(pattern)
            .map_err(|error| Error::Data(format!("{pattern}: not a pattern of file names: {error}")))?;
        let before = self.sources.len();
        for path in paths {
            let path = path.map_err(|error| {
                let path = error.path().to_owned();
                Error::io("read", &path)(error.into())
            })?;
            if path.is_file() {
                self.add_file(&path);
            }
        }
        if self.sources.len() == before {
            return Err(Error::Data(format!("{pattern}: no file has a name like this")));
        }
        Ok(())
    }

    /// The built-in corpus, if this is exactly one: its entropy floor is known.
    pub fn own(&self) -> Option<Builtin> {
        match &self.sources[..] {
            [Source { from: Origin::Own(own, _), .. }] => Some(*own),
            _ => None,
        }
    }

    /// Total bytes of the sources, as far as known before reading them.
    pub fn known_bytes(&self) -> u64 {
        let size = |source: &Source| match &source.from {
            Origin::File(path) => fs::metadata(path).map_or(0, |metadata| metadata.len()),
            Origin::Memory(bytes) => bytes.len() as u64,
            Origin::Own(_, text) => text.len() as u64,
        };
        self.sources.iter().map(size).sum()
    }

    /// The sources' names.
    pub fn names(&self) -> String {
        self.sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Calls `each` with every piece, in order. Long text documents are split into pieces where `cuts` allows.
    ///
    /// # Errors
    /// If a source cannot be read, is empty, or is not in the format its name implies; and any error from `each`.
    pub fn pieces(&self, cuts: Cuts, mut each: impl FnMut(Piece) -> Result<()>) -> Result<()> {
        for source in &self.sources {
            let mut some = false;
            let mut each = |piece| {
                some |= !matches!(&piece, Piece::Text { text, .. } if text.is_empty());
                each(piece)
            };
            match (&source.from, source.format) {
                (_, Format::Text) => self.text_pieces(source, cuts, &mut each)?,
                (_, Format::JsonLines) => self.json_lines(source, &mut each)?,
                (_, Format::JsonArray) => self.json_array(source, &mut each)?,
                (_, Format::Separated(separator)) => self.separated(source, separator, &mut each)?,
            }
            if !some {
                return Err(Error::Data(format!("{} is empty", source.name)));
            }
        }
        Ok(())
    }

    fn text_pieces(&self, source: &Source, cuts: Cuts, each: &mut impl FnMut(Piece) -> Result<()>) -> Result<()> {
        let mut reader = source.open()?;
        let mut text = self.utf8(&source.name);
        let (mut bytes, mut searched) = (Vec::new(), 0);
        loop {
            // Double the amount if there was no place to cut, so that the total time is linear in the text.
            let wanted = if cuts == Cuts::Whole { usize::MAX } else { PIECE.max(2 * bytes.len()) - bytes.len() };
            let read = reader.by_ref().take(wanted as u64).read_to_end(&mut bytes).map_err(source.io())?;
            if read < wanted {
                // The last piece, which may be empty: the document ends.
                return each(Piece::Text { text: text.check(bytes)?, end: true });
            }
            let anywhere = cuts == Cuts::Anywhere || bytes.len() >= self.longest;
            let from = if cuts == Cuts::Anywhere { bytes.len().saturating_sub(NEAR) } else { searched };
            let cut = line_to_cut(&bytes, from).or_else(|| anywhere.then(|| place_to_cut(&bytes)));
            let rest = cut.map_or_else(|| bytes.len(), |cut| bytes.len() - cut);
            // Search the end again: a line end is a place to cut only if the text after it, not yet read, is suitable.
            searched = rest.saturating_sub(MOST_OF_CHAR + 1);
            let Some(cut) = cut else { continue };
            let rest = bytes.split_off(cut);
            let piece = text.check(std::mem::replace(&mut bytes, rest))?;
            each(Piece::Text { text: piece, end: false })?;
        }
    }

    fn utf8<'a>(&self, source: &'a str) -> Utf8<'a> {
        Utf8 { source, policy: self.invalid_utf8, offset: 0, line: 1 }
    }

    fn too_long(&self, at: &str, what: &str) -> Error {
        Error::Data(format!("{at}: this {what} is longer than {} MiB", self.longest >> 20))
    }

    fn json_lines(&self, source: &Source, each: &mut impl FnMut(Piece) -> Result<()>) -> Result<()> {
        let mut reader = source.open()?;
        let mut text = self.utf8(&source.name);
        for number in 1u64.. {
            let (at, mut line) = (format!("{}, line {number}", source.name), Vec::new());
            let limit = self.longest as u64 + 1;
            let read = reader.by_ref().take(limit).read_until(b'\n', &mut line).map_err(source.io())?;
            if read == 0 {
                break;
            }
            if read > self.longest {
                return Err(self.too_long(&at, "line"));
            }
            let line = text.check(line)?;
            let line = if number == 1 { without_mark(&line) } else { &line };
            if line.bytes().all(|byte| byte.is_ascii_whitespace()) {
                continue;
            }
            let value = serde_json::from_str(line).map_err(|error| Error::Data(format!("{at}: not JSON: {error}")))?;
            each(self.record(&value, &at)?)?;
        }
        Ok(())
    }

    fn json_array(&self, source: &Source, each: &mut impl FnMut(Piece) -> Result<()>) -> Result<()> {
        let mut bytes = Vec::new();
        source.open()?.take(self.longest as u64 + 1).read_to_end(&mut bytes).map_err(source.io())?;
        if bytes.len() > self.longest {
            return Err(self.too_long(&source.name, "JSON array, which is read whole,"));
        }
        let text = self.utf8(&source.name).check(bytes)?;
        let parsed: Vec<Value> = serde_json::from_str(without_mark(&text)).map_err(|error| {
            Error::Data(format!(
                "{}: not a JSON array of objects: {error}; one object a line is a .jsonl file, text about JSON a .txt file",
                source.name
            ))
        })?;
        drop(text);
        for (i, value) in parsed.iter().enumerate() {
            each(self.record(value, &format!("{}, element {i}", source.name))?)?;
        }
        Ok(())
    }

    /// Reads one object: a conversation, a prompt with its response, or a document in `field`.
    fn record(&self, value: &Value, at: &str) -> Result<Piece> {
        let bad = |what: String| Error::Data(format!("{at}: {what}"));
        let object = value.as_object().ok_or_else(|| bad("not a JSON object".into()))?;
        if let Some(text) = object.get(&self.field) {
            let text = text.as_str().ok_or_else(|| bad(format!("{:?} is not a string", self.field)))?;
            return Ok(Piece::Text { text: text.to_owned(), end: true });
        }
        if let Some(messages) = Message::of_record(object) {
            return Ok(Piece::Messages(messages.map_err(bad)?));
        }
        let keys: Vec<_> = object.keys().map(|key| format!("{key:?}")).collect();
        Err(bad(format!(
            "there is no {:?} in it, nor \"messages\", nor \"prompt\" and \"response\"; --field names another of {}",
            self.field,
            keys.join(", ")
        )))
    }

    fn separated(&self, source: &Source, separator: u8, each: &mut impl FnMut(Piece) -> Result<()>) -> Result<()> {
        let table = csv::Table { name: &source.name, column: &self.field, separator, longest: self.longest };
        let name = format!("{}, column {:?}", source.name, self.field);
        table.values(source.open()?, |line, value| {
            let text = Utf8 { line: line as usize, ..self.utf8(&name) }.check(value.to_vec())?;
            each(Piece::Text { text, end: true })
        })
    }
}

/// The file that marks a folder of prepared data.
const PREPARED: &str = "prepared.json";

/// Whether a folder is a run directory. Such a folder may have the name of a corpus but is not data.
fn is_run(folder: &Path) -> bool {
    folder.join("checkpoints").is_dir() && folder.join("tokenizer.json").exists()
}

/// Makes data names independent of the current folder: files, folders and patterns become absolute paths.
pub fn located(names: &[String]) -> Vec<String> {
    let here = std::env::current_dir().ok();
    names.iter().map(|name| locate(name, here.as_deref()).unwrap_or_else(|| name.clone())).collect()
}

fn locate(name: &str, here: Option<&Path>) -> Option<String> {
    let (path, here) = (Path::new(name), here?.to_str()?);
    if path.exists() {
        return std::path::absolute(path).ok().filter(|_| !is_run(path)).map(|path| path.display().to_string());
    }
    let pattern = name.contains(['*', '?', '[']) && path.is_relative() && Builtin::named(name).is_none();
    pattern.then(|| Path::new(&glob::Pattern::escape(here)).join(path).display().to_string())
}

impl Source {
    fn io(&self) -> impl Fn(io::Error) -> Error {
        move |error| Error::io("read", Path::new(&self.name))(error)
    }

    fn open(&self) -> Result<Box<dyn BufRead + '_>> {
        let raw: Box<dyn BufRead + '_> = match &self.from {
            Origin::Memory(bytes) => Box::new(&bytes[..]),
            Origin::Own(_, text) => Box::new(text.as_bytes()),
            Origin::File(path) => Box::new(BufReader::new(File::open(path).map_err(self.io())?)),
        };
        Ok(match self.compression {
            Compression::None => raw,
            Compression::Gzip => compression::gzip(raw).map_err(self.io())?,
            Compression::Zstd => compression::zstd(raw).map_err(self.io())?,
        })
    }

    /// Whether the file starts with text.
    fn begins_as_text(&self) -> Result<bool> {
        let mut bytes = Vec::new();
        if self.open()?.take(4096).read_to_end(&mut bytes).is_err() {
            return Ok(false);
        }
        let text = match std::str::from_utf8(&bytes) {
            Ok(_) => true,
            // The last character may be incomplete.
            Err(error) => error.error_len().is_none(),
        };
        Ok(text && !bytes.is_empty() && !bytes.contains(&0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenizer::{CharTokenizer, Tokenizer};
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    use std::io::Write;

    fn pieces(names: &[&str], settings: &[&str], temp: &Path) -> Result<Vec<Piece>> {
        let mut config = Config::default();
        settings.iter().for_each(|setting| config.set(setting).unwrap());
        let names: Vec<_> = names.iter().map(|name| temp.join(name).display().to_string()).collect();
        let mut found = Vec::new();
        Corpus::named(&names, &config)?.pieces(Cuts::AtLines, |piece| {
            found.push(piece);
            Ok(())
        })?;
        Ok(found)
    }

    fn text(text: &str) -> Piece {
        Piece::Text { text: text.to_owned(), end: true }
    }

    #[test]
    fn every_kind_of_file_gives_its_documents() {
        let temp = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| fs::write(temp.path().join(name), bytes).unwrap();
        fs::create_dir_all(temp.path().join("folder/.hidden")).unwrap();
        write("folder/b.md", b"second");
        write("folder/a.txt", b"first");
        write("folder/.hidden/x.txt", b"not this");
        write("folder/picture.png", b"\x89PNG\0\0");
        write("folder/empty.txt", b"");
        write("lines.jsonl", b"{\"text\": \"one\"}\n\n{\"text\": \"two\\n\", \"id\": 3}\n");
        write("table.csv", b"id,text,body\n1,\"a, b\",x\n2,c,y\n");
        write("array.json", b"[{\"text\": \"x\"}, {\"text\": \"y\"}]");
        write("chat.jsonl", b"{\"prompt\": \"2+2\", \"response\": \"4\"}\n");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(b"zipped").unwrap();
        write("a.txt.gz", &gzip.finish().unwrap());
        write("b.jsonl.zst", &compress_to_vec(&b"{\"text\": \"z\"}\n"[..], CompressionLevel::Fastest));
        for (names, settings, want) in [
            (&["folder"][..], &[][..], vec![text("first"), text("second")]),
            (&["folder/a*", "folder/b.md"], &[], vec![text("first"), text("second")]),
            (&["lines.jsonl"], &[], vec![text("one"), text("two\n")]),
            (&["table.csv"], &[], vec![text("a, b"), text("c")]),
            (&["table.csv"], &["data_field=body"], vec![text("x"), text("y")]),
            (&["array.json"], &[], vec![text("x"), text("y")]),
            (&["a.txt.gz", "b.jsonl.zst"], &[], vec![text("zipped"), text("z")]),
            (
                &["chat.jsonl"],
                &[],
                vec![Piece::Messages(vec![Message::new("user", "2+2"), Message::new("assistant", "4")])],
            ),
        ] {
            assert_eq!(pieces(names, settings, temp.path()).unwrap(), want, "{names:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_located() {
        let temp = tempfile::tempdir().unwrap();
        for (name, bytes, message) in [
            ("a.txt", &b""[..], "a.txt is empty"),
            ("b.txt", b"ab\ncd\xe9f", "byte 0xe9 at offset 5 (line 2)"),
            ("c.txt", b"ab\0c", "zero byte at offset 2"),
            ("d.jsonl", b"{\"text\": \"x\"}\n{\"tex", "d.jsonl, line 2: not JSON"),
            ("e.jsonl", b"{\"body\": \"x\"}", "line 1: there is no \"text\" in it"),
            ("f.jsonl", b"{\"text\": 3}", "\"text\" is not a string"),
            ("g.jsonl", b"[1]", "not a JSON object"),
            ("h.csv", b"id,body\n1,x\n", "no column \"text\"; --field names another of \"id\", \"body\""),
            ("i.csv", b"id,text\n1\n", "i.csv: CSV error"),
            ("j.json", b"{}", "not a JSON array of objects"),
            ("k.gz", b"not gzip", "cannot read"),
            ("l.zst", b"not zstd at all", "cannot read"),
            ("m.jsonl", b"{\"messages\": [{\"role\": \"user\"}]}", "m.jsonl, line 1: "),
        ] {
            fs::write(temp.path().join(name), bytes).unwrap();
            let error = pieces(&[name], &[], temp.path()).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        for (name, message) in
            [("*.nothing", "no file has a name like this"), ("[", "not a pattern"), ("missing", "there is no file")]
        {
            let error = pieces(&[name], &[], temp.path()).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        fs::create_dir(temp.path().join("none")).unwrap();
        let error = pieces(&["none"], &[], temp.path()).unwrap_err().to_string();
        assert!(error.contains("there is no text file in this folder"), "{error}");
        assert_eq!(pieces(&["b.txt"], &["invalid_utf8=replace"], temp.path()).unwrap(), [text("ab\ncd\u{fffd}f")]);
    }

    #[test]
    fn long_texts_come_in_pieces_that_are_the_whole() {
        let temp = tempfile::tempdir().unwrap();
        let long = "a line é that ends\nand another\n\n  then a blank one\n".repeat(200_000);
        fs::write(temp.path().join("long.txt"), &long).unwrap();
        let found = pieces(&["long.txt"], &[], temp.path()).unwrap();
        assert!(found.len() > 2);
        let mut joined = String::new();
        for (i, piece) in found.iter().enumerate() {
            let Piece::Text { text, end } = piece else { panic!() };
            assert_eq!(*end, i + 1 == found.len());
            assert!(*end || text.ends_with("ends\n") || text.ends_with("one\n"), "{:?}", &text[text.len() - 20..]);
            joined += text;
        }
        assert!(joined == long);
        let mut whole = 0;
        let name = temp.path().join("long.txt").display().to_string();
        let count = |_| {
            whole += 1;
            Ok(())
        };
        Corpus::named(&[name], &Config::default()).unwrap().pieces(Cuts::Whole, count).unwrap();
        assert_eq!(whole, 1);
    }

    fn cut(corpus: &Corpus, cuts: Cuts) -> Vec<String> {
        let mut parts = Vec::new();
        let each = |piece| {
            let Piece::Text { text, .. } = piece else { panic!("{piece:?}") };
            parts.push(text);
            Ok(())
        };
        corpus.pieces(cuts, each).unwrap();
        parts
    }

    #[test]
    fn pieces_of_any_script_are_small_and_have_the_tokens_of_the_whole() {
        let bpe = Tokenizer::train_bpe(["word and word\n".repeat(9)].into_iter(), 300).unwrap();
        let ended = Tokenizer::from(CharTokenizer::train("wordя日\r\n ")).extended([], true);
        for line in ["word\r\n", "word\n", "я日\n", "日日\r\n", "日 \n日\n", "word", "日", "я<|endoftext|>"] {
            let text = line.repeat(4 * PIECE / line.len());
            let corpus = Corpus::from_text(&text);
            for tokenizer in [&bpe, &Tokenizer::byte(), &ended] {
                let parts = cut(&corpus, tokenizer.cuts());
                assert!(parts.concat() == text, "{line:?}");
                let whole = tokenizer.encode(&text).unwrap();
                let apart: Vec<_> = parts.iter().flat_map(|part| tokenizer.encode(part).unwrap()).collect();
                assert!(apart == whole, "{line:?}");
                if line.contains('\n') || tokenizer.cuts() == Cuts::Anywhere {
                    assert!(parts.iter().all(|part| part.len() <= PIECE), "{line:?}");
                }
            }
        }
        // Every place in and around the end of a text.
        let text = "é<|end<|endoftext|><|endoftext|>é<|endof";
        for n in 0..=text.len() {
            let at = place_to_cut(&text.as_bytes()[..n]);
            let parts = [&text[..at], &text[at..]].map(|part| Tokenizer::byte().encode(part).unwrap());
            assert_eq!(parts.concat(), Tokenizer::byte().encode(text).unwrap());
        }
        assert!(line_to_cut(b"a\nb\x80\n\x80c\r\n\r\nd\n\xe6", 0) == Some(2));
        // Not even text without a place to cut grows without end.
        let long = Corpus { longest: 2 * PIECE, ..Corpus::from_text(&"я".repeat(4 * PIECE)) };
        assert_eq!(cut(&long, Cuts::AtLines).len(), 8 / 2 + 1);
        assert!(cut(&long, Cuts::AtLines).iter().all(|part| part.len() <= 2 * PIECE));
    }

    #[test]
    fn what_kinglet_made_of_a_folder_is_not_text_in_it() {
        let temp = tempfile::tempdir().unwrap();
        for name in ["a.txt", "runs/x/tokenizer.json", "runs/x/config.toml", "tokens/prepared.json", "z.txt"] {
            let path = temp.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        fs::create_dir(temp.path().join("runs/x/checkpoints")).unwrap();
        let folder = temp.path().display().to_string();
        let corpus = Corpus::named(&[folder], &Config::default()).unwrap();
        assert_eq!(cut(&corpus, Cuts::Whole), ["a.txt", "z.txt"]);
        assert!(corpus.notes[0].contains("left out 2 folders of runs or prepared data"), "{:?}", corpus.notes);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pipe_is_read_once() {
        use std::os::fd::AsRawFd;
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all("\u{feff}{\"text\": \"x\"}".as_bytes()).unwrap();
        drop(writer);
        let name = format!("/dev/fd/{}", reader.as_raw_fd());
        let corpus = Corpus::named(&[name], &Config::default()).unwrap();
        drop(reader);
        assert_eq!([cut(&corpus, Cuts::Whole), cut(&corpus, Cuts::Whole)], [["x"], ["x"]]);
    }

    #[test]
    fn records_are_checked_as_text_is() {
        let temp = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| fs::write(temp.path().join(name), bytes).unwrap();
        write("a.jsonl", b"\xef\xbb\xbf{\"text\": \"a\"}\n{\"text\": \"\xe9\"}\n");
        write("b.json", b"\xef\xbb\xbf[{\"text\": \"a\"},\n{\"text\": \"\xe9\"}]");
        write("c.csv", b"\xef\xbb\xbftext,id\na,\xe9\n\"\xe9\",2\n");
        for (name, message) in [
            ("a.jsonl", "a.jsonl is not UTF-8 text: byte 0xe9 at offset 27 (line 2)"),
            ("b.json", "b.json is not UTF-8 text: byte 0xe9 at offset 29 (line 2)"),
            ("c.csv", "c.csv, column \"text\" is not UTF-8 text: byte 0xe9 at offset 0 (line 3)"),
        ] {
            let error = pieces(&[name], &[], temp.path()).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
            let replaced = pieces(&[name], &["invalid_utf8=replace"], temp.path()).unwrap();
            assert_eq!(replaced, [text("a"), text("\u{fffd}")], "{name}");
        }
    }

    #[test]
    fn records_that_are_too_long_say_so() {
        // The library reads some bytes ahead.
        let long = "x".repeat((1 << 20) + (1 << 14));
        for (name, bytes, message) in [
            ("a.jsonl", format!("{{\"text\": \"{long}\"}}\n"), "a.jsonl, line 1: this line is longer than 1 MiB"),
            (
                "b.json",
                format!("[{{\"text\": \"{long}\"}}]"),
                "b.json: this JSON array, which is read whole, is longer",
            ),
            ("c.csv", format!("text\na\n{long}\n"), "c.csv, line 3: this record is longer than 1 MiB"),
        ] {
            let corpus = Corpus { longest: 1 << 20, ..Corpus::from_bytes(name, bytes.as_bytes()) };
            let error = corpus.pieces(Cuts::Whole, |_| Ok(())).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
            Corpus::from_bytes(name, bytes.as_bytes()).pieces(Cuts::Whole, |_| Ok(())).unwrap();
        }
    }

    #[test]
    fn patterns_are_found_from_any_folder() {
        let temp = tempfile::tempdir().unwrap();
        let here = temp.path().join("a[b]");
        fs::create_dir(&here).unwrap();
        fs::write(here.join("x.txt"), "x").unwrap();
        for name in ["*.txt", "./?.txt"] {
            let found = locate(name, Some(&here)).unwrap();
            assert_eq!(cut(&Corpus::named(&[found], &Config::default()).unwrap(), Cuts::Whole), ["x"]);
        }
        for name in ["builtin", "/none/*.txt", "-", "missing.txt"] {
            assert_eq!(located(&[name.to_owned()]), [name]);
        }
        assert!(Path::new(&located(&["*.none".to_owned()])[0]).is_absolute());
    }
}
