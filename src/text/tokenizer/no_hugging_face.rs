//! Stub for Hugging Face's library when the feature `hf-tokenizers` is off.

use super::cuts::Cuts;
use kinglet_core::error::{Error, Result};

/// A tokenizer from the library; it cannot be constructed.
#[derive(Clone, Debug)]
pub(super) enum HuggingFace {}

fn absent<T>() -> Result<T> {
    Err(Error::Data(
        "this kinglet was built without the feature `hf-tokenizers`: its tokenizers are char and byte".into(),
    ))
}

impl HuggingFace {
    /// Always an error: the library is not built in.
    pub(super) fn train(_: impl Iterator<Item = String> + Send, _: usize) -> Result<String> {
        absent()
    }

    /// Always an error: the library is not built in.
    pub(super) fn from_json(_: &str) -> Result<HuggingFace> {
        absent()
    }

    /// Never called.
    pub(super) fn vocab_size(&self) -> usize {
        match *self {}
    }

    /// Never called.
    pub(super) fn id(&self, _: &str) -> Option<u32> {
        match *self {}
    }

    /// Never called.
    pub(super) fn token(&self, _: u32) -> Option<String> {
        match *self {}
    }

    /// Never called.
    pub(super) fn cuts(&self) -> Cuts {
        match *self {}
    }

    /// Never called.
    pub(super) fn encode(&self, _: &str) -> Result<Vec<u32>> {
        match *self {}
    }

    /// Never called.
    pub(super) fn encode_text(&self, _: &str) -> Result<Vec<u32>> {
        match *self {}
    }

    /// Never called.
    pub(super) fn special_tokens(&self) -> Vec<(String, u32)> {
        match *self {}
    }

    /// Never called.
    pub(super) fn decode(&self, _: &[u32]) -> String {
        match *self {}
    }
}
