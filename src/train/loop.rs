//! The training loop: estimate, save, stop or step, until there is nothing left to train.

mod clock;
mod finish;
mod sample;

use super::{
    eval::Evaluator,
    event::Event,
    job::{Job, is_over},
    plan::{Plan, tokens_per_step},
    teacher,
};
use crate::{
    data::Dataset,
    report::plot::{Curves, loss_svg},
    run::{Buffer, Metrics, NewRun, RunDir, State, Stored},
};
use clock::Clock;
use kinglet_core::{
    backend::Backward,
    batch::Batch,
    config::{Config, OnDivergence, Precision},
    error::{Divergence, Error, Result},
    guard::Guard,
    params::Span,
    ranks::Team,
    replica::{Moments, Replica},
    rng::Purpose,
    threads::with_threads,
};
use std::{
    f64::consts::LN_2,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

/// How to compute a run; the result does not depend on it, bit for bit.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Options<'a> {
    /// Number of threads; 0 uses one per core.
    pub threads: usize,
    /// Once this is set, the run saves a checkpoint and ends.
    pub stop: &'a AtomicBool,
    /// The ranks that compute the run. This one is rank 0; the others [serve](kinglet_core::replica::serve) it.
    pub team: Option<&'a Team>,
    /// Whether each rank updates a part of the weights, and has the optimizer's moments of that part alone: less memory, more to
    /// send.
    pub zero: bool,
}

impl Default for Options<'_> {
    fn default() -> Self {
        static NEVER: AtomicBool = AtomicBool::new(false);
        Options { threads: 0, stop: &NEVER, team: None, zero: false }
    }
}

impl<'a> Options<'a> {
    /// Sets the number of threads.
    pub fn threads(self, threads: usize) -> Self {
        Options { threads, ..self }
    }

    /// Sets the flag that stops the run early.
    pub fn stop(self, stop: &'a AtomicBool) -> Self {
        Options { stop, ..self }
    }

    /// Sets the ranks that compute the run.
    pub fn team(self, team: &'a Team) -> Self {
        Options { team: Some(team), ..self }
    }

    /// Sets whether each rank updates a part of the weights.
    pub fn zero(self, zero: bool) -> Self {
        Options { zero, ..self }
    }
}

/// Trains until `max_iters`, or until `options.stop` is set; in the latter case a checkpoint is written and the last
/// event is [`Event::Interrupted`]. Passes every event to `observe` and returns the last.
///
/// A write that fails during training causes an [`Event::Warning`] and is retried at the next estimate.
///
/// # Errors
/// If training diverges and the configuration says to stop, the first or the final state cannot be written, or the
/// threads cannot be started. The last checkpoint is kept; of a new run that has none yet, nothing is left.
pub fn run<B: Backward>(job: Job, be: B, options: &Options, mut observe: impl FnMut(&Event) + Send) -> Result<Event> {
    let new = job.run.new_run();
    let ended = with_threads(options.threads, || train(job, be, options, &mut observe)).flatten();
    ended.inspect_err(|_| new.iter().for_each(NewRun::remove))
}

fn train<B: Backward>(job: Job, be: B, options: &Options, observe: &mut (dyn FnMut(&Event) + Send)) -> Result<Event> {
    let mut run = Run::new(job, be, options, observe)?;
    loop {
        if run.estimate_is_due() {
            run.estimate()?;
        }
        if run.stopped() {
            return run.interrupted();
        }
        if is_over(&run.job.run.config, &run.state) {
            return run.finish();
        }
        run.step()?;
    }
}

/// The state of a run in progress.
struct Run<'a, B: Backward> {
    job: Job,
    replica: Replica<B>,
    state: State,
    /// The newest checkpoint on disk: its step, and the step of the last estimate that is part of it.
    saved: Option<(u64, Option<u64>)>,
    metrics: Metrics,
    curves: Curves,
    /// The sequences of the current update.
    batch: Batch,
    stop: &'a AtomicBool,
    observe: &'a mut (dyn FnMut(&Event) + Send),
    /// What this session has measured of the run's time.
    clock: Clock,
    /// Whether the plan has been reported.
    planned: bool,
    /// Whether the last write to the metrics failed.
    unwritten: bool,
    /// Whether it was said that a sample could not be drawn.
    unsampled: bool,
}

impl<'a, B: Backward> Run<'a, B> {
    fn new(mut job: Job, be: B, options: &Options<'a>, observe: &'a mut (dyn FnMut(&Event) + Send)) -> Result<Self> {
        let began = Instant::now();
        let config = &job.run.config;
        let mut replica = Replica::new(be, config, options.team.cloned().unwrap_or_default(), options.zero)?;
        // Take both out of the job: neither the initial weights nor the checkpoint stays in memory after the upload.
        let (from, base) = (job.from.take(), job.base.take().unwrap_or_default());
        teacher::teach_run(&mut replica, &mut job.run)?;
        let config = &job.run.config;
        let Replica { be, model, p, .. } = &mut replica;
        let state = match &from {
            None => {
                be.upload(p.masters_mut(), 0, &model.layout.init(config.seed));
                be.upload(p.masters_mut(), 0, &base);
                State::default()
            }
            Some((_, stored)) => {
                if model.layout.has_adapters() {
                    be.upload(p.masters_mut(), 0, &base);
                }
                restore(&mut replica, config, stored)?
            }
        };
        drop(base);
        replica.share();
        let mut curves = Curves::default();
        let read = from.as_ref().map_or(&state, |(state, _)| state);
        let metrics = job.run.continue_metrics(read, |record| curves.add(&record))?;
        // That of this text, whatever an earlier end of the run recorded.
        curves.floor = job.data.floor;
        let saved = from.map(|_| (state.step, state.last_estimate));
        let (config, model) = (&job.run.config, &replica.model);
        observe(&Event::Start {
            step: state.step,
            max_iters: config.max_iters,
            precision: replica.be.precision(),
            quantization: config.quantization,
            ranks: replica.ranks(),
            params: model.layout.len(),
            trainable_params: model.layout.trainable_len(),
            vocab_size: config.vocab_size,
            train_tokens: job.data.train.tokens(),
            val_tokens: job.data.val.tokens(),
            train_conversations: job.data.train.conversations().map(|of| of.0),
            train_rows: job.data.train.conversations().map(|of| of.1),
            entropy_floor: job.data.floor,
            plan: Plan::new(config, model, &job.data, job.old.as_ref())?,
            out: job.place.display().to_string(),
        });
        let clock = Clock::new(began, &state, &job, curves.points.len());
        let mut run = Run {
            saved,
            clock,
            batch: Batch::default(),
            planned: false,
            unwritten: false,
            unsampled: false,
            job,
            replica,
            state,
            metrics,
            curves,
            stop: options.stop,
            observe,
        };
        let data: Arc<Dataset> = run.job.data.clone();
        data.notes.iter().for_each(|note| (run.observe)(&Event::Note { note: note.clone() }));
        run.job.run.config.doubts().into_iter().for_each(|doubt| run.warn(doubt));
        if run.replica.ranks() > 1 && run.job.run.config.reduce_precision == Precision::Bf16 {
            let warning = "reduce_precision = \"bf16\" rounds what ranks send each other: the result depends on the number of ranks";
            run.warn(warning.to_owned());
        }
        run.tell_warnings();
        Ok(run)
    }

    /// Whether this step is one to estimate the loss at, and the state or the metrics have no estimate of it.
    fn estimate_is_due(&self) -> bool {
        let (config, step) = (&self.job.run.config, self.state.step);
        let recorded = self.curves.points.last().is_some_and(|point| point.0 == step);
        (step.is_multiple_of(config.eval_interval) || step == config.max_iters)
            && !(recorded && self.state.last_estimate == Some(step))
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.replica.is_asked_to_stop()
    }

    fn warn(&mut self, warning: String) {
        (self.observe)(&Event::Warning { step: self.state.step, warning });
    }

    /// Reports warnings from reading the run's folder.
    fn tell_warnings(&mut self) {
        for warning in std::mem::take(&mut self.job.run.warnings) {
            self.warn(warning);
        }
    }

    /// Reports an event and writes it to the metrics.
    fn record(&mut self, event: Event) {
        self.append(&event);
        (self.observe)(&event);
    }

    /// Writes an event to the metrics.
    fn append(&mut self, event: &Event) {
        let appended = self.metrics.append(event);
        if let Err(error) = &appended
            && !self.unwritten
        {
            self.warn(format!("{}; the unwritten lines are kept and written later", error.one_line()));
        }
        self.unwritten = appended.is_err();
    }

    /// Runs `measure` and reports its progress; `None` if the run was asked to stop.
    fn measure<T>(
        &mut self,
        measure: impl FnOnce(Evaluator<B>, &Job, &mut dyn FnMut(usize, usize) -> ControlFlow<()>) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let due = self.estimate_is_due();
        let Run { job, replica, state, stop, observe, clock, .. } = self;
        clock.calibrate(job, replica);
        replica.pack_to_read();
        clock.lap();
        let step = state.step;
        let mut progress = |done, of| {
            clock.measured(done);
            observe(&Event::Measuring { step, done, of, left_s: clock.left_s(step, due) });
            if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let Replica { be, model, shards, p, .. } = replica;
        measure(Evaluator { be, model, shards, p: p.weights() }, job, &mut progress)
    }

    /// Mean number of tokens trained on in an update.
    fn tokens_per_step(&self) -> f64 {
        let Job { run: RunDir { config, .. }, data, old, .. } = &self.job;
        tokens_per_step(config, data, old.as_ref())
    }

    /// Estimates both losses and writes a checkpoint.
    fn estimate(&mut self) -> Result<()> {
        let step = self.state.step;
        let losses = self.measure(|mut evaluator, job, progress| {
            let Job { run: RunDir { config, .. }, data, old, .. } = job;
            let (splits, mut before) = (if old.is_some() { 3 } else { 2 }, 0);
            let mut loss = |split, purpose| {
                let mut last = 0;
                let of_all = |done, of| {
                    last = of;
                    progress(before + done, splits * of)
                };
                let loss = evaluator.estimate(split, purpose, config, step, of_all);
                before += last;
                loss
            };
            let train = loss(&data.train, Purpose::EstimateTrain)?;
            let val = loss(&data.val, Purpose::EstimateVal)?;
            let old = old.as_ref().map(|old| loss(&old.val, Purpose::EstimateVal)).transpose()?;
            // An inner `None` means that the run was asked to stop.
            let old = old.map_or(Some(None), |loss| loss.map(Some));
            Ok(train.zip(val).zip(old))
        });
        let Some(((train_loss, val_loss), old_val_loss)) = losses? else { return Ok(()) };
        self.clock.estimated();
        self.curves.points.push((step, train_loss, val_loss));
        self.curves.old.extend(old_val_loss.map(|loss| (step, loss)));
        let before = (self.state.best, self.state.since_best, self.state.last_estimate);
        self.state.take_estimate(val_loss);
        let bits_per_byte = val_loss / LN_2 * self.job.data.val.tokens_per_byte_and_char().0;
        let (tokens, train_s) = (step as f64 * self.tokens_per_step(), self.state.train_s);
        self.record(Event::Estimate { step, train_loss, val_loss, old_val_loss, bits_per_byte, tokens, train_s });
        self.record_sample();
        self.clock.sampled();
        if let Err(error) = self.save() {
            // Where nothing was trained yet, nothing is lost.
            let Some((last, _)) = self.saved.filter(|_| !is_over(&self.job.run.config, &self.state)) else {
                return Err(error);
            };
            if self.state.best.is_some_and(|(_, best)| best == step) {
                // A checkpoint that was not saved cannot be the best.
                (self.state.best, self.state.since_best, self.state.last_estimate) = before;
            }
            self.warn(format!(
                "NO CHECKPOINT WAS WRITTEN: {}; the last one is from step {last}. Training continues and tries \
                 again at the next estimate",
                error.one_line()
            ));
        }
        let title = format!("{}: loss", self.job.place.file_name().unwrap_or_default().display());
        if let Err(error) = self.job.run.write("loss.svg", loss_svg(&title, &self.curves).as_bytes()) {
            self.warn(error.one_line());
        }
        self.clock.saved();
        Ok(())
    }

    /// Writes a checkpoint, unless this state is already on disk; the metrics before it.
    fn save(&mut self) -> Result<()> {
        self.state.wall_s = self.clock.wall_s();
        let now = Some((self.state.step, self.state.last_estimate));
        if self.saved != now {
            if let Err(error) = self.metrics.flush() {
                self.warn(error.one_line());
            }
            let replica = &self.replica;
            let read = |buffer, span: Span, out: &mut [f32]| match buffer {
                Buffer::Weights => replica.be.download(replica.p.masters(), span.start, out),
                Buffer::FirstMoments => replica.read_moments(Moments::First, span, out),
                Buffer::SecondMoments => replica.read_moments(Moments::Second, span, out),
            };
            self.job.run.save(&self.replica.model.layout, &self.state, read)?;
            self.saved = now;
        }
        if let Err(error) = self.job.run.prune(&self.state) {
            self.warn(error.one_line());
        }
        Ok(())
    }

    /// One update, if the guard allows it.
    fn step(&mut self) -> Result<()> {
        let clock = Instant::now();
        let Run { job, replica, state, batch, .. } = self;
        let (config, step) = (&job.run.config, state.step);
        job.data.train.load_step(config, step, job.old.as_ref().map(|old| &old.train), batch)?;
        let (loss, grad_norm) = replica.gradient(batch, config.seed, step);
        let Replica { be, model, shards, .. } = &*replica;
        let gradient = || {
            let mut host = vec![0.0; model.layout.len()];
            be.download(shards.last_gradient(), 0, &mut host);
            host
        };
        let judged = state.guard.judge(config, &model.layout, step + 1, loss, grad_norm, gradient);
        if let Err(divergence) = judged {
            return self.diverged(divergence);
        }
        let lr_scale = state.guard.lr_scale(config);
        replica.update(grad_norm, lr_scale, step);
        (state.step, state.updates) = (step + 1, Some(replica.optimizer.updates));
        state.train_s += clock.elapsed().as_secs_f64();
        self.clock.stepped();
        let step = self.state.step;
        let lr = lr_scale * self.job.run.config.lr(step - 1);
        let tokens_per_s = self.tokens_per_step() / self.clock.step_s();
        let event = |left_s| Event::Step { step, loss, lr, grad_norm, tokens_per_s, left_s };
        if step.is_multiple_of(self.job.run.config.log_interval) {
            self.curves.steps.push(step, loss, lr, grad_norm);
            self.append(&event(None));
        }
        let left_s = self.left_s();
        (self.observe)(&event(left_s));
        // What takes a moment needs no plan.
        let planned = self.planned || !self.clock.is_worth_telling();
        if let (false, Some(left_s)) = (planned, left_s) {
            self.planned = true;
            let Job { run: RunDir { config, .. }, data, old, .. } = &self.job;
            let mut plan = Plan::new(config, &self.replica.model, data, old.as_ref())?;
            self.clock.complete(&mut plan, left_s);
            (self.observe)(&Event::Planned { step, plan });
        }
        Ok(())
    }

    /// Seconds to the end, once it is known what everything costs.
    fn left_s(&mut self) -> Option<f64> {
        let due = self.estimate_is_due();
        let Run { clock, job, replica, state, .. } = self;
        clock.calibrate(job, replica);
        clock.left_s(state.step, due)
    }

    /// Handles an update that the guard rejected, as configured.
    fn diverged(&mut self, divergence: Divergence) -> Result<()> {
        let config = &self.job.run.config;
        let action = self.state.guard.action(config);
        match action {
            OnDivergence::Stop => {}
            OnDivergence::Skip => {
                self.state.guard.skipped += 1;
                self.state.step += 1;
            }
            OnDivergence::Rollback => {
                let (_, stored) = self.job.run.newest_estimated(&self.replica.model.layout)?;
                self.tell_warnings();
                // The base weights of adapters never change, so they need no restoring.
                let state = restore(&mut self.replica, &self.job.run.config, &stored)?;
                self.replica.share();
                let rollbacks = self.state.guard.rollbacks + 1;
                self.state = State {
                    guard: Guard { rollbacks, ..state.guard },
                    wall_s: self.state.wall_s,
                    train_s: self.state.train_s,
                    ..state
                };
                self.saved = Some((self.state.step, self.state.last_estimate));
                self.metrics = self.job.run.continue_metrics(&self.state, |_| ())?;
                self.curves.truncate(self.state.step);
            }
        }
        let step = self.state.step;
        let rollbacks = self.state.guard.rollbacks;
        self.record(Event::Diverged { step, action, rollbacks, divergence: divergence.clone() });
        if action == OnDivergence::Stop { Err(Error::Diverged(Box::new(divergence))) } else { Ok(()) }
    }
}

/// Loads the weights and moments of a checkpoint; returns its state.
fn restore<B: Backward>(replica: &mut Replica<B>, config: &Config, stored: &Stored) -> Result<State> {
    let Replica { be, model, optimizer, p, .. } = replica;
    let state = stored.restore(&model.layout, &mut |buffer, span, x| match buffer {
        Buffer::Weights => be.upload(p.masters_mut(), span.start, x),
        Buffer::FirstMoments => be.upload(&mut optimizer.m, span.start, x),
        Buffer::SecondMoments => be.upload(&mut optimizer.v, span.start, x),
    })?;
    let state = state.completed(config.eval_interval);
    optimizer.updates = state.updates.unwrap_or(state.step);
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::{super::job::resolve, *};
    use kinglet_core::{backend::Cpu, params::Layout};
    use std::fs;

    /// Before the first checkpoint there is nothing to keep, after it everything.
    #[test]
    fn a_new_run_without_a_checkpoint_is_removed_when_it_fails() {
        let temp = tempfile::tempdir().unwrap();
        let settings =
            ["data=[\"builtin\"]", "n_embd=16", "n_layer=1", "max_iters=8", "eval_interval=4", "eval_iters=1"];
        let config = Config::default().with(&settings).unwrap();
        let out = temp.path().join("folder/run");
        let start = || Job::start(config.clone(), &out).unwrap();
        let run = |job: Job, observe: &mut (dyn FnMut(&Event) + Send)| {
            super::run(job, Cpu::new().unwrap(), &Options::default().threads(1), observe)
        };
        // The folder of the checkpoints is lost before the first estimate.
        let job = start();
        let error = run(job, &mut |event| {
            if let Event::Start { .. } = event {
                fs::remove_dir(out.join("checkpoints")).unwrap();
                fs::write(out.join("checkpoints"), "in the way").unwrap();
            }
        });
        assert!(error.unwrap_err().to_string().starts_with("cannot "));
        let left: Vec<_> = out.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["checkpoints"], "what somebody else put there");
        fs::remove_dir_all(temp.path().join("folder")).unwrap();
        // The metrics cannot be written.
        let job = start();
        fs::create_dir(out.join("metrics.jsonl")).unwrap();
        run(job, &mut |_| ()).unwrap_err();
        fs::remove_dir(out.join("metrics.jsonl")).unwrap();
        fs::remove_dir(&out).expect("nothing else is there");
        fs::remove_dir(temp.path().join("folder")).unwrap();
        // One that was not begun here stays.
        drop(start());
        let job = Job::resume(&out, &[]).unwrap();
        fs::create_dir(out.join("metrics.jsonl")).unwrap();
        run(job, &mut |_| ()).unwrap_err();
        assert!(out.join("config.toml").exists());
        fs::remove_dir_all(&out).unwrap();
        // Nor does one with a checkpoint go.
        let error = run(start(), &mut |event| {
            if let Event::Step { step: 1, .. } = event {
                fs::rename(out.join("checkpoints"), out.join("moved")).unwrap();
                fs::write(out.join("checkpoints"), "in the way").unwrap();
            }
        });
        assert!(error.is_err() && out.join("moved/step-000000/model.safetensors").exists());
        assert!(out.join("config.toml").exists());
    }

    /// Adapters on weights that the job is given: the same bits with and without an interruption.
    #[test]
    fn adapters_train_on_given_weights_and_go_on_from_a_checkpoint() {
        let temp = tempfile::tempdir().unwrap();
        let model = ["data=[\"builtin\"]", "n_embd=16", "n_layer=2"];
        let settings =
            ["max_iters=8", "eval_interval=4", "eval_iters=1", "shards=2", "lora_rank=4", "lora_dropout=0.1"];
        let config = Config::default().with(&model).unwrap().with(&settings).unwrap();
        let error = Job::start(config.clone(), temp.path()).unwrap_err().to_string();
        assert!(error.contains("lora_rank = 4: must be 0 in a new run"), "{error}");
        let (config, tokenizer, data) = resolve(config).unwrap();
        let data = Arc::new(data);
        let layout = Layout::new(&config).unwrap();
        let base = layout.init(99)[..layout.base_len].to_vec();
        let train = |name: &str, stop_at: Option<u64>| {
            let path = temp.path().join(name);
            let created = RunDir::create(&path, config.clone(), tokenizer.clone(), None).or_else(|_| {
                let run = RunDir::open(&path)?;
                let lock = run.lock()?;
                Ok::<_, Error>((run, lock))
            });
            let (mut run, lock) = created.unwrap();
            let from = run.newest(&layout, |_| true).ok();
            run.warnings.clear();
            let job = Job { base: Some(base.clone()), from, ..Job::new(run.clone(), lock, data.clone()) };
            let stop = AtomicBool::new(false);
            let observe = |event: &Event| {
                if let Event::Step { step, .. } = event {
                    stop.store(Some(*step) == stop_at, Ordering::Relaxed);
                }
            };
            super::run(job, Cpu::new().unwrap(), &Options::default().threads(2).stop(&stop), observe).unwrap();
            run.load(&layout, Some(&base), |_| true).unwrap()
        };
        let whole = train("whole", None);
        assert_eq!(train("stopped", Some(3)).state.step, 3);
        let stopped = train("stopped", None);
        assert_eq!((whole.state.step, &whole.weights), (8, &stopped.weights));
        assert!(whole.m == stopped.m && whole.v == stopped.v);
        assert_eq!(whole.weights[..layout.base_len], base);
        assert!(whole.weights[layout.base_len..] != layout.init(config.seed)[layout.base_len..]);
    }
}
