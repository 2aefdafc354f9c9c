//! `metrics.jsonl`: one event per line, each with a checksum. A long run has millions of lines, so they are read one by
//! one.

use crate::system::disk::{Appender, sha256};
use kinglet_core::error::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use std::{
    io::{self, BufRead, Read},
    path::PathBuf,
};

/// A run's `metrics.jsonl`, open for appending.
#[derive(Debug)]
pub struct Metrics {
    pub(super) file: Appender,
    pub(super) path: PathBuf,
}

impl Metrics {
    /// Appends an event as one line of JSON with a checksum as its last key.
    ///
    /// # Errors
    /// If the file cannot be written; the event is retried with the next one.
    pub fn append(&mut self, event: &impl Serialize) -> Result<()> {
        let json = serde_json::to_string(event).expect("plain values");
        let line = format!("{}{CHECK}{}\"}}", &json[..json.len() - 1], check(&json));
        self.file.append(&line).map_err(Error::io("write", &self.path))
    }
}

/// One line of `metrics.jsonl`, verified.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricLine {
    /// The line as in the file.
    pub text: String,
    /// The kind of event, its step and its rollback count.
    pub(super) about: About,
}

/// The fields common to all events, where present.
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

    /// The event as `T`, without the checksum; `None` if it is not such an event.
    pub fn event<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(&split(&self.text)?.0).ok()
    }
}

/// Splits a line into its JSON and its checksum.
fn split(text: &str) -> Option<(String, &str)> {
    let (json, sum) = text.strip_suffix("\"}")?.rsplit_once(CHECK)?;
    Some((format!("{json}}}"), sum))
}

/// Events whose fields other code reads. Fields that an older kinglet did not write are `None`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Record {
    /// The loss was estimated.
    Estimate(EstimateRecord),
    /// The run finished.
    Done(DoneRecord),
    /// The guard stopped an update.
    Diverged {
        /// What was done about it.
        action: String,
    },
    /// Any other event.
    #[serde(other)]
    Other,
}

/// An estimate of both losses: fields of `train::Event::Estimate`.
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
    /// In nats per token, on the old data of a fine-tuning run.
    pub old_val_loss: Option<f64>,
    /// `val_loss` in bits per byte.
    pub bits_per_byte: Option<f64>,
    /// Tokens trained on so far.
    pub tokens: Option<f64>,
    /// Seconds of training steps so far.
    pub train_s: Option<f64>,
}

/// The end of a run: fields of `train::Event::Done`.
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
    /// Known for the built-in corpora.
    pub entropy_floor: Option<f64>,
    /// Mean over the run.
    pub ms_per_step: Option<f64>,
    /// Total seconds.
    pub wall_s: Option<f64>,
    /// Peak memory.
    pub peak_memory_mib: Option<f64>,
}

/// JSON cannot represent NaN and infinities; they are written as null.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// The checksum key, near the end of each line.
const CHECK: &str = ",\"check\":\"";

/// Maximum length of a line, in bytes.
const LONGEST: u64 = 1 << 20;

/// Checksum of a line of metrics.
fn check(json: &str) -> String {
    sha256(json.as_bytes())[..8].to_owned()
}

/// Calls `each` with the intact lines of a `metrics.jsonl` and returns the number of damaged ones; a last line cut
/// short by a crash is not counted.
///
/// # Errors
/// If it cannot be read, or any error from `each`.
pub fn read_metrics(mut from: impl BufRead, mut each: impl FnMut(MetricLine) -> io::Result<()>) -> io::Result<u64> {
    let (mut line, mut damaged, mut too_long) = (Vec::new(), 0, false);
    loop {
        line.clear();
        from.by_ref().take(LONGEST).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            if (line.len() as u64) < LONGEST - 1 {
                return Ok(damaged);
            }
            // The rest of the line follows with the next read.
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

/// The same for bytes in memory: the intact lines, and the number of damaged ones.
pub fn parse_metrics(bytes: &[u8]) -> (Vec<MetricLine>, u64) {
    let mut lines = Vec::new();
    let damaged = read_metrics(bytes, |line| {
        lines.push(line);
        Ok(())
    });
    (lines, damaged.expect("memory can be read"))
}
