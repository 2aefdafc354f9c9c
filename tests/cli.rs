//! The program as a user meets it: commands end to end, and one clear message for each mistake.

use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

struct Cli {
    temp: tempfile::TempDir,
}

impl Cli {
    fn new() -> Cli {
        Cli { temp: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kinglet"));
        command.args(args).current_dir(self.temp.path()).stdin(Stdio::null());
        // No cache and no data folder of the user's: the tests see what they make.
        command.env_remove("KINGLET_DATA_DIR").env("HOME", self.temp.path()).env_remove("XDG_CACHE_HOME");
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Standard output of a command that must succeed.
    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A command must fail with this status and one line that contains `message`; no panic, no backtrace.
    #[track_caller]
    fn fails(&self, args: &[&str], status: i32, message: &str) {
        let output = self.run(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{args:?}: {stderr}");
        assert!(stderr.contains(message), "{args:?}: {stderr}");
        assert!(
            !stderr.contains("panicked") && stderr.lines().filter(|l| l.starts_with("error:")).count() == 1,
            "{stderr}"
        );
    }

    /// A small trained run in `run`.
    fn trained() -> Cli {
        let cli = Cli::new();
        cli.ok(&[&["train", "--out", "run"], SMALL].concat());
        cli
    }
}

const SMALL: &[&str] = &[
    "--set",
    "max_iters=20",
    "--set",
    "eval_interval=10",
    "--set",
    "eval_iters=2",
    "--set",
    "n_layer=1",
    "--set",
    "n_embd=16",
];

#[test]
fn train_eval_sample_info_end_to_end() {
    let cli = Cli::trained();
    let files: Vec<_> =
        ["config.toml", "tokenizer.json", "metrics.jsonl", "loss.svg", "sample.txt", "last", "best"].into();
    for file in files {
        assert!(cli.path("run").join(file).is_file(), "{file}");
    }
    let step = fs::read_to_string(cli.path("run/last")).unwrap();
    assert_eq!(step, "step-000020");
    for file in ["model.safetensors", "optimizer.safetensors", "state.json"] {
        assert!(cli.path("run/checkpoints").join(&step).join(file).is_file(), "{file}");
    }
    assert!(cli.ok(&["eval", "run"]).contains("entropy floor"));
    let sample = cli.ok(&["sample", "run", "--prompt", "The ", "--tokens", "30"]);
    assert!(sample.starts_with("The ") && sample.trim_end_matches('\n').chars().count() <= 34, "{sample}");
    assert_eq!(sample, cli.ok(&["sample", "run", "--prompt", "The ", "--tokens", "30"]));
    assert!(cli.ok(&["info", "run"]).contains("steps done             20 of 20"));
}

#[test]
fn info_shows_the_published_sizes() {
    let cli = Cli::new();
    for (preset, params, weights, published) in
        [("big-0.2m", 209_729, 0.80, 0.86), ("big-2.7m", 2_697_281, 10.29, 10.43)]
    {
        let info: Value = serde_json::from_str(&cli.ok(&["info", preset, "--json"])).unwrap();
        assert_eq!(info["params"], params);
        let near =
            |key: &str, want: f64| assert!((info[key].as_f64().unwrap() - want).abs() < 0.005, "{key}: {}", info[key]);
        near("weights_mib", weights);
        near("published_mib", published);
        let text = cli.ok(&["info", preset]);
        assert!(
            text.contains(&format!("{:.6} M", f64::from(params) / 1e6)) && text.contains(&format!("{published:.2} MB"))
        );
    }
    assert!(cli.ok(&["info", "gpt2"]).contains("124439808"));
}

#[test]
fn json_is_one_object_a_line_and_ends_with_done() {
    let cli = Cli::new();
    let out = cli.ok(&[&["train", "--json", "--out", "run"], SMALL].concat());
    let events: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["start", "estimate", "step", "estimate", "step", "estimate", "done"]);
    let done = events.last().unwrap();
    for key in ["step", "params", "train_loss", "val_loss", "val_loss_exact", "ms_per_step", "tokens_per_s", "wall_s"] {
        assert!(done[key].is_number(), "{key}: {done}");
    }
    assert_eq!(done["out"], "run");
    let eval: Value = serde_json::from_str(&cli.ok(&["eval", "run", "--checkpoint", "last", "--json"])).unwrap();
    assert_eq!(eval["loss"], done["val_loss_exact"]);
    assert!(eval["bits_per_char"].as_f64().unwrap() > 1.0 && eval["perplexity"].is_number());
    let sample: Value = serde_json::from_str(&cli.ok(&["sample", "run", "--tokens", "5", "--json"])).unwrap();
    assert_eq!(sample["text"].as_str().unwrap().chars().count(), 5);
}

#[test]
fn sampling_options() {
    let cli = Cli::trained();
    let sample = |args: &[&str]| cli.ok(&[&["sample", "run", "--tokens", "40"], args].concat());
    assert_ne!(sample(&["--seed", "1"]), sample(&["--seed", "2"]));
    let greedy = sample(&["--temperature", "0", "--seed", "1"]);
    assert_eq!(greedy, sample(&["--temperature", "0", "--seed", "2"]));
    assert_eq!(greedy, sample(&["--top-k", "1"]));
    assert_eq!(greedy, sample(&["--top-p", "0"]));
    assert_eq!(greedy, sample(&["--min-p", "1"]));
    assert!(sample(&["--num", "3"]).contains("----- 3 of 3\n"));
    let stop: String = greedy.chars().skip(9).take(1).collect();
    assert!(sample(&["--temperature", "0", "--stop", &stop]).len() <= 10 + 1);
    fs::write(cli.path("prompt.txt"), "The sword").unwrap();
    assert!(sample(&["--prompt-file", "prompt.txt"]).starts_with("The sword"));
    // A reader who leaves early is no error.
    let mut child = cli.command(&["sample", "run", "--tokens", "100000"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());

    cli.fails(&["sample", "run", "--prompt", "café"], 1, "'é' (U+00E9, LATIN SMALL LETTER E WITH ACUTE), try \"e\"");
    cli.fails(&["sample", "run", "--temperature", "-1"], 2, "must be 0 to 1000");
    cli.fails(&["sample", "run", "--top-p", "1.5"], 2, "must be 0 to 1");
    cli.fails(&["sample", "run", "--prompt-file", "missing.txt"], 1, "cannot read missing.txt");
}

#[test]
fn text_from_files_and_standard_input() {
    let cli = Cli::new();
    fs::write(cli.path("a.txt"), "naïve café. ".repeat(100)).unwrap();
    fs::write(cli.path("b.txt"), "two rivers. ".repeat(100)).unwrap();
    cli.ok(&[&["train", "a.txt", "b.txt", "--out", "run"], SMALL].concat());
    assert!(cli.ok(&["eval", "run", "b.txt"]).contains("all split, 1199 characters predicted"));
    let mut child = cli
        .command(&[&["train", "-", "--out", "piped"], SMALL].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), "hello world! ".repeat(100).as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn bf16_without_instructions_for_it_is_f32() {
    let cli = Cli::new();
    let train = |out, precision| {
        let settings = ["--set", precision, "--set", "max_iters=2", "--set", "eval_iters=1", "--set", "shards=2"];
        let output = cli
            .command(&[&["train", "--json", "--out", out], &settings[..]].concat())
            .env("KINGLET_ISA", "scalar")
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{stderr}");
        assert_eq!(stderr.contains("computing in f32 instead"), precision.contains("bf16"), "{stderr}");
        let line = String::from_utf8(output.stdout).unwrap().lines().last().unwrap().to_owned();
        serde_json::from_str::<Value>(&line).unwrap()["val_loss_exact"].clone()
    };
    assert_eq!(train("asked", "precision=bf16"), train("plain", "precision=f32"));
}

#[test]
fn bad_data_is_refused_and_nothing_is_written() {
    let cli = Cli::new();
    fs::write(cli.path("empty"), "").unwrap();
    fs::write(cli.path("binary"), [0u8, 1, 2, 3].repeat(100)).unwrap();
    fs::write(cli.path("latin1"), b"caf\xe9 ".repeat(100)).unwrap();
    fs::write(cli.path("short"), "too short for this").unwrap();
    fs::write(cli.path("half"), "a".repeat(200)).unwrap();
    for (data, message) in [
        ("empty", "empty is empty"),
        ("binary", "zero byte at offset 0"),
        ("latin1", "byte 0xe9 at offset 3 (line 1)"),
        ("short", "the training part of the text has 16 tokens, fewer than one sequence of block_size + 1 = 33"),
        ("half", "the validation part of the text has 20 tokens"),
        ("missing", "there is no file missing"),
        (".", ". is a folder"),
    ] {
        cli.fails(&["train", data, "--out", "run"], 1, message);
        assert!(!cli.path("run").exists(), "{data}");
    }
}

#[test]
fn bad_configurations_name_key_value_and_what_is_allowed() {
    let cli = Cli::new();
    for (setting, message) in [
        ("n_head=5", "n_head = 5: must be a divisor of n_embd = 64"),
        ("n_embd=0", "n_embd = 0: must be 1 to 65536"),
        ("batch_size=0", "batch_size = 0: must be 1 to 65536"),
        ("max_iters=0", "max_iters = 0: must be 1 to"),
        ("vocab_size=10", "vocab_size = 10: must be 0 or at least 65"),
        ("n_embed=64", "there is no configuration key \"n_embed\"; did you mean n_embd?"),
        ("n_embd=65536", "GiB of memory and this machine has"),
        ("tokenizer=bpe", "tokenizer = \"bpe\": must be \"char\""),
    ] {
        cli.fails(&["train", "--out", "run", "--set", setting], 2, message);
        assert!(!cli.path("run").exists(), "{setting}");
    }
    cli.fails(&["train", "--preset", "nope"], 2, "there is no preset \"nope\"; there are big-0.2m, big-2.7m");
    cli.fails(&["info", "nope"], 2, "there is no preset");
    fs::write(cli.path("new.toml"), "format_version = 2\nn_layer = 1").unwrap();
    cli.fails(
        &["train", "--config", "new.toml"],
        1,
        "new.toml: format_version = 2: this kinglet reads versions up to 1",
    );
    fs::write(cli.path("bad.toml"), "n_layer = \"many\"").unwrap();
    cli.fails(&["train", "--config", "bad.toml"], 1, "bad.toml: n_layer = \"many\": must be 1 to 256");
    cli.fails(&["train", "--config", "missing.toml"], 1, "missing.toml");
    cli.fails(&["train", "--nonsense"], 2, "--nonsense");
    cli.fails(&["train", "--resume"], 1, "runs/big-0.2m: there is no such folder");
}

#[test]
fn bad_run_folders() {
    let cli = Cli::trained();
    cli.fails(&["train", "--out", "run"], 1, "run: there is a run in this folder: continue it with --resume");
    cli.fails(&["train", "--resume", "--out", "run"], 1, "this run is done: 20 of 20 steps");
    cli.fails(&["train", "--resume", "--out", "missing"], 1, "there is no such folder");
    cli.fails(&["eval", "missing"], 1, "there is no such folder");
    fs::create_dir(cli.path("other")).unwrap();
    cli.fails(&["sample", "other"], 1, "not the folder of a run");
    fs::write(cli.path("other/notes.txt"), "mine").unwrap();
    cli.fails(&["train", "--out", "other"], 1, "other: this folder is not empty");
    fs::write(cli.path("file"), "mine").unwrap();
    cli.fails(&[&["train", "--out", "file"], SMALL].concat(), 1, "cannot create file");
    assert_eq!(fs::read_to_string(cli.path("file")).unwrap(), "mine");
    let weights = cli.path("run/checkpoints/step-000020/model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    cli.fails(&["sample", "run"], 1, "model.safetensors: damaged");
    fs::remove_dir_all(cli.path("run/checkpoints")).unwrap();
    fs::remove_file(cli.path("run/last")).unwrap();
    fs::remove_file(cli.path("run/best")).unwrap();
    cli.fails(&["sample", "run"], 1, "this run has no checkpoint yet");
}

#[test]
fn tiny_shakespeare_needs_a_file_or_a_network() {
    let cli = Cli::new();
    fs::create_dir(cli.path("data")).unwrap();
    fs::write(cli.path("data/tinyshakespeare.txt"), "To be").unwrap();
    let mut command = cli.command(&["train", "tinyshakespeare"]);
    let output = command.env("KINGLET_DATA_DIR", cli.path("data")).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && stderr.contains("this is not Tiny Shakespeare"), "{stderr}");
}

#[test]
#[cfg(unix)]
fn ctrl_c_saves_and_the_run_goes_on_to_the_same_bits() {
    let cli = Cli::new();
    let args = |out: &'static str| {
        let more: &[&str] = &["--set", "max_iters=400", "--set", "eval_interval=1000", "--set", "n_embd=32"];
        [&["train", "--json", "--out", out], SMALL, more].concat()
    };
    cli.ok(&args("whole"));
    let mut child = cli.command(&args("stopped")).stdout(Stdio::piped()).spawn().unwrap();
    // Once it has taken a step, as it says itself.
    let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("\"step\":10,") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut reader, &mut line).unwrap() > 0);
    }
    let signal = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(signal.success());
    let rest: String = std::io::read_to_string(reader).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(rest.contains("\"event\":\"interrupted\""), "{rest}");
    cli.ok(&["train", "--resume", "--out", "stopped"]);
    let weights = |run: &str| fs::read(cli.path(run).join("checkpoints/step-000400/model.safetensors")).unwrap();
    assert!(weights("whole") == weights("stopped"));
}

#[test]
fn a_process_killed_at_any_moment_leaves_a_run_that_goes_on() {
    let cli = Cli::new();
    let more: &[&str] = &["--set", "max_iters=60", "--set", "eval_interval=2"];
    let args = |out: &'static str| [&["train", "--out", out], SMALL, more].concat();
    cli.ok(&args("whole"));
    let mut kills = 0;
    for round in 0..200u64 {
        let resume: &[&str] = &["train", "--resume", "--out", "killed"];
        let mut child =
            if cli.path("killed/config.toml").exists() { cli.command(resume) } else { cli.command(&args("killed")) }
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
        std::thread::sleep(Duration::from_millis(20 + 37 * round % 90));
        if child.try_wait().unwrap().is_some_and(|status| status.success()) {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        // Killed before the configuration was written: nothing is there yet, and nothing is in the way.
        if !cli.path("killed/config.toml").exists() {
            let _ = fs::remove_dir_all(cli.path("killed"));
        }
    }
    assert!(kills > 2, "killed {kills} times");
    cli.run(&["train", "--resume", "--out", "killed"]);
    let weights = |run: &str| fs::read(cli.path(run).join("checkpoints/step-000060/model.safetensors")).unwrap();
    assert!(weights("whole") == weights("killed"), "after {kills} kills");
}

#[test]
fn quick_reproduction_runs_without_a_report() {
    let Some(folder) = std::env::var_os("KINGLET_DATA_DIR") else {
        eprintln!("skipped: KINGLET_DATA_DIR is not set, so there is no Tiny Shakespeare");
        return;
    };
    let cli = Cli::new();
    let mut command = cli.command(&["reproduce", "--quick", "--preset", "big-0.2m"]);
    let output = command.env("KINGLET_DATA_DIR", fs::canonicalize(folder).unwrap()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("| big-0.2m | 209729 | 209729 |"), "{table}");
    assert!(!cli.path("docs").exists());
}

/// Every command in the README's shell blocks, in order, with fewer steps so that it takes seconds.
#[test]
fn the_readmes_commands_work() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let cli = Cli::new();
    fs::write(cli.path("my.txt"), "Once upon a time there was a kinglet. ".repeat(300)).unwrap();
    let mut tried = 0;
    for block in readme.split("```sh\n").skip(1) {
        for line in block.split("```").next().unwrap().lines() {
            let line = line.split(" #").next().unwrap().trim();
            let line = line.replace("cargo run --release --", "kinglet");
            let Some(args) = line.strip_prefix("kinglet ") else { continue };
            // Words, with those in double quotes kept together.
            let mut args: Vec<String> = args
                .split('"')
                .enumerate()
                .flat_map(|(i, piece)| match i % 2 {
                    1 => vec![piece.to_owned()],
                    _ => piece.split_whitespace().map(str::to_owned).collect(),
                })
                .collect();
            if line.contains("tinyshakespeare") || line.contains("reproduce") {
                // They take Tiny Shakespeare, so they are only parsed here; other tests run them.
                args.push("--help".into());
            } else if args[0] == "train" {
                let steps = if args.contains(&"--resume".into()) { "max_iters=6" } else { "max_iters=4" };
                args.extend(["--set", steps, "--set", "eval_iters=1", "--set", "eval_interval=2"].map(str::to_owned));
            } else if args[0] == "bench" {
                args.extend(["--seconds", "0"].map(str::to_owned));
            }
            cli.ok(&args.iter().map(String::as_str).collect::<Vec<_>>());
            tried += 1;
        }
    }
    assert!(tried >= 6, "only {tried} commands found in the README");
}

#[test]
fn bench_measures() {
    let cli = Cli::new();
    let small = ["bench", "--seconds", "0", "--set", "n_layer=1", "--set", "eval_iters=1", "--json"];
    let quick: Value = serde_json::from_str(&cli.ok(&[&small[..], &["--quick", "--threads", "1"]].concat())).unwrap();
    let full: Value = serde_json::from_str(&cli.ok(&[&small[..], &["--profile"]].concat())).unwrap();
    for report in [&quick, &full] {
        for key in ["ms_per_step", "ms_per_eval_batch", "tokens_per_s", "gflops", "peak_gflops", "fraction_of_peak"] {
            assert!(report[key].as_f64().unwrap() > 0.0, "{key}: {report}");
        }
        assert!(report["fraction_of_peak"].as_f64().unwrap() < 1.2, "{report}");
    }
    assert!(quick["threads"] == 1 && quick["sample"].is_null() && quick["process"].is_null());
    let profile = full["profile"].as_array().unwrap();
    let ms = |report: &Value| report["ms"].as_f64().unwrap();
    assert!(profile.iter().map(ms).sum::<f64>() > 0.0 && profile.iter().any(|row| row["op"] == "linear_act 64 -> 256"));
    for key in ["first_block", "context_full", "many_streams"] {
        assert!(full["sample"][key].as_f64().unwrap() > 0.0, "{key}");
    }
    assert!(full["process"]["start_ms"].as_f64().unwrap() > 0.0);
    cli.fails(&["bench", "--preset", "big"], 2, "big-0.2m");
    cli.fails(&["bench", "--seconds=-1"], 2, "0 to 3600");
    cli.fails(&["bench", "--set", "n_embd=65536", "--set", "n_layer=9"], 2, "memory");
    assert!(fs::read_dir(cli.temp.path()).unwrap().next().is_none(), "bench leaves nothing behind");
}
