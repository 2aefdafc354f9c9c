//! All runs and tunings, as they were last seen.

use super::{entry::Entry, tunings::Search, values::unknown};
use crate::{
    run::Tail,
    serve::{
        answer::Failure,
        models::{Models, Places},
    },
};
use kinglet_core::config::FIELDS;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// How long what was seen of the runs is believed, so that many pages cost no more than one.
const BELIEVED: Duration = Duration::from_millis(400);

/// So many runs that are gone are remembered. Whoever looks again after more of them gets everything.
const GONE: usize = 1000;

/// Bytes of metrics that are kept in memory, of all runs together.
const TAILS: usize = 64 << 20;

/// The runs and tunings, as they were last seen.
#[derive(Default)]
pub(in crate::serve) struct Runs(Mutex<Seen>);

#[derive(Default)]
pub(super) struct Seen {
    at: Option<Instant>,
    /// Begins each cursor: another server's are of no use.
    began: u64,
    /// Counts what has changed.
    version: u64,
    pub(super) runs: BTreeMap<String, Entry>,
    pub(super) tunings: BTreeMap<String, Search>,
    /// The keys in which the runs differ, and the version that this is so since.
    keys: (Vec<&'static str>, u64),
    /// What is gone, and the version since which it is.
    gone: VecDeque<(u64, String)>,
    /// What is gone has been forgotten up to this version.
    forgotten: u64,
    /// Counts uses, so that what was used least recently is forgotten first.
    uses: u64,
}

impl Runs {
    /// To look at, one after another.
    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        // Each look makes it whole again.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// Looks at everything, unless that was done a moment ago.
    pub(super) fn look(&mut self, models: &Models) {
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
    pub(super) fn answer(&self, since: Option<&str>) -> Value {
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
    pub(super) fn place(&mut self, models: &Models, id: &str) -> Result<Place, Failure> {
        if !self.runs.contains_key(id) {
            self.look(models);
        }
        self.uses += 1;
        let entry = self.runs.get_mut(id).ok_or_else(|| unknown(id))?;
        entry.used = self.uses;
        Ok(Place { run: entry.run.clone(), tail: entry.tail.clone(), tokens_per_step: entry.tokens_per_step() })
    }

    /// Forgets the metrics of runs that nobody asks for, if they are too many; not those of this run.
    pub(super) fn forget_tails(&mut self, id: &str) {
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
pub(super) struct Place {
    pub(super) run: PathBuf,
    pub(super) tail: Arc<Mutex<Tail>>,
    pub(super) tokens_per_step: Option<f64>,
}
