//! The library's errors as exceptions of the package.

use kinglet::error::Error;
use pyo3::{prelude::*, types::PyType};

/// What the package calls an error of this kind. Its classes are written in Python, because some are also built-in ones.
fn class_of(error: &Error) -> &'static str {
    match error {
        Error::Config { .. } | Error::BadConfig(_) => "ConfigError",
        Error::Data(_) | Error::Text(_) | Error::UnknownCharacters { .. } => "DataError",
        Error::NotFound { .. } => "NotFoundError",
        Error::Diverged(_) => "DivergedError",
        Error::Damaged { .. } | Error::Locked { .. } | Error::Run { .. } | Error::Io { .. } => "RunError",
        _ => "Error",
    }
}

/// The exception for an error.
pub(crate) fn raised(py: Python, error: &Error) -> PyErr {
    let class = py.import("kinglet._errors").and_then(|module| module.getattr(class_of(error)));
    match class.and_then(|class| Ok(class.cast_into::<PyType>()?)) {
        Ok(class) => PyErr::from_type(class, as_arguments(error.one_line())),
        Err(error) => error,
    }
}

/// What a message advises, with Python's arguments instead of options. A whole command stays as it is.
fn as_arguments(message: String) -> String {
    if message.contains("kinglet ") {
        return message;
    }
    message.replace("--set ", "").replace("--resume DATA", "data=...").replace("--tokenizer FILE", "tokenizer=\"FILE\"")
}
