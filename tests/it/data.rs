//! `kinglet data` as a user meets it.

use crate::common::cli::{Cli, SMALL};
use kinglet::{
    backend::Cpu,
    config::Config,
    run::RunDir,
    train::{self, Event, Job, Options, plan::Plan},
};
use serde_json::Value;
use std::fs;

#[test]
fn stats_of_the_built_in_corpus() {
    let cli = Cli::new();
    let text = cli.ok(&["data", "stats"]);
    let row = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line[20..].split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let stats: Value = serde_json::from_str(&cli.ok(&["data", "stats", "--json"])).unwrap();
    assert_eq!(row("characters"), [stats["train"]["chars"].to_string(), stats["val"]["chars"].to_string()]);
    let models = stats["baselines"]["models"].as_array().unwrap();
    let names: Vec<_> = models.iter().map(|model| model["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["uniform", "unigram", "bigram", "5-gram"]);
    let losses: Vec<f64> = models.iter().map(|model| model["nats_per_token"].as_f64().unwrap()).collect();
    assert!(losses.is_sorted_by(|a, b| a > b), "{losses:?}");
    assert!(losses.iter().all(|&loss| loss > stats["entropy_floor"].as_f64().unwrap()), "{losses:?}");
    for model in models {
        let bits = model["nats_per_token"].as_f64().unwrap() / std::f64::consts::LN_2;
        assert!((model["bits_per_char"].as_f64().unwrap() - bits).abs() < 1e-12, "a character is a token: {model}");
        let shown = row(model["name"].as_str().unwrap());
        assert_eq!(shown[1], format!("{bits:.4}"));
        assert_eq!(shown.last().unwrap() == "best", model["best"] == true, "{shown:?}");
    }
}

#[test]
fn stats_of_a_small_file_with_another_split() {
    let cli = Cli::new();
    fs::write(cli.path("a.txt"), "Ein schöner Satz.\n".repeat(5)).unwrap();
    let stats = cli.ok(&["data", "stats", "a.txt", "--tokenizer", "char", "--set", "train_split=0.8", "--json"]);
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert_eq!((&stats["train"]["chars"], &stats["train"]["bytes"]), (&72.into(), &76.into()));
    assert_eq!((&stats["val"]["lines"], &stats["val"]["words"]), (&1.into(), &3.into()));
    assert_eq!(stats["overlap"]["val_windows_in_train_fraction"], Value::Null);
    assert_eq!((&stats["data"][0], &stats["entropy_floor"]), (&"a.txt".into(), &Value::Null));
    let text = cli.ok(&["data", "stats", "a.txt", "--set", "train_split=0.8"]);
    let none = |line: &str| line.contains("validation lines") && line.ends_with("none of 0");
    assert!(text.lines().any(none), "{text}");
    assert!(text.contains("\"Ein schöner Satz.\""), "{text}");
}

/// A text that every tokenizer can learn something from.
fn text(cli: &Cli) {
    let lines = ["the kinglet weighs no more than a coin", "in winter it eats ten times a day", "café, naïve — 🐦"];
    let text: String = (0..600).map(|i| format!("{} {}\n", lines[i * 7 % 3], i % 11)).collect();
    fs::write(cli.path("text.txt"), text).unwrap();
}

#[test]
fn a_prepared_text_trains_to_the_same_bits() {
    let cli = Cli::new();
    text(&cli);
    for kind in ["char", "byte", "bpe:300"] {
        let prepared = cli.ok(&["data", "prepare", "text.txt", "--tokenizer", kind, "--out", "ids", "--json"]);
        let prepared: Value = serde_json::from_str(&prepared).unwrap();
        assert!(prepared["train"]["tokens"].as_u64() > prepared["val"]["tokens"].as_u64(), "{prepared}");
        cli.ok(&[&["train", "text.txt", "--tokenizer", kind, "--out", "memory"], SMALL].concat());
        cli.ok(&[&["train", "ids", "--out", "files"], SMALL].concat());
        let output = cli.run(&["compare", "--bits", "memory", "files", "--json"]);
        let comparison: Value = serde_json::from_slice(&output.stdout).unwrap();
        let keys: Vec<_> =
            comparison["config"].as_array().unwrap().iter().map(|row| row[0].as_str().unwrap()).collect();
        assert!(keys.iter().all(|key| ["data", "tokenizer"].contains(key)), "{comparison}");
        assert_eq!((&comparison["data"], &comparison["event"]), (&false.into(), &Value::Null), "{comparison}");
        assert_eq!((&comparison["tensor"], &comparison["last_step"]), (&Value::Null, &Value::Null), "{comparison}");
        // From another folder too: where the text is, is known.
        let eval = |run: &str| -> Value {
            let mut command = cli.command(&["eval", cli.path(run).to_str().unwrap(), "--json"]);
            let output = command.current_dir(std::env::temp_dir()).output().unwrap();
            serde_json::from_slice(&output.stdout).unwrap()
        };
        let (memory, files) = (eval("memory"), eval("files"));
        for key in ["loss", "bits_per_char", "bits_per_byte", "tokens", "baseline"] {
            assert_eq!(memory[key], files[key], "{key}");
        }
        assert!(memory["bits_per_byte"].as_f64() < memory["bits_per_char"].as_f64(), "some characters are longer");
        let sample = cli.ok(&["sample", "files", "--prompt", "the kinglet — ", "--tokens", "50"]);
        assert!(sample.starts_with("the kinglet — "), "{sample}");
        for folder in ["ids", "memory", "files"] {
            fs::remove_dir_all(cli.path(folder)).unwrap();
        }
    }
}

#[test]
fn documents_of_a_folder_are_learned_apart_and_each_window_once() {
    let cli = Cli::new();
    fs::create_dir_all(cli.path("texts/more")).unwrap();
    for i in 0..40 {
        let folder = if i % 2 == 0 { "texts" } else { "texts/more" };
        fs::write(cli.path(folder).join(format!("{i}.md")), format!("# number {i}\n{}\n", "a word ".repeat(30)))
            .unwrap();
    }
    let settings = ["--set", "replacement=false", "--set", "within_documents=true"];
    let args = [&["train", "texts", "--out", "run", "--json"], &settings[..], SMALL].concat();
    let events = cli.ok(&args);
    let start: Value = serde_json::from_str(events.lines().next().unwrap()).unwrap();
    let characters: std::collections::BTreeSet<char> = "# number 0123456789\n a word".chars().collect();
    assert_eq!(start["vocab_size"].as_u64().unwrap() as usize, characters.len() + 1, "one ends a document");
    // Stopped and resumed to the same bits.
    let limits = ["train", "texts/*.md", "texts/more/*.md", "--out", "half"];
    cli.ok(&[&limits, &settings[..], SMALL, &["--set", "max_iters=10"]].concat());
    cli.ok(&["train", "--resume", "--out", "half", "--set", "max_iters=20"]);
    cli.ok(&[&limits[..4], &["whole"], &settings[..], SMALL].concat());
    let output = cli.run(&["compare", "--bits", "half", "whole", "--json"]);
    let comparison: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&comparison["event"], &comparison["tensor"]), (&Value::Null, &Value::Null), "{comparison}");
}

#[test]
fn nothing_of_a_users_is_removed_and_no_other_division_is_gone_on_with() {
    let cli = Cli::new();
    text(&cli);
    fs::create_dir_all(cli.path("keep.tmp")).unwrap();
    fs::write(cli.path("keep.tmp/mine.txt"), "mine").unwrap();
    cli.ok(&["data", "prepare", "text.txt", "--out", "keep"]);
    assert_eq!(fs::read_to_string(cli.path("keep.tmp/mine.txt")).unwrap(), "mine");
    // A run that has the name of a part of a run.
    cli.ok(&[&["train", "keep", "--out", "runs/base"], SMALL].concat());
    let message = "runs: this folder is not empty: choose another with --out";
    cli.fails(&["finetune", "runs/base", "text.txt", "--out", "runs"], 1, message);
    cli.ok(&["eval", "runs/base"]);
    // The same text, but validation text of before is trained on.
    fs::remove_dir_all(cli.path("keep")).unwrap();
    cli.ok(&["data", "prepare", "text.txt", "--out", "keep", "--set", "train_split=0.5"]);
    let resume = ["train", "--resume", "--out", "runs/base", "--set", "max_iters=30"];
    cli.fails(&resume, 1, "is not the text that this run was started with (SHA-256 from another train_split");
}

#[test]
fn a_baseline_that_cannot_be_measured_spoils_neither_a_run_nor_a_plan() {
    let cli = Cli::new();
    fs::write(cli.path("text.txt"), "the kinglet weighs no more than a coin\n".repeat(50_000)).unwrap();
    cli.ok(&["data", "prepare", "text.txt", "--tokenizer", "byte", "--out", "ids"]);
    let settings = ["n_layer=1", "n_embd=16", "max_iters=2", "eval_interval=2", "eval_iters=1", "batch_size=2"];
    let mut config = Config::default().with(&settings).unwrap();
    config.data = vec![cli.path("ids").display().to_string()];
    let job = Job::start(config, cli.path("run")).unwrap();
    // The last id of the training part is lost meanwhile: n-grams would begin with it, and batches do not touch it.
    let file = fs::File::options().write(true).open(cli.path("ids/train-00000.bin")).unwrap();
    file.set_len(file.metadata().unwrap().len() - 2).unwrap();
    let (be, said) = (Cpu::new().unwrap(), "the n-gram baseline could not be computed: ");
    let RunDir { config, tokenizer, .. } = &job.run;
    let plan = Plan::measure(config, tokenizer, (&job.data, None), be, cli.temp.path(), 0.0).unwrap();
    assert!(plan.advice.unwrap().contains(said) && plan.time.unwrap().wall_s > 0.0);
    let mut warned = false;
    let done = train::run(job, be, &Options::default().threads(1), |event| {
        if let Event::Warning { warning, .. } = event {
            warned |= warning.starts_with(said);
        }
    });
    let Event::Done { baseline: None, val_loss_exact, .. } = done.unwrap() else { panic!("it is done") };
    assert!(warned && val_loss_exact.is_finite());
}
