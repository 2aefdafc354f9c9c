//! What a run will take, measured on a model of its shape for some seconds.

use super::{
    plan::{Plan, Speed},
    trial::Trial,
};
use crate::{
    data::Dataset,
    report::baselines,
    run::{Buffer, RunDir, State},
    text::tokenizer::Tokenizer,
};
use kinglet_core::{backend::Backward, config::Config, error::Result, model::Gpt, params::Span};
use std::{path::Path, time::Instant};

impl Plan {
    /// Measures what a run of `config` takes, for about `seconds`, on the current threads. `data` is what it learns and, of a
    /// fine-tuning, what it may forget.
    ///
    /// # Errors
    /// If the text cannot be read, or the checkpoint that is written on trial in `folder` not be written.
    pub fn measure<B: Backward>(
        config: &Config,
        tokenizer: &Tokenizer,
        (data, old): (&Dataset, Option<&Dataset>),
        be: &B,
        folder: &Path,
        seconds: f64,
    ) -> Result<Plan> {
        let model = Gpt::new(config)?;
        let mut plan = Plan::new(config, &model, data, old)?;
        let mut speed = Speed::default();
        let mut trial = Trial::new(be, config, &model, &data.train)?;
        // The first step touches the memory for the first time.
        trial.step(be)?;
        let clock = Instant::now();
        while speed.step.n < 3.0 || clock.elapsed().as_secs_f64() < 0.7 * seconds {
            let clock = Instant::now();
            trial.step(be)?;
            speed.step.add(clock, 1.0);
        }
        // An estimate can take minutes; it is so many equal batches.
        let batches = config.eval_iters.min(16) as u32;
        let clock = Instant::now();
        while speed.estimate.n == 0.0 || clock.elapsed().as_secs_f64() < 0.3 * seconds {
            let clock = Instant::now();
            trial.eval(be, batches)?;
            speed.estimate.add(clock, f64::from(batches) / (2.0 * config.eval_iters as f64));
        }
        let (run, _lock) = RunDir::create(&folder.join("trial"), config.clone(), tokenizer.clone(), None)?;
        let clock = Instant::now();
        run.save(&model.layout, &State::default(), |buffer: Buffer, span: Span, out: &mut [f32]| match buffer {
            Buffer::Weights => be.download(&trial.p, span.start, out),
            Buffer::FirstMoments => be.download(&trial.optimizer.m, span.start, out),
            Buffer::SecondMoments => be.download(&trial.optimizer.v, span.start, out),
        })?;
        speed.checkpoint.add(clock, 1.0);
        let clock = Instant::now();
        baselines::best(data, config.vocab_size)?;
        speed.baseline.add(clock, 1.0);
        plan.set_speed(&speed, config, data, 0);
        Ok(plan)
    }
}
