//! Progress of many runs, of which several may be in training at a time.

use super::{
    report::optional,
    terminal,
    watch::{Watch, left},
};
use crate::train::Event;
use std::time::Instant;

/// Where a run stands.
#[derive(Clone, Default)]
struct At {
    name: String,
    /// How much it has to compute, and in how many steps.
    work: f64,
    steps: u64,
    /// The steps that are done, and those that were before this session.
    step: u64,
    before: Option<u64>,
    ended: bool,
}

/// Where many runs stand.
pub(super) struct Many {
    /// What they are, in front of how many are done.
    title: String,
    began: Instant,
    runs: Vec<At>,
}

impl Many {
    /// Runs by name, each with how much it has to compute and its steps.
    pub(super) fn new(title: &str, runs: impl IntoIterator<Item = (String, f64, u64)>) -> Many {
        let at = |(name, work, steps)| At { name, work, steps, ..At::default() };
        Many { title: title.to_owned(), began: Instant::now(), runs: runs.into_iter().map(at).collect() }
    }

    /// The name of run number `i`.
    pub(super) fn name(&self, i: usize) -> &str {
        &self.runs[i].name
    }

    /// The number of the run of this name.
    pub(super) fn named(&self, name: &str) -> Option<usize> {
        self.runs.iter().position(|at| at.name == name)
    }

    /// A run begins or goes on; where it stands is told next.
    pub(super) fn begins(&mut self, i: usize) {
        self.runs[i].before = None;
    }

    /// A run has ended, in this session or before.
    pub(super) fn ended(&mut self, i: usize) {
        let at = &mut self.runs[i];
        at.before.get_or_insert(if at.step > 0 { 0 } else { at.steps });
        at.ended = true;
    }

    /// Takes note of how far a run is; what there is to tell of that.
    pub(super) fn training(&mut self, i: usize, event: &Event) -> Option<String> {
        let at = &mut self.runs[i];
        match *event {
            Event::Start { step, .. } => {
                (at.step, at.before) = (step, Some(step));
                None
            }
            Event::Step { step, loss, .. } => {
                // Of a run on another rank, the start is not told of.
                at.before.get_or_insert(step.saturating_sub(1));
                at.step = step;
                Some(format!("loss {loss:.3}"))
            }
            Event::Measuring { done, of, .. } => Some(format!("measuring {} %", 100 * done / of.max(1))),
            _ => None,
        }
    }

    /// Moves the bar, or writes a line where there is none; `what` is told of run number `i`. `rest` is the time left, if it is not
    /// what the runs take.
    pub(super) fn show(&self, watch: &mut Watch, i: usize, what: &str, rest: Option<String>) {
        let Many { title, runs, began } = self;
        let share = |at: &At, step: u64| at.work * step as f64 / at.steps.max(1) as f64;
        let done: f64 = runs.iter().map(|at| if at.ended { at.work } else { share(at, at.step) }).sum();
        let all: f64 = runs.iter().map(|at| at.work).sum();
        // What earlier sessions did took other time.
        let before: f64 = runs.iter().map(|at| share(at, at.before.unwrap_or(at.step))).sum();
        let (now, seconds) = (done - before, began.elapsed().as_secs_f64());
        let known = (now > 0.0 && seconds > 2.0).then(|| seconds * (all - done) / now);
        let rest = rest.unwrap_or_else(|| optional(known, left));
        let over = runs.iter().filter(|at| at.ended).count();
        let busy = runs.iter().filter(|at| !at.ended && at.before.is_some()).count();
        let At { name, step, steps, .. } = &runs[i];
        let many = format!("{title}{over}/{} runs", runs.len());
        let busy = optional((busy > 1).then_some(busy), |n| format!("{n} in training"));
        let parts = || {
            let of_one = if busy.is_empty() { format!("step {step}/{steps}") } else { busy.clone() };
            let (name, what) = if busy.is_empty() { (name.clone(), what.to_owned()) } else { Default::default() };
            vec![(0, many.clone()), (4, name), (2, of_one), (3, what), (1, rest.clone())]
        };
        let line = || {
            let busy = optional(Some(&busy).filter(|busy| !busy.is_empty()), |busy| format!(", {busy}"));
            let rest = optional(Some(&rest).filter(|rest| !rest.is_empty()), |rest| format!(", {rest}"));
            format!("{many} done{busy}; {name}: step {step} of {steps}, {what}{rest}")
        };
        watch.at((1e6 * done / all.max(f64::MIN_POSITIVE)) as u64, 1_000_000, parts, line);
    }
}

/// Whether progress is shown: with JSON on standard output only on a terminal.
pub(super) fn is_shown(json: bool) -> bool {
    !json || terminal::columns_err().is_some()
}
