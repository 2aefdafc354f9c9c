//! One tuning, as it was last seen. What its trials have come to is known of them as runs.

use super::{
    entry::Entry,
    values::{unix_s, value},
};
use crate::{
    run::{Condition, Lock},
    serve::models::{About, about},
    tune::{Plan, best_trial, trial_of},
};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

/// One tuning.
#[derive(Clone)]
pub(super) struct Search {
    /// Its folder.
    pub(super) folder: PathBuf,
    /// The version since which it is as it is.
    pub(super) version: u64,
    /// When it was last changed.
    pub(super) changed: SystemTime,
    stamp: About,
    plan: Option<Plan>,
    lock: About,
    is_held: bool,
    is_done: bool,
    /// As the list has it, without its name.
    summary: Value,
}

/// One trial on one rung.
#[derive(Clone, Copy)]
struct Trial<'a> {
    trial: usize,
    rung: usize,
    id: &'a str,
    entry: &'a Entry,
}

impl Search {
    /// A tuning that was not looked at.
    pub(super) fn new(folder: PathBuf) -> Search {
        let (version, changed, summary) = (0, UNIX_EPOCH, Value::Null);
        Search {
            folder,
            version,
            changed,
            stamp: None,
            plan: None,
            lock: None,
            is_held: false,
            is_done: false,
            summary,
        }
    }

    /// Looks at it, after its trials were looked at.
    pub(super) fn look(&mut self, runs: &BTreeMap<String, Entry>, version: u64) {
        let stamp = about(&Plan::file(&self.folder));
        let first = self.version == 0;
        if first || self.stamp != stamp {
            // A plan that cannot be read is none; its trials are still known.
            self.plan = Plan::of(&self.folder).ok();
        }
        let lock = about(&self.folder.join(Lock::FILE));
        if first || self.is_held || self.stamp != stamp || self.lock != lock {
            (self.is_held, self.lock, self.stamp) = (Lock::is_held(&self.folder), lock, stamp);
        }
        if !self.is_done || self.is_held {
            self.is_done = !self.is_held && Plan::is_done(&self.folder);
        }
        let all = self.all_trials(runs);
        let trials = furthest(&all);
        let changed = trials.iter().map(|trial| trial.entry.changed).max();
        let changed = changed.max(stamp.map(|stamp| stamp.0)).unwrap_or(UNIX_EPOCH);
        let summary = self.summarized(&all, &trials);
        if first || summary != self.summary {
            (self.summary, self.version) = (summary, version);
        }
        self.changed = changed;
    }

    fn state(&self) -> &'static str {
        match (self.is_held, self.is_done) {
            (true, _) => "running",
            (_, true) => "done",
            _ => "stopped",
        }
    }

    /// Its trials, on all rungs.
    fn all_trials<'a>(&self, runs: &'a BTreeMap<String, Entry>) -> Vec<Trial<'a>> {
        let trial = |(id, entry): (&'a String, &'a Entry)| {
            let place = trial_of(&self.folder, &entry.run)?;
            // Those with other seeds say nothing about which settings are best.
            Some(Trial { trial: place.trial, rung: place.rung?, id, entry })
        };
        runs.iter().filter_map(trial).collect()
    }

    fn settings(&self, trial: &Trial) -> Value {
        let keys = self.plan.iter().flat_map(|plan| &plan.keys);
        let config = trial.entry.config();
        let value = |key: &str| config.map_or(Value::Null, |config| value(config, key));
        keys.map(|key| ((*key).to_owned(), value(key))).collect::<Map<_, _>>().into()
    }

    fn summarized(&self, all: &[Trial], trials: &[Trial]) -> Value {
        let planned = self.plan.as_ref().and_then(|plan| plan.rungs.first()).map(|rung| rung.trials);
        let finished = trials.iter().filter(|trial| !matches!(self.state_of(trial, trials), "running" | "stopped"));
        let best = best(all)
            .map(|best| json!({"trial": best.trial, "val_loss": best.entry.loss(), "settings": self.settings(best)}));
        json!({
            "state": self.state(),
            "trials": planned.unwrap_or(trials.len()).max(trials.len()),
            "finished": finished.count(),
            "best": best,
        })
    }

    /// As the list of tunings has it.
    pub(super) fn json(&self, id: &str) -> Value {
        let mut value = json!({"id": id});
        if let (Value::Object(value), Value::Object(summary)) = (&mut value, &self.summary) {
            value.extend(summary.clone());
        }
        value["changed"] = json!(unix_s(self.changed));
        value
    }

    /// What became of a trial.
    fn state_of(&self, trial: &Trial, all: &[Trial]) -> &'static str {
        let furthest = all.iter().map(|trial| trial.rung).max().unwrap_or(0);
        match trial.entry.condition() {
            Condition::Done if trial.rung < furthest => "stopped early",
            Condition::Done => "finished",
            Condition::Diverged | Condition::Damaged => "failed",
            Condition::Training => "running",
            _ if self.is_held => "running",
            _ => "stopped",
        }
    }

    /// All of it.
    pub(super) fn details(&self, id: &str, runs: &BTreeMap<String, Entry>) -> Value {
        let all = self.all_trials(runs);
        let trials = furthest(&all);
        let told = trials.iter().map(|trial| {
            json!({
                "trial": trial.trial,
                "rung": trial.rung,
                "settings": self.settings(trial),
                "val_loss": trial.entry.loss(),
                "step": trial.entry.step(),
                "state": self.state_of(trial, &trials),
                "run": trial.id,
            })
        });
        json!({
            "id": id,
            "state": self.state(),
            "keys": self.plan.as_ref().map_or(&[][..], |plan| &plan.keys),
            "trials": told.collect::<Vec<_>>(),
            "best": best(&all).map(|best| best.trial),
        })
    }
}

/// Of each trial the furthest, by number.
fn furthest<'a>(all: &[Trial<'a>]) -> Vec<Trial<'a>> {
    let mut furthest: BTreeMap<usize, Trial> = BTreeMap::new();
    for trial in all {
        if furthest.get(&trial.trial).is_none_or(|other| other.rung < trial.rung) {
            furthest.insert(trial.trial, *trial);
        }
    }
    furthest.into_values().collect()
}

/// The best trial, as the tuning itself finds it.
fn best<'a, 'b>(all: &'b [Trial<'a>]) -> Option<&'b Trial<'a>> {
    let ended = all.iter().filter(|trial| trial.entry.condition() == Condition::Done);
    best_trial(ended, |trial| (trial.rung, trial.trial, trial.entry.loss_at_end().unwrap_or(f64::INFINITY)))
}
