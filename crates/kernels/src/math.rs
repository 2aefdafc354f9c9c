//! Shared by the row kernels: an exponential that the compiler can vectorise, the largest element, sums.

use crate::isa::{Isa, Vectors};

/// Numbers that rows are taken in, whatever the instruction set: enough for one AVX-512 register.
pub(crate) const LANES: usize = 16;

/// The largest element; minus infinity for an empty row. It may skip a NaN; whatever reads the row next does not.
#[inline(always)]
pub(crate) fn max(row: &[f32]) -> f32 {
    let mut best = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            best[lane] = if chunk[lane] > best[lane] { chunk[lane] } else { best[lane] };
        }
    }
    let most = |a: f32, &b: &f32| if b > a { b } else { a };
    rest.iter().fold(best.iter().fold(f32::NEG_INFINITY, most), most)
}

/// What [`exp`] clamps to.
const LOWEST: f32 = -87.3;
const HIGHEST: f32 = 88.3;
/// 1.5 * 2^23.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts, the first of few digits.
const LN2_HI: f32 = 0.693_359_4;
const LN2_LO: f32 = -2.121_944_4e-4;
/// `(e^r - r - 1) / r^2` for small r, the highest power first.
const POLYNOMIAL: [f32; 6] = [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5];

/// `e^x` to 2 ulp for `-87 <= x <= 88`, clamped outside; NaN stays NaN.
///
/// `x = k ln 2 + r` with `|r| <= ln 2 / 2`; `e^r` is a polynomial and `2^k` goes straight into the exponent bits.
/// Adding 1.5 * 2^23 rounds to an integer and leaves it in the low mantissa bits, which saves a conversion.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = x.clamp(LOWEST, HIGHEST);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = (x - k * LN2_HI) - k * LN2_LO;
    let mut p = POLYNOMIAL[0];
    for coefficient in &POLYNOMIAL[1..] {
        p = p * r + coefficient;
    }
    let power = p * (r * r) + r + 1.0;
    f32::from_bits(power.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// [`exp`] of each lane, with the same bits.
#[inline(always)]
pub(crate) fn exps<S: Vectors>(simd: S, x: S::f32s) -> S::f32s {
    let splat = |x| simd.splat_f32s(x);
    let (add, sub, mul) = (|a, b| simd.add_f32s(a, b), |a, b| simd.sub_f32s(a, b), |a, b| simd.mul_f32s(a, b));
    // In this order, x86's instructions keep a NaN.
    let clamped = simd.min_f32s(splat(HIGHEST), simd.max_f32s(splat(LOWEST), x));
    let shifted = add(mul(clamped, splat(std::f32::consts::LOG2_E)), splat(ROUND));
    let k = sub(shifted, splat(ROUND));
    let r = sub(sub(clamped, mul(k, splat(LN2_HI))), mul(k, splat(LN2_LO)));
    let mut p = splat(POLYNOMIAL[0]);
    for &coefficient in &POLYNOMIAL[1..] {
        p = add(mul(p, r), splat(coefficient));
    }
    let power = add(add(mul(p, mul(r, r)), r), splat(1.0));
    let exponent = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    let power = simd.transmute_f32s_u32s(simd.add_u32s(simd.transmute_u32s_f32s(power), exponent));
    if S::F32_LANES > 1 { power } else { simd.select_f32s(simd.equal_f32s(x, x), power, x) }
}

/// `tanh x = 1 - 2 / (e^2x + 1)`, to about 1e-7 absolute.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// `tanh x` to about 5e-7 relative. Near 0, where [`tanh`] subtracts two numbers near 1, it uses the series.
#[inline(always)]
pub(crate) fn exact_tanh(x: f32) -> f32 {
    let s = x * x;
    let series = x + x * s * (-0.333_333_34 + s * (0.133_333_34 + s * (-0.053_968_254 + s * 0.021_869_488)));
    if s < 0.09 { series } else { tanh(x) }
}

/// The error function to 1.5e-7 absolute (Abramowitz and Stegun 7.1.26).
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let poly = t * (0.254_829_6 + t * (-0.284_496_72 + t * (1.421_413_8 + t * (-1.453_152_1 + t * 1.061_405_4))));
    (1.0 - poly * exp(-a * a)).copysign(x)
}

/// `y += x` (n elements).
pub fn add(isa: Isa, y: &mut [f32], x: &[f32]) {
    assert_eq!(y.len(), x.len());
    isa.run(
        #[inline(always)]
        || {
            for (y, x) in y.iter_mut().zip(x) {
                *y += x;
            }
        },
    );
}

/// `sums (c) += ` column sums of `x (n, c)`.
pub fn sum_rows(isa: Isa, sums: &mut [f32], x: &[f32]) {
    isa.run(
        #[inline(always)]
        || {
            for row in x.chunks_exact(sums.len().max(1)) {
                for (sum, x) in sums.iter_mut().zip(row) {
                    *sum += x;
                }
            }
        },
    );
}

/// The nearest bf16 number (eight significant bits), ties to even.
#[inline(always)]
pub(crate) fn round_to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = f32::from_bits(bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000);
    if x.is_nan() { x } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Kernel;

    #[test]
    fn exp_is_within_two_ulp() {
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((got / want - 1.0).abs() < 2.4e-7, "exp({x}) = {got}, want {want}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 1.3e-38);
    }

    #[test]
    fn exps_has_the_bits_of_exp() {
        struct Of<'a>(&'a mut [f32]);
        impl Kernel for Of<'_> {
            type Output = ();

            #[inline(always)]
            fn run<S: Vectors>(self, simd: S) {
                let (vectors, rest) = S::as_mut_simd_f32s(self.0);
                assert!(rest.is_empty());
                vectors.iter_mut().for_each(|x| *x = exps(simd, *x));
            }
        }
        let specials = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-40, 88.3, -87.3];
        let x: Vec<f32> = (0..4088).map(|i| (i - 2044) as f32 * 0.05).chain(specials).collect();
        for isa in Isa::available() {
            let mut got = x.clone();
            isa.run_generic(Of(&mut got));
            let same =
                |(x, got): (&f32, &f32)| if x.is_nan() { got.is_nan() } else { exp(*x).to_bits() == got.to_bits() };
            assert!(x.iter().zip(&got).all(same), "{}", isa.name());
        }
    }

    #[test]
    fn tanh_and_erf_are_close() {
        for (x, want) in [(0.0, 0.0), (0.5, 0.520_499_9), (1.0, 0.842_700_8), (-2.0, -0.995_322_3), (4.0, 1.0)] {
            assert!((erf(x) - want).abs() < 3e-7, "erf({x})");
        }
        for i in -1000..1000 {
            let x = i as f32 * 0.01;
            assert!((f64::from(tanh(x)) - f64::from(x).tanh()).abs() < 2e-7, "tanh({x})");
        }
        for x in (-1000..1000).map(|i| i as f32 * 0.003).chain([1e-30, 1e-6, 50.0, -1e9]) {
            let (got, want) = (f64::from(exact_tanh(x)), f64::from(x).tanh());
            assert!((got - want).abs() <= 8e-7 * want.abs(), "tanh({x}) = {got}, want {want}");
        }
        assert!(exact_tanh(f32::NAN).is_nan());
    }
}
