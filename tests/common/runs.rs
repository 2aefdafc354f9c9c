//! Runs of the library, and what they leave.

use kinglet::{
    Model,
    backend::Cpu,
    config::Config,
    params::Layout,
    run::{Checkpoint, RunDir},
    text::tokenizer::Tokenizer,
    train::{self, Event, Job, Options},
};
use std::{
    fs,
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

/// Copies a folder.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() { copy(&entry.path(), &to) } else { _ = fs::copy(entry.path(), to).unwrap() }
    }
}

/// A model that draws each byte by this logit alone, and all others never.
pub(crate) fn of_logits(logits: &[(u32, f32)], settings: &[&str]) -> Model {
    let small = ["vocab_size=264", "block_size=16", "n_layer=1", "n_head=2", "n_embd=8", "bias=[\"head\"]"];
    let config = Config::default().with(&[&small[..], settings].concat()).unwrap();
    let layout = Layout::new(&config).unwrap();
    let mut weights = vec![0.0; layout.len()];
    let bias = layout.lm_head.b.unwrap().range();
    weights[bias.clone()].fill(-1e4);
    logits.iter().for_each(|&(id, logit)| weights[bias.start + id as usize] = logit);
    Model::from_weights(Cpu::new().unwrap(), config, Tokenizer::byte(), &weights).unwrap()
}
