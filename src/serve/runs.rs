//! The runs and tunings that are served, as they go on. Nothing is written into a run, and no lock is kept: what was read of a
//! run's metrics is not read again, and what has not changed is not sent again.

mod entry;
mod events;
pub(super) mod seen;
mod tails;
mod tunings;
mod values;

use super::{
    answer::{Answer, Asked, Failure},
    service::Service,
};
use crate::run::{Most, Samples, Since, Tail};
use entry::Entry;
use kinglet_core::{config::FIELDS, error::Error};
use seen::Seen;
use serde_json::{Map, json};
use std::sync::Arc;
use values::{cursor, number, parameter, unknown, value};

/// The most samples of an answer, the newest ones, and about the most bytes of them.
const SAMPLES: (usize, usize) = (200, 1 << 20);

/// `GET /api/runs`
pub(super) fn runs(service: &Service, asked: &Asked) -> Result<Answer, Failure> {
    let seen = service.runs.look(&service.models);
    Ok(Answer::json(&seen.answer(parameter(asked, "since"))))
}

/// `GET /api/runs/{id}/events`
pub(super) fn events(service: &Service, asked: &Asked) -> Result<Answer, Failure> {
    let wanted = events::Wanted::of(asked)?;
    let answer = with_tail(service, asked, |tail, run| Ok(events::answer(tail, &wanted, run.tokens_per_step())))?;
    Ok(Answer::json(&answer))
}

/// `GET /api/runs/{id}/config`
pub(super) fn config(service: &Service, asked: &Asked) -> Result<Answer, Failure> {
    let seen = entry(service, &asked.id)?;
    let run = &seen.runs[&asked.id];
    let config = run.readable_config().map_err(|error| unreadable(&asked.id, error))?;
    let all: Map<_, _> = FIELDS.iter().map(|field| (field.key.to_owned(), value(config, field.key))).collect();
    Ok(Answer::json(&json!({"config": all, "warnings": run.warnings()})))
}

/// `GET /api/runs/{id}/samples`
pub(super) fn samples(service: &Service, asked: &Asked) -> Result<Answer, Failure> {
    let text = parameter(asked, "since");
    // A cursor or a step.
    let since = match text.filter(|text| text.contains(':')) {
        Some(text) => Since::Cursor(cursor(Some(text))),
        None => number(asked, "since")?.map_or(Since::Cursor(None), Since::Step),
    };
    let most = Most::new(SAMPLES.0, SAMPLES.1);
    let found = with_tail(service, asked, |tail, run| Ok((tail.samples(&run.run, since, most)?, tail.cursor())));
    let (Samples { all, left_out, whole, .. }, cursor) = found?;
    let all: Vec<_> = all.iter().map(|(step, text)| json!({"step": step, "text": text})).collect();
    Ok(Answer::json(&json!({"cursor": cursor.to_string(), "whole": whole, "samples": all, "left_out": left_out})))
}

/// `GET /api/tune/{id}`
pub(super) fn tuning(service: &Service, asked: &Asked) -> Result<Answer, Failure> {
    let seen = service.runs.look(&service.models);
    let Seen { runs, tunings, .. } = &*seen;
    let what = || Failure::of(404, "tuning_not_found", format!("the tuning {:?} does not exist", asked.id));
    let search = tunings.get(&asked.id).ok_or_else(what)?;
    Ok(Answer::json(&search.details(&asked.id, runs)))
}

/// What was seen, with this run in it; a run that is not known is looked for.
fn entry(service: &Service, id: &str) -> Result<Arc<Seen>, Failure> {
    let mut seen = service.runs.last();
    if !seen.runs.contains_key(id) {
        seen = service.runs.look(&service.models);
    }
    if seen.runs.contains_key(id) { Ok(seen) } else { Err(unknown(id)) }
}

/// Does something with the metrics of a run, as far as they have come.
fn with_tail<T>(
    service: &Service,
    asked: &Asked,
    what: impl FnOnce(&Tail, &Entry) -> Result<T, Error>,
) -> Result<T, Failure> {
    let seen = entry(service, &asked.id)?;
    let run = &seen.runs[&asked.id];
    let tail = service.runs.tails.of(&asked.id, &run.run);
    let busy = || Failure::of(503, "run_unusable", format!("the run {:?} is still being read", asked.id));
    let mut read = tails::read(&tail).ok_or_else(busy)?;
    let done = read.update(&run.run).and_then(|()| what(&read, run));
    drop(read);
    service.runs.tails.forget(&asked.id);
    done.map_err(|error| unreadable(&asked.id, &error))
}

fn unreadable(id: &str, error: &Error) -> Failure {
    match error {
        // It was removed a moment ago.
        Error::NotFound { .. } => unknown(id),
        error => Failure::of(503, "run_unusable", format!("the run {id:?} cannot be used: {}", error.one_line())),
    }
}
