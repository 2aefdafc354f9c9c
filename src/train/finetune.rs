//! Fine-tuning: a run on other data that starts from the weights of another run.
//!
//! The base model is copied into the new run's folder, so the old folder is no longer needed. All guarantees of
//! training hold, because it is the same loop.

pub use super::merged::load;
use super::{
    base::old_data,
    job::{Job, fix_time, resolve_rest},
    merged::{load_merged, unround},
};
use crate::{
    data::{Dataset, Origin, TokenizerChoice},
    run::{Base, Checkpoint, NewRun, RunDir, State, Which, first_free},
    system::shell,
    text::{source::MEMORY, tokenizer::Tokenizer},
};
use kinglet_core::{
    config::{Config, FIELDS, LrSchedule, OptimizerKind, Quantization},
    error::{Error, Result},
    params::{Layout, edit::add_tokens},
};
use std::path::Path;

/// Default number of updates.
pub const MAX_ITERS: u64 = 1000;

/// The same where weights are rounded in training.
pub const QAT_MAX_ITERS: u64 = 500;

/// A fine-tuning run that is ready to start.
#[derive(Debug)]
pub struct Finetune {
    /// The fully resolved configuration.
    pub config: Config,
    /// The old run's tokenizer, plus any characters that only the new text has.
    pub tokenizer: Tokenizer,
    /// The data to train on.
    pub data: Dataset,
    /// The data of the old run, if it is still available.
    pub old: Option<Dataset>,
    /// The old run's configuration and weights, with adapters merged in and rows for the added tokens.
    pub base: Base,
}

/// The texts of a fine-tuning, as names of data.
#[derive(Clone, Copy, Debug, Default)]
pub struct Texts<'a> {
    /// What to train on; empty: the text of the run it begins with.
    pub data: &'a [String],
    /// What to train on, if that is in memory.
    pub memory: Option<&'a Origin>,
    /// Where the text of the run it begins with is now; empty: where that run had it.
    pub replay_data: &'a [String],
}

/// Prepares to fine-tune a checkpoint of the run in `from` on `data`, with `settings` (`key=value`) for the new run:
/// [`prepare_with`] with nothing moved.
///
/// # Errors
/// As [`prepare_with`].
pub fn prepare(from: &Path, which: Which, data: &[String], settings: &[String]) -> Result<Finetune> {
    let texts = Texts { data, ..Texts::default() };
    prepare_with(from, which, texts, |config| settings.iter().try_for_each(|setting| config.set(setting)))
}

/// Prepares to fine-tune a checkpoint of the run in `from`. The configuration is inherited from the old run, except the
/// schedule ([`MAX_ITERS`] updates, over which the learning rate decays to zero) and the learning rates, which are the
/// old run's divided by [`RATE_DIVISOR`]; then `set` changes it. If it sets `quantization`, the new run trains with rounded
/// weights, and the defaults are [`QAT_MAX_ITERS`] and [`QAT_RATE_DIVISOR`]; if it does not, no weight is rounded.
///
/// # Errors
/// If there is no such run, the data is unusable, or a setting is not allowed.
pub fn prepare_with(
    from: &Path,
    which: Which,
    texts: Texts,
    set: impl Fn(&mut Config) -> Result<()>,
) -> Result<Finetune> {
    let mut run = RunDir::open(from)?;
    let rounding = rounding(&run.config, &set)?;
    let (old_config, weights) = load_to_train(&mut run, which, &rounding)?;
    let in_memory = [MEMORY.to_owned()];
    let names = if texts.memory.is_some() { &in_memory } else { texts.data };
    let (mut config, lower) = configure(&old_config, &rounding, from, names, set)?;
    let rounded = unrounded(&run, &rounding);
    let RunDir { tokenizer: old_tokenizer, warnings, notes, .. } = run;

    fix_time(&mut config);
    let origin = texts.memory.unwrap_or(&Origin::Named);
    let (tokenizer, mut data) = origin.read(&config, TokenizerChoice::Extend(&old_tokenizer))?;
    let advice = larger_base(&old_config, &config, from, &data);
    data.check(&config).map_err(|error| match (error, &advice) {
        (Error::Data(what), Some(advice)) => Error::Data(format!("{what}. {advice}")),
        (error, _) => error,
    })?;
    data.notes.extend(advice);
    data.notes.splice(0..0, warnings.into_iter().chain(notes).chain(rounded).chain(lower));
    let known = old_tokenizer.vocab_size();
    let added = tokenizer.vocab_size() - known;
    let vocab_size = old_config.vocab_size.max(tokenizer.vocab_size());
    let (base_config, weights) = match added {
        0 => (old_config, weights),
        _ => add_tokens(&old_config, &weights, known, vocab_size)?,
    };
    let new_tokens = if added > 0 { vocab_size - known } else { 0 };
    (config.vocab_size, config.new_tokens) = (vocab_size, new_tokens);
    if added > 0 {
        data.notes.push(grown(added, tokenizer.chars().is_some()));
    }
    resolve_rest(&mut config, &data)?;
    let mut base = Base { config: base_config, weights };
    let old = old_data(&mut base.config, &tokenizer, config.replay, texts.replay_data, &mut data.notes)?;
    Ok(Finetune { config, tokenizer, data, old, base })
}

/// `old`, with the keys of `quantization` as they are in the new run. What is rounded stays as it was, unless `set` changes it.
fn rounding(old: &Config, set: impl Fn(&mut Config) -> Result<()>) -> Result<Config> {
    let mut config = old.clone();
    config.quantization = Quantization::None;
    set(&mut config)?;
    let mut rounding = old.clone();
    (rounding.quantization, rounding.quantize_head) = (config.quantization, config.quantize_head);
    rounding.quantize_embeddings = config.quantize_embeddings;
    if rounding.quantization.is_none() {
        unround(&mut rounding);
    }
    Ok(rounding)
}

/// The configuration and the weights that the new run begins with, without adapters and with no weight in few bits: if it rounds
/// them as the old run did, those that the old run rounded; else those that the old model computes with.
fn load_to_train(run: &mut RunDir, which: Which, rounding: &Config) -> Result<(Config, Vec<f32>)> {
    let mut config = run.config.clone();
    let weights = if config.quantization.is_none() {
        let (_, merged, weights) = load_merged(run, which)?;
        config = merged;
        weights
    } else if config == *rounding {
        run.load_weights(&Layout::new(&config)?, None, which)?.1
    } else {
        run.load_numbers(&Layout::new(&config)?, None, which)?.1
    };
    unround(&mut config);
    Ok((config, weights))
}

/// A note on weights that were in few bits and are no longer.
fn unrounded(old: &RunDir, new: &Config) -> Option<String> {
    let scheme = old.config.quantization;
    let ends = !scheme.is_none() && new.quantization.is_none();
    ends.then(|| {
        let (scheme, run) = (scheme.name(), old.path().display());
        format!(
            "the weights of {run} are in few bits ({scheme}); those of the new run begin with the same numbers and are not \
             rounded. --qat {scheme} rounds them while it trains"
        )
    })
}

/// A note on tokens that only the new text has.
fn grown(added: usize, are_characters: bool) -> String {
    let unit = match (are_characters, added) {
        (true, 1) => "character",
        (true, _) => "characters",
        (false, 1) => "token",
        (false, _) => "tokens",
    };
    let it_starts = if added == 1 { "Its embedding starts" } else { "Their embeddings start" };
    format!("the vocabulary grew by {added} {unit}. {it_starts} at the mean of the old ones")
}

/// How to get a run to begin with that holds the conversations which do not fit into this one, if there are any.
fn larger_base(old: &Config, config: &Config, from: &Path, data: &Dataset) -> Option<String> {
    let block_size = data.larger_block_size(config)?;
    let quoted = |names: &[String]| names.iter().map(|name| shell::quoted(name)).collect::<Vec<_>>().join(" ");
    let larger = format!("{}-{block_size}", from.file_name().unwrap_or("base".as_ref()).display());
    let larger = shell::quoted(&from.with_file_name(larger).display().to_string());
    Some(format!(
        "fine-tuning cannot change block_size, and {} has {}. To use a larger one, train a new base run: \
         kinglet train {} \
         --preset chat --set block_size={block_size} --out {larger} && kinglet finetune {larger} {}",
        from.display(),
        old.block_size,
        quoted(&old.data),
        quoted(&config.data)
    ))
}

/// Learning rates of a fine-tuning are a tenth of the old run's, unless told otherwise: at the rate that a model was
/// trained with, it soon forgets what it learned.
pub const RATE_DIVISOR: f64 = 10.0;

/// The same where weights are rounded in training, which is mostly on the text that the model knows: there is less to forget, and
/// the weights have some way to go.
pub const QAT_RATE_DIVISOR: f64 = 4.0;

/// The keys of learning rates, and how they are called.
const RATES: [(&str, &str); 2] = [("learning_rate", "learning rate"), ("muon_lr", "Muon's learning rate")];

/// Divides all learning rates.
fn lower_rates(config: &mut Config, divisor: f64) {
    // Rounded to decimals, so that a tenth of 3e-3 is 3e-4.
    let lower = |rate: f64| format!("{:.14e}", rate / divisor).parse().expect("a number");
    (config.learning_rate, config.muon_lr) = (lower(config.learning_rate), lower(config.muon_lr));
    for group in &mut config.param_groups {
        for (key, _) in RATES {
            if let Some((rate, value)) = group.settings.get_mut(key).and_then(|value| Some((number(value)?, value))) {
                *value = toml::Value::Float(lower(rate));
            }
        }
    }
}

fn number(value: &toml::Value) -> Option<f64> {
    value.as_float().or_else(|| value.as_integer().map(|n| n as f64))
}

/// A note on the learning rates that were lowered and not set to something else.
fn lowered(old: &Config, config: &Config, (divisor, part): (f64, &str)) -> Option<String> {
    let mut default = old.clone();
    lower_rates(&mut default, divisor);
    let of = |config: &Config, key| number(&config.value(key));
    let used = RATES.iter().filter(|(key, _)| *key != "muon_lr" || config.optimizer == OptimizerKind::Muon);
    let mut parts: Vec<String> = used
        .filter(|(key, _)| of(config, key) == of(&default, key))
        .filter_map(|(key, name)| {
            Some(format!("{name} {:e}, {part} of the old run's {:e}", of(config, key)?, of(old, key)?))
        })
        .collect();
    if default.param_groups != old.param_groups && config.param_groups == default.param_groups {
        parts.push(format!("learning rates in param_groups, {part} of the old run's"));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// The new run's configuration, as far as it is known before the text is read, and a note on its learning rates.
fn configure(
    old: &Config,
    rounding: &Config,
    from: &Path,
    data: &[String],
    set: impl Fn(&mut Config) -> Result<()>,
) -> Result<(Config, Option<String>)> {
    let defaults = Config::default();
    let mut config = old.clone();
    let (max_iters, part) = match rounding.quantization {
        Quantization::None => (MAX_ITERS, (RATE_DIVISOR, "a tenth")),
        _ => (QAT_MAX_ITERS, (QAT_RATE_DIVISOR, "a quarter")),
    };
    (config.max_iters, config.eval_interval, config.warmup_iters) = (max_iters, 100, 0);
    (config.lr_schedule, config.min_lr, config.lr_decay_iters) = (LrSchedule::Linear, 0.0, 0);
    (config.cooldown, config.template_time) = (defaults.cooldown, 0);
    (config.shards, config.replay) = (0, 0.0);
    (config.lora_alpha, config.lora_dropout) = (defaults.lora_alpha, defaults.lora_dropout);
    config.lora_targets = defaults.lora_targets;
    if data.is_empty() {
        refuse_no_data(old, from)?;
    } else {
        config.data = data.to_vec();
        (config.data_field, config.invalid_utf8) = (defaults.data_field, defaults.invalid_utf8);
        config.skip_bad = defaults.skip_bad;
    }
    // The groups' schedules belonged to the old run.
    const SCHEDULE: [&str; 5] = ["lr_schedule", "warmup_iters", "lr_decay_iters", "min_lr", "cooldown"];
    let groups = config.param_groups.iter_mut();
    groups.for_each(|group| group.settings.retain(|key, _| !SCHEDULE.contains(&key.as_str())));
    let inherited = config.clone();
    lower_rates(&mut config, part.0);
    if !rounding.quantization.is_none() {
        let Config { quantize_head, quantize_embeddings, .. } = *rounding;
        (config.quantize_head, config.quantize_embeddings) = (quantize_head, quantize_embeddings);
    }
    set(&mut config)?;
    let note = lowered(&inherited, &config, part);
    config.check()?;
    config.base = std::path::absolute(from).unwrap_or_else(|_| from.to_owned()).display().to_string();
    for field in FIELDS {
        let is_free = field.key.contains("dropout") || field.key.starts_with("quanti");
        let fixed = field.section == "model" && !is_free || field.key == "tokenizer";
        if fixed && config.value(field.key) != old.value(field.key) {
            let (key, from) = (field.key, from.display());
            return Err(Error::BadConfig(match key {
                "tokenizer" => format!(
                    "tokenizer cannot change: the embeddings of {from} belong to its tokens; characters that only the new \
                     text has are added automatically"
                ),
                "block_size" => format!(
                    "block_size cannot change: {from} has {}; train a run with a larger block_size, and fine-tune that one",
                    old.block_size
                ),
                key => format!("{key} cannot change: {from} has {}", old.value(key)),
            }));
        }
    }
    Ok((config, note))
}

/// Checks that the text of the old run can be read again.
fn refuse_no_data(old: &Config, from: &Path) -> Result<()> {
    let why = if old.data.is_empty() {
        "is not known"
    } else if old.data.iter().any(|name| name == "-") {
        "came from standard input"
    } else {
        return Ok(());
    };
    Err(Error::BadConfig(format!("name a text to train on: that of {} {why}", from.display())))
}

impl Finetune {
    /// Starts the run in a new folder.
    ///
    /// # Errors
    /// If the folder is unusable. Nothing is written then.
    pub fn start(self, out: &Path) -> Result<Job> {
        let Finetune { config, tokenizer, data, old, base } = self;
        let (run, lock) = RunDir::create(out, config, tokenizer, Some(&base))?;
        Ok(Job { old, base: Some(base.weights), ..Job::new(run, lock, data.into()) })
    }

    /// The same in the first of the folders `out`, `out-2`, `out-3`, ... that is free.
    ///
    /// # Errors
    /// As [`Finetune::start`].
    pub fn start_free(self, out: &Path) -> Result<Job> {
        let Finetune { config, tokenizer, data, old, base } = self;
        let create = |out: &Path| RunDir::create(out, config.clone(), tokenizer.clone(), Some(&base));
        let (run, lock) = first_free(out, create)?;
        Ok(Job { old, base: Some(base.weights), ..Job::new(run, lock, data.into()) })
    }
}

/// Loads a checkpoint of the run in `from`, merges its adapters into the weights, and writes the result to a new folder
/// as a run.
///
/// # Errors
/// If there is no such run, or the folder is unusable.
pub fn merged(from: &Path, which: Which, out: &Path) -> Result<RunDir> {
    let mut run = RunDir::open(from)?;
    if !run.config.quantization.is_none() {
        let what = "this run has no adapters to merge: its weights are in few bits. To copy it, copy its folder";
        return Err(Error::run(from, what));
    }
    let (state, mut config, weights) = load_merged(&mut run, which)?;
    let layout = Layout::new(&config)?;
    config.base.clear();
    if config.replay > 0.0 {
        let what = "if the merged run is resumed, it replays nothing, because it does not know the base run of \
             this one. Tokens and the position in an epoch are counted as if nothing had been replayed";
        run.warnings.push(what.to_owned());
        config.replay = 0.0;
    }
    let (mut merged, lock) = RunDir::create(out, config, run.tokenizer.clone(), None)?;
    let zeros = vec![0.0; layout.len()];
    // A run that begins here: its losses are estimated anew, and the adapters' moments are not those of its weights.
    let state = State { best: None, since_best: 0, last_estimate: Some(state.step), updates: Some(0), ..state };
    let checkpoint = Checkpoint { state: state.clone(), weights, m: zeros.clone(), v: zeros };
    let saved = merged.save(&layout, &state, |buffer, span, out| checkpoint.read(buffer, span, out));
    let saved = saved.and_then(|()| merged.prune(&state));
    drop(lock);
    saved.inspect_err(|_| merged.new_run().iter().for_each(NewRun::remove))?;
    (merged.warnings, merged.notes) = (run.warnings, run.notes);
    Ok(merged)
}
