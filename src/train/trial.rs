//! A model in training without a run directory, for timing and for the learning-rate range test.

use crate::data::Split;
use kinglet_core::{
    backend::Backward,
    batch::Batch,
    config::Config,
    error::Result,
    masters::Masters,
    model::Gpt,
    optim::Optimizer,
    rng::Purpose,
    shards::{self, Shards},
};
use std::ops::ControlFlow;

/// The in-memory state of a run, without a run directory.
pub struct Trial<'a, B: Backward> {
    /// The workers that compute in parallel.
    pub shards: Shards<B>,
    /// The optimizer.
    pub optimizer: Optimizer<B>,
    /// The parameters.
    pub p: Masters<B>,
    config: &'a Config,
    model: &'a Gpt,
    split: &'a Split,
    batch: Batch,
    steps: u64,
}

impl<'a, B: Backward> Trial<'a, B> {
    /// A model with initial weights, to be trained on `split`.
    ///
    /// # Errors
    /// If `config` does not describe a valid model.
    pub fn new(be: &B, config: &'a Config, model: &'a Gpt, split: &'a Split) -> Result<Self> {
        let count = shards::count(config, model.layout.trainable_len());
        let mut p = Masters::new(be, &model.layout, config);
        be.upload(p.masters_mut(), 0, &model.layout.init(config.seed));
        Ok(Trial {
            shards: Shards::new(be, model, config.batch_size, count, true),
            optimizer: Optimizer::new(be, &model.layout, config)?,
            p,
            config,
            model,
            split,
            batch: Batch::default(),
            steps: 0,
        })
    }

    /// One update, as in training.
    ///
    /// # Errors
    /// If the text cannot be read.
    pub fn step(&mut self, be: &B) -> Result<()> {
        self.step_at(be, 1.0)?;
        Ok(())
    }

    /// One update with every learning rate multiplied by `lr_scale`; returns the batch's loss before the update.
    ///
    /// # Errors
    /// If the text cannot be read.
    pub fn step_at(&mut self, be: &B, lr_scale: f64) -> Result<f64> {
        let Trial { config, model, split, batch, shards, optimizer, p, steps } = self;
        split.load_step(config, *steps, None, batch)?;
        be.pack_weights(p.weights_mut(be), &model.layout.linears(), true);
        let (loss, grad_norm) = shards.gradient(be, model, p.weights(), batch, config.seed, *steps);
        optimizer.step(be, p.masters_mut(), shards.last_gradient(), grad_norm, lr_scale, *steps);
        *steps += 1;
        Ok(loss)
    }

    /// Evaluates `batches` batches of an estimate.
    ///
    /// # Errors
    /// If the text cannot be read.
    pub fn eval(&mut self, be: &B, batches: u32) -> Result<()> {
        shards::pack_to_read(be, self.model, self.p.weights_mut(be));
        let sequences = batches as usize * self.config.batch_size;
        let load = |i, batch: &mut _| self.split.sample(self.config.seed, Purpose::EstimateVal, 0, i, batch);
        self.shards.losses(be, self.model, self.p.weights(), sequences, load, |_, _| ControlFlow::Continue(()))?;
        Ok(())
    }
}
