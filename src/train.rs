//! Training: what a run starts from, and the loop.

use crate::{
    backend::{Backend, Buf, Cpu},
    baselines::{self, Baseline},
    checkpoint::{Checkpoint, State},
    config::{Config, FIELDS, OnDivergence, Precision, TokenizerKind},
    data::{Batch, Dataset, IGNORE, Survey},
    error::{Error, Result},
    eval, finetune,
    guard::{Divergence, Guard},
    machine,
    model::Gpt,
    optim::Optimizer,
    params::{Layout, Matrix},
    plan::{Plan, Speed},
    plot::{Curves, loss_svg},
    prepared,
    rng::Purpose,
    run::{Lock, Metrics, RunDir, with_source},
    sample::{Generator, Sampling},
    session::start_of_text,
    shards::{self, Shards, with_threads},
    source::{self, Corpus},
    tokenizer::Tokenizer,
};
use serde::Serialize;
use std::{
    f64::consts::LN_2,
    ops::ControlFlow,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

/// Tokens in `sample.txt`.
pub(crate) const SAMPLE_TOKENS: usize = 500;

/// Answers in the `sample.txt` of conversations.
const SAMPLE_ANSWERS: usize = 5;

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
        let (_, mut data) = read(config, Words::Of(&run.tokenizer))?;
        data.check(config)?;
        let layout = Layout::new(&run.config);
        layout.check(&run.config)?;
        let has_checkpoint = !run.steps()?.is_empty();
        let needs_base = layout.has_adapters() || !has_checkpoint;
        let (base, old) = finetune::resume(&mut run, needs_base, &mut data.notes)?;
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
    let (tokenizer, data) = read(&config, Words::Configured)?;
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

/// Whose ids data is to have.
#[derive(Clone, Copy, Debug)]
pub enum Words<'a> {
    /// Those of the tokenizer that the configuration asks for.
    Configured,
    /// Those of a tokenizer that there is; the text must be the one the configuration was decided for, if it was.
    Of(&'a Tokenizer),
    /// The same, with the characters that the data has more added to it.
    Extended(&'a Tokenizer),
}

/// The data that a configuration names, and the tokenizer that its ids are of.
///
/// # Errors
/// If it cannot be read, or is not what it must be.
pub fn read(config: &Config, words: Words) -> Result<(Tokenizer, Dataset)> {
    let known = match words {
        Words::Configured => None,
        Words::Of(known) | Words::Extended(known) => Some(known),
    };
    if let Some(files) = prepared::open(config, known)? {
        if let (Some((kind, train_split)), None) = (&files.made, known) {
            let other = |key: &str, value: String, made: String| {
                let allowed = format!("{made}, with which these token ids were made");
                Err(Error::Config { key: key.into(), value, allowed })
            };
            // What was not asked for is the default.
            let default = Config::default();
            if config.tokenizer != default.tokenizer && config.tokenizer != *kind {
                return other("tokenizer", config.tokenizer.clone().into(), kind.clone().into());
            }
            if config.train_split != default.train_split && config.train_split != *train_split {
                return other("train_split", config.train_split.to_string(), train_split.to_string());
            }
        }
        if let Words::Of(_) = words {
            let divided = files.made.as_ref().is_none_or(|(_, train_split)| *train_split == config.train_split);
            same_text(config, if divided { &files.sha256 } else { "of another train_split" })?;
        }
        return Ok((known.unwrap_or(&files.tokenizer).clone(), Dataset::of_files(files)));
    }
    let corpus = Corpus::open(config)?;
    Dataset::check_size(&corpus, corpus.known_bytes())?;
    let survey = Survey::of(&corpus, config)?;
    Dataset::check_size(&corpus, survey.bytes)?;
    if let Words::Of(_) = words {
        // Before it is encoded: that it has other characters is no more than a sign of it.
        same_text(config, &survey.sha256)?;
    }
    let tokenizer = match words {
        Words::Configured => tokenizer(config, &corpus, &survey)?,
        Words::Of(known) => known.clone(),
        Words::Extended(known) => known.extended(survey.alphabet(), survey.needs_end_of_text()),
    };
    let data = Dataset::new(&corpus, &survey, &tokenizer, config)?;
    Ok((tokenizer, data))
}

/// Refuses another text than the one a configuration was decided for, if it was.
pub(crate) fn same_text(config: &Config, sha256: &str) -> Result<()> {
    if config.data_sha256.is_empty() || config.data_sha256 == sha256 {
        return Ok(());
    }
    Err(Error::Data(format!(
        "{} is not the text this run was started with (SHA-256 {sha256}, was {}): bring that text back, or start a new run",
        config.data.join(", "),
        config.data_sha256
    )))
}

/// The tokenizer that a configuration asks for, of this corpus.
///
/// # Errors
/// If it cannot be read or learned.
pub fn tokenizer(config: &Config, corpus: &Corpus, survey: &Survey) -> Result<Tokenizer> {
    match &config.tokenizer {
        TokenizerKind::Char => Ok(survey.char_tokenizer()),
        TokenizerKind::Byte => Ok(Tokenizer::byte()),
        TokenizerKind::File(path) => Tokenizer::from_file(Path::new(path)),
        TokenizerKind::Bpe(size) => survey.learn_bpe(corpus, *size),
    }
}

/// Whether nothing is left to train.
fn is_over(config: &Config, state: &State) -> bool {
    state.step >= config.max_iters || config.patience > 0 && state.since_best >= config.patience
}

/// Bytes that training takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The weights.
    pub weights: u64,
    /// The optimizer's moments of what trains, and Muon's scratch space.
    pub optimizer: u64,
    /// A gradient of what trains for each shard.
    pub gradients: u64,
    /// Activations and their gradients, and what an estimate keeps of each sequence.
    pub activations: u64,
    /// Weights laid out for products.
    pub panels: u64,
    /// The weights that a fine-tuning began with.
    pub base: u64,
}

impl Memory {
    /// What a run of `config` takes, whose vocabulary must be known; shards default to one for each core.
    pub fn of(config: &Config) -> Memory {
        let model = Gpt::new(config);
        let (params, trainable) = (4 * model.layout.len() as u64, 4 * model.layout.trainable_len() as u64);
        let shards = shards::count(config, model.layout.trainable_len());
        let share = config.batch_size.div_ceil(shards);
        let (forward, backward) = model.activation_floats(share);
        let (eval, _) = model.activation_floats(share.min(shards::EVAL_ROWS.div_ceil(config.block_size)));
        // What is large beyond memory is only to be recognised as that.
        let of_shards = |floats: usize| (4 * shards as u64).saturating_mul(floats as u64);
        let sequences = 8 * config.eval_iters * config.batch_size as u64;
        let prepared = config.precision == Precision::Bf16 || model.layout.len() <= shards::LARGE;
        let groups = 0..=config.param_groups.len();
        let of_muon: Vec<Matrix> = groups.flat_map(|group| model.layout.matrices(group)).collect();
        let without_second = 4 * of_muon.iter().map(|matrix| matrix.span.len as u64).sum::<u64>();
        let scratch = of_muon.iter().map(Matrix::scratch).max().unwrap_or(0);
        Memory {
            weights: params,
            optimizer: 2 * trainable - without_second + 4 * (shards::cores() * scratch) as u64,
            gradients: (shards as u64).saturating_mul(trainable),
            activations: of_shards(forward + backward)
                .saturating_add(of_shards(eval / config.n_layer))
                .saturating_add(sequences),
            panels: if prepared { params } else { 0 },
            base: if config.base.is_empty() { 0 } else { 4 * model.layout.base_len as u64 },
        }
    }

    /// What the program takes besides, with a text of so many tokens.
    pub fn of_process(tokens: usize) -> u64 {
        // Code, allocator and thread stacks, and what reading the text leaves, measured; then the ids.
        (12 << 20) + 5 * tokens as u64
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        let Memory { weights, optimizer, gradients, activations, panels, base } = *self;
        [weights, optimizer, gradients, activations, panels, base].into_iter().fold(0, u64::saturating_add)
    }

    /// Refuses what this machine's memory cannot hold.
    ///
    /// # Errors
    /// If it does not fit.
    pub fn check(&self) -> Result<()> {
        machine::check_memory(self.total(), |need, have| {
            Error::BadConfig(format!(
                "training this model takes {need:.1} GiB of memory and this machine has {have:.1} GiB: \
                 lower batch_size, block_size, n_embd, n_layer or eval_iters"
            ))
        })
    }
}

/// What happens in a run, in order. Losses are means in nats per token.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The run begins or goes on.
    Start {
        /// Updates done before.
        step: u64,
        /// Updates in all.
        max_iters: u64,
        /// What the products of linear layers and Muon are in on this machine.
        precision: Precision,
        /// Parameters.
        params: usize,
        /// Those of them that train.
        trainable_params: usize,
        /// Words in the vocabulary.
        vocab_size: usize,
        /// Tokens of the training split.
        train_tokens: usize,
        /// Tokens of the validation split.
        val_tokens: usize,
        /// What no model can stay below on the validation split, where known.
        entropy_floor: Option<f64>,
        /// What is ahead, but for the time.
        plan: Plan,
        /// The run's folder.
        out: String,
    },
    /// An update was made.
    Step {
        /// Updates done.
        step: u64,
        /// Loss of the batch, before the update.
        loss: f64,
        /// Learning rate of the update.
        lr: f64,
        /// The gradient's norm, before it is clipped.
        grad_norm: f64,
        /// Tokens trained on per second, over the steps since the run began or went on.
        tokens_per_s: f64,
    },
    /// The loss was estimated and a checkpoint written.
    Estimate {
        /// Updates done.
        step: u64,
        /// Mean over `eval_iters` random batches of the training split.
        train_loss: f64,
        /// The same for the validation split.
        val_loss: f64,
        /// The same for the validation split of the data that a fine-tuning may forget.
        #[serde(skip_serializing_if = "Option::is_none")]
        old_val_loss: Option<f64>,
        /// `val_loss` in bits per byte of UTF-8, which compares where tokens differ.
        bits_per_byte: f64,
        /// Seconds spent on training steps so far, all sessions together.
        train_s: f64,
    },
    /// The run knows how long it will take.
    Planned {
        /// Updates done.
        step: u64,
        /// What is ahead.
        plan: Plan,
    },
    /// Something went wrong that training can go on without.
    Warning {
        /// Updates done.
        step: u64,
        /// What, where, and what is done about it.
        warning: String,
    },
    /// An update was refused by the guard against divergence.
    Diverged {
        /// Updates done, after what was done about it.
        step: u64,
        /// What was done.
        action: OnDivergence,
        /// Returns to a checkpoint so far.
        rollbacks: u64,
        /// What happened.
        #[serde(flatten)]
        divergence: Divergence,
    },
    /// The validation loss has not fallen for `patience` estimates.
    EarlyStop {
        /// Updates done.
        step: u64,
        /// The lowest estimate.
        best_val_loss: f64,
        /// And its step.
        best_step: u64,
    },
    /// The loss is being measured, which can take a while.
    Measuring {
        /// Updates done.
        step: u64,
        /// Sequences done.
        done: usize,
        /// Sequences in all.
        of: usize,
    },
    /// The run was asked to stop; a checkpoint was written.
    Interrupted {
        /// Updates done.
        step: u64,
        /// The run's folder.
        out: String,
    },
    /// The run is complete.
    Done {
        /// Updates done.
        step: u64,
        /// Parameters.
        params: usize,
        /// The last estimates.
        train_loss: f64,
        /// The last estimates.
        val_loss: f64,
        /// Over every position of the validation split.
        val_loss_exact: f64,
        /// Standard error of that.
        val_loss_stderr: f64,
        /// `val_loss_exact` in bits per character.
        bits_per_char: f64,
        /// `val_loss_exact` in bits per byte of UTF-8.
        bits_per_byte: f64,
        /// The lowest estimate of the validation loss.
        best_val_loss: f64,
        /// And its step.
        best_step: u64,
        /// Of a fine-tuning: what it changed.
        #[serde(flatten, skip_serializing_if = "Option::is_none")]
        change: Option<Change>,
        /// What no model can stay below, where known.
        entropy_floor: Option<f64>,
        /// The best model that only counts, on the validation split of a text: what is to be beaten; none of a brief job.
        baseline: Option<Baseline>,
        /// Mean over the whole run, evaluations apart.
        ms_per_step: f64,
        /// Tokens trained on per second.
        tokens_per_s: f64,
        /// Seconds from the start, evaluations and checkpoints included.
        wall_s: f64,
        /// The most memory that training took at once, where the system tells.
        peak_memory_mib: Option<f64>,
        /// The run's folder.
        out: String,
    },
}

/// What a fine-tuning changed, by its estimates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Validation loss before the first update.
    pub val_loss_before: f64,
    /// Validation loss of the old data then.
    pub old_val_loss_before: Option<f64>,
    /// And at the end.
    pub old_val_loss: Option<f64>,
}

/// Trains until `max_iters`, or until `stop` is set; then a checkpoint is written and the last event is
/// [`Event::Interrupted`]. Every event goes to `observe`; returns the last.
///
/// `threads` is how many work at once (0: one for each core); the result does not depend on it.
///
/// What cannot be written on the way is an [`Event::Warning`], and tried again with the next estimate.
///
/// # Errors
/// If the training diverges and the configuration does not say how to go on, or what is there at the end cannot be
/// written. The last checkpoint stays.
pub fn run(
    job: &Job,
    be: &Cpu,
    threads: usize,
    stop: &AtomicBool,
    mut observe: impl FnMut(&Event) + Send,
) -> Result<Event> {
    with_threads(threads, || train(job, be, stop, &mut observe))
}

/// Everything that changes while a run goes on.
struct Run<'a> {
    job: &'a Job,
    be: Cpu,
    model: Gpt,
    shards: Shards<Cpu>,
    optimizer: Optimizer<Cpu>,
    p: Buf,
    state: State,
    /// The step whose checkpoint is on the disk.
    saved: Option<u64>,
    folder: RunDir,
    metrics: Metrics,
    curves: Curves,
    /// The sequences of the current update.
    batch: Batch,
    stop: &'a AtomicBool,
    observe: &'a mut (dyn FnMut(&Event) + Send),
    /// When this session began, and the run's time and step then.
    began: (Instant, f64, u64),
    /// What this session measured of itself.
    speed: Speed,
    /// Whether the plan was told.
    planned: bool,
    /// Whether the last line of metrics could not be written.
    unwritten: bool,
}

fn train(job: &Job, be: &Cpu, stop: &AtomicBool, observe: &mut (dyn FnMut(&Event) + Send)) -> Result<Event> {
    let mut run = Run::new(job, be, stop, observe)?;
    let config = &job.run.config;
    loop {
        let step = run.state.step;
        let estimated = run.curves.points.last().is_some_and(|point| point.0 == step);
        if (step.is_multiple_of(config.eval_interval) || step == config.max_iters) && !estimated {
            run.estimate()?;
        }
        if run.stopped() {
            return run.interrupted();
        }
        if is_over(config, &run.state) {
            return run.finish();
        }
        run.step()?;
    }
}

impl<'a> Run<'a> {
    fn new(job: &'a Job, be: &Cpu, stop: &'a AtomicBool, observe: &'a mut (dyn FnMut(&Event) + Send)) -> Result<Self> {
        let began = Instant::now();
        let Job { run, data, .. } = job;
        let config = &run.config;
        let be = be.with_precision(config.precision);
        let model = Gpt::new(config);
        let shards = Shards::new(&be, &model, config.batch_size, config.shards, true);
        let mut optimizer = Optimizer::new(&be, &model.layout, config);
        let mut p = be.zeros(model.layout.len());
        let state = match &job.from {
            None => {
                be.upload(&mut p, 0, &model.layout.init(config.seed));
                be.upload(&mut p, 0, job.base.as_deref().unwrap_or_default());
                State::default()
            }
            Some(from) => {
                be.upload(&mut p, 0, &from.weights);
                optimizer.restore(&be, &from.m, &from.v);
                from.state.clone()
            }
        };
        let mut folder = run.clone();
        let metrics = folder.continue_metrics(&state)?;
        observe(&Event::Start {
            step: state.step,
            max_iters: config.max_iters,
            precision: be.precision(),
            params: model.layout.len(),
            trainable_params: model.layout.trainable_len(),
            vocab_size: config.vocab_size,
            train_tokens: data.train.tokens(),
            val_tokens: data.val.tokens(),
            entropy_floor: data.floor,
            plan: Plan::new(config, &model, data, job.old.as_ref()),
            out: run.path().display().to_string(),
        });
        let (points, old) = estimates(&folder)?;
        let curves = Curves { points, old, floor: data.floor };
        let saved = job.from.as_ref().map(|from| from.state.step);
        let began = (began, state.wall_s, state.step);
        let speed = Speed::default();
        let (planned, unwritten) = (false, false);
        let mut run = Run {
            job,
            be,
            model,
            shards,
            optimizer,
            p,
            state,
            saved,
            folder,
            metrics,
            curves,
            batch: Batch::default(),
            stop,
            observe,
            began,
            speed,
            planned,
            unwritten,
        };
        data.notes.iter().for_each(|note| run.warn(note.clone()));
        run.tell_warnings();
        Ok(run)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn warn(&mut self, warning: String) {
        (self.observe)(&Event::Warning { step: self.state.step, warning });
    }

    /// Passes on what reading the run's folder found.
    fn tell_warnings(&mut self) {
        for warning in std::mem::take(&mut self.folder.warnings) {
            self.warn(warning);
        }
    }

    /// Tells an event and writes it to the metrics.
    fn record(&mut self, event: Event) {
        let appended = self.metrics.append(&event);
        if let Err(error) = &appended
            && !self.unwritten
        {
            self.warn(format!("{}; what is not written is kept for later", with_source(error)));
        }
        self.unwritten = appended.is_err();
        (self.observe)(&event);
    }

    /// Measures what `measure` does, telling how far it is; none if the run was asked to stop.
    fn measure<T>(
        &mut self,
        measure: impl FnOnce(
            &Cpu,
            &Gpt,
            &mut Shards<Cpu>,
            &Buf,
            &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
        ) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let Run { be, model, shards, p, state, stop, observe, .. } = self;
        shards::prepare_to_read(be, model, p);
        let step = state.step;
        let mut progress = |done, of| {
            observe(&Event::Measuring { step, done, of });
            if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        measure(be, model, shards, p, &mut progress)
    }

    /// Estimates both losses and writes a checkpoint.
    fn estimate(&mut self) -> Result<()> {
        let Job { run: RunDir { config, .. }, data, old, .. } = self.job;
        let step = self.state.step;
        let clock = Instant::now();
        let losses = self.measure(|be, model, shards, p, progress| {
            let mut loss =
                |split, purpose| eval::estimate(be, model, shards, p, split, purpose, config, step, &mut *progress);
            let train = loss(&data.train, Purpose::EstimateTrain)?;
            let val = loss(&data.val, Purpose::EstimateVal)?;
            let old = old.as_ref().map(|old| loss(&old.val, Purpose::EstimateVal)).transpose()?;
            // None inside: it was asked to stop.
            let old = old.map_or(Some(None), |loss| loss.map(Some));
            Ok(train.zip(val).zip(old))
        });
        let Some(((train_loss, val_loss), old_val_loss)) = losses? else { return Ok(()) };
        self.speed.estimate.add(clock, 1.0);
        self.curves.points.push((step, train_loss, val_loss));
        self.curves.old.extend(old_val_loss.map(|loss| (step, loss)));
        let before = (self.state.best, self.state.since_best);
        if self.state.best.is_none_or(|(best, _)| val_loss < best) {
            (self.state.best, self.state.since_best) = (Some((val_loss, step)), 0);
        } else {
            self.state.since_best += 1;
        }
        let bits_per_byte = val_loss / LN_2 * data.val.tokens_per_byte_and_char().0;
        let train_s = self.state.train_s;
        self.record(Event::Estimate { step, train_loss, val_loss, old_val_loss, bits_per_byte, train_s });
        let clock = Instant::now();
        if let Err(error) = self.save() {
            if is_over(config, &self.state) {
                return Err(error);
            }
            // What could not be saved cannot be the best.
            (self.state.best, self.state.since_best) = before;
            let last =
                self.saved.map_or("there is none yet".to_owned(), |step| format!("the last one is of step {step}"));
            self.warn(format!(
                "NO CHECKPOINT WAS WRITTEN: {}; {last}. Training goes on and tries again at the next estimate",
                with_source(&error)
            ));
        }
        let title = format!("{}: loss", self.folder.path().file_name().unwrap_or_default().display());
        if let Err(error) = self.folder.write("loss.svg", loss_svg(&title, &self.curves).as_bytes()) {
            self.warn(with_source(&error));
        }
        self.speed.checkpoint.add(clock, 1.0);
        Ok(())
    }

    /// Writes a checkpoint, unless it is there.
    fn save(&mut self) -> Result<()> {
        let (began, wall_before, _) = self.began;
        self.state.wall_s = wall_before + began.elapsed().as_secs_f64();
        if self.saved != Some(self.state.step) {
            let Run { optimizer, p, state, .. } = &*self;
            let checkpoint = Checkpoint { state: state.clone(), weights: &**p, m: &*optimizer.m, v: &*optimizer.v };
            self.folder.save(&self.model.layout, &checkpoint)?;
            self.saved = Some(self.state.step);
        }
        if let Err(error) = self.folder.tidy(&self.state) {
            self.warn(with_source(&error));
        }
        Ok(())
    }

    /// One update, if the guard allows it.
    fn step(&mut self) -> Result<()> {
        let config = &self.job.run.config;
        let clock = Instant::now();
        let Run { be, model, shards, optimizer, p, state, batch, .. } = self;
        let step = state.step;
        let old = self.job.old.as_ref().map(|old| &old.train);
        self.job.data.train.load_step(config, step, old, batch)?;
        be.prepare(p, &model.layout.linears(), true);
        let (loss, grad_norm) = shards.gradient(be, model, p, batch, config.seed, step);
        let g = shards.last_gradient();
        if let Err(divergence) = state.guard.judge(config, &model.layout, g, step + 1, loss, grad_norm) {
            return self.diverged(divergence);
        }
        let lr_scale = state.guard.lr_scale(config);
        optimizer.step(be, p, g, grad_norm, lr_scale, step);
        state.step += 1;
        state.train_s += clock.elapsed().as_secs_f64();
        self.speed.step.add(clock, 1.0);
        let step = state.step;
        let tokens_per_s = config.tokens_per_step() / self.speed.step.mean_s();
        let lr = lr_scale * config.lr(step - 1);
        let event = Event::Step { step, loss, lr, grad_norm, tokens_per_s };
        if step.is_multiple_of(config.log_interval) {
            self.record(event);
        } else {
            (self.observe)(&event);
        }
        if !self.planned && self.speed.is_known() {
            self.planned = true;
            let mut plan = Plan::new(config, &self.model, &self.job.data, self.job.old.as_ref());
            plan.set_speed(&self.speed, config, &self.job.data, self.began.2);
            (self.observe)(&Event::Planned { step, plan });
        }
        Ok(())
    }

    /// Does what the configuration says about an update that the guard refused.
    fn diverged(&mut self, divergence: Divergence) -> Result<()> {
        let config = &self.job.run.config;
        let action = self.state.guard.action(config);
        match action {
            OnDivergence::Stop => {}
            OnDivergence::Skip => {
                self.state.guard.skipped += 1;
                self.state.step += 1;
            }
            OnDivergence::Rollback => {
                // Not one that an interruption left: where a run returns to must not depend on those.
                let estimated = |step: u64| step.is_multiple_of(config.eval_interval);
                let Checkpoint { state, weights, m, v } =
                    self.folder.load(&self.model.layout, self.job.base.as_deref(), estimated)?;
                self.tell_warnings();
                self.be.upload(&mut self.p, 0, &weights);
                self.optimizer.restore(&self.be, &m, &v);
                let rollbacks = self.state.guard.rollbacks + 1;
                self.state = State {
                    guard: Guard { rollbacks, ..state.guard },
                    wall_s: self.state.wall_s,
                    train_s: self.state.train_s,
                    ..state
                };
                self.saved = Some(self.state.step);
                self.metrics = self.folder.continue_metrics(&self.state)?;
                self.curves.points.retain(|point| point.0 <= self.state.step);
                self.curves.old.retain(|point| point.0 <= self.state.step);
            }
        }
        let step = self.state.step;
        let rollbacks = self.state.guard.rollbacks;
        self.record(Event::Diverged { step, action, rollbacks, divergence: divergence.clone() });
        if action == OnDivergence::Stop { Err(Error::Diverged(Box::new(divergence))) } else { Ok(()) }
    }

    /// What the model writes: a text or, of conversations, answers to the first ones it has not learned from.
    fn sample(&self) -> Result<String> {
        let Job { run: RunDir { tokenizer, .. }, data, .. } = self.job;
        let write = |prompt: &[u32], tokens: usize, end: Option<u32>| {
            let mut writer = Generator::new(&self.be, &self.model, &self.p, prompt, Sampling::default(), 0);
            let ids: Vec<u32> = (0..tokens).map(|_| writer.next_token()).take_while(|&id| Some(id) != end).collect();
            tokenizer.decode(&ids)
        };
        if !data.val.is_conversations() {
            return Ok(write(&[start_of_text(tokenizer)], SAMPLE_TOKENS, None));
        }
        let mut batch = Batch::default();
        let mut text = String::new();
        for i in 0..data.val.windows().min(SAMPLE_ANSWERS) {
            data.val.window(i, &mut batch)?;
            let (ids, targets) = batch.sequence(i);
            let said = targets.iter().position(|&target| target != IGNORE).map_or(ids.len(), |at| at + 1);
            let answer = write(&ids[..said], SAMPLE_TOKENS / SAMPLE_ANSWERS, tokenizer.end_of_text());
            text += &format!("{}{answer}\n", tokenizer.decode(&ids[..said]));
        }
        Ok(text)
    }

    fn interrupted(mut self) -> Result<Event> {
        self.save()?;
        let event = Event::Interrupted { step: self.state.step, out: self.folder.path().display().to_string() };
        (self.observe)(&event);
        Ok(event)
    }

    /// The exact loss, a sample, and the last event.
    fn finish(mut self) -> Result<Event> {
        let Job { run: RunDir { config, .. }, data, .. } = self.job;
        let step = self.state.step;
        let (best_val_loss, best_step) = self.state.best.expect("the last step was estimated");
        if step < config.max_iters {
            self.record(Event::EarlyStop { step, best_val_loss, best_step });
        }
        let exact =
            self.measure(|be, model, shards, p, progress| eval::exact(be, model, shards, p, &data.val, progress));
        let Some(exact) = exact? else { return self.interrupted() };
        if !self.job.brief {
            let sample = self.sample()?;
            if let Err(error) = self.folder.write("sample.txt", sample.as_bytes()) {
                self.warn(with_source(&error));
            }
        }
        let (_, train_loss, val_loss) = *self.curves.points.last().expect("the last step was estimated");
        let before = self.curves.points.iter().find(|point| point.0 == 0);
        let change = before.filter(|_| !config.base.is_empty()).map(|before| Change {
            val_loss_before: before.2,
            old_val_loss_before: self.curves.old.iter().find(|point| point.0 == 0).map(|point| point.1),
            old_val_loss: self.curves.old.last().map(|point| point.1),
        });
        let (began, wall_before, _) = self.began;
        // Before the counting, which is no part of training.
        let peak_memory_mib = machine::peak_memory_mib();
        let baseline = if self.job.brief { None } else { baselines::best(data, config.vocab_size)? };
        let done = Event::Done {
            step,
            params: self.model.layout.len(),
            train_loss,
            val_loss,
            val_loss_exact: exact.loss,
            val_loss_stderr: exact.stderr,
            bits_per_char: exact.bits_per_char,
            bits_per_byte: exact.bits_per_byte,
            best_val_loss,
            best_step,
            change,
            entropy_floor: data.floor,
            baseline,
            ms_per_step: 1e3 * self.state.train_s / step as f64,
            tokens_per_s: config.tokens_per_step() * step as f64 / self.state.train_s,
            wall_s: wall_before + began.elapsed().as_secs_f64(),
            peak_memory_mib,
            out: self.folder.path().display().to_string(),
        };
        self.record(done.clone());
        Ok(done)
    }
}

/// The estimates in a run's metrics: (step, train, val) and (step, old val).
#[expect(clippy::type_complexity, reason = "as they stand in Curves")]
fn estimates(run: &RunDir) -> Result<(Vec<(u64, f64, f64)>, Vec<(u64, f64)>)> {
    let (mut points, mut old) = (Vec::new(), Vec::new());
    for event in run.metrics()?.iter().filter(|event| event["event"] == "estimate") {
        let Some(step) = event["step"].as_u64() else { continue };
        let number = |key: &str| event[key].as_f64().unwrap_or(f64::NAN);
        points.push((step, number("train_loss"), number("val_loss")));
        old.extend(event["old_val_loss"].as_f64().map(|loss| (step, loss)));
    }
    Ok((points, old))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adapters on weights that the job is given: the same bits with and without an interruption.
    #[test]
    fn adapters_train_on_given_weights_and_go_on_from_a_checkpoint() {
        let temp = tempfile::tempdir().unwrap();
        let mut config = Config { data: vec!["builtin".into()], n_embd: 16, n_layer: 2, ..Config::default() };
        let settings =
            ["max_iters=8", "eval_interval=4", "eval_iters=1", "shards=2", "lora_rank=4", "lora_dropout=0.1"];
        settings.iter().for_each(|setting| config.set(setting).unwrap());
        let error = Job::start(config.clone(), temp.path()).unwrap_err().to_string();
        assert!(error.contains("lora_rank = 4: must be 0 in a new run"), "{error}");
        let (config, tokenizer, data) = prepare(config).unwrap();
        let layout = Layout::new(&config);
        let base = layout.init(99)[..layout.base_len].to_vec();
        let train = |name: &str, stop_at: Option<u64>| {
            let path = temp.path().join(name);
            let created = RunDir::create(&path, config.clone(), tokenizer.clone(), None).or_else(|_| {
                let run = RunDir::open(&path)?;
                let lock = run.lock()?;
                Ok::<_, Error>((run, lock))
            });
            let (mut run, lock) = created.unwrap();
            let from = run.load(&layout, Some(&base), |_| true).ok();
            run.warnings.clear();
            let job = Job::new(run.clone(), lock, data.clone(), None, Some(base.clone()), from);
            let stop = AtomicBool::new(false);
            let observe = |event: &Event| {
                if let Event::Step { step, .. } = event {
                    stop.store(Some(*step) == stop_at, Ordering::Relaxed);
                }
            };
            super::run(&job, &Cpu::new().unwrap(), 2, &stop, observe).unwrap();
            run.load(&layout, Some(&base), |_| true).unwrap()
        };
        let whole = train("whole", None);
        assert_eq!(train("stopped", Some(3)).state.step, 3);
        let stopped = train("stopped", None);
        assert_eq!((whole.state.step, &whole.weights), (8, &stopped.weights));
        assert!(whole.m == stopped.m && whole.v == stopped.v);
        assert_eq!(whole.weights[..layout.base_len], base);
        assert!(whole.weights[layout.base_len..] != layout.init(config.seed)[layout.base_len..]);
    }
}
