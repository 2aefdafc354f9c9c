//! What is chosen of a graph.

/// The type of token ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ids {
    /// What optimum and transformers.js pass.
    #[default]
    Int64,
    /// For runtimes that lack 64-bit integers, as on phones.
    Int32,
}

/// Which graph is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Without a cache of keys and values: from the ids of a text to the logits of all of its positions.
    pub plain: bool,
    /// The type of token ids, and of the other integers that are passed.
    pub ids: Ids,
    /// For compilers that need fixed sizes: one text of exactly `block_size` tokens, without a cache.
    pub fixed: bool,
}

impl Options {
    /// Whether the graph has a cache.
    pub(super) fn cached(&self) -> bool {
        !self.plain && !self.fixed
    }
}
