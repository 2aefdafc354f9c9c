//! What the last lines of the metrics say, however long the file is.

use super::follow::{Follow, Look};
use crate::run::{
    files::METRICS,
    metrics::{DoneRecord, EstimateRecord, Record, StepRecord, last_records},
};
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

/// Bytes of the end of the metrics that are read first: hundreds of lines.
const END_BYTES: u64 = 1 << 17;

/// Where these do not have an estimate, so many times more are read, ...
const MORE: u64 = 8;

/// ... and again, up to this.
const MOST_BYTES: u64 = END_BYTES * MORE * MORE;

/// The last events of a run.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Latest {
    follow: Follow,
    /// The last update.
    pub step: Option<StepRecord>,
    /// The last estimate.
    pub estimate: Option<EstimateRecord>,
    /// If it is the last event.
    pub done: Option<DoneRecord>,
    /// Whether it ended so.
    pub diverged: bool,
    /// Whether there are no metrics.
    pub nothing: bool,
}

impl Latest {
    /// Of the run in this folder; where its metrics cannot be read, there are none.
    pub fn of(run: &Path) -> Latest {
        let mut latest = Latest::new();
        _ = latest.update(run);
        latest
    }

    /// Of a run that was not looked at.
    pub fn new() -> Latest {
        Latest { nothing: true, ..Latest::default() }
    }

    /// Reads what has come since the last look at the run in this folder; whether that was anything.
    ///
    /// # Errors
    /// If the metrics are there and cannot be read.
    pub fn update(&mut self, run: &Path) -> io::Result<bool> {
        match self.follow.look(&run.join(METRICS))? {
            Look::Same => Ok(false),
            Look::Gone => {
                *self = Latest::new();
                Ok(true)
            }
            Look::Anew(file) => {
                *self = Latest { follow: std::mem::take(&mut self.follow), ..Latest::new() };
                self.read(file)
            }
            Look::More(file) => self.read(file),
        }
    }

    /// Reads the end of what is new.
    fn read(&mut self, file: File) -> io::Result<bool> {
        let is_new = self.read_end(file)?;
        self.follow.finished();
        Ok(is_new)
    }

    fn read_end(&mut self, mut file: File) -> io::Result<bool> {
        let (began, len) = (self.follow.at(), file.metadata()?.len());
        let mut most = END_BYTES;
        loop {
            let from = began.max(len.saturating_sub(most));
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.by_ref().take(len.saturating_sub(from)).read_to_end(&mut bytes)?;
            // A last line that is not complete is read at the next look.
            let Some(end) = bytes.iter().rposition(|&byte| byte == b'\n') else {
                if from == began || most >= MOST_BYTES {
                    return Ok(false);
                }
                most *= MORE;
                continue;
            };
            let is_found = self.take(&bytes[..=end]);
            if is_found || from == began || most >= MOST_BYTES {
                let line = bytes[..end].rsplit(|&byte| byte == b'\n').next().unwrap_or_default();
                self.follow.passed(line);
                self.follow.reached(from + end as u64 + 1);
                return Ok(true);
            }
            most *= MORE;
        }
    }

    /// Takes what these lines say; whether there is an estimate then.
    fn take(&mut self, lines: &[u8]) -> bool {
        let mut records = last_records(lines).peekable();
        match records.peek() {
            None => return self.estimate.is_some(),
            Some(Record::Done(done)) => (self.done, self.diverged) = (Some(*done), false),
            Some(Record::Diverged { action }) => (self.done, self.diverged) = (None, action == "stop"),
            Some(_) => (self.done, self.diverged) = (None, false),
        }
        self.nothing = false;
        let (mut step, mut estimate) = (None, None);
        for record in records {
            match record {
                Record::Step(at) if step.is_none() => step = Some(at),
                Record::Estimate(at) if estimate.is_none() => estimate = Some(at),
                _ => {}
            }
            // Where an estimate was made before any update, there is none to be found.
            if estimate.is_some_and(|at: EstimateRecord| at.step == 0) || step.is_some() && estimate.is_some() {
                break;
            }
        }
        self.step = step.or(self.step);
        self.estimate = estimate.or(self.estimate);
        self.estimate.is_some()
    }
}
