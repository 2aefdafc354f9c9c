//! The processor: each operation on the calling thread with the kernels of one instruction set.
//!
//! Parallelism over the batch is the caller's ([`crate::shards`]); only the operations over whole parameter buffers
//! (reduction, norm, AdamW) spread over rayon's current pool here, in pieces of fixed size, so that no sum depends
//! on the number of threads.

use super::{Backend, Heads, LAYERNORM_EPS, Rows};
use crate::{
    config::Activation,
    error::{Error, Result},
    params::{Embedding, Linear, Norm, Span},
    rng::Dropout,
};
use kinglet_kernels::{self as kernels, Isa, Mat, MatMut, Start, attention, dropout, optimizer::AdamW};
use rayon::prelude::*;

/// Elements of a parameter buffer that one task works on.
const PIECE: usize = 16 * 1024;

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
        for (s, (x, ids)) in x.chunks_exact_mut(rows.t * c).zip(ids.chunks_exact(rows.t)).enumerate() {
            for (i, (x, &id)) in x.chunks_exact_mut(c).zip(ids).enumerate() {
                x.copy_from_slice(&wte[id as usize * c..][..c]);
                kernels::add(self.isa, x, &wpe[(rows.pos + i) * c..][..c]);
            }
            if let Some(drop) = drop {
                dropout::dropout_in_place(self.isa, x, &drop.mask(s));
            }
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
        for (s, (dx, ids)) in dx.chunks_exact_mut(rows.t * c).zip(ids.chunks_exact(rows.t)).enumerate() {
            if let Some(drop) = drop {
                dropout::dropout_in_place(self.isa, dx, &drop.mask(s));
            }
            for (i, (dx, &id)) in dx.chunks_exact(c).zip(ids).enumerate() {
                kernels::add(self.isa, &mut g[w.wte.start + id as usize * c..][..c], dx);
                kernels::add(self.isa, &mut g[w.wpe.start + (rows.pos + i) * c..][..c], dx);
            }
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
        let into = w.b.map_or(Start::Zero, |b| Start::Bias(&p[b.range()]));
        let weight = Mat::new(&p[w.w.range()], w.o, w.i);
        kernels::gemm(self.isa, MatMut::new(y, n, w.o), into, Mat::new(x, n, w.i), weight.t());
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
        let dy_mat = Mat::new(dy, n, w.o);
        let weight = Mat::new(&p[w.w.range()], w.o, w.i);
        kernels::gemm(self.isa, MatMut::new(dx, n, w.i), Start::Zero, dy_mat, weight);
        let (dw, db) = two(g, w.w, w.b);
        kernels::gemm(self.isa, MatMut::new(dw, w.o, w.i), Start::C, dy_mat.t(), Mat::new(x, n, w.i));
        if let Some(db) = db {
            kernels::sum_rows(self.isa, db, &dy[..n * w.o]);
        }
    }

    fn activation(&self, y: &mut Vec<f32>, x: &Vec<f32>, act: Activation, len: usize) {
        kernels::activation::forward(self.isa, act.into(), &mut y[..len], &x[..len]);
    }

    fn activation_bwd(&self, dx: &mut Vec<f32>, x: &Vec<f32>, act: Activation, len: usize) {
        kernels::activation::backward(self.isa, act.into(), &mut dx[..len], &x[..len]);
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
        for s in 0..b {
            let (out, lse) = (&mut out[s * t * c..][..t * c], &mut lse[s * nh * t..][..nh * t]);
            let mask = drop.map(|drop| drop.mask(s));
            attention::forward(self.isa, out, lse, &qkv[s * t * 3 * c..][..t * 3 * c], heads.kernel(), mask.as_ref());
        }
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
        for s in 0..b {
            let (narrow, wide) = (s * t * c..(s + 1) * t * c, s * t * 3 * c..(s + 1) * t * 3 * c);
            let (dout, out, lse) = (&dout[narrow.clone()], &out[narrow], &lse[s * nh * t..][..nh * t]);
            let (dqkv, qkv) = (&mut dqkv[wide.clone()], &qkv[wide]);
            let mask = drop.map(|drop| drop.mask(s));
            attention::backward(self.isa, dqkv, dout, out, lse, qkv, heads.kernel(), mask.as_ref());
        }
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

    fn residual(
        &self,
        out: &mut Vec<f32>,
        x: &Vec<f32>,
        branch: &Vec<f32>,
        c: usize,
        rows: Rows,
        drop: Option<Dropout>,
    ) {
        let len = rows.n() * c;
        out[..len].copy_from_slice(&x[..len]);
        match drop {
            None => kernels::add(self.isa, &mut out[..len], &branch[..len]),
            Some(drop) => {
                let sequences = out[..len].chunks_exact_mut(rows.t * c).zip(branch.chunks_exact(rows.t * c));
                for (s, (out, branch)) in sequences.enumerate() {
                    dropout::dropout_add(self.isa, out, branch, &drop.mask(s));
                }
            }
        }
    }

    fn residual_bwd(&self, dbranch: &mut Vec<f32>, dout: &Vec<f32>, c: usize, rows: Rows, drop: Option<Dropout>) {
        let len = rows.n() * c;
        let dbranch = &mut dbranch[..len];
        dbranch.copy_from_slice(&dout[..len]);
        if let Some(drop) = drop {
            for (s, dbranch) in dbranch.chunks_exact_mut(rows.t * c).enumerate() {
                dropout::dropout_in_place(self.isa, dbranch, &drop.mask(s));
            }
        }
    }

    fn cross_entropy(
        &self,
        losses: &mut Vec<f32>,
        logits: &mut Vec<f32>,
        targets: &[u32],
        v: usize,
        grad: Option<f64>,
    ) {
        let n = targets.len();
        let grad = grad.map(|scale| scale as f32);
        kernels::loss::cross_entropy(self.isa, &mut losses[..n], &mut logits[..n * v], targets, grad);
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
