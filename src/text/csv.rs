//! CSV and TSV tables, read record by record.

use kinglet_core::error::{Error, Result};
use std::io::Read;

/// A table, and the column to read.
pub(super) struct Table<'a> {
    /// Its name in errors.
    pub(super) name: &'a str,
    /// The name of the column.
    pub(super) column: &'a str,
    /// The separator between values.
    pub(super) separator: u8,
    /// Records this long or longer are rejected, in bytes.
    pub(super) longest: usize,
}

impl Table<'_> {
    /// Calls `each` with the column's value in each record, and the line on which the record starts.
    pub(super) fn values(&self, raw: impl Read, mut each: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let Table { name, column, separator, longest } = *self;
        let limit = longest as u64;
        let mut reader = csv::ReaderBuilder::new().delimiter(separator).from_reader(raw.take(limit));
        let bad = |error: csv::Error| Error::Data(format!("{name}: {error}"));
        // The library strips a byte order mark at the start of the file.
        let headers = reader.byte_headers().map_err(bad)?.clone();
        let at = headers.iter().position(|header| header == column.as_bytes()).ok_or_else(|| {
            let names: Vec<_> = headers.iter().map(|name| format!("{:?}", String::from_utf8_lossy(name))).collect();
            Error::Data(format!("{name} has no column {column:?}; --field names another of {}", names.join(", ")))
        })?;
        let mut record = csv::ByteRecord::new();
        loop {
            let line = reader.position().line();
            // The library has no limit on record length, so limit the reader: the library then sees the end of the
            // file.
            reader.get_mut().set_limit(limit);
            let more = reader.read_byte_record(&mut record).map_err(bad);
            if reader.get_ref().limit() == 0 {
                let most = longest >> 20;
                return Err(Error::Data(format!("{name}, line {line}: this record is longer than {most} MiB")));
            }
            if !more? {
                return Ok(());
            }
            each(record.position().map_or(line, csv::Position::line), record.get(at).unwrap_or_default())?;
        }
    }
}
