//! An architecture of transformers.

use super::line::Line;
use crate::formats::dialect::{Convention, Dialect};

/// An architecture of transformers, as far as its `config.json` goes. Its tensors are in [`Dialect`].
#[derive(Debug)]
pub struct Architecture {
    /// Its `model_type`.
    pub model_type: &'static str,
    /// The class of its models.
    pub class: &'static str,
    /// The `model_type` whose tensors it has: nearly always its own.
    pub(super) like: &'static str,
    pub(super) lines: &'static [Line],
}

impl Architecture {
    /// The names of its tensors.
    pub fn dialect(&self) -> &'static Dialect {
        Dialect::find(Convention::HuggingFace, self.like).expect("each architecture has its tensors")
    }
}
