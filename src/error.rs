//! What can go wrong, said so that the reader knows what to do.

use std::path::{Path, PathBuf};

/// A `Result` of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in this crate. The message says what, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration value that is not allowed.
    #[error("{key} = {value}: must be {allowed}")]
    Config {
        /// The configuration key.
        key: String,
        /// The value as written.
        value: String,
        /// What would be allowed.
        allowed: String,
    },
    /// Something about the configuration as a whole: an unknown key, a syntax error, a version.
    #[error("{0}")]
    BadConfig(String),
    /// Training data that cannot be used.
    #[error("{0}")]
    Data(String),
    /// Text with characters that the tokenizer does not know.
    #[error("{0}")]
    Text(String),
    /// A file of a run that is missing, damaged or not ours.
    #[error("{path}: {what}")]
    Run {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it and what to do.
        what: String,
    },
    /// The operating system refused something; why is the error's source.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// Training went wrong, and the configuration does not say how to go on, or that was tried often enough.
    #[error(
        "training diverged: {0}. The last checkpoint stays. Lower learning_rate, set grad_clip = 1 or a warm-up, or let \
         on_divergence = \"skip\" or \"rollback\" go on"
    )]
    Diverged(Box<crate::guard::Divergence>),
}

impl Error {
    /// For `map_err`: wraps an I/O error with what was tried on which path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Error::Io { action, path: path.to_owned(), source }
    }

    /// A problem with a file or folder of a run.
    pub(crate) fn run(path: &Path, what: impl Into<String>) -> Error {
        Error::Run { path: path.to_owned(), what: what.into() }
    }
}
