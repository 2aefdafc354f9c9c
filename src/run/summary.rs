//! Where a run stands, from little of it: its configuration, the newest checkpoint's state, and the end of its metrics.

use super::{
    checkpoint::{CONFIG, OPTIMIZER, State, Stored},
    dir::{RunDir, config_of_run, sealed_config},
    files::{METRICS, checkpoints},
    history::Latest,
    metrics::{MetricLine, MetricLines, Record},
    tags::tags,
};
use crate::system::disk::{Lock, open_regular};
use kinglet_core::{config::Config, error::Result, params::Layout};
use serde::Serialize;
use std::{
    fs,
    io::BufReader,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Condition {
    /// All of its steps are made, and its exact loss is measured.
    Done,
    /// A process is training it.
    Training,
    /// It was stopped, and can go on.
    Stopped,
    /// It was stopped because it diverged.
    Diverged,
    /// It has no checkpoint yet.
    NotBegun,
    /// Nothing of it can be read.
    Damaged,
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Condition::Done => "done",
            Condition::Training => "training",
            Condition::Stopped => "stopped",
            Condition::Diverged => "diverged",
            Condition::NotBegun => "not begun",
            Condition::Damaged => "damaged",
        })
    }
}

/// Where a run stands.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// What became of it.
    pub state: Condition,
    /// Updates done, as of the newest checkpoint.
    pub step: Option<u64>,
    /// Total updates.
    pub max_iters: Option<u64>,
    /// The last estimate.
    pub train_loss: Option<f64>,
    /// The last estimate.
    pub val_loss: Option<f64>,
    /// Exact loss over the validation split, of a run that is done.
    pub val_loss_exact: Option<f64>,
    /// Its standard error.
    pub val_loss_stderr: Option<f64>,
    /// The lowest estimate.
    pub best_val_loss: Option<f64>,
    /// Its step.
    pub best_step: Option<u64>,
    /// Parameters.
    pub params: Option<usize>,
    /// What its weights are rounded to: none, w8 or w4.
    pub quantization: Option<&'static str>,
    /// Size of its files.
    pub size_bytes: u64,
    /// The user's tags.
    pub tags: Vec<String>,
    /// What is damaged.
    pub warnings: Vec<String>,
    /// When it was last written to.
    #[serde(skip)]
    pub changed: SystemTime,
}

/// What is known of a run without its metrics.
#[derive(Debug)]
pub(crate) struct Facts {
    /// What it is configured to do.
    pub(crate) config: Result<Config>,
    /// Where its newest checkpoint stands.
    pub(crate) state: Option<State>,
    /// Whether there is a checkpoint.
    pub(crate) has_checkpoint: bool,
    /// Whether the newest one has what training goes on with.
    has_moments: bool,
    /// The newest one.
    newest: Option<PathBuf>,
    /// What is damaged.
    pub(crate) warnings: Vec<String>,
}

/// Nothing is known.
impl Default for Facts {
    fn default() -> Facts {
        let (config, warnings) = (Ok(Config::default()), Vec::new());
        Facts { config, state: None, has_checkpoint: false, has_moments: true, newest: None, warnings }
    }
}

impl Facts {
    /// Looks at the run in a folder. Weights are not verified.
    pub(crate) fn of(run: &Path) -> Facts {
        let mut warnings = Vec::new();
        let config = config(run, &mut warnings);
        let found = checkpoints(run).unwrap_or_default();
        let state = state(&found, &mut warnings);
        if let Err(error) = &config {
            warnings.push(error.one_line());
        }
        let has_moments = found.last().is_none_or(|(_, folder)| folder.join(OPTIMIZER).exists());
        let (has_checkpoint, newest) = (!found.is_empty(), found.into_iter().next_back().map(|(_, folder)| folder));
        Facts { config, state, has_checkpoint, has_moments, newest, warnings }
    }

    /// What became of the run, if its metrics end so; `is_held` says whether a process has its lock.
    pub(crate) fn condition(&self, is_held: bool, latest: &Latest) -> Condition {
        let over = |config: &Config| self.state.as_ref().is_some_and(|state| state.step >= config.max_iters);
        match &self.config {
            _ if is_held => Condition::Training,
            Err(_) => Condition::Damaged,
            _ if self.has_checkpoint && self.state.is_none() => Condition::Damaged,
            _ if latest.done.is_some() => Condition::Done,
            // A merged run and an import have no metrics, and an import no optimizer's state to go on with.
            Ok(config) if latest.nothing && (over(config) || !self.has_moments) => Condition::Done,
            _ if latest.diverged => Condition::Diverged,
            _ if !self.has_checkpoint => Condition::NotBegun,
            _ => Condition::Stopped,
        }
    }
}

impl Summary {
    /// Looks at the run in a folder. Weights are not verified.
    pub fn of(run: &Path) -> Summary {
        let (facts, latest) = (Facts::of(run), Latest::of(run));
        let condition = facts.condition(Lock::is_held(run), &latest);
        let Facts { config, state, newest, warnings, .. } = facts;
        let config = config.ok();
        let best = state.as_ref().and_then(|state| state.best);
        let done = latest.done.unwrap_or_default();
        let last = latest.estimate;
        let step = state.as_ref().map(|state| state.step).or(latest.done.map(|done| done.step));
        Summary {
            state: condition,
            step: step.or((condition == Condition::NotBegun).then_some(0)),
            max_iters: config.as_ref().map(|config| config.max_iters),
            train_loss: done.train_loss.or(last.map(|at| at.train_loss)),
            val_loss: done.val_loss.or(last.map(|at| at.val_loss)),
            val_loss_exact: done.val_loss_exact,
            val_loss_stderr: done.val_loss_stderr,
            best_val_loss: best.map(|(loss, _)| loss),
            best_step: best.map(|(_, step)| step),
            quantization: config.as_ref().map(|config| config.quantization.name()),
            params: config.and_then(|config| Some(Layout::new(&config).ok()?.len())),
            size_bytes: size(run),
            tags: tags(run),
            warnings,
            changed: changed(run, newest.as_ref()),
        }
    }
}

/// The configuration, without a look at the tokenizer, which may be large, unless something is damaged.
pub(crate) fn config(run: &Path, warnings: &mut Vec<String>) -> Result<Config> {
    let config = sealed_config(run).and_then(|text| config_of_run(&run.join(CONFIG), &text));
    config.or_else(|_| {
        let run = RunDir::open(run)?;
        warnings.extend(run.warnings);
        Ok(run.config)
    })
}

/// The state of the newest checkpoint that has one.
fn state(found: &[(u64, PathBuf)], warnings: &mut Vec<String>) -> Option<State> {
    found.iter().rev().find_map(|(step, folder)| match Stored::open(folder).and_then(|stored| stored.state()) {
        Ok(state) => Some(state),
        Err(error) => {
            warnings.push(format!("checkpoint of step {step}: {}", error.one_line()));
            None
        }
    })
}

/// Bytes of all files in a folder.
pub fn size(path: &Path) -> u64 {
    let Ok(about) = fs::symlink_metadata(path) else { return 0 };
    if !about.is_dir() {
        return about.len();
    }
    let entries = path.read_dir().into_iter().flatten().flatten();
    entries.map(|entry| size(&entry.path())).sum()
}

/// When a run was last trained.
pub fn last_trained(run: &Path) -> SystemTime {
    changed(run, checkpoints(run).unwrap_or_default().last().map(|(_, folder)| folder))
}

/// The estimate of the validation loss at a step, if the metrics have it.
pub fn val_loss_at(run: &Path, step: u64) -> Option<f64> {
    let file = open_regular(&run.join(METRICS)).ok()?;
    let lines = MetricLines::new(BufReader::new(file)).map_while(std::result::Result::ok);
    let at = |line: MetricLine| match line.event() {
        Some(Record::Estimate(at)) if at.step == step => Some(at.val_loss),
        _ => None,
    };
    lines.filter_map(at).last()
}

/// When a run was last trained: when its metrics were written, or else its newest checkpoint or its configuration.
fn changed(run: &Path, newest: Option<&PathBuf>) -> SystemTime {
    let state = newest.map(|folder| folder.join("state.json"));
    let files = [Some(run.join(METRICS)), state, Some(run.join(CONFIG)), Some(run.to_owned())];
    let mut times = files.into_iter().flatten().filter_map(|path| fs::metadata(path).ok()?.modified().ok());
    times.next().unwrap_or(SystemTime::UNIX_EPOCH)
}
