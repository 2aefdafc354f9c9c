//! The numbers of a model: its weights, and what it computes of tokens.

use super::{insight::positions, loaded::Loaded, model::Model};
use crate::data::parting;
use kinglet_core::{
    backend::{Cpu, Forward, Pass, Rows},
    error::{Error, Result},
    params::Layout,
};

impl Model<Cpu> {
    /// All of its weights, in the order of [`Model::layout`]: the memory that it computes with. `None` if some are in few bits and
    /// are not there as numbers; [`Model::numbers`] multiplies them out.
    pub fn weights(&self) -> Option<&[f32]> {
        let (_, _, weights) = self.parts();
        (!weights.has_few_bits()).then_some(weights)
    }
}

impl<B: Forward> Model<B> {
    /// Where each of its parameters stands among its weights.
    pub fn layout(&self) -> &Layout {
        &self.parts().1.layout
    }

    /// A copy of all of its weights, in the order of [`Model::layout`]. Those in few bits are multiplied out.
    pub fn numbers(&self) -> Vec<f32> {
        let (be, gpt, weights) = self.parts();
        let mut numbers = vec![0.0; gpt.layout.len()];
        be.download(weights, 0, &mut numbers);
        numbers
    }

    /// The logits (t, v) behind each of these tokens, of which there are at most `block_size`: as many rows as tokens, and in each
    /// row one number for each id of the vocabulary. Where documents were kept apart in training, they are here.
    ///
    /// # Errors
    /// If there is no token, there are too many, or one that the model does not know.
    pub fn logits(&self, ids: &[u32]) -> Result<Vec<f32>> {
        let loaded = self.loaded();
        let Loaded { be, gpt, weights: p, tokenizer, config, .. } = &*loaded;
        let (t, block_size) = (ids.len(), gpt.block_size);
        if t > block_size {
            let what = format!("there are {t} tokens, but the model sees at most {block_size} at once");
            return Err(Error::Text(what));
        }
        // What is asked of scores is asked here.
        self.score(ids.to_vec()).check()?;
        let positions = positions(ids, parting(tokenizer, config));
        let rows = Rows { positions: &positions, ..Rows::new(1, t) };
        let mut acts = gpt.acts(be, 1, false);
        gpt.forward(be, Pass { p, rows, dropout: None }, &mut acts, ids);
        let mut logits = vec![0.0; t * gpt.vocab_size];
        be.download(acts.logits(), 0, &mut logits);
        Ok(logits)
    }
}
