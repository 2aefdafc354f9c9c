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
    match error.get_ref().and_then(|cause| cause.downcast_ref()) {
        Some(Refused(reason)) => Error::Data(format!("{name}{reason}")),
        None => Error::io("read", Path::new(name))(error),
    }
}
