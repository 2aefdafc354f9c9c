//! Reads one source, whatever its format; and finds out the format where the name does not say it.

use super::{
    format::{self, Format},
    input::{Origin, Rules, Source},
    json::Parser,
    piece::Piece,
    plain,
    reading::{Found, Reading},
    records, table,
};
use crate::text::tokenizer::Cuts;
use kinglet_core::{
    config::InvalidUtf8,
    error::{Error, Result},
};
use std::{fs::File, io::Read, path::Path, sync::Arc};

/// Calls `each` with every piece of a source.
pub(super) fn read(
    source: &Source,
    rules: &Rules,
    cuts: Cuts,
    found: &mut Found,
    each: &mut dyn FnMut(Piece) -> Result<()>,
) -> Result<()> {
    let input = source.open(rules.invalid_utf8)?;
    found.bytes.see(&input, &source.name);
    let mut reading = Reading::new(rules, &source.name, found, each);
    match source.format {
        Format::Text => plain::read(&mut reading, input, cuts)?,
        Format::JsonLines => records::lines(&mut reading, input)?,
        Format::JsonArray => records::array(&mut reading, input)?,
        Format::Csv(_) | Format::Tsv => table::read(&mut reading, source)?,
    }
    reading.end()
}

/// Bytes from the start of a source by which its format is known.
const HEAD: u64 = 1 << 20;

/// Bytes from the start of a text by which to see whether it looks like records. There may be many texts.
const SHORT_HEAD: u64 = 1 << 14;

const AS_TEXT: &str = "read as plain text, although its first line is a JSON object; to read it as records, give it a name that \
     ends in .jsonl";

/// A file as a source.
pub(super) fn file(path: &Path, rules: &Rules) -> (Source, Option<String>) {
    named(path.display().to_string(), Origin::File(path.to_owned()), rules)
}

/// A small file, in bytes.
const SMALL: usize = 1 << 14;

/// A file of a folder as a source. A small one is kept in memory as long as there is `room`: to open a hundred thousand
/// files takes longer than to read them, and a corpus is read several times.
pub(super) fn found_file(path: &Path, rules: &Rules, room: &mut usize) -> (Source, Option<String>) {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(SMALL as u64 + 1).read_to_end(&mut bytes));
    match read {
        Ok(size) if size <= SMALL.min(*room) => {
            *room -= size;
            named(path.display().to_string(), Origin::Memory(bytes.into()), rules)
        }
        // What is wrong with it is found again.
        _ => file(path, rules),
    }
}

/// Bytes that came from elsewhere as a source.
pub(super) fn bytes(name: &str, bytes: Arc<[u8]>, rules: &Rules) -> (Source, Option<String>) {
    named(name.to_owned(), Origin::Memory(bytes), rules)
}

/// A source, in the format that its name says or else that its first bytes show; and a note where that is no matter of
/// course.
fn named(name: String, from: Origin, rules: &Rules) -> (Source, Option<String>) {
    let (of_name, promised) = format::of_name(match &from {
        Origin::File(path) => path,
        _ => Path::new(&name),
    });
    let mut source = Source { name, from, format: of_name.unwrap_or(Format::Text), promised };
    let (format, note) = match of_name {
        Some(Format::Text) => (None, of_text(&source.name, &head(&source, rules, SHORT_HEAD))),
        Some(Format::Csv(_) | Format::Tsv) => return (source, None),
        Some(Format::JsonLines | Format::JsonArray) => (json(&head(&source, rules, HEAD)), None),
        None => recognise(&source.name, &head(&source, rules, HEAD), rules),
    };
    let changed = format.filter(|format| *format != source.format);
    source.format = changed.unwrap_or(source.format);
    (source, note.or_else(|| changed.map(|format| format!("recognised as {}", format.name()))))
}

/// The first bytes as text, as far as they are; nothing where they cannot be read, which reading will say.
fn head(source: &Source, rules: &Rules, most: u64) -> String {
    let mut bytes = Vec::new();
    if let Ok(input) = source.open(rules.invalid_utf8) {
        // Also what precedes damage.
        let _ = input.reader.take(most).read_to_end(&mut bytes);
    }
    bytes.utf8_chunks().next().map_or(String::new(), |chunk| chunk.valid().to_owned())
}

/// A note on a text that may be meant to be read as something else.
fn of_text(name: &str, head: &str) -> Option<String> {
    looks_like_records(head).then(|| AS_TEXT.to_owned()).or_else(|| format::marked_up(name, head))
}

fn recognise(name: &str, head: &str, rules: &Rules) -> (Option<Format>, Option<String>) {
    if let Some(format) = json_of_objects(head) {
        return (Some(format), None);
    }
    let (format, note) = table::recognise(rules, head);
    (format, note.or_else(|| format::marked_up(name, head)))
}

/// The format of something that begins like an object or an array of objects, and may go on as anything.
fn json_of_objects(head: &str) -> Option<Format> {
    let text = head.trim_start();
    let inside = text.strip_prefix('[').map_or(text, str::trim_start);
    let (name, behind) = inside.strip_prefix('{')?.trim_start().strip_prefix('"')?.split_once('"').unwrap_or_default();
    let colon = behind.trim_start();
    if !colon.is_empty() && !colon.starts_with(':') || name.contains('\n') {
        return None;
    }
    Some(if text.starts_with('[') { Format::JsonArray } else { Format::JsonLines })
}

/// Whether the first line is a JSON object, or begins like one if it is longer than the head.
fn looks_like_records(head: &str) -> bool {
    let text = head.trim_start();
    match text.split_once('\n') {
        Some((first, _)) => text.starts_with('{') && Parser::new(first, true).only().is_ok(),
        None => json_of_objects(text) == Some(Format::JsonLines),
    }
}

/// Whether a JSON file has an array or lines, whatever it is called; `None` if it has neither.
fn json(head: &str) -> Option<Format> {
    let text = head.trim_start();
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let lines = !rest.trim().is_empty() && Parser::new(first, true).only().is_ok();
    match json_of_objects(text)? {
        _ if lines => Some(Format::JsonLines),
        // A single object may be anything.
        Format::JsonLines => None,
        array => Some(array),
    }
}

/// Why a file that was found in a folder has nothing to read, judging by its start.
pub(super) fn unsuitable(source: &Source, rules: &Rules) -> Option<String> {
    let looked =
        if source.format == Format::Text { begins_as_text(source, rules) } else { has_a_record(source, rules) };
    looked.err().map(|error| error.one_line())
}

fn begins_as_text(source: &Source, rules: &Rules) -> Result<()> {
    let mut bytes = Vec::new();
    let read = source.open(rules.invalid_utf8)?.reader.take(4096).read_to_end(&mut bytes);
    read.map_err(|error| crate::text::refused::unreadable(&source.name, error))?;
    let bad = |what: &str| Err(Error::Data(format!("{} {what}", source.name)));
    match std::str::from_utf8(&bytes) {
        _ if bytes.is_empty() => bad("is empty"),
        _ if bytes.contains(&0) => bad("contains a zero byte"),
        // The last character may be incomplete.
        Err(error) if error.error_len().is_some() && rules.invalid_utf8 == InvalidUtf8::Error => bad("is not UTF-8"),
        _ => Ok(()),
    }
}

fn has_a_record(source: &Source, rules: &Rules) -> Result<()> {
    let (mut some, mut found) = (false, Found::default());
    let enough = &mut |_| {
        some = true;
        Err(Error::Data("this is enough".to_owned()))
    };
    let read = read(source, rules, Cuts::Anywhere, &mut found, enough);
    if some { Ok(()) } else { read }
}
