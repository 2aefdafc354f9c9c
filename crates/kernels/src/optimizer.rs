//! AdamW (Loshchilov, Hutter 2019), element by element, and Muon (Jordan et al. 2024), matrix by matrix, as PyTorch's
//! `torch.optim.AdamW` and `torch.optim.Muon` compute them.

use crate::{Isa, Mat, MatMut, Start, gemm, gemm::mirror, math};
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
    /// What the gradient is multiplied with first (clipping).
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
    /// Decay of the gradient's mean.
    pub momentum: f64,
    /// Steps of the Newton-Schulz iteration.
    pub ns_steps: usize,
    /// Decoupled weight decay, per unit of learning rate.
    pub weight_decay: f64,
    /// What the gradient is multiplied with first (clipping).
    pub grad_scale: f64,
}

/// The coefficients of the iteration `X <- a X + b (X X^T) X + c (X X^T)^2 X`: singular values above a few thousandths
/// come near 1 in five steps, if not to it.
pub const NEWTON_SCHULZ: [f64; 3] = [3.4445, -4.7750, 2.0315];

/// A gradient's norm is taken as at least this.
pub const MUON_EPS: f64 = 1e-7;

/// What the learning rate of a matrix is multiplied with: an orthogonal one with more rows than columns has smaller rows.
pub fn muon_factor(rows: usize, cols: usize) -> f64 {
    (rows as f64 / cols as f64).max(1.0).sqrt()
}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = RefCell::default();
}

/// One step of a matrix `p (rows, cols)`: with `g` the scaled gradient,
/// `m += (1 - momentum)(g - m)`, `x = g + momentum (m - g)` (Nesterov's), `p -= lr wd p`,
/// `p -= lr sqrt(max(1, rows / cols)) orthogonal(x)`, where the iteration above makes `x / |x|` nearly orthogonal.
pub fn muon(isa: Isa, p: &mut [f32], g: &[f32], m: &mut [f32], rows: usize, cols: usize, h: &Muon) {
    let n = rows * cols;
    assert!(p.len() == n && g.len() == n && m.len() == n && n > 0);
    SCRATCH.with_borrow_mut(|scratch| {
        let len = muon_scratch(rows, cols);
        if scratch.len() < len {
            scratch.resize(len, 0.0);
        }
        // What was used before may be longer.
        let (x, rest) = scratch[..len].split_at_mut(n);
        let (spare, rest) = rest.split_at_mut(n);
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
        orthogonal(isa, x, spare, rows, cols, h.ns_steps, rest);
        let shrink = (1.0 - h.lr * h.weight_decay) as f32;
        let step_size = (h.lr * muon_factor(rows, cols)) as f32;
        isa.run(
            #[inline(always)]
            || {
                for (p, x) in p.iter_mut().zip(&*x) {
                    *p = *p * shrink - step_size * x;
                }
            },
        );
    });
}

/// The Newton-Schulz iteration on `x (rows, cols)` in `steps` steps, in place; `spare` is as long, `scratch` has 5 r^2
/// numbers, r being the smaller of rows and columns.
///
/// Every step multiplies by `P = a + b G + c G^2`, `G = X X^T` (r, r) (or from the right, `G = X^T X`, where there are more
/// rows than columns). Where X is much longer than r, it is left alone meanwhile: all these matrices are polynomials of the
/// first G, so they commute, and `Q <- P Q`, `G <- P G P` do without X until it is multiplied by the last Q. That is for a
/// few steps only: what rounding makes of a singular value of 0 grows twelvefold in each.
fn orthogonal(isa: Isa, x: &mut [f32], spare: &mut [f32], rows: usize, cols: usize, steps: usize, scratch: &mut [f32]) {
    let r = rows.min(cols);
    let [a, b, c] = NEWTON_SCHULZ.map(|x| x as f32);
    let mut squares = scratch.chunks_exact_mut(r * r);
    let [g, p, mut q, mut spare_q, gp] = std::array::from_fn(|_| squares.next().expect("5 r^2 numbers"));
    fn square(x: &[f32], r: usize) -> Mat<'_> {
        Mat::new(x, r, r)
    }
    let gram = |g: &mut [f32], x: &[f32]| {
        let x = Mat::new(x, rows, cols);
        let wide = if rows <= cols { x } else { x.t() };
        symmetric(isa, g, wide, wide.t());
    };
    let polynomial = |p: &mut [f32], g: &[f32]| {
        symmetric(isa, p, square(g, r), square(g, r));
        isa.run(
            #[inline(always)]
            || p.iter_mut().zip(g).for_each(|(p, g)| *p = b * g + c * *p),
        );
        p.iter_mut().step_by(r + 1).for_each(|p| *p += a);
    };
    let multiply = |x: &mut [f32], by: &[f32], spare: &mut [f32]| {
        let (from, to) = (Mat::new(x, rows, cols), MatMut::new(spare, rows, cols));
        let (first, second) = if rows <= cols { (square(by, r), from) } else { (from, square(by, r)) };
        gemm(isa, to, Start::Zero, first, second);
        x.copy_from_slice(spare);
    };
    if !leaves_alone(rows, cols, steps) {
        for _ in 0..steps {
            gram(g, x);
            polynomial(p, g);
            multiply(x, p, spare);
        }
        return;
    }
    gram(g, x);
    for step in 0..steps {
        polynomial(p, g);
        if step + 1 < steps {
            symmetric(isa, gp, square(g, r), square(p, r));
            symmetric(isa, g, square(gp, r), square(p, r));
        }
        if step == 0 {
            q.copy_from_slice(p);
        } else {
            symmetric(isa, spare_q, square(q, r), square(p, r));
            std::mem::swap(&mut q, &mut spare_q);
        }
    }
    multiply(x, q, spare);
}

/// Whether the iteration leaves its matrix alone until the end.
fn leaves_alone(rows: usize, cols: usize, steps: usize) -> bool {
    rows.max(cols) >= 2 * rows.min(cols) && steps <= 6
}

/// Floats of scratch space that [`muon`] takes on its thread.
pub fn muon_scratch(rows: usize, cols: usize) -> usize {
    2 * rows * cols + 5 * rows.min(cols).pow(2)
}

/// Multiply-adds of the iteration, without what symmetry saves.
pub fn muon_multiply_adds(rows: usize, cols: usize, steps: usize) -> usize {
    let (r, n) = (rows.min(cols), rows * cols);
    if leaves_alone(rows, cols, steps) {
        // G and the product with Q; per step G^2, P Q, and but for the last G P and G P P.
        2 * r * n + (4 * steps - 3) * r.pow(3)
    } else {
        steps * (2 * r * n + r.pow(3))
    }
}

/// `c (r, r) = A B`, known to be symmetric: only what is above the diagonal is computed.
fn symmetric(isa: Isa, c: &mut [f32], a: Mat, b: Mat) {
    let r = a.shape().0;
    // Few rows at once, so that little below the diagonal is computed too.
    let panel = (r / 8).max(1).next_multiple_of(32);
    for i in (0..r).step_by(panel) {
        let rows = panel.min(r - i);
        let part = MatMut::strided(&mut c[i * r + i..], rows, r - i, r);
        gemm(isa, part, Start::Zero, a.rows(i..i + rows), b.t().rows(i..r).t());
    }
    mirror(isa, c, r);
}

/// `sum x^2` in f64, over blocks summed in f32.
pub fn sum_squares(isa: Isa, x: &[f32]) -> f64 {
    isa.run(
        #[inline(always)]
        || x.chunks(4096).map(|x| f64::from(math::lane_sum([x], |[x]| x * x))).sum(),
    )
}
