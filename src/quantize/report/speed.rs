//! How fast two models write, in turn, so that what else the machine does falls on both.

use crate::inference::Model;
use kinglet_core::{
    backend::Cpu,
    error::Result,
    sample::{self, Sampling, Sequence},
    threads::with_threads,
};
use serde::Serialize;
use std::time::Instant;

/// Texts that are written at once.
const STREAMS: [usize; 2] = [1, 32];

/// Bytes that keys and values of all texts of both models may take.
const CACHES: usize = 1 << 30;

/// Seconds that a turn of the slower model takes at most, if its first token does not take longer.
const TURN: f64 = 0.2;

/// Turns of each model.
const TURNS: usize = 9;

/// How fast two models write, on one thread: medians of turns.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// Texts that were written at once.
    pub streams: usize,
    /// Tokens of each, from an empty context on.
    pub tokens: usize,
    /// Turns of each model.
    pub turns: usize,
    /// Tokens per second of the first model, all texts together.
    pub before: f64,
    /// Of the second.
    pub after: f64,
    /// How many times as fast the second one is.
    pub times_faster: f64,
}

/// Measures both models, one text and 32 at once, or as many as there is memory for.
///
/// # Errors
/// If a model's logits are not finite.
pub(super) fn measure(models: [&Model; 2]) -> Result<Vec<Speed>> {
    let config = models[0].config();
    let cache = 2 * 4 * 2 * config.n_layer * config.block_size * config.kv_heads() * config.head_size();
    let most = (CACHES / cache.max(1)).max(1);
    let mut streams: Vec<_> = STREAMS.iter().map(|&streams| streams.min(most)).collect();
    streams.dedup();
    with_threads(1, || streams.into_iter().map(|streams| at_once(models, streams)).collect())?
}

fn at_once(models: [&Model; 2], streams: usize) -> Result<Speed> {
    // The first turns warm up, and say how many tokens there is time for.
    let (tokens, _) = write(models[0], streams, usize::MAX)?;
    write(models[1], streams, tokens)?;
    let mut turns = Vec::with_capacity(TURNS);
    for _ in 0..TURNS {
        let [before, after] = [write(models[0], streams, tokens)?.1, write(models[1], streams, tokens)?.1];
        turns.push((before, after));
    }
    let all = (streams * tokens) as f64;
    let (before, after) = (middle(turns.iter().map(|turn| turn.0)), middle(turns.iter().map(|turn| turn.1)));
    let times_faster = before / after;
    Ok(Speed { streams, tokens, turns: TURNS, before: all / before, after: all / after, times_faster })
}

/// Writes up to `most` tokens of each text, within the context, until a turn is over: how many, and the seconds it took.
fn write(model: &Model, streams: usize, most: usize) -> Result<(usize, f64)> {
    let (be, gpt, p) = model.parts();
    let new = |i: usize| Sequence::new(be, gpt, &[0], Sampling::default(), i as u64);
    let mut sequences = (0..streams).map(new).collect::<Result<Vec<Sequence<Cpu>>>>()?;
    let (mut all, mut decoder) = (sequences.iter_mut().collect::<Vec<_>>(), gpt.decoder(be));
    let (clock, mut tokens) = (Instant::now(), 0);
    while tokens < most.min(gpt.block_size) {
        sample::draw(be, gpt, p, &mut decoder, &mut all).into_iter().try_for_each(|drawn| drawn.map(|_| ()))?;
        tokens += 1;
        if most == usize::MAX && clock.elapsed().as_secs_f64() > TURN {
            break;
        }
    }
    Ok((tokens, clock.elapsed().as_secs_f64()))
}

/// The middle one of several values.
fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
