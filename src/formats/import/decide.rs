//! The loss on a text decides what a file leaves open.

use crate::{
    data::{self, Dataset, TokenizerChoice},
    formats::{
        guess::{self, Certainty, Guess, Open},
        portable::Portable,
    },
    text::source,
};
use kinglet_core::{
    backend::{Buf, Cpu},
    config::Config,
    error::Result,
    model::Gpt,
    rng::Purpose,
    shards::{Measured, Shards},
    threads::current,
};
use std::ops::ControlFlow;

/// Weights times tokens on which each loss is measured: about a second of work.
const WORK: usize = 10_000_000_000;

/// Fewest and most tokens that they are.
const TOKENS: std::ops::RangeInclusive<usize> = 1 << 11..=1 << 16;

/// Fewest sequences that they are of.
const SEQUENCES: usize = 4;

/// With more combinations than this, each is measured on fewer tokens.
const COMBINATIONS: usize = 8;

/// How many standard errors a value must be better than another to be preferred to a more usual one.
const CLEARLY: f64 = 4.0;

/// Settles what is open in a model's configuration: by the loss on `names`, if they name a text, else by convention. Of what
/// the user told, which the file leaves open too, it is noted where the loss says otherwise.
pub(super) fn decide(
    model: &mut Portable,
    open: &[Open],
    told: &[Open],
    names: &[String],
    notes: &mut Vec<String>,
) -> Result<Vec<Guess>> {
    if names.is_empty() {
        if open.iter().any(|open| open.usual.is_none()) {
            return Err(guess::no_heads(model.config.n_embd));
        }
        return open.iter().map(by_convention).collect();
    }
    let data = read(model, names)?;
    notes.extend(data.notes.iter().cloned());
    let text = names.join(", ");
    let mut guesses = Vec::new();
    if !open.is_empty() {
        let trials = trials(&model.config, open)?;
        let losses = losses(model, &data, &trials)?;
        guesses = choose(model, open, &trials, &losses, &text);
    }
    for told in told {
        notes.extend(doubt(model, &data, told, &text)?);
    }
    Ok(guesses)
}

/// Where the loss is clearly lower with another value than the one that was told: both losses.
fn doubt(model: &mut Portable, data: &Dataset, told: &Open, text: &str) -> Result<Option<String>> {
    let has = model.config.value(told.key).to_string();
    let is_told = |value: &String| value.trim_matches('"') == has.trim_matches('"');
    let other = told.values.iter().filter(|value| !is_told(value)).cloned().collect();
    let mut tried = vec![Trial { values: Vec::new(), config: model.config.clone() }];
    tried.extend(trials(&model.config, &[Open { values: other, ..told.clone() }])?);
    let losses = losses(model, data, &tried)?;
    let chance = (model.config.vocab_size as f64).ln();
    let better = (1..tried.len()).filter(|&i| mean(&losses[i]) < chance && clearness(&losses[0], &losses[i]) > CLEARLY);
    let Some(best) = better.min_by(|&a, &b| mean(&losses[a]).total_cmp(&mean(&losses[b]))) else { return Ok(None) };
    let (key, value) = (told.key, tried[best].config.value(told.key).to_string());
    Ok(Some(format!(
        "{key} = {}, as told, but the loss on {text} is {:.4} with it, and clearly lower with {}: {:.4}",
        has.trim_matches('"'),
        mean(&losses[0]),
        value.trim_matches('"'),
        mean(&losses[best])
    )))
}

/// A guess that no text has decided.
fn by_convention(open: &Open) -> Result<Guess> {
    match &open.usual {
        Some((reason, certainty)) => {
            let option = match open.key {
                "attention_scale" => "--attention-scale SIZE".to_owned(),
                "n_head" => "--n-head N".to_owned(),
                key => format!("--set {key}=..."),
            };
            let reason = format!("{reason}; --data TEXT measures which it is, or {option} says it");
            Ok(Guess { key: open.key, value: open.values[0].clone(), reason, certainty: *certainty })
        }
        None => unreachable!("what has no usual value is asked for before"),
    }
}

/// The text, which becomes the data of the run.
fn read(model: &mut Portable, names: &[String]) -> Result<Dataset> {
    model.config.data = names.to_vec();
    let (_, data) = data::read(&model.config, TokenizerChoice::Fixed(&model.tokenizer))?;
    data.check(&model.config)?;
    // Only now, so that earlier errors show the names as given.
    model.config.data = source::located(names);
    model.config.data_sha256.clone_from(&data.sha256);
    model.config.data_kind = data.kind().to_owned();
    Ok(data)
}

/// A combination of values: which value of each that is open, and the configuration with them.
struct Trial {
    values: Vec<usize>,
    config: Config,
}

/// Every combination; the usual one is the first.
fn trials(config: &Config, open: &[Open]) -> Result<Vec<Trial>> {
    let mut trials = vec![Trial { values: Vec::new(), config: config.clone() }];
    for Open { key, values, .. } in open {
        let mut next = Vec::new();
        for Trial { values: before, config } in &trials {
            for (i, value) in values.iter().enumerate() {
                let mut config = config.clone();
                config.set(&format!("{key}={value}"))?;
                // A position that is rotated needs an even head.
                if config.check().is_ok() {
                    next.push(Trial { values: before.iter().copied().chain([i]).collect(), config });
                }
            }
        }
        trials = next;
    }
    Ok(trials)
}

/// The losses of each sequence, trial by trial. The weights are the same for all, and afterwards: they are lent to the engine.
fn losses(model: &mut Portable, data: &Dataset, trials: &[Trial]) -> Result<Vec<Vec<Measured>>> {
    let be = Cpu::new()?;
    let tokens = (WORK / model.weights.len().max(1)).clamp(*TOKENS.start(), *TOKENS.end());
    let tokens = tokens * COMBINATIONS / trials.len().max(COMBINATIONS);
    let sequences = (tokens / model.config.block_size).max(SEQUENCES);
    // Of passes over whole sequences, those with packed weights would not be faster, and there would be two copies of them.
    let weights = Buf::in_place(std::mem::take(&mut model.weights));
    let all = trials.iter().map(|Trial { config, .. }| {
        let gpt = Gpt::new(config)?;
        let mut shards = Shards::new(&be, &gpt, sequences, current(), false);
        let load = |i, batch: &mut _| data.train.sample(1, Purpose::EstimateTrain, 0, i, batch);
        let measured = shards.losses(&be, &gpt, &weights, sequences, load, |_, _| ControlFlow::Continue(()))?;
        Ok(measured.expect("nothing breaks it off"))
    });
    let all = all.collect();
    model.weights = weights.into_numbers();
    all
}

fn mean(losses: &[Measured]) -> f64 {
    let (sum, n) = losses.iter().fold((0.0, 0), |(sum, n), one| (sum + one.loss, n + one.targets));
    sum / n.max(1) as f64
}

/// By how many standard errors the losses `b` are lower than `a`, sequence by sequence.
fn clearness(a: &[Measured], b: &[Measured]) -> f64 {
    let n = a.len() as f64;
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a.loss - b.loss).collect();
    let mean = differences.iter().sum::<f64>() / n;
    let variance = differences.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    if variance == 0.0 {
        if mean == 0.0 { 0.0 } else { mean.signum() * f64::INFINITY }
    } else {
        mean / (variance / n).sqrt()
    }
}

/// Takes the best trial, or a more usual one that is not clearly worse, and says why.
fn choose(model: &mut Portable, open: &[Open], trials: &[Trial], losses: &[Vec<Measured>], text: &str) -> Vec<Guess> {
    let means: Vec<f64> = losses.iter().map(|losses| mean(losses)).collect();
    // A loss that is not a number is never the best.
    let key = |i: &usize| if means[*i].is_finite() { means[*i] } else { f64::INFINITY };
    let lowest = (0..trials.len()).min_by(|a, b| key(a).total_cmp(&key(b))).unwrap_or(0);
    // A model that has learned nothing is not more itself where its loss is lower.
    let chance = (model.config.vocab_size as f64).ln();
    let learned = key(&lowest) < chance;
    // Of those that are not clearly worse, the one with the most usual values.
    let unusual = |i: &usize| -> usize {
        let values = trials[*i].values.iter().zip(open);
        values.filter(|(_, open)| open.usual.is_some()).map(|(value, _)| value).sum()
    };
    let may_be = (0..trials.len()).filter(|&i| !learned || clearness(&losses[i], &losses[lowest]) <= CLEARLY);
    let order = |a: &usize, b: &usize| unusual(a).cmp(&unusual(b)).then(key(a).total_cmp(&key(b)));
    let best = may_be.min_by(order).unwrap_or(lowest);
    model.config.clone_from(&trials[best].config);
    let guess = |(at, open): (usize, &Open)| {
        let value = open.values[trials[best].values[at]].clone();
        // The others, where only this one is different.
        let others = (0..trials.len()).filter(|&i| {
            let differs = |j: &usize| trials[i].values[*j] != trials[best].values[*j];
            differs(&at) && (0..open_len(trials)).filter(differs).count() == 1
        });
        let others: Vec<usize> = others.collect();
        let shown = others.iter().map(|&i| format!("{:.4} with {}", means[i], open.values[trials[i].values[at]]));
        let clear = learned && others.iter().all(|&i| clearness(&losses[i], &losses[best]) > CLEARLY);
        let measured =
            format!("the loss on {text} is {:.4} with {value}, {}", means[best], shown.collect::<Vec<_>>().join(", "));
        let (reason, certainty) = match (&open.usual, clear) {
            (_, true) => (measured, Certainty::Measured),
            (Some((usual, certainty)), false) if trials[best].values[at] == 0 => {
                let no_better = if learned { String::new() } else { format!("; equal chances would have {chance:.4}") };
                (format!("{usual}; {measured}{no_better}, which decides nothing"), *certainty)
            }
            (_, false) => (measured, Certainty::Unsure),
        };
        Guess { key: open.key, value, reason, certainty }
    };
    open.iter().enumerate().map(guess).collect()
}

fn open_len(trials: &[Trial]) -> usize {
    trials.first().map_or(0, |trial| trial.values.len())
}
