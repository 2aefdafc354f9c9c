//! Wraps any backend and times each operation, to show where a step's time goes.

use super::waist::{Activated, Attended, Backward, Cached, Forward, Gradients, Normed, Pass, QkInput, Rows};
use crate::{
    config::{Activation, Precision, Quantization},
    params::{Conv, Embedding, Linear, Matrix, Norm, Qk, Span},
    quant::Rounded,
    rng::Dropout,
};
use kinglet_kernels::{
    attention::Heads,
    loss::Objective,
    optimizer::{AdamW, Muon},
};
use serde::Serialize;
use std::{collections::BTreeMap, sync::Mutex, time::Instant};

/// A backend that records what each operation costs.
#[derive(Debug)]
pub struct Timed<B> {
    be: B,
    costs: Mutex<BTreeMap<Op, Cost>>,
}

/// An operation and, for a linear layer, its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Op {
    /// The method of [`Forward`] or [`Backward`].
    pub name: &'static str,
    /// Channels in and out of a linear layer.
    pub shape: Option<(usize, usize)>,
}

/// The total cost of an operation's calls, summed over all threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Calls.
    pub calls: u64,
    /// Seconds.
    pub seconds: f64,
    /// Floating-point operations of the matrix products: 2 for each multiply-add. As usual, attention is counted in
    /// full, as if it were not causal.
    pub flops: f64,
    /// The least number of bytes that must be read and written, for operations without a matrix product.
    pub bytes: f64,
}

/// Bytes per number.
const F32: f64 = 4.0;

impl<B: Forward> Timed<B> {
    /// Wraps `be`, with all costs zero.
    pub fn new(be: B) -> Timed<B> {
        Timed { be, costs: Mutex::default() }
    }

    /// Returns the costs so far and resets them to zero.
    pub fn take(&self) -> BTreeMap<Op, Cost> {
        std::mem::take(&mut self.costs.lock().expect("no operation panicked"))
    }

    /// Runs `work`, an operation of this size, and adds its cost to the totals.
    fn time<R>(&self, name: &'static str, size: Size, work: impl FnOnce(&B) -> R) -> R {
        let start = Instant::now();
        let result = work(&self.be);
        let seconds = start.elapsed().as_secs_f64();
        let (shape, flops, numbers) = match size {
            Size::Linear(w, products) => (Some((w.i, w.o)), 2.0 * products as f64, 0),
            Size::Attention { queries, keys, c, products } => (None, (2 * queries * keys * c * products) as f64, 0),
            Size::Products(multiply_adds) => (None, 2.0 * multiply_adds as f64, 0),
            Size::Numbers(numbers) => (None, 0.0, numbers),
        };
        let mut costs = self.costs.lock().expect("no operation panicked");
        let cost = costs.entry(Op { name, shape }).or_default();
        *cost = Cost {
            calls: cost.calls + 1,
            seconds: cost.seconds + seconds,
            flops: cost.flops + flops,
            bytes: cost.bytes + F32 * numbers as f64,
        };
        result
    }
}

/// How much work an operation does.
enum Size {
    /// A linear layer, and its multiply-adds.
    Linear(Linear, usize),
    /// Attention; `products` is the number of matrix products as large as that of queries and keys.
    Attention { queries: usize, keys: usize, c: usize, products: usize },
    /// Other products, and their multiply-adds.
    Products(usize),
    /// Numbers read and written.
    Numbers(usize),
}

impl Size {
    fn forward(w: Linear, rows: Rows) -> Size {
        Size::Linear(w, rows.n() * w.multiply_adds().0)
    }

    fn qk(w: Qk, heads: Heads, rows: Rows) -> Size {
        let passes = if w.norm.is_some() { 3 } else { 2 };
        Size::Numbers(passes * rows.n() * (heads.c + heads.kv()))
    }

    fn backward(w: Linear, rows: Rows) -> Size {
        Size::Linear(w, rows.n() * w.multiply_adds().1)
    }
}

impl<B: Forward> Forward for Timed<B> {
    type Buf = B::Buf;

    fn with_precision(self, precision: Precision) -> Self {
        Timed { be: self.be.with_precision(precision), ..self }
    }

    fn with_quantization(self, quantization: Quantization) -> Self {
        Timed { be: self.be.with_quantization(quantization), ..self }
    }

    fn precision(&self) -> Precision {
        self.be.precision()
    }

    fn zeros(&self, len: usize) -> B::Buf {
        self.be.zeros(len)
    }

    fn together<T>(&self, make: impl FnOnce() -> T) -> T {
        self.be.together(make)
    }

    fn upload(&self, dst: &mut B::Buf, start: usize, src: &[f32]) {
        self.be.upload(dst, start, src);
    }

    fn place(&self, dst: &mut B::Buf, start: usize, w: &Rounded) {
        self.be.place(dst, start, w);
    }

    fn download(&self, src: &B::Buf, start: usize, dst: &mut [f32]) {
        self.be.download(src, start, dst);
    }

    fn clear(&self, x: &mut B::Buf, span: Span) {
        self.time("clear", Size::Numbers(span.len), |be| be.clear(x, span));
    }

    fn copy(&self, dst: &mut B::Buf, start: usize, src: &B::Buf, span: Span) {
        self.time("copy", Size::Numbers(2 * span.len), |be| be.copy(dst, start, src, span));
    }

    fn pack_weights(&self, p: &mut B::Buf, linears: &[Linear], backward: bool) {
        self.time("pack_weights", Size::Numbers(0), |be| be.pack_weights(p, linears, backward));
    }

    fn embed(&self, x: &mut B::Buf, pass: Pass<B::Buf>, w: Embedding, ids: &[u32], drop: Option<Dropout>) {
        let passes = if w.wpe.is_some() { 3 } else { 2 };
        self.time("embed", Size::Numbers(passes * pass.rows.n() * w.c), |be| be.embed(x, pass, w, ids, drop));
    }

    fn norm(&self, y: &mut B::Buf, stats: &mut B::Buf, x: &B::Buf, pass: Pass<B::Buf>, w: Norm) {
        self.time("norm", Size::Numbers(2 * pass.rows.n() * w.w.len), |be| be.norm(y, stats, x, pass, w));
    }

    fn linear(&self, y: &mut B::Buf, x: &B::Buf, pass: Pass<B::Buf>, w: Linear) {
        self.time("linear", Size::forward(w, pass.rows), |be| be.linear(y, x, pass, w));
    }

    fn linear_act(&self, y: &mut B::Buf, pre: &mut B::Buf, x: &B::Buf, pass: Pass<B::Buf>, w: Linear, act: Activation) {
        self.time("linear_act", Size::forward(w, pass.rows), |be| be.linear_act(y, pre, x, pass, w, act));
    }

    fn swiglu(&self, y: &mut B::Buf, z: &B::Buf, h: usize, n: usize) {
        self.time("swiglu", Size::Numbers(3 * n * h), |be| be.swiglu(y, z, h, n));
    }

    fn linear_residual(
        &self,
        out: &mut B::Buf,
        residual: &B::Buf,
        x: &B::Buf,
        pass: Pass<B::Buf>,
        w: Linear,
        drop: Option<Dropout>,
    ) {
        let size = Size::forward(w, pass.rows);
        self.time("linear_residual", size, |be| be.linear_residual(out, residual, x, pass, w, drop));
    }

    fn rotations(&self, table: &mut B::Buf, hs: usize, theta: f64, positions: &[usize]) {
        self.time("rotations", Size::Numbers(positions.len() * hs), |be| be.rotations(table, hs, theta, positions));
    }

    fn qk(&self, qkv: &mut B::Buf, pre: &mut B::Buf, table: &B::Buf, pass: Pass<B::Buf>, w: Qk, heads: Heads) {
        self.time("qk", Size::qk(w, heads, pass.rows), |be| be.qk(qkv, pre, table, pass, w, heads));
    }

    fn conv(&self, y: &mut B::Buf, x: &B::Buf, pass: Pass<B::Buf>, w: Conv) {
        self.time("conv", Size::Numbers(2 * pass.rows.n() * w.c), |be| be.conv(y, x, pass, w));
    }

    fn conv_cached(&self, y: &mut B::Buf, parts: &mut [Cached<B::Buf>], x: &B::Buf, p: &B::Buf, w: Conv) {
        let rows: usize = parts.iter().map(|part| part.t).sum();
        self.time("conv_cached", Size::Numbers(2 * rows * w.c), |be| be.conv_cached(y, parts, x, p, w));
    }

    fn attention(
        &self,
        out: &mut B::Buf,
        lse: &mut B::Buf,
        qkv: &B::Buf,
        heads: Heads,
        rows: Rows,
        drop: Option<Dropout>,
    ) {
        let size = Size::Attention { queries: rows.n(), keys: rows.t, c: heads.c, products: 2 };
        self.time("attention", size, |be| be.attention(out, lse, qkv, heads, rows, drop));
    }

    fn attention_cached(&self, out: &mut B::Buf, parts: &mut [Cached<B::Buf>], qkv: &B::Buf, heads: Heads) {
        let keys = parts.iter().map(|part| part.t * part.cache.block.min(part.pos + part.t)).sum();
        let size = Size::Attention { queries: 1, keys, c: heads.c, products: 2 };
        self.time("attention_cached", size, |be| be.attention_cached(out, parts, qkv, heads));
    }

    fn softcap(&self, z: &mut B::Buf, cap: f64, len: usize) {
        self.time("softcap", Size::Numbers(2 * len), |be| be.softcap(z, cap, len));
    }

    fn cross_entropy(&self, losses: &mut B::Buf, logits: &mut B::Buf, targets: &[u32], v: usize) {
        let size = Size::Numbers(targets.len() * v);
        self.time("cross_entropy", size, |be| be.cross_entropy(losses, logits, targets, v));
    }
}

impl<B: Backward> Backward for Timed<B> {
    fn embed_bwd(
        &self,
        grads: &mut Gradients<B::Buf>,
        dx: &mut B::Buf,
        pass: Pass<B::Buf>,
        w: Embedding,
        ids: &[u32],
        drop: Option<Dropout>,
    ) {
        let size = Size::Numbers(if w.wpe.is_some() { 5 } else { 3 } * pass.rows.n() * w.c);
        self.time("embed_bwd", size, |be| be.embed_bwd(grads, dx, pass, w, ids, drop));
    }

    fn norm_bwd(
        &self,
        dx: &mut B::Buf,
        grads: &mut Gradients<B::Buf>,
        dy: &B::Buf,
        of: Normed<B::Buf>,
        pass: Pass<B::Buf>,
        w: Norm,
    ) {
        let size = Size::Numbers(4 * pass.rows.n() * w.w.len);
        self.time("norm_bwd", size, |be| be.norm_bwd(dx, grads, dy, of, pass, w));
    }

    fn linear_bwd(
        &self,
        dx: &mut B::Buf,
        grads: &mut Gradients<B::Buf>,
        dy: &B::Buf,
        x: &B::Buf,
        pass: Pass<B::Buf>,
        w: Linear,
    ) {
        self.time("linear_bwd", Size::backward(w, pass.rows), |be| be.linear_bwd(dx, grads, dy, x, pass, w));
    }

    fn linear_bwd_act(
        &self,
        dpre: &mut B::Buf,
        grads: &mut Gradients<B::Buf>,
        dy: &B::Buf,
        of: Activated<B::Buf>,
        pass: Pass<B::Buf>,
        w: Linear,
    ) {
        self.time("linear_bwd_act", Size::backward(w, pass.rows), |be| be.linear_bwd_act(dpre, grads, dy, of, pass, w));
    }

    fn swiglu_bwd(&self, dz: &mut B::Buf, dy: &B::Buf, z: &B::Buf, h: usize, n: usize) {
        self.time("swiglu_bwd", Size::Numbers(5 * n * h), |be| be.swiglu_bwd(dz, dy, z, h, n));
    }

    fn dropout_bwd(&self, dx: &mut B::Buf, dy: &B::Buf, c: usize, rows: Rows, drop: Dropout) {
        self.time("dropout_bwd", Size::Numbers(2 * rows.n() * c), |be| be.dropout_bwd(dx, dy, c, rows, drop));
    }

    fn conv_bwd(&self, d: &mut B::Buf, grads: &mut Gradients<B::Buf>, x: &B::Buf, pass: Pass<B::Buf>, w: Conv) {
        self.time("conv_bwd", Size::Numbers(3 * pass.rows.n() * w.c), |be| be.conv_bwd(d, grads, x, pass, w));
    }

    fn qk_bwd(
        &self,
        dqkv: &mut B::Buf,
        grads: &mut Gradients<B::Buf>,
        of: QkInput<B::Buf>,
        pass: Pass<B::Buf>,
        w: Qk,
        heads: Heads,
    ) {
        self.time("qk_bwd", Size::qk(w, heads, pass.rows), |be| be.qk_bwd(dqkv, grads, of, pass, w, heads));
    }

    fn attention_bwd(
        &self,
        dqkv: &mut B::Buf,
        dout: &B::Buf,
        of: Attended<B::Buf>,
        heads: Heads,
        rows: Rows,
        drop: Option<Dropout>,
    ) {
        let size = Size::Attention { queries: rows.n(), keys: rows.t, c: heads.c, products: 4 };
        self.time("attention_bwd", size, |be| be.attention_bwd(dqkv, dout, of, heads, rows, drop));
    }

    fn cross_entropy_grad(
        &self,
        losses: &mut B::Buf,
        logits: &mut B::Buf,
        targets: &[u32],
        v: usize,
        objective: Objective,
    ) {
        let size = Size::Numbers(2 * targets.len() * v);
        self.time("cross_entropy_grad", size, |be| be.cross_entropy_grad(losses, logits, targets, v, objective));
    }

    fn teach(&self, g: &mut B::Buf, z: &B::Buf, targets: &[u32], v: usize, scale: f64) {
        self.time("teach", Size::Numbers(3 * targets.len() * v), |be| be.teach(g, z, targets, v, scale));
    }

    fn reduce(&self, parts: &mut [&mut B::Buf], spans: &[Span]) -> f64 {
        self.time("reduce", Size::Numbers(0), |be| be.reduce(parts, spans))
    }

    fn adamw(&self, p: &mut B::Buf, g: &B::Buf, m: &mut B::Buf, v: &mut B::Buf, span: Span, h: &AdamW) {
        self.time("adamw", Size::Numbers(7 * span.len), |be| be.adamw(p, g, m, v, span, h));
    }

    fn muon(&self, p: &mut B::Buf, g: &B::Buf, m: &mut B::Buf, matrices: &[Matrix], h: &Muon) {
        let products = matrices.iter().map(|w| w.multiply_adds(h.ns_steps)).sum();
        self.time("muon", Size::Products(products), |be| be.muon(p, g, m, matrices, h));
    }

    fn round(&self, q: &mut B::Buf, p: &B::Buf, matrices: &[Matrix], scheme: Quantization) {
        let numbers: usize = matrices.iter().map(|matrix| 2 * matrix.span.len).sum();
        self.time("round", Size::Numbers(numbers), |be| be.round(q, p, matrices, scheme));
    }
}
