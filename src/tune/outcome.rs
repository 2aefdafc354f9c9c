//! What came out of one training of a tuning.

use serde::Serialize;
use std::collections::BTreeMap;

/// How one training ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The number of the settings, 0 for the configured ones.
    pub trial: usize,
    /// The rung, from 1.
    pub rung: usize,
    /// Updates asked for.
    pub steps: u64,
    /// Its seed.
    pub seed: u64,
    /// The values of the keys that vary.
    pub settings: BTreeMap<String, toml::Value>,
    /// The exact validation loss at its end in nats per token; infinite (`null` in JSON) if it diverged.
    pub loss: f64,
    /// Its standard error.
    pub stderr: f64,
    /// Seconds it took.
    pub wall_s: f64,
    /// Its folder.
    pub out: String,
}
