//! A model in training without a run directory, for timing and for the learning-rate range test.

use super::teacher;
use crate::data::Split;
use kinglet_core::{
    backend::Backward, batch::Batch, config::Config, error::Result, ranks::Team, replica::Replica, rng::Purpose,
};
use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

/// The in-memory state of a run, without a run directory.
pub struct Trial<'a, B: Backward> {
    /// The model.
    pub replica: Replica<B>,
    config: &'a Config,
    split: &'a Split,
    batch: Batch,
    steps: u64,
}

/// How long the parts of an update took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Parts {
    /// Reading the batch, and laying out the weights.
    pub(super) before: Duration,
    /// The gradient, with all that is part of it.
    pub(super) gradient: Duration,
    /// The update of the weights.
    pub(super) update: Duration,
}

impl<'a, B: Backward> Trial<'a, B> {
    /// A model with initial weights, to be trained on `split`.
    ///
    /// # Errors
    /// If `config` does not describe a valid model, or its teacher cannot be read.
    pub fn new(be: B, config: &'a Config, split: &'a Split) -> Result<Self> {
        Trial::of(be, config, split, Team::default(), false)
    }

    /// The same as one of a team, where each rank may update a part of the weights.
    pub(super) fn of(be: B, config: &'a Config, split: &'a Split, team: Team, parts: bool) -> Result<Self> {
        let mut replica = Replica::new(be, config, team, parts)?;
        let Replica { be, model, p, .. } = &mut replica;
        be.upload(p.masters_mut(), 0, &model.layout.init(config.seed));
        teacher::teach(&mut replica, config, None)?;
        Ok(Trial { replica, config, split, batch: Batch::default(), steps: 0 })
    }

    /// One update, as in training.
    ///
    /// # Errors
    /// If the text cannot be read.
    pub fn step(&mut self) -> Result<()> {
        self.step_at(1.0)?;
        Ok(())
    }

    /// One update with every learning rate multiplied by `lr_scale`; returns the batch's loss before the update.
    ///
    /// # Errors
    /// If the text cannot be read.
    pub fn step_at(&mut self, lr_scale: f64) -> Result<f64> {
        Ok(self.step_in_parts(lr_scale)?.0)
    }

    /// The same, and how long its parts took.
    pub(super) fn step_in_parts(&mut self, lr_scale: f64) -> Result<(f64, Parts)> {
        let Trial { replica, config, split, batch, steps } = self;
        let began = Instant::now();
        split.load_step(config, *steps, None, batch)?;
        // The gradient would begin with it.
        let Replica { be, model, p, .. } = &mut *replica;
        be.pack_weights(p.weights_mut(be), &model.layout.linears(), true);
        let ready = Instant::now();
        let (loss, grad_norm) = replica.gradient(batch, config.seed, *steps);
        let computed = Instant::now();
        replica.update(grad_norm, lr_scale, *steps);
        *steps += 1;
        Ok((loss, Parts { before: ready - began, gradient: computed - ready, update: computed.elapsed() }))
    }

    /// Evaluates `batches` batches of an estimate.
    ///
    /// # Errors
    /// If the text cannot be read.
    pub fn eval(&mut self, batches: u32) -> Result<()> {
        self.replica.pack_to_read();
        let sequences = batches as usize * self.config.batch_size;
        let load = |i, batch: &mut _| self.split.sample(self.config.seed, Purpose::EstimateVal, 0, i, batch);
        let Replica { be, model, shards, p, .. } = &mut self.replica;
        shards.losses(be, model, p.weights(), sequences, load, |_, _| ControlFlow::Continue(()))?;
        Ok(())
    }
}
