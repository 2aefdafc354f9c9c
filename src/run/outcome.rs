//! What a run came to, as its last line says.

use super::{files::METRICS, metrics::MetricLines};
use crate::system::disk::open_regular;
use serde::Deserialize;
use std::{
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

/// Bytes of the end of the metrics that are read: the last line is a small part of that.
const END_BYTES: u64 = 1 << 14;

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Outcome {
    /// Loss over the whole validation split, in nats per token.
    pub val_loss_exact: Option<f64>,
    /// What no model can be better than, where it is known.
    pub entropy_floor: Option<f64>,
    /// The best n-gram model of the training text: its name, and its loss.
    pub baseline: Option<Beaten>,
}

/// The loss to beat.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Beaten {
    /// As `5-gram`.
    pub name: String,
    /// Mean loss on the validation split.
    pub nats_per_token: Option<f64>,
}

/// The last line of a run that is done.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Last {
    Done(Outcome),
}

impl Outcome {
    /// Of the run in a folder; nothing of one that is not done.
    pub fn of(run: &Path) -> Outcome {
        let end = end_of(&run.join(METRICS)).unwrap_or_default();
        let last = MetricLines::new(&end[..]).map_while(Result::ok).last();
        last.and_then(|line| line.event()).map_or_else(Outcome::default, |Last::Done(outcome)| outcome)
    }
}

fn end_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = open_regular(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(END_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(END_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}
