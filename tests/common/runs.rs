//! Runs of the library, and what they leave.

use kinglet::{
    backend::Cpu,
    params::Layout,
    run::{Checkpoint, RunDir},
    train::{self, Event, Job, Options},
};
use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// Runs a job to its end, or until `stop_at` updates are done; the checkpoint it leaves.
pub(crate) fn train(job: Job, threads: usize, stop_at: Option<u64>) -> Checkpoint {
    let (stop, path) = (AtomicBool::new(false), job.run.path().to_owned());
    let options = Options::default().threads(threads).stop(&stop);
    let last = train::run(job, Cpu::new().unwrap(), &options, |event| {
        if let Event::Step { step, .. } = event {
            stop.store(Some(*step) == stop_at, Ordering::Relaxed);
        }
    });
    assert_eq!(matches!(last.unwrap(), Event::Interrupted { .. }), stop_at.is_some());
    newest(&path)
}

/// The newest checkpoint of a run.
pub(crate) fn newest(run: &Path) -> Checkpoint {
    let mut run = RunDir::open(run).unwrap();
    let base = run.adapted_weights().unwrap();
    run.load(&Layout::new(&run.config).unwrap(), base.as_deref(), |_| true).unwrap()
}

#[track_caller]
pub(crate) fn same_bits(a: &Checkpoint, b: &Checkpoint) {
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(bits(&a.weights) == bits(&b.weights), "weights differ");
    assert!(bits(&a.m) == bits(&b.m) && bits(&a.v) == bits(&b.v), "moments differ");
    assert_eq!((a.state.step, a.state.best), (b.state.step, b.state.best));
}
