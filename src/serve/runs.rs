//! The runs and tunings that are served, as they go on. Nothing is written into a run, and no lock is kept: what was read of a
//! run's metrics is not read again, and what has not changed is not sent again.

mod entry;
mod events;
pub(super) mod seen;
mod tunings;
mod values;

use super::{
    answer::{Answer, Asked, Failure},
    service::Service,
};
use crate::run::read_config;
use kinglet_core::{config::FIELDS, error::Error};
use seen::Seen;
use serde_json::{Map, json};
use std::sync::PoisonError;
use values::{number, parameter, unknown, value};

/// The most samples of an answer: the newest ones.
const SAMPLES: usize = 200;

/// `GET /api/runs`
pub(super) fn runs(service: &Service, asked: &Asked) -> Result<Answer, Failure> {
    let mut seen = service.runs.seen();
    seen.look(&service.models);
    Ok(Answer::json(&seen.answer(parameter(asked, "since"))))
}

/// `GET /api/runs/{id}/events`
pub(super) fn events(service: &Service, asked: &Asked) -> Result<Answer, Failure> {
    let wanted = events::Wanted::of(asked)?;
    let place = service.runs.seen().place(&service.models, &asked.id)?;
    let mut tail = place.tail.lock().unwrap_or_else(PoisonError::into_inner);
    let updated = tail.update(&place.run);
    updated.map_err(|error| unreadable(&asked.id, &error))?;
    let answer = events::answer(&tail, &wanted, place.tokens_per_step);
    drop(tail);
    service.runs.seen().forget_tails(&asked.id);
    Ok(Answer::json(&answer))
}

/// `GET /api/runs/{id}/config`
pub(super) fn config(service: &Service, asked: &Asked) -> Result<Answer, Failure> {
    let place = service.runs.seen().place(&service.models, &asked.id)?;
    let config = read_config(&place.run.join("config.toml")).map_err(|error| unreadable(&asked.id, &error))?;
    let all: Map<_, _> = FIELDS.iter().map(|field| (field.key.to_owned(), value(&config, field.key))).collect();
    Ok(Answer::json(&json!({"config": all})))
}

/// `GET /api/runs/{id}/samples`
pub(super) fn samples(service: &Service, asked: &Asked) -> Result<Answer, Failure> {
    let after = number(asked, "since")?;
    let place = service.runs.seen().place(&service.models, &asked.id)?;
    let mut tail = place.tail.lock().unwrap_or_else(PoisonError::into_inner);
    let found = tail.update(&place.run).and_then(|()| tail.samples(&place.run, after, SAMPLES));
    drop(tail);
    service.runs.seen().forget_tails(&asked.id);
    let (samples, left_out) = found.map_err(|error| unreadable(&asked.id, &error))?;
    let samples: Vec<_> = samples.iter().map(|(step, text)| json!({"step": step, "text": text})).collect();
    Ok(Answer::json(&json!({"samples": samples, "left_out": left_out})))
}

/// `GET /api/tune/{id}`
pub(super) fn tuning(service: &Service, asked: &Asked) -> Result<Answer, Failure> {
    let mut seen = service.runs.seen();
    seen.look(&service.models);
    let Seen { runs, tunings, .. } = &*seen;
    let what = || Failure::of(404, "tuning_not_found", format!("the tuning {:?} does not exist", asked.id));
    let search = tunings.get(&asked.id).ok_or_else(what)?;
    Ok(Answer::json(&search.details(&asked.id, runs)))
}

fn unreadable(id: &str, error: &Error) -> Failure {
    match error {
        // It was removed a moment ago.
        Error::NotFound { .. } => unknown(id),
        error => Failure::of(503, "run_unusable", format!("the run {id:?} cannot be used: {}", error.one_line())),
    }
}
