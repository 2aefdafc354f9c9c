//! The files and folders of a run, and the removal of those of a start that failed.

use super::checkpoint::{self, CONFIG, TOKENIZER};
use crate::system::disk::{self, Lock, NewFolders};
use kinglet_core::error::{Error, Result};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

pub(super) const BASE: &str = "base";
pub(super) const METRICS: &str = "metrics.jsonl";
pub(super) const LAST: &str = "last";
pub(super) const BEST: &str = "best";
pub(super) const TAGS: &str = "tags";
pub(super) const CHECKPOINTS: &str = "checkpoints";

/// What a run writes beside its folders.
pub(super) const FILES: [&str; 10] =
    [TOKENIZER, CONFIG, METRICS, "loss.svg", "sample.txt", "quantization.md", "quantization.svg", LAST, BEST, TAGS];

/// A run directory that was created and has no checkpoint yet: if it never gets one, what was written is removed.
#[derive(Clone, Debug)]
pub(crate) struct NewRun {
    path: PathBuf,
    folders: NewFolders,
    /// Whether a checkpoint was written.
    saved: Arc<AtomicBool>,
}

impl NewRun {
    /// A run that is about to be created in `path`, for which `folders` were made.
    pub(super) fn new(path: &Path, folders: NewFolders) -> NewRun {
        NewRun { path: path.to_owned(), folders, saved: Arc::default() }
    }

    /// Removes the folders that were made, as long as they are empty.
    pub(super) fn remove_folders(&self) {
        self.folders.remove();
    }

    /// From now on there is a checkpoint.
    pub(super) fn keep(&self) {
        self.saved.store(true, Ordering::Relaxed);
    }

    /// Removes what a run writes before its first checkpoint, and the folders that were made for it. Whatever somebody
    /// else put there stays. Nothing happens if there is a checkpoint, or another process has the run.
    pub(crate) fn remove(&self) {
        let is_run = || checkpoints(&self.path).is_ok_and(|found| !found.is_empty());
        if self.saved.load(Ordering::Relaxed) || disk::allowed().is_err() {
            return;
        }
        let Ok(lock) = Lock::take(&self.path) else { return };
        if !is_run() {
            self.remove_files();
            drop(lock);
            let _ = fs::remove_file(self.path.join(Lock::FILE));
            self.folders.remove();
        }
    }

    fn remove_files(&self) {
        let aside = |name: &str| format!("{name}.tmp");
        for name in FILES {
            let _ = fs::remove_file(self.path.join(name));
            let _ = fs::remove_file(self.path.join(aside(name)));
        }
        let base = self.path.join(BASE);
        let first = self.path.join(CHECKPOINTS).join(aside(&folder_name(0)));
        for folder in [&base, &self.path.join(aside(BASE)), &first] {
            checkpoint::FILES.iter().for_each(|name| _ = fs::remove_file(folder.join(name)));
            let _ = fs::remove_dir(folder);
        }
        let _ = fs::remove_dir(self.path.join(CHECKPOINTS));
    }
}

/// The name of a checkpoint's folder.
pub(super) fn folder_name(step: u64) -> String {
    format!("step-{step:06}")
}

/// The step that a checkpoint's folder of this name has.
fn step_of(folder: &Path) -> Option<u64> {
    let digits = folder.file_name()?.to_str()?.strip_prefix("step-")?;
    if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// Where `folder` is the folder of a checkpoint in a run: that run, and the step.
pub(super) fn checkpoint_of(folder: &Path) -> Option<(PathBuf, u64)> {
    // As `cd` leads to it, it may be called ".".
    let whole = if folder.file_name().is_some() { folder.to_owned() } else { folder.canonicalize().ok()? };
    let (step, parent) = (step_of(&whole)?, whole.parent()?);
    let parent =
        if parent.file_name().is_some() { parent.to_owned() } else { whole.canonicalize().ok()?.parent()?.into() };
    let is_one = parent.file_name()? == CHECKPOINTS && whole.is_dir();
    let run = parent.parent().filter(|run| !run.as_os_str().is_empty()).unwrap_or(Path::new("."));
    is_one.then(|| (run.to_owned(), step))
}

/// The steps of a run's checkpoints, damaged ones included, in ascending order; nothing in them is read.
///
/// # Errors
/// If the folder cannot be read.
pub fn steps(run: &Path) -> Result<Vec<u64>> {
    Ok(checkpoints(run)?.into_iter().map(|(step, _)| step).collect())
}

/// The checkpoints of a run, oldest first; none if the run has no checkpoints folder.
pub(super) fn checkpoints(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let folder = run.join(CHECKPOINTS);
    let entries = match folder.read_dir() {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", &folder)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("read", &folder))?.path();
        found.extend(step_of(&path).map(|step| (step, path)));
    }
    found.sort();
    Ok(found)
}
