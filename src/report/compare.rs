//! Where two runs first differ: configuration, text, training step, tensor.

use crate::run::{Checkpoint, RunDir};
use kinglet_core::{config::FIELDS, error::Result, params::Layout};
use serde::Serialize;
use serde_json::Value;
use std::{cmp::Ordering, iter::Peekable};

/// Event keys that depend on timing or the machine rather than on the run.
const OF_THE_CLOCK: [&str; 7] =
    ["tokens_per_s", "left_s", "ms_per_step", "train_s", "wall_s", "peak_memory_mib", "out"];

/// A comparison of two runs; differences are listed in causal order.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Comparison {
    /// Configuration keys that differ, with both values.
    pub config: Vec<(String, String, String)>,
    /// Whether the texts differ.
    pub data: bool,
    /// Whether the tokenizers differ.
    pub tokenizer: bool,
    /// The first event in the metrics that differs.
    pub event: Option<EventDifference>,
    /// Steps for which both runs have a checkpoint.
    pub checkpoints: Vec<u64>,
    /// The first difference in those checkpoints.
    pub tensor: Option<TensorDifference>,
    /// The last checkpoint's step in each run, if they differ.
    pub last_step: Option<(u64, u64)>,
    /// Damage found while reading, which limits the comparison.
    pub warnings: Vec<String>,
}

/// An event that both runs' metrics have for one step, with different values.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EventDifference {
    /// The kind of event.
    pub event: String,
    /// Its step.
    pub step: u64,
    /// The key that differs.
    pub key: String,
    /// The value in the first run.
    pub a: Value,
    /// The value in the second run.
    pub b: Value,
}

/// A tensor that differs between two checkpoints of the same step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorDifference {
    /// The step.
    pub step: u64,
    /// `weights`, `exp_avg` or `exp_avg_sq`.
    pub of: &'static str,
    /// The first tensor that differs.
    pub tensor: String,
    /// The number of its elements with different bits, and of all its elements.
    pub elements: (usize, usize),
    /// The largest absolute difference between two elements.
    pub max_abs_difference: f32,
    /// The number of tensors that differ, and of all tensors.
    pub tensors: (usize, usize),
}

impl Comparison {
    /// Whether configuration, data and results are the same.
    pub fn is_same(&self) -> bool {
        let Comparison { config, data, tokenizer, event, tensor, last_step, .. } = self;
        config.is_empty() && !data && !tokenizer && event.is_none() && tensor.is_none() && last_step.is_none()
    }
}

/// Compares two runs.
///
/// # Errors
/// If one of them cannot be read.
pub fn compare(a: &mut RunDir, b: &mut RunDir) -> Result<Comparison> {
    let (ca, cb) = (&a.config, &b.config);
    let differing = FIELDS.iter().filter(|field| !field.key.ends_with("sha256"));
    let config = differing
        .map(|field| (field.key.to_owned(), ca.value(field.key).to_string(), cb.value(field.key).to_string()))
        .filter(|(_, a, b)| a != b)
        .collect();
    let mut found = Comparison {
        config,
        data: ca.data_sha256 != cb.data_sha256,
        tokenizer: a.tokenizer != b.tokenizer,
        event: first_event(a, b)?,
        ..Comparison::default()
    };
    let layout = Layout::new(&a.config)?;
    let comparable = Layout::new(&b.config)?
        .tensors
        .iter()
        .map(|t| (&t.name, &t.shape))
        .eq(layout.tensors.iter().map(|t| (&t.name, &t.shape)));
    let (steps_a, steps_b) = (a.steps()?, b.steps()?);
    let (base_a, base_b) = (a.adapted_weights()?, b.adapted_weights()?);
    let (base_a, base_b) = (base_a.as_deref(), base_b.as_deref());
    if comparable {
        for step in steps_a.iter().copied().filter(|step| steps_b.contains(step)) {
            let both = (a.load(&layout, base_a, |at| at == step), b.load(&layout, base_b, |at| at == step));
            // Damaged checkpoints are already in the warnings.
            let (Ok(at_a), Ok(at_b)) = both else { continue };
            found.checkpoints.push(step);
            found.tensor = first_tensor(&layout, &at_a, &at_b);
            if found.tensor.is_some() {
                break;
            }
        }
    }
    let last = (steps_a.last().copied().unwrap_or(0), steps_b.last().copied().unwrap_or(0));
    found.last_step = (last.0 != last.1).then_some(last);
    found.warnings = [std::mem::take(&mut a.warnings), std::mem::take(&mut b.warnings)].concat();
    Ok(found)
}

/// The first event that differs from the other run's event of the same kind and step. Both runs' metrics are read line by
/// line: they come in the order of their steps, so what has no counterpart at its step has none.
fn first_event(a: &RunDir, b: &RunDir) -> Result<Option<EventDifference>> {
    let (mut a, mut b) = (a.events()?.peekable(), b.events()?.peekable());
    let (mut ours, mut theirs) = (next_step(&mut a)?, next_step(&mut b)?);
    while let (Some((at, events)), Some((at_other, others))) = (&ours, &theirs) {
        match at.cmp(at_other) {
            Ordering::Less => ours = next_step(&mut a)?,
            Ordering::Greater => theirs = next_step(&mut b)?,
            Ordering::Equal => {
                let found = events.iter().find_map(|event| others.iter().find_map(|other| difference(event, other)));
                if found.is_some() {
                    return Ok(found);
                }
                (ours, theirs) = (next_step(&mut a)?, next_step(&mut b)?);
            }
        }
    }
    Ok(None)
}

/// The next step in a run's metrics, and its events.
fn next_step(events: &mut Peekable<impl Iterator<Item = Result<Value>>>) -> Result<Option<(u64, Vec<Value>)>> {
    let step = |event: &Value| event["step"].as_u64().unwrap_or(0);
    let Some(first) = events.next().transpose()? else { return Ok(None) };
    let (at, mut found) = (step(&first), vec![first]);
    while let Some(event) = events.next_if(|event| event.as_ref().map_or(true, |event| step(event) == at)) {
        found.push(event?);
    }
    Ok(Some((at, found)))
}

/// The first key in which two events of one kind differ.
fn difference(event: &Value, other: &Value) -> Option<EventDifference> {
    let same_kind = |key: &str| event[key] == other[key];
    let fields = event.as_object().filter(|_| same_kind("event") && same_kind("at_step"))?;
    // A key that only one of them has comes from another version; ignore it.
    let differs = |name: &&String| {
        !OF_THE_CLOCK.contains(&name.as_str()) && other.get(*name).is_some_and(|value| *value != fields[*name])
    };
    let name = fields.keys().find(differs)?;
    Some(EventDifference {
        event: event["event"].as_str().unwrap_or_default().to_owned(),
        step: event["step"].as_u64().unwrap_or_default(),
        key: name.clone(),
        a: fields[name].clone(),
        b: other[name].clone(),
    })
}

fn first_tensor(layout: &Layout, a: &Checkpoint, b: &Checkpoint) -> Option<TensorDifference> {
    let of = |name, a: &[f32], b: &[f32]| {
        let mut first: Option<TensorDifference> = None;
        for tensor in &layout.tensors {
            let (a, b) = (&a[tensor.span.range()], &b[tensor.span.range()]);
            let differing = a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits());
            let (count, max) = differing.fold((0, 0.0f32), |(n, max), (a, b)| (n + 1, max.max((a - b).abs())));
            match &mut first {
                _ if count == 0 => {}
                Some(first) => first.tensors.0 += 1,
                None => {
                    first = Some(TensorDifference {
                        step: 0,
                        of: name,
                        tensor: tensor.name.clone(),
                        elements: (count, a.len()),
                        max_abs_difference: max,
                        tensors: (1, layout.tensors.len()),
                    });
                }
            }
        }
        first
    };
    let first = of("weights", &a.weights, &b.weights)
        .or_else(|| of("exp_avg", &a.m, &b.m))
        .or_else(|| of("exp_avg_sq", &a.v, &b.v))?;
    Some(TensorDifference { step: a.state.step, ..first })
}
