//! One run, as it was last seen.

use super::values::{finite, unix_s, value};
use crate::{
    run::{Condition, Facts, Latest, Lock, last_trained},
    serve::models::{About, about},
};
use kinglet_core::{config::Config, error::Error, params::Layout};
use serde_json::{Map, Value, json};
use std::{path::PathBuf, sync::Arc, time::SystemTime};

/// The longest text of a setting that is told in the list of runs, in characters.
const LONGEST: usize = 80;

/// One run.
#[derive(Clone)]
pub(super) struct Entry {
    /// Its folder.
    pub(super) run: PathBuf,
    /// The version since which it is as it is.
    pub(super) version: u64,
    /// When it was last trained.
    pub(super) changed: SystemTime,
    /// Its configuration and its checkpoints, as they were looked at.
    stamp: Option<[About; 2]>,
    facts: Arc<Facts>,
    latest: Latest,
    lock: About,
    is_held: bool,
    condition: Condition,
    params: Option<usize>,
    started: Option<u64>,
}

impl Entry {
    /// A run that was not looked at.
    pub(super) fn new(run: PathBuf) -> Entry {
        // Where the system does not know when a folder was made, nobody does.
        let started = std::fs::metadata(&run).and_then(|about| about.created()).ok().map(unix_s);
        Entry {
            version: 0,
            changed: SystemTime::UNIX_EPOCH,
            stamp: None,
            facts: Arc::default(),
            latest: Latest::new(),
            lock: None,
            is_held: false,
            condition: Condition::NotBegun,
            params: None,
            started,
            run,
        }
    }

    /// Looks at it; whether its configuration is another one.
    pub(super) fn look(&mut self, version: u64) -> bool {
        let first = self.stamp.is_none();
        let stamp = [about(&self.run.join("config.toml")), about(&self.run.join("checkpoints"))];
        let is_new = self.stamp != Some(stamp);
        let config_changed = self.stamp.map(|stamp| stamp[0]) != Some(stamp[0]);
        if is_new {
            self.facts = Arc::new(Facts::of(&self.run));
            self.stamp = Some(stamp);
        }
        if config_changed {
            let layout = self.config().and_then(|config| Layout::new(config).ok());
            self.params = layout.map(|layout| layout.len());
        }
        // What cannot be read now may be later; until then, what was known stays.
        let has_grown = self.latest.update(&self.run).unwrap_or(false);
        let lock = about(&self.run.join(Lock::FILE));
        let was_held = self.is_held;
        // Whoever takes the lock writes into it. Whoever loses it does not.
        if self.is_held || has_grown || self.lock != lock || first {
            (self.is_held, self.lock) = (Lock::is_held(&self.run), lock);
        }
        if first || is_new || has_grown || was_held != self.is_held {
            self.condition = self.facts.condition(self.is_held, &self.latest);
            self.changed = last_trained(&self.run);
            self.version = version;
        }
        config_changed
    }

    /// What it is configured to do, if that can be read.
    pub(super) fn config(&self) -> Option<&Config> {
        self.facts.config.as_ref().ok()
    }

    /// The same, or why it cannot be read.
    pub(super) fn readable_config(&self) -> Result<&Config, &Error> {
        self.facts.config.as_ref()
    }

    /// What is damaged.
    pub(super) fn warnings(&self) -> &[String] {
        &self.facts.warnings
    }

    /// Tokens that an update trains on.
    pub(super) fn tokens_per_step(&self) -> Option<f64> {
        let told = self.latest.estimate.filter(|at| at.step > 0).and_then(|at| Some(at.tokens? / at.step as f64));
        told.or_else(|| Some(self.config()?.tokens_per_step()))
    }

    /// The last step that is known of.
    pub(super) fn step(&self) -> u64 {
        let Latest { step, estimate, done, .. } = &self.latest;
        let saved = self.facts.state.as_ref().map(|state| state.step);
        let steps = [step.map(|at| at.step), estimate.map(|at| at.step), done.map(|at| at.step)];
        let recorded = steps.into_iter().flatten().max();
        recorded.max(saved).unwrap_or(0)
    }

    /// What became of it.
    pub(super) fn condition(&self) -> Condition {
        self.condition
    }

    /// What its state is called.
    pub(super) fn state(&self) -> &'static str {
        match self.condition {
            Condition::Training => "running",
            Condition::Done => "done",
            _ => "stopped",
        }
    }

    /// The exact loss at its end.
    pub(super) fn loss_at_end(&self) -> Option<f64> {
        self.latest.done.and_then(|done| done.val_loss_exact)
    }

    /// The exact loss at its end, or else its last estimate.
    pub(super) fn loss(&self) -> Option<f64> {
        self.loss_at_end().or(self.latest.estimate.map(|at| at.val_loss)).filter(|loss| loss.is_finite())
    }

    /// Seconds to the end of a run that is being trained.
    fn left_s(&self) -> Option<f64> {
        let config = self.config().filter(|_| self.condition == Condition::Training)?;
        let step = self.step();
        let left = config.max_iters.saturating_sub(step) as f64;
        // With estimates and checkpoints, if that is known.
        let saved = self.facts.state.as_ref().filter(|state| state.step > 0 && state.wall_s > 0.0);
        let speed = || Some(self.tokens_per_step()? / self.latest.step?.tokens_per_s?);
        saved.map(|state| state.wall_s / state.step as f64).or_else(speed).map(|step_s| left * step_s)
    }

    /// As the list of runs has it.
    pub(super) fn json(&self, id: &str, keys: &[&'static str], now: SystemTime) -> Value {
        let Entry { facts, latest, .. } = self;
        let config = self.config();
        let estimate = latest.estimate;
        let best = facts.state.as_ref().and_then(|state| state.best);
        let best = best.or(latest.done.and_then(|done| Some((done.best_val_loss?, done.best_step?))));
        let number = |x: Option<f64>| x.map_or(Value::Null, finite);
        let step = self.step();
        let differs: Map<_, _> = config
            .iter()
            .flat_map(|config| keys.iter().map(|key| ((*key).to_owned(), short(value(config, key)))))
            .collect();
        json!({
            "id": id,
            "state": self.state(),
            "step": step,
            "max_iters": config.map(|config| config.max_iters),
            "train_loss": number(estimate.map(|at| at.train_loss)),
            "val_loss": number(estimate.map(|at| at.val_loss)),
            "val_loss_exact": number(latest.done.and_then(|done| done.val_loss_exact)),
            "best_val_loss": number(best.map(|best| best.0)),
            "best_step": best.map(|best| best.1),
            "tokens_per_s": number(latest.step.and_then(|at| at.tokens_per_s)),
            "left_s": number(self.left_s()),
            "train_s": number(estimate.and_then(|at| at.train_s)),
            "tokens": number(self.tokens_per_step().map(|each| each * step as f64)),
            "params": self.params,
            "quantization": config.map(|config| config.quantization.name()),
            "started": self.started,
            "changed": unix_s(self.changed),
            "silent_s": now.duration_since(self.changed).map_or(0, |since| since.as_secs()),
            "has_checkpoint": facts.has_checkpoint,
            "data": config.and_then(data),
            "differs": differs,
        })
    }
}

/// What a run was trained on, as it was named.
fn data(config: &Config) -> Option<String> {
    let names = config.data.join(", ");
    Some(cut(&names)).filter(|names| !names.is_empty())
}

/// A value that fits into a table.
fn short(value: Value) -> Value {
    match value {
        Value::String(text) => cut(&text).into(),
        value if value.is_array() || value.is_object() => cut(&value.to_string()).into(),
        value => value,
    }
}

/// The beginning of a long text.
fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
