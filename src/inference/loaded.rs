//! The state shared by all clones of a model and all its generations.

use crate::{run::State, text::tokenizer::Tokenizer};
use kinglet_core::{backend::Forward, config::Config, model::Gpt};

/// A model loaded into memory.
pub(super) struct Loaded<B: Forward> {
    pub(super) config: Config,
    pub(super) tokenizer: Tokenizer,
    pub(super) state: State,
    pub(super) warnings: Vec<String>,
    pub(super) notes: Vec<String>,
    pub(super) be: B,
    pub(super) gpt: Gpt,
    /// The parameters, packed for matrix multiplication.
    pub(super) weights: B::Buf,
    /// Ids that the model knows and no token has; they are never drawn.
    pub(super) barred: Vec<u32>,
}
