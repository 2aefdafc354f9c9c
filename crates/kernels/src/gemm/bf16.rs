//! Products of factors rounded to bf16, summed in f32, in vectors: twice the multiply-adds per instruction.
//!
//! `vdpbf16ps` takes pairs of neighbours along k, two bf16 numbers in the 32 bits of a lane. So a factor is first
//! rounded and packed in pairs. The result is a matrix of "floats" with half as many k, and the loops of f32 products
//! work on it unchanged: only the meaning of a lane differs.

use super::{
    kernel::MulAdd,
    loops::Gemm,
    mat::{Mat, Zeros},
    pack::TURNS,
    precision::Bf16,
};
use crate::{floats::Floats, isa::Vectors};
use pulp::x86::V4;
use std::arch::x86_64::*;

/// The lanes of the factors are pairs of bf16 numbers, those of the sum are f32.
struct Pairs;

impl MulAdd<V4> for Pairs {
    #[inline(always)]
    fn mul_add(_: V4, a: pulp::f32x16, b: pulp::f32x16, acc: pulp::f32x16) -> pulp::f32x16 {
        // SAFETY: all of these types are 64 bytes of plain numbers. Only `run` uses this type, and it has the proof
        // that the processor has the instruction.
        unsafe {
            let pairs = |x| std::mem::transmute::<pulp::f32x16, __m512bh>(x);
            let acc = std::mem::transmute::<pulp::f32x16, __m512>(acc);
            std::mem::transmute::<__m512, pulp::f32x16>(_mm512_dpbf16_ps(acc, pairs(a), pairs(b)))
        }
    }

    #[inline(always)]
    fn compiled<R>(_: V4, kernel: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16,avx2,fma,bmi1,bmi2")]
        fn inner<R>(kernel: impl FnOnce() -> R) -> R {
            kernel()
        }
        // SAFETY: as above.
        unsafe { inner(kernel) }
    }
}

/// Multiplies factors that are packed in pairs.
pub(super) fn run(Bf16 { simd, .. }: Bf16, gemm: Gemm) {
    Pairs::compiled(
        simd,
        #[inline(always)]
        || gemm.blocks::<V4, Pairs, { V4::TILE_ROWS }, { V4::TILE_VECTORS }>(simd),
    );
}

/// `m`, rounded, with two neighbours of a row in each lane: half as many columns; an odd last one is paired with zeros.
pub(super) fn pairs_by_row<'a>(proof: Bf16, to: &'a mut Floats, m: Mat) -> Mat<'a> {
    assert_eq!(m.zeros, Zeros::Nowhere);
    let (rows, cols) = m.shape();
    let half = cols.div_ceil(2);
    to.grow(rows * half);
    if rows == 0 || cols == 0 {
        return Mat::new(to, rows, half);
    }
    if m.col_stride == 1 {
        for (to, i) in to.chunks_exact_mut(half).zip(0..rows) {
            let from = &m.data[i * m.row_stride..][..cols];
            // SAFETY: `proof` shows that the processor has the instructions; the lengths fit.
            unsafe { within(proof, to, from) }
        }
        Mat::new(&to[..rows * half], rows, half)
    } else {
        // Columns are contiguous: each pair is made of two columns.
        assert_eq!(m.row_stride, 1);
        let column = |j: usize| if j < cols { &m.data[j * m.col_stride..][..rows] } else { &[] };
        for (to, j) in to.chunks_exact_mut(rows).zip((0..cols).step_by(2)) {
            // SAFETY: as above.
            unsafe { between(proof, to, column(j), column(j + 1)) }
        }
        Mat::new(&to[..rows * half], half, rows).t()
    }
}

/// Lanes in a vector.
const LANES: usize = 16;

/// Packs pairs of neighbours of `from`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn within(_: Bf16, to: &mut [f32], from: &[f32]) {
    assert_eq!(to.len(), from.len().div_ceil(2));
    let (whole, rest) = from.as_chunks::<{ 2 * LANES }>();
    let (to_whole, to_rest) = to.split_at_mut(whole.len() * LANES);
    let to_whole = to_whole.as_chunks_mut::<LANES>().0;
    let convert = |to: &mut [f32; LANES], from: &[f32; 2 * LANES]| {
        // SAFETY: 32 floats to read, 16 to write.
        unsafe {
            let (low, high) = (_mm512_loadu_ps(from.as_ptr()), _mm512_loadu_ps(from.as_ptr().add(LANES)));
            let pairs = std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_ps(to.as_mut_ptr(), pairs);
        }
    };
    for (to, from) in to_whole.iter_mut().zip(whole) {
        convert(to, from);
    }
    if !rest.is_empty() {
        let (mut last, mut pairs) = ([0.0; 2 * LANES], [0.0; LANES]);
        last[..rest.len()].copy_from_slice(rest);
        convert(&mut pairs, &last);
        to_rest.copy_from_slice(&pairs[..to_rest.len()]);
    }
}

/// Packs pairs of one number of `even` and one of `odd`; if `odd` is empty, it counts as zeros.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn between(_: Bf16, to: &mut [f32], even: &[f32], odd: &[f32]) {
    assert!(to.len() == even.len() && (odd.is_empty() || odd.len() == to.len()));
    for (v, to) in to.chunks_mut(LANES).enumerate() {
        let mask = u16::MAX >> (LANES - to.len());
        let odd_mask = if odd.is_empty() { 0 } else { mask };
        // SAFETY: the masks restrict the loads and the store to the slices.
        unsafe {
            let turns = _mm512_loadu_epi16(TURNS.as_ptr().cast());
            let low = _mm512_maskz_loadu_ps(mask, even.as_ptr().add(v * LANES));
            let high = _mm512_maskz_loadu_ps(odd_mask, odd.as_ptr().wrapping_add(v * LANES));
            let halves = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            let pairs = _mm512_castsi512_ps(_mm512_permutexvar_epi16(turns, halves));
            _mm512_mask_storeu_ps(to.as_mut_ptr(), mask, pairs);
        }
    }
}
