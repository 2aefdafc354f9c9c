//! A folder of its own and the program in it.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
};

/// Settings of a run that takes a moment.
pub(crate) const SMALL: &[&str] = &[
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

pub(crate) struct Cli {
    pub(crate) temp: tempfile::TempDir,
}

impl Cli {
    pub(crate) fn new() -> Cli {
        Cli { temp: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kinglet"));
        command.args(args).current_dir(self.temp.path()).stdin(Stdio::null());
        // No cache and no data folder of the user's: the tests see what they make.
        command
            .env_remove("KINGLET_DATA_DIR")
            .env("HOME", self.temp.path())
            .env_remove("XDG_CACHE_HOME")
            .env_remove("XDG_DATA_HOME");
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Standard output of a command that must succeed.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A command must fail with this status and one line that contains `message`; no panic, no backtrace.
    #[track_caller]
    pub(crate) fn fails(&self, args: &[&str], status: i32, message: &str) {
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
    pub(crate) fn trained() -> Cli {
        let cli = Cli::new();
        cli.ok(&[&["train", "--out", "run"], SMALL].concat());
        cli
    }
}
