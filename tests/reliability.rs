//! What is promised in docs/RELIABILITY.md about signals, crashes, storage and damage, with real processes.
#![cfg(unix)]

mod common;

use common::{
    cli::{Cli, SMALL},
    needs,
};
use kinglet::{
    params::Layout,
    run::{Checkpoint, Record, RunDir},
};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

/// Settings of a run with a checkpoint every other step.
fn many_checkpoints(steps: &str) -> Vec<String> {
    let mut args: Vec<String> = SMALL.iter().map(|&word| word.to_owned()).collect();
    for setting in [steps, "eval_interval=2", "eval_iters=1", "train_split=0.99"] {
        args.extend(["--set".to_owned(), setting.to_owned()]);
    }
    args
}

/// The newest intact checkpoint, as a process that starts now finds it.
fn newest(run: &Path) -> Checkpoint {
    let mut run = RunDir::open(run).unwrap();
    let layout = Layout::new(&run.config).unwrap();
    let checkpoint = run.load(&layout, None, |_| true).unwrap();
    assert!(run.warnings.is_empty(), "{:?}", run.warnings);
    checkpoint
}

/// Weights and moments are equal to the bit.
#[track_caller]
fn same_bits(a: &Path, b: &Path) {
    let (a, b) = (newest(a), newest(b));
    assert_eq!(a.state.step, b.state.step);
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(bits(&a.weights) == bits(&b.weights) && bits(&a.m) == bits(&b.m) && bits(&a.v) == bits(&b.v));
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// A training process and its events.
struct Training {
    child: Child,
    stderr: Option<std::thread::JoinHandle<String>>,
    events: std::io::Lines<BufReader<ChildStdout>>,
}

impl Training {
    fn start(command: &mut Command) -> Training {
        let mut child = command.arg("--json").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let events = BufReader::new(child.stdout.take().unwrap()).lines();
        let pipe = child.stderr.take().unwrap();
        let stderr = Some(std::thread::spawn(move || std::io::read_to_string(pipe).unwrap()));
        Training { child, stderr, events }
    }

    /// What it wrote to standard error until its end.
    fn stderr(&mut self) -> String {
        self.stderr.take().unwrap().join().unwrap()
    }

    fn next(&mut self) -> Option<Value> {
        let line = self.events.next()?.unwrap();
        Some(serde_json::from_str(&line).unwrap())
    }

    /// Reads on until an event of this kind.
    #[track_caller]
    fn until(&mut self, kind: &str) -> Value {
        loop {
            let event = self.next().unwrap_or_else(|| panic!("no {kind}"));
            if event["event"] == kind {
                return event;
            }
        }
    }
}

/// A generator for the moments of kills: SplitMix64.
struct Moments(u64);

impl Moments {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}

/// Whether a checkpoint is being written.
fn is_writing(run: &Path) -> bool {
    let Ok(entries) = run.join("checkpoints").read_dir() else { return false };
    entries.flatten().any(|entry| entry.path().extension().is_some_and(|extension| extension == "tmp"))
}

#[test]
fn killed_a_hundred_times_it_ends_with_the_bits_of_an_undisturbed_run() {
    let cli = Cli::new();
    let settings = many_checkpoints("max_iters=1200");
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    cli.ok(&[&["train", "--out", "whole"], &settings[..]].concat());
    let run = cli.path("killed");
    let mut moments = Moments(1);
    let (mut kills, mut while_writing, mut loads, mut newest_step) = (0, 0, 0, None);
    loop {
        let mut command = if run.join("config.toml").exists() {
            cli.command(&["train", "--resume", "--out", "killed"])
        } else {
            cli.command(&[&["train", "--out", "killed"], &settings[..]].concat())
        };
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        if kills < 40 {
            // At any moment, from the start of the program on.
            std::thread::sleep(Duration::from_micros(moments.below(120_000)));
        } else if kills < 120 {
            // While a checkpoint is written: wait for some to begin, then for a part of the time it takes.
            for _ in 0..1 + moments.below(8) {
                let (start, mut before) = (Instant::now(), true);
                while start.elapsed() < Duration::from_secs(5) && child.try_wait().unwrap().is_none() {
                    let now = is_writing(&run);
                    if now && !before {
                        break;
                    }
                    before = now;
                }
            }
            let (start, pause) = (Instant::now(), Duration::from_micros(moments.below(4000)));
            while start.elapsed() < pause {}
        } else {
            assert!(child.wait().unwrap().success());
            break;
        }
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            break;
        }
        kills += 1;
        while_writing += u32::from(is_writing(&run));
        // Once there was a checkpoint there always is one, and none older than the last.
        if newest_step.is_some() || run.join("config.toml").exists() && run.join("last").exists() {
            let step = newest(&run).state.step;
            assert!(newest_step <= Some(step), "step {newest_step:?}, then {step}");
            newest_step = Some(step);
            loads += 1;
        }
    }
    assert!(kills >= 100 && while_writing >= 20, "{kills} kills, {while_writing} of them while writing");
    same_bits(&run, &cli.path("whole"));
    assert!(cli.ok(&["compare", "--bits", "killed", "whole"]).contains("the same bits"));
    eprintln!(
        "{kills} kills, {while_writing} while a checkpoint was written; after {loads} a checkpoint was due and there"
    );
}

#[test]
fn sigint_and_sigterm_save_and_the_run_goes_on_to_the_same_bits() {
    let cli = Cli::new();
    let args = |out: &'static str| {
        let more: &[&str] = &["--set", "max_iters=400", "--set", "eval_interval=1000", "--set", "n_embd=32"];
        [&["train", "--out", out], SMALL, more].concat()
    };
    cli.ok(&args("whole"));
    for (out, name) in [("interrupted", "-INT"), ("terminated", "-TERM"), ("hung-up", "-HUP")] {
        let mut training = Training::start(&mut cli.command(&args(out)));
        training.until("step");
        signal(&training.child, name);
        assert!(training.until("interrupted")["step"].as_u64().unwrap() < 400);
        assert_eq!(training.child.wait().unwrap().code(), Some(130), "{name}");
        cli.ok(&["train", "--resume", "--out", out]);
        same_bits(&cli.path("whole"), &cli.path(out));
    }
}

#[test]
fn a_second_sigint_leaves_at_once() {
    let cli = Cli::new();
    // A step that takes minutes, so that the first signal has to wait.
    let slow = ["--set", "gradient_accumulation_steps=65536", "--set", "max_iters=3"];
    let mut training = Training::start(&mut cli.command(&[&["train", "--out", "run"], SMALL, &slow].concat()));
    training.until("estimate");
    // Into the step.
    std::thread::sleep(Duration::from_millis(500));
    signal(&training.child, "-INT");
    std::thread::sleep(Duration::from_millis(500));
    assert!(training.child.try_wait().unwrap().is_none(), "it waits for the end of the step");
    let start = Instant::now();
    signal(&training.child, "-INT");
    assert_eq!(training.child.wait().unwrap().code(), Some(130));
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(newest(&cli.path("run")).state.step, 0);
}

#[test]
fn two_processes_do_not_train_one_run() {
    let cli = Cli::new();
    let long = ["--set", "max_iters=1000000", "--set", "eval_interval=1000"];
    let mut training = Training::start(&mut cli.command(&[&["train", "--out", "run"], SMALL, &long].concat()));
    training.until("step");
    let who = format!("run: another kinglet (process {}) is training this run", training.child.id());
    cli.fails(&["train", "--resume", "--out", "run"], 1, &who);
    cli.fails(&["train", "--out", "run"], 1, "this folder already contains a run");
    // Reading does no harm.
    cli.ok(&["sample", "run", "--tokens", "5"]);
    training.child.kill().unwrap();
    training.child.wait().unwrap();
    // The file is still there, and names a process that is not.
    assert_eq!(fs::read_to_string(cli.path("run/lock")).unwrap().trim(), training.child.id().to_string());
    cli.ok(&["train", "--resume", "--out", "run", "--set", "max_iters=1000", "--set", "eval_interval=500"]);
}

/// A run that is disturbed after an estimate and relieved after the warning must end as if nothing had happened.
fn survives(cli: &Cli, command: &mut Command, run: &Path, disturb: impl FnOnce(), relieve: impl FnOnce()) {
    let mut training = Training::start(command);
    training.until("estimate");
    training.until("estimate");
    disturb();
    let text = loop {
        let text = training.until("warning")["warning"].as_str().unwrap().to_owned();
        // The curves of the estimate before are written after its checkpoint.
        if !text.starts_with("cannot write ") || !text.contains("loss.svg") {
            break text;
        }
    };
    for part in ["NO CHECKPOINT WAS WRITTEN: cannot ", "Training continues and tries again at the next estimate"] {
        assert!(text.contains(part), "{text}");
    }
    // The last good one stays.
    relieve();
    let before = newest(run).state.step;
    let done = training.until("done");
    assert!(training.child.wait().unwrap().success());
    let stderr = training.stderr();
    assert!(stderr.contains("warning: at step ") && stderr.contains("NO CHECKPOINT"), "{stderr}");
    let after = newest(run).state.step;
    assert!(before < after && done["step"] == after, "{before} {after}");
    same_bits(run, &cli.path("whole"));
    let events = RunDir::open(run).unwrap().metrics().unwrap();
    let estimates = events.iter().filter(|event| event["event"] == "estimate").count();
    assert_eq!(estimates, 201, "no line of the metrics is lost");
}

/// A run of a few seconds, and one like it in `whole`, undisturbed.
fn disturbed_run(cli: &Cli) -> Vec<String> {
    let mut settings = many_checkpoints("max_iters=400");
    settings.extend(["--set", "n_embd=32", "--set", "batch_size=64"].map(str::to_owned));
    let args: Vec<&str> = settings.iter().map(String::as_str).collect();
    cli.ok(&[&["train", "--out", "whole"], &args[..]].concat());
    settings
}

#[test]
fn a_folder_that_is_gone_for_a_while() {
    let cli = Cli::new();
    let settings = disturbed_run(&cli);
    let (run, aside) = (cli.path("run"), cli.path("aside"));
    let folder = run.join("checkpoints");
    let disturb = || {
        fs::rename(&folder, &aside).unwrap();
        fs::write(&folder, "in the way").unwrap();
    };
    let relieve = || {
        fs::remove_file(&folder).unwrap();
        fs::rename(&aside, &folder).unwrap();
    };
    survives(&cli, cli.command(&["train", "--out", "run"]).args(&settings), &run, disturb, relieve);
}

/// The program as somebody to whom permissions apply: another user, if this one is root.
struct Mortal {
    cli: Cli,
    program: PathBuf,
    is_root: bool,
}

const NOBODY: u32 = 65534;

impl Mortal {
    fn new() -> Mortal {
        let cli = Cli::new();
        let is_root = fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
        let program = cli.path("kinglet");
        fs::copy(env!("CARGO_BIN_EXE_kinglet"), &program).unwrap();
        if is_root {
            for path in [cli.temp.path(), &program] {
                std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        Mortal { cli, program, is_root }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).current_dir(self.cli.temp.path()).stdin(Stdio::null()).env("HOME", self.cli.temp.path());
        if self.is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn permission_lost_in_the_middle_of_a_run() {
    let mortal = Mortal::new();
    let settings = disturbed_run(&mortal.cli);
    let run = mortal.cli.path("run");
    let folder = run.join("checkpoints");
    let (disturb, relieve) = (|| set_mode(&folder, 0o555), || set_mode(&folder, 0o755));
    survives(&mortal.cli, mortal.command(&["train", "--out", "run"]).args(&settings), &run, disturb, relieve);
}

#[test]
fn a_folder_that_cannot_be_written() {
    let mortal = Mortal::new();
    let closed = mortal.cli.path("closed");
    fs::create_dir(&closed).unwrap();
    set_mode(&closed, 0o555);
    let output = mortal.command(&["train", "--out", "closed/run"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        (output.status.code(), stderr.as_str()),
        (Some(1), "error: cannot create closed/run: Permission denied (os error 13)\n")
    );
    // A finished run in a closed folder can be read.
    mortal.cli.ok(&[&["train", "--out", "run"], SMALL].concat());
    set_mode(&mortal.cli.path("run"), 0o555);
    for command in [&["sample", "run", "--tokens", "5"][..], &["eval", "run"], &["info", "run"]] {
        assert!(mortal.command(command).output().unwrap().status.success(), "{command:?}");
    }
}

#[test]
fn a_full_disk() {
    let cli = Cli::new();
    let disk = cli.path("disk");
    fs::create_dir(&disk).unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"]).arg(&disk).output();
    if !mount.is_ok_and(|output| output.status.success()) {
        needs::skip("making a small disk takes the right to mount one");
        return;
    }
    /// Unmounts, also if the test fails.
    struct Mounted<'a>(&'a Path);
    impl Drop for Mounted<'_> {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("-l").arg(self.0).status();
        }
    }
    let _mounted = Mounted(&disk);
    let settings = disturbed_run(&cli);
    let filler = disk.join("filler");
    // As large as it gets.
    let disturb = || _ = fs::write(&filler, vec![1; 4 << 20]);
    let relieve = || fs::remove_file(&filler).unwrap();
    survives(&cli, cli.command(&["train", "--out", "disk/run"]).args(&settings), &disk.join("run"), disturb, relieve);

    // A disk that stays full: the run ends, says so, and what it had saved is there.
    let mut training = Training::start(cli.command(&["train", "--out", "disk/full"]).args(&settings));
    training.until("estimate");
    training.until("estimate");
    let _ = fs::write(&filler, vec![1; 4 << 20]);
    while training.next().is_some() {}
    let stderr = training.stderr();
    assert_eq!(training.child.wait().unwrap().code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("NO CHECKPOINT") && stderr.lines().last().unwrap().starts_with("error: cannot "),
        "{stderr}"
    );
    newest(&disk.join("full"));
    fs::remove_file(&filler).unwrap();
    cli.ok(&["train", "--resume", "--out", "disk/full"]);
    same_bits(&disk.join("full"), &cli.path("whole"));
    // From the beginning.
    let _ = fs::write(&filler, vec![1; 4 << 20]);
    cli.fails(&["train", "--out", "disk/never"], 1, "No space left on device");
}

#[test]
fn a_damaged_file_of_any_kind_is_noticed_and_lived_with() {
    let cli = Cli::trained();
    let whole = cli.path("whole");
    fs::rename(cli.path("run"), &whole).unwrap();
    let mut files = vec![];
    let mut folders = vec![whole.clone()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path.strip_prefix(&whole).unwrap().to_owned()) }
        }
    }
    assert!(files.len() >= 20, "{files:?}");
    let copy = |to: &str| {
        let _ = fs::remove_dir_all(cli.path(to));
        assert!(Command::new("cp").arg("-r").arg(&whole).arg(cli.path(to)).status().unwrap().success());
    };
    // What comes of an undamaged one.
    let resume = |run| ["train", "--resume", "--out", run, "--set", "max_iters=22"];
    copy("run");
    let text = cli.ok(&["sample", "run", "--tokens", "30"]);
    cli.ok(&resume("run"));
    fs::rename(cli.path("run"), cli.path("undamaged")).unwrap();
    let mut moments = Moments(7);
    let (mut faults, mut noticed, mut unnoticed) = (0, 0, Vec::new());
    for file in &files {
        for kind in 0..6 {
            copy("run");
            let path = cli.path("run").join(file);
            let mut bytes = fs::read(&path).unwrap();
            match kind {
                0 | 1 => {
                    let at = moments.below(bytes.len() as u64) as usize;
                    bytes[at] ^= 1 << moments.below(8);
                }
                2 => bytes.truncate(moments.below(bytes.len() as u64) as usize),
                3 => bytes.clear(),
                4 => bytes.iter_mut().for_each(|byte| *byte = 255),
                _ => {}
            }
            if kind == 5 {
                fs::remove_file(&path).unwrap()
            } else {
                fs::write(&path, bytes).unwrap()
            }
            faults += 1;
            let mut warned = false;
            for command in [
                &["sample", "run", "--tokens", "30"][..],
                &["info", "run"],
                &["compare", "--bits", "run", "whole"],
                &["compare", "run"],
                &resume("run"),
            ] {
                let output = cli.run(command);
                let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
                assert!(
                    matches!(output.status.code(), Some(0 | 1)) && !stderr.contains("panicked"),
                    "{file:?}: {stderr}"
                );
                let warns = stderr.contains("warning");
                warned |= warns;
                // Two other checkpoints are intact, so training goes on.
                let expected = command[0] == "compare" || output.status.success();
                assert!(expected, "{file:?} {kind} {command:?}: {stderr}");
                // What is written without a warning is what an undamaged run writes; and it compares as the same.
                let intact = match command[0] {
                    "sample" => stdout == text,
                    "compare" if command[1] == "--bits" => output.status.success(),
                    _ => true,
                };
                assert!(warns || intact || !output.status.success(), "{file:?} {kind} {command:?}: {stdout}{stderr}");
            }
            noticed += usize::from(warned);
            // Noticed or not, from whichever checkpoint it went on: training ends with the same bits.
            let ended = RunDir::open(&cli.path("run")).unwrap();
            assert!(ended.warnings.is_empty(), "{file:?} {kind}: {:?}", ended.warnings);
            same_bits(&cli.path("run"), &cli.path("undamaged"));
            // What is not warned of is in a file that nothing is read from, or in what is said there of one; or it takes the
            // last lines from the metrics, behind the best estimate: nobody knows how many there were.
            let name = file.file_name().unwrap().to_str().unwrap();
            let unread = match name {
                "last" | "best" | "lock" | "loss.svg" | "sample.txt" => true,
                "config.toml" | "tokenizer.json" => file.starts_with("checkpoints"),
                "SHA256SUMS" => kind < 2,
                "metrics.jsonl" => kind == 2,
                _ => false,
            };
            if !warned && !unread {
                unnoticed.push(format!("{} ({kind})", file.display()));
            }
        }
    }
    eprintln!("{} files, {faults} faults, {noticed} of them warned of", files.len());
    assert!(unnoticed.is_empty(), "{unnoticed:?}");
}

/// What `train --json` says at its end.
fn done(cli: &Cli, args: &[&str]) -> Value {
    let out = cli.ok(&[&["train", "--json"], args].concat());
    let done: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!(done["event"], "done");
    done
}

fn peak_mib(done: &Value) -> f64 {
    done["peak_memory_mib"].as_f64().unwrap()
}

#[test]
#[cfg(target_os = "linux")]
fn going_on_takes_no_more_memory_than_beginning() {
    let cli = Cli::new();
    let run = |out, steps| {
        let settings = [steps, "eval_interval=2", "eval_iters=1", "train_split=0.99", "shards=2"];
        let settings: Vec<_> = settings.into_iter().flat_map(|setting| ["--set", setting]).collect();
        peak_mib(&done(&cli, &[&["--preset", "big-2.7m", "--out", out, "--threads", "2"], &settings[..]].concat()))
    };
    let fresh = run("fresh", "max_iters=4");
    run("run", "max_iters=2");
    let resumed = done(&cli, &["--resume", "--out", "run", "--set", "max_iters=4", "--threads", "2"]);
    eprintln!("{fresh:.1} MiB, and resumed {:.1} MiB", peak_mib(&resumed));
    assert!((peak_mib(&resumed) - fresh).abs() < 0.02 * fresh + 2.0, "{fresh} MiB, and resumed {resumed}");
    same_bits(&cli.path("fresh"), &cli.path("run"));
}

/// A run of so many steps that its metrics are larger than any other text file may be: it goes on, line by line.
#[test]
#[cfg(target_os = "linux")]
fn metrics_of_a_very_long_run_do_not_come_into_memory() {
    use std::io::Write;
    const STEPS: u64 = 30_000_000;
    let cli = Cli::new();
    let fresh = peak_mib(&done(&cli, &[&["--out", "run"], SMALL].concat()));
    // The last checkpoint becomes one of much later.
    let folder = cli.path("run/checkpoints");
    for old in ["step-000000", "step-000010"] {
        let _ = fs::remove_dir_all(folder.join(old));
    }
    let last = folder.join(format!("step-{STEPS}"));
    fs::rename(folder.join("step-000020"), &last).unwrap();
    let mut state: Value = serde_json::from_slice(&fs::read(last.join("state.json")).unwrap()).unwrap();
    (state["step"], state["best"]) = (STEPS.into(), Value::Null);
    fs::write(last.join("state.json"), state.to_string()).unwrap();
    let sums = Command::new("sh").args(["-c", "sha256sum *.* > SHA256SUMS"]).current_dir(&last).status().unwrap();
    assert!(sums.success());
    // An estimate now and then, and as many lines of steps with something to say.
    let path = cli.path("run/metrics.jsonl");
    let mut file = std::io::BufWriter::new(fs::File::create(&path).unwrap());
    let words = "as long as the day ".repeat(50);
    let (mut lines, mut bytes) = (0u64, 0);
    for step in (0..=STEPS).step_by(100) {
        let json = if step % 100_000 == 0 {
            format!("{{\"event\":\"estimate\",\"step\":{step},\"train_loss\":2.5,\"val_loss\":2.5,\"train_s\":{step}}}")
        } else {
            format!(
                "{{\"event\":\"step\",\"step\":{step},\"loss\":2.5,\"lr\":0.001,\"grad_norm\":1.0,\"words\":\"{words}\"}}"
            )
        };
        let sum = Sha256::digest(json.as_bytes());
        let check: String = sum[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        let line = format!("{},\"check\":\"{check}\"}}\n", &json[..json.len() - 1]);
        file.write_all(line.as_bytes()).unwrap();
        (lines, bytes) = (lines + 1, bytes + line.len());
    }
    drop(file);
    assert!(bytes > 256 << 20, "{bytes} bytes");
    let more = format!("max_iters={}", STEPS + 10);
    let clock = Instant::now();
    let done = done(&cli, &["--resume", "--out", "run", "--set", &more]);
    eprintln!(
        "{lines} lines, {bytes} bytes; {:.1} s; {fresh:.1} MiB, then {:.1} MiB",
        clock.elapsed().as_secs_f64(),
        peak_mib(&done)
    );
    assert_eq!(done["step"], STEPS + 10);
    assert!(peak_mib(&done) < fresh + 150.0, "{fresh} MiB, then {done}");
    // All lines are there, and some more.
    let (mut kept, mut estimates) = (0, 0);
    RunDir::open(&cli.path("run"))
        .unwrap()
        .records(|record| {
            kept += 1;
            estimates += u64::from(matches!(record, Record::Estimate(_)));
        })
        .unwrap();
    // The step, its estimate with a sample, and the end.
    assert_eq!((kept, estimates), (lines + 4, STEPS / 100_000 + 2));
    // Comparing reads them line by line too: in 600 MB of addresses, where the lines alone would take more.
    let compare = format!("ulimit -v 600000; exec {} compare --bits run run", env!("CARGO_BIN_EXE_kinglet"));
    let output = Command::new("sh").args(["-c", &compare]).current_dir(cli.temp.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_a_killed_preparation_left_is_removed_by_the_next_whatever_its_name() {
    let cli = Cli::new();
    fs::write(cli.path("large.txt"), "a coin is what the kinglet weighs\n".repeat(1_000_000)).unwrap();
    fs::write(cli.path("small.txt"), "a coin is what the kinglet weighs\n".repeat(200)).unwrap();
    let mut prepare = cli.command(&["data", "prepare", "large.txt", "--tokenizer", "byte", "--out", "folder/large"]);
    let mut child = prepare.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let left = cli.path(&format!("folder/.large.{}.tmp", child.id()));
    let is_writing = || left.join("lock").exists() && left.read_dir().is_ok_and(|entries| entries.count() > 1);
    let start = Instant::now();
    while !is_writing() && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success() && left.exists(), "it was killed while it wrote");
    fs::create_dir(cli.path("folder/.mine.1.tmp")).unwrap();
    let output = cli.run(&["data", "prepare", "small.txt", "--tokenizer", "byte", "--out", "folder/small"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && stderr.contains("which an interrupted kinglet left behind"), "{stderr}");
    let mut names: Vec<_> =
        cli.path("folder").read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, [".mine.1.tmp", "small"]);
    assert!(!cli.path("folder/small/lock").exists());
}

/// The most threads that a command has at any moment.
#[cfg(target_os = "linux")]
fn most_threads(cli: &Cli, args: &[&str]) -> usize {
    let mut child = cli.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let tasks = format!("/proc/{}/task", child.id());
    let mut most = 0;
    let status = loop {
        most = most.max(fs::read_dir(&tasks).map_or(0, Iterator::count));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
    };
    assert!(status.success(), "{args:?}");
    most
}

#[test]
#[cfg(target_os = "linux")]
fn the_number_of_threads_bounds_all_of_them() {
    let cli = Cli::new();
    fs::write(cli.path("text.txt"), "a coin is what the kinglet weighs\n".repeat(150_000)).unwrap();
    let short = ["--set", "max_iters=2", "--set", "eval_iters=1", "--set", "eval_interval=1", "--set", "n_layer=1"];
    let train = |threads| [&["train", "text.txt", "--out", threads, "--threads", threads], &short[..]].concat();
    // One that waits for the command, one that waits for signals, and those that work.
    for (threads, most) in [("1", 3), ("3", 5)] {
        let found = most_threads(&cli, &train(threads));
        assert!((most - 1..=most).contains(&found), "{found} threads with --threads {threads}");
    }
    for args in [
        &["eval", "1", "--split", "val"][..],
        &["data", "prepare", "text.txt", "--tokenizer", "byte", "--out", "ids"],
        &["data", "stats", "text.txt"],
        &["plan", "text.txt", "--seconds", "0.1", "--set", "n_layer=1"],
        &["finetune", "1", "text.txt", "--out", "tuned", "--set", "max_iters=2", "--set", "eval_iters=1"],
        &["train", "--resume", "--out", "1", "--set", "max_iters=3"],
    ] {
        let found = most_threads(&cli, &[args, &["--threads", "1"]].concat());
        assert!(found <= 3, "{found} threads: {args:?}");
    }
}
