//! The runs and tunings that are served, as they go on. Nothing is written into a run, and no lock is kept: what was read of a
//! run's metrics is not read again, and what has not changed is not sent again.

mod entry;
mod events;
mod tunings;

use super::{
    answer::{Answer, Asked, Failure},
    models::{Models, Places},
    service::Service,
};
use crate::run::{Cursor, read_config};
use entry::Entry;
use kinglet_core::{
    config::{Config, FIELDS},
    error::Error,
};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tunings::Search;

/// How long what was seen of the runs is believed, so that many pages cost no more than one.
const BELIEVED: Duration = Duration::from_millis(400);

/// So many runs that are gone are remembered. Whoever looks again after more of them gets everything.
const GONE: usize = 1000;

/// Bytes of metrics that are kept in memory, of all runs together.
const TAILS: usize = 64 << 20;

/// The most samples of an answer: the newest ones.
const SAMPLES: usize = 200;

/// The longest text of a setting that is told in the list of runs, in characters.
const LONGEST: usize = 80;

/// The runs and tunings, as they were last seen.
#[derive(Default)]
pub(super) struct Runs(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    at: Option<Instant>,
    /// Begins each cursor: another server's are of no use.
    began: u64,
    /// Counts what has changed.
    version: u64,
    runs: BTreeMap<String, Entry>,
    tunings: BTreeMap<String, Search>,
    /// The keys in which the runs differ, and the version that this is so since.
    keys: (Vec<&'static str>, u64),
    /// What is gone, and the version since which it is.
    gone: VecDeque<(u64, String)>,
    /// What is gone has been forgotten up to this version.
    forgotten: u64,
    /// Counts uses, so that what was used least recently is forgotten first.
    uses: u64,
}

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

/// The value of a parameter of the query.
fn parameter<'a>(asked: &'a Asked, key: &str) -> Option<&'a str> {
    asked.query.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

/// The same as a number.
fn number(asked: &Asked, key: &str) -> Result<Option<u64>, Failure> {
    let wrong = |text: &str| {
        let what = format!("{key} must be a whole number that is not negative, not {text:?}");
        Failure::bad(Some(key), Some("invalid_value"), what)
    };
    let text = parameter(asked, key).filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(|_| wrong(text))).transpose()
}

fn unreadable(id: &str, error: &Error) -> Failure {
    match error {
        // It was removed a moment ago.
        Error::NotFound { .. } => unknown(id),
        error => Failure::of(503, "run_unusable", format!("the run {id:?} cannot be used: {}", error.one_line())),
    }
}

fn unknown(id: &str) -> Failure {
    Failure::of(404, "run_not_found", format!("the run {id:?} does not exist"))
}

/// A value of a configuration.
fn value(config: &Config, key: &str) -> Value {
    serde_json::to_value(config.value(key)).expect("plain values")
}

/// A number, unless it is none.
fn finite(x: f64) -> Value {
    if x.is_finite() { json!(x) } else { Value::Null }
}

fn unix_s(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Runs {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Each look makes it whole again.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// Looks at everything, unless that was done a moment ago.
    fn look(&mut self, models: &Models) {
        if self.at.is_some_and(|at| at.elapsed() < BELIEVED) {
            return;
        }
        if self.began == 0 {
            self.began = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_micros() as u64);
        }
        let places = models.places();
        self.version += 1;
        self.remove(&places);
        let mut configs_changed = false;
        for (id, run) in &places.runs {
            let entry = self.runs.entry(id.clone()).or_insert_with(|| Entry::new(run.clone()));
            configs_changed |= entry.look(self.version);
        }
        if configs_changed {
            self.compare();
        }
        for (id, folder) in &places.tunings {
            let search = self.tunings.entry(id.clone()).or_insert_with(|| Search::new(folder.clone()));
            search.look(&self.runs, self.version);
        }
        self.at = Some(Instant::now());
    }

    /// Forgets what is gone, and what is another folder now.
    fn remove(&mut self, places: &Places) {
        let Seen { runs, tunings, gone, version, .. } = self;
        let mut note = |id: &String| gone.push_back((*version, id.clone()));
        let before = runs.len();
        runs.retain(|id, entry| {
            let is_there = places.runs.get(id) == Some(&entry.run);
            if !is_there && !places.runs.contains_key(id) {
                note(id);
            }
            is_there
        });
        let is_fewer = runs.len() < before;
        tunings.retain(|id, search| {
            let is_there = places.tunings.get(id) == Some(&search.folder);
            if !is_there && !places.tunings.contains_key(id) {
                note(id);
            }
            is_there
        });
        while self.gone.len() > GONE {
            self.forgotten = self.gone.pop_front().map_or(0, |gone| gone.0);
        }
        if is_fewer {
            self.compare();
        }
    }

    /// Finds the keys in which the runs differ.
    fn compare(&mut self) {
        let configs: Vec<_> = self.runs.values().filter_map(Entry::config).collect();
        let told = FIELDS.iter().filter(|field| !field.is_settled_by_run() && field.key != "data");
        let differs = |key: &str| {
            let first = configs.first().map(|config| config.value(key));
            configs.iter().skip(1).any(|config| Some(config.value(key)) != first)
        };
        let keys: Vec<_> = told.map(|field| field.key).filter(|key| differs(key)).collect();
        if keys != self.keys.0 {
            self.keys = (keys, self.version);
        }
    }

    /// What has changed since then; everything, if that is not known.
    fn answer(&self, since: Option<&str>) -> Value {
        let version = since.and_then(|since| {
            let (began, version) = since.split_once('.')?;
            (u64::from_str_radix(began, 16).ok()? == self.began).then_some(())?;
            let version = version.parse::<u64>().ok()?;
            (version <= self.version && version >= self.forgotten).then_some(version)
        });
        let since = version.unwrap_or(0);
        let now = SystemTime::now();
        let new_keys = version.is_none() || self.keys.1 > since;
        let mut changed: Vec<_> = self.runs.iter().filter(|(_, entry)| new_keys || entry.version > since).collect();
        changed.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.changed));
        let runs: Vec<_> = changed.into_iter().map(|(id, entry)| entry.json(id, &self.keys.0, now)).collect();
        let mut changed: Vec<_> = self.tunings.iter().filter(|(_, search)| search.version > since).collect();
        changed.sort_by_key(|(_, search)| std::cmp::Reverse(search.changed));
        let tunings: Vec<_> = changed.into_iter().map(|(id, search)| search.json(id)).collect();
        let there = |id: &String| self.runs.contains_key(id) || self.tunings.contains_key(id);
        let gone = self.gone.iter().filter(|(at, id)| version.is_some() && *at > since && !there(id));
        let gone: Vec<_> = gone.map(|(_, id)| id).collect();
        let cursor = format!("{:x}.{}", self.began, self.last_change());
        let mut answer = json!({"cursor": cursor, "whole": version.is_none()});
        if new_keys {
            answer["keys"] = json!(self.keys.0);
        }
        (answer["gone"], answer["runs"], answer["tunings"]) = (json!(gone), json!(runs), json!(tunings));
        answer
    }

    /// The version since which nothing has changed. The cursor of an idle server stays the same.
    fn last_change(&self) -> u64 {
        let runs = self.runs.values().map(|entry| entry.version);
        let tunings = self.tunings.values().map(|search| search.version);
        let gone = self.gone.back().map_or(0, |gone| gone.0);
        runs.chain(tunings).max().unwrap_or(0).max(gone).max(self.keys.1).max(self.forgotten)
    }

    /// What is needed to read a run.
    fn place(&mut self, models: &Models, id: &str) -> Result<Place, Failure> {
        if !self.runs.contains_key(id) {
            self.look(models);
        }
        self.uses += 1;
        let entry = self.runs.get_mut(id).ok_or_else(|| unknown(id))?;
        entry.used = self.uses;
        Ok(Place { run: entry.run.clone(), tail: entry.tail.clone(), tokens_per_step: entry.tokens_per_step() })
    }

    /// Forgets the metrics of runs that nobody asks for, if they are too many; not those of this run.
    fn forget_tails(&mut self, id: &str) {
        let mut held: Vec<_> =
            self.runs.iter().filter_map(|(id, entry)| Some((entry.used, id, entry.held()?))).collect();
        let mut bytes: usize = held.iter().map(|held| held.2).sum();
        held.sort();
        let mut forgotten = Vec::new();
        for (_, other, size) in held {
            if bytes <= TAILS || other == id {
                continue;
            }
            bytes -= size;
            forgotten.push(other.clone());
        }
        for id in forgotten {
            self.runs.entry(id).and_modify(|entry| entry.tail = Arc::default());
        }
    }
}

/// A run to be read.
struct Place {
    run: std::path::PathBuf,
    tail: Arc<Mutex<crate::run::Tail>>,
    tokens_per_step: Option<f64>,
}

/// Reads a cursor; one that is not ours is none.
fn cursor(text: Option<&str>) -> Option<Cursor> {
    text.and_then(|text| text.parse().ok())
}
