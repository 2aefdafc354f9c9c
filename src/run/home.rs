//! Where runs are: what a folder is, which runs are in it, and names for new ones.

use super::{
    checkpoint::CONFIG,
    dir::refuse_full,
    files::{checkpoint_of, checkpoints},
};
use crate::text::source::{BUILTIN, MEMORY};
use kinglet_core::{
    config::Config,
    error::{Error, Result},
};
use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

/// The folder that runs are in unless told otherwise, in the current folder.
pub const HOME: &str = "runs";

/// What makes a folder that of a tuning.
pub(super) const TUNING: &str = "tune.json";

/// How deep runs are looked for: in a folder of folders, and in the trials of tunings there.
const DEPTH: usize = 4;

/// The longest name that is made of a text's and a configuration's name, in bytes.
const NAME_BYTES: usize = 80;

/// What a folder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The folder of a run.
    Run,
    /// The folder of a tuning, with runs in it.
    Tuning,
    /// A checkpoint.
    Checkpoint {
        /// The run it is in.
        run: PathBuf,
        /// Its step.
        step: u64,
    },
}

impl Kind {
    /// What a folder is, if it is anything of ours. It is only looked at, not verified.
    pub fn of(folder: &Path) -> Option<Kind> {
        if folder.join(TUNING).is_file() {
            return Some(Kind::Tuning);
        }
        if let Some((run, step)) = checkpoint_of(folder) {
            return Some(Kind::Checkpoint { run, step });
        }
        // Other programs have a config.toml too.
        let beside = ["tokenizer.json", "checkpoints", "metrics.jsonl"];
        let is_run = || folder.join(CONFIG).is_file() && beside.iter().any(|name| folder.join(name).exists());
        let has_checkpoints = || checkpoints(folder).is_ok_and(|found| !found.is_empty());
        (folder.is_dir() && (is_run() || has_checkpoints())).then_some(Kind::Run)
    }
}

/// A folder with runs in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The folder.
    pub path: PathBuf,
    /// Whether it is that of a tuning.
    pub tuning: bool,
    /// The runs in it, and in the folders in it.
    pub runs: Vec<PathBuf>,
}

/// The runs in a folder, and the folders in it that have runs in them, by name.
///
/// # Errors
/// If the folder cannot be read.
pub fn contents(folder: &Path) -> Result<(Vec<PathBuf>, Vec<Group>)> {
    let (mut runs, mut groups) = (Vec::new(), Vec::new());
    for path in folders_in(folder)? {
        match Kind::of(&path) {
            Some(Kind::Run) => runs.push(path),
            Some(Kind::Checkpoint { .. }) => {}
            kind => {
                let tuning = kind == Some(Kind::Tuning);
                let found = Search::default().not_in(folder).all(&path).0;
                // A tuning is one before its first trial.
                if tuning || !found.is_empty() {
                    groups.push(Group { path, tuning, runs: found });
                }
            }
        }
    }
    Ok((runs, groups))
}

/// All runs in a folder and in the folders in it, by path. Each is there once, however many links lead to it: by its own path
/// if that is in the folder.
pub fn all_runs(folder: &Path) -> Vec<PathBuf> {
    Search::default().all(folder).0
}

/// All runs and all tunings in a folder and in the folders in it; the folder itself is one of the tunings, if it is one.
pub fn all_runs_and_tunings(folder: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (runs, mut tunings) = Search::default().all(folder);
    tunings.extend((Kind::of(folder) == Some(Kind::Tuning)).then(|| folder.to_owned()));
    (runs, tunings)
}

/// A search for runs and tunings.
#[derive(Default)]
struct Search {
    /// The folders that were looked at, by their own paths: a link may lead back.
    seen: HashSet<PathBuf>,
    runs: Vec<PathBuf>,
    tunings: Vec<PathBuf>,
    /// What is looked at last, and how deep, so that everything has its own path that has one here.
    links: VecDeque<(PathBuf, usize)>,
}

impl Search {
    /// Leaves out a folder.
    fn not_in(mut self, folder: &Path) -> Search {
        self.is_new(folder);
        self
    }

    fn all(mut self, folder: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
        if self.is_new(folder) {
            self.look_in(folder, DEPTH);
        }
        while let Some((link, depth)) = self.links.pop_front() {
            self.look_at(link, depth);
        }
        self.runs.sort();
        self.tunings.sort();
        (self.runs, self.tunings)
    }

    fn look_in(&mut self, folder: &Path, depth: usize) {
        // What cannot be read has no runs to offer.
        for path in folders_in(folder).unwrap_or_default() {
            if path.is_symlink() {
                self.links.push_back((path, depth));
            } else {
                self.look_at(path, depth);
            }
        }
    }

    fn look_at(&mut self, path: PathBuf, depth: usize) {
        if !self.is_new(&path) {
            return;
        }
        match Kind::of(&path) {
            Some(Kind::Run) => self.runs.push(path),
            Some(Kind::Checkpoint { .. }) => {}
            kind => {
                if depth > 0 {
                    self.look_in(&path, depth - 1);
                }
                self.tunings.extend((kind == Some(Kind::Tuning)).then_some(path));
            }
        }
    }

    fn is_new(&mut self, path: &Path) -> bool {
        path.canonicalize().is_ok_and(|own| self.seen.insert(own))
    }
}

/// The folders in a folder, by name; hidden ones are left out, and those that are being written.
fn folders_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in folder.read_dir().map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with('.') && !name.ends_with(".tmp") && path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The result of `make` for the first of `path`, `path-2`, `path-3`, ... that nothing is in. `make` must lock the folder, so
/// that of two processes one goes on to the next.
///
/// # Errors
/// Those of `make`, unless somebody else took the folder meanwhile.
pub fn first_free<T>(path: &Path, mut make: impl FnMut(&Path) -> Result<T>) -> Result<T> {
    let name = path.file_name().unwrap_or_default();
    let numbered = |n: u32| {
        let mut name = name.to_owned();
        name.push(format!("-{n}"));
        if n == 1 { path.to_owned() } else { path.with_file_name(name) }
    };
    // A link to nothing is in the way, too.
    let is_taken = |path: &Path| {
        fs::symlink_metadata(path).is_ok_and(|about| about.is_symlink() && !path.exists() || refuse_full(path).is_err())
    };
    for path in (1..).map(numbered) {
        if is_taken(&path) {
            continue;
        }
        match make(&path) {
            Err(Error::Locked { .. }) => {}
            Err(_) if is_taken(&path) => {}
            result => return result,
        }
    }
    unreachable!("there are more names than folders")
}

/// A name for a run of this configuration: `[DATA-]CONFIG`, where DATA is the name of the first file or corpus, without what
/// says its format. `config_name` is the name of the preset or of the file.
pub fn run_name(config: &Config, config_name: &OsStr) -> String {
    let config_name = clean(&config_name.to_string_lossy());
    let data = config.data.first().filter(|name| *name != BUILTIN).map(|name| data_name(name)).unwrap_or_default();
    let parts: Vec<_> = [data, config_name].into_iter().filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { "run".to_owned() } else { parts.join("-") }
}

/// A short name for data, for use in the name of a folder; empty if nothing of it can be used.
pub fn data_name(name: &str) -> String {
    let name = match name {
        "-" => "stdin",
        MEMORY => "memory",
        name => name,
    };
    let path = Path::new(name);
    let stem = |path: &Path| path.file_stem().unwrap_or_default().to_owned();
    let file = match path.extension().and_then(OsStr::to_str) {
        // A folder's name may have a dot in it.
        _ if path.is_dir() => path.canonicalize().unwrap_or_default().file_name().unwrap_or_default().to_owned(),
        Some("gz" | "zst") => stem(Path::new(&stem(path))),
        _ => stem(path),
    };
    clean(&file.to_string_lossy())
}

/// A name without what would need quotes in a shell, or mean something to us.
fn clean(name: &str) -> String {
    let kept = |c: char| if c.is_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let mut name: String = name.chars().map(kept).collect();
    while name.len() > NAME_BYTES {
        name.pop();
    }
    let parts: Vec<_> = name.split('-').filter(|part| !part.is_empty()).collect();
    // Names that end in .tmp are those of what is being written.
    parts.join("-").trim_end_matches(".tmp").trim_matches('.').to_owned()
}

/// The names of the runs and tunings in a folder, those in folders of it with their paths.
pub fn names_in(folder: &Path) -> BTreeSet<String> {
    let Ok((runs, groups)) = contents(folder) else { return BTreeSet::new() };
    let tunings = groups.iter().filter(|group| group.tuning).map(|group| &group.path);
    let inside = groups.iter().filter(|group| !group.tuning).flat_map(|group| &group.runs);
    let all = runs.iter().chain(tunings).chain(inside);
    all.filter_map(|path| path.strip_prefix(folder).ok()).map(|path| path.display().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_run_is_found_once_however_many_links_lead_to_it() {
        let temp = tempfile::tempdir().unwrap();
        let path = |name: &str| temp.path().join(name);
        let link = |to: &str, from: &str| std::os::unix::fs::symlink(path(to), path(from)).unwrap();
        for name in ["runs/group/mine", "elsewhere/other"] {
            fs::create_dir_all(path(name).join("checkpoints")).unwrap();
            fs::write(path(name).join(CONFIG), "").unwrap();
        }
        link("runs", "runs/again");
        link("runs/group", "runs/a-link");
        link("runs/group", "runs/group/loop");
        link("elsewhere", "runs/z-link");
        assert_eq!(all_runs(&path("runs")), ["runs/group/mine", "runs/z-link/other"].map(path));
        let (runs, groups) = contents(&path("runs/group")).unwrap();
        assert_eq!((runs, groups.len()), (vec![path("runs/group/mine")], 0), "a folder is no group in itself");
    }

    #[test]
    fn names_say_what_was_trained_on_what() {
        let name = |data: &[&str], config: &str| {
            let mut of = Config::default();
            of.data = data.iter().map(|name| (*name).to_owned()).collect();
            run_name(&of, OsStr::new(config))
        };
        assert_eq!(name(&[], "big-0.2m"), "big-0.2m");
        assert_eq!(name(&["builtin"], "big-0.2m"), "big-0.2m");
        assert_eq!(name(&["my.txt"], "big-0.2m"), "my-big-0.2m");
        assert_eq!(name(&["a/b.c.jsonl.gz", "other.txt"], "x"), "b.c-x");
        assert_eq!(name(&["tinyshakespeare"], "big-2.7m"), "tinyshakespeare-big-2.7m");
        assert_eq!(name(&["-"], "x"), "stdin-x");
        assert_eq!(name(&["a folder/*.txt"], "x"), "x");
        assert_eq!(name(&["has space@2.txt"], "my conf"), "has-space-2-my-conf");
        assert_eq!(name(&["..."], ".."), "run");
        assert_eq!(name(&["мой текст.txt"], "x"), "мой-текст-x");
        assert_eq!(name(&[&"a".repeat(500)], "x").len(), NAME_BYTES + 2);
        assert_eq!(name(&[&"猫".repeat(200)], "x").chars().count(), NAME_BYTES / 3 + 2);
        assert_eq!(name(&["a.tmp.txt"], "x"), "a-x");
    }

    #[test]
    fn of_names_the_first_that_is_free_is_taken() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a");
        let make = |path: &Path| fs::create_dir(path).map(|()| path.to_owned()).map_err(Error::io("create", path));
        assert_eq!(first_free(&path, make).unwrap(), path);
        // What is empty is free; what is not, or is a file, is not.
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        fs::create_dir(temp.path().join("a-2")).unwrap();
        fs::write(temp.path().join("a-2/mine"), "x").unwrap();
        fs::create_dir(temp.path().join("a-3")).unwrap();
        assert_eq!(first_free(&path, |path| Ok(path.to_owned())).unwrap(), temp.path().join("a-3"));
        // Somebody else is faster.
        let mut tried = Vec::new();
        let made = first_free(&path, |path| {
            tried.push(path.to_owned());
            match tried.len() {
                1 => Err(Error::Locked { path: path.to_owned(), what: String::new() }),
                2 => {
                    fs::create_dir(path).unwrap();
                    fs::write(path.join("theirs"), "x").unwrap();
                    Err(Error::run(path, "this folder is not empty"))
                }
                _ => Ok(path.to_owned()),
            }
        });
        assert_eq!(made.unwrap(), temp.path().join("a-5"));
        // Any other error is one.
        assert!(first_free(&path, |path| Err::<(), _>(Error::run(path, "full"))).is_err());
    }
}
