//! Stands in for the decompression of text where the feature `compression` is off.

use std::io::{self, BufRead};

/// Refuses: gzip is not built in.
pub(super) fn gzip<'a>(_: impl BufRead + 'a) -> io::Result<Box<dyn BufRead + 'a>> {
    absent()
}

/// Refuses: zstd is not built in.
pub(super) fn zstd<'a>(_: impl BufRead + 'a) -> io::Result<Box<dyn BufRead + 'a>> {
    absent()
}

fn absent<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this kinglet was built without the feature `compression`"))
}
