//! Fills in the other half of a symmetric matrix.

use super::pack::{SQUARE, transpose};
use crate::isa::{Isa, Kernel, Vectors};

/// Copies what is above the diagonal of `c (r, r)` to below it.
pub(crate) fn mirror(isa: Isa, c: &mut [f32], r: usize) {
    assert_eq!(c.len(), r * r);
    isa.run_generic(Mirror { c, r });
}

struct Mirror<'a> {
    c: &'a mut [f32],
    r: usize,
}

impl Kernel for Mirror<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Vectors>(self, simd: S) {
        let Mirror { c, r } = self;
        for i0 in (0..r).step_by(SQUARE) {
            let rows = SQUARE.min(r - i0);
            if rows == SQUARE {
                for j0 in (0..i0).step_by(SQUARE) {
                    let c = c.as_mut_ptr();
                    // SAFETY: both squares lie in C, and they are on opposite sides of the diagonal, so they do not
                    // overlap.
                    unsafe { transpose(simd, c.add(i0 * r + j0), r, c.add(j0 * r + i0), r) }
                }
            }
            // The squares on the diagonal, and all of the last rows if there are fewer than eight.
            for i in i0..i0 + rows {
                for j in if rows == SQUARE { i0 } else { 0 }..i {
                    c[i * r + j] = c[j * r + i];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirrored_matrix_is_symmetric() {
        for isa in Isa::available() {
            for r in [1, 7, 8, 9, 24, 30] {
                let from: Vec<f32> = (0..r * r).map(|i| i as f32).collect();
                let mut c = from.clone();
                mirror(isa, &mut c, r);
                let want = |i: usize, j: usize| from[i.min(j) * r + i.max(j)];
                assert!((0..r * r).all(|at| c[at] == want(at / r, at % r)), "{} {r}", isa.name());
            }
        }
    }
}
