//! Causal attention of one head of one sequence: `out = dropout(softmax(scale * Q K^T)) V`, position `i` seeing
//! positions `0..=i`.
//!
//! The `t x t` matrix of weights never exists: queries are taken in blocks, and the backward pass recomputes each
//! block's weights from the stored log-sum-exp of its rows (Dao et al. 2022).

use crate::{Isa, Mat, MatMut, Start, dropout::Mask, gemm, math};
use std::cell::RefCell;

/// Queries in a block: their scores (`BLOCK x t`) stay in the L2 cache up to a few thousand positions.
const BLOCK: usize = 32;

/// What all heads of a layer share.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Channels, `nh * hs`.
    pub c: usize,
    /// Heads.
    pub nh: usize,
    /// What the scores are multiplied with before the softmax.
    pub scale: f32,
}

/// Where row `i` of head `h` begins in the dropout mask's numbering; padded to whole words of random bits.
pub fn mask_row(t: usize, h: usize, i: usize) -> usize {
    (h * t + i) * t.next_multiple_of(4)
}

thread_local! {
    static SCORES: RefCell<[Vec<f32>; 2]> = RefCell::default();
}

/// Two `(BLOCK, t)` scratch matrices of this thread.
fn with_scores<R>(t: usize, f: impl FnOnce(&mut [f32], &mut [f32]) -> R) -> R {
    SCORES.with_borrow_mut(|[p, d]| {
        for buffer in [&mut *p, &mut *d] {
            if buffer.len() < BLOCK * t {
                buffer.resize(BLOCK * t, 0.0);
            }
        }
        f(p, d)
    })
}

/// Forward, all heads of one sequence. `out (t, c)`; `qkv (t, 3c)` holds Q, K and V side by side, heads side by
/// side in each; `lse (nh, t)` receives each row's log-sum-exp.
pub fn forward(isa: Isa, out: &mut [f32], lse: &mut [f32], qkv: &[f32], heads: Heads, mask: Option<&Mask>) {
    let c = heads.c;
    let t = out.len() / c;
    assert!(out.len() == t * c && lse.len() == heads.nh * t && qkv.len() == 3 * t * c);
    if t > 0 {
        let keys = Keys { k: &qkv[c..], v: &qkv[2 * c..], stride: 3 * c };
        attend(isa, out, Some(lse), qkv, keys, 0, heads, mask);
    }
}

/// Forward of the positions `pos..` only, those before it being cached; for generation, without dropout.
///
/// `out (n, c)`; `qkv (n, 3c)`, whose K and V are first written to rows `pos..pos + n` of `k_cache` and
/// `v_cache (block, c)`.
pub fn cached(
    isa: Isa,
    out: &mut [f32],
    k_cache: &mut [f32],
    v_cache: &mut [f32],
    qkv: &[f32],
    pos: usize,
    heads: Heads,
) {
    let c = heads.c;
    assert!(qkv.len() == 3 * out.len() && k_cache.len() == v_cache.len());
    for (i, row) in qkv.chunks_exact(3 * c).enumerate() {
        k_cache[(pos + i) * c..][..c].copy_from_slice(&row[c..2 * c]);
        v_cache[(pos + i) * c..][..c].copy_from_slice(&row[2 * c..]);
    }
    attend(isa, out, None, qkv, Keys { k: k_cache, v: v_cache, stride: c }, pos, heads, None);
}

/// Keys and values by position, rows `stride` apart.
#[derive(Clone, Copy)]
struct Keys<'a> {
    k: &'a [f32],
    v: &'a [f32],
    stride: usize,
}

/// Queries at positions `pos..pos + n` (`out (n, c)`, `q` in rows of `3c`) over keys `0..pos + n`.
fn attend(
    isa: Isa,
    out: &mut [f32],
    mut lse: Option<&mut [f32]>,
    q: &[f32],
    Keys { k, v, stride }: Keys,
    pos: usize,
    Heads { c, nh, scale }: Heads,
    mask: Option<&Mask>,
) {
    assert!(c.is_multiple_of(nh));
    let (n, hs) = (out.len() / c, c / nh);
    with_scores(pos + n, |scores, _| {
        for h in 0..nh {
            for q0 in (0..n).step_by(BLOCK) {
                let rows = BLOCK.min(n - q0);
                let keys = pos + q0 + rows;
                let q = Mat::strided(&q[q0 * 3 * c + h * hs..], rows, hs, 3 * c);
                let k = Mat::strided(&k[h * hs..], keys, hs, stride);
                let v = Mat::strided(&v[h * hs..], keys, hs, stride);
                let p = &mut scores[..rows * keys];
                gemm(isa, MatMut::new(p, rows, keys), Start::Zero, q, k.t());
                isa.run(
                    #[inline(always)]
                    || {
                        for (i, row) in p.chunks_exact_mut(keys).enumerate() {
                            let (seen, unseen) = row.split_at_mut(pos + q0 + i + 1);
                            let row_lse = softmax(seen, scale);
                            if let Some(lse) = &mut lse {
                                lse[h * n + q0 + i] = row_lse;
                            }
                            if let Some(mask) = mask {
                                mask.scale(mask_row(n, h, q0 + i), seen);
                            }
                            unseen.fill(0.0);
                        }
                    },
                );
                let o = MatMut::strided(&mut out[q0 * c + h * hs..], rows, hs, c);
                gemm(isa, o, Start::Zero, Mat::new(p, rows, keys), v);
            }
        }
    });
}

/// Backward. `dqkv (t, 3c)` is overwritten; `dout`, `out (t, c)`, `lse`, `qkv` and `mask` as in [`forward`].
///
/// With `P` the weights, `M` the dropout factors and `D_i = dout_i . out_i`:
/// `dV = (P M)^T dout`, `dS = scale * P (M (dout V^T) - D)`, `dQ = dS K`, `dK = dS^T Q`.
pub fn backward(
    isa: Isa,
    dqkv: &mut [f32],
    dout: &[f32],
    out: &[f32],
    lse: &[f32],
    qkv: &[f32],
    heads: Heads,
    mask: Option<&Mask>,
) {
    let Heads { c, nh, scale } = heads;
    let t = out.len() / c;
    assert!(out.len() == t * c && dout.len() == t * c && lse.len() == nh * t && c.is_multiple_of(nh));
    assert!(qkv.len() == 3 * t * c && dqkv.len() == qkv.len());
    let hs = c / nh;
    dqkv.fill(0.0);
    with_scores(t, |scores, dscores| {
        for h in 0..nh {
            for q0 in (0..t).step_by(BLOCK) {
                let rows = BLOCK.min(t - q0);
                let keys = q0 + rows;
                let (q_at, k_at, v_at) = (q0 * 3 * c + h * hs, c + h * hs, 2 * c + h * hs);
                let q = Mat::strided(&qkv[q_at..], rows, hs, 3 * c);
                let k = Mat::strided(&qkv[k_at..], keys, hs, 3 * c);
                let v = Mat::strided(&qkv[v_at..], keys, hs, 3 * c);
                let d_o = Mat::strided(&dout[q0 * c + h * hs..], rows, hs, c);
                let p = &mut scores[..rows * keys];
                let ds = &mut dscores[..rows * keys];
                gemm(isa, MatMut::new(p, rows, keys), Start::Zero, q, k.t());
                gemm(isa, MatMut::new(ds, rows, keys), Start::Zero, d_o, v.t());
                isa.run(
                    #[inline(always)]
                    || {
                        for (i, (p, ds)) in p.chunks_exact_mut(keys).zip(ds.chunks_exact_mut(keys)).enumerate() {
                            let at = (q0 + i) * c + h * hs;
                            let [d] =
                                math::lane_sum([&dout[at..at + hs], &out[at..at + hs]], |[dout, out]| [dout * out]);
                            let lse = lse[h * t + q0 + i];
                            let (p, p_unseen) = p.split_at_mut(q0 + i + 1);
                            let (ds, ds_unseen) = ds.split_at_mut(q0 + i + 1);
                            p.iter_mut().for_each(|p| *p = math::exp(*p * scale - lse));
                            if let Some(mask) = mask {
                                let start = mask_row(t, h, q0 + i);
                                mask.scale(start, ds);
                                ds.iter_mut().zip(&*p).for_each(|(ds, p)| *ds = scale * p * (*ds - d));
                                mask.scale(start, p);
                            } else {
                                ds.iter_mut().zip(&*p).for_each(|(ds, p)| *ds = scale * p * (*ds - d));
                            }
                            p_unseen.fill(0.0);
                            ds_unseen.fill(0.0);
                        }
                    },
                );
                let p = Mat::new(p, rows, keys);
                let ds = Mat::new(ds, rows, keys);
                gemm(isa, MatMut::strided(&mut dqkv[q_at..], rows, hs, 3 * c), Start::Zero, ds, k);
                gemm(isa, MatMut::strided(&mut dqkv[k_at..], keys, hs, 3 * c), Start::C, ds.t(), q);
                gemm(isa, MatMut::strided(&mut dqkv[v_at..], keys, hs, 3 * c), Start::C, p.t(), d_o);
            }
        }
    });
}

/// `row = softmax(scale * row)`; returns the log-sum-exp of `scale * row`.
#[inline(always)]
fn softmax(row: &mut [f32], scale: f32) -> f32 {
    let top = math::max(row) * scale;
    row.iter_mut().for_each(|x| *x = math::exp(*x * scale - top));
    let [sum] = math::lane_sum([row], |[x]| [x]);
    let norm = 1.0 / sum;
    row.iter_mut().for_each(|x| *x *= norm);
    top + sum.ln()
}
