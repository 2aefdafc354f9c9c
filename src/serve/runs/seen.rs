//! All runs and tunings, as they were last seen.

use super::{entry::Entry, tails::Tails, tunings::Search};
use crate::serve::models::{Models, Places};
use kinglet_core::config::FIELDS;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// How long what was seen of the runs is believed, so that many pages cost no more than one.
const BELIEVED: Duration = Duration::from_millis(400);

/// So many runs that are gone are remembered. Whoever looks again after more of them gets everything.
const GONE: usize = 1000;

/// The runs and tunings, as they were last seen.
#[derive(Default)]
pub(in crate::serve) struct Runs {
    /// Whoever has it looks at the files. Nothing else is locked meanwhile: a disk that does not answer keeps one waiting.
    search: Mutex<()>,
    seen: Mutex<Arc<Seen>>,
    /// Their metrics, of those that are asked for.
    pub(super) tails: Tails,
}

#[derive(Clone, Default)]
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
}

impl Runs {
    /// What was seen last, whenever that was.
    pub(super) fn last(&self) -> Arc<Seen> {
        locked(&self.seen).clone()
    }

    /// Looks at everything, unless that was done a moment ago. While one looks, the others get what was there.
    pub(super) fn look(&self, models: &Models) -> Arc<Seen> {
        let last = self.last();
        if last.is_fresh() {
            return last;
        }
        let _search = match self.search.try_lock() {
            Ok(search) => search,
            Err(TryLockError::Poisoned(search)) => search.into_inner(),
            Err(TryLockError::WouldBlock) if last.at.is_some() => return last,
            Err(TryLockError::WouldBlock) => locked(&self.search),
        };
        let last = self.last();
        if last.is_fresh() {
            // Somebody else has just looked.
            return last;
        }
        let mut seen = Seen::clone(&last);
        seen.look(models);
        let seen = Arc::new(seen);
        *locked(&self.seen) = seen.clone();
        self.tails.keep(|id, run| seen.runs.get(id).is_some_and(|entry| entry.run == run));
        seen
    }
}

impl Seen {
    /// Whether it was seen a moment ago.
    fn is_fresh(&self) -> bool {
        self.at.is_some_and(|at| at.elapsed() < BELIEVED)
    }

    /// Looks at everything.
    fn look(&mut self, models: &Models) {
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
}

/// What is whole at all times, whoever panicked meanwhile.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
