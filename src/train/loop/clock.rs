//! The one clock of a run: what its parts cost, measured as they happen, and so how long the rest takes.

use crate::{
    run::State,
    train::{
        calibrate,
        job::Job,
        plan::{Plan, Shape, Speed, Work},
    },
};
use kinglet_core::{backend::Backward, replica::Replica};
use std::time::Instant;

/// The seconds of measuring that what earlier sessions took counts as.
const PAST_S: f64 = 1.0;

/// Every second of a session belongs to one of its parts.
pub(super) struct Clock {
    /// When the session began, and the run's elapsed seconds before.
    began: Instant,
    wall_before: f64,
    shape: Shape,
    speed: Speed,
    /// The end of the last part.
    last: Instant,
    /// Sequences measured in the estimate, or the exact loss, that is in progress.
    measured: usize,
    /// Seconds of an estimate with its checkpoint in earlier sessions.
    past: Option<f64>,
    /// Whether the costs of the end have been forecast.
    calibrated: bool,
    /// Whether only the end is left.
    ending: bool,
}

impl Clock {
    /// A clock of a session that begins with `state`, after so many estimates.
    pub(super) fn new(began: Instant, state: &State, job: &Job, estimates: usize) -> Clock {
        let shape = Shape::new(&job.run.config, &job.data, job.old.as_ref());
        let mut speed = Speed::default();
        if state.step > 0 {
            speed.step.guess(state.train_s / state.step as f64, PAST_S);
        }
        // In earlier sessions, an estimate with its checkpoint.
        let past = (estimates > 0).then(|| (state.wall_s - state.train_s) / estimates as f64);
        let (wall_before, last) = (state.wall_s, Instant::now());
        Clock { began, wall_before, shape, speed, last, measured: 0, past, calibrated: false, ending: false }
    }

    /// Seconds over all sessions.
    pub(super) fn wall_s(&self) -> f64 {
        self.wall_before + self.began.elapsed().as_secs_f64()
    }

    /// Mean seconds of an update in this session.
    pub(super) fn step_s(&self) -> f64 {
        self.speed.step.mean_s()
    }

    /// Whether updates have been measured for a while, so that a plan can be told.
    pub(super) fn is_worth_telling(&self) -> bool {
        self.speed.step.n >= 3.0 && self.step_s() * self.speed.step.n >= 1.0
    }

    /// Begins a new part; the seconds since the last one.
    pub(super) fn lap(&mut self) -> f64 {
        let seconds = self.last.elapsed().as_secs_f64();
        self.last = Instant::now();
        seconds
    }

    /// An update was made.
    pub(super) fn stepped(&mut self) {
        let seconds = self.lap();
        self.speed.step.add_s(seconds, 1.0);
    }

    /// So many sequences have been measured since the estimate began.
    pub(super) fn measured(&mut self, done: usize) {
        let seconds = self.lap();
        self.speed.sequence.add_s(seconds, done.saturating_sub(self.measured) as f64);
        self.measured = done;
    }

    /// An estimate is complete, but for its checkpoint.
    pub(super) fn estimated(&mut self) {
        self.measured = 0;
        self.lap();
    }

    /// A sample was drawn, if one was due. That takes a small part of the time, which is not forecast.
    pub(super) fn sampled(&mut self) {
        self.lap();
    }

    /// The checkpoint of an estimate and the plot are written.
    pub(super) fn saved(&mut self) {
        let seconds = self.lap();
        self.speed.checkpoint.add_s(seconds, 1.0);
    }

    /// Training is over.
    pub(super) fn ending(&mut self) {
        self.ending = true;
    }

    /// Forecasts, once, what cannot be measured before it happens.
    pub(super) fn calibrate<B: Backward>(&mut self, job: &Job, replica: &mut Replica<B>) {
        if self.calibrated || !self.speed.steps_are_known() {
            return;
        }
        self.calibrated = true;
        replica.pack_to_read();
        let Replica { be, model, shards, p, .. } = replica;
        let p = p.weights();
        // A resumed run has no estimate yet, and may have none for long.
        if self.speed.sequence.n == 0.0
            && let Ok(seconds) = calibrate::sequence_s(be, model, p, shards, &job.data.val, &job.run.config)
        {
            self.speed.sequence.guess(seconds, PAST_S);
            let rest_s = self.past.map_or(0.0, |past_s| past_s - seconds * self.shape.estimate);
            self.speed.checkpoint.guess(rest_s, PAST_S);
        }
        if !job.skip_report {
            // What fails here fails at the end again, and is told then.
            let sample_s = calibrate::sample_s(be, model, p).unwrap_or(0.0);
            self.speed.report_s = sample_s + calibrate::baseline_s(&job.data, model.vocab_size).unwrap_or(0.0);
        }
        self.lap();
    }

    /// Seconds to the end after `step` updates, once known; `due` says whether this step's estimate is not complete.
    pub(super) fn left_s(&self, step: u64, due: bool) -> Option<f64> {
        let work = if self.ending { self.shape.end() } else { self.shape.left(step, due) };
        let work = Work { sequences: (work.sequences - self.measured as f64).max(0.0), ..work };
        self.speed.is_known().then(|| self.speed.seconds(&work))
    }

    /// Adds the times to a plan: those of this session, of which `left_s` are left.
    pub(super) fn complete(&self, plan: &mut Plan, left_s: f64) {
        plan.set_time(&self.speed, &self.shape, self.began.elapsed().as_secs_f64() + left_s);
    }
}
