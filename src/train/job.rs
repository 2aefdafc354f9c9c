//! A run that is ready to start or resume.

use super::{base, memory::Memory, teacher};
use crate::{
    data::{self, Dataset, Origin, TokenizerChoice},
    run::{Lock, NewRun, Record, RunDir, State, Stored, first_free},
    text::{source, tokenizer::Tokenizer},
};
use kinglet_core::{
    config::{Config, FIELDS, OptimizerKind},
    error::{Error, Result},
    params::Layout,
    shards,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// What may change when a run is resumed. What is empty stays as it was.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Settings (`key=value`). Those that define the model, the data, the batches or the random numbers cannot change.
    pub settings: Vec<String>,
    /// Where the run's text is now, as names of data. It must be the same text; its SHA-256 shows that.
    pub data: Vec<String>,
    /// The same for the text of the run that a fine-tuning began with.
    pub replay_data: Vec<String>,
}

/// A run that is ready to start or resume.
#[derive(Debug)]
pub struct Job {
    /// The run: its fully resolved configuration and its tokenizer.
    pub run: RunDir,
    /// The tokens to train and validate on.
    pub data: Arc<Dataset>,
    /// Fine-tuning only: the data of the run it started from, if still available.
    pub old: Option<Dataset>,
    /// Skip the sample and the n-gram baseline at the end, for example in one run of a search.
    pub skip_report: bool,
    /// The run's folder as events name it: where another machine has it, if it is trained here for that one.
    pub(crate) place: PathBuf,
    /// The checkpoint to resume from.
    pub(super) from: Option<(State, Stored)>,
    /// The [`Layout::base_len`] weights that a new run starts from instead of random ones, and that adapters belong to.
    /// Training consumes them.
    pub(super) base: Option<Vec<f32>>,
    pub(super) _lock: Lock,
}

impl Job {
    /// Prepares a new run: reads the text that `config.data` names, builds the tokenizer, resolves what the
    /// configuration leaves open (vocabulary, shards), and creates the folder `out`, locked while the job lives.
    ///
    /// # Errors
    /// If the configuration, the text or the folder is unusable. Nothing is written then.
    pub fn start(config: Config, out: impl AsRef<Path>) -> Result<Job> {
        Job::start_on(&Origin::Named, config, out)
    }

    /// The same on data of any origin; `config.data` is ignored if they are in memory.
    ///
    /// # Errors
    /// As [`Job::start`].
    pub fn start_on(origin: &Origin, config: Config, out: impl AsRef<Path>) -> Result<Job> {
        refuse_finetuning(&config)?;
        let (config, tokenizer, data) = resolve_on(origin, config)?;
        let (run, lock) = RunDir::create(out.as_ref(), config, tokenizer, None)?;
        Ok(Job::new(run, lock, data.into()))
    }

    /// The same on a text in memory as a single document.
    ///
    /// # Errors
    /// As [`Job::start`].
    pub fn start_on_text(text: &str, config: Config, out: impl AsRef<Path>) -> Result<Job> {
        Job::start_on(&Origin::Text(text.into()), config, out)
    }

    /// As [`Job::start`], in the first of the folders `out`, `out-2`, `out-3`, ... that is free.
    ///
    /// # Errors
    /// As [`Job::start`].
    pub fn start_free(config: Config, out: impl AsRef<Path>) -> Result<Job> {
        Job::start_free_on(&Origin::Named, config, out)
    }

    /// The same on data of any origin.
    ///
    /// # Errors
    /// As [`Job::start`].
    pub fn start_free_on(origin: &Origin, config: Config, out: impl AsRef<Path>) -> Result<Job> {
        refuse_finetuning(&config)?;
        let (config, tokenizer, data) = resolve_on(origin, config)?;
        let create = |out: &Path| RunDir::create(out, config.clone(), tokenizer.clone(), None);
        let (run, lock) = first_free(out.as_ref(), create)?;
        Ok(Job::new(run, lock, data.into()))
    }

    /// Removes a new run again, before it is run.
    pub fn discard(self) {
        let new = self.run.new_run();
        drop(self);
        new.iter().for_each(NewRun::remove);
    }

    /// A job for a new run whose folder exists.
    pub(crate) fn new(run: RunDir, lock: Lock, data: Arc<Dataset>) -> Job {
        let place = run.path().to_owned();
        Job { run, data, old: None, base: None, from: None, skip_report: false, place, _lock: lock }
    }

    /// Prepares to resume a run, with `settings` (`key=value`) changed: [`Job::resume_with`] without anything moved.
    ///
    /// # Errors
    /// As [`Job::resume_with`].
    pub fn resume(out: impl AsRef<Path>, settings: &[String]) -> Result<Job> {
        Job::resume_with(out, &Changes { settings: settings.to_vec(), ..Changes::default() })
    }

    /// Prepares to resume a run with some [`Changes`].
    ///
    /// # Errors
    /// If there is no run, another process is training it, its text is missing or has changed, no checkpoint is intact,
    /// or a setting is not allowed.
    pub fn resume_with(out: impl AsRef<Path>, changes: &Changes) -> Result<Job> {
        Job::resume_on(&Origin::Named, out, changes)
    }

    /// The same on data of any origin: a run on data in memory needs the same data again.
    ///
    /// # Errors
    /// As [`Job::resume_with`].
    pub fn resume_on(origin: &Origin, out: impl AsRef<Path>, changes: &Changes) -> Result<Job> {
        Job::resume_by(out.as_ref(), changes, |config, tokenizer| {
            // What was in memory has not moved.
            let was_in_memory = config.data.iter().any(|name| name == source::MEMORY);
            let given = !changes.data.is_empty() || origin.is_in_memory() || was_in_memory;
            let (_, data) = origin
                .read(config, TokenizerChoice::Fixed(tokenizer))
                .map_err(|error| if given { error } else { or_moved(error) })?;
            Ok(data.into())
        })
    }

    /// The same for a run started with [`Job::start_on_text`], on the same text.
    ///
    /// # Errors
    /// As [`Job::resume_with`].
    pub fn resume_on_text(text: &str, out: impl AsRef<Path>, settings: &[String]) -> Result<Job> {
        let changes = Changes { settings: settings.to_vec(), ..Changes::default() };
        Job::resume_on(&Origin::Text(text.into()), out, &changes)
    }

    /// The same for data that `read` reads for the run's configuration and tokenizer, or has read before.
    pub(crate) fn resume_by(
        out: &Path,
        changes: &Changes,
        read: impl FnOnce(&Config, &Tokenizer) -> Result<Arc<Dataset>>,
    ) -> Result<Job> {
        let mut run = RunDir::open(out)?;
        let lock = run.lock()?;
        let before = run.config.clone();
        run.config = changed(&before, &changes.settings)?;
        if !changes.data.is_empty() {
            run.config.data.clone_from(&changes.data);
        }
        let mut data = read(&run.config, &run.tokenizer)?;
        data.check(&run.config)?;
        if !changes.data.is_empty() {
            // Only now, so that earlier errors show the names as given.
            run.config.data = source::located(&changes.data);
        }
        if run.config.teacher != before.teacher {
            // Before its name is written.
            teacher::load(&run.config, Some(&run.tokenizer))?;
        }
        let layout = Layout::new(&run.config)?;
        layout.check(&run.config)?;
        let has_checkpoint = !run.steps()?.is_empty();
        let needs_base = layout.has_adapters() || !has_checkpoint;
        let mut notes = Vec::new();
        let base::Resumed { weights, old, moved } =
            base::resume(&mut run, needs_base, &changes.replay_data, &mut notes)?;
        if !notes.is_empty() {
            Arc::make_mut(&mut data).notes.extend(notes);
        }
        let from = has_checkpoint.then(|| run.newest(&layout, |_| true)).transpose()?;
        if let Some((state, _)) = &from {
            refuse_done(&run, state)?;
            run.warnings.extend(jump_of_rate(&before, &run.config, state)?);
        }
        if let Some(base) = &moved {
            run.write_base_config(base)?;
        }
        if run.config != before || !run.warnings.is_empty() {
            run.write_config()?;
        }
        Ok(Job { old, base: weights, from, ..Job::new(run, lock, data) })
    }

    /// Updates done in earlier sessions.
    pub fn step(&self) -> u64 {
        self.from.as_ref().map_or(0, |(state, _)| state.step)
    }
}

/// An error about the text of a run, with advice.
fn or_moved(error: Error) -> Error {
    match error {
        Error::Data(what) => {
            Error::Data(format!("{what}; if the text has moved, name it: --resume DATA (its SHA-256 must be the same)"))
        }
        error => error,
    }
}

/// The configuration of a run with some settings changed, if those may change.
fn changed(before: &Config, settings: &[String]) -> Result<Config> {
    let mut config = before.clone();
    settings.iter().try_for_each(|setting| config.set(setting))?;
    config.check()?;
    for field in FIELDS {
        let counts = matches!(field.key, "batch_size" | "gradient_accumulation_steps");
        let fixed = matches!(field.section, "model" | "finetuning" | "data")
            || matches!(
                field.key,
                "seed" | "shards" | "optimizer" | "param_groups" | "teacher_weight" | "teacher_sha256"
            );
        if (counts || fixed) && config.value(field.key) != before.value(field.key) {
            let why = if counts { ", because the position in an epoch and all token counts depend on it" } else { "" };
            return Err(Error::Config {
                key: field.key.into(),
                value: config.value(field.key).to_string(),
                allowed: format!(
                    "{}, as at the start of the run{why}; start a new run to change it",
                    before.value(field.key)
                ),
            });
        }
    }
    Ok(config)
}

/// Changes of the learning rate below this share are not worth a warning.
const SMALL_CHANGE: f64 = 0.01;

/// A warning if changed settings make the learning rate of the next update another than it would have been, also because
/// the end of the schedule has moved.
fn jump_of_rate(before: &Config, now: &Config, state: &State) -> Result<Option<String>> {
    let step = state.step;
    let rates = |config: &Config| -> Result<Vec<(&str, f64)>> {
        let scale = state.guard.lr_scale(config);
        // Those of most parameters come last.
        let groups = config.groups()?.into_iter().rev();
        let rates = groups.flat_map(|group| {
            let muon = (group.optimizer == OptimizerKind::Muon).then(|| ("Muon's learning rate", group.muon_lr(step)));
            [Some(("the learning rate", group.lr(step))), muon].into_iter().flatten()
        });
        Ok(rates.map(|(name, rate)| (name, scale * rate)).collect())
    };
    let (old, new) = (rates(before)?, rates(now)?);
    let jump = old.iter().zip(&new).find(|((_, old), (_, new))| (old - new).abs() > SMALL_CHANGE * old.max(*new));
    Ok(jump.filter(|_| step > 0).map(|((name, old), (_, new))| {
        format!("{name} jumps: with the old configuration the next update would use {old:.2e}, now it uses {new:.2e}")
    }))
}

/// Returns an error if the run has nothing left to train.
fn refuse_done(run: &RunDir, state: &State) -> Result<()> {
    // A run killed while measuring its final loss has completed all steps but is not done.
    let mut done = false;
    run.records(|record| done |= matches!(record, Record::Done(_)))?;
    let (step, of) = (state.step, run.config.max_iters);
    if step <= of && !(done && is_over(&run.config, state)) {
        return Ok(());
    }
    let what = if step < of {
        let patience = state.since_best;
        format!(
            "this run stopped early, after {patience} estimates without a lower loss, at step {step} of {of}; \
             --set patience=0 continues it"
        )
    } else {
        format!("this run is complete: {step} of {of} steps; --set max_iters=N, with N above {step}, adds more")
    };
    Err(Error::run(run.path(), what))
}

/// Returns an error for settings that only fine-tuning runs can have.
pub(crate) fn refuse_finetuning(config: &Config) -> Result<()> {
    let default = Config::default();
    for key in ["lora_rank", "base", "new_tokens", "replay"] {
        if config.value(key) != default.value(key) {
            return Err(Error::Config {
                key: key.into(),
                value: config.value(key).to_string(),
                allowed: format!("{} in a new run, because it applies only to kinglet finetune", default.value(key)),
            });
        }
    }
    Ok(())
}

/// Everything about a new run except its folder: the fully resolved configuration, the tokenizer and the tokens.
///
/// # Errors
/// If the configuration or the text is unusable, or the machine has too little memory.
pub fn resolve(config: Config) -> Result<(Config, Tokenizer, Dataset)> {
    resolve_on(&Origin::Named, config)
}

/// The same on data of any origin.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_on(origin: &Origin, mut config: Config) -> Result<(Config, Tokenizer, Dataset)> {
    origin.name(&mut config);
    config.check()?;
    // A first memory check before the text is read, with the smallest possible vocabulary.
    let mut smallest = config.clone();
    smallest.vocab_size = config.vocab_size.max(1);
    Memory::of(&smallest)?.check()?;
    fix_time(&mut config);
    let (tokenizer, data) = origin.read(&config, TokenizerChoice::FromConfig)?;
    settle(&mut config, &tokenizer, &data)?;
    Ok((config, tokenizer, data))
}

/// Resolves a configuration whose data has been read.
pub(crate) fn settle(config: &mut Config, tokenizer: &Tokenizer, data: &Dataset) -> Result<()> {
    data.check(config)?;
    config.tokenizer = data::found(config, tokenizer);
    let tokens = tokenizer.vocab_size();
    if config.vocab_size == 0 {
        config.vocab_size = tokens;
    } else if config.vocab_size < tokens {
        return Err(Error::Config {
            key: "vocab_size".into(),
            value: config.vocab_size.to_string(),
            allowed: format!("0 or at least {tokens}, the number of tokens in the tokenizer"),
        });
    }
    resolve_rest(config, data)
}

/// Fixes what time it is for a template that asks: the text of a run must not change from day to day.
pub(crate) fn fix_time(config: &mut Config) {
    if config.template_time == 0 && config.chat_template.contains("strftime_now") {
        config.template_time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    }
}

/// Resolves the rest of a configuration whose vocabulary is known, once its data has been read.
pub(crate) fn resolve_rest(config: &mut Config, data: &Dataset) -> Result<()> {
    if let Some(made) = data.made.clone() {
        (config.tokenizer, config.train_split) = (made.tokenizer, made.train_split);
        (config.bos_token, config.eos_token) = (made.bos_token, made.eos_token);
    }
    let layout = Layout::new(config)?;
    layout.check(config)?;
    config.shards = shards::count(config, layout.trainable_len());
    // Only now, so that earlier errors show the names as given.
    config.data = source::located(&config.data);
    config.data_sha256.clone_from(&data.sha256);
    config.data_kind = data.kind().to_owned();
    Memory::of(config)?.check()
}

/// Whether there is nothing left to train.
pub(super) fn is_over(config: &Config, state: &State) -> bool {
    state.step >= config.max_iters || config.patience > 0 && state.since_best >= config.patience
}
