//! Training: what a run starts from, and the loop.

use crate::{
    backend::{Backend, Cpu},
    config::{Config, FIELDS, FORMAT_VERSION, Precision},
    data::{Dataset, Text},
    error::{Error, Result},
    eval::{self, Exact},
    model::Gpt,
    optim::Optimizer,
    plot::{Curves, loss_svg},
    rng::Purpose,
    run::{Checkpoint, RunDir, State, Which},
    sample::{Generator, Sampling},
    shards::{self, Shards, with_threads},
    tokenizer::CharTokenizer,
};
use serde::Serialize;
use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

/// Characters in `sample.txt`.
const SAMPLE_TOKENS: usize = 500;

/// A run that is ready to start or to go on.
#[derive(Debug)]
pub struct Job {
    /// The configuration, with nothing left to be decided.
    pub config: Config,
    /// How the text becomes tokens.
    pub tokenizer: CharTokenizer,
    /// The tokens.
    pub data: Dataset,
    /// Where everything is written.
    pub run: RunDir,
    /// The checkpoint to go on from.
    pub from: Option<Checkpoint>,
}

impl Job {
    /// Prepares a new run: reads the text that `config.data` names, builds the tokenizer, decides what the
    /// configuration leaves open (vocabulary, shards), and creates the folder `out`.
    ///
    /// # Errors
    /// If the configuration, the text or the folder will not do. Nothing is written then.
    pub fn start(mut config: Config, out: &Path) -> Result<Job> {
        config.check()?;
        let text = Text::load(&config.data)?;
        let tokenizer = CharTokenizer::train(&text.text);
        let words = tokenizer.vocab_size();
        if config.vocab_size == 0 {
            config.vocab_size = words;
        } else if config.vocab_size < words {
            return Err(Error::Config {
                key: "vocab_size".into(),
                value: config.vocab_size.to_string(),
                allowed: format!("0 or at least {words}, the distinct characters of the text"),
            });
        }
        config.shards = shards::count(&config, Gpt::new(&config).layout.len());
        config.data_sha256.clone_from(&text.sha256);
        Memory::of(&config).check()?;
        let data = Dataset::new(&text, &tokenizer, &config)?;
        let run = RunDir::create(out, &config, &tokenizer)?;
        Ok(Job { config, tokenizer, data, run, from: None })
    }

    /// Prepares to go on with a run, with `settings` (`key=value`) changed. What defines the model, the data and the
    /// random numbers cannot change.
    ///
    /// # Errors
    /// If there is no run, its text is not there or not the same, or a setting is not allowed.
    pub fn resume(out: &Path, settings: &[String]) -> Result<Job> {
        let run = RunDir::open(out)?;
        let before = run.config()?;
        let mut config = before.clone();
        settings.iter().try_for_each(|setting| config.set(setting))?;
        config.check()?;
        for field in FIELDS {
            let fixed =
                matches!(field.section, "model" | "data") || matches!(field.key, "seed" | "shards" | "batch_size");
            if fixed && config.value(field.key) != before.value(field.key) {
                return Err(Error::Config {
                    key: field.key.into(),
                    value: config.value(field.key).to_string(),
                    allowed: format!("{}, as the run began; start a new run to change it", before.value(field.key)),
                });
            }
        }
        let text = Text::load(&config.data)?;
        if text.sha256 != config.data_sha256 {
            return Err(Error::Data(format!(
                "{} is not the text this run was started with (SHA-256 {}, was {}): bring that text back, \
                 or start a new run",
                config.data.join(", "),
                text.sha256,
                config.data_sha256
            )));
        }
        let tokenizer = run.tokenizer()?;
        let data = Dataset::new(&text, &tokenizer, &config)?;
        let has_checkpoint = run.checkpoint_folder(Which::Last).is_ok();
        let from = has_checkpoint.then(|| run.load(&Gpt::new(&config).layout, Which::Last)).transpose()?;
        // A run killed while it measured its last loss has all its steps, but is not done.
        let done = run.metrics()?.iter().any(|event| event["event"] == "done");
        let step = from.as_ref().map_or(0, |from| from.state.step);
        if step > config.max_iters || step == config.max_iters && done {
            let what = format!("this run is done: {step} of {} steps; --set max_iters=N adds more", config.max_iters);
            return Err(Error::run(out, what));
        }
        if config != before {
            run.write_config(&config)?;
        }
        Ok(Job { config, tokenizer, data, run, from })
    }
}

/// Bytes that training takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The weights.
    pub weights: u64,
    /// AdamW's moments.
    pub optimizer: u64,
    /// A gradient buffer for each shard.
    pub gradients: u64,
    /// Activations and their gradients.
    pub activations: u64,
}

impl Memory {
    /// What a run of `config` takes, whose vocabulary must be known; shards default to one for each core.
    pub fn of(config: &Config) -> Memory {
        let model = Gpt::new(config);
        let params = 4 * model.layout.len() as u64;
        let shards = shards::count(config, model.layout.len());
        let share = config.batch_size.div_ceil(shards);
        let (forward, backward) = model.activation_floats(share);
        Memory {
            weights: params,
            optimizer: 2 * params,
            gradients: shards as u64 * params,
            activations: shards as u64 * 4 * (forward + backward) as u64,
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.optimizer + self.gradients + self.activations
    }

    /// Refuses what this machine's memory cannot hold.
    ///
    /// # Errors
    /// If it does not fit.
    pub fn check(&self) -> Result<()> {
        let system = sysinfo::System::new_with_specifics(
            sysinfo::RefreshKind::nothing().with_memory(sysinfo::MemoryRefreshKind::nothing().with_ram()),
        );
        let (need, have) =
            (self.total() as f64 / (1u64 << 30) as f64, system.total_memory() as f64 / (1u64 << 30) as f64);
        if have > 0.0 && need > have {
            return Err(Error::BadConfig(format!(
                "training this model takes {need:.1} GiB of memory and this machine has {have:.1} GiB: \
                 lower batch_size, block_size, n_embd or n_layer"
            )));
        }
        Ok(())
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
        /// What linear layers compute in on this machine.
        precision: Precision,
        /// Parameters.
        params: usize,
        /// Words in the vocabulary.
        vocab_size: usize,
        /// Tokens of the training split.
        train_tokens: usize,
        /// Tokens of the validation split.
        val_tokens: usize,
        /// What no model can stay below on the validation split, where known.
        entropy_floor: Option<f64>,
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
        /// The gradient's norm, where it is clipped.
        #[serde(skip_serializing_if = "Option::is_none")]
        grad_norm: Option<f64>,
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
        /// The lowest estimate of the validation loss.
        best_val_loss: f64,
        /// And its step.
        best_step: u64,
        /// What no model can stay below, where known.
        entropy_floor: Option<f64>,
        /// Mean over the whole run, evaluations apart.
        ms_per_step: f64,
        /// Tokens trained on per second.
        tokens_per_s: f64,
        /// Seconds from the start, evaluations and checkpoints included.
        wall_s: f64,
        /// The most memory this process had at once, where the system tells.
        peak_memory_mib: Option<f64>,
        /// The run's folder.
        out: String,
    },
}

/// Trains until `max_iters`, or until `stop` is set; then a checkpoint is written and the last event is
/// [`Event::Interrupted`]. Every event goes to `observe`; returns the last.
///
/// `threads` is how many work at once (0: one for each core); the result does not depend on it.
///
/// # Errors
/// If the loss is no longer finite, or something cannot be written. The last checkpoint stays.
pub fn run(
    job: &Job,
    be: &Cpu,
    threads: usize,
    stop: &AtomicBool,
    observe: impl FnMut(&Event) + Send,
) -> Result<Event> {
    with_threads(threads, || train(job, be, stop, observe))
}

fn train(job: &Job, be: &Cpu, stop: &AtomicBool, mut observe: impl FnMut(&Event)) -> Result<Event> {
    let Job { config, data, run, .. } = job;
    let began = Instant::now();
    let be = &be.with_precision(config.precision);
    let model = Gpt::new(config);
    let linears = model.layout.linears();
    let mut shards = Shards::new(be, &model, config.batch_size, config.shards, true);
    let mut optimizer = Optimizer::new(be, &model.layout, config);
    let mut p = be.zeros(model.layout.len());
    let mut state = State { format_version: FORMAT_VERSION, step: 0, best: None, wall_s: 0.0, train_s: 0.0 };
    match &job.from {
        None => be.upload(&mut p, &model.layout.init(config.seed)),
        Some(from) => {
            state = from.state.clone();
            be.upload(&mut p, &from.weights);
            be.upload(&mut optimizer.m, &from.m);
            be.upload(&mut optimizer.v, &from.v);
        }
    }
    let (start_step, start_wall, start_train) = (state.step, state.wall_s, state.train_s);
    let mut metrics = run.continue_metrics(state.step)?;
    let mut curves = Curves { points: estimates(run)?, floor: data.floor };
    let out = run.path().display().to_string();
    observe(&Event::Start {
        step: state.step,
        max_iters: config.max_iters,
        precision: be.precision(),
        params: model.layout.len(),
        vocab_size: config.vocab_size,
        train_tokens: data.train.ids().len(),
        val_tokens: data.val.ids().len(),
        entropy_floor: data.floor,
        out: out.clone(),
    });
    let batches = config.gradient_accumulation_steps;
    let tokens_per_step = (batches * config.batch_size * config.block_size) as f64;
    let title = format!("{}: loss", run.path().file_name().unwrap_or_default().display());

    loop {
        let step = state.step;
        let last = step == config.max_iters;
        let estimated = curves.points.last().is_some_and(|point| point.0 == step);
        if (step.is_multiple_of(config.eval_interval) || last) && !estimated {
            shards::prepare_to_read(be, &model, &mut p);
            let mut loss = |split, purpose| {
                let progress = |done, of| observe(&Event::Measuring { step, done, of });
                eval::estimate(be, &model, &mut shards, &p, split, purpose, config, step, progress)
            };
            let train_loss = loss(&data.train, Purpose::EstimateTrain);
            let val_loss = loss(&data.val, Purpose::EstimateVal);
            curves.points.push((step, train_loss, val_loss));
            if state.best.is_none_or(|(best, _)| val_loss < best) {
                state.best = Some((val_loss, step));
            }
            state.wall_s = start_wall + began.elapsed().as_secs_f64();
            let event = Event::Estimate { step, train_loss, val_loss };
            metrics.append(&event)?;
            save(run, &model, &p, &optimizer, &state)?;
            run.write("loss.svg", loss_svg(&title, &curves).as_bytes())?;
            observe(&event);
        }
        if last {
            break;
        }
        if stop.load(Ordering::Relaxed) {
            state.wall_s = start_wall + began.elapsed().as_secs_f64();
            save(run, &model, &p, &optimizer, &state)?;
            let event = Event::Interrupted { step, out };
            observe(&event);
            return Ok(event);
        }

        let clock = Instant::now();
        be.prepare(&mut p, &linears, true);
        let sequence = |i| data.train.sample(config.seed, Purpose::Batch, step, i);
        let loss = shards.gradient(be, &model, &p, batches, config.seed, step, sequence);
        if !loss.is_finite() {
            return Err(Error::Diverged { step, loss });
        }
        let grad_norm = optimizer.step(be, &mut p, shards.last_gradient(), config, step);
        state.step += 1;
        state.train_s += clock.elapsed().as_secs_f64();
        let tokens_per_s = tokens_per_step * (state.step - start_step) as f64 / (state.train_s - start_train);
        let event = Event::Step { step: state.step, loss, lr: config.lr(step), grad_norm, tokens_per_s };
        if state.step.is_multiple_of(config.log_interval) {
            metrics.append(&event)?;
        }
        observe(&event);
    }

    shards::prepare_to_read(be, &model, &mut p);
    let progress = |done, of| observe(&Event::Measuring { step: state.step, done, of });
    let exact: Exact = eval::exact(be, &model, &mut shards, &p, &data.val, progress);
    let mut writer = Generator::new(be, &model, &p, &[0], Sampling::default(), 0);
    let ids: Vec<u32> = (0..SAMPLE_TOKENS).map(|_| writer.next_token()).collect();
    run.write("sample.txt", job.tokenizer.decode(&ids).as_bytes())?;
    let (_, train_loss, val_loss) = *curves.points.last().expect("the last step is estimated");
    let (best_val_loss, best_step) = state.best.expect("the last step is estimated");
    let done = Event::Done {
        step: state.step,
        params: model.layout.len(),
        train_loss,
        val_loss,
        val_loss_exact: exact.loss,
        val_loss_stderr: exact.stderr,
        bits_per_char: exact.bits_per_char,
        best_val_loss,
        best_step,
        entropy_floor: data.floor,
        ms_per_step: 1e3 * state.train_s / state.step as f64,
        tokens_per_s: tokens_per_step * state.step as f64 / state.train_s,
        wall_s: start_wall + began.elapsed().as_secs_f64(),
        peak_memory_mib: peak_memory_mib(),
        out,
    };
    metrics.append(&done)?;
    observe(&done);
    Ok(done)
}

/// The most memory this process had at once, from Linux's `/proc`.
fn peak_memory_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix("kB")?.trim();
    Some(kib.parse::<f64>().ok()? / 1024.0)
}

/// The estimates in a run's metrics.
fn estimates(run: &RunDir) -> Result<Vec<(u64, f64, f64)>> {
    let events = run.metrics()?;
    let point = |event: &serde_json::Value| {
        let number = |key: &str| event[key].as_f64().unwrap_or(f64::NAN);
        Some((event["step"].as_u64()?, number("train_loss"), number("val_loss")))
    };
    Ok(events.iter().filter(|event| event["event"] == "estimate").filter_map(point).collect())
}

fn save(run: &RunDir, model: &Gpt, p: &[f32], optimizer: &Optimizer<Cpu>, state: &State) -> Result<()> {
    run.save(&model.layout, &Checkpoint { state: state.clone(), weights: p, m: &optimizer.m, v: &optimizer.v })
}
