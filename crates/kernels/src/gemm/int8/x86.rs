//! The vectors of x86 processors.

use super::lanes::{Lanes, Line, bytes};
use pulp::{
    cast,
    x86::{V3, V4},
};
use std::arch::x86_64::*;

/// AVX2.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx2(pub(super) V3);

impl Lanes for Avx2 {
    type Ints = __m256i;
    type Floats = __m256;
    const LANES: usize = 8;
    const ROWS: usize = 2;

    #[inline(always)]
    fn compiled<R>(self, kernel: impl FnOnce() -> R) -> R {
        self.0.vectorize(kernel)
    }

    #[inline(always)]
    fn splat(self, x: i32) -> __m256i {
        self.0.avx._mm256_set1_epi32(x)
    }

    #[inline(always)]
    fn eight(self, lines: &[Line; 2], at: usize) -> __m256i {
        self.0.avx2._mm256_cvtepi8_epi16(cast(*bytes::<16>(lines, at)))
    }

    #[inline(always)]
    fn four(self, lines: &[Line; 2], at: usize) -> [__m256i; 2] {
        let both = self.0.avx2._mm256_cvtepu8_epi16(cast(*bytes::<16>(lines, at)));
        let low = self.0.avx2._mm256_and_si256(both, self.0.avx._mm256_set1_epi16(15));
        [low, self.0.avx2._mm256_srli_epi16::<4>(both)]
    }

    #[inline(always)]
    fn multiply_add(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        self.0.avx2._mm256_add_epi32(acc, self.0.avx2._mm256_madd_epi16(w, x))
    }

    #[inline(always)]
    fn floats(self, from: &[f32]) -> __m256 {
        let from: &[f32; 8] = from.first_chunk().expect("a vector");
        cast(*from)
    }

    #[inline(always)]
    fn add_to(self, to: &mut [f32], x: __m256i) {
        let to: &mut [f32; 8] = to.first_chunk_mut().expect("a vector");
        *to = cast(self.0.avx._mm256_add_ps(cast(*to), self.0.avx._mm256_cvtepi32_ps(x)));
    }

    #[inline(always)]
    fn add_scaled_to(self, to: &mut [f32], x: __m256i, scale: __m256) {
        let to: &mut [f32; 8] = to.first_chunk_mut().expect("a vector");
        let product = self.0.avx._mm256_mul_ps(self.0.avx._mm256_cvtepi32_ps(x), scale);
        *to = cast(self.0.avx._mm256_add_ps(cast(*to), product));
    }
}

/// AVX-512.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512(pub(super) V4);

impl Lanes for Avx512 {
    type Ints = __m512i;
    type Floats = __m512;
    const LANES: usize = 16;
    const ROWS: usize = 4;

    #[inline(always)]
    fn compiled<R>(self, kernel: impl FnOnce() -> R) -> R {
        self.0.vectorize(kernel)
    }

    #[inline(always)]
    fn splat(self, x: i32) -> __m512i {
        self.0.avx512f._mm512_set1_epi32(x)
    }

    #[inline(always)]
    fn eight(self, lines: &[Line; 2], at: usize) -> __m512i {
        self.0.avx512bw._mm512_cvtepi8_epi16(cast(*bytes::<32>(lines, at)))
    }

    #[inline(always)]
    fn four(self, lines: &[Line; 2], at: usize) -> [__m512i; 2] {
        let both = self.0.avx512bw._mm512_cvtepu8_epi16(cast(*bytes::<32>(lines, at)));
        let low = self.0.avx512f._mm512_and_si512(both, self.0.avx512f._mm512_set1_epi16(15));
        [low, self.0.avx512bw._mm512_srli_epi16::<4>(both)]
    }

    #[inline(always)]
    fn multiply_add(self, acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        self.0.avx512f._mm512_add_epi32(acc, self.0.avx512bw._mm512_madd_epi16(w, x))
    }

    #[inline(always)]
    fn floats(self, from: &[f32]) -> __m512 {
        let from: &[f32; 16] = from.first_chunk().expect("a vector");
        cast(*from)
    }

    #[inline(always)]
    fn add_to(self, to: &mut [f32], x: __m512i) {
        let to: &mut [f32; 16] = to.first_chunk_mut().expect("a vector");
        *to = cast(self.0.avx512f._mm512_add_ps(cast(*to), self.0.avx512f._mm512_cvtepi32_ps(x)));
    }

    #[inline(always)]
    fn add_scaled_to(self, to: &mut [f32], x: __m512i, scale: __m512) {
        let to: &mut [f32; 16] = to.first_chunk_mut().expect("a vector");
        let product = self.0.avx512f._mm512_mul_ps(self.0.avx512f._mm512_cvtepi32_ps(x), scale);
        *to = cast(self.0.avx512f._mm512_add_ps(cast(*to), product));
    }
}

/// AVX-512 with its instructions for neural networks: one instead of two.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vnni(Avx512);

impl Vnni {
    /// If this processor has them.
    pub(super) fn try_new(simd: V4) -> Option<Vnni> {
        is_x86_feature_detected!("avx512vnni").then_some(Vnni(Avx512(simd)))
    }
}

impl Lanes for Vnni {
    type Ints = __m512i;
    type Floats = __m512;
    const LANES: usize = 16;
    const ROWS: usize = 4;

    #[inline(always)]
    fn compiled<R>(self, kernel: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni,avx2,fma,bmi1,bmi2")]
        fn inner<R>(kernel: impl FnOnce() -> R) -> R {
            kernel()
        }
        // SAFETY: `self` shows that the processor has the instructions.
        unsafe { inner(kernel) }
    }

    #[inline(always)]
    fn splat(self, x: i32) -> __m512i {
        self.0.splat(x)
    }

    #[inline(always)]
    fn eight(self, lines: &[Line; 2], at: usize) -> __m512i {
        self.0.eight(lines, at)
    }

    #[inline(always)]
    fn four(self, lines: &[Line; 2], at: usize) -> [__m512i; 2] {
        self.0.four(lines, at)
    }

    #[inline(always)]
    fn multiply_add(self, acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: `self` shows that the processor has the instruction.
        unsafe { _mm512_dpwssd_epi32(acc, w, x) }
    }

    #[inline(always)]
    fn floats(self, from: &[f32]) -> __m512 {
        self.0.floats(from)
    }

    #[inline(always)]
    fn add_to(self, to: &mut [f32], x: __m512i) {
        self.0.add_to(to, x);
    }

    #[inline(always)]
    fn add_scaled_to(self, to: &mut [f32], x: __m512i, scale: __m512) {
        self.0.add_scaled_to(to, x, scale);
    }
}
