//! The optimizer: clipping and AdamW over the flat parameter buffer.

use crate::{
    backend::{AdamW, Backend},
    config::Config,
    params::{Layout, Span},
};

/// AdamW's state and settings.
pub struct Optimizer<B: Backend> {
    /// First moment of each parameter's gradient.
    pub m: B::Buf,
    /// Second moment.
    pub v: B::Buf,
    /// The pieces of the parameter buffer that train, and whether they decay.
    spans: Vec<(Span, bool)>,
}

impl<B: Backend> Optimizer<B> {
    /// With moments of zero.
    pub fn new(be: &B, layout: &Layout, config: &Config) -> Optimizer<B> {
        Optimizer { m: be.zeros(layout.len()), v: be.zeros(layout.len()), spans: layout.decay_spans(config.decay) }
    }

    /// Takes up the moments that a checkpoint has of the parameters that train; those of others stay untouched memory.
    pub fn restore(&mut self, be: &B, m: &[f32], v: &[f32]) {
        for (span, _) in &self.spans {
            be.upload(&mut self.m, span.start, &m[span.range()]);
            be.upload(&mut self.v, span.start, &v[span.range()]);
        }
    }

    /// Update number `step` (from 0): clips `g`, whose norm is `grad_norm`, to `grad_clip` where that is set, then AdamW
    /// with the learning rate `lr`.
    pub fn step(&mut self, be: &B, p: &mut B::Buf, g: &B::Buf, grad_norm: f64, lr: f64, config: &Config, step: u64) {
        // PyTorch's clip_grad_norm_ adds the 1e-6 too.
        let clip = config.grad_clip;
        let grad_scale = if clip > 0.0 { (clip / (grad_norm + 1e-6)).min(1.0) } else { 1.0 };
        for &(span, decays) in &self.spans {
            let h = AdamW {
                lr,
                beta1: config.beta1,
                beta2: config.beta2,
                eps: config.eps,
                weight_decay: if decays { config.weight_decay } else { 0.0 },
                step: step + 1,
                grad_scale,
            };
            be.adamw(p, g, &mut self.m, &mut self.v, span, &h);
        }
    }
}
