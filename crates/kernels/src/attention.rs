//! Causal attention of one head of one sequence: `out = dropout(softmax(scale * Q K^T)) V`, where position `i` sees
//! positions `0..=i`.
//!
//! The `t x t` matrix of weights never exists: queries are processed in blocks, and the backward pass recomputes each
//! block's weights from the stored log-sum-exp of its rows (Dao et al. 2022). A block's scores are stored transposed,
//! keys by queries, so that one vector holds one key's scores for many queries: the softmax then works element by
//! element, and no row is too short for a vector.
//!
//! Groups of heads may share keys and values (Ainslie et al. 2023): head `h` then uses those of key-value head
//! `h nkv / nh`, whose gradients are the sums over the group.

mod heads;
mod newest;

pub use heads::Heads;
pub use newest::key_stride;

use crate::{
    dropout::Mask,
    floats::Floats,
    gemm::{Init, Mat, MatMut, gemm},
    isa::Isa,
    math,
};
use newest::{Newest, scores_stride};
use std::cell::RefCell;

/// Queries in a block: their scores (`t x BLOCK`) stay in the L2 cache up to a few thousand positions.
const BLOCK: usize = 32;

/// Index, in the dropout mask, of key `j` of head `h` and the first query; the other queries follow. Rows are padded to
/// whole 64-bit words of random bits.
pub fn mask_row(t: usize, h: usize, j: usize) -> usize {
    (h * t + j) * t.next_multiple_of(4)
}

/// One key's scores for a block of queries.
type Row = [f32; BLOCK];

/// The index of each query in its block.
const QUERY: Row = {
    let mut numbers = [0.0; BLOCK];
    let mut i = 0;
    while i < BLOCK {
        numbers[i] = i as f32;
        i += 1;
    }
    numbers
};

thread_local! {
    static SCORES: RefCell<[Floats; 2]> = RefCell::default();
}

/// A block's scores (keys, queries), to be computed. Query `i` of `rows` sees keys `0..=keys - rows + i`, so the last
/// one sees all keys. Elements below that diagonal are not needed.
fn scores_of(p: &mut [Row], rows: usize) -> MatMut<'_> {
    let keys = p.len();
    MatMut::strided(p.as_flattened_mut(), keys, rows, BLOCK).not_below(keys - rows)
}

/// A block's weights (keys, queries), zero below the same diagonal.
fn weights_of(p: &[Row], rows: usize) -> Mat<'_> {
    Mat::strided(p.as_flattened(), p.len(), rows, BLOCK).zero_below(p.len() - rows)
}

/// Two `(t, BLOCK)` scratch matrices of this thread.
fn with_scores<R>(t: usize, f: impl FnOnce(&mut [Row], &mut [Row]) -> R) -> R {
    SCORES.with_borrow_mut(|[p, d]| {
        let [p, d] = [p, d].map(|buffer| {
            buffer.grow(t * BLOCK);
            buffer.as_chunks_mut().0
        });
        f(p, d)
    })
}

/// Forward, all heads of one sequence. `out (t, c)`; `qkv (t, c + 2 kv)` holds Q, K and V side by side, heads side by
/// side in each; `lse (nh, t)` receives each row's log-sum-exp.
pub fn forward(isa: Isa, out: &mut [f32], lse: &mut [f32], qkv: &[f32], heads: Heads, mask: Option<&Mask>) {
    let (c, width) = (heads.c, heads.width());
    let t = out.len() / c;
    assert!(out.len() == t * c && lse.len() == heads.nh * t && qkv.len() == t * width);
    if t > 0 {
        let keys = Keys { pos: 0, k: &qkv[c..], v: &qkv[c + heads.kv()..], strides: [width, 1, width] };
        attend(isa, out, Some(lse), qkv, keys, heads, mask);
    }
}

/// Forward for the positions from `pos` on only, with the earlier ones cached; for generation, without dropout.
///
/// `out (n, c)`; `qkv (n, c + 2 kv)`, whose K and V are first written to `k_cache (kv, key_stride(block))` and
/// `v_cache (block, kv)`. These are ring buffers with position `i` at `i % block`, so each position sees the last `block`
/// positions up to itself. Keys are stored by channel: see [`key_stride`].
pub fn cached(
    isa: Isa,
    out: &mut [f32],
    k_cache: &mut [f32],
    v_cache: &mut [f32],
    qkv: &[f32],
    pos: usize,
    heads: Heads,
) {
    let (c, kv, width) = (heads.c, heads.kv(), heads.width());
    let (n, block) = (out.len() / c, v_cache.len() / kv);
    let stride = key_stride(block);
    assert!(qkv.len() == n * width && v_cache.len() == block * kv && k_cache.len() == kv * stride);
    heads.check();
    // Once the ring wraps around, a new position overwrites one that the positions before it still see.
    let at_once = if pos + n <= block { n.max(1) } else { 1 };
    let pieces = out.chunks_mut(at_once * c).zip(qkv.chunks(at_once * width));
    for ((out, qkv), pos) in pieces.zip((pos..).step_by(at_once)) {
        for (i, row) in qkv.chunks_exact(width).enumerate() {
            let at = (pos + i) % block;
            for (k_cache, k) in k_cache.chunks_exact_mut(stride).zip(&row[c..c + kv]) {
                k_cache[at] = *k;
            }
            v_cache[at * kv..][..kv].copy_from_slice(&row[c + kv..]);
        }
        // In a full ring every key is seen, so their order does not matter.
        let pos = pos.min(block - 1);
        if out.len() == c {
            let keys = pos + 1;
            SCORES.with_borrow_mut(|[scores, _]| {
                scores.grow(heads.nh * scores_stride(keys));
                let (q, k, v, fused) = (&qkv[..c], &*k_cache, &*v_cache, isa.is_fused());
                isa.run_generic(Newest { out, q, k, stride, v, keys, heads, fused, scores });
            });
        } else {
            let keys = Keys { pos, k: k_cache, v: v_cache, strides: [1, stride, kv] };
            attend(isa, out, None, qkv, keys, heads, None);
        }
    }
}

/// Keys and values.
#[derive(Clone, Copy)]
struct Keys<'a> {
    /// Position of the first query.
    pos: usize,
    k: &'a [f32],
    v: &'a [f32],
    /// From the key of one position to the next, from one of its channels to the next, and from one value to the next. Of the
    /// first two, one is 1.
    strides: [usize; 3],
}

/// Queries at positions `pos..pos + n` (`out (n, c)`, `q` in rows of `c + 2 kv`) over keys `0..pos + n`.
fn attend(
    isa: Isa,
    out: &mut [f32],
    mut lse: Option<&mut [f32]>,
    q: &[f32],
    Keys { pos, k, v, strides: [next, channel, of_v] }: Keys,
    heads: Heads,
    mask: Option<&Mask>,
) {
    heads.check();
    let (Heads { c, nh, .. }, scale) = (heads, heads.scale as f32);
    let (n, hs, width) = (out.len() / c, heads.hs(), heads.width());
    with_scores(pos + n, |scores, _| {
        for h in 0..nh {
            for q0 in (0..n).step_by(BLOCK) {
                let rows = BLOCK.min(n - q0);
                let keys = pos + q0 + rows;
                let q = Mat::strided(&q[q0 * width + h * hs..], rows, hs, width);
                let k = &k[heads.shared(h) * channel..];
                let k =
                    if channel == 1 { Mat::strided(k, keys, hs, next) } else { Mat::strided(k, hs, keys, channel).t() };
                let v = Mat::strided(&v[heads.shared(h)..], keys, hs, of_v);
                let p = &mut scores[..keys];
                let first = keys - rows;
                gemm(isa, scores_of(p, rows), Init::Zero, k, q.t());
                let mask = mask.map(|mask| (mask, mask_row(n, h, 0) + q0, mask_row(n, 0, 1)));
                let block_lse = isa.run(
                    #[inline(always)]
                    || softmax(p, scale, first, mask),
                );
                if let Some(lse) = &mut lse {
                    lse[h * n + q0..][..rows].copy_from_slice(&block_lse[..rows]);
                }
                let o = MatMut::strided(&mut out[q0 * c + h * hs..], rows, hs, c);
                gemm(isa, o, Init::Zero, weights_of(p, rows).t(), v);
            }
        }
    });
}

/// What the backward pass needs from the forward pass: its input and its results, as in [`forward`].
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// Queries, keys and values (t, c + 2 kv).
    pub qkv: &'a [f32],
    /// The output (t, c).
    pub out: &'a [f32],
    /// The log-sum-exp of each row of scores (nh, t).
    pub lse: &'a [f32],
}

/// Backward. `dqkv (t, c + 2 kv)` is overwritten; `dout (t, c)`, and `mask` as in [`forward`].
///
/// With `P` the weights, `M` the dropout factors and `D_i = dout_i . out_i`:
/// `dV = (P M)^T dout`, `dS = scale * P (M (dout V^T) - D)`, `dQ = dS K`, `dK = dS^T Q`.
pub fn backward(isa: Isa, dqkv: &mut [f32], dout: &[f32], saved: Saved, heads: Heads, mask: Option<&Mask>) {
    let Saved { qkv, out, lse } = saved;
    heads.check();
    let (Heads { c, nh, .. }, scale) = (heads, heads.scale as f32);
    let (t, hs, width) = (out.len() / c, heads.hs(), heads.width());
    assert!(out.len() == t * c && dout.len() == t * c && lse.len() == nh * t);
    assert!(qkv.len() == t * width && dqkv.len() == qkv.len());
    with_scores(t, |scores, dscores| {
        for h in 0..nh {
            let (k_at, v_at) = (c + heads.shared(h), c + heads.kv() + heads.shared(h));
            let first_of_group = h.is_multiple_of(nh / heads.nkv);
            // Begins with the last queries, which see every key, so that the first product can overwrite.
            for q0 in (0..t).step_by(BLOCK).rev() {
                let rows = BLOCK.min(t - q0);
                let keys = q0 + rows;
                let init = if keys == t && first_of_group { Init::Zero } else { Init::C };
                let q_at = q0 * width + h * hs;
                let q = Mat::strided(&qkv[q_at..], rows, hs, width);
                let k = Mat::strided(&qkv[k_at..], keys, hs, width);
                let v = Mat::strided(&qkv[v_at..], keys, hs, width);
                let d_o = Mat::strided(&dout[q0 * c + h * hs..], rows, hs, c);
                let (p, ds) = (&mut scores[..keys], &mut dscores[..keys]);
                gemm(isa, scores_of(p, rows), Init::Zero, k, q.t());
                gemm(isa, scores_of(ds, rows), Init::Zero, v, d_o.t());
                isa.run(
                    #[inline(always)]
                    || {
                        let (mut row_lse, mut d) = ([0.0; BLOCK], [0.0; BLOCK]);
                        row_lse[..rows].copy_from_slice(&lse[h * t + q0..][..rows]);
                        for (i, d) in d[..rows].iter_mut().enumerate() {
                            let at = (q0 + i) * c + h * hs;
                            *d = math::lane_sum([&dout[at..at + hs], &out[at..at + hs]], |[dout, out]| dout * out);
                        }
                        for (j, (p, ds)) in p.iter_mut().zip(&mut *ds).enumerate() {
                            let keep = mask.map(|mask| mask.factors(mask_row(t, h, j) + q0));
                            if let Some(keep) = &keep {
                                multiply(ds, keep);
                            }
                            let blind = blind(j, q0);
                            for i in 0..BLOCK {
                                let weight = math::exp(p[i] * scale - row_lse[i]);
                                let dscore = scale * weight * (ds[i] - d[i]);
                                p[i] = if QUERY[i] < blind { 0.0 } else { weight };
                                ds[i] = if QUERY[i] < blind { 0.0 } else { dscore };
                            }
                            if let Some(keep) = &keep {
                                multiply(p, keep);
                            }
                        }
                    },
                );
                let (p, ds) = (weights_of(p, rows), weights_of(ds, rows));
                gemm(isa, MatMut::strided(&mut dqkv[q_at..], rows, hs, width), Init::Zero, ds.t(), k);
                gemm(isa, MatMut::strided(&mut dqkv[k_at..], keys, hs, width), init, ds, q);
                gemm(isa, MatMut::strided(&mut dqkv[v_at..], keys, hs, width), init, p, d_o);
            }
        }
    });
}

#[inline(always)]
fn multiply(p: &mut Row, by: &Row) {
    for i in 0..BLOCK {
        p[i] *= by[i];
    }
}

/// How many of a block's queries, the first ones, do not see key `j`, if the first query sees keys `0..=first`. (Their
/// scores are selected lane by lane instead of being filled in memory: loading a vector that was just written in pieces
/// would stall.)
#[inline(always)]
fn blind(j: usize, first: usize) -> f32 {
    j.saturating_sub(first) as f32
}

/// Softmax over the keys, in place, of `scale` times the scores `p (keys, BLOCK)`, where query `i` sees keys
/// `0..=first + i`; returns each query's log-sum-exp. `mask` comes with the index of key 0 and the step from one key to
/// the next.
#[inline(always)]
fn softmax(p: &mut [Row], scale: f32, first: usize, mask: Option<(&Mask, usize, usize)>) -> Row {
    let mut top = [f32::NEG_INFINITY; BLOCK];
    for (j, p) in p.iter_mut().enumerate() {
        let blind = blind(j, first);
        for i in 0..BLOCK {
            p[i] = if QUERY[i] < blind { f32::NEG_INFINITY } else { p[i] };
            // This may skip a NaN, but the exponential below keeps it. (Written out, it compiles to a masked store,
            // which is slow.)
            top[i] = top[i].max(p[i]);
        }
    }
    let mut sum = [0.0; BLOCK];
    for p in &mut *p {
        for i in 0..BLOCK {
            p[i] = math::exp((p[i] - top[i]) * scale);
            sum[i] += p[i];
        }
    }
    let mut norm = [0.0; BLOCK];
    for i in 0..BLOCK {
        norm[i] = 1.0 / sum[i];
    }
    for (j, p) in p.iter_mut().enumerate() {
        let blind = blind(j, first);
        for i in 0..BLOCK {
            p[i] = if QUERY[i] < blind { 0.0 } else { p[i] * norm[i] };
        }
        if let Some((mask, start, step)) = mask {
            multiply(p, &mask.factors(start + j * step));
        }
    }
    let mut lse = [0.0; BLOCK];
    for i in 0..BLOCK {
        lse[i] = top[i] * scale + sum[i].ln();
    }
    lse
}
