//! A model in training without a run directory, for timing and for the learning-rate range test.

use crate::data::Split;
use kinglet_core::{
    backend::Backward, batch::Batch, config::Config, error::Result, ranks::Team, replica::Replica, rng::Purpose,
};
use std::ops::ControlFlow;

/// The in-memory state of a run, without a run directory.
pub struct Trial<'a, B: Backward> {
    /// The model.
    pub replica: Replica<B>,
    config: &'a Config,
    split: &'a Split,
    batch: Batch,
    steps: u64,
}

impl<'a, B: Backward> Trial<'a, B> {
    /// A model with initial weights, to be trained on `split`.
    ///
    /// # Errors
    /// If `config` does not describe a valid model.
    pub fn new(be: B, config: &'a Config, split: &'a Split) -> Result<Self> {
        let mut replica = Replica::new(be, config, Team::default(), false)?;
        let Replica { be, model, p, .. } = &mut replica;
        be.upload(p.masters_mut(), 0, &model.layout.init(config.seed));
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
        let Trial { replica, config, split, batch, steps } = self;
        split.load_step(config, *steps, None, batch)?;
        let (loss, grad_norm) = replica.gradient(batch, config.seed, *steps);
        replica.update(grad_norm, lr_scale, *steps);
        *steps += 1;
        Ok(loss)
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
