//! The processor: each operation on the calling thread with the kernels of one instruction set.
//!
//! Parallelism over the batch is the caller's ([`crate::shards`]). Here, on rayon's current pool, spread large products
//! (by rows), attention (by sequences) and what works on whole buffers (reduction, AdamW), in pieces on which no sum
//! depends.

use super::{Backend, Heads, LAYERNORM_EPS, Rows, mask_row};
use crate::{
    config::{Activation, Precision},
    error::{Error, Result},
    params::{Embedding, Linear, Norm, Span},
    rng::Dropout,
};
use kinglet_kernels::{
    self as kernels, Factor, Isa, Mat, MatMut, Start, Then, activation, attention, dropout, optimizer::AdamW,
};
use rayon::prelude::*;
use std::ops::{Deref, DerefMut};

/// Elements of a parameter buffer that one task works on.
const PIECE: usize = 16 * 1024;

/// Pieces of an activation that one thread takes at least: a million elements, as few small models have.
const PIECES: usize = 64;

/// Multiply-adds from which a product is divided among threads, each taking some rows: milliseconds of work. Smaller
/// models keep all threads busy with a shard each.
const SPREAD: usize = 1 << 27;

/// The same for a product with packed weights: dividing it costs nothing but the call.
const SPREAD_PACKED: usize = 1 << 20;

/// The CPU backend.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    isa: Isa,
    precision: kernels::Precision,
}

/// A vector of numbers; where they are parameters, with what [`Backend::prepare`] made of them. Any change of a number
/// makes that void.
#[derive(Debug)]
pub struct Buf {
    numbers: Vec<f32>,
    panels: Vec<WeightPanels>,
    /// Whether `panels` are of these numbers, and if so, whether for the backward pass too.
    prepared: Option<bool>,
}

/// A layer's weight W (o, i), packed.
#[derive(Debug)]
struct WeightPanels {
    /// Where the weight begins.
    start: usize,
    /// `W^T`, which the forward pass multiplies by.
    forward: kernels::Panels,
    /// `W`, which the backward pass does.
    backward: kernels::Panels,
}

impl Deref for Buf {
    type Target = Vec<f32>;

    fn deref(&self) -> &Vec<f32> {
        &self.numbers
    }
}

impl DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut Vec<f32> {
        self.prepared = None;
        &mut self.numbers
    }
}

impl From<Vec<f32>> for Buf {
    fn from(numbers: Vec<f32>) -> Buf {
        Buf { numbers, panels: Vec::new(), prepared: None }
    }
}

impl Buf {
    /// W of a layer, or its transpose for the forward pass: packed if it is.
    fn weight(&self, w: Linear, backward: bool) -> Factor<'_> {
        if self.prepared.is_some_and(|both| both || !backward) {
            let at = self.panels.iter().position(|panels| panels.start == w.w.start).expect("every layer is prepared");
            return Factor::Panels(if backward { &self.panels[at].backward } else { &self.panels[at].forward });
        }
        let weight = Mat::new(&self[w.w.range()], w.o, w.i);
        Factor::Mat(if backward { weight } else { weight.t() })
    }
}

impl Cpu {
    /// With the fastest instruction set of this processor, or the one named by the environment variable
    /// `KINGLET_ISA` (for tests and measurements).
    ///
    /// # Errors
    /// If that variable names one this processor does not have; the message lists those it has.
    pub fn new() -> Result<Cpu> {
        let Ok(name) = std::env::var("KINGLET_ISA") else {
            return Ok(Cpu::with_isa(Isa::detect()));
        };
        let available = Isa::available();
        available.iter().find(|isa| isa.name() == name).map(|&isa| Cpu::with_isa(isa)).ok_or_else(|| {
            let names: Vec<_> = available.iter().map(|isa| isa.name()).collect();
            Error::BadConfig(format!("KINGLET_ISA = {name}: this processor has {}", names.join(", ")))
        })
    }

    /// With a given instruction set.
    pub fn with_isa(isa: Isa) -> Cpu {
        Cpu { isa, precision: kernels::Precision::F32 }
    }

    /// With linear layers in this precision, or in f32 if the processor has no instructions for it: see
    /// [`Cpu::precision`].
    pub fn with_precision(self, precision: Precision) -> Cpu {
        let bf16 = kernels::Precision::bf16(self.isa).filter(|_| precision == Precision::Bf16);
        Cpu { precision: bf16.unwrap_or(kernels::Precision::F32), ..self }
    }

    /// The precision of linear layers.
    pub fn precision(&self) -> Precision {
        if self.precision == kernels::Precision::F32 { Precision::F32 } else { Precision::Bf16 }
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }
}

impl From<Activation> for kernels::activation::Activation {
    fn from(act: Activation) -> Self {
        match act {
            Activation::Relu => Self::Relu,
            Activation::Gelu => Self::Gelu,
            Activation::GeluTanh => Self::GeluTanh,
        }
    }
}

impl Cpu {
    /// `C = A B` from `start`, and `then` on each strip of rows. A large one spreads over threads; every element is
    /// the same sum either way.
    fn product(&self, c: &mut [f32], start: Start, a: Mat, b: Factor, then: Option<Then>) {
        let ((m, k), (_, n)) = (a.shape(), b.shape());
        let c = &mut c[..m * n];
        let spread = if matches!(b, Factor::Panels(_)) { SPREAD_PACKED } else { SPREAD };
        let threads = if m * n * k < spread { 1 } else { rayon::current_num_threads() };
        if threads == 1 {
            return kernels::gemm_then(self.isa, self.precision, MatMut::new(c, m, n), start, a, b, then);
        }
        let rows = m.div_ceil(threads);
        c.par_chunks_mut(rows * n).enumerate().for_each(|(i, c)| {
            let (above, below) = (i * rows, m.min((i + 1) * rows));
            let c = MatMut::new(c, below - above, n);
            let shifted = |strip: kernels::Strip| then.expect("only called if given")(strip.below(above));
            let then: Option<Then> = then.is_some().then_some(&shifted);
            kernels::gemm_then(self.isa, self.precision, c, start, a.rows(above..below), b, then);
        });
    }

    /// [`Backend::linear_bwd`], with something done to strips of `dx`.
    fn linear_bwd_then(
        &self,
        dx: &mut [f32],
        g: &mut [f32],
        dy: &[f32],
        x: &[f32],
        p: &Buf,
        w: Linear,
        n: usize,
        then: Option<Then>,
    ) {
        let dy_mat = Mat::new(dy, n, w.o);
        self.product(dx, Start::Zero, dy_mat, p.weight(w, true), then);
        let (dw, db) = two(g, w.w, w.b);
        self.product(dw, Start::C, dy_mat.t(), Factor::Mat(Mat::new(x, n, w.i)), None);
        if let Some(db) = db {
            kernels::sum_rows(self.isa, db, &dy[..n * w.o]);
        }
    }

    /// Dropout of rows of `c` channels, in place.
    fn dropout_rows(&self, x: &mut [f32], c: usize, rows: Rows, drop: Dropout) {
        for (row, x) in x.chunks_exact_mut(c).enumerate() {
            let (s, i) = (row / rows.t, row % rows.t);
            dropout::dropout_in_place(self.isa, x, &drop.mask(s), mask_row(c, i));
        }
    }

    /// [`Backend::linear`], with something done to strips of `y`.
    fn linear_then(&self, y: &mut [f32], x: &[f32], p: &Buf, w: Linear, n: usize, then: Option<Then>) {
        let start = w.b.map_or(Start::Zero, |b| Start::Bias(&p[b.range()]));
        self.product(y, start, Mat::new(x, n, w.i), p.weight(w, false), then);
    }
}

impl Heads {
    fn kernel(self) -> attention::Heads {
        attention::Heads { c: self.c, nh: self.nh, scale: self.scale as f32 }
    }
}

/// Two pieces of one gradient buffer, the first before the second.
fn two(g: &mut [f32], w: Span, b: Option<Span>) -> (&mut [f32], Option<&mut [f32]>) {
    match b {
        None => (&mut g[w.range()], None),
        Some(b) if b.start >= w.range().end => {
            let (before, after) = g.split_at_mut(b.start);
            (&mut before[w.range()], Some(&mut after[..b.len]))
        }
        Some(b) => {
            let (before, after) = g.split_at_mut(w.start);
            (&mut after[..w.len], Some(&mut before[b.range()]))
        }
    }
}

impl Backend for Cpu {
    type Buf = Buf;

    fn zeros(&self, len: usize) -> Buf {
        vec![0.0; len].into()
    }

    fn upload(&self, dst: &mut Buf, src: &[f32]) {
        dst[..src.len()].copy_from_slice(src);
    }

    fn download(&self, src: &Buf, dst: &mut [f32]) {
        dst.copy_from_slice(&src[..dst.len()]);
    }

    fn clear(&self, x: &mut Buf) {
        x.fill(0.0);
    }

    fn copy(&self, dst: &mut Buf, src: &Buf, span: Span) {
        dst[..span.len].copy_from_slice(&src[span.range()]);
    }

    fn prepare(&self, p: &mut Buf, linears: &[Linear], backward: bool) {
        // Packing costs what it saves in training, where every product of f32 is one of many rows.
        if backward && self.precision == kernels::Precision::F32 {
            return;
        }
        let Buf { numbers, panels, prepared } = p;
        if prepared.is_some_and(|both| both || !backward) {
            return;
        }
        if panels.is_empty() {
            let empty = || kernels::Panels::new(self.isa, self.precision);
            panels.extend(linears.iter().map(|w| WeightPanels {
                start: w.w.start,
                forward: empty(),
                backward: empty(),
            }));
        }
        assert_eq!(panels.len(), linears.len(), "always the same layers");
        panels.par_iter_mut().zip(linears).for_each(|(panels, w)| {
            assert_eq!(panels.start, w.w.start, "always the same layers");
            let weight = Mat::new(&numbers[w.w.range()], w.o, w.i);
            panels.forward.pack(self.isa, weight.t());
            if backward {
                panels.backward.pack(self.isa, weight);
            }
        });
        *prepared = Some(backward);
    }

    fn embed(&self, x: &mut Buf, p: &Buf, w: Embedding, ids: &[u32], rows: Rows, drop: Option<Dropout>) {
        let (wte, wpe, c) = (&p[w.wte.range()], &p[w.wpe.range()], w.c);
        let x = &mut x[..rows.n() * c];
        for (row, (x, &id)) in x.chunks_exact_mut(c).zip(ids).enumerate() {
            x.copy_from_slice(&wte[id as usize * c..][..c]);
            kernels::add(self.isa, x, &wpe[(rows.pos + row % rows.t) * c..][..c]);
        }
        if let Some(drop) = drop {
            self.dropout_rows(x, c, rows, drop);
        }
    }

    fn embed_bwd(&self, g: &mut Buf, dx: &mut Buf, w: Embedding, ids: &[u32], rows: Rows, drop: Option<Dropout>) {
        let c = w.c;
        let dx = &mut dx[..rows.n() * c];
        if let Some(drop) = drop {
            self.dropout_rows(dx, c, rows, drop);
        }
        for (row, (dx, &id)) in dx.chunks_exact(c).zip(ids).enumerate() {
            kernels::add(self.isa, &mut g[w.wte.start + id as usize * c..][..c], dx);
            kernels::add(self.isa, &mut g[w.wpe.start + (rows.pos + row % rows.t) * c..][..c], dx);
        }
    }

    fn layernorm(&self, y: &mut Buf, stats: &mut Buf, x: &Buf, p: &Buf, w: Norm, n: usize) {
        let c = w.w.len;
        let b = w.b.map(|b| &p[b.range()]);
        let eps = LAYERNORM_EPS as f32;
        kernels::layernorm::forward(
            self.isa,
            &mut y[..n * c],
            &mut stats[..2 * n],
            &x[..n * c],
            &p[w.w.range()],
            b,
            eps,
        );
    }

    fn layernorm_bwd(&self, dx: &mut Buf, g: &mut Buf, dy: &Buf, x: &Buf, stats: &Buf, p: &Buf, w: Norm, n: usize) {
        let c = w.w.len;
        let (dw, db) = two(g, w.w, w.b);
        let (dx, dy, x, stats) = (&mut dx[..n * c], &dy[..n * c], &x[..n * c], &stats[..2 * n]);
        kernels::layernorm::backward(self.isa, dx, dw, db, dy, x, stats, &p[w.w.range()]);
    }

    fn linear(&self, y: &mut Buf, x: &Buf, p: &Buf, w: Linear, n: usize) {
        self.linear_then(y, x, p, w, n, None);
    }

    fn linear_bwd(&self, dx: &mut Buf, g: &mut Buf, dy: &Buf, x: &Buf, p: &Buf, w: Linear, n: usize) {
        self.linear_bwd_then(dx, g, dy, x, p, w, n, None);
    }

    fn linear_act(&self, y: &mut Buf, pre: &mut Buf, x: &Buf, p: &Buf, w: Linear, act: Activation, n: usize) {
        if act.keeps_input() {
            self.linear_then(pre, x, p, w, n, None);
            let pieces = y[..n * w.o].par_chunks_mut(PIECE).zip(pre.par_chunks(PIECE)).with_min_len(PIECES);
            pieces.for_each(|(y, pre)| activation::forward(self.isa, act.into(), y, &pre[..y.len()]));
        } else {
            let relu = |mut strip: kernels::Strip| {
                strip.iter_mut().for_each(|(_, y)| activation::relu_in_place(self.isa, y));
            };
            self.linear_then(y, x, p, w, n, Some(&relu));
        }
    }

    fn linear_bwd_act(
        &self,
        dpre: &mut Buf,
        g: &mut Buf,
        dy: &Buf,
        x: &Buf,
        pre: &Buf,
        p: &Buf,
        w: Linear,
        act: Activation,
        n: usize,
    ) {
        let of = if act.keeps_input() { pre } else { x };
        let through = |mut strip: kernels::Strip| {
            let first = strip.cols.start;
            for (row, d) in strip.iter_mut() {
                activation::backward(self.isa, act.into(), d, &of[row * w.i + first..][..d.len()]);
            }
        };
        self.linear_bwd_then(dpre, g, dy, x, p, w, n, Some(&through));
    }

    fn linear_residual(
        &self,
        out: &mut Buf,
        residual: &Buf,
        x: &Buf,
        p: &Buf,
        w: Linear,
        rows: Rows,
        drop: Option<Dropout>,
    ) {
        let add = |mut strip: kernels::Strip| {
            let first = strip.cols.start;
            for (row, out) in strip.iter_mut() {
                if let Some(drop) = drop {
                    let (s, i) = (row / rows.t, row % rows.t);
                    dropout::dropout_in_place(self.isa, out, &drop.mask(s), mask_row(w.o, i) + first);
                }
                kernels::add(self.isa, out, &residual[row * w.o + first..][..out.len()]);
            }
        };
        self.linear_then(out, x, p, w, rows.n(), Some(&add));
    }

    fn dropout_bwd(&self, dx: &mut Buf, dy: &Buf, c: usize, rows: Rows, drop: Dropout) {
        for (row, (dx, dy)) in dx[..rows.n() * c].chunks_exact_mut(c).zip(dy.chunks_exact(c)).enumerate() {
            let (s, i) = (row / rows.t, row % rows.t);
            dropout::dropout(self.isa, dx, dy, &drop.mask(s), mask_row(c, i));
        }
    }

    fn attention(
        &self,
        out: &mut Buf,
        lse: &mut Buf,
        qkv: &Buf,
        heads: Heads,
        Rows { b, t, .. }: Rows,
        drop: Option<Dropout>,
    ) {
        let Heads { c, nh, .. } = heads;
        let outputs = out[..b * t * c].par_chunks_exact_mut(t * c).zip(lse.par_chunks_exact_mut(nh * t));
        let sequences = outputs.zip(qkv.par_chunks_exact(t * 3 * c)).enumerate();
        sequences.with_min_len(SPREAD.div_ceil(t * t * c)).for_each(|(s, ((out, lse), qkv))| {
            let mask = drop.map(|drop| drop.mask(s));
            attention::forward(self.isa, out, lse, qkv, heads.kernel(), mask.as_ref());
        });
    }

    fn attention_bwd(
        &self,
        dqkv: &mut Buf,
        dout: &Buf,
        out: &Buf,
        lse: &Buf,
        qkv: &Buf,
        heads: Heads,
        Rows { b, t, .. }: Rows,
        drop: Option<Dropout>,
    ) {
        let Heads { c, nh, .. } = heads;
        let saved = out.par_chunks_exact(t * c).zip(lse.par_chunks_exact(nh * t)).zip(qkv.par_chunks_exact(t * 3 * c));
        let grads = dqkv[..b * t * 3 * c].par_chunks_exact_mut(t * 3 * c).zip(dout.par_chunks_exact(t * c));
        let sequences = grads.zip(saved).enumerate();
        sequences.with_min_len(SPREAD.div_ceil(t * t * c)).for_each(|(s, ((dqkv, dout), ((out, lse), qkv)))| {
            let mask = drop.map(|drop| drop.mask(s));
            attention::backward(self.isa, dqkv, dout, out, lse, qkv, heads.kernel(), mask.as_ref());
        });
    }

    fn attention_cached(
        &self,
        out: &mut Buf,
        k: &mut Buf,
        v: &mut Buf,
        qkv: &Buf,
        heads: Heads,
        Rows { t, pos, .. }: Rows,
    ) {
        let c = heads.c;
        attention::cached(self.isa, &mut out[..t * c], k, v, &qkv[..t * 3 * c], pos, heads.kernel());
    }

    fn cross_entropy(&self, losses: &mut Buf, logits: &mut Buf, targets: &[u32], v: usize, grad: Option<f64>) {
        let grad = grad.map(|scale| scale as f32);
        let rows = (PIECE * PIECES).div_ceil(v);
        let outputs = losses[..targets.len()].par_chunks_mut(rows).zip(logits.par_chunks_mut(rows * v));
        outputs.zip(targets.par_chunks(rows)).for_each(|((losses, logits), targets)| {
            let logits = &mut logits[..losses.len() * v];
            kernels::loss::cross_entropy(self.isa, losses, logits, targets, grad);
        });
    }

    fn reduce(&self, parts: &mut [&mut Buf]) -> f64 {
        let Some((total, rest)) = parts.split_first_mut() else { return 0.0 };
        let add = |(piece, total): (usize, &mut [f32])| {
            for part in &*rest {
                kernels::add(self.isa, total, &part[piece * PIECE..][..total.len()]);
            }
            kernels::optimizer::sum_squares(self.isa, total)
        };
        // Collected first, so that the sum has one order however many threads there are.
        let squares: Vec<f64> = total.par_chunks_mut(PIECE).enumerate().map(add).collect();
        squares.iter().sum()
    }

    fn adamw(&self, p: &mut Buf, g: &Buf, m: &mut Buf, v: &mut Buf, span: Span, h: &AdamW) {
        let at = span.range();
        let moments = m[at.clone()].par_chunks_mut(PIECE).zip(v[at.clone()].par_chunks_mut(PIECE));
        let values = p[at.clone()].par_chunks_mut(PIECE).zip(g[at].par_chunks(PIECE));
        values.zip(moments).for_each(|((p, g), (m, v))| kernels::optimizer::adamw(self.isa, p, g, m, v, h));
    }
}
