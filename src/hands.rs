//! Many whole runs: one after another in this process.

use crate::{
    run::{CONFIG, DoneRecord, Record, RunDir},
    train::{self, Job, Options},
};
use kinglet_core::{
    backend::Cpu,
    error::{Error, Result},
};
use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// Runs to be trained, by their numbers from 0.
pub trait Tasks: Send {
    /// Opens a run: a new one in a folder of its own, or one that was interrupted.
    ///
    /// # Errors
    /// If it cannot be started or resumed.
    fn open(&mut self, task: usize) -> Result<Job>;

    /// Whether to stop: no run begins any more, and those in training save a checkpoint and end.
    fn is_over(&self) -> bool;

    /// Is told what happens.
    fn event(&mut self, event: Event<'_>);
}

/// What happens to runs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A run begins or goes on.
    Began {
        /// Its number.
        task: usize,
    },
    /// A run reported a training event.
    Training {
        /// Its number.
        task: usize,
        /// The training event.
        event: &'a train::Event,
    },
    /// A run ended.
    Ended {
        /// Its number.
        task: usize,
        /// How.
        how: Ended,
    },
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is complete.
    Done,
    /// It diverged; its folder says so.
    Diverged,
    /// It was stopped, and can go on.
    Stopped,
    /// It was not begun.
    NotBegun,
}

/// What trains runs.
#[derive(Debug)]
pub struct Hands {
    be: Cpu,
    threads: usize,
}

impl Hands {
    /// This process, with so many threads (0: one per core).
    pub fn alone(be: Cpu, threads: usize) -> Hands {
        Hands { be, threads }
    }

    /// How many runs are in training at a time.
    pub fn count(&self) -> usize {
        1
    }

    /// Trains so many runs, each until it ends or is stopped; returns how each ended.
    ///
    /// # Errors
    /// The first error of a run. Divergence is a result like any other.
    pub fn train(&mut self, n: usize, tasks: &mut impl Tasks) -> Result<Vec<Ended>> {
        let mut ended = vec![Ended::NotBegun; n];
        for (task, how) in ended.iter_mut().enumerate() {
            if tasks.is_over() {
                break;
            }
            *how = self.one(task, tasks)?;
            tasks.event(Event::Ended { task, how: *how });
        }
        Ok(ended)
    }

    fn one(&self, task: usize, tasks: &mut impl Tasks) -> Result<Ended> {
        tasks.event(Event::Began { task });
        let job = tasks.open(task)?;
        let stop = AtomicBool::new(false);
        let options = Options::default().threads(self.threads).stop(&stop);
        let last = train::run(job, self.be, &options, |event| {
            tasks.event(Event::Training { task, event });
            stop.store(tasks.is_over(), Ordering::Relaxed);
        });
        how(last)
    }
}

/// How a run ended that ended so.
fn how(last: Result<train::Event>) -> Result<Ended> {
    match last {
        Ok(train::Event::Interrupted { .. }) => Ok(Ended::Stopped),
        Ok(_) => Ok(Ended::Done),
        Err(Error::Diverged(_)) => Ok(Ended::Diverged),
        Err(error) => Err(error),
    }
}

/// What a run that ended came to, as its folder says; without any loss if it diverged. `None` of one that has not ended, or
/// not begun.
///
/// # Errors
/// If the folder cannot be read.
pub fn end_of(run: &Path) -> Result<Option<DoneRecord>> {
    if !run.join(CONFIG).exists() {
        return Ok(None);
    }
    let mut end = None;
    RunDir::open(run)?.records(|record| match record {
        Record::Done(done) => end = Some(done),
        Record::Diverged { action } if action == "stop" => end = Some(DoneRecord::default()),
        _ => {}
    })?;
    Ok(end)
}
