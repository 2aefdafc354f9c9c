//! What is in the folders of runs.

use crate::{attend::quickly, error::raised};
use kinglet::{
    config::FIELDS,
    error::{Error, Result},
    report::{
        overlay::{By, Overlay},
        plot::{Curves, loss_svg},
    },
    run::{RunDir, RunName, Summary, all_runs},
};
use pyo3::prelude::*;
use serde_json::Map;
use std::{ffi::OsString, path::PathBuf};

fn text<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::BadConfig(error.to_string()))
}

/// The folder of the run of this name.
#[pyfunction]
pub(crate) fn run_folder(py: Python, run: OsString) -> PyResult<PathBuf> {
    RunName::from(run).folder().map_err(|error| raised(py, &error))
}

/// All runs in a folder and in the folders in it.
#[pyfunction]
pub(crate) fn runs(py: Python, folder: PathBuf) -> PyResult<Vec<PathBuf>> {
    let found = || match folder.is_dir() {
        true => Ok(all_runs(&folder)),
        false => Err(Error::not_found(&folder, "there is no such folder")),
    };
    quickly(py, 1, found)
}

/// The configuration of a run, as JSON, and what is damaged.
#[pyfunction]
pub(crate) fn run_config(py: Python, run: PathBuf) -> PyResult<(String, Vec<String>)> {
    quickly(py, 1, || {
        let run = RunDir::open(&run)?;
        let values = FIELDS.iter().map(|field| {
            let value = serde_json::to_value(run.config.value(field.key));
            (field.key.to_owned(), value.expect("a value of TOML"))
        });
        Ok((text(&values.collect::<Map<_, _>>())?, run.warnings))
    })
}

/// Where a run stands, as JSON.
#[pyfunction]
pub(crate) fn run_summary(py: Python, run: PathBuf) -> PyResult<String> {
    quickly(py, 1, || text(&Summary::of(&run)))
}

/// The events in a run's `metrics.jsonl`, as a list in JSON.
#[pyfunction]
pub(crate) fn run_events(py: Python, run: PathBuf) -> PyResult<String> {
    quickly(py, 1, || text(&RunDir::open(&run)?.metrics()?))
}

/// The curves of a run as SVG.
#[pyfunction]
pub(crate) fn run_svg(py: Python, run: PathBuf) -> PyResult<String> {
    quickly(py, 1, || {
        let run = RunDir::open(&run)?;
        let name = run.path().canonicalize().unwrap_or_default();
        let title = format!("{}: loss", name.file_name().unwrap_or_default().display());
        Ok(loss_svg(&title, &Curves::of(&run)?))
    })
}

fn overlay(runs: &[PathBuf], target: Option<f64>) -> Result<Overlay> {
    let opened = runs.iter().map(|run| RunDir::open(run)).collect::<Result<Vec<_>>>()?;
    Overlay::new(&opened, target)
}

/// Several runs side by side, as JSON.
#[pyfunction]
#[pyo3(signature = (runs, target))]
pub(crate) fn overlaid(py: Python, runs: Vec<PathBuf>, target: Option<f64>) -> PyResult<String> {
    quickly(py, 1, || text(&overlay(&runs, target)?))
}

/// How several runs are drawn.
#[derive(FromPyObject)]
pub(crate) struct Drawing {
    /// What is on the horizontal axis: `step`, `tokens` or `seconds`.
    by: String,
    /// Whether that is logarithmic.
    log: bool,
    /// Whether the estimates on the training split are drawn too.
    train: bool,
    ymin: Option<f64>,
    ymax: Option<f64>,
}

/// The curves of several runs as SVG.
#[pyfunction]
pub(crate) fn overlaid_svg(py: Python, runs: Vec<PathBuf>, drawing: Drawing) -> PyResult<String> {
    quickly(py, 1, || {
        let by = match drawing.by.as_str() {
            "step" => By::Step,
            "tokens" => By::Tokens,
            "seconds" => By::Seconds,
            other => return Err(Error::BadConfig(format!("by = {other:?}: must be step, tokens or seconds"))),
        };
        if let (Some(low), Some(high)) = (drawing.ymin, drawing.ymax)
            && low >= high
        {
            return Err(Error::BadConfig(format!("ymin = {low} must be below ymax = {high}")));
        }
        let mut chart = overlay(&runs, None)?.chart(by, drawing.train, drawing.log);
        chart.y_limits = (drawing.ymin, drawing.ymax);
        Ok(chart.svg())
    })
}
