//! Stub for Hugging Face's library when the feature `hf-tokenizers` is off.

use super::{class::CharClass, cuts::Cuts};
use kinglet_core::error::{Error, Result};

/// A tokenizer from the library; it cannot be constructed.
#[derive(Clone, Debug)]
pub(super) enum HuggingFace {}

fn absent<T>() -> Result<T> {
    Err(Error::Data(
        "this kinglet was built without the feature `hf-tokenizers`: it supports only the tokenizers char and \
         byte"
            .into(),
    ))
}

impl HuggingFace {
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
    pub(super) fn bytes_of(&self, _: u32) -> Option<Vec<u8>> {
        match *self {}
    }

    /// Never called.
    pub(super) fn byte_of(&self, _: u32) -> Option<u8> {
        match *self {}
    }

    /// Never called.
    pub(super) fn word_classes(&self) -> Option<Vec<(u32, CharClass)>> {
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
    pub(super) fn keeps_everything(&self) -> bool {
        match *self {}
    }

    /// Never called.
    pub(super) fn encode_text(&self, _: &str) -> Result<Vec<u32>> {
        match *self {}
    }

    /// Never called.
    pub(super) fn unknown(&self) -> Option<u32> {
        match *self {}
    }

    /// Never called.
    pub(super) fn special_tokens(&self) -> Vec<(String, u32)> {
        match *self {}
    }

    /// Never called.
    pub(super) fn push(&self, _: &mut Stream, _: u32, _: &mut String) {
        match *self {}
    }
}

/// Would learn a byte pair encoding; it cannot be constructed.
pub(super) enum Learner {}

impl Learner {
    /// Always an error: the library is not built in.
    pub(super) fn new() -> Result<Learner> {
        absent()
    }

    /// Never called.
    pub(super) fn add(&mut self, _: &[String]) {
        match *self {}
    }

    /// Never called.
    pub(super) fn left_out(&self) -> u64 {
        match *self {}
    }

    /// Never called.
    pub(super) fn cut(&self) -> u64 {
        match *self {}
    }

    /// Never called.
    pub(super) fn learn(self, _: usize) -> Result<String> {
        match self {}
    }
}

/// What its decoder would hold back.
#[derive(Clone, Debug, Default)]
pub(super) struct Stream;

impl Stream {
    /// Holds back nothing.
    pub(super) fn finish(&mut self, _: &mut String) {}
}
