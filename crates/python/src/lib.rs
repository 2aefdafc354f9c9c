//! The Python module `kinglet._kinglet`: what the package `kinglet`, which is written in Python, asks of the library. Values cross as
//! Python's own, numpy's arrays, or JSON where they are events and reports.

mod error;

use kinglet::cli::{self, Program};
use pyo3::prelude::*;
use std::{ffi::OsString, path::PathBuf};

/// The compiled part of the package `kinglet`.
#[pymodule]
mod _kinglet {
    #[pymodule_export]
    use super::{command, version};
}

/// Runs the command `kinglet` with these words, of which the first starts it again, and returns its exit status. `code` is the file of
/// this module.
#[pyfunction]
fn command(py: Python, words: Vec<OsString>, code: PathBuf) -> u8 {
    py.detach(|| cli::main(Program { words, code }))
}

/// The version of kinglet.
#[pyfunction]
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}
