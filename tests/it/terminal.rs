//! What people see: on terminals of any width, in logs, and in pipes.

use crate::common::{
    cli::{Cli, SMALL},
    needs,
};
use kinglet::{
    backend::Cpu,
    config::Config,
    train::{self, Event, Job, Options},
};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
    time::Instant,
};

/// What a command shows on a terminal of that many columns, without what moves the cursor; none without `script`.
fn on_terminal(cli: &Cli, columns: usize, args: &str, variables: &[(&str, &str)]) -> Option<String> {
    let inside = format!("stty cols {columns} rows 50; exec {} {args}", env!("CARGO_BIN_EXE_kinglet"));
    let mut command = Command::new("script");
    command.args(["-qec", &inside, "/dev/null"]).current_dir(cli.temp.path()).stdin(Stdio::null());
    command.env("HOME", cli.temp.path()).env_remove("NO_COLOR").env("TERM", "xterm").envs(variables.iter().copied());
    let Ok(output) = command.output() else {
        needs::skip("there is no program script to make a terminal with");
        return None;
    };
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !text.contains("panicked"), "{columns}, {args}: {text}");
    Some(text)
}

/// A terminal's text without escape sequences. Each line that a bar is drawn anew in is a line of its own.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => _ = chars.by_ref().skip(1).find(char::is_ascii_alphabetic),
            '\r' => plain.push('\n'),
            c => plain.push(c),
        }
    }
    plain
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

#[test]
#[cfg(unix)]
fn no_line_is_wider_than_the_terminal_and_no_word_is_broken() {
    let cli = Cli::trained();
    let small = SMALL.join(" ");
    for columns in [40, 80, 200] {
        let runs = [
            format!("train --out new{columns} {small}"),
            format!("train -v --out loud{columns} {small}"),
            format!("tune --out tune{columns} --sweep learning_rate=1e-3..1e-1 --trials 2 {small}"),
            format!("sweep --out sweep{columns} --grid learning_rate=1e-3,1e-2 --seeds 2 {small}"),
            "plan --seconds 0 --set n_layer=1".to_owned(),
            "eval run".to_owned(),
            "compare run run".to_owned(),
            "info run".to_owned(),
            "data stats".to_owned(),
        ];
        for args in runs {
            let Some(text) = on_terminal(&cli, columns, &args, &[]) else { return };
            let text = plain(&text);
            for line in text.lines() {
                // A command is never broken, and a word that is too long has a line of its own.
                let whole = line.trim_start().starts_with("kinglet ") || words(line).len() <= 1;
                assert!(line.chars().count() <= columns || whole, "{args}, {columns} columns: {line:?}");
            }
        }
        // The same words as elsewhere.
        for args in ["eval run", "plan --seconds 0 --json", "info run"] {
            let text = plain(&on_terminal(&cli, columns, args, &[]).unwrap());
            let piped = cli.ok(&words(args));
            let stable = |word: &&str| !word.contains(|c: char| c.is_ascii_digit()) && !word.contains('━');
            let said: Vec<_> = words(&text).into_iter().filter(stable).collect();
            for word in words(&piped).into_iter().filter(stable) {
                assert!(said.contains(&word), "{args}, {columns} columns: {word} is not in {text}");
            }
        }
    }
    // Notes and errors, too.
    let text = plain(&on_terminal(&cli, 40, "compare run run", &[]).unwrap_or_default());
    assert!(text.contains("note: run was named twice; it is shown"), "{text}");
    assert!(plain(&on_terminal(&cli, 40, "compare run", &[]).unwrap()).contains('A'));
}

#[test]
#[cfg(unix)]
fn colours_are_for_terminals_that_want_them() {
    let cli = Cli::trained();
    let colour = |text: &str| text.contains("\x1b[94m");
    let Some(text) = on_terminal(&cli, 80, "compare run", &[]) else { return };
    assert!(colour(&text), "{text}");
    assert!(!colour(&on_terminal(&cli, 80, "compare run", &[("NO_COLOR", "1")]).unwrap()));
    assert!(!cli.ok(&["compare", "run"]).contains('\x1b'));
}

#[test]
#[cfg(unix)]
fn the_bar_shows_what_there_is_room_for() {
    let cli = Cli::new();
    let args = "train --set max_iters=200 --set eval_iters=20 --set eval_interval=100 --out";
    let bars = |columns: usize| {
        let text = on_terminal(&cli, columns, &format!("{args} run{columns}"), &[])?;
        Some(plain(&text).lines().filter(|line| line.contains("/200")).map(str::to_owned).collect::<Vec<_>>())
    };
    let Some(wide) = bars(120) else { return };
    for part in ["loss ", "lr 1.0e-3", "grad ", " tok/s", " s left", "━", "measuring the loss"] {
        assert!(wide.iter().any(|line| line.contains(part)), "{part}: {wide:?}");
    }
    let narrow = bars(40).unwrap();
    assert!(narrow.iter().any(|line| line.contains(" s left")), "{narrow:?}");
    assert!(narrow.iter().all(|line| !line.contains("grad")), "{narrow:?}");
}

#[test]
fn quiet_and_verbose_are_what_they_say() {
    let cli = Cli::new();
    let train = |out: &str, how: &[&str]| {
        let output = cli.run(&[&["train", "--out", out], SMALL, how].concat());
        assert!(output.status.success());
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap())
    };
    let [out, errors] = train("plain", &[]);
    for part in ["step 10: train loss", "0.01 epochs; ", "to sample again:  kinglet sample plain\n"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert_eq!(errors, "", "a short run needs no line in a log");
    let [out, errors] = train("quiet", &["-q"]);
    assert!(!out.contains("step 10:") && !out.contains("kinglet sample"), "{out}");
    assert!(out.contains("validation loss, exact: ") && out.contains("saved in quiet"), "results stay: {out}");
    assert_eq!(errors, "");
    let [_, errors] = train("verbose", &["-v"]);
    let lines: Vec<_> = errors.lines().collect();
    assert_eq!(lines.len(), 2, "each log_interval: {errors}");
    for (line, step) in lines.iter().zip([10, 20]) {
        assert!(line.starts_with(&format!("step {step} of 20: loss ")), "{line}");
        assert!(line.contains(", lr 1.00e-3, gradient norm ") && line.contains(" tok/s"), "{line}");
    }
    cli.fails(&["train", "-q", "-v"], 2, "cannot be used with");
    // Notes are notes; a warning is none.
    let compare =
        |how: &[&str]| String::from_utf8(cli.run(&[&["compare", "plain", "plain"], how].concat()).stderr).unwrap();
    assert_eq!(
        (compare(&[]), compare(&["-q"])),
        ("note: plain was named twice; it is shown once.\n".into(), String::new())
    );
}

/// The last lines of a run are complete commands: what they name exists, and a shell takes them as they stand.
#[test]
#[cfg(unix)]
fn the_commands_that_are_printed_can_be_pasted() {
    let cli = Cli::new();
    let paste = |text: &str| {
        let commands: Vec<_> = text.lines().filter_map(|line| Some(&line[line.find("kinglet ")?..])).collect();
        for command in &commands {
            let command = command.replacen("kinglet", env!("CARGO_BIN_EXE_kinglet"), 1);
            let mut shell = Command::new("sh");
            shell.args(["-c", &command]).current_dir(cli.temp.path()).stdin(Stdio::null());
            let output = shell.output().unwrap();
            assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        }
        commands.len()
    };
    let hints = |args: &[&str]| {
        let out = cli.ok(args);
        out.split("saved in ").nth(1).unwrap_or_else(|| panic!("{out}")).to_owned()
    };
    let trained = hints(&[&["train", "--out", "runs/it's a run"], SMALL].concat());
    assert!(trained.contains("checkpoints (the best is from step "), "{trained}");
    assert_eq!(paste(&trained), 4, "{trained}");
    // In the folder of runs, all are compared.
    assert!(trained.contains("to compare runs:  kinglet compare\n"), "{trained}");
    let tuned =
        hints(&[&["tune", "--sweep", "learning_rate=1e-3..1e-1", "--trials", "2", "--out", "a b"], SMALL].concat());
    assert_eq!(paste(&tuned), 2, "{tuned}");
    fs::write(cli.path("my text.txt"), "in winter the kinglet weighs no more than a coin\n".repeat(200)).unwrap();
    let out = cli.ok(&["data", "prepare", "my text.txt", "--out", "the ids"]);
    assert!(out.ends_with("to train on it:  kinglet train 'the ids'\n"), "{out}");
}

/// In a log there is a line every so often; an interruption says what it does and how to go on.
#[test]
#[cfg(unix)]
fn a_log_has_a_line_now_and_then_and_an_interruption_says_how_to_go_on() {
    let cli = Cli::new();
    let long = [
        "train",
        "--out",
        "my run",
        "--set",
        "max_iters=1000000",
        "--set",
        "eval_interval=500000",
        "--set",
        "eval_iters=2",
    ];
    let mut child = cli.command(&long).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    // There is a warning before: the text is small for so many steps.
    while !line.starts_with("step ") {
        line.clear();
        assert!(errors.read_line(&mut line).unwrap() > 0, "it goes on");
    }
    assert!(line.starts_with("step ") && line.contains(" of 1000000: loss ") && line.ends_with(" left\n"), "{line}");
    assert!((9.0..60.0).contains(&began.elapsed().as_secs_f64()), "{:?}", began.elapsed());
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let mut rest = String::new();
    errors.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("Saving a checkpoint. Press Ctrl-C again to quit without it.\n"), "{rest}");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(out.contains("the checkpoint is saved in my run\n"), "{out}");
    assert!(out.ends_with("to continue:  kinglet train --resume --out 'my run'\n"), "{out}");
}

#[test]
fn the_time_left_is_in_events_but_not_in_the_records() {
    let cli = Cli::new();
    let settings =
        ["--set", "max_iters=60", "--set", "eval_iters=2", "--set", "eval_interval=30", "--set", "n_layer=1"];
    let out = cli.ok(&[&["train", "--json", "--out", "run"], &settings[..]].concat());
    let events: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<_> = events.iter().filter(|event| event["event"] == "step").collect();
    let left: Vec<_> = steps.iter().filter_map(|event| event["left_s"].as_f64()).collect();
    assert!(steps.len() == 6 && left.len() >= 4 && left.iter().all(|s| (0.0..100.0).contains(s)), "{steps:?}");
    let done = events.last().unwrap();
    assert!(done["train_s"].as_f64().unwrap() < done["wall_s"].as_f64().unwrap(), "{done}");
    assert!(done["best_val_loss"].is_number() && done["best_step"].is_number() && done["out"] == "run", "{done}");
    assert!(!fs::read_to_string(cli.path("run/metrics.jsonl")).unwrap().contains("left_s"));
}

/// The time left, at 10 %, 50 % and 90 % of a run, is near what happens; in a resumed run as well. Other tests run at the same
/// time, so it must be so once in a few rounds. `scripts/clock.py` measures it exactly, where nothing else runs.
#[test]
fn the_time_left_is_what_happens() {
    let temp = tempfile::tempdir().unwrap();
    let watched = |job: Job, stop_at: Option<u64>| {
        let stop = std::sync::atomic::AtomicBool::new(false);
        let (began, mut shown) = (Instant::now(), Vec::<(f64, f64)>::new());
        let options = Options::default().stop(&stop);
        train::run(job, Cpu::new().unwrap(), &options, |event| {
            let (Event::Step { left_s, step, .. } | Event::Measuring { left_s, step, .. }) = event else { return };
            shown.extend(left_s.map(|left| (began.elapsed().as_secs_f64(), left)));
            stop.store(stop_at == Some(*step), std::sync::atomic::Ordering::Relaxed);
        })
        .unwrap();
        let total = began.elapsed().as_secs_f64();
        [0.1, 0.5, 0.9].map(|share| {
            // Before a resumed run has said anything nothing is shown.
            let then = shown.iter().rfind(|(then, _)| *then <= share * total);
            // What is wrong by a moment is right.
            then.map_or(
                f64::NAN,
                |(then, left)| if (left - (total - then)).abs() < 0.1 { 1.0 } else { left / (total - then) },
            )
        })
    };
    let near = |ratios: &[f64; 3]| ratios.iter().all(|ratio| (0.75..1.33).contains(ratio));
    // Steps take most of the time, then estimates do.
    for (name, settings) in [
        ("steps", ["max_iters=300", "eval_iters=5", "eval_interval=30"]),
        ("estimates", ["max_iters=300", "eval_iters=15", "eval_interval=15"]),
    ] {
        let common = ["data=[\"builtin\"]", "n_layer=2"];
        let config = Config::preset("big-0.2m").unwrap().with(&[&settings[..], &common].concat()).unwrap();
        let mut found = [Vec::new(), Vec::new()];
        for round in 0..8 {
            let [whole, resumed] =
                [format!("{name}{round}"), format!("{name}{round}-stopped")].map(|name| temp.path().join(name));
            found[0].push(watched(Job::start(config.clone(), &whole).unwrap(), None));
            watched(Job::start(config.clone(), &resumed).unwrap(), Some(config.max_iters / 2));
            found[1].push(watched(Job::resume(&resumed, &[]).unwrap(), None));
            if round >= 1 && found.iter().all(|found| found.iter().any(near)) {
                break;
            }
        }
        eprintln!(
            "{name}: time left by what happened, at 10 %, 50 %, 90 %: {:.2?}; resumed {:.2?}",
            found[0], found[1]
        );
        assert!(found.iter().all(|found| found.iter().any(near)), "{name}: {found:.2?}");
    }
}
