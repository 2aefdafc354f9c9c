//! Where data come from: what a configuration names, or what a program has in memory.

use super::{
    dataset::Dataset,
    ids,
    open::{self, TokenizerChoice},
};
use crate::text::{
    source::{Corpus, MEMORY},
    tokenizer::Tokenizer,
};
use kinglet_core::{
    config::Config,
    error::{Error, Result},
};
use std::sync::Arc;

/// Where data come from. What is in memory is shared by clones.
#[derive(Clone, Debug, Default)]
pub enum Origin {
    /// What the configuration names.
    #[default]
    Named,
    /// A text, as one document.
    Text(Arc<str>),
    /// JSON lines: each is a document or a conversation, as in a file whose name ends in `.jsonl`.
    Lines(Arc<[u8]>),
    /// Token ids. Their tokenizer is the one that the configuration asks for, if that is bytes or a file; otherwise they stay
    /// [numbers](Tokenizer::numbers), and the vocabulary has `vocab_size` of them or, where that is 0, as many as there are up to
    /// the largest id.
    Ids(Arc<[u32]>),
}

impl Origin {
    /// Reads the data, and the tokenizer for its ids.
    ///
    /// # Errors
    /// If the data cannot be read or does not match the configuration or the tokenizer.
    pub fn read(&self, config: &Config, choice: TokenizerChoice) -> Result<(Tokenizer, Dataset)> {
        match self {
            Origin::Named => open::read(config, choice),
            Origin::Ids(ids) => ids::read(ids, config, choice),
            Origin::Text(_) | Origin::Lines(_) => open::read_corpus(&self.corpus(config)?, config, choice),
        }
    }

    /// The corpus, to be read as configured.
    ///
    /// # Errors
    /// If a named source does not exist, or if it is token ids, which are no corpus any more.
    pub fn corpus(&self, config: &Config) -> Result<Corpus> {
        match self {
            Origin::Named => Corpus::open(config),
            Origin::Text(text) => Ok(Corpus::of_text(text.clone())),
            Origin::Lines(lines) => Ok(Corpus::of_lines(lines.clone(), config)),
            Origin::Ids(_) => Err(Error::Data("these are token ids; this needs a text".into())),
        }
    }

    /// Whether it is in memory.
    pub fn is_in_memory(&self) -> bool {
        !matches!(self, Origin::Named)
    }

    /// Writes into the configuration that the data are in memory, if they are.
    pub(crate) fn name(&self, config: &mut Config) {
        if self.is_in_memory() {
            config.data = vec![MEMORY.to_owned()];
        }
    }
}
