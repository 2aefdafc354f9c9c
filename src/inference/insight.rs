//! A look into a model: where attention looks, and what is on the way to a prediction.
//!
//! Both are computed a step at a time, so that whoever computes for many can do something else between two steps.

use super::{loaded::Loaded, model::Model, score::Expected};
use crate::data::parting;
use kinglet_core::{
    backend::{Cpu, Forward, IGNORE},
    error::{Error, Result},
    model::inside::Inside,
    threads::current,
};
use rayon::prelude::*;
use std::{ops::Range, sync::Arc};

/// Logits that are computed in a step.
const LOGITS: usize = 1 << 20;

/// The weights of attention in a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    ids: Vec<u32>,
    heads: Vec<Vec<f32>>,
}

impl Attention {
    /// The tokens.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Of each head the weights as a triangle, row by row: row `i` has those that token `i` gives to the tokens up to itself,
    /// which are `i + 1` numbers with the sum 1.
    pub fn heads(&self) -> &[Vec<f32>] {
        &self.heads
    }

    /// The weights that token `i` gives to the tokens up to itself, in a head.
    ///
    /// # Panics
    /// If there is no such head or token.
    pub fn row(&self, head: usize, i: usize) -> &[f32] {
        &self.heads[head][i * (i + 1) / 2..][..i + 1]
    }
}

/// What a model would expect in a place, if what it has by then were all.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Expectation {
    /// The log-probability in nats of the token that follows in the text; none behind the last, or if it is never predicted.
    pub logprob: Option<f64>,
    /// That token's rank, as [`TokenScore::rank`](super::TokenScore::rank).
    pub rank: Option<usize>,
    /// The entropy of the distribution in nats.
    pub entropy: f64,
    /// The most probable tokens and their log-probabilities, most probable first.
    pub top: Vec<(u32, f64)>,
}

/// What a model would say after each of its blocks: the logit lens (nostalgebraist, "interpreting GPT: the logit lens", 2020).
/// The last norm and the head are applied to the residual stream as it is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Lens {
    ids: Vec<u32>,
    layers: Vec<Vec<Expectation>>,
}

impl Lens {
    /// The tokens.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// What is expected behind each token: first by the embedding alone, then after each block. What the last says is what the
    /// model says.
    pub fn layers(&self) -> &[Vec<Expectation>] {
        &self.layers
    }
}

impl<B: Forward> Model<B> {
    /// The weights that attention in a layer, counted from 0, gives to these tokens, of which there are at most `block_size`.
    /// Where documents were kept apart in training, they are here.
    ///
    /// # Errors
    /// If there is no such layer, no token, too many of them, or one that the model does not know.
    pub fn attention(&self, ids: Vec<u32>, layer: usize) -> Result<Attention> {
        let mut work = self.attending(ids, layer)?;
        loop {
            if let Some(attention) = work.step()? {
                return Ok(attention);
            }
        }
    }

    /// What the model would expect behind each of these tokens, of which there are at most `block_size`, after each of its
    /// blocks, with the `top` most probable tokens. Where documents were kept apart in training, they are here.
    ///
    /// # Errors
    /// If there is no token, there are too many, or one that the model does not know; or if logits are not finite.
    pub fn lens(&self, ids: Vec<u32>, top: usize) -> Result<Lens> {
        let mut work = self.lensing(ids, top)?;
        loop {
            if let Some(lens) = work.step()? {
                return Ok(lens);
            }
        }
    }

    /// [`Model::attention`], to be computed a step at a time.
    pub(crate) fn attending(&self, ids: Vec<u32>, layer: usize) -> Result<Attending<B>> {
        let layers = self.config().n_layer;
        if layer >= layers {
            let what = match layers {
                1 => format!("there is no layer {layer}: the model has layer 0 alone"),
                _ => format!("there is no layer {layer}: the model has the layers 0 to {}", layers - 1),
            };
            return Err(Error::Text(what));
        }
        let walk = Walk::new(self, ids)?;
        Ok(Attending { walk, layer, heads: Vec::new(), next: 0 })
    }

    /// [`Model::lens`], to be computed a step at a time.
    pub(crate) fn lensing(&self, ids: Vec<u32>, top: usize) -> Result<Lensing<B>> {
        Ok(Lensing { walk: Walk::new(self, ids)?, top, layers: vec![Vec::new()] })
    }
}

/// A way through a model's blocks.
struct Walk<B: Forward> {
    model: Arc<Loaded<B>>,
    ids: Vec<u32>,
    /// Once it has begun: what waits for its turn has no scratch space.
    inside: Option<Inside<B>>,
}

impl<B: Forward> Walk<B> {
    fn new(model: &Model<B>, ids: Vec<u32>) -> Result<Walk<B>> {
        // What is asked of scores is asked here.
        model.score(ids.clone()).check()?;
        let (model, n) = (model.loaded(), ids.len());
        let block_size = model.gpt.block_size;
        if n > block_size {
            let what = format!("there are {n} tokens, but the model sees at most {block_size} at once");
            return Err(Error::Text(what));
        }
        Ok(Walk { model, ids, inside: None })
    }

    /// Passes the next block, unless so many have been passed; returns whether one was.
    fn pass(&mut self, blocks: usize) -> bool {
        let Loaded { be, gpt, weights, tokenizer, config, .. } = &*self.model;
        let inside = self.inside.get_or_insert_with(|| {
            let parting = parting(tokenizer, config);
            gpt.enter(be, weights, &self.ids, &positions(&self.ids, parting))
        });
        let more = inside.blocks() < blocks;
        if more {
            gpt.pass_block(be, weights, inside);
        }
        more
    }
}

/// The position of each token in its document, if there are several documents; else nothing. A document begins at each
/// `parting` token.
pub(super) fn positions(ids: &[u32], parting: Option<u32>) -> Vec<u32> {
    if !ids.iter().skip(1).any(|&id| Some(id) == parting) {
        return Vec::new();
    }
    let mut next = 0;
    let position = |(at, &id): (usize, &u32)| {
        next = if at == 0 || Some(id) == parting { 0 } else { next + 1 };
        next
    };
    ids.iter().enumerate().map(position).collect()
}

/// The weights of attention on their way.
pub(crate) struct Attending<B: Forward = Cpu> {
    walk: Walk<B>,
    layer: usize,
    /// Once the blocks are passed: what waits for its turn has none.
    heads: Vec<Vec<f32>>,
    /// The next key.
    next: usize,
}

impl<B: Forward> Attending<B> {
    /// Computes a part of it: a block, or the weights of some keys. Returns all of it once it is there.
    pub(crate) fn step(&mut self) -> Result<Option<Attention>> {
        if self.walk.pass(self.layer + 1) {
            return Ok(None);
        }
        let Walk { model, ids, inside } = &mut self.walk;
        let (gpt, n) = (&model.gpt, ids.len());
        if self.heads.is_empty() {
            self.heads = vec![vec![0.0; n * (n + 1) / 2]; model.config.n_head];
        }
        let keys = self.next..n.min(self.next + gpt.keys_at_once());
        if let Some(inside) = inside.as_ref().filter(|_| !keys.is_empty()) {
            let weights = gpt.weights(&model.be, inside, keys.clone());
            for (head, weights) in self.heads.iter_mut().zip(weights.chunks_exact(n * keys.len())) {
                for (i, row) in weights.chunks_exact(keys.len()).enumerate().skip(keys.start) {
                    let seen = keys.len().min(i + 1 - keys.start);
                    head[i * (i + 1) / 2 + keys.start..][..seen].copy_from_slice(&row[..seen]);
                }
            }
        }
        self.next = keys.end;
        let all = || Attention { ids: std::mem::take(ids), heads: std::mem::take(&mut self.heads) };
        Ok((self.next == n).then(all))
    }
}

/// What a lens shows, on its way.
pub(crate) struct Lensing<B: Forward = Cpu> {
    walk: Walk<B>,
    top: usize,
    /// Those that are whole, and the one that is being filled.
    layers: Vec<Vec<Expectation>>,
}

impl<B: Forward> Lensing<B> {
    /// Computes a part of it: a block, or what is expected in some places. Returns all of it once it is there.
    pub(crate) fn step(&mut self) -> Result<Option<Lens>> {
        let blocks = self.layers.len() - 1;
        if self.walk.pass(blocks) {
            return Ok(None);
        }
        let n = self.walk.ids.len();
        let first = self.layers[blocks].len();
        let rows = first..n.min(first + (LOGITS / self.walk.model.gpt.vocab_size).max(1));
        let expected = self.expected(rows)?;
        self.layers[blocks].extend(expected);
        if self.layers[blocks].len() < n {
            return Ok(None);
        }
        if blocks < self.walk.model.config.n_layer {
            self.layers.push(Vec::with_capacity(n));
            return Ok(None);
        }
        let (ids, layers) = (std::mem::take(&mut self.walk.ids), std::mem::take(&mut self.layers));
        Ok(Some(Lens { ids, layers }))
    }

    fn expected(&mut self, rows: Range<usize>) -> Result<Vec<Expectation>> {
        let Walk { model, ids, inside } = &mut self.walk;
        let Loaded { be, gpt, weights, tokenizer, barred, .. } = &**model;
        let inside = inside.as_mut().expect("it has begun");
        let target = |row: usize| ids.get(row + 1).copied().filter(|id| Some(*id) != tokenizer.given());
        let targets: Vec<u32> = rows.clone().map(|row| target(row).unwrap_or(IGNORE)).collect();
        let logits = gpt.read_off(be, weights, inside, rows);
        // The number that scores have too, to the bit.
        let losses = gpt.losses_of(be, inside, &targets);
        let one = |((z, &target), &loss): ((&[f32], &u32), &f32)| -> Result<Expectation> {
            let expected = Expected::new(z)?;
            let (entropy, mut top) = (expected.entropy(), expected.top(self.top, barred));
            if target == IGNORE {
                return Ok(Expectation { entropy, top, ..Expectation::default() });
            }
            let logprob = 0.0 - f64::from(loss);
            top.iter_mut().filter(|(id, _)| *id == target).for_each(|own| own.1 = logprob);
            Ok(Expectation { logprob: Some(logprob), rank: Some(expected.rank(target)), entropy, top })
        };
        let v = gpt.vocab_size;
        match current() {
            1 => logits.chunks_exact(v).zip(&targets).zip(&losses).map(one).collect(),
            _ => logits.par_chunks_exact(v).zip(&targets).zip(&losses).map(one).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        inference::{TokenScore, Windows},
        text::tokenizer::{CharTokenizer, Tokenizer},
    };
    use kinglet_core::{backend::Reference, config::Config, params::Layout};

    fn model<B: Forward>(be: B, settings: &[&str]) -> Model<B> {
        let tokenizer = Tokenizer::from(CharTokenizer::train("abcdef")).extended([], true);
        let small = ["vocab_size=8", "block_size=12", "n_layer=3", "n_head=2", "n_embd=8", "bias=true"];
        let config = Config::default().with(&[&small[..], settings].concat()).unwrap();
        let weights = Layout::new(&config).unwrap().init(5);
        // A little larger than a new model's, so that attention is not even.
        let weights: Vec<f32> = weights.into_iter().map(|w| w * 1.5).collect();
        Model::from_weights(be, config, tokenizer, &weights).unwrap()
    }

    const IDS: [u32; 12] = [0, 1, 2, 6, 3, 4, 5, 0, 6, 1, 1, 2];

    const SETTINGS: [&[&str]; 5] = [
        &[],
        &["within_documents=true"],
        &["position=rotary", "n_kv_head=1", "qk_norm=true", "attention_scale=n_embd"],
        &["position=rotary", "within_documents=true", "norm=rmsnorm", "activation=swiglu", "logit_softcap=2"],
        &["head_size=6", "precision=bf16"],
    ];

    #[test]
    fn rows_of_attention_are_whole_and_stay_in_their_document() {
        for settings in SETTINGS {
            let (model, exact) = (model(Cpu::new().unwrap(), settings), model(Reference, settings));
            let apart = settings.contains(&"within_documents=true");
            for layer in 0..3 {
                let found = model.attention(IDS.to_vec(), layer).unwrap();
                let wanted = exact.attention(IDS.to_vec(), layer).unwrap();
                assert!(found.ids() == IDS && found.heads().len() == 2);
                let near = if settings.contains(&"precision=bf16") { 0.05 } else { 1e-5 };
                assert!(found.heads().iter().all(|head| head.len() == 12 * 13 / 2));
                let pairs = found.heads().iter().flatten().zip(wanted.heads().iter().flatten());
                let far = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(far < near, "{settings:?}, layer {layer}: {far}");
                for (head, i) in (0..2).flat_map(|head| (0..12).map(move |i| (head, i))) {
                    let row = found.row(head, i);
                    assert!(row.len() == i + 1 && (row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                    // Token 6 ends documents.
                    let begins = (0..=i).rev().find(|&at| at == 0 || apart && IDS[at] == 6).unwrap();
                    assert!(row[..begins].iter().all(|&weight| weight == 0.0));
                    assert!(row[begins..].iter().all(|&weight| weight > 0.0));
                }
            }
        }
    }

    #[test]
    fn the_lenss_last_layer_is_what_scoring_says_to_the_bit() {
        for settings in SETTINGS {
            let model = model(Cpu::new().unwrap(), settings);
            let lens = model.lens(IDS.to_vec(), 3).unwrap();
            assert!(lens.layers().len() == 4 && lens.layers().iter().all(|layer| layer.len() == 12));
            let scores = model.score(IDS.to_vec()).top(3).windows(Windows::Half);
            let scores: Vec<TokenScore> = scores.flat_map(Result::unwrap).collect();
            for (expected, score) in lens.layers()[3].iter().zip(&scores[1..]) {
                assert_eq!((expected.logprob, expected.rank), (score.logprob, score.rank), "{settings:?}");
                assert_eq!((Some(expected.entropy), &expected.top), (score.entropy, &score.top));
            }
            let last = &lens.layers()[3][11];
            assert!(last.logprob.is_none() && last.rank.is_none() && last.top.len() == 3);
            // No token is drawn that is none: the vocabulary has room for one more.
            assert!(lens.layers().iter().flatten().flat_map(|expected| &expected.top).all(|&(id, _)| id < 7));
            assert_ne!(lens.layers()[0], lens.layers()[3]);
        }
    }

    #[test]
    fn what_waits_for_its_turn_holds_nothing_large() {
        let model = model(Cpu::new().unwrap(), &[]);
        let mut work = model.attending(IDS.to_vec(), 1).unwrap();
        assert!(work.heads.is_empty() && work.walk.inside.is_none());
        // Two blocks are passed before the weights are asked for.
        assert!(work.step().unwrap().is_none() && work.step().unwrap().is_none() && work.heads.is_empty());
        let attention = (0..99).find_map(|_| work.step().unwrap()).unwrap();
        assert_eq!(attention, model.attention(IDS.to_vec(), 1).unwrap());
    }

    #[test]
    fn what_cannot_be_looked_at_is_refused() {
        let model = model(Cpu::new().unwrap(), &[]);
        for (ids, layer, says) in [
            (vec![1, 2], 3, "the layers 0 to 2"),
            (vec![], 0, "no token"),
            (vec![9], 0, "no token with id 9"),
            (vec![1; 13], 0, "13 tokens, but the model sees at most 12"),
        ] {
            let error = model.attention(ids.clone(), layer).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert!(layer == 3 || model.lens(ids, 1).unwrap_err().to_string() == error);
        }
        assert_eq!(positions(&[6, 1, 6, 6, 2], Some(6)), [0, 1, 0, 0, 1]);
        assert!(positions(&[6, 1], Some(6)).is_empty() && positions(&[6, 1, 6], None).is_empty());
    }
}
