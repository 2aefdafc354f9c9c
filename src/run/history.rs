//! What a run has recorded, as it grows: read from where the last look ended, and kept as columns. The file is closed between
//! looks, and nothing is locked.

mod columns;
mod follow;
mod latest;
mod spans;

use super::{
    files::METRICS,
    metrics::{MetricLines, verified},
};
use crate::system::disk::open_regular;
use columns::Line;
use follow::{Follow, Look};
use kinglet_core::error::{Error, Result};
use serde::Deserialize;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    mem::size_of,
    ops::Range,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

pub use columns::{Estimates, Steps};
pub use latest::Latest;
pub use spans::{Span, Spans};

/// The most marks that are kept of a run. A guard that skips every update would make one of each.
const MARKS: usize = 1000;

/// What a mark is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MarkKind {
    /// The guard rejected an update.
    Diverged,
    /// The loss had not fallen for long enough.
    EarlyStop,
    /// The run is complete.
    Done,
    /// Something is wrong with what was recorded.
    Warning,
}

impl MarkKind {
    /// As it is called.
    pub fn name(self) -> &'static str {
        match self {
            MarkKind::Diverged => "diverged",
            MarkKind::EarlyStop => "early_stop",
            MarkKind::Done => "done",
            MarkKind::Warning => "warning",
        }
    }
}

/// Something that happened at a step.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mark {
    /// Updates done.
    pub step: u64,
    /// What it is about.
    pub kind: MarkKind,
    /// What happened.
    pub text: String,
}

/// The end of a run.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Finish {
    /// Exact loss over the validation split.
    pub val_loss_exact: Option<f64>,
    /// The entropy floor of its validation split.
    pub entropy_floor: Option<f64>,
    /// The best n-gram model and its loss.
    pub baseline: Option<(String, f64)>,
}

/// How far somebody has read a [`Tail`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    generation: u64,
    steps: usize,
    estimates: usize,
    marks: usize,
    untold: u64,
    samples: usize,
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Cursor { generation, steps, estimates, marks, untold, samples } = self;
        write!(f, "{generation:x}:{steps}.{estimates}.{marks}.{untold}.{samples}")
    }
}

impl std::str::FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Cursor, ()> {
        let (generation, counts) = text.split_once(':').ok_or(())?;
        let counts = counts.split('.').map(|count| count.parse().map_err(|_| ()));
        let counts: Vec<u64> = counts.collect::<std::result::Result<_, ()>>()?;
        let [steps, estimates, marks, untold, samples] = counts[..] else { return Err(()) };
        let generation = u64::from_str_radix(generation, 16).map_err(|_| ())?;
        let [steps, estimates, marks, samples] = [steps, estimates, marks, samples].map(|count| count as usize);
        Ok(Cursor { generation, steps, estimates, marks, untold, samples })
    }
}

/// From where on somebody wants to know samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Those after this step.
    Step(u64),
    /// Those after what was read; all, if that is not known or no longer so.
    Cursor(Option<Cursor>),
}

/// How much is read of samples at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Most {
    /// So many.
    pub samples: usize,
    /// So many bytes of text; but one at least.
    pub bytes: usize,
}

impl Most {
    /// So many samples, and bytes of them all.
    pub fn new(samples: usize, bytes: usize) -> Most {
        Most { samples, bytes }
    }
}

/// Samples, with their steps.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Samples {
    /// Oldest first.
    pub all: Vec<(u64, String)>,
    /// So many older ones are left out.
    pub left_out: usize,
    /// Whether what was read before is no longer so.
    pub whole: bool,
}

/// What has come since a [`Cursor`], as places in the columns.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Added {
    /// Whether it is everything, because what was read before is no longer so.
    pub whole: bool,
    /// Places in [`Steps`].
    pub steps: Range<usize>,
    /// Places in [`Estimates`].
    pub estimates: Range<usize>,
    /// The marks.
    pub marks: Vec<Mark>,
}

/// The metrics of a run, as they grow. Steps that were made again, after a resume or a return to a checkpoint, replace those of
/// before.
#[derive(Debug, Default)]
pub struct Tail {
    follow: Follow,
    generation: u64,
    /// The updates.
    pub steps: Steps,
    /// The estimates.
    pub estimates: Estimates,
    /// How it ended, if it did.
    pub finish: Option<Finish>,
    /// What happened.
    marks: Vec<Mark>,
    /// The steps of samples, and where in the file their lines begin.
    samples: Vec<(u64, u64)>,
    /// Lines that are damaged.
    damaged: u64,
    /// Marks that were too many to be kept.
    unmarked: u64,
}

#[derive(Deserialize)]
struct DivergedLine {
    action: String,
    at_step: Option<u64>,
    cause: Option<String>,
    loss: Option<f64>,
    grad_norm: Option<f64>,
    tensor: Option<String>,
}

#[derive(Deserialize)]
struct EarlyStopLine {
    best_val_loss: Option<f64>,
    best_step: u64,
}

#[derive(Deserialize)]
struct DoneLine {
    val_loss_exact: Option<f64>,
    entropy_floor: Option<f64>,
    baseline: Option<BaselineLine>,
}

#[derive(Deserialize)]
struct BaselineLine {
    name: String,
    nats_per_token: f64,
}

#[derive(Deserialize)]
struct SampleLine {
    step: u64,
    text: String,
}

/// A number that no other generation has, in this process or in another one.
fn next_generation() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let began = now.map_or(0, |since| since.as_micros() as u64) << 8;
    let after = |last: u64| began.max(last + 1);
    // What is returned is the number before.
    let last = NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(after(last)));
    last.map_or_else(after, after)
}

impl Tail {
    /// Reads what has come since the last look at the run in this folder.
    ///
    /// # Errors
    /// If the file is there and cannot be read. What was read before stays.
    pub fn update(&mut self, run: &Path) -> Result<()> {
        let path = run.join(METRICS);
        self.read(&path).map_err(Error::io("read", &path))
    }

    fn read(&mut self, path: &Path) -> io::Result<()> {
        let file = match self.follow.look(path)? {
            Look::Same => return Ok(()),
            Look::More(file) => file,
            Look::Anew(file) => {
                self.forget();
                file
            }
            Look::Gone => {
                self.forget();
                return Ok(());
            }
        };
        self.read_lines(BufReader::with_capacity(1 << 16, file))
    }

    fn forget(&mut self) {
        let follow = std::mem::take(&mut self.follow);
        *self = Tail { follow, generation: next_generation(), ..Tail::default() };
    }

    fn read_lines(&mut self, from: impl BufRead) -> io::Result<()> {
        let began = self.follow.at();
        let mut lines = MetricLines::new(from);
        loop {
            let at = began + lines.bytes;
            let Some(line) = lines.next_line()? else {
                self.follow.finished();
                return Ok(());
            };
            match verified(line) {
                Some((_, json)) => self.add(&json, at),
                None => self.damaged += 1,
            }
            self.follow.passed(line);
            self.follow.reached(began + lines.bytes);
        }
    }

    /// Adds an event whose line begins at this place of the file. What is not known here has no place here.
    fn add(&mut self, json: &str, at: u64) {
        let Ok(line) = serde_json::from_str::<Line>(json) else { return };
        let Some(step) = line.step else { return };
        match &*line.event {
            "step" => {
                if self.steps.step.last().is_some_and(|&last| last >= step) {
                    self.cut(step, true);
                }
                self.steps.push(step, &line);
            }
            "estimate" => {
                if self.estimates.step.last().is_some_and(|&last| last >= step) {
                    self.cut(step, false);
                }
                self.estimates.push(step, &line);
            }
            "sample" => {
                let kept = self.samples.partition_point(|sample| sample.0 < step);
                if kept < self.samples.len() {
                    self.samples.truncate(kept);
                    self.generation = next_generation();
                }
                self.samples.push((step, at));
            }
            "diverged" => self.diverged(step, json),
            "early_stop" => {
                if let Ok(EarlyStopLine { best_val_loss, best_step }) = serde_json::from_str(json) {
                    let best = best_val_loss.unwrap_or(f64::NAN);
                    let text =
                        format!("the validation loss has not fallen below {best:.4}, its value at step {best_step}");
                    self.mark(step, MarkKind::EarlyStop, text);
                }
            }
            "done" => {
                if let Ok(DoneLine { val_loss_exact, entropy_floor, baseline }) = serde_json::from_str(json) {
                    let baseline = baseline.map(|of| (of.name, of.nats_per_token));
                    self.finish = Some(Finish { val_loss_exact, entropy_floor, baseline });
                    let exact =
                        val_loss_exact.map_or(String::new(), |loss| format!(": exact validation loss {loss:.4}"));
                    self.mark(step, MarkKind::Done, format!("done{exact}"));
                }
            }
            _ => {}
        }
    }

    fn diverged(&mut self, step: u64, json: &str) {
        let Ok(of) = serde_json::from_str::<DivergedLine>(json) else { return };
        let number = |x: Option<f64>| x.map_or("no number".to_owned(), |x| format!("{x:.4}"));
        let what = match of.cause.as_deref() {
            Some("spike") => format!("the loss jumped to {}", number(of.loss)),
            Some("gradient") => format!("the gradient became {}", number(of.grad_norm)),
            _ => format!("the loss became {}", number(of.loss)),
        };
        let at = of.at_step.map_or(String::new(), |at| format!("at step {at} "));
        let tensor = of.tensor.map_or(String::new(), |tensor| format!("; the gradient is largest in {tensor}"));
        let done = match &*of.action {
            "rollback" => "back to the last checkpoint, with a lower learning rate",
            "skip" => "the update is skipped",
            _ => "the run is stopped",
        };
        self.mark(step, MarkKind::Diverged, format!("{at}{what}{tensor}: {done}"));
    }

    fn mark(&mut self, step: u64, kind: MarkKind, text: String) {
        if self.marks.len() < MARKS {
            self.marks.push(Mark { step, kind, text });
        } else {
            self.unmarked += 1;
        }
    }

    /// Forgets what will happen again from this step on. Whoever has read it must read everything again.
    fn cut(&mut self, step: u64, with_estimates_of_it: bool) {
        self.generation = next_generation();
        self.steps.truncate(self.steps.step.partition_point(|&at| at < step || at == step && !with_estimates_of_it));
        self.estimates.truncate(self.estimates.step.partition_point(|&at| at < step));
        self.samples.truncate(self.samples.partition_point(|sample| sample.0 < step));
        self.finish = None;
        self.marks.retain(|mark| !matches!(mark.kind, MarkKind::Done | MarkKind::EarlyStop));
    }

    /// The end of what was read.
    pub fn cursor(&self) -> Cursor {
        Cursor {
            generation: self.generation,
            steps: self.steps.step.len(),
            estimates: self.estimates.step.len(),
            marks: self.marks.len(),
            untold: self.damaged + self.unmarked,
            samples: self.samples.len(),
        }
    }

    /// What has come since then, or everything.
    pub fn since(&self, cursor: Option<Cursor>) -> Added {
        let now = self.cursor();
        let fits = |from: &Cursor| {
            from.generation == now.generation
                && from.steps <= now.steps
                && from.estimates <= now.estimates
                && from.marks <= now.marks
        };
        let from = cursor.filter(fits);
        let whole = from.is_none();
        let from = from.unwrap_or_default();
        let mut marks = self.marks[from.marks..].to_vec();
        if now.untold > from.untold {
            marks.extend(self.warning());
        }
        Added { whole, steps: from.steps..now.steps, estimates: from.estimates..now.estimates, marks }
    }

    /// What is missing here of what was recorded.
    fn warning(&self) -> Option<Mark> {
        let step = self.steps.step.last().max(self.estimates.step.last()).copied().unwrap_or(0);
        let lines = match self.damaged {
            0 => None,
            1 => Some("1 line of the metrics is damaged and was skipped".to_owned()),
            n => Some(format!("{n} lines of the metrics are damaged and were skipped")),
        };
        let marks = (self.unmarked > 0).then(|| format!("{} later marks are left out", self.unmarked));
        let text: Vec<_> = [lines, marks].into_iter().flatten().collect();
        (!text.is_empty()).then(|| Mark { step, kind: MarkKind::Warning, text: text.join("; ") })
    }

    /// The samples since then, read from the file: the newest ones that are not too many and not too long.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn samples(&self, run: &Path, since: Since, most: Most) -> Result<Samples> {
        let known = |cursor: &Cursor| cursor.generation == self.generation && cursor.samples <= self.samples.len();
        let (first, whole) = match since {
            Since::Step(step) => (self.samples.partition_point(|sample| sample.0 <= step), false),
            Since::Cursor(Some(cursor)) if known(&cursor) => (cursor.samples, false),
            Since::Cursor(_) => (0, true),
        };
        let wanted = &self.samples[first..];
        let path = run.join(METRICS);
        let all = self.newest(&path, wanted, most).map_err(Error::io("read", &path))?;
        Ok(Samples { left_out: wanted.len() - all.len(), all: all.into_iter().flatten().collect(), whole })
    }

    /// The newest of these samples, oldest first; none where a line is no longer what it was.
    fn newest(&self, path: &Path, wanted: &[(u64, u64)], most: Most) -> io::Result<Vec<Option<(u64, String)>>> {
        let mut found = Vec::new();
        if wanted.is_empty() {
            return Ok(found);
        }
        let (mut file, mut bytes) = (open_regular(path)?, 0);
        for &(step, at) in wanted.iter().rev().take(most.samples) {
            let sample = sample_at(&mut file, at)?.filter(|sample| sample.0 == step);
            bytes += sample.as_ref().map_or(0, |sample| sample.1.len());
            // The newest is told, however long it is.
            if bytes > most.bytes && !found.is_empty() {
                break;
            }
            found.push(sample);
        }
        found.reverse();
        Ok(found)
    }

    /// About how many bytes it takes in memory.
    pub fn bytes(&self) -> usize {
        let step = size_of::<u64>() + size_of::<f64>() + 3 * size_of::<f32>();
        let estimate = size_of::<u64>() + 5 * size_of::<f64>();
        let marks = self.marks.iter().map(|mark| size_of::<Mark>() + mark.text.len()).sum::<usize>();
        self.steps.step.len() * step + self.estimates.step.len() * estimate + self.samples.len() * 16 + marks
    }
}

/// The sample whose line begins at this place, if it is still there.
fn sample_at(file: &mut File, at: u64) -> io::Result<Option<(u64, String)>> {
    file.seek(SeekFrom::Start(at))?;
    let mut lines = MetricLines::new(BufReader::with_capacity(1 << 12, file.by_ref()));
    let line = lines.next_line()?.and_then(verified);
    let sample = line.and_then(|(_, json)| serde_json::from_str::<SampleLine>(&json).ok());
    Ok(sample.map(|SampleLine { step, text }| (step, text)))
}

#[cfg(test)]
mod tests;
