//! Forecasts what happens once, at the end of a run, from a small part of it: the sample and the n-gram baseline.

use super::plan::SAMPLE_TOKENS;
use crate::{
    data::{Dataset, Split},
    report::baselines::{Baselines, TRAIN_TOKENS, VAL_TOKENS},
};
use kinglet_core::{
    backend::Backward,
    config::Config,
    error::Result,
    model::Gpt,
    rng::Purpose,
    sample::{Sampling, Stream},
    shards::Shards,
};
use std::{ops::ControlFlow, time::Instant};

/// How often each is tried. The quickest counts: what disturbed the others would be multiplied, too.
const TRIES: usize = 4;

/// Tokens of text that the baseline is tried on.
const PART: usize = 30_000;

/// The seconds of the quickest try.
pub(super) fn quickest(mut attempt: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut least = f64::INFINITY;
    for _ in 0..TRIES {
        let clock = Instant::now();
        attempt()?;
        least = least.min(clock.elapsed().as_secs_f64());
    }
    Ok(least)
}

/// The seconds that a sequence of an estimate takes. The weights are packed to be read.
pub(super) fn sequence_s<B: Backward>(
    be: &B,
    model: &Gpt,
    p: &B::Buf,
    shards: &mut Shards<B>,
    split: &Split,
    config: &Config,
) -> Result<f64> {
    let sequences = 2 * config.batch_size;
    let load = |i, batch: &mut _| split.sample(config.seed, Purpose::EstimateVal, 0, i, batch);
    let all = || shards.losses(be, model, p, sequences, load, |_, _| ControlFlow::Continue(())).map(|_| ());
    Ok(quickest(all)? / sequences as f64)
}

/// The seconds that the sample at the end of a run takes. It does not change the model. The weights are packed to be read.
pub(super) fn sample_s<B: Backward>(be: &B, model: &Gpt, p: &B::Buf) -> Result<f64> {
    let each = |context: usize| -> Result<f64> {
        let mut stream = Stream::new(be, model, &vec![0; context.max(1)], Sampling::default(), 0)?;
        // The first draw reads the whole context.
        stream.draw(be, model, p)?;
        quickest(|| stream.draw(be, model, p).map(|_| ()))
    };
    // Until the context is full, a token costs what it does in the middle; a full context can cost far more.
    let within = model.block_size.min(SAMPLE_TOKENS);
    let beyond = SAMPLE_TOKENS - within;
    let full = if beyond > 0 { each(model.block_size)? } else { 0.0 };
    Ok(within as f64 * each(within / 2)? + beyond as f64 * full)
}

/// The seconds that the n-gram baseline takes: those of a part of the text, which sorting all of it multiplies.
pub(super) fn baseline_s(data: &Dataset, vocab_size: usize) -> Result<f64> {
    if data.val.is_conversations() {
        return Ok(0.0);
    }
    let (train, val) = (data.train.tokens().min(TRAIN_TOKENS), data.val.tokens().min(VAL_TOKENS));
    let share = (PART as f64 / (train + val) as f64).min(1.0);
    let of = |tokens: usize| ((share * tokens as f64) as usize).max(1);
    let (some, few) = (data.train.last_ids(of(train))?, data.val.first_ids(of(val))?);
    let seconds = quickest(|| Baselines::measure(&some, &few, vocab_size).map(|_| ()))?;
    let depth = |tokens: usize| (tokens.max(2) as f64).ln();
    Ok(seconds / share * depth(train) / depth(some.len()))
}
