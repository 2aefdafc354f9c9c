//! `metrics.jsonl`: one event a line, each with its checksum.

use crate::system::disk::{Appender, sha256};
use kinglet_core::error::{Error, Result};
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;

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

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricLine {
    /// As it stands there.
    pub text: String,
    /// The event, without the checksum.
    pub event: Value,
}

/// Begins the end of a line of metrics: the key of its checksum.
const CHECK: &str = ",\"check\":\"";

/// Checksum of a line of metrics.
fn check(json: &str) -> String {
    sha256(json.as_bytes())[..8].to_owned()
}

/// The intact lines of a `metrics.jsonl`, and how many are damaged; a last line cut short by a crash is not counted.
pub fn parse_metrics(bytes: &[u8]) -> (Vec<MetricLine>, usize) {
    let parse = |line: &[u8]| {
        let text = std::str::from_utf8(line).ok()?;
        let (json, sum) = text.strip_suffix("\"}")?.rsplit_once(CHECK)?;
        let json = format!("{json}}}");
        let event = (check(&json) == sum).then(|| serde_json::from_str(&json).ok()).flatten()?;
        Some(MetricLine { text: text.to_owned(), event })
    };
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    let (mut lines, mut damaged) = (Vec::new(), 0);
    for line in bytes[..whole].split_inclusive(|&byte| byte == b'\n') {
        match parse(&line[..line.len() - 1]) {
            Some(line) => lines.push(line),
            None => damaged += 1,
        }
    }
    (lines, damaged)
}
