//! Stub for CSV tables when the feature `csv` is off.

use kinglet_core::error::{Error, Result};
use std::io::Read;

/// A table, and the column to read.
#[expect(dead_code, reason = "tables are not read")]
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
    /// Always an error: tables are not built in.
    pub(super) fn values(&self, _: impl Read, _: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        Err(Error::Data(format!("{}: this kinglet was built without the feature `csv`", self.name)))
    }
}
