//! Writing the token ids of a text to files, for the command and for those that do the same without words.

use crate::{
    config::Config,
    data::{self, Origin, Survey, prepared},
    error::Result,
    system::machine,
};
use serde_json::{Value, json};
use std::{ops::ControlFlow, path::Path, time::Instant};

/// What was written of a text.
pub(super) struct Written {
    pub(super) about: prepared::About,
    /// Of text.
    pub(super) bytes: u64,
    pub(super) read_s: f64,
    pub(super) encode_s: f64,
}

impl Written {
    pub(super) fn mb_per_s(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.encode_s
    }

    pub(super) fn json(&self, out: &Path) -> Value {
        json!({
            "out": out.display().to_string(),
            "documents": self.about.documents,
            "vocab_size": self.about.vocab_size,
            "train": self.about.train,
            "val": self.about.val,
            "read_s": self.read_s,
            "encode_s": self.encode_s,
            "mb_per_s": self.mb_per_s(),
            "peak_memory_mib": machine::peak_memory_mib(),
        })
    }
}

/// Writes the token ids of a text to a new folder. `note` receives what the user should know before, `progress` the bytes that are
/// done and all bytes; if it breaks, nothing is written.
pub(super) fn prepare(
    origin: &Origin,
    config: &Config,
    out: &Path,
    mut note: impl FnMut(&[String]),
    mut progress: impl FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Option<Written>> {
    let clock = Instant::now();
    let corpus = origin.corpus(config)?;
    note(&corpus.notes);
    let survey = Survey::of(&corpus, config)?;
    note(&survey.notes);
    let (tokenizer, notes) = data::tokenizer(config, &corpus, &survey)?;
    note(&notes);
    let (read_s, clock) = (clock.elapsed().as_secs_f64(), Instant::now());
    let about = prepared::prepare(&corpus, &survey, &tokenizer, config, out, |done| progress(done, survey.bytes))?;
    let (bytes, encode_s) = (survey.bytes, clock.elapsed().as_secs_f64());
    Ok(about.map(|about| Written { about, bytes, read_s, encode_s }))
}
