//! Rounding with error feedback: GPTQ (Frantar, Ashkboos, Hoefler, Alistarh 2023).
//!
//! A layer puts out `W x`. Columns of W are rounded one after another. The error that this leaves in the output, on the inputs
//! that were measured, is made up for by the columns after it as well as they can: with `H = E[x x^T]` and `H^-1 = U^T U`,
//! U upper triangular, column j then changes by `-(w_i - q_i) U[i, j] / U[i, i]`.

use super::{Rounded, fine_scale, group, groups, inverse, plain_scale, range, rounded};
use crate::{config::Quantization, threads::for_each};
use rayon::prelude::*;

/// What is added to the diagonal of H, as a fraction of its mean: it keeps H invertible, and trusts few inputs less.
const DAMPING: f64 = 0.01;

/// Rows of W that a thread rounds at once: U is read once for all of them.
const ROWS: usize = 8;

/// Rounds `w (rows, cols)`, where `gram (cols, cols)` is the sum of `x x^T` over the inputs of the layer.
///
/// # Panics
/// If the scheme is [`Quantization::None`], or the lengths do not fit.
pub fn round(scheme: Quantization, w: &[f32], cols: usize, gram: &[f32]) -> Rounded {
    assert!(scheme != Quantization::None && gram.len() == cols * cols && w.len().is_multiple_of(cols));
    let importance: Vec<f32> = (0..cols).map(|i| gram[i * cols + i]).collect();
    let Some(u) = factor(gram, cols) else {
        return Rounded::new(scheme, w, cols, Some(&importance));
    };
    let of = Layer { scheme, cols, u: &u, importance: &importance };
    let groups = groups(scheme, cols);
    let (mut codes, mut scales) = (vec![0; w.len()], vec![0.0; w.len() / cols * groups]);
    let rows =
        codes.par_chunks_mut(ROWS * cols).zip(scales.par_chunks_mut(ROWS * groups)).zip(w.par_chunks(ROWS * cols));
    for_each(rows, |((codes, scales), w)| of.round_rows(codes, scales, &mut w.to_vec()));
    // Where a scale is not finite, the caller's check says so.
    Rounded { scheme, rows: w.len() / cols, cols, codes, scales }
}

/// What all rows of a layer share.
struct Layer<'a> {
    scheme: Quantization,
    cols: usize,
    /// U, by rows.
    u: &'a [f32],
    /// Of each column.
    importance: &'a [f32],
}

impl Layer<'_> {
    /// Rounds some rows; of `w`, nothing is left in the end.
    fn round_rows(&self, codes: &mut [i8], scales: &mut [f32], w: &mut [f32]) {
        let &Layer { scheme, cols, u, importance } = self;
        let (width, groups, (least, most)) = (group(scheme, cols), groups(scheme, cols), range(scheme));
        for (i, u) in u.chunks_exact(cols).enumerate() {
            let rows = w.chunks_exact_mut(cols).zip(codes.chunks_exact_mut(cols)).zip(scales.chunks_exact_mut(groups));
            for ((w, codes), scales) in rows {
                let scale = &mut scales[i / width];
                if i % width == 0 {
                    let w = &w[i..cols.min(i + width)];
                    *scale = match scheme {
                        Quantization::W4 => fine_scale(w, &importance[i..][..w.len()]),
                        _ => plain_scale(scheme, w),
                    };
                }
                let q = rounded(w[i] * inverse(*scale), least, most);
                codes[i] = q as i8;
                let error = (w[i] - q * *scale) / u[i];
                w[i + 1..].iter_mut().zip(&u[i + 1..]).for_each(|(w, u)| *w -= error * u);
            }
        }
    }
}

/// U, by rows, for a damped `gram`; none if that has no inverse, as where it is not finite.
///
/// With the order of rows and columns turned round, `H = L L^T` becomes `H = R R^T` with R upper triangular, and
/// `H^-1 = (R^-1)^T R^-1`: U is the inverse of R.
fn factor(gram: &[f32], n: usize) -> Option<Vec<f32>> {
    let mean = (0..n).map(|i| f64::from(gram[i * n + i])).sum::<f64>() / n as f64;
    // A column that is never used may be rounded in any way.
    let damping = if mean > 0.0 { DAMPING * mean } else { 1.0 };
    let turned = |i: usize, j: usize| f64::from(gram[(n - 1 - i) * n + n - 1 - j]) + if i == j { damping } else { 0.0 };
    let mut l = vec![0.0f64; n * n];
    for i in 0..n {
        let (above, row) = l.split_at_mut(i * n);
        for j in 0..i {
            let of_j = &above[j * n..][..=j];
            let dot: f64 = row[..j].iter().zip(of_j).map(|(a, b)| a * b).sum();
            row[j] = (turned(i, j) - dot) / of_j[j];
        }
        let rest = turned(i, i) - row[..i].iter().map(|a| a * a).sum::<f64>();
        if !(rest > 0.0 && rest.is_finite()) {
            return None;
        }
        row[i] = rest.sqrt();
    }
    // The inverse of L: each of its rows is a sum of those before.
    let mut inverse = vec![0.0f64; n * n];
    for i in 0..n {
        let (above, row) = inverse.split_at_mut(i * n);
        let row = &mut row[..n];
        for k in 0..i {
            let factor = l[i * n + k];
            row[..=k].iter_mut().zip(&above[k * n..][..=k]).for_each(|(x, y)| *x -= factor * y);
        }
        let diagonal = 1.0 / l[i * n + i];
        row[..i].iter_mut().for_each(|x| *x *= diagonal);
        row[i] = diagonal;
    }
    Some((0..n * n).map(|at| inverse[(n - 1 - at / n) * n + n - 1 - at % n] as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(len: usize, seed: u32) -> Vec<f32> {
        let mix = |i: u32| (i ^ i >> 15).wrapping_mul(0x2c1b_3c6d) ^ seed.wrapping_mul(0x9e37_79b9);
        (0..len as u32).map(|i| (mix(mix(i + 1)) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    /// Inputs whose channels depend on each other.
    fn inputs(n: usize, cols: usize) -> Vec<f32> {
        let (common, own) = (numbers(n, 3), numbers(n * cols, 4));
        (0..n * cols).map(|at| common[at / cols] * (1.0 + (at % cols) as f32 / 8.0) + 0.3 * own[at]).collect()
    }

    fn gram(x: &[f32], cols: usize) -> Vec<f32> {
        let at = |i: usize, j: usize| x.chunks_exact(cols).map(|x| x[i] * x[j]).sum();
        (0..cols * cols).map(|k| at(k / cols, k % cols)).collect()
    }

    #[test]
    fn u_is_the_factor_of_the_inverse() {
        let n = 37;
        let h = gram(&inputs(200, n), n);
        let u = factor(&h, n).unwrap();
        let damping = DAMPING * (0..n).map(|i| f64::from(h[i * n + i])).sum::<f64>() / n as f64;
        // (U^T U) H = 1, and U is upper triangular.
        for i in 0..n {
            assert!(u[i * n..][..i].iter().all(|&x| x == 0.0) && u[i * n + i] > 0.0);
            for j in 0..n {
                let of_u = |k: usize| (0..n).map(|l| f64::from(u[l * n + i]) * f64::from(u[l * n + k])).sum::<f64>();
                let of_h = |k: usize| f64::from(h[k * n + j]) + if k == j { damping } else { 0.0 };
                let one: f64 = (0..n).map(|k| of_u(k) * of_h(k)).sum();
                assert!((one - f64::from(u8::from(i == j))).abs() < 1e-3, "{i} {j}: {one}");
            }
        }
        assert!(factor(&[f32::NAN; 4], 2).is_none());
    }

    #[test]
    fn the_output_is_nearer_than_without() {
        let (rows, cols) = (24, 72);
        let (w, x) = (numbers(rows * cols, 1), inputs(400, cols));
        let h = gram(&x, cols);
        let importance: Vec<f32> = (0..cols).map(|i| h[i * cols + i]).collect();
        let error = |made: &Rounded| {
            let mut q = vec![0.0; w.len()];
            made.numbers(&mut q);
            let off: Vec<f32> = q.iter().zip(&w).map(|(q, w)| q - w).collect();
            let of = |off: &[f32], x: &[f32]| f64::from(x.iter().zip(off).map(|(x, d)| x * d).sum::<f32>()).powi(2);
            off.chunks_exact(cols).map(|off| x.chunks_exact(cols).map(|x| of(off, x)).sum::<f64>()).sum::<f64>()
        };
        for scheme in [Quantization::W8, Quantization::W4] {
            let plain = error(&Rounded::new(scheme, &w, cols, None));
            let searched = error(&Rounded::new(scheme, &w, cols, Some(&importance)));
            let fed_back = error(&round(scheme, &w, cols, &h));
            assert!(searched <= plain && fed_back < 0.5 * searched, "{scheme:?} {plain} {searched} {fed_back}");
        }
    }
}
