//! Attention of one query, as in generation: `out = softmax(scale q K^T) V`, all heads.
//!
//! Blocks of queries would leave most lanes empty here. Instead a vector holds the scores of neighbouring keys, which are
//! therefore stored by channel, and then neighbouring channels of the output. Each number is the sum of the same products in
//! the same order as in a block of queries: what a text gets does not depend on how it was divided among passes.

use super::heads::Heads;
use crate::{
    isa::{Kernel, Vectors},
    math,
};

/// Vectors of scores that are summed side by side. The next ones begin before these are done, so that more would not be faster,
/// and a short context would read more than it has.
const KEYS: usize = 2;

/// Vectors of channels that are summed side by side.
const CHANNELS: usize = 4;

/// Heads whose weights are summed side by side.
const HEADS: usize = 8;

/// Keys that one loop reads on any processor, at most: [`KEYS`] of the widest vectors.
const READ: usize = 32;

/// Floats from one channel of cached keys to the next, if `block` positions fit: all that a loop may read, and an odd number of
/// cache lines, so that the channels of a position do not compete for the same place in the cache.
pub fn key_stride(block: usize) -> usize {
    block.next_multiple_of(READ) + READ / 2
}

/// The arguments.
pub(super) struct Newest<'a> {
    /// `(c)`.
    pub(super) out: &'a mut [f32],
    /// `(c)`.
    pub(super) q: &'a [f32],
    /// Keys by channel, `(kv, stride)`.
    pub(super) k: &'a [f32],
    pub(super) stride: usize,
    /// Values by position, `(.., kv)`.
    pub(super) v: &'a [f32],
    /// How many positions are seen: the first of the cache.
    pub(super) keys: usize,
    pub(super) heads: Heads,
    /// Whether products are added with one rounding on any processor.
    pub(super) fused: bool,
    /// Scratch: `(nh, scores_stride(keys))`.
    pub(super) scores: &'a mut [f32],
}

/// Floats from one head's scores to the next.
pub(super) fn scores_stride(keys: usize) -> usize {
    keys.next_multiple_of(READ)
}

impl Kernel for Newest<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Vectors>(mut self, simd: S) {
        let row = scores_stride(self.keys);
        for h in 0..self.heads.nh {
            self.score(simd, h, row);
        }
        for first in (0..self.heads.nh).step_by(HEADS) {
            let heads = HEADS.min(self.heads.nh - first);
            let scores = &mut self.scores[first * row..][..heads * row];
            softmax(scores, row, self.keys, self.heads.scale as f32);
        }
        for h in 0..self.heads.nh {
            self.mix(simd, h, row);
        }
    }
}

impl Newest<'_> {
    /// The scores of head `h`.
    #[inline(always)]
    fn score<S: Vectors>(&mut self, simd: S, h: usize, row: usize) {
        let (hs, lanes) = (self.heads.hs(), S::F32_LANES);
        let q = &self.q[h * hs..][..hs];
        let k = &self.k[self.heads.shared(h) * self.stride..][..hs * self.stride];
        let scores = &mut self.scores[h * row..][..row];
        let step = KEYS * lanes;
        for (at, scores) in scores[..self.keys.next_multiple_of(step)].chunks_exact_mut(step).enumerate() {
            let mut sums = [simd.splat_f32s(0.0); KEYS];
            for (q, k) in q.iter().zip(k.chunks_exact(self.stride)) {
                let (q, k) = (simd.splat_f32s(*q), S::as_simd_f32s(&k[at * step..][..step]).0);
                for (sum, k) in sums.iter_mut().zip(k) {
                    *sum = simd.mul_add(self.fused, *k, q, *sum);
                }
            }
            S::as_mut_simd_f32s(scores).0.copy_from_slice(&sums);
        }
    }

    /// The output of head `h`: the values by their weights.
    #[inline(always)]
    fn mix<S: Vectors>(&mut self, simd: S, h: usize, row: usize) {
        let (hs, kv, lanes) = (self.heads.hs(), self.heads.kv(), S::F32_LANES);
        let (weights, at) = (&self.scores[h * row..][..self.keys], self.heads.shared(h));
        for (i, out) in self.out[h * hs..][..hs].chunks_mut(CHANNELS * lanes).enumerate() {
            let first = at + i * CHANNELS * lanes;
            let values = self.v.chunks_exact(kv).map(|v| &v[first..][..out.len()]);
            let mut sums = [simd.splat_f32s(0.0); CHANNELS];
            if out.len() == CHANNELS * lanes {
                weigh::<S, CHANNELS>(simd, self.fused, &mut sums, weights, values);
            } else if out.len() == 2 * lanes {
                weigh::<S, 2>(simd, self.fused, &mut sums, weights, values);
            } else {
                for (p, v) in weights.iter().zip(values) {
                    for (sum, v) in sums.iter_mut().zip(v.chunks(lanes)) {
                        *sum = simd.mul_add(self.fused, simd.splat_f32s(*p), simd.partial_load_f32s(v), *sum);
                    }
                }
            }
            for (out, sum) in out.chunks_mut(lanes).zip(sums) {
                simd.partial_store_f32s(out, sum);
            }
        }
    }
}

/// Adds values of `N` vectors by their weights.
#[inline(always)]
fn weigh<'a, S: Vectors, const N: usize>(
    simd: S,
    fused: bool,
    sums: &mut [S::f32s; CHANNELS],
    weights: &[f32],
    values: impl Iterator<Item = &'a [f32]>,
) {
    for (p, v) in weights.iter().zip(values) {
        let (p, v) = (simd.splat_f32s(*p), &S::as_simd_f32s(v).0[..N]);
        for i in 0..N {
            sums[i] = simd.mul_add(fused, p, v[i], sums[i]);
        }
    }
}

/// Softmax over the first `keys` of each row of scores, in place.
#[inline(always)]
fn softmax(scores: &mut [f32], row: usize, keys: usize, scale: f32) {
    for scores in scores.chunks_exact_mut(row) {
        let scores = &mut scores[..keys];
        let top = scores.iter().fold(f32::NEG_INFINITY, |top, p| top.max(*p));
        scores.iter_mut().for_each(|p| *p = math::exp((*p - top) * scale));
    }
    // In the order of the keys; the heads hide the latency.
    let mut sums = [0.0; HEADS];
    for j in 0..keys {
        for (sum, scores) in sums.iter_mut().zip(scores.chunks_exact(row)) {
            *sum += scores[j];
        }
    }
    for (sum, scores) in sums.iter().zip(scores.chunks_exact_mut(row)) {
        let norm = 1.0 / sum;
        scores[..keys].iter_mut().for_each(|p| *p *= norm);
    }
}
