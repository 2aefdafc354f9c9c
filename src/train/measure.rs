//! Estimates a run's time by measuring a model of the same shape for a few seconds.

use super::{
    calibrate,
    plan::{Plan, Shape, Speed},
    trial::Trial,
};
use crate::{
    data::Dataset,
    report::baselines,
    run::{Buffer, RunDir, State},
    text::tokenizer::Tokenizer,
};
use kinglet_core::{backend::Backward, config::Config, error::Result, model::Gpt, params::Span, replica::Replica};
use std::{path::Path, time::Instant};

impl Plan {
    /// Measures for about `seconds`, on the current threads, how long a run of `config` would take. The data is what it
    /// trains on and, for fine-tuning, the old data it may forget.
    ///
    /// # Errors
    /// If the text cannot be read, or the trial checkpoint cannot be written in `folder`.
    pub fn measure<B: Backward>(
        config: &Config,
        tokenizer: &Tokenizer,
        (data, old): (&Dataset, Option<&Dataset>),
        be: B,
        folder: &Path,
        seconds: f64,
    ) -> Result<Plan> {
        let model = Gpt::new(config)?;
        let mut plan = Plan::new(config, &model, data, old)?;
        let mut speed = Speed::default();
        let mut trial = Trial::new(be, config, &data.train)?;
        // Warm up: the first step touches memory for the first time.
        trial.step()?;
        let clock = Instant::now();
        while speed.step.n < 3.0 || clock.elapsed().as_secs_f64() < 0.7 * seconds {
            let clock = Instant::now();
            trial.step()?;
            speed.step.add(clock, 1.0);
        }
        // A whole estimate can take minutes. It consists of equal batches, so measure a few.
        let batches = config.eval_iters.min(16) as u32;
        let clock = Instant::now();
        while speed.sequence.n == 0.0 || clock.elapsed().as_secs_f64() < 0.3 * seconds {
            let clock = Instant::now();
            trial.eval(batches)?;
            speed.sequence.add(clock, f64::from(batches) * config.batch_size as f64);
        }
        let Replica { be, optimizer, p, .. } = &trial.replica;
        let (run, _lock) = RunDir::create(&folder.join("trial"), config.clone(), tokenizer.clone(), None)?;
        let clock = Instant::now();
        run.save(&model.layout, &State::default(), |buffer: Buffer, span: Span, out: &mut [f32]| match buffer {
            Buffer::Weights => be.download(p.masters(), span.start, out),
            Buffer::FirstMoments => be.download(&optimizer.m, span.start, out),
            Buffer::SecondMoments => be.download(&optimizer.v, span.start, out),
        })?;
        speed.checkpoint.add(clock, 1.0);
        trial.replica.pack_to_read();
        let Replica { be, model, p, .. } = &trial.replica;
        speed.report_s = calibrate::sample_s(be, model, p.weights())?;
        let clock = Instant::now();
        match baselines::best(data, config.vocab_size) {
            Ok(_) => speed.report_s += clock.elapsed().as_secs_f64(),
            Err(error) => {
                let notes = plan.advice.into_iter().chain([baselines::missing(&error)]);
                plan.advice = Some(notes.collect::<Vec<_>>().join("; "));
            }
        }
        let shape = Shape::new(config, data, old);
        plan.set_time(&speed, &shape, speed.seconds(&shape.left(0, true)));
        Ok(plan)
    }
}
