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

    /// Waits until all events are on the disk, as far as they could be written.
    ///
    /// # Errors
    /// If the system cannot do it.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(Error::io("write", &self.path))
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
        let (text, json) = verified(line)?;
        Some(MetricLine { text: text.to_owned(), about: serde_json::from_str(&json).ok()? })
    }

    /// The event as `T`, without the checksum; `None` if it is not such an event.
    pub fn event<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(&split(&self.text)?.0).ok()
    }
}

/// The text of a line and its JSON without the checksum, if that is right.
pub(super) fn verified(line: &[u8]) -> Option<(&str, String)> {
    let text = std::str::from_utf8(line).ok()?;
    let (json, sum) = split(text)?;
    (check(&json) == sum).then_some((text, json))
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
    /// An update was made.
    Step(StepRecord),
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

/// An update: fields of `train::Event::Step`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct StepRecord {
    /// Updates done.
    pub step: u64,
    /// Loss of the batch, in nats per token.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// The gradient's norm before clipping.
    #[serde(deserialize_with = "number")]
    pub grad_norm: f64,
    /// Training tokens per second.
    pub tokens_per_s: Option<f64>,
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
    /// The lowest estimate.
    pub best_val_loss: Option<f64>,
    /// Its step.
    pub best_step: Option<u64>,
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

/// The intact lines of a `metrics.jsonl`, read one by one; a last line cut short by a crash is none of them.
#[derive(Debug)]
pub struct MetricLines<R> {
    from: R,
    line: Vec<u8>,
    /// Damaged lines passed over so far.
    pub damaged: u64,
    /// Bytes of the lines read so far, each with its end.
    pub(super) bytes: u64,
}

impl<R: BufRead> MetricLines<R> {
    /// Reads from the start of a file.
    pub fn new(from: R) -> MetricLines<R> {
        MetricLines { from, line: Vec::new(), damaged: 0, bytes: 0 }
    }

    /// The next line without its end, or `None` at the end of the file. Of a line that is too long there is nothing.
    pub(super) fn next_line(&mut self) -> io::Result<Option<&[u8]>> {
        let (mut too_long, mut bytes) = (false, 0);
        loop {
            self.line.clear();
            bytes += self.from.by_ref().take(LONGEST).read_until(b'\n', &mut self.line)? as u64;
            if self.line.pop() == Some(b'\n') {
                self.bytes += bytes;
                return Ok(Some(if too_long { &[] } else { &self.line }));
            }
            if (self.line.len() as u64) < LONGEST - 1 {
                return Ok(None);
            }
            // The rest of the line follows with the next read.
            too_long = true;
        }
    }
}

impl<R: BufRead> Iterator for MetricLines<R> {
    type Item = io::Result<MetricLine>;

    fn next(&mut self) -> Option<io::Result<MetricLine>> {
        loop {
            match self.next_line().transpose()? {
                Err(error) => return Some(Err(error)),
                Ok(line) => match MetricLine::parse(line) {
                    Some(line) => return Some(Ok(line)),
                    None => self.damaged += 1,
                },
            }
        }
    }
}

/// The intact lines in bytes in memory, and the number of damaged ones.
pub fn parse_metrics(bytes: &[u8]) -> (Vec<MetricLine>, u64) {
    let mut from = MetricLines::new(bytes);
    let lines = from.by_ref().collect::<io::Result<_>>().expect("memory can be read");
    (lines, from.damaged)
}

/// The events of intact lines in the end of a file, last one first.
pub(super) fn last_records(end: &[u8]) -> impl Iterator<Item = Record> {
    let lines = end.rsplit(|&byte| byte == b'\n').filter_map(MetricLine::parse);
    lines.map(|line| line.event().unwrap_or(Record::Other))
}
