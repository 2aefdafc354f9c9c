//! Removing runs and tunings, and nothing that somebody else put into their folders.

use super::{
    checkpoint::{self, CONFIG},
    dir::SEAL,
    files::{BASE, CHECKPOINTS, FILES, checkpoints},
    home::{Kind, TUNING, all_runs},
    summary::size,
};
use crate::system::disk::{self, Lock};
use kinglet_core::error::{Error, Result};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// What a tuning writes beside its trials.
const TUNING_FILES: [&str; 4] = [TUNING, "best.toml", "trials.md", "tune.svg"];
const TRIALS: &str = "trials";

/// The removal of a run or a tuning: what it takes, before it is made.
#[derive(Debug)]
pub struct Removal {
    /// The folder.
    pub path: PathBuf,
    /// Whether it is that of a tuning.
    pub tuning: bool,
    /// Files and folders in it that are none of ours. They stay, and so does the folder.
    pub foreign: Vec<PathBuf>,
    /// Bytes that are freed.
    pub bytes: u64,
    /// Our files, in the order in which they go.
    files: Vec<PathBuf>,
    /// The folders that hold them, innermost first.
    folders: Vec<PathBuf>,
}

impl Removal {
    /// Looks at what is in the folder of a run or a tuning.
    ///
    /// # Errors
    /// If it is neither, another process is training in it, or it cannot be read.
    pub fn of(path: &Path) -> Result<Removal> {
        Ok(Removal::locked(path)?.0)
    }

    /// The same, with the locks of the folder and of all trials in it.
    fn locked(path: &Path) -> Result<(Removal, Vec<Lock>)> {
        // A slash at the end would follow a link.
        let path = &path.components().collect::<PathBuf>();
        let about = fs::symlink_metadata(path).map_err(Error::io("read", path))?;
        if about.is_symlink() {
            return Err(Error::run(path, "this is a link: name the folder that it points to"));
        }
        let tuning = match Kind::of(path) {
            Some(Kind::Run) if is_surely_run(path) => false,
            Some(Kind::Tuning) => true,
            Some(Kind::Checkpoint { .. }) => {
                return Err(Error::run(path, "this is a checkpoint: kinglet prune removes those that are not needed"));
            }
            None if !all_runs(path).is_empty() => {
                return Err(Error::run(path, "this is not a run but a folder of runs: name the runs"));
            }
            None | Some(Kind::Run) => return Err(Error::run(path, "not the folder of a run, so it is not removed")),
        };
        let runs = if tuning { all_runs(&path.join(TRIALS)) } else { Vec::new() };
        let locks = [path.to_owned()].iter().chain(&runs).map(|folder| Lock::take(folder)).collect::<Result<_>>()?;
        let mut removal = Removal {
            path: path.to_owned(),
            tuning,
            foreign: Vec::new(),
            bytes: 0,
            files: Vec::new(),
            folders: Vec::new(),
        };
        removal.look(path, &|inside| if tuning { is_of_tuning(inside) } else { is_of_run(inside) })?;
        // What makes it a run goes last, so that an interrupted removal can be made again.
        let rank = |file: &PathBuf| match file.file_name().and_then(|name| name.to_str()) {
            Some(Lock::FILE) => 4,
            // A configuration alone would be no run any more.
            Some("tokenizer.json") if file.parent() == Some(path) => 3,
            Some("config.toml" | TUNING) if file.parent() == Some(path) => 2,
            _ => u8::from(file.parent() == Some(path)),
        };
        removal.files.sort_by_key(rank);
        Ok((removal, locks))
    }

    /// Divides what is in a folder into our own files and others.
    fn look(&mut self, folder: &Path, is_ours: &dyn Fn(&[String]) -> bool) -> Result<()> {
        for entry in folder.read_dir().map_err(Error::io("read", folder))? {
            let entry = entry.map_err(Error::io("read", folder))?;
            let path = entry.path();
            let inside = path.strip_prefix(&self.path).expect("it is inside");
            let names: Vec<String> = inside.iter().map(|name| name.to_string_lossy().into_owned()).collect();
            if entry.file_type().map_err(Error::io("read", &path))?.is_dir() {
                // A folder is ours if a file of ours could be in it.
                let foreign = self.foreign.len();
                self.look(&path, is_ours)?;
                let empty = path.read_dir().is_ok_and(|mut entries| entries.next().is_none());
                if empty && !is_folder_of_ours(&names) {
                    self.foreign.push(path);
                } else if self.foreign.len() == foreign {
                    self.folders.push(path);
                }
            } else if is_ours(&names) {
                self.bytes += size(&path);
                self.files.push(path);
            } else {
                self.foreign.push(path);
            }
        }
        Ok(())
    }

    /// Removes what is ours, as it is now: what somebody put there since it was looked at stays. Returns what stays.
    ///
    /// # Errors
    /// If something cannot be removed; what is left is still a run that can be removed, or is known as a leftover.
    pub fn remove(self) -> Result<Vec<PathBuf>> {
        let (Removal { path, foreign, files, folders, .. }, locks) = Removal::locked(&self.path)?;
        if foreign.is_empty() && !cfg!(windows) {
            let doomed = disk::doomed(&whole(&path)?);
            // At once, as far as anybody else can see. If it cannot be renamed, it goes file by file.
            if disk::allowed().and_then(|()| fs::rename(&path, &doomed)).is_ok() {
                return disk::remove_folder(&doomed).map(|()| foreign);
            }
        }
        if cfg!(windows) {
            drop(locks);
        }
        let (outer, inner): (Vec<_>, Vec<_>) = files.iter().partition(|file| file.parent() == Some(&path));
        inner.iter().try_for_each(|file| disk::remove_file(file))?;
        // Folders are shared with what is not ours.
        folders.iter().for_each(|folder| _ = fs::remove_dir(folder));
        outer.iter().try_for_each(|file| disk::remove_file(file))?;
        let _ = fs::remove_dir(&path);
        Ok(foreign)
    }
}

/// Whether a folder that looks like a run is one: other programs have files of these names, too.
fn is_surely_run(path: &Path) -> bool {
    let has_checkpoints = || checkpoints(path).is_ok_and(|found| !found.is_empty());
    let is_sealed = || fs::read(path.join(CONFIG)).is_ok_and(|text| String::from_utf8_lossy(&text).contains(SEAL));
    is_sealed() || has_checkpoints()
}

/// A path that has a name, even if it is given as ".".
fn whole(path: &Path) -> Result<PathBuf> {
    if path.file_name().is_some() { Ok(path.to_owned()) } else { path.canonicalize().map_err(Error::io("read", path)) }
}

/// Whether a name is one of these, or what such a file or folder is called while it is written or removed.
fn is_one_of(names: &[&str], name: &str) -> bool {
    let plain = name.strip_suffix(".tmp").map_or(name, |name| name.strip_suffix(".old").unwrap_or(name));
    names.contains(&name) || names.contains(&plain)
}

fn is_checkpoint(name: &str) -> bool {
    let digits = name.strip_prefix("step-").map(|rest| rest.split('.').next().unwrap_or(rest));
    let digits = digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()));
    digits && (!name.contains('.') || name.ends_with(".tmp"))
}

/// Whether this is a file that a run writes, by the names of the folders it is in.
fn is_of_run(inside: &[String]) -> bool {
    match inside {
        [name] => is_one_of(&FILES, name) || name == Lock::FILE,
        [base, name] if is_one_of(&[BASE], base) => is_one_of(&checkpoint::FILES, name),
        [folder, step, name] if folder == CHECKPOINTS => is_checkpoint(step) && is_one_of(&checkpoint::FILES, name),
        _ => false,
    }
}

/// The same of a tuning.
fn is_of_tuning(inside: &[String]) -> bool {
    match inside {
        [name] => is_one_of(&TUNING_FILES, name) || name == Lock::FILE,
        [trials, _, rest @ ..] if trials == TRIALS => is_of_run(rest),
        _ => false,
    }
}

/// Whether an empty folder is one that we make.
fn is_folder_of_ours(inside: &[String]) -> bool {
    match inside {
        [trials, rest @ ..] if trials == TRIALS => rest.len() < 2 || is_folder_of_ours(&rest[1..]),
        [name] => is_one_of(&[BASE, CHECKPOINTS], name),
        [folder, step] => folder == CHECKPOINTS && is_checkpoint(step),
        _ => false,
    }
}
