//! The search plan in `tune.json`.

use super::{plan::Rung, range::RangeTest};
use crate::system::disk;
use kinglet_core::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
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

/// The start of `tune.json`, and the text between its checksum and the checksummed content.
pub(super) const SEAL: &str = "{\"sha256\":\"";
pub(super) const TUNE: &str = "\",\"tune\":";

pub(super) fn read(path: &Path) -> Result<TuneFile> {
    let text = disk::read_text(path, 1 << 24)?;
    let inside = text.trim_end().strip_prefix(SEAL).and_then(|rest| rest.strip_suffix('}'));
    let sealed = inside.and_then(|rest| rest.split_once(TUNE)).map(|(sum, json)| (json, sum));
    let json = disk::unseal(path, sealed, "")?;
    let version = serde_json::from_str::<Value>(json).ok().and_then(|value| value["format_version"].as_u64());
    if version.is_some_and(|version| version > FORMAT_VERSION) {
        return Err(Error::run(path, "this file needs a newer kinglet"));
    }
    serde_json::from_str(json).map_err(|error| Error::run(path, format!("damaged: {error}")))
}
