use super::*;
use crate::{
    run::RunDir,
    train::{self, Options},
};
use kinglet_core::{backend::Cpu, params::Layout};
use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

const SETTINGS: [&str; 8] = [
    "data=[\"builtin\"]",
    "n_embd=16",
    "n_layer=1",
    "block_size=16",
    "max_iters=40",
    "eval_interval=10",
    "eval_iters=1",
    "shards=1",
];

/// Trains, with a stop after this step; the events that are told.
fn train(path: &Path, setting: &str, stop_at: Option<u64>) -> Vec<Event> {
    let job = if path.exists() {
        Job::resume(path, &[]).unwrap()
    } else {
        Job::start(Config::default().with(&SETTINGS).unwrap().with(&[setting]).unwrap(), path).unwrap()
    };
    let stop = AtomicBool::new(false);
    let mut told = Vec::new();
    let observe = |event: &Event| {
        if let Event::Step { step, .. } = event {
            stop.store(Some(*step) == stop_at, Ordering::Relaxed);
        }
        told.push(event.clone());
    };
    train::run(job, Cpu::new().unwrap(), &Options::default().threads(1).stop(&stop), observe).unwrap();
    told
}

/// The metrics without times, and the samples among them.
fn metrics(path: &Path) -> (Vec<String>, Vec<(u64, String)>) {
    let (mut all, mut samples) = (Vec::new(), Vec::new());
    for mut event in RunDir::open(path).unwrap().metrics().unwrap() {
        if event["event"] == "sample" {
            samples.push((event["step"].as_u64().unwrap(), event["text"].as_str().unwrap().to_owned()));
            continue;
        }
        for key in ["tokens_per_s", "train_s", "wall_s", "ms_per_step", "peak_memory_mib", "out"] {
            event.as_object_mut().unwrap().remove(key);
        }
        all.push(event.to_string());
    }
    (all, samples)
}

#[test]
fn samples_change_nothing_else_and_come_again_after_a_resume() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    train(&path("without"), "sample_tokens=0", None);
    let told = train(&path("with"), "sample_tokens=4", None);
    train(&path("stopped"), "sample_tokens=4", Some(25));
    train(&path("stopped"), "sample_tokens=4", None);
    let weights = |name: &str| {
        let mut run = RunDir::open(&path(name)).unwrap();
        let layout = Layout::new(&run.config).unwrap();
        run.load(&layout, None, |_| true).unwrap().weights
    };
    let [without, with, stopped] = ["without", "with", "stopped"].map(|name| metrics(&path(name)));
    assert!(weights("without") == weights("with") && weights("with") == weights("stopped"));
    assert_eq!(without.0, with.0);
    assert!(without.1.is_empty());
    assert_eq!(with.1.iter().map(|sample| sample.0).collect::<Vec<_>>(), [0, 10, 20, 30, 40]);
    assert_eq!(with.1, stopped.1);
    let told = told.iter().filter(|event| matches!(event, Event::Sample { .. })).count();
    assert_eq!(told, 5);
}

#[test]
fn samples_take_a_small_part_of_the_time() {
    let config = |settings: &[&str]| Config::default().with(settings).unwrap();
    let large = ["max_iters=5000", "eval_interval=250", "batch_size=64", "block_size=256"];
    assert_eq!(every(&config(&large)), 1);
    // With a context of 32, most of a sample is read again for each token.
    let small = config(&["max_iters=5000", "eval_interval=100", "batch_size=16", "block_size=32", "eval_iters=200"]);
    let steps: Vec<_> = (0..=5000).step_by(100).filter(|&step| is_due(&small, step)).collect();
    assert!((8..=12).contains(&steps.len()) && steps.last() == Some(&5000), "{steps:?}");
    // A short run has as many as are cheap, and one at each end.
    let short = ["max_iters=50", "eval_interval=10", "eval_iters=1", "batch_size=2"];
    for (tokens, samples) in [("sample_tokens=2", 6), ("sample_tokens=200", 2)] {
        let short = config(&[&short[..], &[tokens]].concat());
        assert_eq!((0..=50).step_by(10).filter(|&step| is_due(&short, step)).count(), samples, "{tokens}");
    }
    assert!(!is_due(&config(&["sample_tokens=0"]), 0));
    assert_eq!(cut("猫".repeat(LONGEST + 1)).chars().count(), LONGEST + 1);
    assert_eq!(cut("猫".repeat(LONGEST)).chars().count(), LONGEST);
}
