//! Estimates a run's time by measuring a model of the same shape for a few seconds.

use super::{
    calibrate,
    imagined::Imagined,
    memory::Memory,
    plan::{Mean, Plan, Shape, Speed, Work, tokens_in_memory, tokens_per_step},
    scaling::{Load, Network, Own, Run, Scaling},
    trial::Trial,
};
use crate::{
    data::Dataset,
    report::baselines,
    run::{Buffer, RunDir, State},
    text::tokenizer::Tokenizer,
};
use kinglet_core::{
    backend::Backward,
    config::Config,
    error::{Error, Result},
    model::Gpt,
    params::Span,
    ranks::{Team, Traffic, Wire},
    replica::Replica,
    shards::{self, of_rank},
    threads,
};
use std::{path::Path, sync::Arc, time::Instant};

/// Machines that a run might have, each with one rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Machines {
    /// How many.
    pub ranks: usize,
    /// What is between them.
    pub network: Network,
    /// Whether each updates a part of the weights.
    pub zero: bool,
}

/// What one process takes.
struct Measured {
    plan: Plan,
    speed: Speed,
    shape: Shape,
    own: Own,
}

/// How long the parts of a step take.
#[derive(Default)]
struct Parts {
    gradient: Mean,
    same: Mean,
    /// How long before the last chunk of the gradient each was ready, and how often that was measured.
    ahead: (Vec<f64>, f64),
}

impl Parts {
    /// Makes a step.
    fn step<B: Backward>(&mut self, trial: &mut Trial<B>) -> Result<()> {
        let (_, parts) = trial.step_in_parts(1.0)?;
        self.gradient.add_s(parts.gradient.as_secs_f64(), 1.0);
        self.same.add_s((parts.before + parts.update).as_secs_f64(), 1.0);
        Ok(())
    }

    /// Takes note of when each chunk of the gradient was ready.
    fn note_ahead(&mut self, ahead: &[f64]) {
        let (sums, n) = &mut self.ahead;
        sums.resize(ahead.len(), 0.0);
        sums.iter_mut().zip(ahead).for_each(|(sum, seconds)| *sum += seconds);
        *n += 1.0;
    }

    /// What a rank takes by itself. The sum of gradients, which is a part of computing them, is measured apart.
    fn own<B: Backward>(&self, trial: &mut Trial<B>) -> Result<Own> {
        let Replica { be, model, shards, .. } = &mut trial.replica;
        let sum_s = calibrate::quickest(|| {
            shards.sum_gradients(be, model);
            Ok(())
        })?;
        let passes_s = (self.gradient.recent_s() - sum_s).max(0.0);
        let (sums, n) = &self.ahead;
        let ahead_s = sums.iter().map(|seconds| seconds / n).collect();
        Ok(Own { passes_s, same_s: self.same.recent_s(), sum_s, ahead_s, threads: threads::current() })
    }
}

impl Plan {
    /// Measures for about `seconds`, on the current threads, how long a run of `config` would take. The data is what it
    /// trains on and, for fine-tuning, the old data it may forget.
    ///
    /// # Errors
    /// If the text cannot be read, or the trial checkpoint cannot be written in `folder`.
    pub fn measure<B: Backward>(
        config: &Config,
        tokenizer: &Tokenizer,
        data: (&Dataset, Option<&Dataset>),
        be: B,
        folder: &Path,
        seconds: f64,
    ) -> Result<Plan> {
        Ok(measure(config, tokenizer, data, be, folder, seconds)?.plan)
    }

    /// The same, and what several machines like this one would make of it; `shards` is what the run was asked for, where 0 is
    /// the default.
    ///
    /// # Errors
    /// As [`Plan::measure`], and if there are more ranks than there can be.
    pub fn measure_on<B: Backward + Clone>(
        config: &Config,
        tokenizer: &Tokenizer,
        data: (&Dataset, Option<&Dataset>),
        be: B,
        folder: &Path,
        seconds: f64,
        (machines, shards): (Machines, usize),
    ) -> Result<(Plan, Scaling)> {
        machines.check(config, shards)?;
        let one = measure(config, tokenizer, data, be.clone(), folder, seconds)?;
        let scaling = machines.measure(config, shards, data, &be, 0.3 * seconds, &one)?;
        Ok((one.plan, scaling))
    }
}

/// Measures what one process takes.
fn measure<B: Backward>(
    config: &Config,
    tokenizer: &Tokenizer,
    (data, old): (&Dataset, Option<&Dataset>),
    be: B,
    folder: &Path,
    seconds: f64,
) -> Result<Measured> {
    let model = Gpt::new(config)?;
    let mut plan = Plan::new(config, &model, data, old)?;
    let mut speed = Speed::default();
    let mut trial = Trial::new(be, config, &data.train)?;
    let mut parts = Parts::default();
    // Warm up: the first step touches memory for the first time.
    trial.step()?;
    let clock = Instant::now();
    while speed.step.n < 3.0 || clock.elapsed().as_secs_f64() < 0.7 * seconds {
        let clock = Instant::now();
        parts.step(&mut trial)?;
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
    let own = parts.own(&mut trial)?;
    Ok(Measured { plan, speed, shape, own })
}

impl Machines {
    /// Checks that a run of `config` can be divided among so many.
    fn check(&self, config: &Config, shards: usize) -> Result<()> {
        let refused = |most: usize, what: &str| {
            let ranks = self.ranks;
            Err(Error::BadConfig(format!("--ranks {ranks}: must be at most {most}, {what}, so that each rank has one")))
        };
        if self.ranks > config.batch_size {
            refused(config.batch_size, "the sequences of a batch (batch_size)")
        } else if shards > 0 && self.ranks > config.shards {
            refused(config.shards, "the parts of a batch (shards)")
        } else {
            Ok(())
        }
    }

    /// How many of them are looked at: one, two, four, and so on, up to all.
    fn numbers(&self) -> impl Iterator<Item = usize> {
        let ranks = self.ranks;
        std::iter::successors(Some(1), |n| Some(2 * n)).take_while(move |&n| n < ranks).chain([ranks])
    }

    /// Measures for about `seconds` each what a rank of so many does by itself, and adds what the network takes.
    fn measure<B: Backward + Clone>(
        &self,
        config: &Config,
        shards: usize,
        (data, old): (&Dataset, Option<&Dataset>),
        be: &B,
        seconds: f64,
        one: &Measured,
    ) -> Result<Scaling> {
        let model = Gpt::new(config)?;
        let left = one.shape.left(0, true);
        let sequences_per_step = config.sequences_per_step();
        let tokens_per_step = tokens_per_step(config, data, old);
        // A token has an id and a target.
        let bytes = |tokens: f64| 8.0 * tokens;
        let run = Run {
            network: self.network,
            load: Load {
                sum: Traffic::of(&model.layout, Wire::of(config)),
                parts: if self.zero { 4.0 * model.layout.trainable_len() as f64 } else { 0.0 },
                batch: bytes(tokens_per_step),
                sequence: bytes(tokens_per_step / sequences_per_step as f64),
                weights: 4.0 * model.layout.len() as f64,
            },
            one: one.own.clone(),
            batches: config.gradient_accumulation_steps as f64,
            sequence_s: one.speed.sequence.recent_s(),
            steps: left.steps,
            sequences: left.sequences,
            of_estimate: one.shape.estimate,
            alone_s: one.speed.seconds(&Work { steps: 0.0, sequences: 0.0, ..left }),
        };
        let (mut rows, mut last) = (Vec::new(), one.own.clone());
        for ranks in self.numbers() {
            let config = &on(config, shards, ranks)?;
            if ranks > 1 {
                last = own_of(ranks, config, data, be.clone(), &run.load.sum, (self.zero, seconds))?;
            }
            // The text is on rank 0.
            let memory =
                Memory::of_rank(config, ranks, self.zero)?.total() + Memory::of_process(tokens_in_memory(data, old));
            rows.push(run.row(ranks, config.shards, &last, memory as f64 / f64::from(1 << 20)));
        }
        // Each rank needs a sequence of each batch.
        let tokens = |times: f64| tokens_per_step * times.max(self.ranks as f64 / sequences_per_step as f64);
        let of_all = |found: Option<f64>| found.map(tokens).filter(|_| self.ranks > 1);
        Ok(Scaling {
            network: self.network,
            threads: threads::current(),
            gradient_bytes: run.load.sum.bytes(),
            tokens_per_step,
            sequences_per_step,
            even_tokens: of_all(run.even(self.ranks, &last)),
            tenth_tokens: of_all(run.tenth(self.ranks, &last)),
            rows,
        })
    }
}

/// The configuration of a run that was asked for `shards`, where so many ranks start it, each with the current threads.
fn on(config: &Config, shards: usize, ranks: usize) -> Result<Config> {
    let mut config = config.clone();
    if ranks > 1 && shards == 0 {
        config.shards = 0;
        config.shards = shards::count_on(&config, ranks, threads::current())?;
    }
    Ok(config)
}

/// What the rank with the most sequences does by itself.
fn own_of<B: Backward>(
    ranks: usize,
    config: &Config,
    data: &Dataset,
    be: B,
    traffic: &Traffic,
    (zero, seconds): (bool, f64),
) -> Result<Own> {
    let count = config.shards;
    let sequences = |rank: &usize| {
        let shards = of_rank(count, *rank, ranks);
        shards.end * config.batch_size / count - shards.start * config.batch_size / count
    };
    // Of equal ones, one with two neighbours has the most to do.
    let slowest = [ranks - 1, 0].into_iter().chain(1..ranks - 1).max_by_key(sequences);
    let imagined = Arc::new(Imagined::new(slowest.expect("there are ranks"), ranks));
    let mut trial = Trial::of(be, config, &data.train, Team::new(imagined.clone()), zero)?;
    let mut parts = Parts::default();
    trial.step()?;
    imagined.ahead(&[]);
    let clock = Instant::now();
    while parts.gradient.n < 2.0 || clock.elapsed().as_secs_f64() < seconds {
        parts.step(&mut trial)?;
        imagined.ahead(&traffic.chunks).iter().for_each(|ahead| parts.note_ahead(ahead));
    }
    parts.own(&mut trial)
}
