//! A run that is ready to start or to go on.

use super::{base, memory::Memory};
use crate::{
    data::{self, Dataset, TokenizerChoice},
    run::{Checkpoint, Lock, RunDir, State},
    text::{source, tokenizer::Tokenizer},
};
use kinglet_core::{
    config::{Config, FIELDS},
    error::{Error, Result},
    params::Layout,
    shards,
};
use std::path::Path;

/// A run that is ready to start or to go on.
#[derive(Debug)]
pub struct Job {
    /// The run: its configuration, with nothing left to be decided, and its tokenizer.
    pub run: RunDir,
    /// The tokens.
    pub data: Dataset,
    /// The checkpoint to go on from.
    pub from: Option<Checkpoint>,
    /// The weights that a new run begins with in the place of random ones, and that the adapters of any run belong to:
    /// [`Layout::base_len`] of them.
    pub base: Option<Vec<f32>>,
    /// Of a fine-tuning: the data of the run it began with, if that is still there.
    pub old: Option<Dataset>,
    /// Whether only the losses are wanted at the end, as of one run among many: no sample, and no model that only counts.
    pub brief: bool,
    _lock: Lock,
}

impl Job {
    /// Prepares a new run: reads the text that `config.data` names, builds the tokenizer, decides what the
    /// configuration leaves open (vocabulary, shards), and creates the folder `out`, locked while the job lives.
    ///
    /// # Errors
    /// If the configuration, the text or the folder will not do. Nothing is written then.
    pub fn start(config: Config, out: &Path) -> Result<Job> {
        refuse_finetuning(&config)?;
        let (config, tokenizer, data) = prepare(config)?;
        let (run, lock) = RunDir::create(out, config, tokenizer, None)?;
        Ok(Job::new(run, lock, data, None, None, None))
    }

    pub(crate) fn new(
        run: RunDir,
        lock: Lock,
        data: Dataset,
        old: Option<Dataset>,
        base: Option<Vec<f32>>,
        from: Option<Checkpoint>,
    ) -> Job {
        Job { run, data, old, base, from, brief: false, _lock: lock }
    }

    /// Prepares to go on with a run, with `settings` (`key=value`) changed. What defines the model, the data and the
    /// random numbers cannot change.
    ///
    /// # Errors
    /// If there is no run, another process trains it, its text is not there or not the same, nothing of it is intact, or
    /// a setting is not allowed.
    pub fn resume(out: &Path, settings: &[String]) -> Result<Job> {
        let mut run = RunDir::open(out)?;
        let lock = run.lock()?;
        let before = run.config.clone();
        let config = &mut run.config;
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
        let (_, mut data) = data::read(config, TokenizerChoice::Fixed(&run.tokenizer))?;
        data.check(config)?;
        let layout = Layout::new(&run.config);
        layout.check(&run.config)?;
        let has_checkpoint = !run.steps()?.is_empty();
        let needs_base = layout.has_adapters() || !has_checkpoint;
        let (base, old) = base::resume(&mut run, needs_base, &mut data.notes)?;
        let from = has_checkpoint.then(|| run.load(&layout, base.as_deref(), |_| true)).transpose()?;
        // A run killed while it measured its last loss has all its steps, but is not done.
        let done = run.metrics()?.iter().any(|event| event["event"] == "done");
        if let Some(Checkpoint { state, .. }) = &from
            && (state.step > run.config.max_iters || done && is_over(&run.config, state))
        {
            let (step, of) = (state.step, run.config.max_iters);
            let what = if step < of {
                let patience = run.config.patience;
                format!(
                    "this run ended after {patience} estimates without a lower loss, at step {step} of {of}; --set patience=0 goes on"
                )
            } else {
                format!("this run is done: {step} of {of} steps; --set max_iters=N adds more")
            };
            return Err(Error::run(out, what));
        }
        if run.config != before || !run.warnings.is_empty() {
            run.write_config()?;
        }
        Ok(Job::new(run, lock, data, old, base, from))
    }
}

/// Refuses what only a run that begins with another one can have.
pub(crate) fn refuse_finetuning(config: &Config) -> Result<()> {
    let default = Config::default();
    for key in ["lora_rank", "base", "new_words", "replay"] {
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
pub fn prepare(mut config: Config) -> Result<(Config, Tokenizer, Dataset)> {
    config.check()?;
    // Before the text is read, as far as it can be known.
    Memory::of(&Config { vocab_size: config.vocab_size.max(1), ..config.clone() }).check()?;
    let (tokenizer, data) = data::read(&config, TokenizerChoice::FromConfig)?;
    data.check(&config)?;
    let words = tokenizer.vocab_size();
    if config.vocab_size == 0 {
        config.vocab_size = words;
    } else if config.vocab_size < words {
        return Err(Error::Config {
            key: "vocab_size".into(),
            value: config.vocab_size.to_string(),
            allowed: format!("0 or at least {words}, the words of the tokenizer"),
        });
    }
    settle(&mut config, &data)?;
    Ok((config, tokenizer, data))
}

/// Decides what a configuration, whose vocabulary is known, leaves open once its data was read.
pub(crate) fn settle(config: &mut Config, data: &Dataset) -> Result<()> {
    if let Some((kind, train_split)) = data.made.clone() {
        (config.tokenizer, config.train_split) = (kind, train_split);
    }
    let layout = Layout::new(config);
    layout.check(config)?;
    config.shards = shards::count(config, layout.trainable_len());
    // Errors so far have the names that were given.
    config.data = source::located(&config.data);
    config.data_sha256.clone_from(&data.sha256);
    Memory::of(config).check()
}

/// Whether nothing is left to train.
pub(super) fn is_over(config: &Config, state: &State) -> bool {
    state.step >= config.max_iters || config.patience > 0 && state.since_best >= config.patience
}
