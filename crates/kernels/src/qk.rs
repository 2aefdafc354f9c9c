//! The transformation of queries and keys, head by head, before attention compares them.
//!
//! RMSNorm of a head's channels (Zhang, Sennrich 2019; on queries and keys, Henry et al. 2020): `y = x * rstd * w`,
//! `rstd = 1 / sqrt(mean(x^2) + eps)`. Then the position, as a rotation (Su et al. 2021) of each pair of channels `i`
//! and `i + hs / 2` by the angle `pos * theta^(-2 i / hs)`: the product of a query and a key then depends only on the
//! distance between their positions.

use crate::{
    attention::Heads,
    isa::{Isa, Kernel, Vectors},
    lanes::{Lanes, sums},
};

/// The transformation's parameters.
#[derive(Clone, Copy, Debug)]
pub struct Qk<'a> {
    /// The heads.
    pub heads: Heads,
    /// Positions in a sequence.
    pub t: usize,
    /// The position of each row, or empty where it is the row's place in its sequence.
    pub positions: &'a [u32],
    /// The norm's weights for queries and for keys (hs), if there is a norm.
    pub w: Option<[&'a [f32]; 2]>,
    /// What the norm adds to the mean of the squares.
    pub eps: f32,
    /// Cosines and sines (t, hs), if positions are rotary.
    pub rotations: Option<&'a [f32]>,
}

impl Qk<'_> {
    #[inline(always)]
    fn position(&self, row: usize) -> usize {
        if self.positions.is_empty() { row % self.t } else { self.positions[row] as usize }
    }
}

/// Forward, in place, on the queries and keys of `qkv (n, c + 2 kv)`. With a norm, `pre (n, c + kv)` receives the
/// values before it.
pub fn forward(isa: Isa, qk: Qk, qkv: &mut [f32], pre: &mut [f32]) {
    isa.run_generic(Forward { qk, qkv, pre });
}

struct Forward<'a> {
    qk: Qk<'a>,
    qkv: &'a mut [f32],
    pre: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Vectors>(self, simd: S) {
        let Forward { qk, qkv, pre } = self;
        let Qk { heads, w, eps, rotations, .. } = qk;
        let (hs, width) = (heads.hs(), heads.c + heads.kv());
        for (row, x) in qkv.chunks_exact_mut(heads.width()).enumerate() {
            let x = &mut x[..width];
            if let Some(w) = w {
                pre[row * width..][..width].copy_from_slice(x);
                for (h, x) in x.chunks_exact_mut(hs).enumerate() {
                    let rstd = rstd(simd, x, eps);
                    x.iter_mut().zip(w[usize::from(h >= heads.nh)]).for_each(|(x, w)| *x = *x * rstd * w);
                }
            }
            if let Some(rotations) = rotations {
                let (cos, sin) = rotations[qk.position(row) * hs..][..hs].split_at(hs / 2);
                x.chunks_exact_mut(hs).for_each(|x| rotate(x, cos, sin, 1.0));
            }
        }
    }
}

/// Backward, in place: on entry `dqkv (n, c + 2 kv)` holds the gradients of [`forward`]'s results. The gradients of the
/// weights are added to `dw (hs)`, for queries and keys, if they are wanted; `pre` is as in [`forward`].
///
/// The rotations are undone first. With `xhat = x * rstd` and `g = dy * w`:
/// `dx = rstd * (g - xhat * mean(g * xhat))`, `dw += dy * xhat`.
pub fn backward(isa: Isa, qk: Qk, dqkv: &mut [f32], dw: [Option<&mut [f32]>; 2], pre: &[f32]) {
    isa.run_generic(Back { qk, dqkv, dw, pre });
}

struct Back<'a> {
    qk: Qk<'a>,
    dqkv: &'a mut [f32],
    dw: [Option<&'a mut [f32]>; 2],
    pre: &'a [f32],
}

impl Kernel for Back<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Vectors>(self, simd: S) {
        let Back { qk, dqkv, mut dw, pre } = self;
        let Qk { heads, w, eps, rotations, .. } = qk;
        let (hs, width) = (heads.hs(), heads.c + heads.kv());
        for (row, d) in dqkv.chunks_exact_mut(heads.width()).enumerate() {
            let d = &mut d[..width];
            if let Some(rotations) = rotations {
                let (cos, sin) = rotations[qk.position(row) * hs..][..hs].split_at(hs / 2);
                d.chunks_exact_mut(hs).for_each(|d| rotate(d, cos, sin, -1.0));
            }
            let Some(w) = w else { continue };
            let heads_of_row = d.chunks_exact_mut(hs).zip(pre[row * width..][..width].chunks_exact(hs));
            for (h, (d, x)) in heads_of_row.enumerate() {
                let (rstd, part) = (rstd(simd, x, eps), usize::from(h >= heads.nh));
                if let Some(dw) = &mut dw[part] {
                    dw.iter_mut().zip(&*d).zip(x).for_each(|((dw, d), x)| *dw += d * (x * rstd));
                }
                let of_row = Lanes::splat(simd, rstd);
                let [gx] = sums!(simd, [&*d, w[part], x], |[d, w, x]| [d * w * (x * of_row)]);
                let gx_mean = gx / hs as f32;
                for ((d, x), w) in d.iter_mut().zip(x).zip(w[part]) {
                    *d = rstd * (*d * w - x * rstd * gx_mean);
                }
            }
        }
    }
}

#[inline(always)]
fn rstd<S: Vectors>(simd: S, x: &[f32], eps: f32) -> f32 {
    1.0 / (sums!(simd, [x], |[x]| [x * x])[0] / x.len() as f32 + eps).sqrt()
}

/// Rotates the pairs of a head; `direction` -1 rotates back.
#[inline(always)]
fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32], direction: f32) {
    let (a, b) = x.split_at_mut(cos.len());
    for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
        let sin = direction * sin;
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}
