//! The Python module `kinglet._kinglet`: what the package `kinglet`, which is written in Python, asks of the library. Values cross as
//! Python's own, numpy's arrays, or JSON where they are events and reports.
#![deny(unsafe_code)]

mod arrays;
mod attend;
mod data;
mod error;
mod generate;
mod model;
mod names;
mod run;
mod tokenizer;
mod tools;
mod train;
mod tune;
mod workers;

use kinglet::cli::{self, Program};
use pyo3::prelude::*;
use std::{ffi::OsString, path::PathBuf};

/// The compiled part of the package `kinglet`.
#[pymodule]
mod _kinglet {
    #[pymodule_export]
    use super::{
        command,
        data::Data,
        generate::Generation,
        model::Model,
        run::{overlaid, overlaid_svg, run_config, run_events, run_folder, run_summary, run_svg, runs},
        tokenizer::Tokenizer,
        tools::{compare_bits, export_model, import_model, merge_run, quantize_run},
        train::{finetune, keys, plan, plan_finetuning, prepare, presets, resume, train},
        tune::{resume_tuning, tune},
        version,
    };
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
