//! Why the bytes of a source are not what they should be, found while they are read.

use kinglet_core::error::Error;
use std::{fmt, io, path::Path};

/// A reason that a reader gives, which is shown behind the source's name.
#[derive(Debug)]
pub(super) struct Refused(pub(super) String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// The reason as an error of a reader. It begins with what stands between the source's name and it: ": " or ", line 3: ".
pub(super) fn refused(reason: String) -> io::Error {
    io::Error::other(Refused(reason))
}

/// What to tell about an error of a source's reader.
pub(super) fn unreadable(name: &str, error: io::Error) -> Error {
    // The library for tables wraps errors of its reader.
    let mut cause: Option<&(dyn std::error::Error + 'static)> = error.get_ref().map(|inner| inner as _);
    while let Some(inner) = cause {
        if let Some(Refused(reason)) = inner.downcast_ref() {
            return Error::Data(format!("{name}{reason}"));
        }
        let nested = inner.downcast_ref::<io::Error>().and_then(|inner| Some(inner.get_ref()? as _));
        cause = nested.or_else(|| inner.source());
    }
    Error::io("read", Path::new(name))(error)
}
