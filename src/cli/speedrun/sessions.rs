//! Which machine a run was trained on, and when: the folder of a run does not say it, and a record has to.

use crate::cli::seeded::{Seeded, today};
use crate::{
    backend::{Cpu, Forward},
    config::Precision,
    error::{Error, Result},
    system::machine::processor,
    threads::cores,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
};

/// The file beside the runs, with a line for each time that a run began or went on.
pub(super) const FILE: &str = "sessions.jsonl";

/// What trains in one session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) processor: String,
    pub(super) cores: usize,
    pub(super) isa: String,
    /// How products in bf16 are computed, if the recipe asks for them.
    pub(super) bf16: Option<String>,
    pub(super) threads: usize,
    /// Several ranks train as many runs at a time, perhaps on other machines than this one.
    pub(super) runs_at_a_time: usize,
    pub(super) kinglet: String,
    pub(super) commit: Option<String>,
}

/// A session of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Session {
    run: String,
    date: String,
    /// Whether the run began in it.
    begins: bool,
    #[serde(flatten)]
    machine: Machine,
}

impl Machine {
    /// This one.
    pub(super) fn here(be: Cpu, threads: usize, runs_at_a_time: usize, commit: Option<String>) -> Machine {
        let (processor, cores) = processor().unwrap_or_else(|| ("unknown processor".to_owned(), cores()));
        let (isa, kinglet) = (be.isa().name().to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        Machine { processor, cores, isa, bf16: None, threads, runs_at_a_time, kinglet, commit }
    }

    /// The same for a recipe of this precision; f32 takes the place of bf16 on processors without it.
    fn at(&self, be: Cpu, wanted: Precision) -> Machine {
        let is_bf16 = be.with_precision(wanted).precision() == Precision::Bf16;
        let bf16 = be.ways_of_bf16().last().filter(|_| is_bf16).map(|way| (*way).to_owned());
        Machine { bf16, ..self.clone() }
    }
}

/// The name of a run's folder.
fn name(run: &Seeded) -> String {
    run.folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Notes that a run begins, or goes on where its folder is there.
///
/// # Errors
/// If the file cannot be written.
pub(super) fn note(out: &Path, run: &Seeded, be: Cpu, machine: &Machine) -> Result<()> {
    let machine = machine.at(be, run.config.precision);
    let session = Session { run: name(run), date: today(), begins: !run.folder.exists(), machine };
    let line = serde_json::to_string(&session).expect("plain values") + "\n";
    let path = out.join(FILE);
    fs::create_dir_all(out).map_err(Error::io("create", out))?;
    let file = File::options().append(true).create(true).open(&path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).map_err(Error::io("write", &path))
}

/// The machines that trained these runs, each once, and the date of the last session. Both are empty if nothing is known.
///
/// # Errors
/// If the file is there and cannot be read.
pub(super) fn of(out: &Path, runs: &[Seeded]) -> Result<(Vec<Machine>, Option<String>)> {
    let path = out.join(FILE);
    if !path.exists() {
        return Ok((Vec::new(), None));
    }
    let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    // A line that was cut off is of a session that was lost as well.
    let all: Vec<Session> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let (mut machines, mut date) = (Vec::new(), None);
    for run in runs {
        let name = name(run);
        let of_run: Vec<_> = all.iter().filter(|session| session.run == name).collect();
        // A run of the same name may have been there before, and removed.
        let first = of_run.iter().rposition(|session| session.begins).unwrap_or(of_run.len());
        for Session { machine, date: of_session, .. } in &of_run[first..] {
            if !machines.contains(machine) {
                machines.push(machine.clone());
            }
            date = date.max(Some(of_session.clone()));
        }
    }
    Ok((machines, date))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_run_that_began_again_forgets_the_machines_before() {
        let temp = tempfile::tempdir().unwrap();
        let (out, be) = (temp.path(), Cpu::new().unwrap());
        let run = |name: &str| {
            let (config, folder) = (Config::default(), out.join(name));
            Seeded { name: name.to_owned(), config, folder, done: None }
        };
        let (a, b) = (run("a"), run("b"));
        let machine = |commit: &str| Machine::here(be, 2, 1, Some(commit.to_owned()));
        assert_eq!(of(out, &[run("a")]).unwrap(), (Vec::new(), None));
        note(out, &a, be, &machine("1")).unwrap();
        note(out, &b, be, &machine("2")).unwrap();
        // It goes on in the folder that is there.
        fs::create_dir(&a.folder).unwrap();
        note(out, &a, be, &machine("3")).unwrap();
        let commits = |runs: &[Seeded]| -> Vec<String> {
            of(out, runs).unwrap().0.into_iter().filter_map(|machine| machine.commit).collect()
        };
        assert_eq!(commits(&[run("a")]), ["1", "3"]);
        assert_eq!(commits(&[run("a"), run("b")]), ["1", "3", "2"]);
        assert_eq!(of(out, &[run("a")]).unwrap().1, Some(today()));
        fs::remove_dir(&a.folder).unwrap();
        note(out, &a, be, &machine("4")).unwrap();
        assert_eq!(commits(&[run("a")]), ["4"]);
        assert_eq!(commits(&[run("c")]), [""; 0]);
        assert_eq!(machine("1").at(be, Precision::F32).bf16, None);
    }
}
