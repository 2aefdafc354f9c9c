//! Measuring the loss: the published estimate over random batches, and the exact mean over a whole split.

use crate::{backend::Backend, config::Config, data::Split, model::Gpt, rng::Purpose, shards::Shards};
use serde::Serialize;
use std::ops::ControlFlow;

/// The exact loss over every position of a split.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Exact {
    /// Mean loss in nats per token.
    pub loss: f64,
    /// Its standard error, the sequences of `block_size` tokens taken as independent.
    pub stderr: f64,
    /// The same in bits per character.
    pub bits_per_char: f64,
    /// `e^loss`.
    pub perplexity: f64,
    /// Tokens predicted.
    pub tokens: u64,
}

/// The published estimate: the mean over `eval_iters` random batches, dropout off.
///
/// `progress` hears how many of how many sequences are done; if it breaks there is no result.
pub fn estimate<B: Backend>(
    be: &B,
    model: &Gpt,
    shards: &mut Shards<B>,
    p: &B::Buf,
    split: &Split,
    purpose: Purpose,
    config: &Config,
    step: u64,
    progress: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> Option<f64> {
    let sequences = config.eval_iters as usize * config.batch_size;
    let sums = shards.losses(be, model, p, sequences, |i| split.sample(config.seed, purpose, step, i), progress)?;
    Some(sums.iter().sum::<f64>() / (sequences * config.block_size) as f64)
}

/// The exact loss: every token but the first is predicted once, in consecutive sequences of `block_size`, so the
/// lengths of the contexts are distributed as in the estimate. `progress` as there.
pub fn exact<B: Backend>(
    be: &B,
    model: &Gpt,
    shards: &mut Shards<B>,
    p: &B::Buf,
    split: &Split,
    progress: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> Option<Exact> {
    let windows = split.windows();
    let sums = shards.losses(be, model, p, windows, |i| split.window(i), progress)?;
    let tokens = (split.ids().len() - 1) as f64;
    let loss = sums.iter().sum::<f64>() / tokens;
    // The error of a ratio of sums: each window contributes its loss less what the mean would give it.
    let squares = sums.iter().enumerate().map(|(i, sum)| (sum - loss * (split.window(i).len() - 1) as f64).powi(2));
    let stderr = (squares.sum::<f64>() * windows as f64 / (windows as f64 - 1.0).max(1.0)).sqrt() / tokens;
    let bits_per_char = loss / std::f64::consts::LN_2;
    Some(Exact { loss, stderr, bits_per_char, perplexity: loss.exp(), tokens: tokens as u64 })
}
