//! LayerNorm (Ba, Kiros, Hinton 2016): `y = (x - mean) * rstd * w + b` with `rstd = 1 / sqrt(var + eps)`, over each row
//! of `c` channels; and RMSNorm (Zhang, Sennrich 2019), which is the same with 0 in place of the mean.

use crate::{isa::Isa, math::lane_sum};

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
    let Norm { kind, w, b, eps } = norm;
    let c = w.len();
    assert!(y.len() == x.len() && stats.len() * c == 2 * x.len() && b.is_none_or(|b| b.len() == c));
    isa.run(
        #[inline(always)]
        || {
            let rows = y.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(stats.as_chunks_mut().0);
            for ((y, x), stats) in rows {
                let mean = match kind {
                    Kind::Layer => lane_sum([x], |[x]| x) / c as f32,
                    Kind::Rms => 0.0,
                };
                let sq = lane_sum([x], |[x]| (x - mean) * (x - mean));
                let rstd = 1.0 / (sq / c as f32 + eps).sqrt();
                *stats = [mean, rstd];
                for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                    *y = (x - mean) * rstd * w;
                }
                if let Some(b) = b {
                    y.iter_mut().zip(b).for_each(|(y, b)| *y += b);
                }
            }
        },
    );
}

/// Backward, from `dy (n, c)`; `x` and `stats` as in [`forward`].
///
/// With `xhat = (x - mean) * rstd` and `g = dy * w`:
/// `dx += rstd * (g - mean(g) - xhat * mean(g * xhat))`, `dw += dy * xhat`, `db += dy`. The term `mean(g)` is the
/// gradient through the mean, so it is 0 for RMSNorm.
pub fn backward(isa: Isa, norm: Norm, grads: Grads, dy: &[f32], x: &[f32], stats: &[f32]) {
    let Norm { kind, w, .. } = norm;
    let Grads { dx, mut dw, mut db } = grads;
    let c = w.len();
    assert!(dx.len() == x.len() && dy.len() == x.len() && stats.len() * c == 2 * x.len());
    assert!([&dw, &db].into_iter().flatten().all(|d| d.len() == c));
    isa.run(
        #[inline(always)]
        || {
            let rows = dx.chunks_exact_mut(c).zip(dy.chunks_exact(c)).zip(x.chunks_exact(c)).zip(stats.as_chunks().0);
            for (((dx, dy), x), &[mean, rstd]) in rows {
                let g_sum = match kind {
                    Kind::Layer => lane_sum([dy, w], |[dy, w]| dy * w),
                    Kind::Rms => 0.0,
                };
                let gx_sum = lane_sum([dy, w, x], |[dy, w, x]| dy * w * ((x - mean) * rstd));
                let (g_mean, gx_mean) = (g_sum / c as f32, gx_sum / c as f32);
                for (((dx, dy), x), w) in dx.iter_mut().zip(dy).zip(x).zip(w) {
                    *dx += rstd * (dy * w - g_mean - (x - mean) * rstd * gx_mean);
                }
                if let Some(dw) = &mut dw {
                    dw.iter_mut().zip(dy).zip(x).for_each(|((dw, dy), x)| *dw += dy * ((x - mean) * rstd));
                }
                if let Some(db) = &mut db {
                    db.iter_mut().zip(dy).for_each(|(db, dy)| *db += dy);
                }
            }
        },
    );
}
