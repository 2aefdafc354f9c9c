//! Runs to be trained, and what is told of them.

use crate::{
    run::{CONFIG, DoneRecord, Record, RunDir},
    train::{self, Job},
};
use kinglet_core::error::{Error, Result};
use std::path::Path;

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
    /// A run begins or goes on, or is given to a rank that trains it after the one that it has.
    Began {
        /// Its number.
        task: usize,
    },
    /// A run reported a training event. Of a run on another rank these are updates, now and then, and what is to be shown.
    Training {
        /// Its number.
        task: usize,
        /// The training event.
        event: &'a train::Event,
    },
    /// A run ended, or was stopped.
    Ended {
        /// Its number.
        task: usize,
        /// How.
        how: Ended,
    },
    /// A rank is lost. Its run begins again from the last checkpoint that is here, on another rank.
    Lost {
        /// Which rank.
        rank: usize,
        /// Its run.
        task: Option<usize>,
        /// How that is known.
        why: &'a str,
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

impl Ended {
    /// How a run ended whose training ended so.
    ///
    /// # Errors
    /// Any but that it diverged.
    pub(super) fn of(last: Result<train::Event>) -> Result<Ended> {
        match last {
            Ok(train::Event::Interrupted { .. }) => Ok(Ended::Stopped),
            Ok(_) => Ok(Ended::Done),
            // A result like any other.
            Err(Error::Diverged(_)) => Ok(Ended::Diverged),
            Err(error) => Err(error),
        }
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
