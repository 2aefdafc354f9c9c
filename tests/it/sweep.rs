//! Sweeps: every run is what training alone gives, an interrupted sweep goes on to the same, and what cannot be is refused.

use crate::common::cli::{Cli, SMALL};
use kinglet::{
    backend::Cpu,
    config::Config,
    grid::{Axis, Event, Grid, Plan, Request, Row, points},
    hands::Hands,
    run::RunDir,
    train::{self, Job, Options},
};
use serde_json::Value;
use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

fn config(settings: &[&str]) -> Config {
    let data = ["data=[\"builtin\"]"];
    let tiny = ["n_layer=1", "n_embd=16", "n_head=2", "block_size=16", "batch_size=8", "shards=2", "train_split=0.98"];
    let short = ["max_iters=30", "eval_interval=10", "eval_iters=1"];
    Config::default().with(&[&data[..], &tiny, &short, settings].concat()).unwrap()
}

fn plan(settings: &[&str], grid: &[&str], seeds: u64) -> Result<Plan, String> {
    let axes: Vec<Axis> = grid.iter().map(|text| text.parse().unwrap()).collect();
    let request = Request { config: config(settings), points: points(&axes, &[]).unwrap(), seeds };
    Plan::new(request, 2).map_err(|error| error.to_string())
}

/// Sweeps until `stop_at` says so; none if it was stopped.
fn sweep(grid: Grid, stop_at: impl Fn(&Event) -> bool + Send + Sync) -> Option<Vec<Row>> {
    let stop = AtomicBool::new(false);
    let mut hands = Hands::alone(Cpu::new().unwrap(), 2);
    let last = grid.run(&mut hands, &stop, |event| {
        if stop_at(event) {
            stop.store(true, Ordering::Relaxed);
        }
    });
    match last.unwrap() {
        Event::Done { rows, .. } => Some(rows),
        Event::Interrupted { .. } => None,
        event => panic!("{event:?}"),
    }
}

fn resume(out: &Path) -> Grid {
    Grid::resume(out, &[], 2).unwrap()
}

/// The weights of the last checkpoint.
fn weights(run: &Path) -> Vec<u8> {
    fs::read(
        run.join("checkpoints").join(fs::read_to_string(run.join("last")).unwrap().trim()).join("model.safetensors"),
    )
    .unwrap()
}

/// The table without times.
fn timeless(rows: &[Row]) -> Vec<(String, String, f64)> {
    rows.iter().map(|row| (format!("{:?}", row.settings), row.loss(), row.steps)).collect()
}

#[test]
fn every_run_is_what_training_alone_gives() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("sweep");
    // The schedule is as configured: a learning rate that varies leaves the other rates alone.
    let schedule = ["lr_schedule=cosine", "min_lr=1e-4", "optimizer=muon", "dropout=0.1"];
    let plan = plan(&schedule, &["learning_rate=1e-3,1e-2", "block_size=8,16"], 2).unwrap();
    let names: Vec<_> = plan.runs().map(|(name, ..)| name.to_owned()).collect();
    assert_eq!((names.len(), names[1].as_str()), (8, "block_size=8,learning_rate=0.001,seed=1338"));
    let rows = sweep(plan.start(&out).unwrap(), |_| false).unwrap();
    assert_eq!((rows.len(), rows[0].seeds), (4, 2));
    let all = ["learning_rate=0.01", "block_size=8", "seed=1338"];
    let job = Job::start(config(&[&schedule[..], &all].concat()), temp.path().join("alone")).unwrap();
    let last = train::run(job, Cpu::new().unwrap(), &Options::default().threads(1), |_| ()).unwrap();
    let train::Event::Done { val_loss_exact, .. } = last else { panic!("{last:?}") };
    let run = out.join("block_size=8,learning_rate=0.01,seed=1338");
    assert!(weights(&run) == weights(&temp.path().join("alone")));
    let config = |run: &Path| RunDir::open(run).unwrap().config;
    assert_eq!(config(&run), config(&temp.path().join("alone")));
    assert!(run.join("sample.txt").is_file() && run.join("loss.svg").is_file(), "it is complete");
    let row = rows.iter().find(|row| {
        row.settings["learning_rate"].as_float() == Some(0.01) && row.settings["block_size"].as_integer() == Some(8)
    });
    let other = RunDir::open(&out.join("block_size=8,learning_rate=0.01,seed=1337")).unwrap();
    let done = other.metrics().unwrap().into_iter().find(|event| event["event"] == "done").unwrap();
    let mean = (val_loss_exact + done["val_loss_exact"].as_f64().unwrap()) / 2.0;
    assert!((row.unwrap().loss - mean).abs() < 1e-12);
    let page = fs::read_to_string(out.join("sweep.md")).unwrap();
    assert!(
        page.contains("| block_size | learning_rate | validation loss ± sd of 2 seeds | steps | seconds |"),
        "{page}"
    );
    assert!(fs::read_to_string(out.join("sweep.svg")).unwrap().contains("validation loss against block_size"));
}

#[test]
fn interrupted_again_and_again_it_comes_to_the_same() {
    let temp = tempfile::tempdir().unwrap();
    let start =
        |name: &str| plan(&["dropout=0.1"], &["n_layer=1,2"], 2).unwrap().start(&temp.path().join(name)).unwrap();
    let whole = sweep(start("whole"), |_| false).unwrap();
    let out = temp.path().join("stopped");
    let at = |wanted: u64| move |event: &Event| matches!(event, Event::Training { training: train::Event::Step { step, .. }, .. } if *step == wanted);
    assert!(sweep(start("stopped"), at(13)).is_none());
    let first = out.join("n_layer=1,seed=1337");
    assert_eq!(RunDir::open(&first).unwrap().state().unwrap().step, 13, "stopped where it was, and saved");
    assert!(!out.join("n_layer=1,seed=1338").exists() && !out.join("sweep.md").exists());
    assert!(sweep(resume(&out), |event| matches!(event, Event::Outcome(_))).is_none());
    // One that was killed before its first checkpoint.
    assert!(sweep(resume(&out), |event| matches!(event, Event::Run { .. })).is_none());
    let second = out.join("n_layer=1,seed=1338");
    fs::remove_dir_all(second.join("checkpoints")).unwrap();
    fs::create_dir(second.join("checkpoints")).unwrap();
    let begun = weights(&first);
    let found = sweep(resume(&out), |_| false).unwrap();
    assert_eq!(timeless(&found), timeless(&whole));
    assert!(weights(&first) == begun);
    for name in ["n_layer=1,seed=1337", "n_layer=1,seed=1338", "n_layer=2,seed=1337", "n_layer=2,seed=1338"] {
        assert!(weights(&out.join(name)) == weights(&temp.path().join("whole").join(name)), "{name}");
    }
    // Nothing is left to do, and nothing is done again.
    let again = sweep(resume(&out), |event| matches!(event, Event::Run { .. })).unwrap();
    assert_eq!(again, found);
}

#[test]
fn settings_that_diverge_are_results() {
    let temp = tempfile::tempdir().unwrap();
    let plan = plan(&["weight_decay=10"], &["learning_rate=1e-3,10"], 1).unwrap();
    let rows = sweep(plan.start(&temp.path().join("a")).unwrap(), |_| false).unwrap();
    assert_eq!((rows[0].diverged, rows[1].diverged, rows[1].loss()), (0, 1, "diverged".to_owned()));
    assert!(rows[1].settings["learning_rate"].as_float() == Some(10.0) && rows[1].loss.is_infinite());
}

#[test]
fn what_cannot_be_swept_or_gone_on_with_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    for (settings, grid, seeds, message) in [
        (&["lora_rank=2"][..], &["n_layer=1,2"][..], 1, "lora_rank = 2: must be 0 in a new run"),
        (&[], &[], 1, "there is nothing to sweep: vary a key with --grid or --list, or ask for several --seeds"),
        (&[], &["n_layer=2"], 1, "there is nothing to sweep"),
        (&[], &["n_head=2,3"], 1, "with n_head=3: n_head = 3: must be a divisor of n_embd = 16"),
        (&[], &["n_layer=1,2", "block_size=16,60000"], 1, "with block_size=60000, n_layer=1: the"),
        (&[], &["n_layer=1,2"], 6000, "these are 12000 runs, but a sweep has at most 10000"),
        (&[], &["n_embd=16,65536", "n_layer=256"], 1, "GiB of memory, but this machine has"),
    ] {
        let error = plan(settings, grid, seeds).unwrap_err();
        assert!(error.contains(message), "{grid:?}: {error}");
    }
    let out = temp.path().join("sweep");
    let plan = plan(&[], &["n_layer=1,2"], 1).unwrap();
    assert!(!out.exists());
    let grid = plan.start(&out).unwrap();
    assert!(Grid::resume(&out, &[], 2).unwrap_err().to_string().contains("another kinglet"), "one at a time");
    drop(grid);
    assert!(plan.start(&out).unwrap_err().to_string().contains("already contains a sweep: continue it with --resume"));
    let error = Grid::resume(temp.path(), &[], 2).unwrap_err().to_string();
    assert!(error.contains("not the folder of a sweep"), "{error}");
    let stored = fs::read_to_string(out.join("sweep.json")).unwrap();
    fs::write(out.join("sweep.json"), stored.replace("n_layer=2", "../n_layer=2")).unwrap();
    assert!(Grid::resume(&out, &[], 2).unwrap_err().to_string().contains("its checksum does not match"));
}

#[test]
fn the_command_tells_json_and_words_and_goes_on_where_its_text_has_moved_to() {
    let cli = Cli::new();
    fs::write(cli.path("my.txt"), "in winter the kinglet weighs no more than a coin. ".repeat(200)).unwrap();
    fs::write(cli.path("list.txt"), "# two shapes\nn_layer=1 n_embd=16\nn_layer=2  # as wide as configured\n").unwrap();
    let small = &SMALL[..6];
    let asked = ["sweep", "my.txt", "--list", "list.txt", "--grid", "dropout=0,0.1", "--name", "s"];
    let shown = cli.ok(&[&asked[..6], small, &["--plan"]].concat());
    assert!(
        shown.starts_with("dropout=0.0,n_embd=16,n_layer=1\n") && shown.contains("\n4 runs of 4 settings, about "),
        "{shown}"
    );
    assert!(!cli.path("runs").exists());
    let out = cli.ok(&[&asked[..], small, &["--json"]].concat());
    let events: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(kinds[..3], ["planned", "run", "outcome"]);
    let done = events.last().unwrap();
    assert_eq!((kinds.len(), kinds[kinds.len() - 1], done["out"].as_str()), (10, "done", Some("runs/s")));
    // What a line does not set is as configured.
    let rows = done["rows"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["settings"]["n_embd"] == 64 && row["settings"]["n_layer"] == 2), "{done}");
    assert_eq!(cli.ok(&["list", "--json", "s"]).lines().count(), 4);
    cli.ok(&["sample", done["best"].as_str().unwrap(), "--tokens", "5"]);
    // It is complete, and says the same again; also where its text is gone to.
    let words = cli.ok(&["sweep", "--resume", "s"]);
    for part in
        ["4 runs of 4 settings, of which 4 have ended\n", "to sample the best:", "saved in runs/s: sweep.md, sweep.svg"]
    {
        assert!(words.contains(part), "{part}: {words}");
    }
    fs::rename(cli.path("my.txt"), cli.path("moved.txt")).unwrap();
    cli.fails(&["sweep", "--resume"], 1, "there is no file");
    fs::remove_dir_all(cli.path("runs/s/dropout=0.1,n_layer=2")).unwrap();
    let words = cli.ok(&["sweep", "--resume", "s", "moved.txt"]);
    assert!(words.contains("of which 3 have ended") && words.contains("\ndropout=0.1,n_layer=2: "), "{words}");
    assert!(cli.ok(&["sweep", "--resume"]).contains("of which 4 have ended"), "it knows the new place");
    cli.fails(&["sweep", "--resume", "runs"], 1, "runs: not the folder of a sweep");
    let error = [&asked[..6], small, &["--out", "runs/s"]].concat();
    let error: Vec<_> = error.iter().map(|word| if *word == "my.txt" { "moved.txt" } else { word }).collect();
    cli.fails(&error, 1, "runs/s: this folder already contains a sweep: continue it with --resume");
}
