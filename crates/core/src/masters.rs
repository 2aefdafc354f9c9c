//! The parameters of a model in training.
//!
//! Training for weights in few bits (quantization-aware training) computes with the rounded weights, forward and backward. The
//! gradient goes straight through to the numbers that they are rounded from (Bengio et al. 2013), which the optimizer changes and
//! checkpoints store: an update is far smaller than a step between two integers.

use crate::{
    backend::Backward,
    config::{Config, Quantization},
    params::{Layout, Matrix, Span},
    quant,
};

/// The parameters of a model in training.
#[derive(Debug)]
pub struct Masters<B: Backward> {
    /// What the optimizer changes.
    p: B::Buf,
    /// Where weights are in few bits: what the model computes with.
    rounding: Option<Rounding<B>>,
}

/// The parameters with the weights that are in few bits rounded, and multiplied out.
#[derive(Debug)]
struct Rounding<B: Backward> {
    q: B::Buf,
    scheme: Quantization,
    matrices: Vec<Matrix>,
    /// What lies between them, which is copied.
    others: Vec<Span>,
    /// Whether `q` belongs to the masters as they are now.
    is_fresh: bool,
}

impl<B: Backward> Masters<B> {
    /// Zeros, to be filled.
    pub fn new(be: &B, layout: &Layout, config: &Config) -> Masters<B> {
        let matrices = quant::matrices(config, layout);
        let rounding = (!matrices.is_empty()).then(|| Rounding {
            q: be.zeros(layout.len()),
            scheme: config.quantization,
            others: between(&matrices, layout.len()),
            matrices,
            is_fresh: false,
        });
        Masters { p: be.zeros(layout.len()), rounding }
    }

    /// What the optimizer changes and checkpoints store.
    pub fn masters(&self) -> &B::Buf {
        &self.p
    }

    /// The same, to keep.
    pub fn into_masters(self) -> B::Buf {
        self.p
    }

    /// The same, to be changed.
    pub fn masters_mut(&mut self) -> &mut B::Buf {
        if let Some(rounding) = &mut self.rounding {
            rounding.is_fresh = false;
        }
        &mut self.p
    }

    /// What the model computes with; rounds the masters, if they have changed. It is mutable for
    /// [`pack_weights`](crate::backend::Forward::pack_weights).
    pub fn weights_mut(&mut self, be: &B) -> &mut B::Buf {
        let Masters { p, rounding: Some(rounding) } = self else { return &mut self.p };
        if !rounding.is_fresh {
            rounding.refresh(be, p);
        }
        &mut rounding.q
    }

    /// What the model computes with.
    ///
    /// # Panics
    /// If the masters have changed since [`Masters::weights_mut`].
    pub fn weights(&self) -> &B::Buf {
        match &self.rounding {
            None => &self.p,
            Some(rounding) => {
                assert!(rounding.is_fresh, "the masters have changed since they were rounded");
                &rounding.q
            }
        }
    }
}

impl<B: Backward> Rounding<B> {
    fn refresh(&mut self, be: &B, p: &B::Buf) {
        be.round(&mut self.q, p, &self.matrices, self.scheme);
        self.others.iter().for_each(|&span| be.copy(&mut self.q, span.start, p, span));
        self.is_fresh = true;
    }
}

/// The parts of a buffer of `len` numbers that belong to none of `matrices`, which are in its order.
fn between(matrices: &[Matrix], len: usize) -> Vec<Span> {
    let starts = [0].into_iter().chain(matrices.iter().map(|matrix| matrix.span.range().end));
    let ends = matrices.iter().map(|matrix| matrix.span.start).chain([len]);
    let spans = starts.zip(ends).map(|(start, end)| Span { start, len: end - start });
    spans.filter(|span| span.len > 0).collect()
}
