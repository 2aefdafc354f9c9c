//! AdamW (Loshchilov, Hutter 2019), element by element, and Muon (Jordan et al. 2024), matrix by matrix, as PyTorch's
//! `torch.optim.AdamW` and `torch.optim.Muon` compute them.

use crate::{
    floats::Floats,
    gemm::{Init, Mat, MatMut, Precision, Rhs, gemm_with, mirror},
    isa::{Isa, Kernel, Vectors},
    lanes::sums,
    math,
};
use std::cell::RefCell;

/// The constants of one AdamW step, in f64: `1 - 0.999` and `1 - 0.999^step` lose digits in f32.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled weight decay, per unit of learning rate.
    pub weight_decay: f64,
    /// Which step this is, from 1, for the bias correction.
    pub step: u64,
    /// The factor applied to the gradient first (clipping).
    pub grad_scale: f64,
}

/// One step: with `g` the scaled gradient,
/// `p -= lr wd p`, `m += (1 - beta1)(g - m)`, `v = beta2 v + (1 - beta2) g^2`,
/// `p -= lr / (1 - beta1^step) * m / (sqrt(v / (1 - beta2^step)) + eps)`. All slices have the same length.
pub fn adamw(isa: Isa, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], h: &AdamW) {
    let n = p.len();
    assert!(g.len() == n && m.len() == n && v.len() == n);
    let step_size = (h.lr / (1.0 - h.beta1.powf(h.step as f64))) as f32;
    let v_scale = (1.0 / (1.0 - h.beta2.powf(h.step as f64)).sqrt()) as f32;
    let shrink = (1.0 - h.lr * h.weight_decay) as f32;
    let (new1, beta2, new2) = ((1.0 - h.beta1) as f32, h.beta2 as f32, (1.0 - h.beta2) as f32);
    let (eps, grad_scale) = (h.eps as f32, h.grad_scale as f32);
    isa.run(
        #[inline(always)]
        || {
            for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                let g = g * grad_scale;
                *m += new1 * (g - *m);
                *v = beta2 * *v + new2 * g * g;
                *p = *p * shrink - step_size * *m / (v.sqrt() * v_scale + eps);
            }
        },
    );
}

/// The constants of one Muon step.
#[derive(Clone, Copy, Debug)]
pub struct Muon {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the gradient's running mean.
    pub momentum: f64,
    /// Steps of the Newton-Schulz iteration.
    pub ns_steps: usize,
    /// Decoupled weight decay, per unit of learning rate.
    pub weight_decay: f64,
    /// The factor applied to the gradient first (clipping).
    pub grad_scale: f64,
}

/// The coefficients of the iteration `X <- a X + b (X X^T) X + c (X X^T)^2 X`: five steps bring singular values above a
/// few thousandths close to 1, although they do not converge to it.
pub const NEWTON_SCHULZ: [f64; 3] = [3.4445, -4.7750, 2.0315];

/// Lower bound of the norm that a gradient is divided by.
pub const MUON_EPS: f64 = 1e-7;

/// The factor on the learning rate of a matrix: an orthogonal matrix with more rows than columns has shorter rows.
pub fn muon_factor(rows: usize, cols: usize) -> f64 {
    (rows as f64 / cols as f64).max(1.0).sqrt()
}

thread_local! {
    static SCRATCH: RefCell<Floats> = RefCell::default();
}

/// One step of a matrix `p` of this shape, `(rows, columns)`: with `g` the scaled gradient,
/// `m += (1 - momentum)(g - m)`, `x = g + momentum (m - g)` (Nesterov's), `p -= lr wd p`,
/// `p -= lr sqrt(max(1, rows / cols)) orthogonal(x)`. Here `orthogonal(x)` is `x / |x|` made nearly orthogonal by the
/// iteration above, with products in this precision.
pub fn muon(isa: Isa, precision: Precision, p: &mut [f32], g: &[f32], m: &mut [f32], shape: (usize, usize), h: &Muon) {
    let (rows, cols) = shape;
    let n = rows * cols;
    assert!(p.len() == n && g.len() == n && m.len() == n && n > 0);
    SCRATCH.with_borrow_mut(|scratch| {
        let len = muon_scratch(rows, cols);
        scratch.grow(len);
        // It may be longer, from an earlier call.
        let (x, rest) = scratch[..len].split_at_mut(n);
        let (momentum, new, grad_scale) = (h.momentum as f32, (1.0 - h.momentum) as f32, h.grad_scale as f32);
        isa.run(
            #[inline(always)]
            || {
                for ((x, &g), m) in x.iter_mut().zip(g).zip(&mut *m) {
                    let g = g * grad_scale;
                    *m += new * (g - *m);
                    *x = g + momentum * (*m - g);
                }
            },
        );
        let scale = (1.0 / sum_squares(isa, x).sqrt().max(MUON_EPS)) as f32;
        isa.run(
            #[inline(always)]
            || x.iter_mut().for_each(|x| *x *= scale),
        );
        let x = NewtonSchulz { isa, precision, rows, cols }.orthogonal(x, rest, h.ns_steps);
        let shrink = (1.0 - h.lr * h.weight_decay) as f32;
        let step_size = (h.lr * muon_factor(rows, cols)) as f32;
        isa.run(
            #[inline(always)]
            || {
                for (p, x) in p.iter_mut().zip(x) {
                    *p = *p * shrink - step_size * x;
                }
            },
        );
    });
}

/// The iteration on matrices of one shape.
///
/// Every step multiplies by `P = a + b G + c G^2` with `G = X X^T` (r, r), where r is the smaller of rows and columns
/// (with more rows than columns, from the right and with `G = X^T X`). If X is much longer than r, the steps leave it
/// out: all these matrices are polynomials of the first G, so they commute, and `Q <- P Q`, `G <- P G P` do not need X
/// until it is multiplied by the last Q. This is only for a few steps in f32, because the rounding error of a singular
/// value of 0 grows twelvefold in each.
struct NewtonSchulz {
    isa: Isa,
    precision: Precision,
    rows: usize,
    cols: usize,
}

impl NewtonSchulz {
    /// `x (rows, cols)` after `steps` steps; `scratch` has as many numbers plus 5 r^2.
    fn orthogonal<'a>(&self, mut x: &'a mut [f32], scratch: &'a mut [f32], steps: usize) -> &'a [f32] {
        let r = self.rows.min(self.cols);
        let (mut spare, squares) = scratch.split_at_mut(x.len());
        let mut squares = squares.chunks_exact_mut(r * r);
        let [g, mut p, mut q, mut spare_q, gp] = std::array::from_fn(|_| squares.next().expect("5 r^2 numbers"));
        let long = self.rows.max(self.cols) >= 2 * r;
        let leaves_alone = self.precision == Precision::F32 && long && (1..=6).contains(&steps);
        if !leaves_alone {
            for _ in 0..steps {
                self.gram(g, x);
                self.polynomial(p, g);
                self.multiply(spare, x, p);
                std::mem::swap(&mut x, &mut spare);
            }
            return x;
        }
        self.gram(g, x);
        for step in 0..steps {
            self.polynomial(p, g);
            if step + 1 < steps {
                self.symmetric(gp, square(g, r), square(p, r));
                self.symmetric(g, square(gp, r), square(p, r));
            }
            if step == 0 {
                std::mem::swap(&mut q, &mut p); // times the unit matrix
            } else {
                self.symmetric(spare_q, square(q, r), square(p, r));
                std::mem::swap(&mut q, &mut spare_q);
            }
        }
        self.multiply(spare, x, q);
        spare
    }

    /// `g = X X^T` or `X^T X`, whichever is smaller.
    fn gram(&self, g: &mut [f32], x: &[f32]) {
        let x = Mat::new(x, self.rows, self.cols);
        let wide = if self.rows <= self.cols { x } else { x.t() };
        self.symmetric(g, wide, wide.t());
        if self.precision != Precision::F32 {
            // G^2 will be computed from the rounded G. Both terms of b G + c G^2 must use the same G, or the error is
            // twice as large.
            self.isa.run(
                #[inline(always)]
                || g.iter_mut().for_each(|g| *g = math::round_to_bf16(*g)),
            );
        }
    }

    /// `p = a + b G + c G^2`.
    fn polynomial(&self, p: &mut [f32], g: &[f32]) {
        let r = self.rows.min(self.cols);
        let [a, b, c] = NEWTON_SCHULZ.map(|x| x as f32);
        self.symmetric(p, square(g, r), square(g, r));
        self.isa.run(
            #[inline(always)]
            || p.iter_mut().zip(g).for_each(|(p, g)| *p = b * g + c * *p),
        );
        p.iter_mut().step_by(r + 1).for_each(|p| *p += a);
    }

    /// `to = by X` or `X by`.
    fn multiply(&self, to: &mut [f32], x: &[f32], by: &[f32]) {
        let (x, by) = (Mat::new(x, self.rows, self.cols), square(by, self.rows.min(self.cols)));
        let (first, second) = if self.rows <= self.cols { (by, x) } else { (x, by) };
        self.gemm(MatMut::new(to, self.rows, self.cols), first, second);
    }

    /// `c (r, r) = A B`, which is known to be symmetric: part of what is below the diagonal is mirrored, not computed.
    fn symmetric(&self, c: &mut [f32], a: Mat, b: Mat) {
        let r = a.shape().0;
        // In f32 a product skips whole panels of up to 64 columns: a matrix no wider than that is split here, so that
        // there is something to skip.
        let part = if self.precision == Precision::F32 && r <= 64 { r.div_ceil(2) } else { r };
        for i in (0..r).step_by(part) {
            let rows = part.min(r - i);
            let to = MatMut::strided(&mut c[i * r + i..], rows, r - i, r).not_below(0);
            self.gemm(to, a.rows(i..i + rows), b.t().rows(i..r).t());
        }
        mirror(self.isa, c, r);
    }

    fn gemm(&self, c: MatMut, a: Mat, b: Mat) {
        gemm_with(self.isa, self.precision, c, Init::Zero, a, Rhs::Mat(b), None);
    }
}

fn square(x: &[f32], r: usize) -> Mat<'_> {
    Mat::new(x, r, r)
}

/// Floats of scratch memory that [`muon`] uses on its thread.
pub fn muon_scratch(rows: usize, cols: usize) -> usize {
    2 * rows * cols + 5 * rows.min(cols).pow(2)
}

/// Multiply-adds of the iteration as it is written above, regardless of what shortcuts and symmetry save.
pub fn muon_multiply_adds(rows: usize, cols: usize, steps: usize) -> usize {
    let r = rows.min(cols);
    steps * (2 * r * rows * cols + r.pow(3))
}

/// `sum x^2` in f64, over blocks summed in f32.
pub fn sum_squares(isa: Isa, x: &[f32]) -> f64 {
    isa.run_generic(SumSquares { x })
}

struct SumSquares<'a> {
    x: &'a [f32],
}

impl Kernel for SumSquares<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Vectors>(self, simd: S) -> f64 {
        const BLOCK: usize = 4096;
        // Two blocks side by side: a single sum would wait for its own latency, and memory is read faster in two places.
        let (pairs, rest) = self.x.as_chunks::<{ 2 * BLOCK }>();
        let mut sum = 0.0;
        for pair in pairs {
            let (x, y) = pair.split_at(BLOCK);
            let [one, two] = sums!(simd, [x, y], |[x, y]| [x * x, y * y]);
            sum += f64::from(one);
            sum += f64::from(two);
        }
        for block in rest.chunks(BLOCK) {
            sum += f64::from(sums!(simd, [block], |[x]| [x * x])[0]);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PyTorch, which iterates in bf16 always, is off by 0.014 to 0.021 on these.
    #[test]
    fn muon_in_bf16_is_near_muon_in_f32() {
        let h = Muon { lr: 1.0, momentum: 0.0, ns_steps: 5, weight_decay: 0.0, grad_scale: 1.0 };
        for isa in Isa::available() {
            for (rows, cols) in [(64, 64), (40, 200), (200, 40), (1, 7), (70, 65)] {
                let g: Vec<f32> = (0..rows * cols).map(|i| ((i * i) as f32 * 0.37).sin()).collect();
                let update = |precision| {
                    let (mut p, mut m) = (vec![0.0; g.len()], vec![0.0; g.len()]);
                    muon(isa, precision, &mut p, &g, &mut m, (rows, cols), &h);
                    p
                };
                let want = update(Precision::F32);
                let norm = |x: &[f32]| sum_squares(isa, x).sqrt();
                for precision in Precision::available(isa).into_iter().skip(1) {
                    let difference: Vec<f32> = update(precision).iter().zip(&want).map(|(x, want)| x - want).collect();
                    let off = norm(&difference) / norm(&want);
                    assert!(off > 0.0 && off < 0.03, "{rows}x{cols} {}: {off}", precision.name());
                }
            }
        }
    }
}
