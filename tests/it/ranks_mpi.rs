//! The program under the launchers of MPI that are found: several processes train the run of one, bit by bit.
#![cfg(unix)]

use crate::common::{
    cli::{Cli, SMALL},
    needs::skip,
    runs::{newest, same_bits},
};
use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(120);

/// A launcher, and the options with which it starts more processes than there are cores.
struct Launcher {
    path: PathBuf,
    options: Vec<&'static str>,
}

/// The launchers in the search path, each once.
fn launchers() -> Vec<Launcher> {
    let names = ["mpirun", "mpirun.openmpi", "mpirun.mpich", "mpiexec", "mpiexec.mpich", "mpiexec.hydra"];
    let folders: Vec<_> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    let mut found = BTreeMap::new();
    for file in folders.iter().flat_map(|folder| names.map(|name| folder.join(name))) {
        // Names of one program.
        if let Ok(program) = file.canonicalize() {
            found.entry(program).or_insert(file);
        }
    }
    let launcher = |path: PathBuf| {
        let version = Command::new(&path).arg("--version").output().ok()?;
        let is_open_mpi = String::from_utf8_lossy(&version.stdout).contains("Open MPI");
        let options = if is_open_mpi { vec!["--oversubscribe", "--bind-to", "none"] } else { Vec::new() };
        version.status.success().then_some(Launcher { path, options })
    };
    let launchers: Vec<_> = found.into_values().filter_map(launcher).collect();
    if launchers.is_empty() {
        // Where a change is judged, scripts/cluster.py installs them and asks more.
        eprintln!("skipped: there is neither mpirun nor mpiexec");
    }
    launchers
}

impl Launcher {
    fn command(&self, cli: &Cli, ranks: usize, program: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.options).arg("-n").arg(ranks.to_string()).args(program);
        command.current_dir(cli.temp.path()).env("HOME", cli.temp.path()).env("KINGLET_RANK_TIMEOUT", "60");
        // Tests may run as root in a container; this is how Open MPI is told that it may too.
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `kinglet` in so many processes; nothing if there is no library for this launcher.
    fn run(&self, cli: &Cli, ranks: usize, args: &[&str]) -> Option<Output> {
        let kinglet = env!("CARGO_BIN_EXE_kinglet");
        let output = ended(self.command(cli, ranks, &[&[kinglet], args].concat()).spawn().unwrap());
        if String::from_utf8_lossy(&output.stderr).contains("no MPI library could be opened") {
            eprintln!("skipped: {} has no library of MPI", self.path.display());
            return None;
        }
        Some(output)
    }
}

/// What a program leaves, which must not hang.
fn ended(mut child: Child) -> Output {
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > LONG {
            child.kill().unwrap();
            panic!("it hangs: {:?}", child.wait_with_output().unwrap());
        }
        thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

fn errors(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!text.contains("panicked"), "{text}");
    text.lines().filter(|line| line.starts_with("error:")).map(str::to_owned).collect()
}

/// A small run of three shards.
fn small<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let settings = ["--set", "shards=3", "--set", "batch_size=6", "--set", "dropout=0.1", "--threads", "1"];
    [&["train", "--out", out], SMALL, &settings, more].concat()
}

#[test]
fn the_bits_do_not_depend_on_the_processes() {
    let launchers = launchers();
    let cli = Cli::new();
    cli.ok(&small("one", &[]));
    let one = newest(&cli.path("one"));
    for (i, launcher) in launchers.iter().enumerate() {
        for ranks in [2, 3] {
            let out = format!("{i}-{ranks}");
            let Some(output) = launcher.run(&cli, ranks, &small(&out, &[])) else { break };
            let shown = String::from_utf8(output.stdout).unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {stderr}", launcher.path.display());
            assert_eq!(shown.matches("saved in").count(), 1, "only one of them prints: {shown}");
            same_bits(&newest(&cli.path(&out)), &one);
            cli.ok(&["compare", "--bits", "one", &out]);
        }
    }
}

#[test]
fn what_cannot_be_done_together_is_said_once() {
    let cli = Cli::trained();
    for launcher in launchers() {
        let cases: [(&[&str], i32, &str); 5] = [
            (&["eval", "run"], 2, "`kinglet eval` runs in one process"),
            (&["train", "--plan"], 2, "`kinglet train` runs in one process"),
            (&["train", "--no-such-option"], 2, "--no-such-option"),
            (&["train", "--preset", "none", "--out", "new"], 2, "there is no preset \"none\""),
            (&small("new", &["--set", "shards=1"]), 2, "shards = 1"),
        ];
        for (args, status, message) in cases {
            let Some(output) = launcher.run(&cli, 2, args) else { break };
            let (errors, path) = (errors(&output), launcher.path.display());
            assert_eq!(errors.len(), 1, "{path} {args:?}: {errors:?}");
            assert!(errors[0].contains(message), "{path}: {errors:?}");
            assert_eq!(output.status.code(), Some(status), "{path} {args:?}");
            assert!(!cli.path("new").exists());
        }
    }
}

#[test]
fn processes_that_know_nothing_of_each_other_are_refused() {
    let cli = Cli::new();
    let run = |variables: &[(&str, &str)]| {
        let mut command = cli.command(&small("run", &[]));
        let output = command.envs(variables.iter().copied()).output().unwrap();
        assert_eq!((output.status.code(), cli.path("run").exists()), (Some(1), false));
        errors(&output)
    };
    let library = ("KINGLET_MPI", "/nowhere/libmpi.so");
    let first = run(&[("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_RANK", "0"), library]);
    assert!(first.len() == 1 && first[0].contains("2 processes") && first[0].contains("no MPI library"), "{first:?}");
    let other = run(&[("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_RANK", "1"), library]);
    assert!(other.is_empty(), "rank 0 says it: {other:?}");
    // As srun does where it does not speak the library's language. (Elsewhere there may be no library at all.)
    let slurm = run(&[("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_PROCID", "0")]);
    let expected = ["srun --mpi=pmix", "no MPI library could be opened"];
    assert!(slurm.len() == 1 && expected.iter().any(|what| slurm[0].contains(what)), "{slurm:?}");
    // The launcher is ignored if that is asked for.
    let mut alone = cli.command(&small("run", &[]));
    alone.envs([("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_RANK", "1"), ("KINGLET_MPI", "none")]);
    assert!(alone.output().unwrap().status.success() && cli.path("run").exists());
}

/// Starts a long run, and signals a rank of it once it trains. The process of each rank is written to a file.
fn signalled(cli: &Cli, launcher: &Launcher, out: &str, signal: &str, rank: usize) -> Output {
    let script = format!(
        "echo $$ > pid.${{OMPI_COMM_WORLD_RANK:-$PMI_RANK}}; exec {} \"$@\"",
        Path::new(env!("CARGO_BIN_EXE_kinglet")).display()
    );
    let args = small(out, &["--set", "max_iters=1500", "--set", "eval_interval=300"]);
    let child = launcher.command(cli, 2, &[&["sh", "-c", &script, "sh"][..], &args].concat()).spawn().unwrap();
    let began = Instant::now();
    let trains = || cli.path(out).join("checkpoints/step-000300").exists();
    while !trains() {
        assert!(began.elapsed() < LONG, "it does not train");
        thread::sleep(Duration::from_millis(5));
    }
    let pid = fs::read_to_string(cli.path(&format!("pid.{rank}"))).unwrap();
    assert!(Command::new("kill").args([signal, pid.trim()]).status().unwrap().success());
    ended(child)
}

#[test]
fn a_signal_to_any_rank_saves_and_ends_all() {
    let cli = Cli::new();
    let all = ["--set", "max_iters=1500", "--set", "eval_interval=300"];
    cli.ok(&small("one", &all));
    for (i, launcher) in launchers().iter().enumerate() {
        if launcher.run(&cli, 2, &small(&format!("try{i}"), &[])).is_none() {
            continue;
        }
        for rank in [0, 1] {
            let out = format!("{i}-{rank}");
            let output = signalled(&cli, launcher, &out, "-TERM", rank);
            let (path, stdout) = (launcher.path.display(), String::from_utf8_lossy(&output.stdout));
            assert_eq!(output.status.code(), Some(130), "{path}, rank {rank}: {output:?}");
            assert!(stdout.contains("the checkpoint is saved"), "{path}, rank {rank}: {stdout}");
            let step = newest(&cli.path(&out)).state.step;
            assert!((300..1500).contains(&step), "{step}");
            // One process, or three, go on to the same end.
            let resume = ["train", "--resume", &out, "--threads", "1"];
            match rank {
                0 => _ = cli.ok(&resume),
                _ => assert!(launcher.run(&cli, 3, &resume).unwrap().status.success()),
            }
            same_bits(&newest(&cli.path(&out)), &newest(&cli.path("one")));
        }
    }
}

#[test]
fn a_rank_that_is_killed_ends_all_and_leaves_a_checkpoint() {
    let cli = Cli::new();
    for (i, launcher) in launchers().iter().enumerate() {
        if launcher.run(&cli, 2, &small(&format!("try{i}"), &[])).is_none() {
            continue;
        }
        for rank in [0, 1] {
            let out = format!("{i}-{rank}");
            let output = signalled(&cli, launcher, &out, "-KILL", rank);
            assert!(!output.status.success(), "{}, rank {rank}: {output:?}", launcher.path.display());
            assert!(newest(&cli.path(&out)).state.step >= 300);
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn the_program_is_linked_with_no_mpi() {
    let Ok(ldd) = Command::new("ldd").arg(env!("CARGO_BIN_EXE_kinglet")).output() else {
        return skip("there is no ldd");
    };
    let libraries = String::from_utf8_lossy(&ldd.stdout).to_lowercase();
    assert!(libraries.contains("libc.so") && !libraries.contains("mpi"), "{libraries}");
}
