//! The narrow waist between the model and whoever computes: layer-level operations on flat buffers.
//!
//! It has two parts. [`Forward`] is all that inference needs; [`Backward`] adds gradients and updates. A backend that only
//! writes text or measures losses implements the first alone.
//!
//! [`Reference`] defines, in f64 and plain loops, what each operation means; every other implementation must agree with it
//! (`crates/core/tests/it/conformance.rs`). Shapes use these letters: `b` sequences of `t` positions, `n = b * t` rows, `c` channels,
//! `nh` heads of `hs` channels, `v` tokens in the vocabulary. Buffers may be longer than the operation needs; it uses their
//! beginning.

mod cpu;
mod reference;
mod timed;

pub use cpu::{Buf, Cpu};
pub use kinglet_kernels::{
    Isa,
    attention::Heads,
    loss::{IGNORE, Objective},
    optimizer::{AdamW, Muon},
};
pub use reference::Reference;
pub use timed::{Cost, Op, Timed};

use crate::{
    config::{Activation, Precision},
    params::{Embedding, Linear, Matrix, Norm, Qk, Span},
    rng::{Dropout, DropoutKey},
};

/// Epsilon of the norms, PyTorch's default for LayerNorm.
pub const NORM_EPS: f64 = 1e-5;

/// Rows of one pass through the model: `b` sequences of `t` positions, the first of which is position `pos`.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// Sequences.
    pub b: usize,
    /// Positions in each sequence.
    pub t: usize,
    /// Position of the first one: 0 but in generation.
    pub pos: usize,
}

impl Rows {
    /// `b * t`.
    pub fn n(&self) -> usize {
        self.b * self.t
    }
}

/// What all operations of one pass through the model have in common.
#[derive(Debug)]
pub struct Pass<'a, Buf> {
    /// The parameters.
    pub p: &'a Buf,
    /// Sequences and positions.
    pub rows: Rows,
    /// Which random numbers dropout takes, or none where dropout is off.
    pub dropout: Option<DropoutKey>,
}

// Derived, they would ask the same of `Buf`.
impl<Buf> Copy for Pass<'_, Buf> {}
impl<Buf> Clone for Pass<'_, Buf> {
    fn clone(&self) -> Self {
        *self
    }
}

/// Where the gradients of parameters go.
#[derive(Debug)]
pub struct Gradients<'a, Buf> {
    /// The gradients, with the layout of the parameters.
    pub g: &'a mut Buf,
    /// Whether those of the weights of linear layers are added to what is there or take its place; all others are added.
    pub add: bool,
}

/// The input of a norm, and what the norm left behind.
#[derive(Debug)]
pub struct Normed<'a, Buf> {
    /// The input `(n, c)`.
    pub x: &'a Buf,
    /// Mean and reciprocal standard deviation of each row `(n, 2)`.
    pub stats: &'a Buf,
}

/// An activation's input and output.
#[derive(Debug)]
pub struct Activated<'a, Buf> {
    /// The output `(n, i)`.
    pub y: &'a Buf,
    /// The input `(n, i)`, where [`Activation::keeps_input`].
    pub pre: &'a Buf,
    /// Which one.
    pub act: Activation,
}

/// What [`Forward::qk`] left behind.
#[derive(Debug)]
pub struct QkInput<'a, Buf> {
    /// Queries and keys before their norm `(n, c + kv)`, where they have one.
    pub pre: &'a Buf,
    /// The rotations `(t, hs)`, where there are some.
    pub table: &'a Buf,
}

/// What [`Forward::attention`] saw and left behind.
#[derive(Debug)]
pub struct Attended<'a, Buf> {
    /// Queries, keys and values `(n, c + 2 kv)`.
    pub qkv: &'a Buf,
    /// The output `(n, c)`.
    pub out: &'a Buf,
    /// The log-sum-exp of each row of scores `(b, nh, t)`.
    pub lse: &'a Buf,
}

/// Keys and values of earlier positions, as a ring: those of position `i` are in row `i % block`.
#[derive(Debug)]
pub struct KvCache<Buf> {
    /// Keys `(block, kv)`.
    pub k: Buf,
    /// Values `(block, kv)`.
    pub v: Buf,
    /// Positions that fit.
    pub block: usize,
}

/// Where row `i` of `c` channels begins in the dropout mask's numbering of a sequence: whole words of random bits.
pub(crate) fn mask_row(c: usize, i: usize) -> usize {
    i * c.next_multiple_of(4)
}

/// Cosine and sine of the angle by which channels `i` and `i + hs / 2` of a head are rotated at a position:
/// `pos * theta^(-2 i / hs)` (Su et al. 2021). In f64, so that it is as exact after a million tokens as after one.
fn rotation(pos: usize, i: usize, hs: usize, theta: f64) -> (f64, f64) {
    let (sin, cos) = libm::sincos(pos as f64 * libm::pow(theta, -2.0 * i as f64 / hs as f64));
    (cos, sin)
}

/// Numbers, and who computes with them: what inference needs. Parameters `p` are one flat buffer.
///
/// A linear layer with an adapter computes `x W^T + b + scale dropout(x) A^T B^T` wherever it says `x W^T + b` here,
/// with dropout where the pass has it.
///
/// A device may work on operations later than they are called; only [`Forward::download`] and [`Backward::reduce`] wait.
pub trait Forward: Send + Sync {
    /// A buffer of numbers.
    type Buf: Send + Sync;

    /// The same backend with products of linear layers in this precision, or in the nearest that it has: see
    /// [`Forward::precision`].
    fn with_precision(self, _: Precision) -> Self
    where
        Self: Sized,
    {
        self
    }
    /// What products of linear layers are computed in.
    fn precision(&self) -> Precision {
        Precision::F32
    }

    /// A buffer of `len` zeros.
    fn zeros(&self, len: usize) -> Self::Buf;
    /// `dst[start..start + src.len()] = src`.
    fn upload(&self, dst: &mut Self::Buf, start: usize, src: &[f32]);
    /// `dst = src[start..start + dst.len()]`, and waits for it.
    fn download(&self, src: &Self::Buf, start: usize, dst: &mut [f32]);
    /// `x[span] = 0`.
    fn clear(&self, x: &mut Self::Buf, span: Span);
    /// `dst[start..start + span.len] = src[span]`.
    fn copy(&self, dst: &mut Self::Buf, start: usize, src: &Self::Buf, span: Span);

    /// Called when parameters have their values for a while: a chance to lay out the weights of `linears` for the passes
    /// that follow, which compute the same with it and without. `backward` tells whether gradients are among them.
    fn pack_weights(&self, _p: &mut Self::Buf, _linears: &[Linear], _backward: bool) {}

    /// `x (n, c) = dropout(wte[id] + wpe[pos + i])`; `wte (v, c)`, `wpe (block_size, c)` or none, `ids (n)`.
    fn embed(&self, x: &mut Self::Buf, pass: Pass<Self::Buf>, w: Embedding, ids: &[u32], drop: Option<Dropout>);
    /// `y (n, c) = (x - mean) * rstd * w + b`; `stats (n, 2)` receives mean and rstd of each row. For RMSNorm the mean is
    /// 0, wherever it occurs.
    fn norm(&self, y: &mut Self::Buf, stats: &mut Self::Buf, x: &Self::Buf, pass: Pass<Self::Buf>, w: Norm);
    /// `y (n, o) = x (n, i) W^T + b`.
    fn linear(&self, y: &mut Self::Buf, x: &Self::Buf, pass: Pass<Self::Buf>, w: Linear);
    /// `y (n, o) = act(z)` with `z = x W^T + b`; `pre (n, o)` receives z, where [`Activation::keeps_input`].
    fn linear_act(
        &self,
        y: &mut Self::Buf,
        pre: &mut Self::Buf,
        x: &Self::Buf,
        pass: Pass<Self::Buf>,
        w: Linear,
        act: Activation,
    );
    /// `y (n, h) = silu(gate) up` with `silu(x) = x / (1 + e^-x)`, where a row of `z (n, 2h)` is one of gate and one of up.
    fn swiglu(&self, y: &mut Self::Buf, z: &Self::Buf, h: usize, n: usize);
    /// `out (n, o) = residual + dropout(x W^T + b)`.
    fn linear_residual(
        &self,
        out: &mut Self::Buf,
        residual: &Self::Buf,
        x: &Self::Buf,
        pass: Pass<Self::Buf>,
        w: Linear,
        drop: Option<Dropout>,
    );

    /// `table (t, hs)`: for each of the positions `pos..pos + t` the cosines (hs / 2) of its rotations, then the sines:
    /// those of the angles `position * theta^(-2 i / hs)`.
    fn rotations(&self, table: &mut Self::Buf, hs: usize, theta: f64, pos: usize, t: usize);
    /// Queries and keys in `qkv (n, c + 2 kv)` as attention compares them, in place: RMSNorm of each head's channels, where
    /// `w` has weights (`pre (n, c + kv)` then receives what was there), and the rotation of channels `i` and
    /// `i + hs / 2` by the position's row of `table (t, hs)`, where `w` says so.
    fn qk(
        &self,
        qkv: &mut Self::Buf,
        pre: &mut Self::Buf,
        table: &Self::Buf,
        pass: Pass<Self::Buf>,
        w: Qk,
        heads: Heads,
    );
    /// `out (n, c) = dropout(softmax(scale Q K^T)) V`, causal, per sequence and head; `qkv (n, c + 2 kv)`;
    /// `lse (b, nh, t)` receives the log-sum-exp of each row of scores.
    fn attention(
        &self,
        out: &mut Self::Buf,
        lse: &mut Self::Buf,
        qkv: &Self::Buf,
        heads: Heads,
        rows: Rows,
        drop: Option<Dropout>,
    );
    /// Attention of the new positions `pos..pos + t` of one sequence (`b = 1`), each over the last `cache.block` up to
    /// itself: `out (t, c)`, `qkv (t, c + 2 kv)`, whose K and V are stored in the cache.
    fn attention_cached(
        &self,
        out: &mut Self::Buf,
        cache: &mut KvCache<Self::Buf>,
        qkv: &Self::Buf,
        heads: Heads,
        rows: Rows,
    );

    /// `z = cap tanh(z / cap)` for the first `len` elements of `z`.
    fn softcap(&self, z: &mut Self::Buf, cap: f64, len: usize);
    /// `losses (n) = logsumexp(z) - z[target]` for rows z of `logits (n, v)`, whose content is used up; 0 where the target
    /// is [`IGNORE`].
    fn cross_entropy(&self, losses: &mut Self::Buf, logits: &mut Self::Buf, targets: &[u32], v: usize);
}

/// The gradients of [`Forward`]'s operations, and what updates parameters with them.
///
/// Gradients of parameters that train are added to those that are there, unless said otherwise; gradients of other
/// parameters are left out. Gradients of activations overwrite their buffer, unless said otherwise. The backward pass of a
/// linear layer with an adapter goes through both.
pub trait Backward: Forward {
    /// `g[wte][id] += dx`, `g[wpe][i] += dx`, after dropout's backward; `dx (n, c)` is used up.
    fn embed_bwd(
        &self,
        grads: &mut Gradients<Self::Buf>,
        dx: &mut Self::Buf,
        pass: Pass<Self::Buf>,
        w: Embedding,
        ids: &[u32],
        drop: Option<Dropout>,
    );
    /// `dx (n, c) +=` the norm's backward of `dy`; `g[w] += ...`, `g[b] += ...`.
    fn norm_bwd(
        &self,
        dx: &mut Self::Buf,
        grads: &mut Gradients<Self::Buf>,
        dy: &Self::Buf,
        of: Normed<Self::Buf>,
        pass: Pass<Self::Buf>,
        w: Norm,
    );
    /// `dx (n, i) = dy W`, `g[W] += dy^T x` or without `add` `g[W] = dy^T x`, `g[b] +=` column sums of `dy (n, o)`.
    fn linear_bwd(
        &self,
        dx: &mut Self::Buf,
        grads: &mut Gradients<Self::Buf>,
        dy: &Self::Buf,
        x: &Self::Buf,
        pass: Pass<Self::Buf>,
        w: Linear,
    );
    /// [`Backward::linear_bwd`] of a layer whose input is an activation, `x = act(pre)`, and through it:
    /// `dpre (n, i) = (dy W) act'(pre)`.
    fn linear_bwd_act(
        &self,
        dpre: &mut Self::Buf,
        grads: &mut Gradients<Self::Buf>,
        dy: &Self::Buf,
        of: Activated<Self::Buf>,
        pass: Pass<Self::Buf>,
        w: Linear,
    );
    /// `dz (n, 2h)` from `dy (n, h)` and what [`Forward::swiglu`] saw.
    fn swiglu_bwd(&self, dz: &mut Self::Buf, dy: &Self::Buf, z: &Self::Buf, h: usize, n: usize);
    /// `dx (n, c) =` dropout's backward of `dy`.
    fn dropout_bwd(&self, dx: &mut Self::Buf, dy: &Self::Buf, c: usize, rows: Rows, drop: Dropout);
    /// The backward pass of [`Forward::qk`], in place in `dqkv (n, c + 2 kv)`; `g[w.norm] += ...`.
    fn qk_bwd(
        &self,
        dqkv: &mut Self::Buf,
        grads: &mut Gradients<Self::Buf>,
        of: QkInput<Self::Buf>,
        pass: Pass<Self::Buf>,
        w: Qk,
        heads: Heads,
    );
    /// `dqkv (n, c + 2 kv)` from `dout (n, c)` and what [`Forward::attention`] saw and left.
    fn attention_bwd(
        &self,
        dqkv: &mut Self::Buf,
        dout: &Self::Buf,
        of: Attended<Self::Buf>,
        heads: Heads,
        rows: Rows,
        drop: Option<Dropout>,
    );
    /// [`Forward::cross_entropy`], and the logits become the gradient of the objective with
    /// `lse = logsumexp(z)`: `scale (softmax(z) (1 + 2 z_loss lse) - onehot(target))`, through [`Forward::softcap`] if there
    /// is one times `1 - (z / softcap)^2`. It is 0 where the target is [`IGNORE`].
    fn cross_entropy_grad(
        &self,
        losses: &mut Self::Buf,
        logits: &mut Self::Buf,
        targets: &[u32],
        v: usize,
        objective: Objective,
    );

    /// `parts[0] = ((parts[0] + parts[1]) + parts[2]) + ...`, in this order for each element of `spans`; waits, and returns
    /// the sum of the squares of the result.
    fn reduce(&self, parts: &mut [&mut Self::Buf], spans: &[Span]) -> f64;
    /// One AdamW step on the elements of `span`.
    fn adamw(&self, p: &mut Self::Buf, g: &Self::Buf, m: &mut Self::Buf, v: &mut Self::Buf, span: Span, h: &AdamW);
    /// One Muon step on each of `matrices`, which stand in the order of the buffer: with `x` Nesterov's momentum of its
    /// gradient, `p -= lr sqrt(max(1, rows / cols)) orthogonal(x)`; `m` holds the gradient's mean.
    fn muon(&self, p: &mut Self::Buf, g: &Self::Buf, m: &mut Self::Buf, matrices: &[Matrix], h: &Muon);
}
