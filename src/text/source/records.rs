//! JSON lines and JSON arrays, record by record.

use super::{
    input::{Input, Rules},
    json::{Json, Parser, Wrong},
    piece::Piece,
    reading::Reading,
    record,
};
use crate::{
    system::shell,
    text::{refused::unreadable, utf8::Utf8},
};
use kinglet_core::{
    config::InvalidUtf8,
    error::{Error, Result},
};
use std::io::{BufRead, Read};

fn parser<'a>(text: &'a str, rules: &Rules) -> Parser<'a> {
    Parser::new(text, rules.invalid_utf8 == InvalidUtf8::Replace)
}

/// Reads a file with an object on each line.
pub(super) fn lines(reading: &mut Reading, input: Input) -> Result<()> {
    let (mut reader, name, rules) = (input.reader, reading.name, reading.rules);
    let mut text = Utf8::new(name, rules.invalid_utf8, input.mark);
    let mut bytes = Vec::new();
    for number in 1u64.. {
        bytes.clear();
        let limit = rules.longest as u64 + 1;
        let read =
            reader.by_ref().take(limit).read_until(b'\n', &mut bytes).map_err(|error| unreadable(name, error))?;
        if read == 0 {
            break;
        }
        if read > rules.longest {
            let most = rules.longest >> 20;
            return Err(Error::Data(format!("{name}, line {number}: this line is longer than {most} MiB")));
        }
        text.line = number as usize;
        match text.check_on_line(std::mem::take(&mut bytes)) {
            Ok(line) => {
                self::line(reading, number, &line)?;
                bytes = line.into_bytes();
            }
            Err(error) => reading.bad(error)?,
        }
    }
    reading.replaced(text.replaced);
    Ok(())
}

fn line(reading: &mut Reading, number: u64, line: &str) -> Result<()> {
    // Joined files have byte order marks inside.
    let line = line.trim_start_matches('\u{feff}').trim_end();
    if line.is_empty() {
        return Ok(());
    }
    let mut parser = parser(line, reading.rules);
    let made = match parser.only() {
        Ok(value) => document(reading, &value),
        Err(Wrong { at, what }) => {
            let (column, unfinished) = (line[..at].chars().count() + 1, line[at..].trim().is_empty());
            let hint =
                if unfinished && number == 1 { "; each object must be on one line, as jq -c writes it" } else { "" };
            Err(format!("not JSON: {what}, at column {column}{hint}"))
        }
    };
    let replaced = parser.replaced;
    reading.replaced(replaced);
    reading.record(|| format!("line {number}"), made)
}

fn document(reading: &mut Reading, value: &Json) -> Result<Piece, String> {
    match value {
        Json::Object(fields) => record::piece(reading.rules, fields, &mut reading.columns),
        other => Err(format!("it is {}, not a JSON object", other.kind())),
    }
}

/// Reads a file that is an array of objects.
pub(super) fn array(reading: &mut Reading, input: Input) -> Result<()> {
    let (name, rules, mut bytes) = (reading.name, reading.rules, Vec::new());
    let read = input.reader.take(rules.longest as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(name, error))?;
    if bytes.len() > rules.longest {
        let what = "JSON array is longer than";
        let file = shell::quoted(name);
        let lines = format!("write it as JSON lines, which have no limit: jq -c '.[]' {file} > lines.jsonl");
        return Err(Error::Data(format!(
            "{name}: this {what} {} MiB, and arrays are read into memory: {lines}",
            rules.longest >> 20
        )));
    }
    let mut utf8 = Utf8::new(name, rules.invalid_utf8, input.mark);
    let text = utf8.check(bytes)?;
    reading.replaced(utf8.replaced);
    let mut parser = parser(&text, rules);
    if !parser.takes(b'[') {
        let what = if parser.takes(b'{') { "it is an object" } else { "it does not begin with [" };
        return Err(Error::Data(format!(
            "{name}: not a JSON array of objects: {what}; use the name .jsonl for one object per line, .txt for \
             plain text (pandas writes JSON arrays and lines with orient=\"records\")"
        )));
    }
    let wrong = |Wrong { at, what }: Wrong| {
        let before = &text[..at];
        let line = 1 + before.matches('\n').count();
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        Error::Data(format!("{name}, line {line}: not JSON: {what}, at column {column}"))
    };
    let (mut seen, mut line, mut more) = (0, 1, !parser.takes(b']'));
    for number in 1u64.. {
        if !more {
            break;
        }
        let start = parser.place();
        line += text[seen..start].matches('\n').count();
        seen = start;
        let value = parser.value().map_err(wrong)?;
        let made = document(reading, &value);
        reading.record(|| format!("line {line} (element {number})"), made)?;
        more = parser.goes_on(b']').map_err(wrong)?;
    }
    parser.end().map_err(wrong)?;
    reading.replaced(parser.replaced);
    Ok(())
}
