//! The outcome of one trial.

use serde::Serialize;
use std::collections::BTreeMap;

/// How one trial ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Index of the settings, 0 for the configured ones.
    pub trial: usize,
    /// The rung, counted from 1.
    pub rung: usize,
    /// Updates requested.
    pub steps: u64,
    /// Its seed.
    pub seed: u64,
    /// The values of the swept keys.
    pub settings: BTreeMap<String, toml::Value>,
    /// The exact final validation loss in nats per token; infinite (`null` in JSON) if it diverged.
    pub loss: f64,
    /// Its standard error; `None` where it is not known.
    pub loss_stderr: Option<f64>,
    /// Seconds it took.
    pub wall_s: f64,
    /// Its folder.
    pub run: String,
}

/// The best and the configured settings, trained with another seed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Check {
    /// The seed.
    pub seed: u64,
    /// The exact validation loss of the best settings.
    pub loss: f64,
    /// The same of the configured ones.
    pub configured_loss: f64,
}
