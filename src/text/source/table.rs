//! Tables: a header, and a document in each row.
//!
//! CSV is RFC 4180. Tab-separated files have no quoting: a field that begins with a quote begins with a quote. One that
//! was written with CSV's quoting all the same is refused, because reading it would change its text.

use super::{
    format::Format,
    input::{Rules, Source},
    json::{Fields, Json},
    piece::Piece,
    reading::{Columns, Reading},
    record::{self, Shape},
};
use crate::text::{
    csv::{Dialect, Row, Rows},
    names::{listed, many, quoted},
    refused::unreadable,
    utf8::Utf8,
};
use kinglet_core::error::{Error, Result};
use std::{borrow::Cow, io::Read};

const TSV: Dialect = Dialect { separator: b'\t', quotes: false };

const fn csv(separator: u8) -> Dialect {
    Dialect { separator, quotes: true }
}

/// The ways in which a table of a format may be written; the header shows which one it is.
fn dialects(format: Format) -> Vec<Dialect> {
    match format {
        Format::Tsv => vec![TSV],
        Format::Csv(first) => [first].into_iter().chain(*b",;\t|").map(csv).collect(),
        _ => Vec::new(),
    }
}

/// What is read of a table.
struct Plan {
    shape: Shape,
    /// The columns that are read, and their names.
    columns: Vec<(usize, String)>,
    /// The column with a text beside conversations, which is not read.
    text: Option<usize>,
    names: Vec<String>,
}

/// What to read where a table has these columns; `None` if there is nothing.
fn plan(rules: &Rules, names: &[String]) -> Result<Option<Plan>, String> {
    let is = |name: &str| names.iter().any(|column| column == name);
    let shape = match record::shape(rules, is, |_| false) {
        None => return Ok(None),
        Some(Shape::List(_)) if is(&rules.field) => Shape::Text,
        Some(Shape::List(key)) => {
            return Err(format!(
                "a column \"{key}\" cannot contain a list of messages: write conversations as \
                 JSON lines"
            ));
        }
        Some(shape) => shape,
    };
    let mut columns: Vec<(usize, String)> = Vec::new();
    for (i, name) in names.iter().enumerate().filter(|(_, name)| reads(rules, shape, name)) {
        if columns.iter().any(|(_, known)| known == name) {
            return Err(format!("it has two columns named {}: rename one", quoted(name)));
        }
        columns.push((i, name.clone()));
    }
    let text = names.iter().position(|name| *name == rules.field).filter(|_| shape != Shape::Text);
    Ok(Some(Plan { shape, columns, text, names: names.to_vec() }))
}

/// A list does not fit into a column.
fn reads(rules: &Rules, shape: Shape, name: &str) -> bool {
    record::reads(rules, shape, name) && (shape == Shape::Text || name != "history")
}

fn names(row: &Row) -> Vec<String> {
    (0..row.len()).map(|i| String::from_utf8_lossy(row.get(i)).into_owned()).collect()
}

/// Reads a table.
pub(super) fn read(reading: &mut Reading, source: &Source) -> Result<()> {
    let (rules, name) = (reading.rules, reading.name);
    let mut refused = None;
    for dialect in dialects(source.format) {
        let mut rows = Rows::new(source.open(rules.invalid_utf8)?.reader, dialect, rules.longest);
        let header = rows.next().map(|row| row.map_or(Vec::new(), |(_, row)| names(&row)));
        let planned = header.map_err(|error| unreadable(name, error)).and_then(|header| match plan(rules, &header) {
            Ok(Some(plan)) => Ok(plan),
            Ok(None) => Err(no_column(name, rules, dialect, &header)),
            Err(what) => Err(Error::Data(format!("{name}: {what}"))),
        });
        match planned {
            Ok(plan) => {
                if matches!(source.format, Format::Csv(usual) if usual != dialect.separator) {
                    let separator = (dialect.separator as char).escape_default();
                    reading.found.say(format!("its columns are separated by \"{separator}\""), name);
                }
                return rest(reading, &plan, dialect, rows);
            }
            Err(error) => {
                refused.get_or_insert(error);
            }
        }
    }
    Err(refused.expect("a table has a dialect"))
}

/// Why there is nothing to read in a table with this header.
fn no_column(name: &str, rules: &Rules, dialect: Dialect, header: &[String]) -> Error {
    let inside: Vec<_> = header.iter().map(|name| unquoted(name).unwrap_or(name).to_owned()).collect();
    if !dialect.quotes && matches!(plan(rules, &inside), Ok(Some(_))) {
        return csv_quotes(name, 1);
    }
    match header {
        [] => Error::Data(format!("{name} is empty")),
        _ => Error::Data(format!(
            "{name} has no column {}; choose a column with --field: {}",
            quoted(&rules.field),
            listed(header.iter().map(String::as_str))
        )),
    }
}

/// What is between the quotes around a field.
fn unquoted(field: &str) -> Option<&str> {
    field.strip_prefix('"')?.strip_suffix('"')
}

fn csv_quotes(name: &str, line: u64) -> Error {
    Error::Data(format!(
        "{name}, line {line}: a field is quoted as in CSV, but tab-separated files (.tsv) have no quoting: \
         rename the file to .csv (tabs work there too), or write it without quotes"
    ))
}

/// Whether a field is what CSV makes of another: in quotes, with each quote inside written twice; or of an empty one.
fn is_csv_quoted(field: &str) -> bool {
    unquoted(field)
        .is_some_and(|inside| inside.is_empty() || inside.contains("\"\"") && !inside.replace("\"\"", "").contains('"'))
}

/// Reads the rows behind the header.
fn rest<R: Read>(reading: &mut Reading, plan: &Plan, dialect: Dialect, mut rows: Rows<R>) -> Result<()> {
    for (i, name) in plan.names.iter().enumerate() {
        let read = plan.columns.iter().any(|(column, _)| *column == i);
        if read { reading.columns.read.add(name) } else { reading.columns.unread.add(name) }
    }
    let (name, width) = (reading.name, plan.names.len());
    let columns: Vec<_> = plan.columns.iter().map(|(_, column)| format!("{name}, column {}", quoted(column))).collect();
    let (mut opened, mut lone) = (false, Lone::default());
    while let Some((line, row)) = rows.next().map_err(|error| unreadable(name, error))? {
        if !dialect.quotes && written_as_csv(&row, width, plan, &mut opened) {
            return Err(csv_quotes(name, line));
        }
        if !dialect.quotes
            && width == 1
            && let Some(line) = lone.closes(line, row.get(0))
        {
            return Err(csv_quotes(name, line));
        }
        let made = if row.len() == width {
            match cells(reading, plan, &columns, line, &row) {
                Ok(cells) => document(reading.rules, plan, cells, &row),
                Err(error) => {
                    reading.bad(error)?;
                    continue;
                }
            }
        } else {
            Err(format!("{}, but the header has {width}", many(row.len() as u64, "field", "fields")))
        };
        reading.record(|| format!("line {line}"), made)?;
    }
    Ok(())
}

/// Whether a row of a tab-separated file shows that fields were quoted as in CSV. `opened` tells whether a field of the row
/// before opens with a quote that it does not close.
fn written_as_csv(row: &Row, width: usize, plan: &Plan, opened: &mut bool) -> bool {
    let opens = |field: &[u8]| field.starts_with(b"\"") && (field.len() == 1 || !field.ends_with(b"\""));
    let before = std::mem::replace(opened, (0..row.len()).any(|i| opens(row.get(i))));
    if row.len() != width {
        // Tabs or line ends inside quotes.
        return before || *opened;
    }
    plan.columns.iter().any(|&(i, _)| std::str::from_utf8(row.get(i)).is_ok_and(is_csv_quoted))
}

/// The quotes in the only column of a tab-separated file, where a text of several lines has as many fields as one of one.
#[derive(Default)]
struct Lone {
    /// The line of a field that opens with a quote which nothing has closed so far.
    opened: Option<u64>,
    /// Whether there was a quote as a text has it, and CSV does not: such a file has no quoting.
    literal: bool,
}

impl Lone {
    /// Where the quotes were opened that this field closes, as CSV writes a text of several lines.
    fn closes(&mut self, line: u64, field: &[u8]) -> Option<u64> {
        let quotes = field.iter().filter(|&&byte| byte == b'"').count();
        let (begins, ends, odd) = (field.starts_with(b"\""), field.ends_with(b"\""), quotes % 2 == 1);
        if self.literal || self.opened.is_some() && !odd {
            return None;
        }
        if ends && (!begins || field.len() == 1) && self.opened.is_some() {
            return self.opened;
        }
        self.opened = (begins && odd).then_some(line);
        self.literal = self.opened.is_none() && quotes > 0 && !(begins && ends);
        None
    }
}

/// The texts of the columns that are read.
fn cells(reading: &mut Reading, plan: &Plan, columns: &[String], line: u64, row: &Row) -> Result<Vec<String>> {
    let mut cells = Vec::new();
    for ((i, _), name) in plan.columns.iter().zip(columns) {
        let mut text = Utf8::new(name, reading.rules.invalid_utf8, 0);
        text.line = line as usize;
        cells.push(text.check_on_line(row.get(*i).to_vec())?);
        let replaced = text.replaced;
        reading.replaced(replaced);
    }
    Ok(cells)
}

fn document(rules: &Rules, plan: &Plan, mut cells: Vec<String>, row: &Row) -> Result<Piece, String> {
    if cells.iter().all(String::is_empty) && plan.text.is_some_and(|text| !row.get(text).is_empty()) {
        let field = quoted(&rules.field);
        return Err(format!("it has a {field} but no prompt and no response, unlike other rows"));
    }
    if plan.shape == Shape::Text || cells.iter().all(String::is_empty) {
        return Ok(Piece::Text { text: cells.swap_remove(0), end: true });
    }
    // In a table an empty cell is one without a value.
    let value = |cell: String| if cell.is_empty() { Json::Null } else { Json::Text(Cow::Owned(cell)) };
    let names = plan.columns.iter().map(|(_, name)| Cow::Borrowed(&**name));
    let fields: Fields = names.zip(cells.into_iter().map(value)).collect();
    record::piece(rules, &fields, &mut Columns::default())
}

/// What a text is a table of, if its header has what is to be read and the row behind it as many fields; else a note
/// if its first line alone could be one.
pub(super) fn recognise(rules: &Rules, head: &str) -> (Option<Format>, Option<String>) {
    let mut note = None;
    for (dialect, format) in [
        (csv(b','), Format::Csv(b',')),
        (TSV, Format::Tsv),
        (csv(b';'), Format::Csv(b';')),
        (csv(b'|'), Format::Csv(b'|')),
    ] {
        let mut rows = Rows::new(head.as_bytes(), dialect, rules.longest);
        let header = |rows: &mut Rows<_>| rows.next().map(|row| row.map_or(Vec::new(), |(_, row)| names(&row)));
        let header = header(&mut rows).or_else(|_| {
            // What is wrong further on is found before the header is read.
            let first = head.lines().next().unwrap_or_default();
            rows = Rows::new(first.as_bytes(), dialect, rules.longest);
            header(&mut rows)
        });
        let Ok(header) = header else { continue };
        let inside: Vec<_> = header.iter().map(|name| unquoted(name).unwrap_or(name).to_owned()).collect();
        let tidy = header.iter().all(|name| name.trim() == name);
        if !tidy || !matches!(plan(rules, &inside), Ok(Some(_)) | Err(_)) {
            continue;
        }
        let second = rows.next().ok().flatten().map(|(_, row)| row.len());
        if header.len() > 1 && second == Some(header.len()) {
            return (Some(format), None);
        }
        note.get_or_insert(
            "read as plain text, although its first line looks like the header of a table; to \
             read it as a table, give it a name that ends in .csv"
                .to_owned(),
        );
    }
    (None, note)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_several_lines_in_quotes_is_told_from_quotes_in_texts() {
        let closes = |fields: &[&str]| {
            let mut lone = Lone::default();
            fields.iter().zip(2..).find_map(|(field, line)| lone.closes(line, field.as_bytes()))
        };
        for (written, opened) in [
            (&["\"a", "b\""][..], 2),
            (&["x", "\"a", "b", "c \"\"d\"\"", "e\""], 3),
            (&["\"a b\"", "\"a", "\""], 3),
            (&["\"", "a\""], 2),
            (&["\"\"\"a\"\"", "b\""], 2),
        ] {
            assert_eq!(closes(written), Some(opened), "{written:?}");
        }
        for literal in [
            &["\"a", "b"][..],
            &["\"a\"", "\"b\""],
            &["5\" disk", "\"a", "b\""],
            &["\"a\" he said", "\"b", "c\""],
            &["\"a", "he said \"b\""],
            &["\"a", "\"b", "c"],
        ] {
            assert_eq!(closes(literal), None, "{literal:?}");
        }
    }

    #[test]
    fn quotes_as_csv_has_them_are_told_from_quotes_in_a_text() {
        for written in ["\"\"", "\"a \"\"b\"\"\"", "\"\"\"a\"\"\""] {
            assert!(is_csv_quoted(written), "{written}");
        }
        for literal in ["", "\"", "\"a", "\"a\"", "\"a\" b \"c\"", "\"\"a\"\"", "a\"\"b"] {
            assert!(!is_csv_quoted(literal), "{literal}");
        }
    }
}
