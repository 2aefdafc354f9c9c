//! Softmax and cross-entropy in one pass over the logits: `loss_i = log(sum_j e^{z_ij}) - z_i,target`; and the soft
//! cap, which keeps the logits small.

use crate::{
    isa::{Isa, Kernel, Vectors},
    lanes::{Lanes, sums},
    math,
};

/// The target of a row that is not to be predicted: its loss and its gradient are 0.
pub const IGNORE: u32 = u32::MAX;

/// What is differentiated: `scale` times the sum over rows of the loss and of `z_loss * lse^2` (PaLM, Chowdhery et al.
/// 2022), where `lse = log(sum_j e^{z_j})`. The gradient is with respect to the logits or, with `softcap`, to the input
/// of [`softcap`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objective {
    /// The factor on the whole objective.
    pub scale: f64,
    /// The weight of the penalty `lse^2`, which keeps the logits' log-sum-exp near 0.
    pub z_loss: f64,
    /// The cap that the logits went through; 0 if none.
    pub softcap: f64,
}

impl Objective {
    /// `scale` times the sum of the losses.
    pub fn of_losses(scale: f64) -> Objective {
        Objective { scale, z_loss: 0.0, softcap: 0.0 }
    }
}

/// Each row's loss in nats; with `grad`, also replaces the logits by the gradient of that objective.
///
/// `losses (n)`, `logits (n, v)`, `targets (n)`, each below `v` or [`IGNORE`]. The gradient is
/// `scale * (softmax(z) * (1 + 2 * z_loss * lse) - onehot(target))`, times `1 - (z / cap)^2` with a soft cap.
pub fn cross_entropy(isa: Isa, losses: &mut [f32], logits: &mut [f32], targets: &[u32], grad: Option<Objective>) {
    let n = losses.len();
    assert_eq!(targets.len(), n);
    let Some(v) = logits.len().checked_div(n) else { return };
    isa.run_generic(CrossEntropy { losses, logits, targets, v, grad });
}

struct CrossEntropy<'a> {
    losses: &'a mut [f32],
    logits: &'a mut [f32],
    targets: &'a [u32],
    v: usize,
    grad: Option<Objective>,
}

impl Kernel for CrossEntropy<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Vectors>(self, simd: S) {
        let CrossEntropy { losses, logits, targets, v, grad } = self;
        for ((loss, z), &target) in losses.iter_mut().zip(logits.chunks_exact_mut(v)).zip(targets) {
            if target == IGNORE {
                *loss = 0.0;
                if grad.is_some() {
                    z.fill(0.0);
                }
                continue;
            }
            let (target, top) = (target as usize, math::max(z));
            let of_target = z[target];
            // Without a soft cap, the gradient needs no more of the logits than their exponentials.
            let keeps_logits = grad.is_none_or(|objective| objective.softcap != 0.0);
            let sum = if keeps_logits {
                sum_exp(simd, z, top)
            } else {
                z.iter_mut().for_each(|z| *z = math::exp(*z - top));
                let [sum] = sums!(simd, [&*z], |[e]| [e]);
                sum
            };
            let lse = sum.ln() + top;
            *loss = lse - of_target;
            let Some(Objective { scale, z_loss, softcap }) = grad else { continue };
            let scale = scale as f32;
            let norm = scale / sum * (1.0 + 2.0 * z_loss as f32 * lse);
            if softcap == 0.0 {
                z.iter_mut().for_each(|e| *e *= norm);
                z[target] -= scale;
            } else {
                let per_cap = 1.0 / softcap as f32;
                let slope = |z: f32| 1.0 - (z * per_cap) * (z * per_cap);
                let of_target = scale * slope(of_target);
                for z in z.iter_mut() {
                    *z = math::exp(*z - top) * norm * slope(*z);
                }
                z[target] -= of_target;
            }
        }
    }
}

/// `sum_j e^(z_j - top)`.
#[inline(always)]
fn sum_exp<S: Vectors>(simd: S, z: &[f32], top: f32) -> f32 {
    let top = Lanes::splat(simd, top);
    let [sum] = sums!(simd, [z], |[z]| [(z - top).exp()]);
    sum
}

/// Leads gradients of logits towards what a teacher says (Hinton et al. 2015, with a temperature of 1):
/// `g += scale * (onehot(target) - softmax(z))`, for rows of `g (n, v)` and of the teacher's logits `z (n, v)`. Rows whose target
/// is [`IGNORE`] stay as they are. Where `g` is the gradient of `s` times the sum of the losses, it then is that of
/// `s - scale` times the losses and `scale` times the cross-entropies with the teacher's probabilities.
pub fn teach(isa: Isa, g: &mut [f32], z: &[f32], targets: &[u32], scale: f32) {
    assert_eq!(g.len(), z.len());
    let Some(v) = g.len().checked_div(targets.len()) else { return };
    isa.run_generic(Teach { g, z, targets, v, scale });
}

struct Teach<'a> {
    g: &'a mut [f32],
    z: &'a [f32],
    targets: &'a [u32],
    v: usize,
    scale: f32,
}

impl Kernel for Teach<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Vectors>(self, simd: S) {
        let Teach { g, z, targets, v, scale } = self;
        for ((g, z), &target) in g.chunks_exact_mut(v).zip(z.chunks_exact(v)).zip(targets) {
            if target == IGNORE {
                continue;
            }
            let top = math::max(z);
            let norm = scale / sum_exp(simd, z, top);
            g.iter_mut().zip(z).for_each(|(g, z)| *g -= math::exp(z - top) * norm);
            g[target as usize] += scale;
        }
    }
}

/// `z = cap * tanh(z / cap)` (Gemma 2, 2024; n elements).
pub fn softcap(isa: Isa, z: &mut [f32], cap: f32) {
    let per_cap = 1.0 / cap;
    isa.run(
        #[inline(always)]
        || z.iter_mut().for_each(|z| *z = cap * math::exact_tanh(*z * per_cap)),
    );
}
