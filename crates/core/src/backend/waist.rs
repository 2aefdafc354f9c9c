//! The operations and their arguments.

use crate::{
    config::{Activation, Precision, Quantization},
    params::{Conv, Embedding, Linear, Matrix, Norm, Qk, Span},
    quant::{self, Rounded, Weights},
    rng::{Dropout, DropoutKey},
};
use kinglet_kernels::{
    attention::Heads,
    loss::Objective,
    optimizer::{AdamW, Muon},
};
use std::ops::Range;

/// Rows of one pass through the model: `b` sequences of `t` positions.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// Sequences.
    pub b: usize,
    /// Positions in each sequence.
    pub t: usize,
    /// For sequences that hold several documents: the position of each row within its document `(n)`, so that a
    /// document begins at each 0. Documents do not attend to each other. Empty if every sequence is one document. In
    /// generation: the position of each row in its own text.
    pub positions: &'a [u32],
}

impl<'a> Rows<'a> {
    /// `b` sequences of `t` positions, each one document from its start.
    pub fn new(b: usize, t: usize) -> Rows<'a> {
        Rows { b, t, positions: &[] }
    }

    /// `b * t`.
    pub fn n(&self) -> usize {
        self.b * self.t
    }

    /// The position of a row within its document.
    pub fn position(&self, row: usize) -> usize {
        if self.positions.is_empty() { row % self.t } else { self.positions[row] as usize }
    }

    /// The documents of sequence `s`, in order, as ranges of its `t` positions.
    pub fn documents(self, s: usize) -> impl Iterator<Item = Range<usize>> + use<'a> {
        let positions = if self.positions.is_empty() { &[] } else { &self.positions[s * self.t..][..self.t] };
        let (mut start, t) = (0, self.t);
        std::iter::from_fn(move || {
            let first = start;
            let next = positions.iter().skip(first + 1).position(|&position| position == 0);
            start = next.map_or(t, |after| first + 1 + after);
            (first < t).then_some(first..start)
        })
    }
}

/// What all operations of one pass through the model have in common.
#[derive(Debug)]
pub struct Pass<'a, Buf> {
    /// The parameters.
    pub p: &'a Buf,
    /// Sequences and positions.
    pub rows: Rows<'a>,
    /// The key of dropout's random numbers, or none where dropout is off.
    pub dropout: Option<DropoutKey>,
}

// Derived implementations would require `Buf` to be `Copy` and `Clone` too.
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
    /// Whether gradients of linear layers' weights are added to what is there, rather than overwriting it; all others
    /// are always added.
    pub add: bool,
}

/// The input of a norm, and the statistics that its forward pass saved.
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
    /// The input `(n, i)`, if [`Activation::keeps_input`].
    pub pre: &'a Buf,
    /// Which activation.
    pub act: Activation,
}

/// What [`Forward::qk`] saved.
#[derive(Debug)]
pub struct QkInput<'a, Buf> {
    /// Queries and keys before their norm `(n, c + kv)`, if they have one.
    pub pre: &'a Buf,
    /// The rotations `(t, hs)`, if positions are rotary.
    pub table: &'a Buf,
}

/// The input and the results of [`Forward::attention`].
#[derive(Debug)]
pub struct Attended<'a, Buf> {
    /// Queries, keys and values `(n, c + 2 kv)`.
    pub qkv: &'a Buf,
    /// The output `(n, c)`.
    pub out: &'a Buf,
    /// The log-sum-exp of each row of scores `(b, nh, t)`.
    pub lse: &'a Buf,
}

/// Keys and values of earlier positions, as a ring buffer: those of position `i` are in column or row `i % block`.
#[derive(Debug)]
pub struct KvCache<Buf> {
    /// Keys `(kv, key_stride(block))`, by channel: see [`kinglet_kernels::attention::key_stride`].
    pub k: Buf,
    /// Values `(block, kv)`.
    pub v: Buf,
    /// Number of positions that fit.
    pub block: usize,
    /// What goes into the layer's convolutions, if there are any: of each the last positions `(taps - 1, c)`, as a ring buffer, where
    /// its [`Conv::tail`] says.
    pub tail: Buf,
}

/// The new positions of one sequence, `pos..pos + t`, in a pass over several sequences, whose rows follow each other.
#[derive(Debug)]
pub struct Cached<'a, Buf> {
    /// Keys and values of the positions before.
    pub cache: &'a mut KvCache<Buf>,
    /// The first new position.
    pub pos: usize,
    /// How many there are.
    pub t: usize,
}

/// Index, in a sequence's dropout mask, of row `i` of `c` channels. Rows are padded to whole 64-bit words of random
/// bits.
pub(super) fn mask_row(c: usize, i: usize) -> usize {
    i * c.next_multiple_of(4)
}

/// By how much the angle of channels `i` and `i + hs / 2` of a head grows from one position to the next: `theta^(-2 i / hs)`
/// (Su et al. 2021).
pub(super) fn frequency(i: usize, hs: usize, theta: f64) -> f64 {
    libm::pow(theta, -2.0 * i as f64 / hs as f64)
}

/// Cosine and sine of the angle at a position. In f64, so that it is as exact after a million tokens as after one.
pub(super) fn rotation(pos: usize, frequency: f64) -> (f64, f64) {
    let (sin, cos) = libm::sincos(pos as f64 * frequency);
    (cos, sin)
}

/// Buffers of numbers and the operations on them that inference needs. The parameters `p` are one flat buffer.
///
/// A linear layer with an adapter computes `x W^T + b + scale dropout(x) A^T B^T` wherever `x W^T + b` is written here,
/// with dropout if the pass has it.
///
/// A device may run operations asynchronously; only [`Forward::download`] and [`Backward::reduce`] wait for the
/// results.
pub trait Forward: Send + Sync {
    /// A buffer of numbers.
    type Buf: Send + Sync;

    /// The same backend with products of linear layers in this precision, or in the nearest one that it supports: see
    /// [`Forward::precision`].
    fn with_precision(self, _: Precision) -> Self
    where
        Self: Sized,
    {
        self
    }
    /// The precision in which products of linear layers are computed.
    fn precision(&self) -> Precision {
        Precision::F32
    }

    /// The same backend for a model with such weights. Its results may then have the same bits on every processor.
    fn with_quantization(self, _: Quantization) -> Self
    where
        Self: Sized,
    {
        self
    }

    /// A buffer of `len` zeros.
    fn zeros(&self, len: usize) -> Self::Buf;
    /// What `make` returns. It makes buffers that a step uses together and that live as long as each other, so a backend may lay
    /// them out for that.
    fn together<T>(&self, make: impl FnOnce() -> T) -> T {
        make()
    }
    /// `dst[start..start + src.len()] = src`.
    fn upload(&self, dst: &mut Self::Buf, start: usize, src: &[f32]);
    /// Puts a matrix of few bits where its numbers would be, from `start` on. By default its numbers are uploaded.
    fn place(&self, dst: &mut Self::Buf, start: usize, w: &Rounded) {
        let (rows, cols) = w.shape();
        let mut numbers = vec![0.0; rows * cols];
        w.numbers(&mut numbers);
        self.upload(dst, start, &numbers);
    }
    /// A buffer of parameters with these weights. Numbers in whose place a matrix of few bits stands are not written: memory
    /// that is not touched is not used.
    fn parameters(&self, w: &Weights) -> Self::Buf {
        let mut p = self.zeros(w.numbers.len());
        let mut at = 0;
        for (start, matrix) in &w.rounded {
            self.upload(&mut p, at, &w.numbers[at..*start]);
            self.place(&mut p, *start, matrix);
            let (rows, cols) = matrix.shape();
            at = start + rows * cols;
        }
        self.upload(&mut p, at, &w.numbers[at..]);
        p
    }
    /// `dst = src[start..start + dst.len()]`; waits for the result.
    fn download(&self, src: &Self::Buf, start: usize, dst: &mut [f32]);
    /// `x[span] = 0`.
    fn clear(&self, x: &mut Self::Buf, span: Span);
    /// `dst[start..start + span.len] = src[span]`.
    fn copy(&self, dst: &mut Self::Buf, start: usize, src: &Self::Buf, span: Span);

    /// Called when the parameters will stay unchanged for a while, so that the backend can pack the weights of
    /// `linears` for the following passes. The results are the same with and without it. `backward` tells whether
    /// backward passes will follow.
    fn pack_weights(&self, _p: &mut Self::Buf, _linears: &[Linear], _backward: bool) {}

    /// `x (n, c) = dropout(wte[id] + wpe[position])`; `wte (v, c)`, `wpe (block_size, c)` or none, `ids (n)`.
    fn embed(&self, x: &mut Self::Buf, pass: Pass<Self::Buf>, w: Embedding, ids: &[u32], drop: Option<Dropout>);
    /// `y (n, c) = (x - mean) * rstd * w + b`; `stats (n, 2)` receives mean and rstd of each row. For RMSNorm the mean
    /// is 0, wherever it occurs.
    fn norm(&self, y: &mut Self::Buf, stats: &mut Self::Buf, x: &Self::Buf, pass: Pass<Self::Buf>, w: Norm);
    /// `y (n, o) = x (n, i) W^T + b`.
    fn linear(&self, y: &mut Self::Buf, x: &Self::Buf, pass: Pass<Self::Buf>, w: Linear);
    /// `y (n, o) = act(z)` with `z = x W^T + b`; `pre (n, o)` receives z, if [`Activation::keeps_input`].
    fn linear_act(
        &self,
        y: &mut Self::Buf,
        pre: &mut Self::Buf,
        x: &Self::Buf,
        pass: Pass<Self::Buf>,
        w: Linear,
        act: Activation,
    );
    /// `y (n, h) = silu(gate) up` with `silu(x) = x / (1 + e^-x)`; each row of `z (n, 2h)` is a row of gate followed by
    /// a row of up.
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

    /// `y (n, c) =` the causal convolution of `x (n, c)` in each document:
    /// `y[i] = sum_k w[taps - 1 - k] x[i - k]`, channel by channel, with `w (c, 1, taps)`.
    fn conv(&self, y: &mut Self::Buf, x: &Self::Buf, pass: Pass<Self::Buf>, w: Conv);
    /// [`Forward::conv`] of the new positions of several sequences, whose last inputs are in the caches. The rows of the first
    /// part come first.
    fn conv_cached(&self, y: &mut Self::Buf, parts: &mut [Cached<Self::Buf>], x: &Self::Buf, p: &Self::Buf, w: Conv);
    /// `table (n, hs)`: for each of `positions (n)`, the cosines (hs / 2) and then the sines of its rotation angles
    /// `position * theta^(-2 i / hs)`.
    fn rotations(&self, table: &mut Self::Buf, hs: usize, theta: f64, positions: &[usize]);
    /// Prepares queries and keys in `qkv (n, c + 2 kv)` for attention, in place. If `w` has norm weights, the channels
    /// of each head get an RMSNorm (`pre (n, c + kv)` receives the values before it). If `w.rotary`, channels `i` and
    /// `i + hs / 2` are then rotated by the row of `table (t, hs)` for their position.
    fn qk(
        &self,
        qkv: &mut Self::Buf,
        pre: &mut Self::Buf,
        table: &Self::Buf,
        pass: Pass<Self::Buf>,
        w: Qk,
        heads: Heads,
    );
    /// `out (n, c) = dropout(softmax(scale Q K^T)) V`, causal, per document and head; `qkv (n, c + 2 kv)`;
    /// `lse (b, nh, t)` receives the log-sum-exp of each row of scores: in each sequence one document after another, each
    /// `(nh, length)`.
    fn attention(
        &self,
        out: &mut Self::Buf,
        lse: &mut Self::Buf,
        qkv: &Self::Buf,
        heads: Heads,
        rows: Rows,
        drop: Option<Dropout>,
    );
    /// Attention of the new positions of several sequences, each over the last `cache.block` positions of its sequence up
    /// to and including itself: `out (n, c)`, `qkv (n, c + 2 kv)`, whose K and V are stored in the caches. The rows of
    /// the first part come first.
    fn attention_cached(&self, out: &mut Self::Buf, parts: &mut [Cached<Self::Buf>], qkv: &Self::Buf, heads: Heads);

    /// `z = cap tanh(z / cap)` for the first `len` elements of `z`.
    fn softcap(&self, z: &mut Self::Buf, cap: f64, len: usize);
    /// `losses (n) = logsumexp(z) - z[target]` for rows z of `logits (n, v)`, which may be overwritten; 0 where the
    /// target is [`super::IGNORE`].
    fn cross_entropy(&self, losses: &mut Self::Buf, logits: &mut Self::Buf, targets: &[u32], v: usize);
}

/// The gradients of [`Forward`]'s operations, and the operations that update parameters with them.
///
/// Gradients of trainable parameters are added to what is there, unless stated otherwise; gradients of other parameters
/// are not computed. Gradients of activations overwrite their buffer, unless stated otherwise. The backward pass of a
/// linear layer with an adapter goes through both.
pub trait Backward: Forward {
    /// `g[wte][id] += dx`, `g[wpe][position] += dx`, after dropout's backward pass; `dx (n, c)` may be overwritten.
    fn embed_bwd(
        &self,
        grads: &mut Gradients<Self::Buf>,
        dx: &mut Self::Buf,
        pass: Pass<Self::Buf>,
        w: Embedding,
        ids: &[u32],
        drop: Option<Dropout>,
    );
    /// `dx (n, c) +=` the norm's backward pass of `dy`; `g[w] += ...`, `g[b] += ...`.
    fn norm_bwd(
        &self,
        dx: &mut Self::Buf,
        grads: &mut Gradients<Self::Buf>,
        dy: &Self::Buf,
        of: Normed<Self::Buf>,
        pass: Pass<Self::Buf>,
        w: Norm,
    );
    /// `dx (n, i) = dy W`, `g[W] += dy^T x` (without `add`, `g[W] = dy^T x`), `g[b] +=` column sums of `dy (n, o)`.
    fn linear_bwd(
        &self,
        dx: &mut Self::Buf,
        grads: &mut Gradients<Self::Buf>,
        dy: &Self::Buf,
        x: &Self::Buf,
        pass: Pass<Self::Buf>,
        w: Linear,
    );
    /// [`Backward::linear_bwd`] of a layer whose input is an activation, `x = act(pre)`, followed by the backward pass
    /// of that activation: `dpre (n, i) = (dy W) act'(pre)`.
    fn linear_bwd_act(
        &self,
        dpre: &mut Self::Buf,
        grads: &mut Gradients<Self::Buf>,
        dy: &Self::Buf,
        of: Activated<Self::Buf>,
        pass: Pass<Self::Buf>,
        w: Linear,
    );
    /// `dz (n, 2h)` from `dy (n, h)` and the input `z` of [`Forward::swiglu`].
    fn swiglu_bwd(&self, dz: &mut Self::Buf, dy: &Self::Buf, z: &Self::Buf, h: usize, n: usize);
    /// `dx (n, c) =` dropout's backward pass of `dy`.
    fn dropout_bwd(&self, dx: &mut Self::Buf, dy: &Self::Buf, c: usize, rows: Rows, drop: Dropout);
    /// The backward pass of [`Forward::conv`], in place in `d (n, c)`; `x (n, c)` is its input; `g[w] += ...`.
    fn conv_bwd(
        &self,
        d: &mut Self::Buf,
        grads: &mut Gradients<Self::Buf>,
        x: &Self::Buf,
        pass: Pass<Self::Buf>,
        w: Conv,
    );
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
    /// `dqkv (n, c + 2 kv)` from `dout (n, c)` and the input and results of [`Forward::attention`].
    fn attention_bwd(
        &self,
        dqkv: &mut Self::Buf,
        dout: &Self::Buf,
        of: Attended<Self::Buf>,
        heads: Heads,
        rows: Rows,
        drop: Option<Dropout>,
    );
    /// [`Forward::cross_entropy`]; also replaces the logits by the gradient of the objective. With `lse = logsumexp(z)`
    /// it is `scale (softmax(z) (1 + 2 z_loss lse) - onehot(target))`, times `1 - (z / softcap)^2` if the logits went
    /// through [`Forward::softcap`]. It is 0 where the target is [`super::IGNORE`].
    fn cross_entropy_grad(
        &self,
        losses: &mut Self::Buf,
        logits: &mut Self::Buf,
        targets: &[u32],
        v: usize,
        objective: Objective,
    );

    /// Leads gradients of logits towards a teacher: `g += scale (onehot(target) - softmax(z))` for rows of `g (n, v)` and of the
    /// teacher's logits `z (n, v)`; rows whose target is [`super::IGNORE`] stay. See [`kinglet_kernels::loss::teach`].
    fn teach(&self, g: &mut Self::Buf, z: &Self::Buf, targets: &[u32], v: usize, scale: f64);

    /// `parts[0] = ((parts[0] + parts[1]) + parts[2]) + ...`, in this order for each element of `spans`; waits for the
    /// result and returns the sum of its squares.
    fn reduce(&self, parts: &mut [&mut Self::Buf], spans: &[Span]) -> f64;
    /// One AdamW step on the elements of `span`.
    fn adamw(&self, p: &mut Self::Buf, g: &Self::Buf, m: &mut Self::Buf, v: &mut Self::Buf, span: Span, h: &AdamW);
    /// One Muon step on each of `matrices`, which must be in the order of the buffer:
    /// `p -= lr sqrt(max(1, rows / cols)) orthogonal(x)`, where `x` is the gradient with Nesterov momentum; `m` holds
    /// the gradient's running mean.
    fn muon(&self, p: &mut Self::Buf, g: &Self::Buf, m: &mut Self::Buf, matrices: &[Matrix], h: &Muon);

    /// `q =` the numbers that `p` is rounded to, in each of `matrices`: see [`quant::round`]. By default on the host.
    fn round(&self, q: &mut Self::Buf, p: &Self::Buf, matrices: &[Matrix], scheme: Quantization) {
        for &Matrix { span, cols, .. } in matrices {
            let (mut w, mut rounded) = (vec![0.0; span.len], vec![0.0; span.len]);
            self.download(p, span.start, &mut w);
            quant::round(scheme, &w, cols, &mut rounded);
            self.upload(q, span.start, &rounded);
        }
    }
}
