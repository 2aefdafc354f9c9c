//! The numbers that a run's model computes with, whatever it was made of.

use crate::run::{RunDir, State, Which};
use kinglet_core::{
    config::{Config, Quantization},
    error::Result,
    params::{Layout, edit::merge},
};
use std::path::Path;

/// Says that no weight is in few bits.
pub(super) fn unround(config: &mut Config) {
    (config.quantization, config.quantize_head, config.quantize_embeddings) = (Quantization::None, false, false);
}

/// Loads a checkpoint of a run, with its adapters merged into the weights.
pub(super) fn load_merged(run: &mut RunDir, which: Which) -> Result<(State, Config, Vec<f32>)> {
    let layout = Layout::new(&run.config)?;
    let (state, weights) = match run.adapted_weights()? {
        Some(base) => run.load_weights_onto(&layout, base, which)?,
        None => run.load_weights(&layout, None, which)?,
    };
    let (config, weights) = merge(&run.config, weights)?;
    Ok((state, config, weights))
}

/// Opens the run in `from`, and loads a checkpoint of it with its adapters merged into the weights: its state, its
/// configuration without adapters and without weights in few bits, and the numbers that it computes with: those are multiplied
/// out, and are not to be rounded again. Weights without adapters are not copied.
///
/// # Errors
/// If there is no such run, or it has no intact checkpoint.
pub fn load(from: &Path, which: Which) -> Result<(RunDir, State, Config, Vec<f32>)> {
    let mut run = RunDir::open(from)?;
    if run.config.lora_rank > 0 {
        let (state, config, weights) = load_merged(&mut run, which)?;
        return Ok((run, state, config, weights));
    }
    let (state, weights) = run.load_numbers(&Layout::new(&run.config)?, None, which)?;
    let mut config = run.config.clone();
    unround(&mut config);
    Ok((run, state, config, weights))
}
