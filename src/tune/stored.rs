//! The search plan in `tune.json`.

use super::{plan::Rung, range::RangeTest};
use crate::system::sealed;
use kinglet_core::error::Result;
use serde::{Deserialize, Serialize};
use std::path::Path;

pub(super) const FILE: &str = "tune.json";
pub(super) const TRIALS: &str = "trials";
pub(super) const FORMAT_VERSION: u64 = 1;

/// `tune.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct TuneFile {
    pub(super) format_version: u64,
    /// The fully resolved configuration, as TOML.
    pub(super) config: String,
    pub(super) sweeps: Vec<String>,
    pub(super) trials: Option<usize>,
    pub(super) budget_s: f64,
    /// Seconds spent, as of the last save.
    pub(super) spent_s: f64,
    pub(super) range: Option<RangeTest>,
    /// Empty until planned.
    pub(super) rungs: Vec<Rung>,
}

/// What the plan is called in its file.
pub(super) const NAME: &str = "tune";

/// The text of `tune.json`.
pub(super) fn text(plan: &TuneFile) -> String {
    sealed::text(NAME, &serde_json::to_string(plan).expect("plain values"))
}

pub(super) fn read(path: &Path) -> Result<TuneFile> {
    sealed::read(path, NAME, FORMAT_VERSION)
}
