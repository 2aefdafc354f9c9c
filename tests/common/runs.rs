//! Runs of the library, and what they leave.

use kinglet::{
    backend::Cpu,
    params::Layout,
    run::{Checkpoint, RunDir},
    train::{self, Event, Job},
};
use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// Runs a job to its end, or until `stop_at` updates are done; the checkpoint it leaves.
pub(crate) fn train(job: &Job, threads: usize, stop_at: Option<u64>) -> Checkpoint {
    let stop = AtomicBool::new(false);
    let last = train::run(job, &Cpu::new().unwrap(), threads, &stop, |event| {
        if let Event::Step { step, .. } = event {
            stop.store(Some(*step) == stop_at, Ordering::Relaxed);
        }
    });
    assert_eq!(matches!(last.unwrap(), Event::Interrupted { .. }), stop_at.is_some());
    newest(job.run.path())
}

/// The newest checkpoint of a run.
pub(crate) fn newest(run: &Path) -> Checkpoint {
    let mut run = RunDir::open(run).unwrap();
    let base = run.adapted_weights().unwrap();
    run.load(&Layout::new(&run.config), base.as_deref(), |_| true).unwrap()
}

#[track_caller]
pub(crate) fn same_bits(a: &Checkpoint, b: &Checkpoint) {
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(bits(&a.weights) == bits(&b.weights), "weights differ");
    assert!(bits(&a.m) == bits(&b.m) && bits(&a.v) == bits(&b.v), "moments differ");
    assert_eq!((a.state.step, a.state.best), (b.state.step, b.state.best));
}
