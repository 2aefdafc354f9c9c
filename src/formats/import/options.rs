//! What an import is told.

use crate::formats::opened::Format;
use kinglet_core::{
    config::AttentionScale,
    error::{Error, Result},
};
use std::path::{Path, PathBuf};

/// What an import is told that the file does not say.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// The format, if it is not the one that the content shows.
    pub format: Option<Format>,
    /// A `tokenizer.json`, or nanoGPT's `meta.pkl`.
    pub tokenizer: Option<PathBuf>,
    /// Text that the model was trained on, as names of data: its characters are the vocabulary if there is no other, and
    /// its loss decides what the file leaves open.
    pub data: Vec<String>,
    /// Attention heads.
    pub n_head: Option<usize>,
    /// What attention scores are divided by the square root of.
    pub attention_scale: Option<AttentionScale>,
    /// Settings of the configuration, `key=value`.
    pub set: Vec<String>,
}

impl ImportOptions {
    /// Refuses options that say something beside the format, where a run says it itself.
    pub(in crate::formats) fn check_for_run(&self, run: &Path) -> Result<()> {
        let ImportOptions { format: _, tokenizer, data, n_head, attention_scale, set } = self;
        let nothing =
            tokenizer.is_none() && data.is_empty() && n_head.is_none() && attention_scale.is_none() && set.is_empty();
        if nothing {
            return Ok(());
        }
        let what = format!("{} is a run, which says itself what --tokenizer, --data and the like tell", run.display());
        Err(Error::BadConfig(what))
    }
}
