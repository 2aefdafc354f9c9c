//! The curves of one run, as few points as are asked for.

use super::values::{cursor, number, parameter};
use crate::{
    run::{Cursor, Estimates, Span, Spans, Tail},
    serve::answer::{Asked, Failure},
};
use serde_json::{Map, Value, json};
use std::ops::Range;

/// The points of a curve: how many unless told otherwise, and how many at most.
const POINTS: (u64, u64) = (300, 5000);

/// So many new updates are sent one by one.
const ONE_BY_ONE: usize = 1000;

/// What somebody wants to know.
pub(super) struct Wanted {
    since: Option<Cursor>,
    points: usize,
    from: Option<u64>,
    to: Option<u64>,
}

impl Wanted {
    /// As the query has it.
    pub(super) fn of(asked: &Asked) -> Result<Wanted, Failure> {
        let points = number(asked, "points")?.unwrap_or(POINTS.0);
        if !(1..=POINTS.1).contains(&points) {
            let what = format!("points must be 1 to {}, not {points}", POINTS.1);
            return Err(Failure::bad(Some("points"), Some("invalid_value"), what));
        }
        let (from, to) = (number(asked, "from")?, number(asked, "to")?);
        Ok(Wanted { since: cursor(parameter(asked, "since")), points: points as usize, from, to })
    }
}

/// The answer.
pub(super) fn answer(tail: &Tail, wanted: &Wanted, tokens_per_step: Option<f64>) -> Value {
    let added = tail.since(wanted.since);
    let places = tail.steps.places(added.steps.clone(), wanted.from, wanted.to);
    let most = if added.whole || places.len() > ONE_BY_ONE { wanted.points } else { ONE_BY_ONE };
    let (estimates, of) = estimates(&tail.estimates, added.estimates.clone(), wanted);
    let marks = added.marks.iter().map(|mark| json!({"step": mark.step, "kind": mark.kind.name(), "text": mark.text}));
    let finish = tail.finish.as_ref();
    let baseline = finish.and_then(|of| of.baseline.as_ref());
    json!({
        "cursor": tail.cursor().to_string(),
        "whole": added.whole,
        "steps": steps(&tail.steps.spans(places.clone(), most)),
        "steps_of": places.len(),
        "estimates": estimates,
        "estimates_of": of,
        "marks": marks.collect::<Vec<_>>(),
        "floor": finish.and_then(|of| of.entropy_floor),
        "baseline": baseline.map(|(name, nats)| json!({"name": name, "nats_per_token": nats})),
        "exact": finish.and_then(|of| of.val_loss_exact),
        "tokens_per_step": tokens_per_step,
    })
}

fn steps(spans: &Spans) -> Value {
    // A curve shows no more digits than these have.
    let rounded = |of: fn(&Span) -> f64| -> Value { spans.iter().map(|span| short(of(span) as f32)).collect() };
    let narrow = |of: fn(&Span) -> f32| -> Value { spans.iter().map(of).map(short).collect() };
    json!({
        "step": spans.iter().map(|span| span.step).collect::<Vec<_>>(),
        "loss": rounded(|span| span.loss),
        "loss_min": rounded(|span| span.loss_min),
        "loss_max": rounded(|span| span.loss_max),
        "lr": narrow(|span| span.lr),
        "grad_norm": narrow(|span| span.grad_norm),
        "grad_norm_max": narrow(|span| span.grad_norm_max),
        "tokens_per_s": narrow(|span| span.tokens_per_s),
    })
}

/// A number with as many digits as it has: as a wider one it would have more.
fn short(x: f32) -> Value {
    if x.is_finite() { x.to_string().parse::<f64>().map_or(Value::Null, Value::from) } else { Value::Null }
}

/// The columns of estimates, and how many there are.
fn estimates(of: &Estimates, within: Range<usize>, wanted: &Wanted) -> (Value, usize) {
    let steps = &of.step[within.clone()];
    let first = wanted.from.map_or(0, |from| steps.partition_point(|&step| step < from));
    let end = wanted.to.map_or(steps.len(), |to| steps.partition_point(|&step| step <= to)).max(first);
    let all = within.start + first..within.start + end;
    let kept = kept(of, all.clone(), wanted.points);
    let column = |values: &[f64]| -> Vec<f64> { kept.iter().map(|&at| values[at]).collect() };
    let mut columns = Map::new();
    columns.insert("step".into(), kept.iter().map(|&at| of.step[at]).collect::<Vec<_>>().into());
    for (name, values) in
        [("train_loss", &of.train_loss), ("val_loss", &of.val_loss), ("tokens", &of.tokens), ("train_s", &of.train_s)]
    {
        columns.insert(name.into(), column(values).into());
    }
    let old = column(&of.old_val_loss);
    let old = if old.iter().any(|loss| loss.is_finite()) { old.into() } else { Value::Null };
    columns.insert("old_val_loss".into(), old);
    (columns.into(), all.len())
}

/// The places of estimates that are sent: all, or every so many, the lowest and the last.
fn kept(of: &Estimates, all: Range<usize>, points: usize) -> Vec<usize> {
    if all.len() <= points {
        return all.collect();
    }
    // Two places are for the lowest and the last.
    let every = all.len().div_ceil(points.saturating_sub(2).max(1));
    let lowest = all.clone().filter(|&at| of.val_loss[at].is_finite());
    let lowest = lowest.min_by(|&a, &b| of.val_loss[a].total_cmp(&of.val_loss[b]));
    let last = all.end - 1;
    all.clone().filter(|&at| (at - all.start).is_multiple_of(every) || Some(at) == lowest || at == last).collect()
}
