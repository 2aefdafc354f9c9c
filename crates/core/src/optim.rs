//! The optimizer: clipping, then AdamW or Muon over the flat parameter buffer, group by group.

use crate::{
    backend::{AdamW, Backward, Muon},
    config::Config,
    error::Result,
    params::{Layout, Matrix, Span},
};

/// The optimizer's state and settings.
pub struct Optimizer<B: Backward> {
    /// First moment of each parameter's gradient; Muon's momentum.
    pub m: B::Buf,
    /// Second moment; Muon has none.
    pub v: B::Buf,
    /// Updates made with these moments. AdamW corrects the moments' bias by it; it falls behind the run's step where
    /// updates were skipped, or where the moments began anew.
    pub updates: u64,
    groups: Vec<Group>,
}

/// Parameters that are updated with the same settings.
struct Group {
    config: Config,
    /// The pieces that AdamW updates, and whether weight decay applies to each.
    spans: Vec<(Span, bool)>,
    /// The matrices that Muon updates.
    matrices: Vec<Matrix>,
}

impl<B: Backward> Optimizer<B> {
    /// An optimizer with all moments zero.
    ///
    /// # Errors
    /// If a group of parameters has a setting that is not allowed.
    pub fn new(be: &B, layout: &Layout, config: &Config) -> Result<Optimizer<B>> {
        let groups = config.groups()?.into_iter().enumerate().map(|(i, config)| Group {
            spans: layout.decay_spans(i, config.decay),
            matrices: layout.matrices(i),
            config,
        });
        Ok(Optimizer { m: be.zeros(layout.len()), v: be.zeros(layout.len()), updates: 0, groups: groups.collect() })
    }

    /// One update: clips `g`, whose norm is `grad_norm`, to `grad_clip` if that is set, then updates each group with
    /// `lr_scale` times its learning rate at `step` (from 0) of the schedule.
    pub fn step(&mut self, be: &B, p: &mut B::Buf, g: &B::Buf, grad_norm: f64, lr_scale: f64, step: u64) {
        self.updates += 1;
        for Group { config, spans, matrices } in &self.groups {
            // PyTorch's clip_grad_norm_ adds the 1e-6 too.
            let clip = config.grad_clip;
            let grad_scale = if clip > 0.0 { (clip / (grad_norm + 1e-6)).min(1.0) } else { 1.0 };
            for &(span, decays) in spans {
                let h = AdamW {
                    lr: lr_scale * config.lr(step),
                    beta1: config.beta1,
                    beta2: config.beta2,
                    eps: config.eps,
                    weight_decay: if decays { config.weight_decay } else { 0.0 },
                    step: self.updates,
                    grad_scale,
                };
                be.adamw(p, g, &mut self.m, &mut self.v, span, &h);
            }
            if !matrices.is_empty() {
                let h = Muon {
                    lr: lr_scale * config.muon_lr(step),
                    momentum: config.muon_momentum,
                    ns_steps: config.muon_ns_steps,
                    weight_decay: config.weight_decay,
                    grad_scale,
                };
                be.muon(p, g, &mut self.m, matrices, &h);
            }
        }
    }
}
