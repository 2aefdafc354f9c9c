//! A run that is ready to start or to go on.

use super::{base, memory::Memory};
use crate::{
    data::{self, Dataset, TokenizerChoice},
    run::{Lock, Record, RunDir, State, Stored},
    text::{
        source::{self, Corpus},
        tokenizer::Tokenizer,
    },
};
use kinglet_core::{
    config::{Config, FIELDS},
    error::{Error, Result},
    params::Layout,
    shards,
};
use std::{path::Path, sync::Arc};

/// A run that is ready to start or to go on.
#[derive(Debug)]
pub struct Job {
    /// The run: its configuration, with nothing left to be decided, and its tokenizer.
    pub run: RunDir,
    /// The tokens.
    pub data: Arc<Dataset>,
    /// Of a fine-tuning: the data of the run it began with, if that is still there.
    pub old: Option<Dataset>,
    /// Whether only the losses are wanted at the end, as of one run among many: skips the sample and the n-gram baseline.
    pub skip_report: bool,
    /// Where it goes on.
    pub(super) from: Option<(State, Stored)>,
    /// The weights that a new run begins with in the place of random ones, and that the adapters of any run belong to:
    /// [`Layout::base_len`] of them. Training takes them.
    pub(super) base: Option<Vec<f32>>,
    pub(super) _lock: Lock,
}

impl Job {
    /// Prepares a new run: reads the text that `config.data` names, builds the tokenizer, decides what the
    /// configuration leaves open (vocabulary, shards), and creates the folder `out`, locked while the job lives.
    ///
    /// # Errors
    /// If the configuration, the text or the folder will not do. Nothing is written then.
    pub fn start(config: Config, out: impl AsRef<Path>) -> Result<Job> {
        refuse_finetuning(&config)?;
        let (config, tokenizer, data) = resolve(config)?;
        Job::create(out.as_ref(), config, tokenizer, data)
    }

    /// The same on a text in memory, one document; `config.data` is left out of account.
    ///
    /// # Errors
    /// As [`Job::start`].
    pub fn start_on_text(text: &str, mut config: Config, out: impl AsRef<Path>) -> Result<Job> {
        refuse_finetuning(&config)?;
        config.data = vec![source::MEMORY.to_owned()];
        let (config, tokenizer, data) =
            resolve_with(config, |config, choice| data::read_corpus(&Corpus::from_text(text), config, choice))?;
        Job::create(out.as_ref(), config, tokenizer, data)
    }

    fn create(out: &Path, config: Config, tokenizer: Tokenizer, data: Dataset) -> Result<Job> {
        let (run, lock) = RunDir::create(out, config, tokenizer, None)?;
        Ok(Job::new(run, lock, data.into()))
    }

    /// A new run in its folder.
    pub(crate) fn new(run: RunDir, lock: Lock, data: Arc<Dataset>) -> Job {
        Job { run, data, old: None, base: None, from: None, skip_report: false, _lock: lock }
    }

    /// Prepares to go on with a run, with `settings` (`key=value`) changed. What defines the model, the data and the
    /// random numbers cannot change.
    ///
    /// # Errors
    /// If there is no run, another process trains it, its text is not there or not the same, nothing of it is intact, or
    /// a setting is not allowed.
    pub fn resume(out: impl AsRef<Path>, settings: &[String]) -> Result<Job> {
        Job::resume_with(out.as_ref(), settings, data::read)
    }

    /// The same for a run that [`Job::start_on_text`] began, on that text.
    ///
    /// # Errors
    /// As [`Job::resume`].
    pub fn resume_on_text(text: &str, out: impl AsRef<Path>, settings: &[String]) -> Result<Job> {
        Job::resume_with(out.as_ref(), settings, |config, choice| {
            data::read_corpus(&Corpus::from_text(text), config, choice)
        })
    }

    fn resume_with(
        out: &Path,
        settings: &[String],
        read: impl FnOnce(&Config, TokenizerChoice) -> Result<(Tokenizer, Dataset)>,
    ) -> Result<Job> {
        let mut run = RunDir::open(out)?;
        let lock = run.lock()?;
        let before = run.config.clone();
        run.config = changed(&before, settings)?;
        let (_, mut data) = read(&run.config, TokenizerChoice::Fixed(&run.tokenizer))?;
        data.check(&run.config)?;
        let layout = Layout::new(&run.config)?;
        layout.check(&run.config)?;
        let has_checkpoint = !run.steps()?.is_empty();
        let needs_base = layout.has_adapters() || !has_checkpoint;
        let (base, old) = base::resume(&mut run, needs_base, &mut data.notes)?;
        let from = has_checkpoint.then(|| run.newest(&layout, |_| true)).transpose()?;
        if let Some((state, _)) = &from {
            refuse_done(&run, state)?;
        }
        if run.config != before || !run.warnings.is_empty() {
            run.write_config()?;
        }
        Ok(Job { old, base, from, ..Job::new(run, lock, data.into()) })
    }

    /// Updates done before.
    pub fn step(&self) -> u64 {
        self.from.as_ref().map_or(0, |(state, _)| state.step)
    }
}

/// The configuration of a run with some settings changed, if they may be.
fn changed(before: &Config, settings: &[String]) -> Result<Config> {
    let mut config = before.clone();
    settings.iter().try_for_each(|setting| config.set(setting))?;
    config.check()?;
    for field in FIELDS {
        let fixed = matches!(field.section, "model" | "finetuning" | "data")
            || matches!(field.key, "seed" | "shards" | "batch_size" | "optimizer" | "param_groups");
        if fixed && config.value(field.key) != before.value(field.key) {
            return Err(Error::Config {
                key: field.key.into(),
                value: config.value(field.key).to_string(),
                allowed: format!("{}, as the run began; start a new run to change it", before.value(field.key)),
            });
        }
    }
    Ok(config)
}

/// Refuses to go on with a run of which nothing is left.
fn refuse_done(run: &RunDir, state: &State) -> Result<()> {
    // A run killed while it measured its last loss has all its steps, but is not done.
    let mut done = false;
    run.records(|record| done |= matches!(record, Record::Done(_)))?;
    let (step, of) = (state.step, run.config.max_iters);
    if step <= of && !(done && is_over(&run.config, state)) {
        return Ok(());
    }
    let what = if step < of {
        let patience = run.config.patience;
        format!(
            "this run ended after {patience} estimates without a lower loss, at step {step} of {of}; --set patience=0 goes on"
        )
    } else {
        format!("this run is done: {step} of {of} steps; --set max_iters=N adds more")
    };
    Err(Error::run(run.path(), what))
}

/// Refuses what only a run that begins with another one can have.
pub(crate) fn refuse_finetuning(config: &Config) -> Result<()> {
    let default = Config::default();
    for key in ["lora_rank", "base", "new_tokens", "replay"] {
        if config.value(key) != default.value(key) {
            return Err(Error::Config {
                key: key.into(),
                value: config.value(key).to_string(),
                allowed: format!("{} in a new run: it is for kinglet finetune", default.value(key)),
            });
        }
    }
    Ok(())
}

/// Everything about a new run but its folder: the configuration with nothing left to be decided, the tokenizer and the
/// tokens.
///
/// # Errors
/// If the configuration or the text will not do, or the machine has not the memory.
pub fn resolve(config: Config) -> Result<(Config, Tokenizer, Dataset)> {
    resolve_with(config, data::read)
}

fn resolve_with(
    mut config: Config,
    read: impl FnOnce(&Config, TokenizerChoice) -> Result<(Tokenizer, Dataset)>,
) -> Result<(Config, Tokenizer, Dataset)> {
    config.check()?;
    // Before the text is read, as far as it can be known.
    let mut smallest = config.clone();
    smallest.vocab_size = config.vocab_size.max(1);
    Memory::of(&smallest)?.check()?;
    let (tokenizer, data) = read(&config, TokenizerChoice::FromConfig)?;
    data.check(&config)?;
    let tokens = tokenizer.vocab_size();
    if config.vocab_size == 0 {
        config.vocab_size = tokens;
    } else if config.vocab_size < tokens {
        return Err(Error::Config {
            key: "vocab_size".into(),
            value: config.vocab_size.to_string(),
            allowed: format!("0 or at least {tokens}, the tokens of the tokenizer"),
        });
    }
    resolve_rest(&mut config, &data)?;
    Ok((config, tokenizer, data))
}

/// Decides what a configuration, whose vocabulary is known, leaves open once its data was read.
pub(crate) fn resolve_rest(config: &mut Config, data: &Dataset) -> Result<()> {
    if let Some((kind, train_split)) = data.made.clone() {
        (config.tokenizer, config.train_split) = (kind, train_split);
    }
    let layout = Layout::new(config)?;
    layout.check(config)?;
    config.shards = shards::count(config, layout.trainable_len());
    // Errors so far have the names that were given.
    config.data = source::located(&config.data);
    config.data_sha256.clone_from(&data.sha256);
    Memory::of(config)?.check()
}

/// Whether nothing is left to train.
pub(super) fn is_over(config: &Config, state: &State) -> bool {
    state.step >= config.max_iters || config.patience > 0 && state.since_best >= config.patience
}
