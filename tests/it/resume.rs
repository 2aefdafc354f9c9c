//! Going on with a run, in every state it can be in.

use crate::common::{
    cli::{Cli, SMALL},
    runs::{copy, newest, same_bits, train},
};
use kinglet::{
    backend::{Buf, Cpu, Forward},
    batch::Batch,
    config::{Config, OnDivergence},
    data::{self, TokenizerChoice},
    model::Gpt,
    optim::Optimizer,
    params::Layout,
    run::{Checkpoint, Record, RunDir, State, Which},
    shards::Shards,
    train::{self, Changes, Event, Job, Options, finetune::merged},
};
use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

fn config(settings: &[&str]) -> Config {
    let preset = Config::preset("big-0.2m").unwrap().with(&["data=[\"builtin\"]"]).unwrap();
    let short = ["max_iters=12", "eval_interval=5", "eval_iters=2", "n_layer=1", "n_embd=16", "shards=2"];
    preset.with(&short).unwrap().with(settings).unwrap()
}

fn owned(settings: &[&str]) -> Vec<String> {
    settings.iter().map(|&setting| setting.to_owned()).collect()
}

/// Runs a job until `stop` says so, or to its end; all events.
fn run_until(job: Job, mut stop: impl FnMut(&Event) -> bool + Send) -> Vec<Event> {
    let (flag, mut events) = (AtomicBool::new(false), Vec::new());
    let options = Options::default().threads(2).stop(&flag);
    train::run(job, Cpu::new().unwrap(), &options, |event| {
        events.push(event.clone());
        flag.fetch_or(stop(event), Ordering::Relaxed);
    })
    .unwrap();
    events
}

fn warnings(events: &[Event]) -> Vec<&str> {
    let mut found = Vec::new();
    for event in events {
        if let Event::Warning { warning, .. } = event {
            found.push(warning.as_str());
        }
    }
    found
}

/// SHA-256 in hexadecimal.
fn hash(text: &str) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_rollback_finds_its_checkpoint_whatever_the_interval_is_now() {
    let temp = tempfile::tempdir().unwrap();
    let run = |name: &str, interval: &str, stop_at: Option<u64>| {
        let out = temp.path().join(name);
        train(Job::start(config(&["max_iters=60", "eval_interval=20"]), &out).unwrap(), 2, None);
        let more =
            ["max_iters=100", "learning_rate=10", "on_divergence=rollback", "rollback_lr=0.01", "spike_zscore=6"];
        let mut job = Job::resume(&out, &owned(&[&more[..], &[interval]].concat())).unwrap();
        if stop_at.is_some() {
            // Of several interruptions none is what is returned to.
            run_until(job, |event| matches!(event, Event::Step { step, .. } if Some(*step) == stop_at));
            job = Job::resume(&out, &[]).unwrap();
        }
        let mut returns = Vec::new();
        run_until(job, |event| {
            if let Event::Diverged { step, action: OnDivergence::Rollback, .. } = event {
                returns.push(*step);
            }
            false
        });
        (newest(&out), returns)
    };
    // No checkpoint there is at a multiple of these.
    for interval in ["eval_interval=7", "eval_interval=1000"] {
        let (whole, returns) = run(&format!("whole {interval}"), interval, None);
        assert!(!returns.is_empty() && returns.iter().all(|&step| step == 60), "{returns:?}");
        let (stopped, again) = run(&format!("stopped {interval}"), interval, Some(61));
        assert_eq!(again, returns);
        same_bits(&stopped, &whole);
    }
}

#[test]
fn the_optimizer_of_a_merged_run_begins_anew() {
    let cli = Cli::trained();
    let settings =
        ["lora_rank=2", "max_iters=40", "eval_interval=20", "eval_iters=1", "shards=2", "learning_rate=1e-3"];
    let data = ["builtin".to_owned()];
    let adapters = train::finetune::prepare(&cli.path("run"), Which::Last, &data, &owned(&settings)).unwrap();
    train(adapters.start(&cli.path("adapters")).unwrap(), 2, None);
    let out = cli.path("merged");
    let merged = merged(&cli.path("adapters"), Which::Last, &out).unwrap();
    let before = newest(&out);
    assert_eq!((before.state.step, before.state.updates), (40, Some(0)));

    // What a new AdamW makes of the same weights and the same batch.
    let longer = merged.config.clone().with(&["max_iters=42", "lr_schedule=constant"]).unwrap();
    let (_, data) = data::read(&longer, TokenizerChoice::Fixed(&merged.tokenizer)).unwrap();
    let (be, model) = (Cpu::new().unwrap(), Gpt::new(&longer).unwrap());
    let mut shards = Shards::new(&be, &model, longer.batch_size, longer.shards, true);
    let mut optimizer = Optimizer::new(&be, &model.layout, &longer).unwrap();
    let mut want = Buf::from(before.weights.clone());
    for step in 40..42 {
        let mut batch = Batch::default();
        data.train.load_step(&longer, step, None, &mut batch).unwrap();
        be.pack_weights(&mut want, &model.layout.linears(), true);
        let (_, norm) = shards.gradient(&be, &model, &want, &batch, longer.seed, step);
        optimizer.step(&be, &mut want, shards.last_gradient(), norm, 1.0, step);
    }
    assert_eq!(optimizer.updates, 2);
    let settings = owned(&["max_iters=42", "lr_schedule=constant"]);
    // Interrupted, it still knows that it made one update.
    run_until(Job::resume(&out, &settings).unwrap(), |event| matches!(event, Event::Step { step: 41, .. }));
    assert_eq!(newest(&out).state.updates, Some(1));
    let after = train(Job::resume(&out, &[]).unwrap(), 1, None);
    assert!(after.weights == want.to_vec() && after.m == optimizer.m.to_vec() && after.v == optimizer.v.to_vec());
    assert_eq!(after.state.updates, Some(2));
    // The first update of Adam moves a weight by the learning rate, whatever its gradient: two of them by at most twice.
    let most = after.weights.iter().zip(&before.weights).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!((1.5e-3..2.1e-3).contains(&most), "{most}");
}

/// A run that ends early, because its two halves of text have nothing in common but their alphabet.
fn early(folder: &Path) -> Config {
    let text = folder.join("text.txt");
    fs::write(&text, ["abcd".repeat(100), "dcba".repeat(100)].concat()).unwrap();
    let settings = ["max_iters=400", "eval_interval=5", "block_size=8", "patience=6", "train_split=0.5"];
    let mut config = config(&settings);
    config.data = vec![text.display().to_string()];
    config
}

#[test]
fn an_estimate_that_is_made_again_does_not_count_twice() {
    let temp = tempfile::tempdir().unwrap();
    let config = early(temp.path());
    let path = |name: &str| temp.path().join(name);
    let start = |name: &str| Job::start(config.clone(), path(name)).unwrap();
    let whole = train(start("whole"), 2, None);
    let (_, best_step) = whole.state.best.unwrap();
    assert_eq!((whole.state.step, whole.state.since_best), (best_step + 6 * 5, 6));
    let estimates = |run: &Path| {
        let mut steps = Vec::new();
        let read = RunDir::open(run).unwrap().records(|record| {
            if let Record::Estimate(at) = record {
                steps.push((at.step, at.val_loss.to_bits()));
            }
        });
        read.unwrap();
        steps
    };
    // Behind the best estimate, where it counts against the patience.
    let at = best_step + 10;
    // Once with the estimate in its last checkpoint, and once interrupted right before it.
    run_until(start("with"), |event| matches!(event, Event::Estimate { step, .. } if *step == at));
    run_until(start("without"), |event| matches!(event, Event::Step { step, .. } if *step == at));
    let states = ["with", "without"].map(|name| newest(&path(name)).state);
    assert_eq!(states.each_ref().map(|state| (state.step, state.since_best)), [(at, 2), (at, 1)]);
    assert_eq!(states.each_ref().map(|state| state.last_estimate), [Some(at), Some(at - 5)]);

    let metrics = |name: &str| path(name).join("metrics.jsonl");
    let text = fs::read_to_string(metrics("with")).unwrap();
    assert!(text.lines().last().unwrap().contains("\"estimate\""));
    let without_last = text[..text.len() - 1].rfind('\n').unwrap() + 1;
    for (name, from, lines) in [
        ("the last line is lost", "with", Some(&text[..without_last])),
        ("half of it is", "with", Some(&text[..text.len() - 20])),
        ("all are", "with", None),
        ("nothing is", "with", Some(&text)),
        // As a kill between the line and its checkpoint leaves it.
        ("the checkpoint lacks it", "without", Some(&text)),
    ] {
        copy(&path(from), &path(name));
        match lines {
            Some(lines) => fs::write(metrics(name), lines).unwrap(),
            None => fs::remove_file(metrics(name)).unwrap(),
        }
        let ended = train(Job::resume(path(name), &[]).unwrap(), 2, None);
        assert_eq!(ended.state.since_best, 6, "{name}");
        same_bits(&ended, &whole);
        let all = estimates(&path("whole"));
        let kept = if lines.is_none() { &all[all.iter().position(|point| point.0 == at).unwrap()..] } else { &all };
        assert_eq!(estimates(&path(name)), kept, "{name}");
    }
    // The checkpoints of an earlier version do not say as much, and its metrics are whole.
    copy(&path("with"), &path("earlier"));
    for folder in fs::read_dir(path("earlier/checkpoints")).unwrap().map(|entry| entry.unwrap().path()) {
        let state = fs::read_to_string(folder.join("state.json")).unwrap();
        let lines: Vec<_> =
            state.lines().filter(|line| !line.contains("last_estimate") && !line.contains("updates")).collect();
        assert_eq!(lines.len() + 2, state.lines().count());
        let (earlier, sums) = (lines.join("\n"), folder.join("SHA256SUMS"));
        let fitting = fs::read_to_string(&sums).unwrap().replace(&hash(&state), &hash(&earlier));
        fs::write(folder.join("state.json"), earlier).unwrap();
        fs::write(sums, fitting).unwrap();
    }
    assert_eq!(newest(&path("earlier")).state.last_estimate, None);
    let ended = train(Job::resume(path("earlier"), &[]).unwrap(), 2, None);
    assert_eq!((ended.state.since_best, ended.state.updates), (6, whole.state.updates));
    same_bits(&ended, &whole);
    assert_eq!(estimates(&path("earlier")), estimates(&path("whole")));
}

#[test]
fn a_run_whose_first_losses_are_not_finite_goes_on() {
    let temp = tempfile::tempdir().unwrap();
    let config = config(&["on_divergence=skip", "vocab_size=3", "block_size=8", "max_iters=40"])
        .with(&["eval_interval=2", "patience=30"])
        .unwrap();
    let text = "abc".repeat(300);
    let out = temp.path().join("run");
    // Weights that overflow.
    let job = Job::start_on_text(&text, config, &out).unwrap();
    let (run, layout) = (job.run.clone(), Layout::new(&job.run.config).unwrap());
    drop(job);
    let zeros = vec![0.0; layout.len()];
    let (weights, state) = (vec![1e30; layout.len()], State::default());
    let huge = Checkpoint { state: state.clone(), weights, m: zeros.clone(), v: zeros };
    run.save(&layout, &state, |buffer, span, out| huge.read(buffer, span, out)).unwrap();
    let resume = || Job::resume_on_text(&text, &out, &[]).unwrap();
    run_until(resume(), |event| matches!(event, Event::Estimate { step: 4, .. }));
    let at = newest(&out).state;
    assert_eq!((at.step, at.best, at.since_best, at.updates), (4, None, 3, Some(0)));
    // Each checkpoint can be read, and is not passed over.
    let events = run_until(resume(), |event| matches!(event, Event::Estimate { step: 6, .. }));
    assert_eq!(warnings(&events), [] as [&str; 0]);

    // Good weights: the first finite loss is the best, and with it the run ends as any other.
    let state = newest(&out).state;
    let (weights, zeros) = (layout.init(1), vec![0.0; layout.len()]);
    let good = Checkpoint { state: state.clone(), weights, m: zeros.clone(), v: zeros };
    run.save(&layout, &state, |buffer, span, out| good.read(buffer, span, out)).unwrap();
    run_until(resume(), |event| matches!(event, Event::Estimate { step: 8, .. }));
    let state = newest(&out).state;
    let (loss, step) = state.best.unwrap();
    assert!(loss.is_finite() && step == 8 && state.since_best == 0 && state.updates == Some(2), "{state:?}");
    assert!(matches!(run_until(resume(), |_| false).last(), Some(Event::Done { step: 40, .. })));

    // As earlier versions wrote it.
    let json = serde_json::to_string(&state).unwrap();
    let with_null = json.replacen(&serde_json::to_string(&state.best).unwrap(), "[null,0]", 1);
    assert_ne!(with_null, json);
    assert_eq!(State::from_json(with_null.as_bytes()).unwrap().best, None);
}

#[test]
fn states_of_earlier_versions_are_read_as_they_were_meant() {
    let json = |step: u64, best: &str| {
        let guard = r#"{"mean":0.0,"variance":0.0,"seen":0,"skipped":0,"rollbacks":0}"#;
        let text = format!(
            r#"{{"format_version":1,"step":{step},"best":{best},"since_best":0,"guard":{guard},"wall_s":1.0,"train_s":1.0}}"#
        );
        State::from_json(text.as_bytes()).unwrap()
    };
    // The interval, the best one, and the first one tell.
    for (step, best, estimated) in [
        (20, "[1.5,10]", true),
        (13, "[1.5,10]", false),
        (13, "[1.5,13]", true),
        (0, "[4.0,0]", true),
        (0, "null", false),
    ] {
        assert_eq!(json(step, best).is_estimated(10), estimated, "{step} {best}");
    }
    assert_eq!(json(20, "null").updates, None);
}

#[test]
fn a_resumed_run_says_when_its_learning_rate_jumps() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("run");
    let begun = config(&["max_iters=40", "lr_schedule=linear", "learning_rate=1e-2", "eval_interval=50"]);
    run_until(Job::start(begun, &out).unwrap(), |event| matches!(event, Event::Step { step: 20, .. }));
    let said = |settings: &[&str]| {
        copy(&out, &temp.path().join("copy"));
        let job = Job::resume(temp.path().join("copy"), &owned(settings)).unwrap();
        let events = run_until(job, |event| matches!(event, Event::Step { .. }));
        fs::remove_dir_all(temp.path().join("copy")).unwrap();
        warnings(&events).iter().map(|&warning| warning.to_owned()).collect::<Vec<_>>()
    };
    let none: [String; 0] = [];
    assert_eq!(said(&[]), none);
    assert_eq!(said(&["eval_interval=30", "patience=3", "max_iters=40"]), none);
    for (setting, old, new) in [
        ("max_iters=80", "5.00e-3", "7.50e-3"),
        ("learning_rate=1e-3", "5.00e-3", "5.00e-4"),
        ("lr_schedule=constant", "5.00e-3", "1.00e-2"),
        ("lr_decay_iters=25", "5.00e-3", "2.00e-3"),
    ] {
        let warnings = said(&[setting]);
        let jumps: Vec<_> = warnings.iter().filter(|text| text.starts_with("the learning rate jumps: ")).collect();
        let [warning] = jumps[..] else { panic!("{setting}: {warnings:?}") };
        assert!(warning.contains(old) && warning.ends_with(new), "{setting}: {warning}");
    }
    // At the end of the schedule the rate was 0.
    train(Job::resume(&out, &[]).unwrap(), 2, None);
    assert!(said(&["max_iters=80"])[0].contains("would use 0.00e0, now it uses 5.00e-3"));
}

#[test]
fn what_the_place_in_the_text_depends_on_cannot_change() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("run");
    train(Job::start(config(&["replacement=false"]), &out).unwrap(), 2, None);
    for (setting, was) in [("batch_size=8", 16), ("gradient_accumulation_steps=2", 1)] {
        let error = Job::resume(&out, &owned(&["max_iters=20", setting])).unwrap_err().to_string();
        let why = format!(
            "must be {was}, as at the start of the run, because the position in an epoch and all token counts \
                 depend on it"
        );
        assert!(error.contains(&why), "{error}");
    }
}

#[test]
fn a_text_that_moved_is_the_same_text() {
    let cli = Cli::new();
    let (text, other) = ("the tide turned at nine. ".repeat(200), "the tide turned at ten. ".repeat(200));
    fs::write(cli.path("base.txt"), &text).unwrap();
    cli.ok(&[&["train", "base.txt", "--out", "run"], SMALL].concat());
    fs::create_dir(cli.path("elsewhere")).unwrap();
    fs::rename(cli.path("base.txt"), cli.path("elsewhere/moved.txt")).unwrap();
    fs::write(cli.path("other.txt"), &other).unwrap();
    let more = ["--set", "max_iters=30"];
    let resume = |data: &[&'static str]| [&["train", "--resume", "--out", "run"], data, &more].concat();
    cli.fails(&resume(&[]), 1, "if the text has moved, name it: --resume DATA");
    let hash = |path: &str| hash(&fs::read_to_string(cli.path(path)).unwrap());
    let both = format!(
        "other.txt is not the text that this run was started with (SHA-256 {}, was {})",
        hash("other.txt"),
        hash("elsewhere/moved.txt")
    );
    cli.fails(&resume(&["other.txt"]), 1, &both);
    let before = fs::read(cli.path("run/config.toml")).unwrap();
    cli.fails(&resume(&["missing.txt"]), 1, "there is no file missing.txt");
    assert_eq!(fs::read(cli.path("run/config.toml")).unwrap(), before, "what was refused changes nothing");
    cli.ok(&resume(&["elsewhere/moved.txt"]));
    // The run knows the new place, from any folder.
    let data = RunDir::open(&cli.path("run")).unwrap().config.data;
    assert!(Path::new(&data[0]).is_absolute() && data[0].ends_with("elsewhere/moved.txt"), "{data:?}");
    cli.ok(&["train", "--resume", "--out", "run", "--set", "max_iters=40"]);
    cli.ok(&["eval", "run"]);

    // In the library.
    fs::rename(cli.path("elsewhere/moved.txt"), cli.path("again.txt")).unwrap();
    let data = vec![cli.path("again.txt").display().to_string()];
    let changes = Changes { settings: owned(&["max_iters=50"]), data: data.clone(), ..Changes::default() };
    let job = Job::resume_with(cli.path("run"), &changes).unwrap();
    assert_eq!(job.run.config.data, data);
    assert_eq!(train(job, 1, None).state.step, 50);
}

#[test]
fn the_old_data_of_a_fine_tuning_may_move() {
    let cli = Cli::new();
    fs::write(cli.path("old.txt"), "the tide turned at nine. ".repeat(200)).unwrap();
    fs::write(cli.path("new.txt"), "and turned again at nine. ".repeat(200)).unwrap();
    cli.ok(&[&["train", "old.txt", "--out", "run"], SMALL].concat());
    let moved = |to: &str| fs::rename(cli.path("old.txt"), cli.path(to)).unwrap();
    moved("moved.txt");
    fs::write(cli.path("other.txt"), "the tide turned at ten. ".repeat(200)).unwrap();
    let short = ["--set", "max_iters=4", "--set", "eval_interval=2", "--set", "eval_iters=1"];
    let finetune = |more: &[&'static str]| [&["finetune", "run", "new.txt"], more, &short].concat();
    cli.fails(&finetune(&["--replay", "0.5"]), 1, "use --replay-data DATA to say where that text is now");
    cli.fails(
        &finetune(&["--replay", "0.5", "--replay-data", "other.txt"]),
        1,
        "is not the text that this run was started with",
    );
    let output = cli.run(&finetune(&["--out", "without"]));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && stderr.contains("the loss on the old data could not be measured"), "{stderr}");
    assert!(stderr.contains("use --replay-data DATA to say where that text is now"), "{stderr}");
    for adapters in [&[][..], &["--lora", "2"]] {
        let out = if adapters.is_empty() { "full" } else { "adapters" };
        let found = ["--replay", "0.5", "--replay-data", "moved.txt", "--out", out];
        let text = cli.ok(&[&finetune(&found)[..], adapters].concat());
        assert!(text.contains("old val loss"), "{text}");
    }
    // It moves again.
    fs::rename(cli.path("moved.txt"), cli.path("again.txt")).unwrap();
    for out in ["full", "adapters"] {
        let resume =
            |steps, data: &[&'static str]| [&["train", "--resume", "--out", out, "--set", steps], data].concat();
        cli.fails(&resume("max_iters=6", &[]), 1, "use --replay-data DATA to say where that text is now");
        cli.fails(&resume("max_iters=6", &["--replay-data", "other.txt"]), 1, "is not the text");
        cli.ok(&resume("max_iters=6", &["--replay-data", "again.txt"]));
        // It is known from then on.
        assert!(cli.ok(&resume("max_iters=8", &[])).contains("old val loss"));
        let base = RunDir::open(&cli.path(out)).unwrap().base().unwrap().unwrap();
        assert!(base.config.data[0].ends_with("again.txt"), "{:?}", base.config.data);
    }
    cli.fails(
        &["train", "--resume", "--out", "run", "--set", "max_iters=30", "again.txt", "--replay-data", "x"],
        1,
        "--replay-data is only for fine-tuned runs",
    );
    cli.fails(&["train", "--replay-data", "x"], 2, "--resume");
}
