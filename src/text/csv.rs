//! CSV and TSV tables, read row by row.
//!
//! The library reads what it can: a quote that is never closed takes all rows behind it, and text behind a closing quote
//! is joined to the field; and a carriage return ends a row wherever it is. Here these are errors, found by [`Strict`] on
//! the way to the library.

use super::refused::refused;
use std::{
    collections::VecDeque,
    io::{self, Read, Take},
};

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dialect {
    /// The separator between fields.
    pub(super) separator: u8,
    /// Whether fields may stand in quotes (RFC 4180).
    pub(super) quotes: bool,
}

/// The rows of a table, the header among them.
pub(super) struct Rows<R> {
    reader: csv::Reader<Take<Strict<R>>>,
    record: csv::ByteRecord,
    longest: usize,
}

/// The fields of a row.
pub(super) struct Row<'a>(&'a csv::ByteRecord);

impl<'a> Row<'a> {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// A field; empty if the row is too short.
    pub(super) fn get(&self, at: usize) -> &'a [u8] {
        self.0.get(at).unwrap_or_default()
    }
}

impl<R: Read> Rows<R> {
    /// Rows of `longest` bytes or more are errors.
    pub(super) fn new(raw: R, dialect: Dialect, longest: usize) -> Rows<R> {
        let reader = csv::ReaderBuilder::new()
            .delimiter(dialect.separator)
            .quoting(dialect.quotes)
            .has_headers(false)
            .flexible(true)
            .from_reader(Strict::new(raw, dialect).take(longest as u64));
        Rows { reader, record: csv::ByteRecord::new(), longest }
    }

    /// The next row, and the line on which it starts; lines without anything in them are none. `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Row<'_>)>> {
        // The library has no limit on a row's length, so limit the reader: the library then sees the end of the file.
        self.reader.get_mut().set_limit(self.longest as u64);
        let more = self.reader.read_byte_record(&mut self.record).map_err(reason)?;
        let (left, starts) = (self.reader.get_ref().limit(), &mut self.reader.get_mut().get_mut().starts);
        let line = starts.pop_front();
        if left == 0 {
            let (line, most) = (line.unwrap_or(1), self.longest >> 20);
            return Err(refused(format!(", line {line}: this record is longer than {most} MiB")));
        }
        Ok(more.then(|| (line.expect("a row has a start"), Row(&self.record))))
    }
}

/// The error of the reader below, as it was.
fn reason(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

/// Passes bytes on, and looks at the quotes in them and where rows start.
struct Strict<R> {
    raw: R,
    dialect: Dialect,
    at: At,
    line: u64,
    /// The line of the last quote that was opened.
    opened: u64,
    /// The lines on which rows start that were passed on, but not yet read by the library.
    starts: VecDeque<u64>,
    /// Whether the byte before is a carriage return outside quotes.
    after_return: bool,
    /// Whether the first line ended with a carriage return alone, as on very old systems.
    returns_end_lines: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Before a row.
    Row,
    /// Before a field that is not a row's first.
    Field,
    /// In a field without quotes.
    Plain,
    /// Behind the quote that opens a field.
    Quoted,
    /// Behind a quote in a quoted field, which closes it or is the first of two.
    Quote,
}

impl<R> Strict<R> {
    fn new(raw: R, dialect: Dialect) -> Strict<R> {
        let starts = VecDeque::new();
        Strict { raw, dialect, at: At::Row, line: 1, opened: 0, starts, after_return: false, returns_end_lines: None }
    }

    /// Refuses a carriage return that ends a row for the library alone: others end with something else.
    fn see_line_end(&mut self, byte: u8) -> io::Result<()> {
        let alone = std::mem::replace(&mut self.after_return, false) && byte != b'\n';
        let quoted = self.at == At::Quoted;
        if alone && !*self.returns_end_lines.get_or_insert(true) {
            let (line, where_) = (self.line, if self.dialect.quotes { " that is not in quotes" } else { "" });
            return Err(refused(format!(", line {line}: a carriage return inside a value{where_}")));
        }
        if byte == b'\n' && !quoted {
            self.returns_end_lines.get_or_insert(false);
        }
        self.after_return = byte == b'\r' && !quoted;
        Ok(())
    }

    fn see(&mut self, byte: u8) -> io::Result<()> {
        self.see_line_end(byte)?;
        let ends_row = matches!(byte, b'\r' | b'\n');
        if self.at == At::Row && !ends_row {
            self.starts.push_back(self.line);
            self.at = At::Field;
        }
        self.at = match self.at {
            At::Quoted if byte != b'"' => At::Quoted,
            At::Quoted => At::Quote,
            At::Quote if byte == b'"' => At::Quoted,
            _ if ends_row => At::Row,
            _ if byte == self.dialect.separator => At::Field,
            At::Field if byte == b'"' && self.dialect.quotes => {
                self.opened = self.line;
                At::Quoted
            }
            At::Quote => {
                let line = self.line;
                return Err(refused(format!(
                    ", line {line}: text follows a closing quote; inside a quoted field, write a quote twice: \"\""
                )));
            }
            _ => At::Plain,
        };
        self.line += u64::from(byte == b'\n');
        Ok(())
    }
}

impl<R: Read> Read for Strict<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.raw.read(to)?;
        to[..read].iter().try_for_each(|&byte| self.see(byte))?;
        if read == 0 && !to.is_empty() && self.at == At::Quoted {
            let line = self.opened;
            return Err(refused(format!(
                ", line {line}: the quote that opens a field here is never closed; put a field that contains a \
                 quote in quotes, and write the inner quote twice: \"\""
            )));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CSV: Dialect = Dialect { separator: b',', quotes: true };
    const TSV: Dialect = Dialect { separator: b'\t', quotes: false };

    fn rows(text: &str, dialect: Dialect) -> Result<Vec<(u64, Vec<String>)>, String> {
        // Two bytes at a time, so that a buffer ends everywhere.
        struct Slowly<'a>(&'a [u8]);
        impl Read for Slowly<'_> {
            fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
                let n = to.len().min(2);
                self.0.read(&mut to[..n])
            }
        }
        let mut rows = Rows::new(Slowly(text.as_bytes()), dialect, 1 << 20);
        let mut found = Vec::new();
        while let Some((line, row)) = rows.next().map_err(|error| error.to_string())? {
            let fields = (0..row.len()).map(|i| String::from_utf8(row.get(i).to_vec()).unwrap());
            found.push((line, fields.collect()));
        }
        Ok(found)
    }

    #[test]
    fn rows_have_their_fields_and_their_lines() {
        for end in ["\n", "\r\n"] {
            let text = format!("a,b{end}\"x, \"\"y\"\"{end}z\",{end}{end}5\" disk,\"\"{end},");
            let want = [
                (1, vec!["a".to_owned(), "b".to_owned()]),
                (2, vec![format!("x, \"y\"{end}z"), String::new()]),
                (5, vec!["5\" disk".to_owned(), String::new()]),
                (6, vec![String::new(); 2]),
            ];
            assert_eq!(rows(&text, CSV).unwrap(), want);
        }
        let literal = rows("a\tb\n\"x\t\"y\"\"\n\"\tz\"\n", TSV).unwrap();
        let fields: Vec<_> = literal.iter().map(|(line, row)| (*line, row.join("|"))).collect();
        assert_eq!(fields, [(1, "a|b".into()), (2, "\"x|\"y\"\"".into()), (3, "\"|z\"".into())]);
    }

    #[test]
    fn quotes_that_do_not_fit_are_errors_with_their_line() {
        for (text, message) in [
            ("a,b\n1,\"x\n2,y\n3,z\n", ", line 2: the quote that opens a field here is never closed"),
            ("a,b\n1,\"", ", line 2: the quote that opens a field here is never closed"),
            ("a,b\n1,\"x\n2,\"y\"\n", ", line 3: text follows a closing quote"),
            ("a,b\n1,\"x \\\" y\"\n", ", line 2: text follows a closing quote"),
            ("a\nx\ny\rz\n", ", line 3: a carriage return inside a value that is not in quotes"),
            ("a\r\nx\ry\r\n", ", line 2: a carriage return inside a value that is not in quotes"),
            ("a,b\n1,x\r\r\n", ", line 2: a carriage return inside a value that is not in quotes"),
        ] {
            let error = rows(text, CSV).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
        assert!(rows("a\nx\ry\n", TSV).unwrap_err().ends_with(", line 2: a carriage return inside a value"));
        // Where it ends every line, or stands in quotes, it is right.
        for (text, fields) in
            [("a,b\r1,x\r", [["a", "b"], ["1", "x"]]), ("a,b\n1,\"x\ry\"\r\n", [["a", "b"], ["1", "x\ry"]])]
        {
            let found: Vec<_> = rows(text, CSV).unwrap().into_iter().map(|(_, row)| row).collect();
            assert_eq!(found, fields);
        }
    }
}
