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
    isa::{Isa, Kernel, Vectors},
    lanes::sums,
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

thread_local! {
    static SCORES: RefCell<[Floats; 3]> = RefCell::default();
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

/// Three `(t, BLOCK)` scratch matrices of this thread, of which the last grows only `if drops`.
fn with_scores<R>(t: usize, drops: bool, f: impl FnOnce([&mut [Row]; 3]) -> R) -> R {
    SCORES.with_borrow_mut(|[p, d, keep]| {
        [&mut *p, &mut *d].into_iter().for_each(|buffer| buffer.grow(t * BLOCK));
        if drops {
            keep.grow(t * BLOCK);
        }
        f([p, d, keep].map(|buffer| buffer.as_chunks_mut().0))
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
            SCORES.with_borrow_mut(|[scores, ..]| {
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
    with_scores(pos + n, false, |[scores, ..]| {
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
                let mut block_lse = [0.0; BLOCK];
                isa.run_generic(Softmax { p, scale, first, lse: &mut block_lse[..rows] });
                if let Some(mask) = mask {
                    isa.run(
                        #[inline(always)]
                        || {
                            for (j, p) in p.iter_mut().enumerate() {
                                multiply(p, &mask.factors(mask_row(n, h, j) + q0));
                            }
                        },
                    );
                }
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
    with_scores(t, mask.is_some(), |[scores, dscores, keeps]| {
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
                let (mut row_lse, mut d) = ([0.0; BLOCK], [0.0; BLOCK]);
                row_lse[..rows].copy_from_slice(&lse[h * t + q0..][..rows]);
                let at = q0 * c + h * hs;
                isa.run_generic(Dots { d: &mut d[..rows], a: &dout[at..], b: &out[at..], hs, c });
                let keep = if mask.is_some() { &mut keeps[..keys] } else { &mut [] };
                if let Some(mask) = mask {
                    isa.run(
                        #[inline(always)]
                        || {
                            for (j, (keep, ds)) in keep.iter_mut().zip(&mut *ds).enumerate() {
                                *keep = mask.factors(mask_row(t, h, j) + q0);
                                multiply(ds, keep);
                            }
                        },
                    );
                }
                isa.run_generic(SoftmaxBackward { p, ds, scale, first: q0, lse: &row_lse, d: &d });
                isa.run(
                    #[inline(always)]
                    || p.iter_mut().zip(keep).for_each(|(p, keep)| multiply(p, keep)),
                );
                let (p, ds) = (weights_of(p, rows), weights_of(ds, rows));
                gemm(isa, MatMut::strided(&mut dqkv[q_at..], rows, hs, width), Init::Zero, ds.t(), k);
                gemm(isa, MatMut::strided(&mut dqkv[k_at..], keys, hs, width), init, ds, q);
                gemm(isa, MatMut::strided(&mut dqkv[v_at..], keys, hs, width), init, p, d_o);
            }
        }
    });
}

/// `d[i] = a_i . b_i`, of rows of `hs` numbers that begin `c` apart.
struct Dots<'a> {
    d: &'a mut [f32],
    a: &'a [f32],
    b: &'a [f32],
    hs: usize,
    c: usize,
}

impl Kernel for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Vectors>(self, simd: S) {
        for ((d, a), b) in self.d.iter_mut().zip(self.a.chunks(self.c)).zip(self.b.chunks(self.c)) {
            [*d] = sums!(simd, [&a[..self.hs], &b[..self.hs]], |[a, b]| [a * b]);
        }
    }
}

/// `p *= by`.
#[inline(always)]
fn multiply(p: &mut Row, by: &Row) {
    for i in 0..BLOCK {
        p[i] *= by[i];
    }
}

/// One vector of a block's queries, and the keys that they see: all lanes see the keys below `open`, and some those below `seen`.
struct Column<S: Vectors> {
    /// Which vector of a row.
    at: usize,
    open: usize,
    seen: usize,
    /// Each lane's number.
    lane: S::f32s,
}

impl<S: Vectors> Column<S> {
    /// Vectors in a row.
    const COUNT: usize = BLOCK / S::F32_LANES;

    /// Column `at` of a block of `keys` keys, whose first query sees keys `0..=first`.
    #[inline(always)]
    fn new(simd: S, at: usize, keys: usize, first: usize) -> Column<S> {
        const NUMBERS: [f32; 16] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];
        let before = first + at * S::F32_LANES;
        Column {
            at,
            open: keys.min(before + 1),
            seen: keys.min(before + S::F32_LANES),
            lane: simd.partial_load_f32s(&NUMBERS[..S::F32_LANES]),
        }
    }

    /// Where key `j` is in a block of scores.
    #[inline(always)]
    fn index(&self, j: usize) -> usize {
        j * Self::COUNT + self.at
    }

    /// Calls `each` with every key that some lane sees and, if some do not, which these are.
    #[inline(always)]
    fn keys(&self, simd: S, mut each: impl FnMut(usize, Option<S::m32s>)) {
        for j in 0..self.open {
            each(j, None);
        }
        let (mut blind, one) = (simd.splat_f32s(0.0), simd.splat_f32s(1.0));
        for j in self.open..self.seen {
            blind = simd.add_f32s(blind, one);
            each(j, Some(simd.less_than_f32s(self.lane, blind)));
        }
    }
}

/// `x`, or `hidden` in those lanes.
#[inline(always)]
fn hide<S: Vectors>(simd: S, lanes: Option<S::m32s>, hidden: f32, x: S::f32s) -> S::f32s {
    match lanes {
        Some(lanes) => simd.select_f32s(lanes, simd.splat_f32s(hidden), x),
        None => x,
    }
}

/// Softmax over the keys, in place, of `scale` times the scores `p (keys, BLOCK)`, where query `i` sees keys
/// `0..=first + i`; `lse (rows)` receives each query's log-sum-exp.
struct Softmax<'a> {
    p: &'a mut [Row],
    scale: f32,
    first: usize,
    lse: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Vectors>(self, simd: S) {
        let Softmax { p, scale, first, lse } = self;
        let keys = p.len();
        let p = S::as_mut_simd_f32s(p.as_flattened_mut()).0;
        for (at, lse) in lse.chunks_mut(S::F32_LANES).enumerate() {
            let column = Column::new(simd, at, keys, first);
            // Several maxima: each would wait for the last.
            let mut tops = [simd.splat_f32s(f32::NEG_INFINITY); 4];
            column.keys(
                simd,
                #[inline(always)]
                |j, blind| {
                    // Where there is a NaN, the exponential below keeps it.
                    let score = hide(simd, blind, f32::NEG_INFINITY, p[column.index(j)]);
                    tops = [tops[1], tops[2], tops[3], simd.max_f32s(tops[0], score)];
                },
            );
            let top = simd.max_f32s(simd.max_f32s(tops[0], tops[1]), simd.max_f32s(tops[2], tops[3]));
            let (factor, mut sum) = (simd.splat_f32s(scale), simd.splat_f32s(0.0));
            column.keys(
                simd,
                #[inline(always)]
                |j, blind| {
                    let p = &mut p[column.index(j)];
                    let weight = math::exps(simd, simd.mul_f32s(simd.sub_f32s(*p, top), factor));
                    *p = hide(simd, blind, 0.0, weight);
                    sum = simd.add_f32s(sum, *p);
                },
            );
            let norm = simd.div_f32s(simd.splat_f32s(1.0), sum);
            for j in 0..column.seen {
                let p = &mut p[column.index(j)];
                *p = simd.mul_f32s(*p, norm);
            }
            for j in column.seen..keys {
                p[column.index(j)] = simd.splat_f32s(0.0);
            }
            let (mut tops, mut sums) = ([0.0; 16], [0.0; 16]);
            simd.partial_store_f32s(&mut tops[..S::F32_LANES], top);
            simd.partial_store_f32s(&mut sums[..S::F32_LANES], sum);
            for ((lse, top), sum) in lse.iter_mut().zip(tops).zip(sums) {
                *lse = top * scale + sum.ln();
            }
        }
    }
}

/// The backward pass of [`Softmax`] and of the products beside it, in place: `p (keys, BLOCK)` holds the scores and becomes the
/// weights, `ds (keys, BLOCK)` holds the gradients of the weights and becomes those of the scores. `lse` and `d` are of each query.
struct SoftmaxBackward<'a> {
    p: &'a mut [Row],
    ds: &'a mut [Row],
    scale: f32,
    first: usize,
    lse: &'a Row,
    d: &'a Row,
}

impl Kernel for SoftmaxBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Vectors>(self, simd: S) {
        let SoftmaxBackward { p, ds, scale, first, lse, d } = self;
        let (keys, factor) = (p.len(), simd.splat_f32s(scale));
        let [p, ds] = [p, ds].map(|x| S::as_mut_simd_f32s(x.as_flattened_mut()).0);
        let [lse, d] = [lse, d].map(|x| S::as_simd_f32s(x).0);
        for at in 0..Column::<S>::COUNT {
            let (column, lse, d) = (Column::new(simd, at, keys, first), lse[at], d[at]);
            column.keys(
                simd,
                #[inline(always)]
                |j, blind| {
                    let (p, ds) = (&mut p[column.index(j)], &mut ds[column.index(j)]);
                    let weight = math::exps(simd, simd.sub_f32s(simd.mul_f32s(*p, factor), lse));
                    let dscore = simd.mul_f32s(simd.mul_f32s(factor, weight), simd.sub_f32s(*ds, d));
                    *p = hide(simd, blind, 0.0, weight);
                    *ds = hide(simd, blind, 0.0, dscore);
                },
            );
            for j in column.seen..keys {
                (p[column.index(j)], ds[column.index(j)]) = (simd.splat_f32s(0.0), simd.splat_f32s(0.0));
            }
        }
    }
}
