//! Stub for CSV tables when the feature `csv` is off.

use super::refused::refused;
use std::{
    io::{self, Read},
    marker::PhantomData,
};

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dialect {
    /// The separator between fields.
    pub(super) separator: u8,
    /// Whether fields may stand in quotes.
    pub(super) quotes: bool,
}

/// The rows of a table: none.
pub(super) struct Rows<R>(PhantomData<R>);

/// The fields of a row.
pub(super) struct Row<'a>(PhantomData<&'a [u8]>);

impl<'a> Row<'a> {
    pub(super) fn len(&self) -> usize {
        0
    }

    pub(super) fn get(&self, _: usize) -> &'a [u8] {
        &[]
    }
}

impl<R: Read> Rows<R> {
    pub(super) fn new(_: R, _: Dialect, _: usize) -> Rows<R> {
        Rows(PhantomData)
    }

    /// Always an error: tables are not built in.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Row<'_>)>> {
        Err(refused(": this kinglet was built without the feature `csv`".to_owned()))
    }
}
