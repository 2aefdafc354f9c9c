//! The processor: each operation on the calling thread with the kernels of one instruction set.
//!
//! Parallelism over the batch is the caller's ([`crate::shards`]); only the operations over whole parameter buffers
//! (reduction, norm, AdamW) spread over rayon's current pool here, in pieces of fixed size, so that no sum depends
//! on the number of threads.

use super::{Backend, Heads, LAYERNORM_EPS, Rows, mask_row};
use crate::{
    config::Activation,
    error::{Error, Result},
    params::{Embedding, Linear, Norm, Span},
    rng::Dropout,
};
use kinglet_kernels::{
    self as kernels, Isa, Mat, MatMut, Start, Then, activation, attention, dropout, optimizer::AdamW,
};
use rayon::prelude::*;

/// Elements of a parameter buffer that one task works on.
const PIECE: usize = 16 * 1024;

/// Pieces of an activation that one thread takes at least: a million elements, as few small models have.
const PIECES: usize = 64;

/// Multiply-adds from which a product is divided among threads, each taking some rows: milliseconds of work. Smaller
/// models keep all threads busy with a shard each.
const SPREAD: usize = 1 << 27;

/// The CPU backend; buffers are plain vectors.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    isa: Isa,
}

impl Cpu {
    /// With the fastest instruction set of this processor, or the one named by the environment variable
    /// `KINGLET_ISA` (for tests and measurements).
    ///
    /// # Errors
    /// If that variable names one this processor does not have; the message lists those it has.
    pub fn new() -> Result<Cpu> {
        let Ok(name) = std::env::var("KINGLET_ISA") else {
            return Ok(Cpu { isa: Isa::detect() });
        };
        let available = Isa::available();
        available.iter().find(|isa| isa.name() == name).map(|&isa| Cpu { isa }).ok_or_else(|| {
            let names: Vec<_> = available.iter().map(|isa| isa.name()).collect();
            Error::BadConfig(format!("KINGLET_ISA = {name}: this processor has {}", names.join(", ")))
        })
    }

    /// With a given instruction set.
    pub fn with_isa(isa: Isa) -> Cpu {
        Cpu { isa }
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
    fn product(&self, c: &mut [f32], start: Start, a: Mat, b: Mat, then: Option<Then>) {
        let ((m, k), (_, n)) = (a.shape(), b.shape());
        let c = &mut c[..m * n];
        let threads = if m * n * k < SPREAD { 1 } else { rayon::current_num_threads() };
        if threads == 1 {
            return kernels::gemm_then(self.isa, MatMut::new(c, m, n), start, a, b, then);
        }
        let rows = m.div_ceil(threads);
        c.par_chunks_mut(rows * n).enumerate().for_each(|(i, c)| {
            let (above, below) = (i * rows, m.min((i + 1) * rows));
            let c = MatMut::new(c, below - above, n);
            let shifted = |strip: kernels::Strip| then.expect("only called if given")(strip.below(above));
            let then: Option<Then> = then.is_some().then_some(&shifted);
            kernels::gemm_then(self.isa, c, start, a.rows(above..below), b, then);
        });
    }

    /// [`Backend::linear_bwd`], with something done to strips of `dx`.
    fn linear_bwd_then(
        &self,
        dx: &mut [f32],
        g: &mut [f32],
        dy: &[f32],
        x: &[f32],
        p: &[f32],
        w: Linear,
        n: usize,
        then: Option<Then>,
    ) {
        let dy_mat = Mat::new(dy, n, w.o);
        self.product(dx, Start::Zero, dy_mat, Mat::new(&p[w.w.range()], w.o, w.i), then);
        let (dw, db) = two(g, w.w, w.b);
        self.product(dw, Start::C, dy_mat.t(), Mat::new(x, n, w.i), None);
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
    fn linear_then(&self, y: &mut [f32], x: &[f32], p: &[f32], w: Linear, n: usize, then: Option<Then>) {
        let start = w.b.map_or(Start::Zero, |b| Start::Bias(&p[b.range()]));
        self.product(y, start, Mat::new(x, n, w.i), Mat::new(&p[w.w.range()], w.o, w.i).t(), then);
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
    type Buf = Vec<f32>;

    fn zeros(&self, len: usize) -> Vec<f32> {
        vec![0.0; len]
    }

    fn upload(&self, dst: &mut Vec<f32>, src: &[f32]) {
        dst[..src.len()].copy_from_slice(src);
    }

    fn download(&self, src: &Vec<f32>, dst: &mut [f32]) {
        dst.copy_from_slice(&src[..dst.len()]);
    }

    fn clear(&self, x: &mut Vec<f32>) {
        x.fill(0.0);
    }

    fn copy(&self, dst: &mut Vec<f32>, src: &Vec<f32>, span: Span) {
        dst[..span.len].copy_from_slice(&src[span.range()]);
    }

    fn embed(&self, x: &mut Vec<f32>, p: &Vec<f32>, w: Embedding, ids: &[u32], rows: Rows, drop: Option<Dropout>) {
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

    fn embed_bwd(
        &self,
        g: &mut Vec<f32>,
        dx: &mut Vec<f32>,
        w: Embedding,
        ids: &[u32],
        rows: Rows,
        drop: Option<Dropout>,
    ) {
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

    fn layernorm(&self, y: &mut Vec<f32>, stats: &mut Vec<f32>, x: &Vec<f32>, p: &Vec<f32>, w: Norm, n: usize) {
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

    fn layernorm_bwd(
        &self,
        dx: &mut Vec<f32>,
        g: &mut Vec<f32>,
        dy: &Vec<f32>,
        x: &Vec<f32>,
        stats: &Vec<f32>,
        p: &Vec<f32>,
        w: Norm,
        n: usize,
    ) {
        let c = w.w.len;
        let (dw, db) = two(g, w.w, w.b);
        let (dx, dy, x, stats) = (&mut dx[..n * c], &dy[..n * c], &x[..n * c], &stats[..2 * n]);
        kernels::layernorm::backward(self.isa, dx, dw, db, dy, x, stats, &p[w.w.range()]);
    }

    fn linear(&self, y: &mut Vec<f32>, x: &Vec<f32>, p: &Vec<f32>, w: Linear, n: usize) {
        self.linear_then(y, x, p, w, n, None);
    }

    fn linear_bwd(
        &self,
        dx: &mut Vec<f32>,
        g: &mut Vec<f32>,
        dy: &Vec<f32>,
        x: &Vec<f32>,
        p: &Vec<f32>,
        w: Linear,
        n: usize,
    ) {
        self.linear_bwd_then(dx, g, dy, x, p, w, n, None);
    }

    fn linear_act(
        &self,
        y: &mut Vec<f32>,
        pre: &mut Vec<f32>,
        x: &Vec<f32>,
        p: &Vec<f32>,
        w: Linear,
        act: Activation,
        n: usize,
    ) {
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
        dpre: &mut Vec<f32>,
        g: &mut Vec<f32>,
        dy: &Vec<f32>,
        x: &Vec<f32>,
        pre: &Vec<f32>,
        p: &Vec<f32>,
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
        out: &mut Vec<f32>,
        residual: &Vec<f32>,
        x: &Vec<f32>,
        p: &Vec<f32>,
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

    fn dropout_bwd(&self, dx: &mut Vec<f32>, dy: &Vec<f32>, c: usize, rows: Rows, drop: Dropout) {
        for (row, (dx, dy)) in dx[..rows.n() * c].chunks_exact_mut(c).zip(dy.chunks_exact(c)).enumerate() {
            let (s, i) = (row / rows.t, row % rows.t);
            dropout::dropout(self.isa, dx, dy, &drop.mask(s), mask_row(c, i));
        }
    }

    fn attention(
        &self,
        out: &mut Vec<f32>,
        lse: &mut Vec<f32>,
        qkv: &Vec<f32>,
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
        dqkv: &mut Vec<f32>,
        dout: &Vec<f32>,
        out: &Vec<f32>,
        lse: &Vec<f32>,
        qkv: &Vec<f32>,
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
        out: &mut Vec<f32>,
        k: &mut Vec<f32>,
        v: &mut Vec<f32>,
        qkv: &Vec<f32>,
        heads: Heads,
        Rows { t, pos, .. }: Rows,
    ) {
        let c = heads.c;
        attention::cached(self.isa, &mut out[..t * c], k, v, &qkv[..t * 3 * c], pos, heads.kernel());
    }

    fn cross_entropy(
        &self,
        losses: &mut Vec<f32>,
        logits: &mut Vec<f32>,
        targets: &[u32],
        v: usize,
        grad: Option<f64>,
    ) {
        let grad = grad.map(|scale| scale as f32);
        let rows = (PIECE * PIECES).div_ceil(v);
        let outputs = losses[..targets.len()].par_chunks_mut(rows).zip(logits.par_chunks_mut(rows * v));
        outputs.zip(targets.par_chunks(rows)).for_each(|((losses, logits), targets)| {
            let logits = &mut logits[..losses.len() * v];
            kernels::loss::cross_entropy(self.isa, losses, logits, targets, grad);
        });
    }

    fn reduce(&self, parts: &mut [&mut Vec<f32>]) {
        let Some((total, rest)) = parts.split_first_mut() else { return };
        total.par_chunks_mut(PIECE).enumerate().for_each(|(piece, total)| {
            for part in &*rest {
                kernels::add(self.isa, total, &part[piece * PIECE..][..total.len()]);
            }
        });
    }

    fn sum_squares(&self, x: &Vec<f32>) -> f64 {
        let pieces: Vec<f64> = x.par_chunks(PIECE).map(|x| kernels::optimizer::sum_squares(self.isa, x)).collect();
        pieces.iter().sum()
    }

    fn adamw(&self, p: &mut Vec<f32>, g: &Vec<f32>, m: &mut Vec<f32>, v: &mut Vec<f32>, span: Span, h: &AdamW) {
        let at = span.range();
        let moments = m[at.clone()].par_chunks_mut(PIECE).zip(v[at.clone()].par_chunks_mut(PIECE));
        let values = p[at.clone()].par_chunks_mut(PIECE).zip(g[at].par_chunks(PIECE));
        values.zip(moments).for_each(|((p, g), (m, v))| kernels::optimizer::adamw(self.isa, p, g, m, v, h));
    }
}
