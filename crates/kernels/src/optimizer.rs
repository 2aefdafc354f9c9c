//! AdamW (Loshchilov, Hutter 2019), element by element, as PyTorch's `torch.optim.AdamW` computes it.

use crate::{Isa, math};

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

/// `sum x^2` in f64, over blocks summed in f32.
pub fn sum_squares(isa: Isa, x: &[f32]) -> f64 {
    isa.run(
        #[inline(always)]
        || x.chunks(4096).map(|x| f64::from(math::lane_sum([x], |[x]| x * x))).sum(),
    )
}
