//! Measuring the loss: the published estimate over random batches, and the exact mean over a whole split.

use crate::{
    backend::Backend,
    config::Config,
    data::Split,
    error::{Error, Result},
    model::Gpt,
    rng::Purpose,
    shards::Measured,
    shards::Shards,
};
use serde::Serialize;
use std::{f64::consts::LN_2, ops::ControlFlow};

/// The exact loss over every position of a split.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Exact {
    /// Mean loss in nats per token.
    pub loss: f64,
    /// Its standard error, the sequences of `block_size` tokens taken as independent.
    pub stderr: f64,
    /// The same in bits per character of text, whatever the tokens are.
    pub bits_per_char: f64,
    /// The same in bits per byte of UTF-8.
    pub bits_per_byte: f64,
    /// `e^loss`.
    pub perplexity: f64,
    /// Tokens predicted.
    pub tokens: u64,
}

/// The published estimate: the mean over `eval_iters` random batches, dropout off.
///
/// `progress` hears how many of how many sequences are done; if it breaks there is no result.
///
/// # Errors
/// If the text cannot be read.
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
) -> Result<Option<f64>> {
    let sequences = config.eval_iters as usize * config.batch_size;
    let load = |i, batch: &mut _| split.sample(config.seed, purpose, step, i, batch);
    Ok(shards.losses(be, model, p, sequences, load, progress)?.map(|measured| mean(&measured).0))
}

/// The exact loss: every token but the first is predicted once, in consecutive sequences of `block_size`, so the
/// lengths of the contexts are distributed as in the estimate. `progress` as there.
///
/// # Errors
/// If the text cannot be read, or has nothing to predict.
pub fn exact<B: Backend>(
    be: &B,
    model: &Gpt,
    shards: &mut Shards<B>,
    p: &B::Buf,
    split: &Split,
    progress: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Option<Exact>> {
    let windows = split.windows();
    if windows == 0 {
        return Err(Error::Data(format!("the text has {} tokens; predicting one takes two", split.tokens())));
    }
    let load = |i, batch: &mut _| split.window(i, batch);
    let Some(measured) = shards.losses(be, model, p, windows, load, progress)? else { return Ok(None) };
    let (loss, tokens) = mean(&measured);
    // The error of a ratio of sums: each window contributes its loss less what the mean would give it.
    let squares: f64 = measured.iter().map(|m| (m.loss - loss * m.targets as f64).powi(2)).sum();
    let stderr = (squares * windows as f64 / (windows as f64 - 1.0).max(1.0)).sqrt() / tokens as f64;
    let (per_byte, per_char) = split.tokens_per_byte_and_char();
    Ok(Some(Exact {
        loss,
        stderr,
        bits_per_char: loss / LN_2 * per_char,
        bits_per_byte: loss / LN_2 * per_byte,
        perplexity: loss.exp(),
        tokens,
    }))
}

/// The mean loss, and over how many tokens.
fn mean(measured: &[Measured]) -> (f64, u64) {
    let tokens: usize = measured.iter().map(|m| m.targets).sum();
    (measured.iter().map(|m| m.loss).sum::<f64>() / tokens as f64, tokens as u64)
}
