//! Stub for decompression when the feature `compression` is off.

use std::io::{self, BufRead};

/// Always an error: gzip is not built in.
pub(super) fn gzip<'a>(_: impl BufRead + 'a) -> io::Result<Box<dyn BufRead + 'a>> {
    absent()
}

/// Always an error: zstd is not built in.
pub(super) fn zstd<'a>(_: impl BufRead + 'a) -> io::Result<Box<dyn BufRead + 'a>> {
    absent()
}

fn absent<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this kinglet was built without the feature `compression`"))
}
