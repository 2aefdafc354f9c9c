//! Tuning: it finds what is better, it stops and goes on to the same result, its budget holds, and what cannot be is refused.

use crate::common::cli::{Cli, SMALL};
use kinglet::{
    backend::Cpu,
    config::Config,
    data::Origin,
    run::RunDir,
    train::{self, Job, Options},
    tune::{Changes, Check, Event, Found, Request, Sweep, Tuning},
};
use serde_json::Value;
use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

/// A model of a moment, with a learning rate that is far too low.
fn config(settings: &[&str]) -> Config {
    let data = ["data=[\"builtin\"]"];
    let tiny = ["n_layer=1", "n_embd=16", "n_head=2", "block_size=16", "batch_size=8", "shards=2", "train_split=0.99"];
    let short = ["max_iters=60", "learning_rate=1e-5", "eval_iters=1"];
    Config::default().with(&[&data[..], &tiny, &short, settings].concat()).unwrap()
}

fn request(settings: &[&str], sweeps: &[&str], trials: Option<usize>) -> Request {
    let sweeps = sweeps.iter().map(|text| text.parse().unwrap()).collect();
    Request { config: config(settings), origin: Origin::Named, sweeps, trials, budget_s: 1e5 }
}

/// Tunes until `stop_at` says so; none if it was stopped.
fn tune(tuning: Tuning, stop_at: impl Fn(&Event) -> bool + Send + Sync) -> Option<Found> {
    let stop = AtomicBool::new(false);
    let last = tuning.run(&stop, |event| {
        if stop_at(event) {
            stop.store(true, Ordering::Relaxed);
        }
    });
    match last.unwrap() {
        Event::Done(found) => Some(found),
        Event::Interrupted { .. } => None,
        event => panic!("{event:?}"),
    }
}

fn resume(out: &Path) -> Tuning {
    Tuning::resume(out, &Changes::default(), 2).unwrap()
}

fn text(out: &Path, name: &str) -> String {
    fs::read_to_string(out.join(name)).unwrap()
}

#[test]
fn a_learning_rate_that_is_too_low_is_replaced_and_the_result_is_what_training_gives() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("tune");
    let found = tune(Tuning::start(request(&[], &[], Some(6)), &out, 2).unwrap(), |_| false).unwrap();
    assert!(found.complete && found.best.trial != 0 && found.best.steps == 60, "{found:?}");
    assert_eq!((found.ranked.len(), found.checks.len()), (6, 2));
    let base = found.base.as_ref().unwrap();
    assert!(found.ranked.iter().any(|outcome| outcome.trial == 0 && outcome.loss == base.loss));
    for Check { seed, loss, configured_loss } in &found.checks {
        assert!(*seed != 1337 && *loss < configured_loss - 0.5, "{:?}", found.checks);
    }
    let config = kinglet::run::read_config(&out.join("best.toml")).unwrap();
    assert!(config.learning_rate > 1e-4 && config.max_iters == 60 && config.vocab_size == 0);
    let job = Job::start(config, temp.path().join("run")).unwrap();
    let last = train::run(job, Cpu::new().unwrap(), &Options::default().threads(1), |_| ()).unwrap();
    let train::Event::Done { val_loss_exact, .. } = last else { panic!("{last:?}") };
    assert_eq!(val_loss_exact, found.best.loss);

    // Only the best one's checkpoint is worth its place.
    let kept = |trial: &Path| !RunDir::open(trial).unwrap().steps().unwrap().is_empty();
    for entry in out.join("trials").read_dir().unwrap() {
        let trial = entry.unwrap().path();
        assert_eq!(kept(&trial), trial == Path::new(&found.best.run), "{}", trial.display());
        assert!(RunDir::open(&trial).unwrap().metrics().unwrap().iter().any(|event| event["event"] == "done"));
    }
    for part in ["range test", "validation loss against learning_rate"] {
        assert!(text(&out, "tune.svg").contains(part), "{part}");
    }
    let table = text(&out, "trials.md");
    assert!(table.contains("| 1 | learning_rate = ") && table.contains("(as configured)"), "{table}");
    assert!(table.contains("\n- The best loss of several is optimistic"), "a line of a list each: {table}");
}

#[test]
fn interrupted_again_and_again_it_finds_the_same() {
    let temp = tempfile::tempdir().unwrap();
    let schedule = ["lr_schedule=cosine", "warmup_iters=10", "min_lr=1e-6", "dropout=0.1"];
    let sweeps = ["learning_rate", "dropout=0..0.3", "activation=[relu, gelu]"];
    let start = |name: &str| Tuning::start(request(&schedule, &sweeps, Some(6)), &temp.path().join(name), 2).unwrap();
    let whole = tune(start("whole"), |_| false).unwrap();
    let out = temp.path().join("stopped");
    // In the range test; in the first trial; between two; in one of the second rung; in one with another seed.
    assert!(tune(start("stopped"), |event| matches!(event, Event::RangeStep { step: 50, .. })).is_none());
    let at = |wanted: u64| move |event: &Event| matches!(event, Event::Training { training: train::Event::Step { step, .. }, .. } if *step == wanted);
    assert!(tune(resume(&out), at(13)).is_none());
    let trial = RunDir::open(&out.join("trials/000-rung1")).unwrap().state().unwrap();
    assert_eq!(trial.step, 13, "stopped where it was, and saved");
    assert!(tune(resume(&out), |event| matches!(event, Event::Outcome(outcome) if outcome.trial == 2)).is_none());
    assert!(tune(resume(&out), at(45)).is_none());
    assert!(tune(resume(&out), |event| matches!(event, Event::Trial { check: true, number: 2, .. })).is_none());
    // Killed while it wrote.
    fs::write(out.join("tune.json.tmp"), "{").unwrap();
    let found = tune(resume(&out), |_| false).unwrap();
    assert_eq!(text(&out, "best.toml"), text(&temp.path().join("whole"), "best.toml"));
    let losses = |found: &Found| found.ranked.iter().map(|outcome| (outcome.trial, outcome.loss)).collect::<Vec<_>>();
    assert_eq!(losses(&found), losses(&whole));
    assert_eq!(found.checks, whole.checks);
    // Trials are whole runs: the schedule is as long as they are.
    let trial = RunDir::open(&out.join("trials/001-rung1")).unwrap().config;
    assert_eq!((trial.max_iters, trial.warmup_iters, trial.lr_schedule), (20, 3, whole_config(&out).lr_schedule));
    assert!((trial.min_lr / trial.learning_rate - 0.1).abs() < 1e-6, "the proportion stays");
    // Nothing is left to do, and nothing is done again.
    let again = tune(resume(&out), |event| matches!(event, Event::Trial { .. })).unwrap();
    assert_eq!(losses(&again), losses(&whole));
}

fn whole_config(out: &Path) -> Config {
    kinglet::run::read_config(&out.join("best.toml")).unwrap()
}

#[test]
fn the_budget_holds_and_more_of_it_goes_on() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("tune");
    let short = Request { budget_s: 10.0, ..request(&["max_iters=1000000"], &["learning_rate=1e-3..1e-1"], None) };
    let tuning = Tuning::start(short, &out, 2).unwrap();
    let clock = Instant::now();
    let found = tune(tuning, |_| false).unwrap();
    let taken = clock.elapsed().as_secs_f64();
    // A machine that is busy may be slow to stop.
    assert!(taken < 15.0 && found.spent_s < 15.0, "{taken} s, {found:?}");
    assert!(found.best.loss.is_finite() && found.best.steps < 1_000_000, "{found:?}");
    let why = text(&out, "best.toml");
    assert!(why.contains("of 1000000 steps, because the budget was 10 s"), "{why}");

    // One that ends in the middle of a trial.
    let out = temp.path().join("cut");
    let long = request(&["max_iters=3000"], &["learning_rate=1e-3..1e-1"], Some(3));
    assert!(tune(Tuning::start(long, &out, 2).unwrap(), |event| matches!(event, Event::Trial { .. })).is_none());
    let spent = resume(&out).budget_s().1;
    let less = |budget_s| Changes { budget_s: Some(budget_s), ..Changes::default() };
    let tuning = Tuning::resume(&out, &less(spent + 0.2), 2).unwrap();
    let error = tuning.run(&AtomicBool::new(false), |_| ()).unwrap_err().to_string();
    assert!(
        error.contains(
            "the budget ended before the first trial did; continue with --resume and a longer \
         --budget"
        ),
        "{error}"
    );
    let done = AtomicBool::new(false);
    let tuning = Tuning::resume(&out, &less(1e5), 2).unwrap();
    let ended = tuning.run(&done, |event| {
        if let Event::Outcome(outcome) = event {
            assert_eq!(outcome.trial, 0, "the configured settings come first");
            done.store(true, Ordering::Relaxed);
        }
    });
    assert!(matches!(ended, Ok(Event::Interrupted { .. })), "{ended:?}");
    let found = tune(Tuning::resume(&out, &less(0.1), 2).unwrap(), |_| false).unwrap();
    assert!(!found.complete && found.best.trial == 0 && found.checks.is_empty(), "{found:?}");
    assert!(text(&out, "trials.md").contains("The budget ended before everything was tried"));
}

#[test]
fn settings_that_diverge_are_results() {
    let temp = tempfile::tempdir().unwrap();
    let wild = ["weight_decay=10", "max_iters=30"];
    let sweeps = ["learning_rate=[1e-3, 10]"];
    let found =
        tune(Tuning::start(request(&wild, &sweeps, None), &temp.path().join("a"), 2).unwrap(), |_| false).unwrap();
    let [.., worst] = &found.ranked[..] else { panic!("{found:?}") };
    assert_eq!((found.ranked.len(), found.best.settings["learning_rate"].as_float()), (3, Some(1e-3)));
    assert!(worst.loss.is_infinite() && found.complete, "{worst:?}");
    assert!(text(&temp.path().join("a"), "trials.md").contains("| diverged |"));

    let all = ["weight_decay=10", "max_iters=30", "learning_rate=9"];
    let tuning = Tuning::start(request(&all, &["learning_rate=9..10"], Some(2)), &temp.path().join("b"), 2).unwrap();
    let error = tuning.run(&AtomicBool::new(false), |_| ()).unwrap_err().to_string();
    assert!(error.contains("every trial diverged"), "{error}");
}

#[test]
fn what_cannot_be_tuned_or_gone_on_with_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("tune");
    let start = |settings: &[&str], sweeps: &[&str]| {
        Tuning::start(request(settings, sweeps, None), &out, 2).unwrap_err().to_string()
    };
    for (settings, sweeps, message) in [
        (&["lora_rank=2"][..], &[][..], "lora_rank = 2: must be 0 in a new run"),
        (&[], &["dropout=0..0.1", "dropout=[0.5]"], "dropout is swept twice"),
        (&[], &["n_head=[3, 5]"], "n_head = 3: must be a divisor of n_embd"),
        (&[], &["n_head=[2]"], "there is nothing to compare"),
        (&[], &["n_embd=[65536]", "n_layer=[256]"], "GiB of memory, but this machine has"),
    ] {
        let error = start(settings, sweeps);
        assert!(error.contains(message), "{sweeps:?}: {error}");
    }
    let error = Tuning::start(Request { budget_s: 0.01, ..request(&[], &[], None) }, &out, 2).unwrap_err().to_string();
    assert!(error.contains("--budget 0s is too short: a useful tuning takes at least about"), "{error}");
    assert!(!out.exists(), "nothing is left");

    let tuning = Tuning::start(request(&[], &["learning_rate=1e-3..1e-2"], None), &out, 2).unwrap();
    let refused = |changes: &Changes| Tuning::resume(&out, changes, 2).unwrap_err().to_string();
    assert!(refused(&Changes::default()).contains("another kinglet"), "one at a time");
    drop(tuning);
    let sweep = |text: &str| -> Vec<Sweep> { vec![text.parse().unwrap()] };
    let error = refused(&Changes { sweeps: sweep("learning_rate=1e-3..1e-1"), ..Changes::default() });
    assert!(
        error.contains(
            "--sweep learning_rate=0.001..0.1:log: this tuning was started with learning_rate=0.001..0.01:log"
        ),
        "{error}"
    );
    let error = refused(&Changes { trials: Some(5), ..Changes::default() });
    assert!(error.contains("--trials 5: this tuning was started with as many as its budget allowed"), "{error}");
    Tuning::resume(&out, &Changes { sweeps: sweep("learning_rate=0.001..0.01"), ..Changes::default() }, 2).unwrap();
    assert!(start(&[], &[]).contains("continue it with --resume"));
    let error = Tuning::resume(temp.path(), &Changes::default(), 2).unwrap_err().to_string();
    assert!(error.contains("not the folder of a tuning"), "{error}");
}

#[test]
fn a_tuning_goes_on_where_its_text_has_moved_to() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name).display().to_string();
    fs::write(path("text.txt"), "in winter the kinglet weighs no more than a coin. ".repeat(200)).unwrap();
    fs::write(path("other.txt"), "in summer the kinglet weighs no more than a coin. ".repeat(200)).unwrap();
    let out = temp.path().join("tune");
    let mut request = request(&["train_split=0.9"], &["learning_rate=1e-3..1e-2"], Some(2));
    request.config.data = vec![path("text.txt")];
    // Stopped inside of a trial.
    let step = |event: &Event| matches!(event, Event::Training { training: train::Event::Step { step: 9, .. }, .. });
    assert!(tune(Tuning::start(request, &out, 2).unwrap(), step).is_none());
    fs::rename(path("text.txt"), path("moved.txt")).unwrap();
    let resumed = |data: &[&str]| {
        let data = data.iter().map(|name| path(name)).collect();
        Tuning::resume(&out, &Changes { data, ..Changes::default() }, 2)
    };
    assert!(resumed(&[]).unwrap_err().to_string().contains("there is no file"));
    assert!(
        resumed(&["other.txt"]).unwrap_err().to_string().contains("is not the text that this run was started with")
    );
    let found = tune(resumed(&["moved.txt"]).unwrap(), |_| false).unwrap();
    assert!(found.complete);
    assert_eq!(resumed(&[]).unwrap().config().data, [path("moved.txt")], "it knows the new place");
}

#[test]
fn the_command_tells_json_and_words_and_its_result_trains() {
    let cli = Cli::new();
    let args = [&["tune", "--sweep", "learning_rate=1e-3..1e-1", "--trials", "3", "--out", "t"], SMALL].concat();
    let out = cli.ok(&[&args[..], &["--json"]].concat());
    let events: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], kinds[1], kinds[kinds.len() - 1]), ("planned", "trial", "done"));
    let done = events.last().unwrap();
    assert!(done["best"]["loss"].is_number() && done["complete"] == true && done["out"] == "t", "{done}");
    for key in ["trial", "rung", "steps", "seed", "loss", "loss_stderr", "wall_s"] {
        assert!(events.iter().any(|event| event["event"] == "outcome" && event[key].is_number()), "{key}");
    }
    let words = cli.ok(&["tune", "--resume", "--out", "t"]);
    for part in ["rank   rung", "to train with it:  kinglet train --config t/best.toml\n", "With seed 1338: "] {
        assert!(words.contains(part), "{part}: {words}");
    }
    cli.ok(&["train", "--config", "t/best.toml", "--out", "run"]);
    cli.ok(&["sample", done["best"]["run"].as_str().unwrap(), "--tokens", "5"]);
    cli.fails(&args, 1, "t: this folder already contains a tuning: continue it with --resume");
}
