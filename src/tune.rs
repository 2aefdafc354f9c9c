//! Hyperparameter search: a learning-rate range test, then successive halving over the swept keys, within a time
//! budget.
//!
//! Every trial is a complete run with its own folder, and its schedule is scaled to its own length, so that the
//! compared models have decayed alike. All trials of a rung share seed, text and validation windows. The winner and the
//! original configuration are trained again with other seeds, and those losses are reported as well. Which settings are
//! tried depends only on the configuration, the sweeps, the seed, and the rungs in `tune.json`; the results are in the
//! runs' folders. So an interrupted search resumes where it stopped.
//!
//! ```text
//! tune.json        the search plan: configuration, sweeps, range test, rungs; with a checksum
//! trials/NNN-rungK, trials/NNN-seedS    one run each; only the best one keeps its checkpoints
//! best.toml        the best configuration found
//! trials.md        all settings tried, best first
//! tune.svg         the range test, and loss against each swept key
//! lock             the process that is tuning, or was
//! ```

mod outcome;
mod plan;
mod plot;
mod progress;
mod range;
mod space;
mod stored;

use crate::{
    data::{self, Dataset, Origin, TokenizerChoice},
    hands::{self, Ended, Hands, Tasks},
    run::{CONFIG, RunDir},
    system::disk::{self, Lock},
    text::{source, tokenizer::Tokenizer},
    train::{self, Job, trial},
};
use kinglet_core::{
    backend::{Backward, Cpu, Forward},
    config::Config,
    error::{Error, Result},
    model::Gpt,
    threads::with_threads,
};
use plan::{CHECKS, PLANNED, TrialSpeed};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};
use stored::{FILE, FORMAT_VERSION, TRIALS, TuneFile, read};

pub use outcome::{Check, Outcome};
pub use plan::Rung;
pub use progress::{Plan, Planned, best_trial, trial_of};
pub use range::RangeTest;
pub(crate) use space::values_of;
pub use space::{Sweep, Values};

/// Default number of settings to try: for one key, and for several.
const SETTINGS: (usize, usize) = (9, 27);

/// Maximum batches per estimate in a trial; trials are ranked by the exact loss at the end.
const EVAL_ITERS: u64 = 10;

/// Maximum estimates in a trial, not counting the first. Each writes a checkpoint from which a killed trial can resume.
const ESTIMATES: u64 = 5;

/// Fraction of the budget that the range test may take.
const RANGE_PART: f64 = 0.1;

/// A request for a search.
#[derive(Clone, Debug)]
pub struct Request {
    /// The starting configuration, and the one to beat.
    pub config: Config,
    /// Where the data come from.
    pub origin: Origin,
    /// The keys to vary; if empty, the learning rate, in the range that the range test finds.
    pub sweeps: Vec<Sweep>,
    /// How many settings to try, including the configured ones; by default 9 for one key and 27 for more, or as many as
    /// the budget allows.
    pub trials: Option<usize>,
    /// Total seconds, including earlier sessions.
    pub budget_s: f64,
}

/// What a resumed search may change; `None` or empty keeps the old value.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// The sweeps; they must be the original ones.
    pub sweeps: Vec<Sweep>,
    /// The number of trials; it must be the original one.
    pub trials: Option<usize>,
    /// A new budget in seconds, including earlier sessions.
    pub budget_s: Option<f64>,
    /// Where the text is now; it must be the same text.
    pub data: Vec<String>,
    /// The text again, if it was in memory.
    pub origin: Origin,
}

/// A hyperparameter search, ready to start or resume; its folder is locked while this value lives.
#[derive(Debug)]
pub struct Tuning {
    out: PathBuf,
    stored: TuneFile,
    config: Config,
    sweeps: Vec<Sweep>,
    tokenizer: Tokenizer,
    /// Shared with each trial in turn.
    data: Arc<Dataset>,
    threads: usize,
    /// The speed measured at the start.
    speed: Option<TrialSpeed>,
    _lock: Lock,
}

/// Events of a search, in order.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The range test completed a step.
    RangeStep {
        /// Steps done.
        step: u64,
        /// Total steps.
        of: u64,
        /// The learning rate at this step.
        learning_rate: f64,
        /// The training loss, smoothed.
        loss: f64,
    },
    /// The range test is done.
    RangeTest(RangeTest),
    /// The trials have been planned, now or in an earlier session.
    Planned {
        /// The sweeps, with the learning-rate range filled in.
        sweeps: Vec<String>,
        /// The rungs.
        rungs: Vec<Rung>,
        /// `max_iters` of the configuration being tuned.
        max_iters: u64,
        /// Seconds left in the budget.
        left_s: f64,
    },
    /// A trial starts or resumes.
    Trial {
        /// Index of the settings.
        trial: usize,
        /// The rung, counted from 1.
        rung: usize,
        /// Total rungs.
        rungs: usize,
        /// Number of the trial within its rung, or within the final trials with other seeds, counted from 1.
        number: usize,
        /// Trials in that group.
        of: usize,
        /// Whether it is one of the final trials with other seeds.
        check: bool,
        /// Updates to train for.
        steps: u64,
        /// Its seed.
        seed: u64,
        /// The values of the swept keys.
        settings: BTreeMap<String, toml::Value>,
    },
    /// A trial reported a training event.
    Training {
        /// Number of the trial, as when it started.
        number: usize,
        /// The training event.
        training: train::Event,
        /// Seconds left in the budget.
        left_s: f64,
    },
    /// A rank is lost; its trial begins again on another. It is a warning, and no result.
    #[serde(skip)]
    Lost {
        /// Which rank.
        rank: usize,
        /// The folder of its trial.
        run: Option<String>,
        /// How that is known.
        why: String,
    },
    /// A trial finished, now or in an earlier session.
    Outcome(Outcome),
    /// The search was asked to stop; its progress is saved.
    Interrupted {
        /// The folder.
        out: String,
    },
    /// The search finished, or its budget ran out.
    Done(Found),
}

/// The result of a search.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// The best trial: the lowest loss in the last rung that any trial completed.
    pub best: Outcome,
    /// The outcome of the configured settings in the last rung they reached.
    pub base: Option<Outcome>,
    /// The last trial of each of the settings, best first.
    pub ranked: Vec<Outcome>,
    /// Trials with other seeds.
    pub checks: Vec<Check>,
    /// Whether all planned trials were completed.
    pub complete: bool,
    /// `max_iters` of the configuration that was tuned.
    pub max_iters: u64,
    /// Seconds spent, over all sessions.
    pub spent_s: f64,
    /// The budget in seconds.
    pub budget_s: f64,
    /// The folder.
    pub out: String,
}

impl Tuning {
    /// Prepares a search in a new (or empty) folder: reads the text, measures training speed for about a second, and
    /// writes `tune.json`. `threads` is the number of threads (0: one per core); losses do not depend on it.
    ///
    /// # Errors
    /// If the configuration, the text or the folder is unusable, settings conflict, or the budget is too short. Nothing
    /// is written then.
    pub fn start(request: Request, out: &Path, threads: usize) -> Result<Tuning> {
        Tuning::start_for(request, out, threads, 1)
    }

    /// The same for a search that has so many trials in training at a time.
    ///
    /// # Errors
    /// As [`Tuning::start`].
    pub fn start_for(request: Request, out: &Path, threads: usize, at_a_time: usize) -> Result<Tuning> {
        let Request { config, origin, mut sweeps, trials, budget_s } = request;
        // An unknown KINGLET_ISA is refused before anything is read or written.
        let be = Cpu::new()?;
        if sweeps.is_empty() {
            sweeps.push(Sweep { key: space::LEARNING_RATE, values: Values::Tested });
        }
        for (i, Sweep { key, .. }) in sweeps.iter().enumerate() {
            if sweeps[..i].iter().any(|other| other.key == *key) {
                return Err(Error::BadConfig(format!("{key} is swept twice")));
            }
        }
        train::refuse_finetuning(&config)?;
        for group in &config.param_groups {
            let sets_schedule = |key: &&String| {
                key.contains("lr") || *key == "learning_rate" || key.ends_with("_iters") || *key == "cooldown"
            };
            if let Some(key) = group.settings.keys().find(sets_schedule) {
                return Err(Error::BadConfig(format!(
                    "param_groups: {:?}: {key} would not change while tuning scales the learning rates and \
                     their schedule: remove it, and set it after tuning",
                    group.params
                )));
            }
        }
        refuse_full(out)?;
        let (config, tokenizer, data) = with_threads(threads, || train::resolve_on(&origin, config))??;
        let stored = TuneFile {
            format_version: FORMAT_VERSION,
            config: config.to_toml(),
            sweeps: sweeps.iter().map(Sweep::to_string).collect(),
            trials,
            budget_s,
            spent_s: 0.0,
            range: None,
            rungs: Vec::new(),
        };
        let be = be.with_precision(config.precision);
        let began = Instant::now();
        let speed = with_threads(threads, || measure(be, &config, &data, budget_s))??;
        let tested = sweeps.iter().any(|sweep| sweep.values == Values::Tested);
        let range_s = if tested { range::STEPS.0 as f64 * speed.step_s } else { 0.0 };
        let left_s = budget_s - began.elapsed().as_secs_f64() - range_s;
        let known: Vec<Sweep> = sweeps.iter().filter(|sweep| sweep.values != Values::Tested).cloned().collect();
        // Report settings that cannot be tried before training anything.
        let mut most = wanted(&stored, &sweeps);
        if known.len() == sweeps.len() {
            most = draw(&config, &data, &known, most)?.len();
        } else if !known.is_empty() {
            draw(&config, &data, &known, most)?;
        }
        plan::plan((most, trials.is_none()), config.max_iters, left_s, speed, at_a_time)
            .map_err(|need| too_short(budget_s, budget_s - left_s + need))?;
        disk::begin_folder(out, refuse_full, |lock| {
            let (out, speed) = (out.to_owned(), Some(speed));
            let mut tuning =
                Tuning { out, stored, config, sweeps, tokenizer, data: data.into(), threads, speed, _lock: lock };
            tuning.write(began.elapsed().as_secs_f64())?;
            Ok(tuning)
        })
    }

    /// Prepares to resume a search.
    ///
    /// # Errors
    /// If the folder holds no search, another process is using it, its text is missing or has changed, or `changes`
    /// asks for other sweeps or another number of trials.
    pub fn resume(out: &Path, changes: &Changes, threads: usize) -> Result<Tuning> {
        let path = out.join(FILE);
        if !path.exists() {
            let what = "not the folder of a tuning: it has no tune.json; kinglet tune --out creates one";
            return Err(Error::run(out, what));
        }
        Cpu::new()?;
        let lock = Lock::take(out)?;
        let mut stored = read(&path)?;
        let mut config = Config::from_toml(&stored.config).map_err(|error| Error::run(&path, error.to_string()))?;
        let began_with = |what: &str, asked: &str, was: &str| {
            Error::BadConfig(format!(
                "--{what} {asked}: this tuning was started with {was}; start a new one to \
                 change it"
            ))
        };
        if !changes.sweeps.is_empty() {
            let asked: Vec<_> = changes.sweeps.iter().map(Sweep::to_string).collect();
            if asked != stored.sweeps {
                return Err(began_with("sweep", &asked.join(" --sweep "), &stored.sweeps.join(" and ")));
            }
        }
        if let Some(asked) = changes.trials
            && changes.trials != stored.trials
        {
            let was = stored.trials.map_or("as many as its budget allowed".to_owned(), |trials| trials.to_string());
            return Err(began_with("trials", &asked.to_string(), &was));
        }
        stored.budget_s = changes.budget_s.unwrap_or(stored.budget_s);
        let sweeps = stored.sweeps.iter().map(|text| text.parse()).collect::<Result<Vec<Sweep>>>()?;
        if !changes.data.is_empty() {
            config.data.clone_from(&changes.data);
        }
        let (tokenizer, data) = with_threads(threads, || changes.origin.read(&config, TokenizerChoice::FromConfig))??;
        data::same_text(&config, &data.sha256)?;
        if !changes.data.is_empty() {
            config.data = source::located(&changes.data);
            stored.config = config.to_toml();
        }
        let mut tuning = Tuning {
            out: out.to_owned(),
            stored,
            config,
            sweeps,
            tokenizer,
            data: data.into(),
            threads,
            speed: None,
            _lock: lock,
        };
        tuning.write(0.0)?;
        Ok(tuning)
    }

    /// The tuning's folder.
    pub fn path(&self) -> &Path {
        &self.out
    }

    /// The budget in seconds, and the seconds spent in earlier sessions.
    pub fn budget_s(&self) -> (f64, f64) {
        (self.stored.budget_s, self.stored.spent_s)
    }

    /// The configuration being tuned, fully resolved.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Runs trials until all are done, the budget is spent, or `stop` is set. Passes every event to `observe` and
    /// returns the last, [`Event::Done`] or [`Event::Interrupted`].
    ///
    /// # Errors
    /// If something cannot be read or written, the budget ends before any trial does, or all trials diverge.
    pub fn run(self, stop: &AtomicBool, observe: impl FnMut(&Event) + Send) -> Result<Event> {
        let mut hands = Hands::alone(Cpu::new()?, self.threads);
        self.run_by(&mut hands, stop, observe)
    }

    /// The same, where `hands` train the trials.
    ///
    /// # Errors
    /// As [`Tuning::run`].
    pub fn run_by(self, hands: &mut Hands, stop: &AtomicBool, observe: impl FnMut(&Event) + Send) -> Result<Event> {
        let session = Search { began: Instant::now(), before_s: self.stored.spent_s, tuning: self, stop, observe };
        session.run(hands)
    }

    /// Writes `tune.json`, after adding `more_s` to the seconds spent.
    fn write(&mut self, more_s: f64) -> Result<()> {
        self.stored.spent_s += more_s;
        self.write_file(FILE, stored::text(&self.stored).as_bytes())
    }

    fn write_file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.out.join(name);
        disk::write_whole(&path, bytes).map_err(Error::io("write", &path))
    }

    fn data(&self) -> &Dataset {
        &self.data
    }

    /// The configuration of a complete run of `steps` updates, with the schedule scaled down to it.
    fn trial_config(&self, settings: &[toml::Value], steps: u64, seed: u64) -> Result<Config> {
        let mut config = space::apply(&self.config, &self.sweeps, settings)?;
        train::resolve_rest(&mut config, self.data())?;
        let part = |iters: u64| (iters as f64 * steps as f64 / config.max_iters as f64).round() as u64;
        let decay = if config.lr_decay_iters > 0 { part(config.lr_decay_iters).max(1) } else { 0 };
        let eval_interval = steps.div_ceil(ESTIMATES).max(config.eval_interval).min(steps);
        (config.warmup_iters, config.lr_decay_iters) = (part(config.warmup_iters), decay);
        (config.max_iters, config.eval_interval, config.seed) = (steps, eval_interval, seed);
        config.eval_iters = config.eval_iters.min(EVAL_ITERS);
        (config.keep_last, config.patience, config.sample_tokens) = (1, 0, 0);
        Ok(config)
    }
}

/// Returns an error if the folder contains anything except the leftovers of an interrupted start.
fn refuse_full(out: &Path) -> Result<()> {
    if out.join(FILE).exists() {
        return Err(Error::run(
            out,
            "this folder already contains a tuning: continue it with --resume, or choose another folder with --out",
        ));
    }
    disk::refuse_full(out, |entry| entry.file_name() == Lock::FILE)
}

fn too_short(budget_s: f64, need_s: f64) -> Error {
    Error::BadConfig(format!(
        "--budget {budget_s:.0}s is too short: a useful tuning takes at least about {:.0} seconds on this \
         machine; give it more time, a smaller model, or fewer --trials",
        need_s.ceil() + 1.0
    ))
}

/// How many settings to try.
fn wanted(stored: &TuneFile, sweeps: &[Sweep]) -> usize {
    stored.trials.unwrap_or(if sweeps.len() == 1 { SETTINGS.0 } else { SETTINGS.1 })
}

/// Draws settings that a run can be started with.
fn draw(config: &Config, data: &Dataset, sweeps: &[Sweep], n: usize) -> Result<Vec<Vec<toml::Value>>> {
    space::draw(config, sweeps, n, |config| train::resolve_rest(&mut config.clone(), data))
}

/// Measures training speed, for 1% of the budget but at most about a second.
fn measure<B: Backward>(be: B, config: &Config, data: &Dataset, budget_s: f64) -> Result<TrialSpeed> {
    /// Evaluation batches to measure, and minimum training steps.
    const BATCHES: u32 = 4;
    let mut trial = trial::Trial::new(be, config, &data.train)?;
    // Warm up: the first step and batch touch memory for the first time.
    trial.step()?;
    trial.eval(1)?;
    let (clock, mut steps) = (Instant::now(), 0);
    while steps < BATCHES || clock.elapsed().as_secs_f64() < (0.01 * budget_s).min(1.0) {
        trial.step()?;
        steps += 1;
    }
    let step_s = clock.elapsed().as_secs_f64() / f64::from(steps);
    let clock = Instant::now();
    trial.eval(BATCHES)?;
    let batch_s = clock.elapsed().as_secs_f64() / f64::from(BATCHES);
    let estimates = (1 + ESTIMATES).min(1 + config.max_iters.div_ceil(config.eval_interval)) as f64;
    let batches = estimates * 2.0 * config.eval_iters.min(EVAL_ITERS) as f64
        + data.val.windows() as f64 / config.batch_size as f64;
    // Per checkpoint: three numbers per parameter, file system overhead and the plot. A guess; the budget is enforced
    // regardless.
    let checkpoint_s = 0.05 + 12.0 * trial.replica.model.layout.len() as f64 / 2e8;
    Ok(TrialSpeed { step_s, rest_s: batches * batch_s + estimates * checkpoint_s })
}

/// One session of a search.
struct Search<'a, O: FnMut(&Event) + Send> {
    tuning: Tuning,
    stop: &'a AtomicBool,
    observe: O,
    began: Instant,
    /// Seconds spent before this session.
    before_s: f64,
}

/// What a trial is.
#[derive(Clone, Copy)]
struct Task {
    trial: usize,
    rung: usize,
    number: usize,
    of: usize,
    check: bool,
    steps: u64,
    seed: u64,
}

impl<O: FnMut(&Event) + Send> Search<'_, O> {
    fn left_s(&self) -> f64 {
        self.tuning.stored.budget_s - self.before_s - self.began.elapsed().as_secs_f64()
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Saves `tune.json`, including the time spent.
    fn save(&mut self) -> Result<()> {
        let more_s = self.before_s + self.began.elapsed().as_secs_f64() - self.tuning.stored.spent_s;
        self.tuning.write(more_s)
    }

    fn interrupted(mut self) -> Result<Event> {
        self.save()?;
        let event = Event::Interrupted { out: self.tuning.out.display().to_string() };
        (self.observe)(&event);
        Ok(event)
    }

    fn run(mut self, hands: &mut Hands) -> Result<Event> {
        let Some(settings) = self.plan(hands)? else { return self.interrupted() };
        let rungs = self.tuning.stored.rungs.clone();
        let mut outcomes: Vec<Vec<Outcome>> = Vec::new();
        let mut field: Vec<usize> = (0..settings.len().min(rungs[0].trials)).collect();
        let mut complete = true;
        for (i, rung) in rungs.iter().enumerate() {
            field.truncate(rung.trials);
            let seed = self.tuning.config.seed;
            let task = |(k, &trial): (usize, &usize)| Task {
                trial,
                rung: i + 1,
                number: k + 1,
                of: field.len(),
                check: false,
                steps: rung.steps,
                seed,
            };
            let tasks: Vec<Task> = field.iter().enumerate().map(task).collect();
            let done: Vec<Outcome> = self.train(hands, tasks, &settings)?.into_iter().flatten().collect();
            if self.stopped() {
                return self.interrupted();
            }
            complete &= done.len() == field.len();
            field = ranking(&done);
            outcomes.push(done);
            if field.is_empty() || !complete {
                break;
            }
        }
        let Some(best) = best_of(&outcomes).cloned() else {
            self.save()?;
            let what = if complete {
                "every trial diverged: sweep lower learning rates, or set grad_clip=1"
            } else {
                "the budget ended before the first trial did; continue with --resume and a longer --budget"
            };
            return Err(Error::run(&self.tuning.out, what));
        };
        let checks = self.check(hands, &best, &settings)?;
        if self.stopped() {
            return self.interrupted();
        }
        complete &= checks.len() as u64 == CHECKS;
        self.finish(best, outcomes, checks, complete)
    }

    /// Plans the rungs, unless an earlier session did, and returns the settings to try. `None` if it was asked to stop.
    fn plan(&mut self, hands: &Hands) -> Result<Option<Vec<Vec<toml::Value>>>> {
        let threads = self.tuning.threads;
        let be = hands.be().with_precision(self.tuning.config.precision);
        if self.tuning.stored.rungs.is_empty() {
            let speed = match self.tuning.speed {
                Some(speed) => speed,
                None => {
                    let Tuning { config, stored, .. } = &self.tuning;
                    with_threads(threads, || measure(be, config, self.tuning.data(), stored.budget_s))??
                }
            };
            if self.tuning.sweeps.iter().any(|sweep| sweep.values == Values::Tested) {
                let steps = (RANGE_PART * self.left_s() / speed.step_s) as u64;
                let Some(found) = self.range_test(be, steps.clamp(range::STEPS.0, range::STEPS.1))? else {
                    return Ok(None);
                };
                self.tuning.stored.range = Some(found);
            }
            self.fill_in_range();
            let Tuning { config, sweeps, stored, .. } = &self.tuning;
            let settings = draw(config, self.tuning.data(), sweeps, wanted(stored, sweeps))?;
            // A model twice as large takes twice as long.
            let size = |config: &Config| Ok(Gpt::new(config)?.layout.len() as f64 * config.tokens_per_step());
            let sizes = settings.iter().map(|set| Ok(size(&space::apply(config, sweeps, set)?)? / size(config)?));
            let mean = sizes.sum::<Result<f64>>()? / settings.len() as f64;
            let speed = TrialSpeed { step_s: speed.step_s * mean, rest_s: speed.rest_s * mean };
            let wanted = (settings.len(), stored.trials.is_none());
            let rungs = plan::plan(wanted, config.max_iters, self.left_s(), speed, hands.count())
                .map_err(|need| too_short(stored.budget_s, stored.budget_s - self.left_s() + need))?;
            self.tuning.stored.rungs = rungs;
            self.save()?;
        }
        if let Some(found) = &self.tuning.stored.range {
            (self.observe)(&Event::RangeTest(found.clone()));
        }
        self.fill_in_range();
        let left_s = self.left_s();
        let Tuning { config, sweeps, stored, .. } = &self.tuning;
        let settings = draw(config, self.tuning.data(), sweeps, stored.rungs[0].trials)?;
        (self.observe)(&Event::Planned {
            sweeps: sweeps.iter().map(Sweep::to_string).collect(),
            rungs: stored.rungs.clone(),
            max_iters: config.max_iters,
            left_s,
        });
        Ok(Some(settings))
    }

    fn range_test(&mut self, be: Cpu, of: u64) -> Result<Option<RangeTest>> {
        let Search { tuning, stop, observe, .. } = self;
        let mut progress = |step, learning_rate, loss| {
            observe(&Event::RangeStep { step, of, learning_rate, loss });
            if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        with_threads(tuning.threads, || RangeTest::run(be, &tuning.config, &tuning.data().train, of, &mut progress))?
    }

    /// Fills the range found by the range test into the sweeps, rounded to two digits.
    fn fill_in_range(&mut self) {
        let Some(RangeTest { bracket, .. }) = &self.tuning.stored.range else { return };
        let short = |rate: f64| format!("{rate:.1e}").parse().expect("a number");
        for sweep in self.tuning.sweeps.iter_mut().filter(|sweep| sweep.values == Values::Tested) {
            sweep.values = Values::Between { low: short(bracket.0), high: short(bracket.1), log: true, whole: false };
        }
    }

    /// The outcomes of trials, read from their folders; trains those that are not finished. `None` of one that was stopped by
    /// the user or by the end of the budget.
    fn train(
        &mut self,
        hands: &mut Hands,
        tasks: Vec<Task>,
        settings: &[Vec<toml::Value>],
    ) -> Result<Vec<Option<Outcome>>> {
        let trial = |task| Trial::new(&self.tuning, task, settings);
        let trials: Vec<Trial> = tasks.into_iter().map(trial).collect();
        let mut group = Group { search: self, todo: Vec::new(), trials, error: None };
        for i in 0..group.trials.len() {
            match group.trials[i].outcome()? {
                Some(outcome) => group.tell(i, outcome)?,
                None => group.todo.push(i),
            }
        }
        hands.train(group.todo.len(), &mut group)?;
        group.error.map_or(Ok(()), Err)?;
        group.trials.iter().map(Trial::outcome).collect()
    }

    /// Trains the best and the configured settings with other seeds, as far as the budget allows; returns each seed and
    /// both losses.
    fn check(&mut self, hands: &mut Hands, best: &Outcome, settings: &[Vec<toml::Value>]) -> Result<Vec<Check>> {
        let pair: &[usize] = if best.trial == 0 { &[0] } else { &[best.trial, 0] };
        let seed = |i: u64| self.tuning.config.seed.wrapping_add(i) & i64::MAX as u64;
        let seeds: Vec<u64> = (1..=CHECKS).map(seed).collect();
        let each = seeds.iter().flat_map(|&seed| pair.iter().map(move |&trial| (seed, trial)));
        let of = seeds.len() * pair.len();
        let (rung, steps) = (best.rung, best.steps);
        let task = |(k, (seed, trial))| Task { trial, rung, number: k + 1, of, check: true, steps, seed };
        let outcomes = self.train(hands, each.enumerate().map(task).collect(), settings)?;
        let check = |(&seed, pair): (&u64, &[Option<Outcome>])| {
            let losses: Option<Vec<f64>> = pair.iter().map(|outcome| Some(outcome.as_ref()?.loss)).collect();
            let losses = losses?;
            Some(Check { seed, loss: losses[0], configured_loss: losses[losses.len() - 1] })
        };
        Ok(seeds.iter().zip(outcomes.chunks(pair.len())).map_while(check).collect())
    }

    /// Writes the results.
    fn finish(
        mut self,
        best: Outcome,
        outcomes: Vec<Vec<Outcome>>,
        checks: Vec<Check>,
        complete: bool,
    ) -> Result<Event> {
        for outcome in outcomes.iter().flatten().filter(|outcome| outcome.run != best.run) {
            remove_checkpoints(Path::new(&outcome.run))?;
        }
        self.save()?;
        let found = Found {
            base: outcomes.iter().rev().flatten().find(|outcome| outcome.trial == 0).cloned(),
            best,
            ranked: ranked(&outcomes),
            checks,
            complete,
            max_iters: self.tuning.config.max_iters,
            spent_s: self.tuning.stored.spent_s,
            budget_s: self.tuning.stored.budget_s,
            out: self.tuning.out.display().to_string(),
        };
        let Tuning { config, sweeps, tokenizer, stored, .. } = &self.tuning;
        let values: Vec<_> = sweeps.iter().map(|sweep| found.best.settings[sweep.key].clone()).collect();
        let mut tuned = space::apply(config, sweeps, &values)?;
        // Make it usable for any text, not just this one.
        if tuned.vocab_size == tokenizer.vocab_size() {
            tuned.vocab_size = 0;
        }
        tuned.data_sha256.clear();
        let comment: String = found.sentences().iter().map(|line| format!("# {line}\n")).collect();
        self.tuning.write_file("best.toml", format!("{comment}\n{}", tuned.to_toml()).as_bytes())?;
        self.tuning
            .write_file("trials.md", format!("# What was tried\n\n{}\n{}", found.list(), found.table()).as_bytes())?;
        let svg = plot::svg(sweeps, &outcomes, stored.range.as_ref(), &found.best);
        self.tuning.write_file("tune.svg", svg.as_bytes())?;
        let event = Event::Done(found);
        (self.observe)(&event);
        Ok(event)
    }
}

/// A trial, with its settings and its folder.
struct Trial {
    task: Task,
    /// The values of the swept keys, in their order.
    settings: Vec<toml::Value>,
    named: BTreeMap<String, toml::Value>,
    path: PathBuf,
}

impl Trial {
    fn new(tuning: &Tuning, task: Task, settings: &[Vec<toml::Value>]) -> Trial {
        let name = match task.check {
            false => format!("{:03}-rung{}", task.trial, task.rung),
            true => format!("{:03}-seed{}", task.trial, task.seed),
        };
        let settings = settings[task.trial].clone();
        let named = tuning.sweeps.iter().zip(&settings).map(|(sweep, value)| (sweep.key.to_owned(), value.clone()));
        Trial { task, named: named.collect(), settings, path: tuning.out.join(TRIALS).join(name) }
    }

    /// What its folder says that it came to, if it is finished.
    fn outcome(&self) -> Result<Option<Outcome>> {
        let &Trial { task: Task { trial, rung, steps, seed, .. }, ref named, ref path, .. } = self;
        // Runs that diverged or ended with a non-finite loss have no loss.
        Ok(hands::end_of(path)?.map(|end| Outcome {
            trial,
            rung,
            steps,
            seed,
            settings: named.clone(),
            loss: end.val_loss_exact.unwrap_or(f64::INFINITY),
            loss_stderr: end.val_loss_stderr,
            wall_s: end.wall_s.unwrap_or(0.0),
            run: path.display().to_string(),
        }))
    }
}

/// Trials that do not depend on each other: those of a rung, or those with other seeds.
struct Group<'a, 'b, O: FnMut(&Event) + Send> {
    search: &'a mut Search<'b, O>,
    trials: Vec<Trial>,
    /// Which of them are not finished.
    todo: Vec<usize>,
    /// What went wrong where no error can be returned.
    error: Option<Error>,
}

impl<O: FnMut(&Event) + Send> Group<'_, '_, O> {
    /// Tells of a trial that is finished.
    fn tell(&mut self, i: usize, outcome: Outcome) -> Result<()> {
        let Trial { task, path, .. } = &self.trials[i];
        // Each rung trains from scratch, so these checkpoints are never resumed from. Keep those of the last rung: one may be
        // the best.
        if task.check || task.rung < self.search.tuning.stored.rungs.len() {
            remove_checkpoints(path)?;
        }
        (self.search.observe)(&Event::Outcome(outcome));
        Ok(())
    }

    /// Tells of a trial that has ended in this session.
    fn ended(&mut self, i: usize) -> Result<()> {
        self.search.save()?;
        self.trials[i].outcome()?.map_or(Ok(()), |outcome| self.tell(i, outcome))
    }
}

impl<O: FnMut(&Event) + Send> Tasks for Group<'_, '_, O> {
    fn open(&mut self, task: usize) -> Result<Job> {
        let (Trial { task, settings, path, .. }, tuning) = (&self.trials[self.todo[task]], &self.search.tuning);
        let mut job = if path.join(CONFIG).exists() {
            // The text may have moved since the trial began.
            Job::resume_with(path, &train::Changes { data: tuning.config.data.clone(), ..Default::default() })?
        } else {
            let config = tuning.trial_config(settings, task.steps, task.seed)?;
            let (run, lock) = RunDir::create(path, config, tuning.tokenizer.clone(), None)?;
            Job::new(run, lock, tuning.data.clone())
        };
        job.skip_report = true;
        Ok(job)
    }

    fn is_over(&self) -> bool {
        self.error.is_some() || self.search.stopped() || self.search.left_s() <= 0.0
    }

    fn event(&mut self, event: hands::Event<'_>) {
        match event {
            hands::Event::Began { task } => {
                let Trial { task, named, .. } = &self.trials[self.todo[task]];
                (self.search.observe)(&Event::Trial {
                    trial: task.trial,
                    rung: task.rung,
                    rungs: self.search.tuning.stored.rungs.len(),
                    number: task.number,
                    of: task.of,
                    check: task.check,
                    steps: task.steps,
                    seed: task.seed,
                    settings: named.clone(),
                });
            }
            hands::Event::Training { task, event } => {
                let (number, left_s) = (self.trials[self.todo[task]].task.number, self.search.left_s());
                (self.search.observe)(&Event::Training { number, training: event.clone(), left_s });
            }
            hands::Event::Ended { task, how: Ended::Done | Ended::Diverged } => {
                if let Err(error) = self.ended(self.todo[task]) {
                    self.error = Some(error);
                }
            }
            hands::Event::Ended { .. } => {
                if let Err(error) = self.search.save() {
                    self.error = Some(error);
                }
            }
            hands::Event::Lost { rank, task, why } => {
                let run = task.map(|task| self.trials[self.todo[task]].path.display().to_string());
                (self.search.observe)(&Event::Lost { rank, run, why: why.to_owned() });
            }
        }
    }
}

/// The trials with a finite loss, best first.
fn ranking(outcomes: &[Outcome]) -> Vec<usize> {
    let mut finite: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.loss.is_finite()).collect();
    finite.sort_by(|a, b| a.loss.total_cmp(&b.loss).then(a.trial.cmp(&b.trial)));
    finite.into_iter().map(|outcome| outcome.trial).collect()
}

/// The outcome with the lowest loss in the last rung that has a finite one.
fn best_of(outcomes: &[Vec<Outcome>]) -> Option<&Outcome> {
    best_trial(outcomes.iter().flatten(), |outcome| (outcome.rung, outcome.trial, outcome.loss))
}

/// The last trial of each of the settings: by rung reached, highest first, then by loss; diverged ones come last.
fn ranked(outcomes: &[Vec<Outcome>]) -> Vec<Outcome> {
    let mut last: BTreeMap<usize, &Outcome> = BTreeMap::new();
    outcomes.iter().flatten().for_each(|outcome| _ = last.insert(outcome.trial, outcome));
    let mut all: Vec<Outcome> = last.into_values().cloned().collect();
    let place = |outcome: &Outcome| if outcome.loss.is_finite() { outcome.rung } else { 0 };
    all.sort_by(|a, b| place(b).cmp(&place(a)).then(a.loss.total_cmp(&b.loss)).then(a.trial.cmp(&b.trial)));
    all
}

/// Removes the checkpoints of a run, and the files that name them.
fn remove_checkpoints(run: &Path) -> Result<()> {
    disk::remove_folder(&run.join("checkpoints"))?;
    for name in ["last", "best"] {
        match fs::remove_file(run.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &run.join(name))(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Settings formatted as `key = value, ...`.
pub fn written(settings: &BTreeMap<String, toml::Value>) -> String {
    let number = |value: &toml::Value| match value {
        toml::Value::Float(x) if *x != 0.0 && x.abs() < 1e-3 => format!("{x:e}"),
        value => value.to_string(),
    };
    settings.iter().map(|(key, value)| format!("{key} = {}", number(value))).collect::<Vec<_>>().join(", ")
}

impl Found {
    /// The result, a sentence or two on each line.
    pub fn sentences(&self) -> Vec<String> {
        let Found { best, base, ranked, checks, complete, max_iters, .. } = self;
        let mut lines = vec![format!(
            "The best of {} settings: {}, with validation loss {} nats per token after {} steps.",
            ranked.len(),
            written(&best.settings),
            crate::report::with_error(best.loss, best.loss_stderr),
            best.steps,
        )];
        if best.trial == 0 {
            lines.push("These are the configured values: nothing that was tried is better.".into());
        } else if let Some(base) = base {
            let loss =
                if base.loss.is_finite() { format!("{:.4}", base.loss) } else { "no loss: it diverged".to_owned() };
            lines.push(format!("As configured, {}: {loss} after {} steps.", written(&base.settings), base.steps));
        }
        if best.steps < *max_iters {
            lines.push(self.why_short());
        }
        lines.push("The best loss of several is optimistic: it was chosen on the validation split.".into());
        if checks.is_empty() {
            lines.push("There was no time to try other seeds.".into());
        }
        for Check { seed, loss, configured_loss } in checks {
            let configured =
                if best.trial == 0 { String::new() } else { format!(", as configured {configured_loss:.4}") };
            lines.push(format!("With seed {seed}: {loss:.4}{configured}."));
        }
        if !complete {
            lines.push("The budget ended before everything was tried.".into());
        }
        lines
    }

    /// Why trials are shorter than the training they are for. A plan takes less than its budget, as some of its time is
    /// kept for trials that are slower than measured.
    fn why_short(&self) -> String {
        let Found { best, max_iters, budget_s, spent_s, .. } = self;
        let whole_s = spent_s.max(PLANNED * budget_s) * *max_iters as f64 / best.steps.max(1) as f64 / PLANNED;
        format!(
            "The longest trials have {} of {max_iters} steps, because the budget was {budget_s:.0} s. For \
             trials of full length, start a new tuning with a budget of about {whole_s:.0} s. A longer training \
             may need a lower learning rate.",
            best.steps
        )
    }

    /// The result as a Markdown list.
    fn list(&self) -> String {
        self.sentences().iter().map(|line| format!("- {line}\n")).collect()
    }

    /// The settings tried, best first, as a Markdown table.
    pub fn table(&self) -> String {
        let mut text =
            String::from("| rank | settings | rung | steps | validation loss | seconds |\n|---|---|---|---|---|---|\n");
        for (i, outcome) in self.ranked.iter().enumerate() {
            let Outcome { trial, rung, steps, settings, loss, loss_stderr, wall_s, .. } = outcome;
            let configured = if *trial == 0 { " (as configured)" } else { "" };
            let (loss, wall_s) = match loss.is_finite() {
                true => (crate::report::with_error(*loss, *loss_stderr), format!("{wall_s:.1}")),
                false => ("diverged".to_owned(), String::new()),
            };
            let _ = writeln!(
                text,
                "| {} | {}{configured} | {rung} | {steps} | {loss} | {wall_s} |",
                i + 1,
                written(settings)
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::sealed;

    fn outcomes(rung: usize, losses: &[(usize, f64)]) -> Vec<Outcome> {
        let outcome = |&(trial, loss)| Outcome {
            trial,
            rung,
            steps: 10,
            seed: 1,
            settings: BTreeMap::new(),
            loss,
            loss_stderr: Some(0.1),
            wall_s: 1.0,
            run: String::new(),
        };
        losses.iter().map(outcome).collect()
    }

    #[test]
    fn what_diverged_is_never_chosen_and_stands_last() {
        let first = outcomes(1, &[(0, 3.0), (1, f64::INFINITY), (2, 2.0), (3, 2.0), (4, f64::NAN)]);
        assert_eq!(ranking(&first), [2, 3, 0], "of equals the first");
        // The further one is better, whatever its loss; but not if it diverged.
        let second = outcomes(2, &[(2, f64::INFINITY), (3, 2.5)]);
        let all = vec![first.clone(), second];
        assert_eq!(best_of(&all).map(|best| (best.trial, best.rung)), Some((3, 2)));
        let order: Vec<_> = ranked(&all).iter().map(|outcome| outcome.trial).collect();
        assert_eq!((order[..2].to_vec(), order.len()), (vec![3, 0], 5));
        let all = vec![first, outcomes(2, &[(2, f64::INFINITY)])];
        assert_eq!(best_of(&all).map(|best| (best.trial, best.rung)), Some((2, 1)));
        assert_eq!(best_of(&[outcomes(1, &[(0, f64::INFINITY)])]), None);
        assert_eq!(best_of(&[]), None);
    }

    #[test]
    fn a_damaged_plan_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join(FILE);
        let error = |text: &str| {
            fs::write(&path, text).unwrap();
            read(&path).unwrap_err().to_string()
        };
        for text in ["", "{}", "{\"sha256\":\"0\",\"tune\":{}}"] {
            assert!(error(text).contains("its checksum does not match"), "{text}");
        }
        let sealed = |json: &str| sealed::text(stored::NAME, json);
        assert!(error(&sealed("{\"format_version\":99}")).contains("needs a newer kinglet"));
        assert!(error(&sealed("{\"format_version\":1}")).contains("damaged: missing field"));
    }
}
