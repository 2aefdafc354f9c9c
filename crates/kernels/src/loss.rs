//! Softmax and cross-entropy in one pass over the logits: `loss_i = log(sum_j e^{z_ij}) - z_i,target`.

use crate::{Isa, math};

/// The target of a row that is not to be predicted: its loss is 0, and so is its gradient.
pub const IGNORE: u32 = u32::MAX;

/// Each row's loss in nats, and, with `grad_scale`, the gradient in place of the logits.
///
/// `losses (n)`, `logits (n, v)`, `targets (n)`, each below `v` or [`IGNORE`]. With `grad_scale = Some(s)` the logits
/// are replaced by `s * (softmax(z) - onehot(target))`.
pub fn cross_entropy(isa: Isa, losses: &mut [f32], logits: &mut [f32], targets: &[u32], grad_scale: Option<f32>) {
    let n = losses.len();
    assert_eq!(targets.len(), n);
    let Some(v) = logits.len().checked_div(n) else { return };
    isa.run(
        #[inline(always)]
        || {
            for ((loss, z), &target) in losses.iter_mut().zip(logits.chunks_exact_mut(v)).zip(targets) {
                if target == IGNORE {
                    *loss = 0.0;
                    if grad_scale.is_some() {
                        z.fill(0.0);
                    }
                    continue;
                }
                let target = target as usize;
                let top = math::max(z);
                let sum = math::lane_sum([z], |[z]| math::exp(z - top));
                *loss = sum.ln() + top - z[target];
                if let Some(scale) = grad_scale {
                    let norm = scale / sum;
                    for z in z.iter_mut() {
                        *z = math::exp(*z - top) * norm;
                    }
                    z[target] -= scale;
                }
            }
        },
    );
}
