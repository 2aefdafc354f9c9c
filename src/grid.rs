//! A sweep: one run for each combination of settings and each seed.
//!
//! Each run is what `kinglet train` makes of the same settings, to the bit. Which runs there are is in `sweep.json`; what they came
//! to is in their folders. So an interrupted sweep goes on where it stopped, and runs that are complete are kept.
//!
//! ```text
//! sweep.json      the runs: names, settings, resolved configurations; with a checksum
//! KEY=VALUE,...   one run each
//! sweep.md        what they came to
//! sweep.svg       the loss against each key that varies
//! lock            the process that is training, or was
//! ```

mod outcome;
mod plot;
mod space;
mod stored;

use crate::{
    hands::{self, Ended, Hands, Tasks, Texts},
    run::{CONFIG, RunDir},
    system::disk::{self, Lock},
    text::source,
    train::{self, Changes, Job},
};
use kinglet_core::{
    backend::{Cpu, Forward},
    config::Config,
    error::{Error, Result},
    model::Gpt,
    threads::with_threads,
};
use serde::Serialize;
use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};
use stored::{FILE, FORMAT_VERSION, Stored, SweepFile};

pub use outcome::{Outcome, Row, table};
pub use space::{Axis, Settings, points, read_list, written, written_all};

/// The most runs of a sweep.
const MOST_RUNS: usize = 10_000;

/// The name of the page and of the plot.
const PAGE: &str = "sweep.md";
const PLOT: &str = "sweep.svg";

/// A request for a sweep.
#[derive(Clone, Debug)]
pub struct Request {
    /// What all runs have in common.
    pub config: Config,
    /// What each of the settings sets; [`points`] combines them.
    pub points: Vec<Settings>,
    /// How many seeds each is trained with: the configured one, and those that follow it.
    pub seeds: u64,
}

/// A sweep that can be started: all of its settings are possible, and its text is read.
#[derive(Clone, Debug)]
pub struct Plan {
    runs: Vec<Run>,
    seeds: u64,
    texts: Texts,
    seconds: Option<f64>,
}

/// A run of a sweep.
#[derive(Clone, Debug)]
struct Run {
    name: String,
    /// The values of all keys that vary.
    settings: Settings,
    config: Config,
}

/// A sweep, ready to start or resume; its folder is locked while this value lives.
#[derive(Debug)]
pub struct Grid {
    out: PathBuf,
    plan: Plan,
    _lock: Lock,
}

/// Events of a sweep, in order.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The sweep starts or resumes.
    Planned {
        /// The keys that vary.
        keys: Vec<String>,
        /// How many settings there are.
        settings: usize,
        /// How many seeds each is trained with.
        seeds: u64,
        /// Runs in all.
        runs: usize,
        /// Runs that have not ended yet.
        left: usize,
        /// About how many seconds these take; `None` if it was not measured.
        #[serde(skip_serializing_if = "Option::is_none")]
        seconds: Option<f64>,
        /// The folder.
        out: String,
    },
    /// A run starts or resumes.
    Run {
        /// Its folder.
        run: String,
        /// Its number, counted from 1.
        number: usize,
        /// Runs in all.
        of: usize,
        /// The values of the keys that vary.
        settings: Settings,
        /// Its seed.
        seed: u64,
        /// Updates to train for.
        steps: u64,
    },
    /// A run reported a training event.
    Training {
        /// The run's number, counted from 1.
        number: usize,
        /// The training event.
        training: train::Event,
    },
    /// A rank is lost; its run begins again on another. It is a warning, and no result.
    #[serde(skip)]
    Lost {
        /// Which rank.
        rank: usize,
        /// The name of its run.
        run: Option<String>,
        /// How that is known.
        why: String,
    },
    /// A run ended, now or in an earlier session.
    Outcome(Outcome),
    /// The sweep was asked to stop; its progress is saved.
    Interrupted {
        /// Runs that have not ended yet.
        left: usize,
        /// The folder.
        out: String,
    },
    /// All runs have ended.
    Done {
        /// What they came to, best first.
        rows: Vec<Row>,
        /// The run with the lowest loss of the best settings; `None` if all diverged.
        best: Option<String>,
        /// The folder.
        out: String,
    },
}

impl Plan {
    /// Checks that every run is possible, and reads the text. Nothing is written.
    ///
    /// # Errors
    /// If the configuration, one of the settings or the text is unusable.
    pub fn new(request: Request, threads: usize) -> Result<Plan> {
        let Request { mut config, points, seeds } = request;
        // An unknown KINGLET_ISA is refused before anything is read.
        Cpu::new()?;
        train::refuse_finetuning(&config)?;
        let n = points.len().saturating_mul(usize::try_from(seeds).unwrap_or(usize::MAX));
        if n > MOST_RUNS {
            return Err(Error::BadConfig(format!("these are {n} runs, but a sweep has at most {MOST_RUNS}")));
        }
        if n < 2 {
            let what = "there is nothing to sweep: vary a key with --grid or --list, or ask for several --seeds";
            return Err(Error::BadConfig(what.into()));
        }
        // The same in all runs; of an earlier run's configuration, the text need not be the same.
        train::fix_time(&mut config);
        config.data_sha256.clear();
        let mut runs = Vec::new();
        let given = points.iter().flat_map(|point| (0..seeds).map(move |i| (point, i)));
        let seed = |i: u64| config.seed.wrapping_add(i) & i64::MAX as u64;
        let names = space::names(given.clone().map(|(point, i)| (point, seed(i))), seeds > 1);
        let keys = space::keys(&points);
        for (name, (point, i)) in names.into_iter().zip(given) {
            let mut of_run = config.clone();
            let set = point.iter().try_for_each(|(key, value)| of_run.set(&format!("{key}={value}")));
            set.and_then(|()| of_run.check()).map_err(|error| with(point, error))?;
            let settings = keys.iter().map(|key| ((*key).to_owned(), of_run.value(key))).collect();
            of_run.seed = seed(i);
            runs.push(Run { name, settings, config: of_run });
        }
        let same = |(i, run): (usize, &Run)| {
            runs[..i].iter().any(|other| other.settings == run.settings && other.config.seed == run.config.seed)
        };
        if let Some((_, run)) = runs.iter().enumerate().find(|(i, run)| same((*i, run))) {
            let what = format!("these settings are there twice: {}", written_all(&run.settings));
            return Err(Error::BadConfig(what));
        }
        let texts = with_threads(threads, || resolve(&mut runs))??;
        Ok(Plan { runs, seeds, texts, seconds: None })
    }

    /// Measures for about `seconds`, writing into `folder`, how long all runs take if `at_a_time` of them are trained at a time.
    ///
    /// # Errors
    /// If it cannot be measured.
    pub fn forecast(&mut self, seconds: f64, folder: &Path, at_a_time: usize, threads: usize) -> Result<f64> {
        let (tokenizer, data) = self.texts.of(&self.runs[0].config)?;
        let config = &self.runs[0].config;
        let be = Cpu::new()?.with_precision(config.precision);
        let plan = with_threads(threads, || {
            train::plan::Plan::measure(config, &tokenizer, (&data, None), be, folder, seconds)
        })??;
        let one_s = plan.time.map_or(0.0, |time| time.wall_s);
        let works = self.runs.iter().map(|run| work(&run.config)).collect::<Result<Vec<f64>>>()?;
        let all_s = one_s * works.iter().sum::<f64>() / works[0];
        // The last runs are not all there at a time.
        let longest_s = one_s * works.iter().copied().fold(0.0, f64::max) / works[0];
        let total_s = (all_s / at_a_time.min(works.len()).max(1) as f64).max(longest_s);
        self.seconds = Some(total_s);
        Ok(total_s)
    }

    /// Names, settings and seeds of the runs, in order.
    pub fn runs(&self) -> impl Iterator<Item = (&str, &Settings, u64)> {
        self.runs.iter().map(|run| (run.name.as_str(), &run.settings, run.config.seed))
    }

    /// How many settings there are.
    pub fn settings(&self) -> usize {
        self.runs.len() / usize::try_from(self.seeds.max(1)).unwrap_or(usize::MAX).max(1)
    }

    /// About how many seconds they take, once that is known.
    pub fn seconds(&self) -> Option<f64> {
        self.seconds
    }

    /// What the text was read like.
    pub fn notes(&self) -> &[String] {
        self.texts.notes()
    }

    /// Creates the folder of the sweep, which must be new or empty.
    ///
    /// # Errors
    /// If it is not, or cannot be written. Nothing is left then.
    pub fn start(&self, out: &Path) -> Result<Grid> {
        disk::begin_folder(out, refuse_full, |lock| {
            let grid = Grid { out: out.to_owned(), plan: self.clone(), _lock: lock };
            grid.write()?;
            Ok(grid)
        })
    }
}

/// An error about a run with these settings.
fn with(point: &Settings, error: Error) -> Error {
    match written_all(point) {
        // It is not about them.
        settings if settings.is_empty() => error,
        settings => match error {
            Error::Config { .. } | Error::BadConfig(_) => Error::BadConfig(format!("with {settings}: {error}")),
            Error::Data(what) => Error::Data(format!("with {settings}: {what}")),
            error => error,
        },
    }
}

/// Resolves what the configurations leave open; the text of the first is kept.
fn resolve(runs: &mut [Run]) -> Result<Texts> {
    let (mut first, mut texts) = (None, Texts::default());
    for Run { settings, config, .. } in runs {
        let (tokenizer, data) = texts.of(config).map_err(|error| with(settings, error))?;
        train::settle(config, &tokenizer, &data).map_err(|error| with(settings, error))?;
        // Read for what it is now called, too.
        first.get_or_insert(Texts::known(config, tokenizer, data));
    }
    Ok(first.unwrap_or_default())
}

/// How much a run has to compute, in a unit that all runs share: a model twice as large takes twice as long.
fn work(config: &Config) -> Result<f64> {
    Ok(Gpt::new(config)?.layout.len() as f64 * config.tokens_per_step() * config.max_iters as f64)
}

/// Returns an error if the folder contains anything except the leftovers of an interrupted start.
fn refuse_full(out: &Path) -> Result<()> {
    if out.join(FILE).exists() {
        return Err(Error::run(
            out,
            "this folder already contains a sweep: continue it with --resume, or choose another folder with --out",
        ));
    }
    disk::refuse_full(out, |entry| entry.file_name() == Lock::FILE)
}

/// Whether a folder is that of a sweep.
pub fn is_sweep(folder: &Path) -> bool {
    folder.join(FILE).is_file()
}

/// When a sweep was last begun or gone on with.
pub fn begun(folder: &Path) -> Option<std::time::SystemTime> {
    folder.join(FILE).metadata().and_then(|about| about.modified()).ok()
}

impl Grid {
    /// Prepares to resume a sweep; `data` is where its text is now, if it has moved.
    ///
    /// # Errors
    /// If the folder holds no sweep, another process is using it, or its text is not the same.
    pub fn resume(out: &Path, data: &[String], threads: usize) -> Result<Grid> {
        let path = out.join(FILE);
        if !path.exists() {
            let what = "not the folder of a sweep: it has no sweep.json; kinglet sweep --out creates one";
            return Err(Error::run(out, what));
        }
        Cpu::new()?;
        let lock = Lock::take(out)?;
        let stored = stored::read(&path)?;
        let mut runs = Vec::new();
        for Stored { name, settings, config } in stored.runs {
            let mut config = Config::from_toml(&config).map_err(|error| Error::run(&path, error.to_string()))?;
            // The name comes from a file.
            if Path::new(&name).components().count() != 1 || Path::new(&name).file_name().is_none() {
                return Err(Error::run(&path, format!("{name:?} is not the name of a run")));
            }
            if !data.is_empty() {
                config.data = data.to_vec();
            }
            runs.push(Run { name, settings, config });
        }
        let Some(first) = runs.first() else { return Err(Error::run(&path, "there are no runs in it")) };
        let same = |run: &&Run| run.settings == first.settings;
        let seeds = runs.iter().filter(same).count() as u64;
        let mut texts = Texts::default();
        with_threads(threads, || texts.of(&first.config).map(|_| ()))??;
        if !data.is_empty() {
            let located = source::located(data);
            runs.iter_mut().for_each(|run| run.config.data.clone_from(&located));
        }
        let plan = Plan { runs, seeds, texts, seconds: None };
        let grid = Grid { out: out.to_owned(), plan, _lock: lock };
        grid.write()?;
        Ok(grid)
    }

    /// The sweep's folder.
    pub fn path(&self) -> &Path {
        &self.out
    }

    /// The name of each run, and its configuration, fully resolved.
    pub fn runs(&self) -> impl Iterator<Item = (&str, &Config)> {
        self.plan.runs.iter().map(|run| (run.name.as_str(), &run.config))
    }

    /// How much each run has to compute, in a unit that all share.
    ///
    /// # Errors
    /// If a configuration does not describe a valid model.
    pub fn works(&self) -> Result<Vec<f64>> {
        self.plan.runs.iter().map(|run| work(&run.config)).collect()
    }

    /// Trains the runs until all have ended or `stop` is set. Passes every event to `observe` and returns the last,
    /// [`Event::Done`] or [`Event::Interrupted`].
    ///
    /// # Errors
    /// If something cannot be read or written, or the text of a run is missing or has changed.
    pub fn run(self, hands: &mut Hands, stop: &AtomicBool, observe: impl FnMut(&Event) + Send) -> Result<Event> {
        Session { todo: Vec::new(), grid: self, stop, observe, error: None }.run(hands)
    }

    /// Writes `sweep.json`.
    fn write(&self) -> Result<()> {
        let stored = |Run { name, settings, config }: &Run| Stored {
            name: name.clone(),
            settings: settings.clone(),
            config: config.to_toml(),
        };
        let runs = self.plan.runs.iter().map(stored).collect();
        self.write_file(FILE, &stored::text(&SweepFile { format_version: FORMAT_VERSION, runs }))
    }

    fn write_file(&self, name: &str, text: &str) -> Result<()> {
        let path = self.out.join(name);
        disk::write_whole(&path, text.as_bytes()).map_err(Error::io("write", &path))
    }

    /// What a run came to, if it has ended.
    fn outcome(&self, run: &Run) -> Result<Option<Outcome>> {
        Outcome::of(&self.out.join(&run.name), &run.settings, run.config.seed)
    }
}

/// One session of a sweep.
struct Session<'a, O: FnMut(&Event) + Send> {
    grid: Grid,
    /// The runs that have not ended, by their numbers from 0.
    todo: Vec<usize>,
    stop: &'a AtomicBool,
    observe: O,
    /// What went wrong where no error can be returned.
    error: Option<Error>,
}

impl<O: FnMut(&Event) + Send> Session<'_, O> {
    fn run(mut self, hands: &mut Hands) -> Result<Event> {
        let mut ended = Vec::new();
        for (i, run) in self.grid.plan.runs.iter().enumerate() {
            match self.grid.outcome(run)? {
                Some(outcome) => ended.push(outcome),
                None => self.todo.push(i),
            }
        }
        let Grid { out, plan, .. } = &self.grid;
        (self.observe)(&Event::Planned {
            keys: plan.runs[0].settings.keys().cloned().collect(),
            settings: plan.settings(),
            seeds: plan.seeds,
            runs: plan.runs.len(),
            left: self.todo.len(),
            seconds: plan.seconds,
            out: out.display().to_string(),
        });
        ended.into_iter().for_each(|outcome| (self.observe)(&Event::Outcome(outcome)));
        let how = hands.train(self.todo.len(), &mut self)?;
        if let Some(error) = self.error {
            return Err(error);
        }
        let left = how.iter().filter(|how| matches!(how, Ended::Stopped | Ended::NotBegun)).count();
        let event = if left > 0 {
            Event::Interrupted { left, out: self.grid.out.display().to_string() }
        } else {
            self.finish()?
        };
        (self.observe)(&event);
        Ok(event)
    }

    /// Writes the results.
    fn finish(&self) -> Result<Event> {
        let Grid { plan, out, .. } = &self.grid;
        let mut outcomes = Vec::new();
        for run in &plan.runs {
            outcomes.extend(self.grid.outcome(run)?);
        }
        let rows = outcome::rows(&outcomes);
        self.grid.write_file(PAGE, &outcome::page(&rows, &outcomes))?;
        if let Some(svg) = plot::svg(&outcomes) {
            self.grid.write_file(PLOT, &svg)?;
        }
        let of_best =
            outcomes.iter().filter(|outcome| outcome.settings == rows[0].settings && outcome.loss.is_finite());
        let best = of_best.min_by(|a, b| a.loss.total_cmp(&b.loss)).map(|outcome| outcome.run.clone());
        Ok(Event::Done { rows, best, out: out.display().to_string() })
    }
}

impl<O: FnMut(&Event) + Send> Tasks for Session<'_, O> {
    fn open(&mut self, task: usize) -> Result<Job> {
        let Grid { out, plan: Plan { runs, texts, .. }, .. } = &mut self.grid;
        let Run { name, config, .. } = &runs[self.todo[task]];
        let path = out.join(name);
        if path.join(CONFIG).exists() {
            // The text may have moved since the run began.
            return Job::resume_with(&path, &Changes { data: config.data.clone(), ..Changes::default() });
        }
        let (tokenizer, data) = texts.of(config)?;
        let (run, lock) = RunDir::create(&path, config.clone(), tokenizer, None)?;
        Ok(Job::new(run, lock, data))
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.error.is_some()
    }

    fn event(&mut self, event: hands::Event<'_>) {
        let of = |task: usize| &self.grid.plan.runs[self.todo[task]];
        match event {
            hands::Event::Began { task } => {
                let Run { name, settings, config } = of(task);
                let event = Event::Run {
                    run: self.grid.out.join(name).display().to_string(),
                    number: self.todo[task] + 1,
                    of: self.grid.plan.runs.len(),
                    settings: settings.clone(),
                    seed: config.seed,
                    steps: config.max_iters,
                };
                (self.observe)(&event);
            }
            hands::Event::Training { task, event } => {
                (self.observe)(&Event::Training { number: self.todo[task] + 1, training: event.clone() });
            }
            hands::Event::Ended { task, how: Ended::Done | Ended::Diverged } => match self.grid.outcome(of(task)) {
                Ok(Some(outcome)) => (self.observe)(&Event::Outcome(outcome)),
                Ok(None) => {}
                Err(error) => self.error = Some(error),
            },
            hands::Event::Ended { .. } => {}
            hands::Event::Lost { rank, task, why } => {
                let (run, why) = (task.map(|task| of(task).name.clone()), why.to_owned());
                (self.observe)(&Event::Lost { rank, run, why });
            }
        }
    }
}
