//! Several ranks train the run that one process would have trained, bit by bit. Here each rank is a thread.

use crate::common::runs::{copy, newest, same_bits};
use kinglet::{
    backend::Cpu,
    config::{Config, OnDivergence},
    error::Result,
    ranks::{Team, threads},
    replica::{quit, serve},
    run::{Checkpoint, RunDir, Which},
    text::builtin::Builtin,
    threads::with_threads,
    train::{self, Event, Job, Options, finetune::prepare},
};
use serde_json::Value;
use std::{
    path::Path,
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

/// A small model, and a text so short that its n-gram baseline takes no time.
fn config(settings: &[&str]) -> Config {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let text = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ranks.txt");
        std::fs::write(&text, &Builtin::Play.text()[..20_000]).unwrap();
        format!("data=[{text:?}]")
    });
    let small = [
        TEXT.as_str(),
        "n_layer=2",
        "n_head=2",
        "n_embd=16",
        "block_size=16",
        "batch_size=9",
        "gradient_accumulation_steps=2",
        "dropout=0.1",
        "max_iters=7",
        "eval_interval=3",
        "eval_iters=2",
        "sample_tokens=0",
    ];
    Config::default().with(&small).unwrap().with(settings).unwrap()
}

/// Runs a job on so many ranks, each with one thread, until its end or until `stop_at` updates are done; the last event.
/// `asked` is the rank that is asked to stop.
fn train_on(job: Job, size: usize, stop_at: Option<u64>, asked: usize) -> Result<Event> {
    train_in_parts(job, size, false, stop_at, asked)
}

/// The same, where each rank updates a part of the weights or all of them.
fn train_in_parts(job: Job, size: usize, zero: bool, stop_at: Option<u64>, asked: usize) -> Result<Event> {
    let teams: Vec<Team> = threads(size).into_iter().map(Team::new).collect();
    let be = Cpu::new().unwrap();
    std::thread::scope(|scope| {
        for team in &teams[1..] {
            scope.spawn(move || with_threads(1, || serve(&be, team)).unwrap().unwrap());
        }
        let never = AtomicBool::new(false);
        let options = Options::default().threads(1).stop(&never).team(&teams[0]).zero(zero);
        let last = train::run(job, be, &options, |event| {
            if let Event::Step { step, .. } = event {
                teams[asked].stop().store(Some(*step) == stop_at, Ordering::Relaxed);
            }
        });
        quit(&teams[0]);
        last
    })
}

/// What a run has measured, without the times.
fn measured(run: &Path) -> Vec<Value> {
    let mut events = RunDir::open(run).unwrap().metrics().unwrap();
    for event in &mut events {
        let event = event.as_object_mut().unwrap();
        event.retain(|key, _| {
            !key.ends_with("_s") && !key.starts_with("ms_per") && key != "peak_memory_mib" && key != "out"
        });
    }
    events
}

/// Numbers of shards.
const SHARDS: [usize; 6] = [1, 2, 3, 4, 7, 8];

/// One process and every number of ranks that `shards` allows end with the same weights, moments and metrics.
fn same_on_any_number(shards: &[usize], start: impl Fn(usize, &Path) -> Job) -> Vec<Checkpoint> {
    let temp = tempfile::tempdir().unwrap();
    let each = |&shards: &usize| {
        let run = |size: usize| {
            let out = temp.path().join(format!("{shards}-{size}"));
            let job = start(shards, &out);
            let last = train_on(job, size, None, 0).unwrap();
            assert!(matches!(last, Event::Done { .. }), "{last:?}");
            (newest(&out), measured(&out))
        };
        let in_parts = |size: usize| {
            let out = temp.path().join(format!("{shards}-{size}-parts"));
            train_in_parts(start(shards, &out), size, true, None, 0).unwrap();
            newest(&out)
        };
        let (alone, metrics) = run(1);
        for size in 2..=shards {
            let (together, of_all) = run(size);
            same_bits(&together, &alone);
            assert_eq!(of_all, metrics, "{shards} shards on {size} ranks");
            if size == shards || size == 2 {
                same_bits(&in_parts(size), &alone);
            }
        }
        alone
    };
    shards.iter().map(each).collect()
}

fn same_with(settings: &[&str]) -> Vec<Checkpoint> {
    same_on_any_number(&SHARDS, |shards, out| {
        Job::start(config(&[settings, &[&format!("shards={shards}")]].concat()), out).unwrap()
    })
}

#[test]
fn any_number_of_ranks_ends_with_the_same_bits() {
    let all = same_with(&[]);
    assert!(all.windows(2).all(|pair| pair[0].weights != pair[1].weights), "the number of shards does matter");
}

#[test]
fn also_with_muon() {
    let blocks = ["tie_weights=true", "bias=true", "position=rotary", "qk_norm=true", "qkv_conv=3", "res_conv=2"];
    same_with(&[&["optimizer=muon", "grad_clip=0.1"], &blocks[..]].concat());
}

#[test]
fn also_in_bf16_with_rounded_weights() {
    same_with(&["precision=bf16"]);
    same_on_any_number(&[3], |_, out| Job::start(config(&["quantization=w4", "n_embd=32", "shards=3"]), out).unwrap());
}

#[test]
fn also_with_adapters() {
    let temp = tempfile::tempdir().unwrap();
    let base = temp.path().join("base");
    train_on(Job::start(config(&["shards=1"]), &base).unwrap(), 1, None, 0).unwrap();
    let data = config(&[]).data;
    same_on_any_number(&SHARDS, |shards, out| {
        let settings = ["lora_rank=4", "lora_dropout=0.1", "max_iters=6", "eval_iters=2", "batch_size=8"];
        let settings = settings.map(str::to_owned).into_iter().chain([format!("shards={shards}")]);
        prepare(&base, Which::Last, &data, &settings.collect::<Vec<_>>()).unwrap().start(out).unwrap()
    });
}

#[test]
fn also_when_updates_are_skipped_or_rolled_back() {
    let temp = tempfile::tempdir().unwrap();
    let text = temp.path().join("text.txt");
    let good = "in winter the kinglet weighs no more than a coin. ".repeat(60);
    let bad: String = (0..300u32).map(|i| char::from(b'a' + (i * i % 89 * i % 26) as u8)).collect();
    std::fs::write(&text, [good.as_str(), &bad, &good].concat()).unwrap();
    for (action, settings) in [
        (OnDivergence::Skip, &["on_divergence=skip", "spike_zscore=0.5", "max_iters=120", "learning_rate=1e-2"][..]),
        (
            OnDivergence::Rollback,
            &[
                "on_divergence=rollback",
                "rollback_lr=0.1",
                "learning_rate=10",
                "weight_decay=10",
                "max_iters=30",
                "eval_interval=10",
            ],
        ),
    ] {
        let mut acts = 0;
        let settings = [settings, &["dropout=0", "gradient_accumulation_steps=1", "n_layer=1"]].concat();
        let mut config = config(&settings);
        config.data = vec![text.display().to_string()];
        let start = |shards, out: &Path| {
            let config = config.clone().with(&[format!("shards={shards}").as_str()]).unwrap();
            Job::start(config, out).unwrap()
        };
        same_on_any_number(&SHARDS, start);
        let out = temp.path().join(format!("{action:?}"));
        train_on(start(4, &out), 3, None, 0).unwrap();
        for event in measured(&out) {
            acts += usize::from(event["event"] == "diverged");
        }
        assert!(acts > 0, "{action:?} was tried");
    }
}

#[test]
fn a_run_goes_on_with_another_number_whichever_rank_is_asked_to_stop() {
    let temp = tempfile::tempdir().unwrap();
    let start = |name: &str| Job::start(config(&["shards=4", "max_iters=12"]), temp.path().join(name)).unwrap();
    train_on(start("whole"), 1, None, 0).unwrap();
    let out = temp.path().join("stopped");
    let mut job = start("stopped");
    for (size, stop_at, asked) in [(4, 2, 3), (1, 4, 0), (3, 6, 1), (2, 9, 1)] {
        let last = train_in_parts(job, size, size > 2, Some(stop_at), asked).unwrap();
        // Rank 0 hears of another with its next report, of a step or of an estimate.
        let steps = stop_at..=stop_at + u64::from(asked > 0);
        assert!(matches!(&last, Event::Interrupted { step, .. } if steps.contains(step)), "{last:?}");
        job = Job::resume(&out, &[]).unwrap();
    }
    train_in_parts(job, 4, true, None, 0).unwrap();
    same_bits(&newest(&out), &newest(&temp.path().join("whole")));
}

/// Rounded gradients train a model nearly as well, and all ranks have the same weights: what they measure is of one model.
#[test]
fn gradients_may_travel_in_bf16() {
    let temp = tempfile::tempdir().unwrap();
    let run = |name: &str, size: usize, precision: &str| {
        let settings = [precision, "shards=3", "max_iters=60", "eval_interval=60"];
        let out = temp.path().join(name);
        let last = train_in_parts(Job::start(config(&settings), &out).unwrap(), size, false, None, 0).unwrap();
        let Event::Done { val_loss_exact, .. } = last else { panic!("{last:?}") };
        (newest(&out), val_loss_exact)
    };
    let (exact, loss) = run("f32", 3, "reduce_precision=f32");
    let (rounded, near) = run("bf16", 3, "reduce_precision=bf16");
    assert!(exact.weights != rounded.weights && (loss - near).abs() < 0.02, "{loss} and {near}");
    // One process sends nothing.
    same_bits(&run("alone", 1, "reduce_precision=bf16").0, &exact);
    // Measured on one process, it is the same model.
    let more = |size: usize| {
        let out = temp.path().join(format!("more-{size}"));
        copy(&temp.path().join("bf16"), &out);
        let job = Job::resume(&out, &["max_iters=61".to_owned()]).unwrap();
        let Event::Done { train_loss, .. } = train_in_parts(job, size, false, None, 0).unwrap() else { panic!() };
        train_loss
    };
    assert!((more(1) - more(3)).abs() < 1e-4, "one more update, with gradients that are rounded or not");
}

#[test]
fn more_ranks_than_shards_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("run");
    let error = train_on(Job::start(config(&["shards=2"]), &out).unwrap(), 3, None, 0).unwrap_err().to_string();
    assert!(error.contains("shards = 2: must be at least 3"), "{error}");
    assert!(!out.exists(), "nothing is left of it");
}
