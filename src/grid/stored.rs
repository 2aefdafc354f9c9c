//! The plan of a sweep in `sweep.json`.

use super::space::Settings;
use crate::system::sealed;
use kinglet_core::error::Result;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The file; it makes a folder that of a sweep.
pub(super) const FILE: &str = "sweep.json";

/// What the plan is called in the file.
const NAME: &str = "sweep";

pub(super) const FORMAT_VERSION: u64 = 1;

/// `sweep.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SweepFile {
    pub(super) format_version: u64,
    /// The runs, in order.
    pub(super) runs: Vec<Stored>,
}

/// A run of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Stored {
    /// The name of its folder.
    pub(super) name: String,
    /// The values of all keys that vary.
    pub(super) settings: Settings,
    /// Its fully resolved configuration, as TOML.
    pub(super) config: String,
}

/// The text of the file.
pub(super) fn text(plan: &SweepFile) -> String {
    sealed::text(NAME, &serde_json::to_string(plan).expect("plain values"))
}

pub(super) fn read(path: &Path) -> Result<SweepFile> {
    sealed::read(path, NAME, FORMAT_VERSION)
}
