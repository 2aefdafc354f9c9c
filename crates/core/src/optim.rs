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

/// Divides the parameters of all groups among ranks: AdamW's evenly, Muon's matrices whole, so that each has about as much to
/// compute.
fn divide(groups: &[Group], size: usize) -> Vec<Vec<Span>> {
    let mut parts = vec![Vec::new(); size];
    let spans: Vec<Span> = groups.iter().flat_map(|group| &group.spans).map(|&(span, _)| span).collect();
    let all: usize = spans.iter().map(|span| span.len).sum();
    let mut first = 0;
    for span in spans {
        // Where the span is among all of them, and where each rank's share begins.
        let among = Span { start: first, len: span.len };
        for (rank, part) in parts.iter_mut().enumerate() {
            let (start, end) = (rank * all / size, (rank + 1) * all / size);
            if let Some(own) = among.within(Span { start, len: end - start }) {
                part.push(Span { start: span.start + own.start - first, len: own.len });
            }
        }
        first += span.len;
    }
    let steps = |group: &Group| group.config.muon_ns_steps;
    let matrices =
        groups.iter().flat_map(|group| group.matrices.iter().map(|w| (w.multiply_adds(steps(group)), w.span)));
    let mut matrices: Vec<_> = matrices.collect();
    // The most expensive first, each to the rank that has the least to do.
    matrices.sort_by_key(|&(cost, span)| (std::cmp::Reverse(cost), span.start));
    let mut load = vec![0; size];
    for (cost, span) in matrices {
        let least = (0..size).min_by_key(|&rank| load[rank]).expect("at least one rank");
        load[least] += cost;
        parts[least].push(span);
    }
    parts.iter_mut().for_each(|part| part.sort_by_key(|span| span.start));
    parts
}

impl<B: Backward> Optimizer<B> {
    /// An optimizer with all moments zero.
    ///
    /// # Errors
    /// If a group of parameters has a setting that is not allowed.
    pub fn new(be: &B, layout: &Layout, config: &Config) -> Result<Optimizer<B>> {
        Optimizer::of_part(be, layout, config, (0, 1)).map(|(optimizer, _)| optimizer)
    }

    /// The optimizer of `rank`, where each of `size` ranks updates a part of the parameters, and so needs the moments of that part
    /// alone (ZeRO stage 1, Rajbhandari et al. 2020). Also returns the parts of all ranks, each in the order of the buffer.
    ///
    /// # Errors
    /// As [`Optimizer::new`].
    pub fn of_part(
        be: &B,
        layout: &Layout,
        config: &Config,
        (rank, size): (usize, usize),
    ) -> Result<(Optimizer<B>, Vec<Vec<Span>>)> {
        let mut groups: Vec<Group> = Vec::new();
        for (i, config) in config.groups()?.into_iter().enumerate() {
            groups.push(Group { spans: layout.decay_spans(i, config.decay), matrices: layout.matrices(i), config });
        }
        let parts = divide(&groups, size);
        if size > 1 {
            let own = &parts[rank];
            for Group { spans, matrices, .. } in &mut groups {
                let part = |&(span, decays): &(Span, bool)| {
                    own.iter().filter_map(move |own| own.within(span)).map(move |span| (span, decays))
                };
                *spans = spans.iter().flat_map(part).collect();
                matrices.retain(|matrix| own.iter().any(|own| own.within(matrix.span).is_some()));
            }
        }
        // Moments of other parts are never touched, so a system that gives memory at the first touch gives none for them.
        let (m, v) = (be.zeros(layout.len()), be.zeros(layout.len()));
        Ok((Optimizer { m, v, updates: 0, groups }, parts))
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
