//! Runs as a user keeps them: their names, their checkpoints, lists, tags, and what removes them.

use crate::common::{
    cli::{Cli, SMALL},
    needs,
    runs::{copy, newest, same_bits},
};
use kinglet::run::{Cleanup, Lock, RunDir};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

/// Every command of these trains for a moment, and keeps all checkpoints.
const KEEP: &[&str] = &["--set", "keep_last=9"];

fn text(cli: &Cli, name: &str) {
    fs::write(cli.path(name), "Once upon a time there was a kinglet.\n".repeat(200)).unwrap();
}

#[track_caller]
fn train(cli: &Cli, args: &[&str]) -> String {
    cli.ok(&[&["train"], args, SMALL, KEEP].concat())
}

/// Both outputs of a command that must succeed.
#[track_caller]
fn both(cli: &Cli, args: &[&str]) -> [String; 2] {
    let output = cli.run(args);
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{args:?}: {err}");
    [out, err]
}

fn json(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn names(folder: &Path) -> BTreeSet<String> {
    folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The step of the model that a command uses.
fn step(cli: &Cli, run: &[&str]) -> u64 {
    let lines = json(&cli.ok(&[&["sample", "--json", "-n", "1"], run].concat()));
    lines[0]["step"].as_u64().unwrap()
}

#[test]
fn a_second_training_makes_the_next_run() {
    let cli = Cli::new();
    text(&cli, "my.txt");
    for _ in 0..2 {
        train(&cli, &[]);
    }
    train(&cli, &["my.txt", "--preset", "big-0.2m"]);
    fs::write(cli.path("own.toml"), "seed = 2").unwrap();
    train(&cli, &["my.txt", "--config", "own.toml"]);
    for want in
        [None, Some("note: runs/mine already exists: the new run is runs/mine-2"), Some("the new run is runs/mine-3")]
    {
        let [out, err] = both(&cli, &[&["train", "--name", "mine"], SMALL].concat());
        assert!(out.contains("run in runs/mine"), "{out}");
        assert!(want.map_or(!err.contains("taken"), |want| err.contains(want)), "{err}");
    }
    // A fine-tuning is beside what it goes on from.
    cli.ok(&[&["finetune", "mine", "my.txt"], SMALL].concat());
    cli.ok(&[&["finetune", "runs/mine", "my.txt"], SMALL].concat());
    cli.ok(&[&["finetune", "mine", "my.txt", "--name", "tuned"], SMALL].concat());
    let all = [
        "big-0.2m",
        "big-0.2m-2",
        "mine",
        "mine-2",
        "mine-3",
        "mine-my",
        "mine-my-2",
        "my-big-0.2m",
        "my-own",
        "tuned",
    ];
    assert_eq!(names(&cli.path("runs")), all.map(str::to_owned).into());
    // A folder that was named is meant.
    cli.fails(
        &["train", "--out", "runs/mine"],
        1,
        "this folder already contains a run: continue it with --resume, or choose another",
    );
    cli.fails(&["train", "--out", "x", "--name", "y"], 2, "cannot be used with");
    for name in ["a/b", "..", "a@3", ""] {
        cli.fails(&["train", &format!("--name={name}")], 2, "invalid value");
    }
    assert_eq!(names(&cli.path("runs")).len(), all.len());
}

#[test]
fn two_that_start_at_once_take_two_names() {
    let cli = Cli::new();
    let args = [&["train", "--name", "a"], SMALL].concat();
    let start = || cli.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut children: Vec<_> = (0..4).map(|_| start()).collect();
    assert!(children.iter_mut().all(|child| child.wait().unwrap().success()));
    assert_eq!(names(&cli.path("runs")), ["a", "a-2", "a-3", "a-4"].map(str::to_owned).into());
    // Each is whole, and all are the same.
    let all: Vec<_> = ["a", "a-2", "a-3", "a-4"].map(|name| newest(&cli.path("runs").join(name))).into();
    all.iter().for_each(|one| same_bits(one, &all[0]));
}

#[test]
fn a_run_is_found_by_name_path_step_and_checkpoint() {
    let cli = Cli::new();
    cli.fails(&["sample"], 1, "there are no runs in runs/ yet: kinglet train creates one");
    cli.fails(&["sample", "mine"], 1, "there are no runs in runs/ yet");
    train(&cli, &["--name", "other"]);
    train(&cli, &["--name", "mine"]);
    for (args, want) in [
        (&["mine"][..], 20),
        (&["runs/mine"], 20),
        (&["mine@10"], 10),
        (&["runs/mine@0"], 0),
        (&["mine@last"], 20),
        (&["mine", "--checkpoint", "10"], 10),
        (&["mine", "--checkpoint", "last"], 20),
        (&["runs/mine/checkpoints/step-000010"], 10),
        (&["mine/checkpoints/step-000010/"], 10),
    ] {
        assert_eq!(step(&cli, args), want, "{args:?}");
    }
    // Without one it is the newest, and both are said.
    let [_, err] = both(&cli, &["sample", "-n", "1"]);
    assert!(
        err.contains("runs/mine is the newest run") && err.contains("runs/mine: step 20, validation loss "),
        "{err}"
    );
    assert!(cli.ok(&["eval"]).starts_with("runs/mine: step 20, val split, "));
    // From inside.
    let inside = |args: &[&str], folder: &str| {
        let output = cli.command(args).current_dir(cli.path(folder)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        json(&String::from_utf8(output.stdout).unwrap())[0]["step"].as_u64().unwrap()
    };
    assert_eq!(inside(&["eval", ".", "--json"], "runs/mine"), 20);
    assert_eq!(inside(&["eval", ".", "--json"], "runs/mine/checkpoints/step-000010"), 10);
    assert_eq!(inside(&["eval", "step-000010", "--json"], "runs/mine/checkpoints"), 10);
    // Where something else has the name of a run, the run is meant.
    fs::create_dir(cli.path("mine")).unwrap();
    assert_eq!(step(&cli, &["mine"]), 20);
    // What is asked for by number is never replaced.
    cli.fails(
        &["sample", "mine@11"],
        1,
        "runs/mine: there is no checkpoint of step 11; there are checkpoints of steps 0, 10 and 20",
    );
    for command in [
        &["eval", "mine@11"][..],
        &["finetune", "mine@11", "x"],
        &["merge", "mine@11", "--out", "x"],
        &["chat", "mine@11"],
    ] {
        cli.fails(command, 1, "there is no checkpoint of step 11");
    }
    cli.fails(&["sample", "mine@10", "--checkpoint", "10"], 2, "and --checkpoint both select a checkpoint");
    cli.fails(&["sample", "mine@first"], 2, "@ must be followed by best, last or the step of a checkpoint");
    cli.fails(&["sample", "mine", "--checkpoint", "first"], 2, "must be best, last or the step of a checkpoint");
    for command in [
        &["compare", "mine@10"][..],
        &["rm", "-y", "mine@10"],
        &["tag", "mine@10", "x"],
        &["train", "--resume", "mine@10"],
    ] {
        cli.fails(command, 2, "this command needs a run: name runs/mine");
    }
    // What was meant is said.
    cli.fails(&["sample", "mien"], 1, "did you mean mine?");
    cli.fails(&["eval", "run/othr"], 1, "did you mean other?");
    cli.fails(&["sample", "mien@10"], 1, "did you mean mine@10?");
    cli.fails(&["sample", "big-2.7m"], 1, "a preset, not a run: kinglet train --preset big-2.7m trains it");
    cli.fails(&["sample", "runs"], 1, "not a run but a folder of 2 runs: name one, such as runs/mine");
    cli.fails(&["sample", "zzz"], 1, "kinglet list shows the runs");
    // A checkpoint alone is none of these.
    copy(&cli.path("runs/mine/checkpoints/step-000010"), &cli.path("alone"));
    cli.fails(&["sample", "alone"], 1, "alone: this is a checkpoint without its run");
    let error = RunDir::open(&cli.path("alone")).unwrap_err().to_string();
    assert!(error.contains("this is a checkpoint without its run"), "{error}");
    let error = RunDir::open(&cli.path("runs/mine/checkpoints/step-000010")).unwrap_err().to_string();
    assert!(error.contains("this is a checkpoint: name its run") && error.contains("the step 10"), "{error}");
    // Damaged, it is an error too, and the others are named.
    fs::write(cli.path("runs/mine/checkpoints/step-000010/model.safetensors"), "x").unwrap();
    cli.fails(&["sample", "mine@10"], 1, "the checkpoint of step 10 cannot be used: ");
    cli.fails(&["sample", "mine@10"], 1, "there are checkpoints of steps 0 and 20");
    assert_eq!(step(&cli, &["mine"]), 20);
}

#[test]
fn the_untrained_model_is_not_the_best_once_there_is_another() {
    let cli = Cli::new();
    // A rate at which nothing is learned.
    train(
        &cli,
        &["--name", "a", "--set", "learning_rate=10", "--set", "on_divergence=skip", "--set", "spike_zscore=0"],
    );
    let mut run = RunDir::open(&cli.path("runs/a")).unwrap();
    assert_eq!(run.state().unwrap().best.unwrap().1, 0, "it learned nothing");
    let [out, err] = both(&cli, &["sample", "a", "-n", "1", "--json"]);
    assert_eq!(json(&out)[0]["step"], 20);
    assert!(
        err.contains("the last checkpoint is used (step 20)") && err.contains("runs/a: step 20, validation loss"),
        "{err}"
    );
    // Who asks for it gets it.
    assert_eq!(step(&cli, &["a@0"]), 0);
    assert_eq!(run.steps().unwrap(), [0, 10, 20]);
    let [_, err] = both(&cli, &["eval", "a"]);
    assert!(err.contains("the last checkpoint is used"), "{err}");
}

#[test]
fn the_newest_run_that_is_not_complete_goes_on() {
    let cli = Cli::new();
    text(&cli, "my.txt");
    cli.fails(&["train", "--resume"], 1, "there are no runs in runs/ to resume");
    train(&cli, &["my.txt", "--name", "old"]);
    train(&cli, &["my.txt", "--name", "new"]);
    cli.fails(
        &["train", "--resume"],
        1,
        "all 2 runs in runs/ are complete or being trained; to add steps to a run: kinglet train --resume RUN --set max_iters=N",
    );
    // As if it had been stopped.
    fs::remove_dir_all(cli.path("runs/new/checkpoints/step-000020")).unwrap();
    let metrics = fs::read_to_string(cli.path("runs/new/metrics.jsonl")).unwrap();
    let without: Vec<_> = metrics.lines().filter(|line| !line.contains("\"event\":\"done\"")).collect();
    fs::write(cli.path("runs/new/metrics.jsonl"), without.join("\n") + "\n").unwrap();
    let [out, err] = both(&cli, &["train", "--resume"]);
    assert!(err.contains("runs/new is the newest run that is not complete"), "{err}");
    assert!(out.contains("run in runs/new, from step 10"), "{out}");
    same_bits(&newest(&cli.path("runs/new")), &newest(&cli.path("runs/old")));
    // A run in the place of data, by name and by path, and where its text is now behind it.
    fs::rename(cli.path("my.txt"), cli.path("moved.txt")).unwrap();
    for (args, steps) in [
        (&["--resume", "old", "moved.txt"][..], "max_iters=21"),
        (&["--resume", "runs/old"], "max_iters=22"),
        (&["--resume", "--name", "old"], "max_iters=23"),
        (&["--resume", "--out", "runs/old", "moved.txt"], "max_iters=24"),
    ] {
        let out = cli.ok(&[&["train"], args, &["--set", steps, "--set", "eval_iters=1"]].concat());
        assert!(out.contains("run in runs/old, from step 2"), "{args:?}: {out}");
    }
    cli.fails(&["train", "--resume", "odl"], 1, "did you mean old?");
    cli.fails(
        &["train", "--resume", "nothing.txt", "--out", "runs/old", "--set", "max_iters=30"],
        1,
        "there is no file nothing.txt",
    );
}

#[test]
fn a_plan_of_a_training_is_that_of_the_command_plan() {
    let cli = Cli::new();
    let keys = |args: &[&str]| -> BTreeSet<String> {
        let plan = &json(&cli.ok(&[args, &["--json", "--set", "max_iters=5", "--set", "n_layer=1"]].concat()))[0];
        assert_eq!(plan["steps"], 5);
        plan.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(keys(&["train", "--plan"]), keys(&["plan"]));
    let of_two = ["--ranks", "2", "--network", "1G"];
    let more = keys(&[&["train", "--plan"], &of_two[..]].concat());
    assert_eq!(more, keys(&[&["plan", "--seconds", "0"], &of_two[..]].concat()));
    assert!(more.contains("scaling") && !keys(&["plan"]).contains("scaling"));
    assert!(!cli.path("runs").exists(), "nothing is written");
    cli.fails(&["train", "--plan", "--resume"], 2, "cannot be used with");
}

#[test]
fn the_list_says_what_became_of_each_run() {
    let cli = Cli::new();
    assert_eq!(cli.ok(&["list"]), "no runs in runs/ yet: kinglet train creates one\n");
    assert_eq!(cli.ok(&["list", "--json"]), "");
    train(&cli, &["--name", "done", "--tag", "good", "--tag", "first"]);
    let state = |name: &str| -> Value {
        let all = json(&cli.ok(&["list", "--json"]));
        all.into_iter().find(|line| line["run"] == format!("runs/{name}")).unwrap_or_else(|| panic!("no {name}"))
    };
    let done = state("done");
    for (key, want) in [
        ("state", Value::from("done")),
        ("step", 20.into()),
        ("max_iters", 20.into()),
        ("tags", vec!["first", "good"].into()),
    ] {
        assert_eq!(done[key], want, "{key}: {done}");
    }
    for key in [
        "train_loss",
        "val_loss",
        "val_loss_exact",
        "val_loss_stderr",
        "best_val_loss",
        "best_step",
        "params",
        "size_bytes",
    ] {
        assert!(done[key].as_f64().unwrap() > 0.0, "{key}: {done}");
    }
    assert!(done["changed"].as_str().unwrap().ends_with('Z'));
    let events = json(&cli.ok(&[&["train", "--json", "--name", "x"], SMALL].concat()));
    assert_eq!(state("x")["val_loss_exact"], events.last().unwrap()["val_loss_exact"]);
    fs::remove_dir_all(cli.path("runs/x")).unwrap();

    // Stopped: its last line is an estimate.
    let as_stopped = |name: &str| {
        copy(&cli.path("runs/done"), &cli.path(&format!("runs/{name}")));
        let path = cli.path(&format!("runs/{name}/metrics.jsonl"));
        let lines = fs::read_to_string(&path).unwrap();
        let kept: String =
            lines.lines().filter(|line| !line.contains("\"event\":\"done\"")).map(|line| format!("{line}\n")).collect();
        fs::write(path, kept).unwrap();
    };
    as_stopped("stopped");
    fs::remove_dir_all(cli.path("runs/stopped/checkpoints/step-000020")).unwrap();
    assert_eq!((&state("stopped")["state"], &state("stopped")["step"]), (&"stopped".into(), &10.into()));
    as_stopped("begun");
    fs::remove_dir_all(cli.path("runs/begun/checkpoints")).unwrap();
    assert_eq!(state("begun")["state"], "not_begun");
    // Damaged: nothing of it is left to read. With a copy it is only said.
    copy(&cli.path("runs/done"), &cli.path("runs/repaired"));
    fs::write(cli.path("runs/repaired/config.toml"), "x").unwrap();
    assert_eq!(state("repaired")["state"], "done");
    assert!(state("repaired")["warnings"][0].as_str().unwrap().contains("config.toml"), "{}", state("repaired"));
    copy(&cli.path("runs/repaired"), &cli.path("runs/damaged"));
    for checkpoint in ["step-000000", "step-000010", "step-000020"] {
        fs::write(cli.path(&format!("runs/damaged/checkpoints/{checkpoint}/config.toml")), "x").unwrap();
    }
    assert_eq!(state("damaged")["state"], "damaged");
    // Diverged.
    let output = cli.run(
        &[
            &["train", "--name", "diverged"],
            SMALL,
            &[
                "--set",
                "learning_rate=10",
                "--set",
                "grad_clip=0",
                "--set",
                "max_iters=300",
                "--set",
                "spike_zscore=0.01",
                "--set",
                "on_divergence=stop",
            ],
        ]
        .concat(),
    );
    assert!(!output.status.success(), "it does not diverge");
    assert_eq!(state("diverged")["state"], "diverged");
    // Training: somebody has the lock.
    let lock: Lock = RunDir::open(&cli.path("runs/stopped")).unwrap().lock().unwrap();
    assert_eq!(state("stopped")["state"], "training");
    cli.fails(&["rm", "-y", "stopped"], 1, "is training this run");
    cli.fails(&["rm", "-y", "done", "stopped"], 1, "is training this run");
    let [_, err] = both(&cli, &["prune", "stopped"]);
    assert!(err.contains("left alone: ") && err.contains("is training this run"), "{err}");
    drop(lock);
    assert_eq!(state("stopped")["state"], "stopped");
    assert_eq!(state("done")["state"], "done", "all are looked at before the first is removed");

    // A folder with runs in it, and a tuning, are a line each.
    fs::create_dir_all(cli.path("runs/group/inner")).unwrap();
    copy(&cli.path("runs/done"), &cli.path("runs/group/a"));
    copy(&cli.path("runs/done"), &cli.path("runs/group/inner/b"));
    fs::create_dir(cli.path("runs/nothing")).unwrap();
    let all = json(&cli.ok(&["list", "--json"]));
    let group = all.iter().find(|line| line["folder"] == "runs/group").unwrap();
    assert!(
        group["runs"] == 2 && group["tuning"] == false && group["size_bytes"].as_u64() > done["size_bytes"].as_u64(),
        "{group}"
    );
    assert!(!all.iter().any(|line| line["folder"] == "runs/nothing"));
    assert_eq!(json(&cli.ok(&["list", "--json", "group"])).len(), 2);
    assert_eq!(json(&cli.ok(&["list", "--json", "done", "runs/stopped"])).len(), 2);
    cli.fails(&["list", "missing"], 1, "there is no such run");

    // By tag, and in other orders.
    let listed = |args: &[&str]| -> Vec<String> {
        let text = cli.ok(&[&["list"], args].concat());
        text.lines().skip(1).map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
    };
    assert_eq!(
        cli.ok(&["tag", "stopped", "--json"]),
        "{\"run\":\"runs/stopped\",\"tags\":[\"first\",\"good\"]}\n",
        "copied"
    );
    assert_eq!(cli.ok(&["tag", "stopped", "first", "--remove"]), "runs/stopped: good\n");
    assert_eq!(cli.ok(&["tag", "stopped", "good", "--remove"]), "runs/stopped: no tags\n");
    cli.fails(&["tag", "stopped", "x", "--remove"], 1, "it has no tag x; it has no tags");
    cli.fails(&["tag", "stopped", "two words"], 2, "is not a valid tag");
    assert!(
        !listed(&["--tag", "good"]).contains(&"stopped".to_owned())
            && listed(&["--tag", "good"]).contains(&"done".to_owned())
    );
    assert_eq!(cli.ok(&["list", "--tag", "none"]), "no runs in runs/ with the tag none\n");
    let by_name = listed(&["--sort", "name"]);
    assert!(by_name.is_sorted() && by_name.len() > 5, "{by_name:?}");
    let sizes: Vec<_> =
        json(&cli.ok(&["list", "--sort", "size", "--json"])).iter().map(|line| line["size_bytes"].as_u64()).collect();
    assert!(sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");
}

#[test]
fn the_list_is_readable_at_any_width() {
    let cli = Cli::new();
    train(&cli, &["--name", "a-run-with-a-name", "--tag", "good"]);
    train(&cli, &["--name", "b"]);
    let whole = cli.ok(&["list"]);
    assert!(whole.starts_with("run                state  step   train     val   exact  params "), "{whole}");
    for columns in [200, 80, 60, 40, 20] {
        let program = env!("CARGO_BIN_EXE_kinglet");
        let inside = format!("stty cols {columns} rows 20; exec {program} list");
        let mut command = Command::new("script");
        command.args(["-qec", &inside, "/dev/null"]).current_dir(cli.temp.path()).stdin(Stdio::null());
        let Ok(output) = command.output() else {
            needs::skip("there is no program script to make a terminal with");
            return;
        };
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert!(lines.iter().all(|line| line.chars().count() <= columns), "{columns}: {text}");
        for part in ["a-run-with-a-name", "done", "20", "val"] {
            assert!(text.contains(part), "{columns}: {part}: {text}");
        }
        if columns == 200 {
            assert_eq!(lines.join("\n").trim_end(), whole.trim_end());
        }
    }
}

#[test]
fn a_thousand_runs_are_listed_at_once() {
    let cli = Cli::new();
    train(&cli, &["--out", "one"]);
    // A long history.
    let metrics = fs::read(cli.path("one/metrics.jsonl")).unwrap();
    let step = metrics.split(|&byte| byte == b'\n').find(|line| line.starts_with(b"{\"event\":\"step\"")).unwrap();
    let long = [&[step, b"\n"].concat().repeat(5000)[..], &metrics].concat();
    for i in 0..1000 {
        let run = cli.path(&format!("runs/{i}"));
        fs::create_dir_all(run.join("checkpoints/step-000020")).unwrap();
        for file in ["config.toml", "tokenizer.json", "last", "best"] {
            fs::copy(cli.path("one").join(file), run.join(file)).unwrap();
        }
        for file in ["state.json", "SHA256SUMS"] {
            let inside = Path::new("checkpoints/step-000020").join(file);
            fs::copy(cli.path("one").join(&inside), run.join(inside)).unwrap();
        }
        fs::write(run.join("metrics.jsonl"), if i % 100 == 0 { &long } else { &metrics }).unwrap();
    }
    let began = Instant::now();
    let all = json(&cli.ok(&["list", "--json"]));
    let seconds = began.elapsed().as_secs_f64();
    assert!(all.len() == 1000 && all.iter().all(|run| run["state"] == "done" && run["step"] == 20));
    eprintln!("1000 runs listed in {seconds:.2} s");
    assert!(seconds < 20.0, "{seconds} s");
}

#[test]
fn removing_asks_and_leaves_what_others_put_there() {
    let cli = Cli::new();
    for name in ["a", "b", "c"] {
        train(&cli, &["--name", name, "--tag", "x"]);
    }
    cli.ok(&[&["finetune", "a", "logbook", "--name", "tuned"], SMALL].concat());
    fs::create_dir(cli.path("runs/mine")).unwrap();
    fs::write(cli.path("runs/mine/config.toml"), "of another program").unwrap();
    // Nobody to ask.
    cli.fails(&["rm", "a"], 1, "nothing was removed: confirmation needs a terminal; --yes removes without asking");
    // What is no run is no run's, and nothing is removed before all are looked at.
    cli.fails(&["rm", "-y", "a", "runs/mine"], 1, "not the folder of a run");
    cli.fails(&["sample", "mine"], 1, "runs/mine: not the folder of a run");
    cli.fails(&["rm", "-y", "a", "missing"], 1, "there is no such run");
    cli.fails(&["rm", "-y", "runs"], 1, "this is not a run but a folder of runs");
    assert_eq!(names(&cli.path("runs")).len(), 5);
    // All of a run, whatever it has.
    for (name, base) in [("a", false), ("tuned", true)] {
        assert_eq!(cli.path("runs").join(name).join("base").exists(), base);
        let out = json(&cli.ok(&["rm", "-y", "--json", name]));
        assert_eq!(out[0]["run"], format!("runs/{name}"));
        assert!(out[0]["freed_bytes"].as_u64().unwrap() > 100_000 && out[0]["stays"].as_array().unwrap().is_empty());
        assert!(!cli.path("runs").join(name).exists());
    }
    // What others put there, wherever.
    fs::write(cli.path("runs/b/notes.txt"), "x").unwrap();
    fs::write(cli.path("runs/b/checkpoints/step-000010/mine.txt"), "x").unwrap();
    fs::create_dir(cli.path("runs/b/empty")).unwrap();
    let out = cli.ok(&["rm", "-y", "b", "runs/b", "c"]);
    for part in ["runs/b/notes.txt", "runs/b/checkpoints/step-000010/mine.txt", "runs/b/empty", "removed runs/c ("] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert_eq!(names(&cli.path("runs")), ["b", "mine"].map(str::to_owned).into());
    assert_eq!(names(&cli.path("runs/b")), ["checkpoints", "empty", "notes.txt"].map(str::to_owned).into());
    assert_eq!(names(&cli.path("runs/b/checkpoints")), ["step-000010".to_owned()].into());
    assert_eq!(names(&cli.path("runs/b/checkpoints/step-000010")), ["mine.txt".to_owned()].into());
    assert_eq!(fs::read(cli.path("runs/mine/config.toml")).unwrap(), b"of another program");
    #[cfg(unix)]
    {
        train(&cli, &["--out", "elsewhere"]);
        std::os::unix::fs::symlink(cli.path("elsewhere"), cli.path("runs/link")).unwrap();
        cli.fails(&["rm", "-y", "link"], 1, "this is a link: name the folder that it points to");
        assert_eq!(step(&cli, &["link"]), 20);
    }
}

#[test]
fn tunings_are_removed_whole() {
    let cli = Cli::new();
    text(&cli, "my.txt");
    let tune = ["tune", "my.txt", "--budget", "60s", "--trials", "2", "--sweep", "learning_rate=[1e-3, 1e-2]"];
    let small = ["--set", "max_iters=4", "--set", "n_layer=1", "--set", "n_embd=8", "--set", "eval_iters=1"];
    for _ in 0..2 {
        cli.ok(&[&tune[..], &small].concat());
    }
    assert_eq!(names(&cli.path("runs")), ["my-big-0.2m-tune", "my-big-0.2m-tune-2"].map(str::to_owned).into());
    let all = json(&cli.ok(&["list", "--json"]));
    let (one, runs) = (&all[0], all[0]["runs"].as_u64().unwrap());
    assert!(one["tuning"] == true && runs >= 2, "{one}");
    assert_eq!(json(&cli.ok(&["list", "--json", "runs/my-big-0.2m-tune"])).len() as u64, runs);
    cli.fails(
        &["sample", "runs/my-big-0.2m-tune"],
        1,
        "a tuning, not a run: kinglet list runs/my-big-0.2m-tune lists its runs",
    );
    // A fine-tuning of a trial is not put among the trials.
    let trial = json(&cli.ok(&["list", "--json", "my-big-0.2m-tune"]))
        .into_iter()
        .find(|run| run["step"] == 4 && Path::new(&cli.path(run["run"].as_str().unwrap())).join("checkpoints").exists())
        .unwrap();
    let trial = trial["run"].as_str().unwrap();
    cli.ok(&["finetune", trial, "my.txt", "--set", "max_iters=2", "--set", "eval_iters=1"]);
    let name = trial.rsplit('/').next().unwrap();
    assert!(cli.path(&format!("runs/my-big-0.2m-tune-{name}-my")).exists(), "{:?}", names(&cli.path("runs")));
    let [_, err] = both(&cli, &["tune", "--resume"]);
    assert!(err.contains("runs/my-big-0.2m-tune-2 is the newest tuning"), "{err}");
    cli.ok(&["tune", "--resume", "my-big-0.2m-tune"]);
    fs::write(cli.path("runs/my-big-0.2m-tune/trials/notes.txt"), "x").unwrap();
    let out = cli.ok(&["rm", "-y", "my-big-0.2m-tune", "my-big-0.2m-tune-2"]);
    assert!(out.contains("runs/my-big-0.2m-tune/trials/notes.txt"), "{out}");
    assert_eq!(names(&cli.path("runs/my-big-0.2m-tune")), ["trials".to_owned()].into());
    assert_eq!(names(&cli.path("runs/my-big-0.2m-tune/trials")), ["notes.txt".to_owned()].into());
    assert!(!cli.path("runs/my-big-0.2m-tune-2").exists());
}

#[test]
fn pruning_takes_what_nothing_needs_and_the_run_stays_what_it_is() {
    let cli = Cli::new();
    train(&cli, &["--name", "a"]);
    train(&cli, &["--name", "b"]);
    let loss = |run: &str| json(&cli.ok(&["eval", run, "--json"]))[0]["loss"].clone();
    let before = (loss("a"), loss("a@last"));
    // What interrupted writers leave.
    fs::create_dir(cli.path("runs/a/checkpoints/step-000030.tmp")).unwrap();
    fs::write(cli.path("runs/a/checkpoints/step-000030.tmp/model.safetensors"), vec![0; 5000]).unwrap();
    fs::write(cli.path("runs/a/loss.svg.tmp"), vec![0; 100]).unwrap();
    // Somebody else's.
    fs::write(cli.path("runs/a/mine.tmp"), "x").unwrap();
    let steps = |run: &str| RunDir::open(&cli.path("runs").join(run)).unwrap().steps().unwrap();
    // Nobody to ask.
    let [out, _] = both(&cli, &["prune", "a"]);
    assert!(out.contains("nothing was removed: confirmation needs a terminal"), "{out}");
    for part in [
        "runs/a/checkpoints/step-000000",
        "runs/a/checkpoints/step-000010",
        "step-000030.tmp",
        "loss.svg.tmp",
        " in all",
        "--optimizer removes it too",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let report = &json(&cli.ok(&["prune", "a", "--json"]))[0];
    let sizes: u64 = report["items"].as_array().unwrap().iter().map(|item| item["size_bytes"].as_u64().unwrap()).sum();
    assert!(
        report["removed"] == false && report["total_bytes"] == sizes && report["items"].as_array().unwrap().len() == 4,
        "{report}"
    );
    assert_eq!(steps("a"), [0, 10, 20]);
    assert_eq!(json(&cli.ok(&["prune", "a", "--json", "-y"]))[0]["removed"], true);
    assert_eq!((steps("a"), steps("b")), (vec![20], vec![0, 10, 20]), "only what was named");
    assert!(!cli.path("runs/a/loss.svg.tmp").exists() && cli.path("runs/a/mine.tmp").exists());
    assert_eq!((loss("a"), loss("a@last")), before);
    // Now there is nothing.
    assert!(cli.ok(&["prune", "a"]).starts_with("there is nothing to remove\n"));
    // It goes on to the bits of one that was not pruned.
    for run in ["a", "b"] {
        cli.ok(&["train", "--resume", run, "--set", "max_iters=30"]);
    }
    same_bits(&newest(&cli.path("runs/a")), &newest(&cli.path("runs/b")));
    // Without its optimizer's state it is what it was, but for training on.
    let before = loss("a");
    let freed = json(&cli.ok(&["prune", "--optimizer", "-y", "--json"]))[0]["total_bytes"].as_u64().unwrap();
    assert!(freed > 100_000 && !cli.path("runs/a/checkpoints/step-000030/optimizer.safetensors").exists());
    assert_eq!(loss("a"), before);
    cli.ok(&["info", "a"]);
    cli.ok(&[&["finetune", "a", "logbook"], SMALL].concat());
    cli.fails(
        &["train", "--resume", "a", "--set", "max_iters=40"],
        1,
        "it has no optimizer state (an import has none, and kinglet prune --optimizer removes it)",
    );
    let sums = Command::new("sha256sum")
        .args(["-c", "--quiet", "SHA256SUMS"])
        .current_dir(cli.path("runs/a/checkpoints/step-000030"))
        .output();
    assert!(sums.is_ok_and(|sums| sums.status.success()));
    // A tuning's folder, and one that is nothing.
    fs::create_dir(cli.path("runs/none")).unwrap();
    cli.fails(&["prune", "none"], 1, "neither a run nor a folder of runs");
    cli.fails(&["prune", "missing"], 1, "there is no such run");
    assert!(Cli::new().ok(&["prune"]).contains("there is nothing to remove"));
}

#[test]
fn pruning_keeps_what_a_stopped_run_returns_to() {
    let cli = Cli::new();
    cli.ok(&[&["train", "--name", "a"], SMALL, KEEP, &["--set", "max_iters=40"]].concat());
    // As if stopped by a signal at step 20, with a worse estimate than before: the best is another.
    for step in ["30", "40"] {
        fs::remove_dir_all(cli.path(&format!("runs/a/checkpoints/step-0000{step}"))).unwrap();
    }
    let path = cli.path("runs/a/metrics.jsonl");
    let lines = fs::read_to_string(&path).unwrap();
    fs::write(&path, lines.lines().filter(|line| !line.contains("\"done\"")).collect::<Vec<_>>().join("\n") + "\n")
        .unwrap();
    // The last is damaged: what is intact before it stays, and so does it.
    fs::write(cli.path("runs/a/checkpoints/step-000020/optimizer.safetensors"), "x").unwrap();
    let [_, err] = both(&cli, &["prune", "-y", "a"]);
    assert!(err.contains("runs/a: the checkpoint of step 20 was not removed: "), "{err}");
    assert_eq!(RunDir::open(&cli.path("runs/a")).unwrap().steps().unwrap(), [10, 20]);
    cli.ok(&["train", "--resume", "a"]);
    assert_eq!(step(&cli, &["a@last"]), 40);
    // Where nothing is intact, nothing goes.
    for step in RunDir::open(&cli.path("runs/a")).unwrap().steps().unwrap() {
        fs::write(cli.path(&format!("runs/a/checkpoints/step-{step:06}/model.safetensors")), "x").unwrap();
    }
    let steps = RunDir::open(&cli.path("runs/a")).unwrap().steps().unwrap();
    let error = Cleanup::of(&cli.path("runs/a"), true).unwrap_err().to_string();
    assert!(error.contains("no checkpoint is intact, so none is removed"), "{error}");
    assert_eq!(RunDir::open(&cli.path("runs/a")).unwrap().steps().unwrap(), steps);
}

#[test]
fn folders_of_runs_can_be_moved_and_copied() {
    let cli = Cli::new();
    text(&cli, "my.txt");
    train(&cli, &["my.txt", "--name", "a"]);
    let adapted = ["finetune", "a", "my.txt", "--lora", "2", "--name", "tuned"];
    cli.ok(&[&adapted[..], SMALL, KEEP].concat());
    let loss = |run: &str| json(&cli.ok(&["eval", run, "--json"]))[0]["loss"].clone();
    let before = (loss("a"), loss("tuned"));
    fs::create_dir(cli.path("elsewhere")).unwrap();
    for (name, to) in [("a", "elsewhere/b"), ("tuned", "elsewhere/other name")] {
        copy(&cli.path("runs").join(name), &cli.path(&format!("runs/{name}-copy")));
        fs::rename(cli.path("runs").join(name), cli.path(to)).unwrap();
    }
    assert_eq!((loss("elsewhere/b"), loss("elsewhere/other name")), before);
    assert_eq!((loss("a-copy"), loss("tuned-copy")), before);
    for (moved, copied) in [("elsewhere/b", "a-copy"), ("elsewhere/other name", "tuned-copy")] {
        for run in [moved, copied] {
            cli.ok(&["train", "--resume", run, "--set", "max_iters=30"]);
            cli.ok(&["sample", run, "-n", "5"]);
        }
        same_bits(&newest(&cli.path(moved)), &newest(&cli.path("runs").join(copied)));
    }
    cli.ok(&["merge", "elsewhere/other name", "-o", "merged"]);
    cli.ok(&["compare", "elsewhere/b", "a-copy", "elsewhere/other name"]);
    let list = cli.ok(&["list", "elsewhere"]);
    assert!(list.contains("elsewhere/b") && list.contains("elsewhere/other name"), "{list}");
}

#[test]
fn all_checkpoints_are_measured_one_after_the_other() {
    let cli = Cli::new();
    train(&cli, &["--name", "a"]);
    let each: Vec<Value> =
        [0, 10, 20].iter().map(|step| json(&cli.ok(&["eval", &format!("a@{step}"), "--json"]))[0].clone()).collect();
    let all = json(&cli.ok(&["eval", "a", "--all-checkpoints", "--json"]));
    assert_eq!(all.len(), 3);
    for (one, of) in each.iter().zip(&all) {
        for key in ["run", "step", "split", "loss", "loss_stderr", "bits_per_byte", "predicted_tokens", "entropy_floor"]
        {
            assert_eq!(one[key], of[key], "{key}");
            assert!(!one[key].is_null(), "{key}");
        }
    }
    let text = cli.ok(&["eval", "a", "--all-checkpoints", "--svg", "curve.svg"]);
    let rows: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("step ")).collect();
    assert!(rows.len() == 5 && rows[3].starts_with("20") && rows[3].ends_with("lowest"), "{text}");
    assert!(text.contains("A  exact loss, val split") && text.contains("written to curve.svg"), "{text}");
    assert!(fs::read_to_string(cli.path("curve.svg")).unwrap().starts_with("<svg"));
    // Of another text, and without one that is damaged.
    fs::write(cli.path("runs/a/checkpoints/step-000010/model.safetensors"), "x").unwrap();
    let [out, err] = both(&cli, &["eval", "a", "builtin", "--split", "train", "--all-checkpoints", "--json"]);
    assert_eq!(json(&out).iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 20]);
    assert!(err.contains("warning: ") && err.contains("the checkpoint of step 10 cannot be used"), "{err}");
    cli.fails(&["eval", "a", "--all-checkpoints", "--checkpoint", "10"], 2, "cannot be used with");
    cli.fails(&["eval", "a@10", "--all-checkpoints"], 2, "this command needs a run");
    cli.fails(&["eval", "a", "--svg", "x.svg"], 2, "required arguments");
    cli.fails(&["eval", "a", "--all-checkpoints", "--svg", "runs"], 1, "cannot write runs");
}

#[test]
fn the_files_that_name_a_checkpoint_are_lines() {
    let cli = Cli::trained();
    for name in ["last", "best"] {
        assert_eq!(fs::read_to_string(cli.path("run").join(name)).unwrap(), "step-000020\n");
    }
}

#[test]
fn prompts_come_from_anywhere_and_are_checked_before_they_are_printed() {
    let cli = Cli::trained();
    let want = cli.ok(&["sample", "run", "-p", "The sword", "-n", "10"]);
    assert!(want.starts_with("The sword") && want.chars().count() == 9 + 10 + 1);
    let piped = |args: &[&str], text: &[u8]| {
        let mut command = cli.command(&[&["sample", "run", "-n", "10"], args].concat());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text).unwrap();
        let output = child.wait_with_output().unwrap();
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap())
    };
    for args in [&["-p", "-"][..], &["--prompt", "-"], &["--prompt-file", "-"]] {
        assert_eq!(piped(args, b"The sword\n")[0], want, "{args:?}");
        assert_eq!(piped(args, b"The sword")[0], want, "{args:?}");
    }
    let [out, err] = piped(&["-p", "-"], b"caf\xe9");
    assert!(out.is_empty() && err.contains("standard input is not UTF-8 text: see byte 3"), "{err}");
    fs::write(cli.path("prompt.txt"), "The sword").unwrap();
    assert_eq!(cli.ok(&["sample", "run", "--prompt-file", "prompt.txt", "--max-tokens", "10", "-t", "1"]), want);
    assert_eq!(cli.ok(&["sample", "run", "--prompt", "The sword", "--max-new-tokens", "10"]), want);
    // Refused before a word is printed; what is known can be read.
    let output = cli.run(&["sample", "run", "-p", "The Zürich"]);
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.stdout.is_empty() && !output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(err.contains("it knows: space, newline, "), "{err}");

    let one = &json(&cli.ok(&["sample", "run", "-p", "The sword", "-n", "10", "--json"]))[0];
    assert_eq!(format!("{}{}\n", one["prompt"].as_str().unwrap(), one["text"].as_str().unwrap()), want);
    assert!(one["tokens"] == 10 && one["ids"].as_array().unwrap().len() == 10 && one["finish"] == "length", "{one}");
    assert!(one["step"] == 20 && one["run"] == "run" && one["index"] == 0 && one["seed"] == 1337, "{one}");
    let stop = one["text"].as_str().unwrap().chars().nth(4).unwrap().to_string();
    let one = &json(&cli.ok(&["sample", "run", "-p", "The sword", "-n", "10", "--stop", &stop, "--json"]))[0];
    assert!(one["finish"] == "stop" && !one["text"].as_str().unwrap().contains(&stop), "{one}");
}

#[test]
fn the_end_of_an_answer_ends_a_sample_of_a_chat_model_and_is_said_of_a_text_model() {
    let cli = Cli::new();
    let chats: String = (0..300).map(|_| "{\"prompt\": \"a\", \"response\": \"b\"}\n").collect();
    fs::write(cli.path("chats.jsonl"), chats).unwrap();
    let texts: String = (0..300).map(|_| "{\"text\": \"ab\"}\n").collect();
    fs::write(cli.path("texts.jsonl"), texts).unwrap();
    for (data, name) in [("chats.jsonl", "chat"), ("texts.jsonl", "text")] {
        let more = ["--set", "max_iters=200", "--set", "learning_rate=1e-2", "--set", "eval_interval=100"];
        cli.ok(&[&["train", data, "--name", name], SMALL, &more].concat());
    }
    let [out, err] = both(&cli, &["sample", "chat", "-p", "a", "-n", "60", "--json"]);
    let one = &json(&out)[0];
    assert!(one["finish"] == "end" && !one["text"].as_str().unwrap().contains("<|"), "{one}");
    assert!(err.contains("to chat with the model: kinglet chat runs/chat"), "{err}");
    let [out, err] = both(&cli, &["sample", "text", "-n", "60"]);
    assert!(out.contains("<|endoftext|>") && err.contains("--stop '<|endoftext|>' stops there"), "{out} {err}");
    let [out, err] = both(&cli, &["sample", "text", "-n", "60", "--stop", "<|endoftext|>"]);
    assert!(!out.contains("<|endoftext|>") && !err.contains("stops there"), "{out} {err}");
}

#[test]
fn merging_says_what_was_merged() {
    let cli = Cli::trained();
    cli.ok(&[&["finetune", "run", "logbook", "--lora", "2", "--out", "adapters"], SMALL].concat());
    let said = cli.ok(&["merge", "adapters@10", "-o", "merged"]);
    assert_eq!(said, "The adapters of adapters (step 10) are merged: merged\n");
    let said = &json(&cli.ok(&["merge", "adapters@last", "-o", "again", "-t", "1", "--json"]))[0];
    assert!(said["run"] == "adapters" && said["out"] == "again" && said["step"] == 20, "{said}");
    // Each of both can be named with a checkpoint.
    let with = |run: &str, adapter: &str| {
        let args = ["sample", run, "--adapter", adapter, "-n", "50", "--json"];
        let lines = json(&cli.ok(&args));
        (lines[0]["step"].as_u64().unwrap(), lines[0]["text"].clone())
    };
    assert_eq!(with("run", "adapters@10").0, 10);
    assert_ne!(with("run", "adapters@10").1, with("run", "adapters@20").1);
    // A run of its own afterwards.
    let before = json(&cli.ok(&["list", "merged", "again", "--json"]));
    assert!(before.iter().all(|run| run["state"] == "stopped" || run["state"] == "done"), "{before:?}");
}
