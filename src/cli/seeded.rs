//! Runs with several seeds that a command trains and then compares: complete ones are kept, interrupted ones go on.

use super::{
    many::{Many, is_shown},
    report::{Reporter, optional},
    terminal,
    watch::Watch,
    world::World,
};
use crate::{
    config::Config,
    error::Result,
    hands::{self, Hands, Tasks},
    model::Gpt,
    run::RunDir,
    train::{Event, Job},
};
use anyhow::bail;
use serde_json::Value;
use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::SystemTime,
};

/// A run with one seed.
pub(super) struct Seeded {
    /// What it is called where its training is shown.
    pub(super) name: String,
    pub(super) config: Config,
    pub(super) folder: PathBuf,
    /// The `done` event, if it is complete.
    pub(super) done: Option<Value>,
}

impl Seeded {
    /// A run of `config` in `folder`, which may hold it already.
    ///
    /// # Errors
    /// If another run is in the folder, or it cannot be read.
    pub(super) fn new(name: String, mut config: Config, folder: PathBuf, world: &World) -> anyhow::Result<Seeded> {
        world.share(&mut config, 0)?;
        let mut run = Seeded { name, config, folder, done: None };
        if run.folder.exists() {
            run.check()?;
            run.look()?;
        }
        Ok(run)
    }

    pub(super) fn is_done(&self) -> bool {
        self.done.is_some()
    }

    /// Refuses a folder with another run in it.
    fn check(&self) -> anyhow::Result<()> {
        let run = RunDir::open(&self.folder)?;
        let mut config = self.config.clone();
        // Copy the values a run resolves for itself; all others must match the requested configuration.
        let Config { data, data_kind, data_sha256, tokenizer_sha256, vocab_size, shards, .. } = run.config.clone();
        (config.data, config.data_kind) = (data, data_kind);
        if config.data_sha256.is_empty() {
            config.data_sha256 = data_sha256;
        }
        config.tokenizer_sha256 = tokenizer_sha256;
        (config.vocab_size, config.shards) = (vocab_size, shards);
        if run.config != config {
            bail!(
                "{} contains a run with a different configuration: remove it, or choose another --out",
                self.folder.display()
            );
        }
        Ok(())
    }

    /// Looks whether it is complete.
    fn look(&mut self) -> anyhow::Result<()> {
        let is_done = |event: &Result<Value>| event.as_ref().map_or(true, |event| event["event"] == "done");
        self.done = RunDir::open(&self.folder)?.events::<Value>()?.find(is_done).transpose()?;
        Ok(())
    }
}

/// How runs are trained.
pub(super) struct How<'a> {
    pub(super) json: bool,
    /// The folder of all runs.
    pub(super) out: &'a Path,
    /// Which loss of the `done` event is shown of a run that ends beside others.
    pub(super) loss: &'static str,
    /// Whether to leave out the sample and the n-gram baseline at the end of a run.
    pub(super) skip_report: bool,
    /// Is told of each run that begins or goes on.
    pub(super) opened: &'a mut (dyn FnMut(&Seeded) -> Result<()> + Send),
}

/// Trains those of the runs that are not complete; without a result if that was interrupted.
///
/// # Errors
/// The first error of a run, or if one diverged.
pub(super) fn train<'a>(
    each: Vec<Seeded>,
    how: How<'a>,
    world: &'a World,
    hands: &mut Hands,
) -> anyhow::Result<Option<Vec<Seeded>>> {
    let (several, json, out) = (hands.count() > 1, how.json, how.out);
    let stop = world.team().stop();
    let todo = (0..each.len()).filter(|&i| !each[i].is_done()).collect();
    let mut runs = Training { how, each, todo, stop, shown: Shown::new(several), error: None };
    runs.begins()?;
    let ended = hands.train(runs.todo.len(), &mut runs)?;
    if let Some(error) = runs.error {
        return Err(error);
    }
    if let Some((&i, _)) = runs.todo.iter().zip(&ended).find(|(_, how)| **how == hands::Ended::Diverged) {
        bail!("{} diverged", runs.each[i].name);
    }
    if !ended.iter().all(|how| *how == hands::Ended::Done) {
        if several && !json {
            terminal::print(&format!("stopped; what is done is saved in {}\n", out.display()))?;
            terminal::hints(&[("to continue", terminal::this_command())])?;
        }
        return Ok(None);
    }
    Ok(Some(runs.each))
}

/// How the training of runs is shown.
enum Shown {
    /// One after another, each as `kinglet train` shows it.
    Each(Option<Box<Reporter>>),
    /// Several at a time, with one bar for all, and the notes and warnings that were shown.
    Together(Box<(Watch, Many, HashSet<String>)>),
}

impl Shown {
    fn new(several: bool) -> Shown {
        match several {
            false => Shown::Each(None),
            true => Shown::Together(Box::new((Watch::new(true), Many::new("", []), HashSet::new()))),
        }
    }
}

/// Runs that are trained.
struct Training<'a> {
    how: How<'a>,
    each: Vec<Seeded>,
    /// Those that are not complete.
    todo: Vec<usize>,
    stop: &'a AtomicBool,
    shown: Shown,
    /// What went wrong where no error can be returned.
    error: Option<anyhow::Error>,
}

impl Training<'_> {
    /// Says which runs are complete already.
    fn begins(&mut self) -> anyhow::Result<()> {
        for run in self.each.iter().filter(|run| run.is_done() && !self.how.json) {
            terminal::print(&format!("--- {}: complete\n", run.name))?;
        }
        if let Shown::Together(shown) = &mut self.shown {
            // The larger model takes the longer.
            let size = |config: &Config| Gpt::new(config).map_or(1.0, |model| model.layout.len() as f64);
            let of = |run: &Seeded| {
                let mut config = run.config.clone();
                config.vocab_size = config.vocab_size.max(65);
                (run.name.clone(), size(&config) * config.max_iters as f64, config.max_iters)
            };
            shown.1 = Many::new("", self.each.iter().map(of));
            let done = self.each.iter().enumerate().filter(|(_, run)| run.is_done());
            done.for_each(|(i, _)| shown.1.ended(i));
        }
        Ok(())
    }

    /// A run has ended.
    fn ended(&mut self, i: usize) -> anyhow::Result<()> {
        self.each[i].look()?;
        if let (Shown::Together(shown), Some(done)) = (&mut self.shown, &self.each[i].done) {
            shown.1.ended(i);
            let loss = done[self.how.loss].as_f64().unwrap_or(f64::NAN);
            match self.how.json {
                true => terminal::print_json(done)?,
                false => shown.0.say(&format!("{}: validation loss {loss:.4}\n", self.each[i].name))?,
            }
        }
        Ok(())
    }
}

impl Tasks for Training<'_> {
    fn open(&mut self, task: usize) -> Result<Job> {
        let run = &self.each[self.todo[task]];
        (self.how.opened)(run)?;
        let mut job = match run.folder.exists() {
            true => Job::resume(&run.folder, &[])?,
            false => Job::start(run.config.clone(), &run.folder)?,
        };
        job.skip_report = self.how.skip_report;
        if let Shown::Each(reporter) = &mut self.shown {
            let of_run = Reporter::new(self.how.json, &job.run.config).resumed_by(terminal::this_command());
            *reporter = Some(Box::new(of_run));
        }
        Ok(job)
    }

    fn is_over(&self) -> bool {
        self.error.is_some() || self.stop.load(Ordering::Relaxed)
    }

    fn event(&mut self, event: hands::Event<'_>) {
        match (event, &mut self.shown) {
            (hands::Event::Began { task }, Shown::Each(_)) if !self.how.json => {
                // A closed output pipe must not end the training.
                let _ = terminal::print(&format!("--- {}\n", self.each[self.todo[task]].name));
            }
            (hands::Event::Began { task }, Shown::Together(shown)) => shown.1.begins(self.todo[task]),
            (hands::Event::Training { event, .. }, Shown::Each(Some(reporter))) => reporter.event(event),
            (hands::Event::Training { task, event }, Shown::Together(shown)) => {
                let ((watch, many, told), i) = (&mut **shown, self.todo[task]);
                match event {
                    Event::Warning { step, warning } => {
                        watch.tell(&format!("warning: {}: at step {step}: {warning}", many.name(i)));
                    }
                    Event::Note { note } if told.insert(note.clone()) => watch.tell(&format!("note: {note}")),
                    event => {
                        if let Some(what) = many.training(i, event).filter(|_| is_shown(self.how.json)) {
                            many.show(watch, i, &what, None);
                        }
                    }
                }
            }
            (hands::Event::Ended { task, how: hands::Ended::Done }, _) => {
                if let Err(error) = self.ended(self.todo[task]) {
                    self.error = Some(error);
                }
            }
            (hands::Event::Lost { rank, task, why }, Shown::Together(shown)) => {
                let again =
                    optional(task, |task| format!("; {} begins again on another", self.each[self.todo[task]].name));
                shown.0.tell(&format!("warning: rank {rank} is lost: {why}{again}"));
            }
            _ => {}
        }
    }
}

/// Today's date, as `2026-11-29`.
pub(super) fn today() -> String {
    humantime::format_rfc3339(SystemTime::now()).to_string()[..10].to_owned()
}

/// Mean and standard deviation.
pub(super) fn spread(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let values: Vec<f64> = values.collect();
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    (mean, (squares / (n - 1.0).max(1.0)).sqrt())
}
