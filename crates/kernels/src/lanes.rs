//! Sixteen numbers at a time: the sums over a row have the same bits with every instruction set, because each has sixteen
//! partial sums. Written with vectors; of loops over arrays the compiler makes single numbers when it sees how they are added up.

use crate::{
    isa::Vectors,
    math::{self, LANES},
};
use std::ops::{Add, Mul, Range, Sub};

/// Sixteen numbers, which the instruction set's vectors `S::f32s` add and multiply.
#[derive(Clone, Copy)]
pub(crate) struct Lanes<S: Vectors> {
    simd: S,
    x: [f32; LANES],
}

impl<S: Vectors> Lanes<S> {
    const VECTORS: usize = LANES / S::F32_LANES;

    /// The same number in all lanes.
    #[inline(always)]
    pub(crate) fn splat(simd: S, x: f32) -> Lanes<S> {
        Lanes { simd, x: [x; LANES] }
    }

    /// At most sixteen numbers, with zeros behind them.
    #[inline(always)]
    fn load(simd: S, x: &[f32]) -> Lanes<S> {
        if let Ok(x) = <&[f32; LANES]>::try_from(x) {
            return Lanes { simd, x: *x };
        }
        let mut all = Lanes::splat(simd, 0.0);
        all.x[..x.len()].copy_from_slice(x);
        all
    }

    /// Writes the first lanes to `x`, sixteen at most.
    #[inline(always)]
    fn store(self, x: &mut [f32]) {
        if let Ok(x) = <&mut [f32; LANES]>::try_from(&mut *x) {
            *x = self.x;
            return;
        }
        x.copy_from_slice(&self.x[..x.len()]);
    }

    /// The first `n` lanes, and zeros behind them.
    #[inline(always)]
    fn first(self, n: usize) -> Lanes<S> {
        Lanes::load(self.simd, &self.x[..n])
    }

    /// Vector `i` of them.
    #[inline(always)]
    fn vector(&self, i: usize) -> S::f32s {
        assert!(i < Self::VECTORS);
        // SAFETY: `VECTORS` vectors are sixteen numbers.
        unsafe { self.x.as_ptr().cast::<S::f32s>().add(i).read_unaligned() }
    }

    /// `f` of each vector of both.
    #[inline(always)]
    fn each(self, other: Lanes<S>, f: impl Fn(S::f32s, S::f32s) -> S::f32s) -> Lanes<S> {
        let mut all = self;
        for i in 0..Self::VECTORS {
            let of_both = f(self.vector(i), other.vector(i));
            // SAFETY: as for `vector`.
            unsafe { all.x.as_mut_ptr().cast::<S::f32s>().add(i).write_unaligned(of_both) };
        }
        all
    }

    /// [`math::exp`] of each.
    #[inline(always)]
    pub(crate) fn exp(self) -> Lanes<S> {
        let simd = self.simd;
        self.each(
            self,
            #[inline(always)]
            |x, _| math::exps(simd, x),
        )
    }

    /// The sum of all lanes: the second half is added to the first, until one is left.
    #[inline(always)]
    fn sum(self) -> f32 {
        let x = self.x;
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::*;
            // SAFETY: every x86-64 processor has SSE, and these are the sixteen numbers.
            unsafe {
                let four = |at: usize| _mm_loadu_ps(x.as_ptr().add(at));
                let (low, high) = (_mm_add_ps(four(0), four(8)), _mm_add_ps(four(4), four(12)));
                let sum = _mm_add_ps(low, high);
                let sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
                _mm_cvtss_f32(_mm_add_ss(sum, _mm_shuffle_ps::<1>(sum, sum)))
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let mut x = x;
            let mut width = LANES / 2;
            while width > 0 {
                for lane in 0..width {
                    x[lane] += x[lane + width];
                }
                width /= 2;
            }
            x[0]
        }
    }
}

/// `impl` of an operator, lane by lane.
macro_rules! each_lane {
    ($operator:ident, $function:ident, $simd:ident) => {
        impl<S: Vectors> $operator for Lanes<S> {
            type Output = Lanes<S>;

            #[inline(always)]
            fn $function(self, other: Lanes<S>) -> Lanes<S> {
                let simd = self.simd;
                self.each(
                    other,
                    #[inline(always)]
                    |x, y| simd.$simd(x, y),
                )
            }
        }
    };
}

each_lane!(Add, add, add_f32s);
each_lane!(Sub, sub, sub_f32s);
each_lane!(Mul, mul, mul_f32s);

/// Sixteen numbers of a row, or what is left at its end.
pub(crate) struct Part<S> {
    simd: S,
    range: Range<usize>,
}

impl<S: Vectors> Part<S> {
    /// The numbers of the row `x` that are in this part.
    #[inline(always)]
    pub(crate) fn load(&self, x: &[f32]) -> Lanes<S> {
        Lanes::load(self.simd, &x[self.range.clone()])
    }

    /// Writes them.
    #[inline(always)]
    pub(crate) fn store(&self, x: &mut [f32], lanes: Lanes<S>) {
        lanes.store(&mut x[self.range.clone()]);
    }
}

/// Calls `each` with the parts of a row of `len` numbers.
#[inline(always)]
pub(crate) fn each_part<S: Vectors>(simd: S, len: usize, mut each: impl FnMut(Part<S>)) {
    let whole = len / LANES;
    for i in 0..whole {
        each(Part { simd, range: i * LANES..i * LANES + LANES });
    }
    if whole * LANES < len {
        each(Part { simd, range: whole * LANES..len });
    }
}

/// [`sums_of`] with terms that are certain to be inlined: code that stays a function of its own knows nothing of the instruction set,
/// so each operation on a vector becomes a call.
macro_rules! sums {
    ($simd:expr, $rows:expr, |$of:pat_param| $terms:expr) => {
        $crate::lanes::sums_of(
            $simd,
            $rows,
            #[inline(always)]
            |$of| $terms,
        )
    };
}
pub(crate) use sums;

/// `sum_i f([x[0][i], x[1][i], ...])` over rows of equal length, of each of the results of `f`. Called by [`sums`].
#[inline(always)]
pub(crate) fn sums_of<S: Vectors, const N: usize, const M: usize>(
    simd: S,
    x: [&[f32]; N],
    f: impl Fn([Lanes<S>; N]) -> [Lanes<S>; M],
) -> [f32; M] {
    let mut partial = [Lanes::splat(simd, 0.0); M];
    each_part(
        simd,
        x[0].len(),
        #[inline(always)]
        |part| {
            let mut values = [Lanes::splat(simd, 0.0); N];
            for k in 0..N {
                values[k] = part.load(x[k]);
            }
            let terms = f(values);
            for m in 0..M {
                // A term of no number need not be zero.
                let n = part.range.len();
                partial[m] = partial[m] + if n == LANES { terms[m] } else { terms[m].first(n) };
            }
        },
    );
    let mut sums = [0.0; M];
    for m in 0..M {
        sums[m] = partial[m].sum();
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Isa, Kernel};

    /// The sum of the numbers 0, 1, ..., and of as many ones.
    struct Count(usize);

    impl Kernel for Count {
        type Output = [f32; 2];

        #[inline(always)]
        fn run<S: Vectors>(self, simd: S) -> [f32; 2] {
            let row: Vec<f32> = (0..self.0).map(|i| i as f32).collect();
            sums!(simd, [&row], |[x]| [x, Lanes::splat(simd, 1.0)])
        }
    }

    #[test]
    fn sums_cover_every_length() {
        for (isa, len) in Isa::available().into_iter().flat_map(|isa| (0..70).map(move |len| (isa, len))) {
            let want = [(0..len).sum::<usize>() as f32, len as f32];
            assert_eq!(isa.run_generic(Count(len)), want, "{}", isa.name());
        }
    }
}
