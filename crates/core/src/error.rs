//! Errors, worded so that the reader knows what to do.

use serde::Serialize;
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
        /// What is allowed.
        allowed: String,
    },
    /// Something about the configuration as a whole: an unknown key, a syntax error, a version.
    #[error("{0}")]
    BadConfig(String),
    /// Training data that cannot be used.
    #[error("{0}")]
    Data(String),
    /// Text that the tokenizer cannot encode.
    #[error("{0}")]
    Text(String),
    /// Text with characters that are not in the vocabulary of a character tokenizer.
    #[error("{what}")]
    UnknownCharacters {
        /// The characters, each once, in order of their first occurrence.
        characters: Vec<char>,
        /// Which they are and what to do.
        what: String,
    },
    /// A file or folder that does not exist.
    #[error("{path}: {what}")]
    NotFound {
        /// The file or folder.
        path: PathBuf,
        /// What it should be and what to do.
        what: String,
    },
    /// A file whose contents are not what was written.
    #[error("{path}: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How that was noticed.
        what: String,
    },
    /// A run's folder that another process is writing to.
    #[error("{path}: {what}")]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Which process has it.
        what: String,
    },
    /// Anything else about a file or folder.
    #[error("{path}: {what}")]
    Run {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it and what to do.
        what: String,
    },
    /// The operating system refused an operation; the error's source says why.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Which file or folder it was tried on.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The system refused to start as many threads as requested.
    #[error("{0}")]
    Threads(String),
    /// A rank that was lost, or ranks that do not fit together.
    #[error("{0}")]
    Ranks(String),
    /// An address that cannot be listened on.
    #[error("{0}")]
    Address(String),
    /// Training diverged, and the configuration says to stop, or its remedy was tried too often.
    #[error(
        "training diverged: {0}. The last checkpoint is kept. Lower learning_rate, set grad_clip = 1 or \
         warmup_iters, or continue with on_divergence = \"skip\" or \"rollback\""
    )]
    Diverged(Box<Divergence>),
}

impl Error {
    /// For `map_err`: wraps an I/O error with the action that failed and its path.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Error::Io { action, path: path.to_owned(), source }
    }

    /// A problem with a file or folder that has no more specific variant.
    pub fn run(path: &Path, what: impl Into<String>) -> Error {
        Error::Run { path: path.to_owned(), what: what.into() }
    }

    /// A file or folder does not exist.
    pub fn not_found(path: &Path, what: impl Into<String>) -> Error {
        Error::NotFound { path: path.to_owned(), what: what.into() }
    }

    /// A file's contents are not what was written.
    pub fn damaged(path: &Path, what: impl Into<String>) -> Error {
        Error::Damaged { path: path.to_owned(), what: what.into() }
    }

    /// What kind of error it is, in a word: `config`, `data`, `not_found`, `run` (a file or folder of any kind), `diverged` or `other`.
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Config { .. } | Error::BadConfig(_) => "config",
            Error::Data(_) | Error::Text(_) | Error::UnknownCharacters { .. } => "data",
            Error::NotFound { .. } => "not_found",
            Error::Damaged { .. } | Error::Locked { .. } | Error::Run { .. } | Error::Io { .. } => "run",
            Error::Diverged(_) => "diverged",
            Error::Threads(_) | Error::Ranks(_) | Error::Address(_) => "other",
        }
    }

    /// The error and what caused it, in one line.
    pub fn one_line(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }
}

/// What is wrong with a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The loss is infinite or NaN.
    Loss,
    /// The loss is finite, but its gradient is not.
    Gradient,
    /// The loss is far above recent losses.
    Spike,
}

/// A step that the guard stopped.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Divergence {
    /// The update that was not made, counted from 1.
    pub at_step: u64,
    /// What is wrong.
    pub cause: Cause,
    /// The batch's loss (`null` in JSON if it is not a number).
    pub loss: f64,
    /// How many standard deviations it is above the mean, if they are known.
    pub zscore: Option<f64>,
    /// The gradient's norm (`null` in JSON if it is not a number).
    pub grad_norm: f64,
    /// The first tensor whose gradient is not finite, or the one whose gradient has the largest norm.
    pub tensor: String,
    /// The learning rate of the step.
    pub lr: f64,
}

impl std::fmt::Display for Divergence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Divergence { at_step, cause, loss, zscore, grad_norm, tensor, lr } = self;
        match cause {
            Cause::Loss => write!(f, "at step {at_step} the loss became {loss}")?,
            Cause::Gradient => write!(f, "at step {at_step} the gradient became {grad_norm} (loss {loss:.4})")?,
            Cause::Spike => {
                write!(f, "at step {at_step} the loss jumped to {loss:.4}, z-score {:.1}", zscore.unwrap_or(f64::NAN))?;
            }
        }
        write!(f, "; gradient norm {grad_norm:.3e}, largest in {tensor}; learning rate {lr:.2e}")
    }
}
