//! The sizes of a model, as formats that spell out its computation need them.

use kinglet_core::config::{AttentionScale, Config, Position};

/// Where rotations are tables, they are products of those by a multiple of this many positions and those by fewer.
pub(super) const STRIDE: usize = 256;

/// The sizes of a model, and the numbers that its computation needs beside the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shape {
    /// Transformer blocks.
    pub(super) layers: usize,
    /// Context length.
    pub(super) block: usize,
    /// Channels.
    pub(super) c: usize,
    /// Tokens in the vocabulary.
    pub(super) v: usize,
    /// Heads of queries.
    pub(super) nh: usize,
    /// Heads of keys and values.
    pub(super) nkv: usize,
    /// Channels of a head.
    pub(super) hs: usize,
    /// Hidden channels of the MLP.
    pub(super) inner: usize,
    /// The base of rotary positions, or none where positions are learned.
    pub(super) theta: Option<f64>,
    /// The epsilon of all norms.
    pub(super) eps: f64,
    /// The factor on the scores of attention.
    pub(super) scale: f64,
}

impl Shape {
    pub(super) fn of(config: &Config) -> Shape {
        let scaled_by = match config.attention_scale {
            AttentionScale::HeadSize => config.head_size(),
            AttentionScale::NEmbd => config.n_embd,
        };
        Shape {
            layers: config.n_layer,
            block: config.block_size,
            c: config.n_embd,
            v: config.vocab_size,
            nh: config.n_head,
            nkv: config.kv_heads(),
            hs: config.head_size(),
            inner: config.mlp_size(),
            theta: (config.position == Position::Rotary).then_some(config.rope_theta),
            eps: config.norm_eps,
            scale: 1.0 / (scaled_by as f64).sqrt(),
        }
    }

    /// How many positions a graph with a cache has: all that are learned, or more rotations than anybody needs.
    pub(super) fn reach(&self) -> usize {
        if self.theta.is_none() { self.block } else { (2 * self.block).max(1 << 16).next_multiple_of(STRIDE) }
    }

    /// Channels of the queries.
    pub(super) fn att(&self) -> usize {
        self.nh * self.hs
    }

    /// Channels of the keys; the values have as many.
    pub(super) fn kv(&self) -> usize {
        self.nkv * self.hs
    }

    /// The frequency at which pair `i` of a head's channels rotates.
    pub(super) fn frequency(&self, theta: f64, i: usize) -> f64 {
        libm::pow(theta, -2.0 * i as f64 / self.hs as f64)
    }
}
