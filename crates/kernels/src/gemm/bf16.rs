//! Products of factors rounded to bf16, summed in f32. Here in vectors, twice the multiply-adds in an instruction; for
//! processors that have tiles, [`super::amx`].
//!
//! `vdpbf16ps` takes pairs of neighbours along k, two bf16 numbers in the 32 bits of a lane. So a factor is rounded and
//! put in pairs first, and what results is a matrix of "floats" with half as many k, on which the loops of
//! [`super`] work as they are: only what a lane means differs.

/// What the factors of a product are rounded to; sums are f32 always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Not rounded.
    F32,
    /// Eight bits of precision, for processors that multiply them.
    #[cfg(target_arch = "x86_64")]
    Bf16(Bf16),
}

impl Precision {
    /// `f32`, `bf16 in vectors` or `bf16 in tiles`.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            #[cfg(target_arch = "x86_64")]
            Precision::Bf16(Bf16 { tiles: false, .. }) => "bf16 in vectors",
            #[cfg(target_arch = "x86_64")]
            Precision::Bf16(Bf16 { tiles: true, .. }) => "bf16 in tiles",
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Bf16, TURNS, pairs_by_row, run};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Precision;
    use crate::{
        Floats, Isa,
        gemm::{Gemm, Mat, MulAdd, Zeros, amx},
    };
    use pulp::x86::V4;
    use std::arch::x86_64::*;

    /// The proof that this processor has AVX-512 and its bf16 instructions.
    #[derive(Clone, Copy, Debug)]
    pub struct Bf16 {
        simd: V4,
        /// Whether it has tiles too, and products use them.
        pub(in super::super) tiles: bool,
    }

    impl PartialEq for Bf16 {
        fn eq(&self, other: &Bf16) -> bool {
            self.tiles == other.tiles
        }
    }

    impl Eq for Bf16 {}

    impl Precision {
        /// bf16, where this processor multiplies it: in tiles on Sapphire Rapids and later Xeons, else in vectors on Zen 4,
        /// Cooper Lake and later.
        pub fn bf16(isa: Isa) -> Option<Precision> {
            Precision::every_bf16(isa).pop()
        }

        /// Every way in which this processor multiplies bf16, the fastest last.
        pub fn every_bf16(isa: Isa) -> Vec<Precision> {
            let simd = isa.avx512().filter(|_| is_x86_feature_detected!("avx512bf16"));
            let ways = simd.into_iter().flat_map(|simd| [false, true].map(|tiles| Bf16 { simd, tiles }));
            ways.filter(|way| !way.tiles || amx::available()).map(Precision::Bf16).collect()
        }
    }

    /// Lanes are pairs of bf16 numbers, those of the sum f32.
    struct Pairs;

    impl MulAdd<V4> for Pairs {
        #[inline(always)]
        fn mul_add(_: V4, a: pulp::f32x16, b: pulp::f32x16, acc: pulp::f32x16) -> pulp::f32x16 {
            // SAFETY: all are 64 bytes of plain numbers; only `run` uses this type, with the proof.
            unsafe {
                let pairs = |x| std::mem::transmute::<pulp::f32x16, __m512bh>(x);
                let acc = std::mem::transmute::<pulp::f32x16, __m512>(acc);
                std::mem::transmute::<__m512, pulp::f32x16>(_mm512_dpbf16_ps(acc, pairs(a), pairs(b)))
            }
        }
    }

    /// The product of factors in pairs.
    pub(in super::super) fn run(Bf16 { simd, .. }: Bf16, gemm: Gemm) {
        #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16,avx2,fma,bmi1,bmi2")]
        fn inner(simd: V4, gemm: Gemm) {
            gemm.tiles::<V4, Pairs>(simd);
        }
        // SAFETY: the proof.
        unsafe { inner(simd, gemm) }
    }

    /// `m`, rounded, two neighbours of a row in a lane: half as many columns, an odd one beside a zero.
    pub(in super::super) fn pairs_by_row<'a>(proof: Bf16, to: &'a mut Floats, m: Mat) -> Mat<'a> {
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
                // SAFETY: the proof; lengths fit.
                unsafe { within(proof, to, from) }
            }
            Mat::new(&to[..rows * half], rows, half)
        } else {
            // A column is contiguous: pairs are of two columns.
            assert_eq!(m.row_stride, 1);
            let column = |j: usize| if j < cols { &m.data[j * m.col_stride..][..rows] } else { &[] };
            for (to, j) in to.chunks_exact_mut(rows).zip((0..cols).step_by(2)) {
                // SAFETY: the proof; lengths fit.
                unsafe { between(proof, to, column(j), column(j + 1)) }
            }
            Mat::new(&to[..rows * half], half, rows).t()
        }
    }

    /// Lanes in a vector.
    const LANES: usize = 16;

    /// Pairs of neighbours.
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

    /// Where the two halves of a lane come from, to make pairs of one number of each of two rows.
    pub(in super::super) const TURNS: [u16; 2 * LANES] = {
        let mut turns = [0; 2 * LANES];
        let mut i = 0;
        while i < 2 * LANES {
            turns[i] = (i / 2 + i % 2 * LANES) as u16;
            i += 1;
        }
        turns
    };

    /// Pairs of one number of `even` and one of `odd`, which may be empty and is zero then.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn between(_: Bf16, to: &mut [f32], even: &[f32], odd: &[f32]) {
        assert!(to.len() == even.len() && (odd.is_empty() || odd.len() == to.len()));
        for (v, to) in to.chunks_mut(LANES).enumerate() {
            let mask = u16::MAX >> (LANES - to.len());
            let odd_mask = if odd.is_empty() { 0 } else { mask };
            // SAFETY: the masks admit only what lies in the slices.
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
}

#[cfg(not(target_arch = "x86_64"))]
impl Precision {
    /// bf16, where this processor multiplies it.
    pub fn bf16(_: crate::Isa) -> Option<Precision> {
        None
    }

    /// Every way in which this processor multiplies bf16.
    pub fn every_bf16(_: crate::Isa) -> Vec<Precision> {
        Vec::new()
    }
}
