//! Text sources: files, folders, glob patterns, standard input and the corpora that come with kinglet; as plain text,
//! JSON, JSON lines or tables, optionally compressed. Documents are streamed as pieces, in order, so that files need not
//! fit into memory.

mod export;
mod folder;
mod format;
mod input;
mod json;
mod piece;
mod plain;
mod read;
mod reading;
mod record;
mod records;
mod table;

#[cfg(feature = "cli")]
pub(crate) use super::download::TINY_SHAKESPEARE_SHA256;
pub use folder::located;
pub use piece::Piece;

use super::{
    builtin::{Builtin, dates},
    download,
    names::{Count, many},
    refused::unreadable,
    tokenizer::Cuts,
    utf8::Utf8,
};
use folder::{Walked, is_run};
use format::{Compression, Format};
use input::{Bytes, Origin, Rules, Source};
use kinglet_core::{
    config::Config,
    error::{Error, Result},
};
use reading::Found;
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read},
    path::Path,
    sync::Arc,
};

/// The name of the built-in corpus that is used when no data is named.
pub const BUILTIN: &str = "builtin";
/// The name of the corpus that the published models were trained on.
pub const TINY_SHAKESPEARE: &str = "tinyshakespeare";

/// The name of the built-in conversations.
pub const DATES: &str = dates::NAME;

/// The data name in a configuration for a text given in memory.
pub const MEMORY: &str = "(memory)";

/// Maximum bytes of a JSON line, a table's row or a JSON array. Text without a suitable place to cut is cut anyway at
/// this length.
const LONGEST: usize = 1 << 28;

/// Bytes of small files of a folder that are kept from when they are first looked at.
const KEPT: usize = 1 << 26;

/// The text in a file of any name, read as text for training is, but it may be empty; and notes for the user.
///
/// # Errors
/// If the file cannot be read or is not text.
pub fn text_of_file(path: &Path) -> Result<(String, Vec<String>)> {
    text_of_bytes(path, fs::read(path).map_err(Error::io("read", path))?)
}

/// The text that the bytes of a file of this name are, as [`text_of_file`] reads it.
///
/// # Errors
/// If they are not text.
pub fn text_of_bytes(path: &Path, bytes: Vec<u8>) -> Result<(String, Vec<String>)> {
    let (name, promised) = (path.display().to_string(), format::of_name(path).1);
    let source = Source { name, from: Origin::Memory(bytes.into()), format: Format::Text, promised };
    // Whoever reads one file has no configuration.
    let input = source.open(None)?;
    let (mut seen, mark) = (Bytes::default(), input.mark);
    seen.see(&input, &source.name);
    let mut bytes = Vec::new();
    let mut reader = input.reader;
    reader.read_to_end(&mut bytes).map_err(|error| unreadable(&source.name, error))?;
    let text = Utf8::new(&source.name, None, mark).check(bytes)?;
    Ok((text, seen.notes().collect()))
}

/// A corpus: the sources of its documents, and how to read them.
#[derive(Clone, Debug)]
pub struct Corpus {
    sources: Vec<Source>,
    rules: Rules,
    /// Notes for the user on which files were chosen.
    pub notes: Vec<String>,
}

impl Corpus {
    /// Opens the corpus that `config.data` names, to be read as configured. Only standard input and other streams are
    /// read now, and the beginnings of files whose names do not say what is in them.
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
        let mut corpus = Corpus::empty(config);
        let builtin = [BUILTIN.to_owned()];
        for name in if names.is_empty() { &builtin } else { names } {
            corpus.add(name)?;
        }
        if names.len() > 1 {
            corpus.note_repeated();
        }
        Ok(corpus)
    }

    /// A text in memory, as one document.
    pub fn from_text(text: &str) -> Corpus {
        Corpus::of_text(text.into())
    }

    /// The same, without a copy.
    pub fn of_text(text: Arc<str>) -> Corpus {
        let mut corpus = Corpus::empty(&Config::default());
        corpus.push("the text", Origin::Memory(text.into()), Format::Text);
        corpus
    }

    /// JSON lines in memory, to be read as configured.
    pub fn of_lines(lines: Arc<[u8]>, config: &Config) -> Corpus {
        let mut corpus = Corpus::empty(config);
        corpus.push("the documents", Origin::Memory(lines), Format::JsonLines);
        corpus
    }

    /// A corpus with the content of a file of this name and these bytes.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Corpus {
        Corpus::from_bytes_as(name, bytes, &Config::default())
    }

    /// A corpus with the content of a file of this name and these bytes, to be read as configured.
    pub fn from_bytes_as(name: &str, bytes: &[u8], config: &Config) -> Corpus {
        let mut corpus = Corpus::empty(config);
        let source = read::bytes(name, bytes.into(), &corpus.rules);
        corpus.take_all([source]);
        corpus
    }

    fn empty(config: &Config) -> Corpus {
        let rules = Rules {
            field: config.data_field.clone(),
            // Whoever names a field means that one.
            conversations: !config.base.is_empty() && config.data_field == Config::default().data_field,
            invalid_utf8: config.invalid_utf8,
            skip_bad: config.skip_bad,
            longest: LONGEST,
        };
        Corpus { sources: Vec::new(), rules, notes: Vec::new() }
    }

    /// Says which files several names mean: text that is there twice is as a rule in both parts of the data.
    fn note_repeated(&mut self) {
        let mut times = HashMap::new();
        let mut repeated = Count::default();
        for Source { name, .. } in &self.sources {
            let file = fs::canonicalize(name).unwrap_or_else(|_| name.into());
            let times = times.entry(file).or_insert(0);
            *times += 1;
            if *times == 2 {
                repeated.add(|| name.clone());
            }
        }
        self.notes.extend(repeated.note(|n, first| {
            let what = many(n, "file is", "files are");
            let such = if n == 1 { ":" } else { ", such as" };
            format!(
                "{what} included more than once{such} {first}; the validation part may contain text that \
                 the model was trained on"
            )
        }));
    }

    fn add(&mut self, name: &str) -> Result<()> {
        let path = Path::new(name);
        if name == "-" {
            self.add_stream("standard input", io::stdin())?;
        } else if name == MEMORY {
            return Err(Error::Data(
                "the text of this run was given in memory, not in a file: it has to be given again, as it was (in Python: \
                 kinglet.resume(run, text=...) or data=...)"
                    .to_owned(),
            ));
        } else if path.is_dir() && !is_run(path) {
            self.add_folder(path)?;
        } else if path.is_file() {
            self.take_all([read::file(path, &self.rules)]);
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
            return Err(Error::Data(format!(
                "{name} is the folder of a run: name a text instead, such as the one \
                 it was trained on"
            )));
        } else if path.exists() {
            self.add_stream(name, File::open(path).map_err(Error::io("open", path))?)?;
        } else {
            let names: Vec<_> = Builtin::ALL.iter().map(|corpus| format!("{:?}", corpus.name())).collect();
            return Err(Error::Data(format!(
                "there is no file {name}, and no corpus with that name; name text files, a folder, \"-\", {}, \
                 {:?} or {TINY_SHAKESPEARE:?}",
                names.join(", "),
                dates::NAME
            )));
        }
        Ok(())
    }

    fn push(&mut self, name: &str, from: Origin, format: Format) {
        self.sources.push(Source { name: name.to_owned(), from, format, promised: Compression::None });
    }

    /// Adds sources, and what is to be said of their formats.
    fn take_all(&mut self, sources: impl IntoIterator<Item = (Source, Option<String>)>) {
        let mut found = Found::default();
        for (source, note) in sources {
            note.into_iter().for_each(|note| found.say(note, &source.name));
            self.sources.push(source);
        }
        self.notes.extend(found.notes());
    }

    /// Adds a source that can be read only once, by reading it into memory.
    fn add_stream(&mut self, name: &str, mut from: impl Read) -> Result<()> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).map_err(Error::io("read", Path::new(name)))?;
        // What it is called, such as /dev/fd/63 or a pipe's name, says nothing about it.
        let (source, note) = read::bytes("", bytes.into(), &self.rules);
        self.take_all([(Source { name: name.to_owned(), ..source }, note)]);
        Ok(())
    }

    /// Adds every text file below a folder, ordered by name.
    fn add_folder(&mut self, folder: &Path) -> Result<()> {
        let name = folder.display().to_string();
        if self.add_suitable(&name, folder::walk(folder)) {
            return Ok(());
        }
        let why = self.notes.last().filter(|note| note.starts_with(&name)).map(|note| format!(" ({note})"));
        Err(Error::Data(format!("{name}: this folder contains no text files{}", why.unwrap_or_default())))
    }

    fn add_pattern(&mut self, pattern: &str) -> Result<()> {
        let walked = folder::matching(pattern)?;
        if walked.files.is_empty() {
            return Err(Error::Data(format!("{pattern}: no file matches this pattern")));
        }
        let sources: Vec<_> = walked.files.iter().map(|path| read::file(path, &self.rules)).collect();
        self.notes.extend(walked.notes(pattern));
        self.take_all(sources);
        Ok(())
    }

    /// Adds those of the files in which there is something to read; returns whether there are any.
    fn add_suitable(&mut self, name: &str, walked: Walked) -> bool {
        let (mut sources, mut skipped, mut room) = (Vec::new(), Count::default(), KEPT);
        for path in &walked.files {
            let source = read::found_file(path, &self.rules, &mut room);
            match read::unsuitable(&source.0, &self.rules) {
                None => sources.push(source),
                Some(why) => skipped.add(|| why),
            }
        }
        let some = !sources.is_empty();
        self.notes.extend(walked.notes(name));
        self.take_all(sources);
        let skipped = skipped.note(|n, first| format!("{name}: skipped {n} without readable text, such as: {first}"));
        self.notes.extend(skipped);
        some
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

    /// Whether a corpus of this name would be downloaded if it was opened.
    pub(crate) fn is_to_be_downloaded(name: &str) -> bool {
        name == TINY_SHAKESPEARE && !Path::new(name).exists() && !download::is_here()
    }

    /// The sources' names.
    pub fn names(&self) -> String {
        self.sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Whether the first document is a conversation. What cannot be read is none.
    pub fn begins_with_a_conversation(&self) -> bool {
        let mut conversation = false;
        // Whatever is read first is enough.
        let first = |piece| {
            conversation = matches!(piece, Piece::Messages(_));
            Err(Error::Data(String::new()))
        };
        let _ = self.pieces(Cuts::Anywhere, first);
        conversation
    }

    /// Calls `each` with every piece, in order. Long text documents are split into pieces where `cuts` allows. Returns
    /// notes for the user on what was read and what was left out, which are the same each time.
    ///
    /// # Errors
    /// If a source cannot be read, is empty, or is not in the format its name implies; and any error from `each`.
    pub fn pieces(&self, cuts: Cuts, mut each: impl FnMut(Piece) -> Result<()>) -> Result<Vec<String>> {
        let mut found = Found::default();
        for source in &self.sources {
            read::read(source, &self.rules, cuts, &mut found, &mut each)?;
        }
        Ok(found.notes())
    }
}

#[cfg(test)]
mod tests {
    use super::{folder::locate, plain::PIECE, *};
    use crate::text::{
        chat::Message,
        tokenizer::{CharTokenizer, Tokenizer},
        utf8::{line_to_cut, place_to_cut},
    };
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
    fn conversations_are_known_by_the_first_document() {
        let chat = "{\"prompt\": \"a\", \"response\": \"b\"}\n";
        for (name, text, is) in [
            ("a.jsonl", chat.to_owned(), true),
            ("a", format!("\n{chat}"), true),
            ("a.jsonl", format!("{{\"text\": \"a\"}}\n{chat}"), false),
            ("a.txt", chat.to_owned(), false),
            ("a.jsonl", "{".to_owned(), false),
            ("a.txt", String::new(), false),
        ] {
            assert_eq!(Corpus::from_bytes(name, text.as_bytes()).begins_with_a_conversation(), is, "{name}: {text}");
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
            ("e.jsonl", b"{\"body\": \"x\"}", "line 1: it has none of \"text\""),
            ("f.jsonl", b"{\"text\": 3}", "\"text\" is a number, not a string"),
            ("g.jsonl", b"[1]", "g.jsonl, line 1: it is a list, not a JSON object"),
            ("h.csv", b"id,body\n1,x\n", "no column \"text\"; choose a column with --field: \"id\", \"body\""),
            ("i.csv", b"id,text\n\n1\n", "i.csv, line 3: 1 field, but the header has 2"),
            ("j.json", b"{}", "not a JSON array of objects"),
            ("k.gz", b"not gzip", "cannot read"),
            ("l.zst", b"not zstd at all", "cannot read"),
            ("m.jsonl", b"{\"messages\": [{\"role\": \"user\"}]}", "m.jsonl, line 1: "),
        ] {
            fs::write(temp.path().join(name), bytes).unwrap();
            let error = pieces(&[name], &[], temp.path()).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        for (name, message) in [
            ("*.nothing", "no file matches this pattern"),
            ("[", "not a valid file name pattern"),
            ("missing", "there is no file"),
        ] {
            let error = pieces(&[name], &[], temp.path()).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        fs::create_dir(temp.path().join("none")).unwrap();
        let error = pieces(&["none"], &[], temp.path()).unwrap_err().to_string();
        assert!(error.contains("this folder contains no text files"), "{error}");
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
        let mut long = Corpus::from_text(&"я".repeat(4 * PIECE));
        long.rules.longest = 2 * PIECE;
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
        assert!(corpus.notes[0].contains("skipped 2 folders of runs or of prepared data"), "{:?}", corpus.notes);
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
            ("b.json", format!("[{{\"text\": \"{long}\"}}]"), "b.json: this JSON array is longer"),
            ("c.csv", format!("text\na\n{long}\n"), "c.csv, line 3: this record is longer than 1 MiB"),
        ] {
            let mut corpus = Corpus::from_bytes(name, bytes.as_bytes());
            corpus.rules.longest = 1 << 20;
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
