//! `metrics.jsonl`: one event a line, each with its checksum. A long run has millions of lines: they are read one by one.

use crate::system::disk::{Appender, sha256};
use kinglet_core::error::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use std::{
    io::{self, BufRead, Read},
    path::PathBuf,
};

/// A run's `metrics.jsonl`, open for more.
#[derive(Debug)]
pub struct Metrics {
    pub(super) file: Appender,
    pub(super) path: PathBuf,
}

impl Metrics {
    /// Appends an event as one line of JSON with a checksum as its last key.
    ///
    /// # Errors
    /// If the file cannot be written; the event is tried again with the next.
    pub fn append(&mut self, event: &impl Serialize) -> Result<()> {
        let json = serde_json::to_string(event).expect("plain values");
        let line = format!("{}{CHECK}{}\"}}", &json[..json.len() - 1], check(&json));
        self.file.append(&line).map_err(Error::io("write", &self.path))
    }
}

/// One line of `metrics.jsonl`, verified.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricLine {
    /// As it stands there.
    pub text: String,
    /// Which event.
    pub(super) about: About,
}

/// What every event says, as far as it does.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct About {
    pub(super) event: String,
    pub(super) step: Option<u64>,
    pub(super) rollbacks: Option<u64>,
}

impl MetricLine {
    fn parse(line: &[u8]) -> Option<MetricLine> {
        let text = std::str::from_utf8(line).ok()?;
        let (json, sum) = split(text)?;
        let about = (check(&json) == sum).then(|| serde_json::from_str(&json).ok()).flatten()?;
        Some(MetricLine { text: text.to_owned(), about })
    }

    /// The event as `T`, without the checksum; none if it is no such event.
    pub fn event<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(&split(&self.text)?.0).ok()
    }
}

/// The JSON of a line, and its checksum.
fn split(text: &str) -> Option<(String, &str)> {
    let (json, sum) = text.strip_suffix("\"}")?.rsplit_once(CHECK)?;
    Some((format!("{json}}}"), sum))
}

/// The events of which programs read more than that they happened. What an older kinglet did not write is none.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Record {
    /// The loss was estimated.
    Estimate(EstimateRecord),
    /// The run came to its end.
    Done(DoneRecord),
    /// The guard stopped an update.
    Diverged {
        /// What was done about it.
        action: String,
    },
    /// Something else.
    #[serde(other)]
    Other,
}

/// An estimate of both losses, as `train::Event::Estimate` has them.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct EstimateRecord {
    /// Updates done.
    pub step: u64,
    /// In nats per token.
    #[serde(deserialize_with = "number")]
    pub train_loss: f64,
    /// In nats per token.
    #[serde(deserialize_with = "number")]
    pub val_loss: f64,
    /// In nats per token, of a fine-tuning's old data.
    pub old_val_loss: Option<f64>,
    /// `val_loss` in bits per byte.
    pub bits_per_byte: Option<f64>,
    /// Seconds of training steps so far.
    pub train_s: Option<f64>,
}

/// The end of a run, as `train::Event::Done` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct DoneRecord {
    /// Updates done.
    pub step: u64,
    /// Parameters.
    pub params: u64,
    /// The last estimate.
    pub train_loss: Option<f64>,
    /// The last estimate.
    pub val_loss: Option<f64>,
    /// Over the whole validation split.
    pub val_loss_exact: Option<f64>,
    /// Standard error of that.
    pub val_loss_stderr: Option<f64>,
    /// In bits per byte.
    pub bits_per_byte: Option<f64>,
    /// Of the built-in corpora.
    pub entropy_floor: Option<f64>,
    /// Mean over the run.
    pub ms_per_step: Option<f64>,
    /// Seconds in all.
    pub wall_s: Option<f64>,
    /// The most memory at once.
    pub peak_memory_mib: Option<f64>,
}

/// A number that JSON has no way to write is null there.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// Begins the end of a line of metrics: the key of its checksum.
const CHECK: &str = ",\"check\":\"";

/// No event is longer.
const LONGEST: u64 = 1 << 20;

/// Checksum of a line of metrics.
fn check(json: &str) -> String {
    sha256(json.as_bytes())[..8].to_owned()
}

/// Gives the intact lines of a `metrics.jsonl` to `each`, and returns how many are damaged; a last line cut short by a crash
/// is not counted.
///
/// # Errors
/// If it cannot be read, or what `each` says.
pub fn read_metrics(mut from: impl BufRead, mut each: impl FnMut(MetricLine) -> io::Result<()>) -> io::Result<u64> {
    let (mut line, mut damaged, mut too_long) = (Vec::new(), 0, false);
    loop {
        line.clear();
        from.by_ref().take(LONGEST).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            if (line.len() as u64) < LONGEST - 1 {
                return Ok(damaged);
            }
            // The rest of it comes with the next.
            too_long = true;
            continue;
        }
        match MetricLine::parse(&line).filter(|_| !too_long) {
            Some(line) => each(line)?,
            None => damaged += 1,
        }
        too_long = false;
    }
}

/// The same of bytes in memory: the intact lines, and how many are damaged.
pub fn parse_metrics(bytes: &[u8]) -> (Vec<MetricLine>, u64) {
    let mut lines = Vec::new();
    let damaged = read_metrics(bytes, |line| {
        lines.push(line);
        Ok(())
    });
    (lines, damaged.expect("memory can be read"))
}
