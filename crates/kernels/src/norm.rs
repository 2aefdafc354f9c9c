//! LayerNorm (Ba, Kiros, Hinton 2016): `y = (x - mean) * rstd * w + b` with `rstd = 1 / sqrt(var + eps)`, over each row
//! of `c` channels; and RMSNorm (Zhang, Sennrich 2019), which is the same with 0 in place of the mean.

use crate::{
    isa::{Isa, Kernel, Vectors},
    lanes::{Lanes, each_part, sums},
};

/// Which norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The row's mean is subtracted.
    Layer,
    /// It is not: the variance is the mean of the squares.
    Rms,
}

/// A norm and its parameters.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// Which norm.
    pub kind: Kind,
    /// Weights (c).
    pub w: &'a [f32],
    /// Biases (c), or none; the backward pass does not need them.
    pub b: Option<&'a [f32]>,
    /// What is added to the variance; the backward pass does not need it.
    pub eps: f32,
}

/// What the backward pass adds to: the gradients of a norm's input and, if they are wanted, of its parameters.
#[derive(Debug)]
pub struct Grads<'a> {
    /// Of the input (n, c).
    pub dx: &'a mut [f32],
    /// Of the weights (c).
    pub dw: Option<&'a mut [f32]>,
    /// Of the biases (c).
    pub db: Option<&'a mut [f32]>,
}

/// Forward. `y (n, c)`, `x (n, c)`; `stats (n, 2)` receives each row's mean (for RMSNorm 0) and rstd.
pub fn forward(isa: Isa, norm: Norm, y: &mut [f32], stats: &mut [f32], x: &[f32]) {
    let c = norm.w.len();
    assert!(y.len() == x.len() && stats.len() * c == 2 * x.len() && norm.b.is_none_or(|b| b.len() == c));
    isa.run_generic(Forward { norm, y, stats, x });
}

struct Forward<'a> {
    norm: Norm<'a>,
    y: &'a mut [f32],
    stats: &'a mut [f32],
    x: &'a [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Vectors>(self, simd: S) {
        let Forward { norm: Norm { kind, w, b, eps }, y, stats, x } = self;
        let c = w.len();
        let splat = |x| Lanes::splat(simd, x);
        for ((y, x), stats) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(stats.as_chunks_mut().0) {
            let mean = match kind {
                Kind::Layer => sums!(simd, [x], |[x]| [x])[0] / c as f32,
                Kind::Rms => 0.0,
            };
            let of_row = splat(mean);
            let [sq] = sums!(simd, [x], |[x]| [(x - of_row) * (x - of_row)]);
            let rstd = 1.0 / (sq / c as f32 + eps).sqrt();
            *stats = [mean, rstd];
            each_part(
                simd,
                c,
                #[inline(always)]
                |part| {
                    let mut out = (part.load(x) - of_row) * splat(rstd) * part.load(w);
                    if let Some(b) = b {
                        out = out + part.load(b);
                    }
                    part.store(y, out);
                },
            );
        }
    }
}

/// Backward, from `dy (n, c)`; `x` and `stats` as in [`forward`].
///
/// With `xhat = (x - mean) * rstd` and `g = dy * w`:
/// `dx += rstd * (g - mean(g) - xhat * mean(g * xhat))`, `dw += dy * xhat`, `db += dy`. The term `mean(g)` is the
/// gradient through the mean, so it is 0 for RMSNorm.
pub fn backward(isa: Isa, norm: Norm, grads: Grads, dy: &[f32], x: &[f32], stats: &[f32]) {
    let c = norm.w.len();
    assert!(grads.dx.len() == x.len() && dy.len() == x.len() && stats.len() * c == 2 * x.len());
    assert!([&grads.dw, &grads.db].into_iter().flatten().all(|d| d.len() == c));
    isa.run_generic(Back { norm, grads, dy, x, stats });
}

struct Back<'a> {
    norm: Norm<'a>,
    grads: Grads<'a>,
    dy: &'a [f32],
    x: &'a [f32],
    stats: &'a [f32],
}

impl Kernel for Back<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Vectors>(self, simd: S) {
        let Back { norm: Norm { kind, w, .. }, grads: Grads { dx, mut dw, mut db }, dy, x, stats } = self;
        let c = w.len();
        let splat = |x| Lanes::splat(simd, x);
        let rows = dx.chunks_exact_mut(c).zip(dy.chunks_exact(c)).zip(x.chunks_exact(c)).zip(stats.as_chunks().0);
        for (((dx, dy), x), &[mean, rstd]) in rows {
            let (mean, rstd) = (splat(mean), splat(rstd));
            let [g, gx] = sums!(simd, [dy, w, x], |[dy, w, x]| [dy * w, dy * w * ((x - mean) * rstd)]);
            let g_mean = splat(if kind == Kind::Layer { g / c as f32 } else { 0.0 });
            let gx_mean = splat(gx / c as f32);
            each_part(
                simd,
                c,
                #[inline(always)]
                |part| {
                    let (dy, xhat) = (part.load(dy), (part.load(x) - mean) * rstd);
                    part.store(dx, part.load(dx) + rstd * (dy * part.load(w) - g_mean - xhat * gx_mean));
                    if let Some(dw) = &mut dw {
                        part.store(dw, part.load(dw) + dy * xhat);
                    }
                    if let Some(db) = &mut db {
                        part.store(db, part.load(db) + dy);
                    }
                },
            );
        }
    }
}
