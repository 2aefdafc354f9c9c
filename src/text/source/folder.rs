//! Files in folders and of patterns, and what in them is no text.

use crate::text::{
    builtin::Builtin,
    names::{Count, many},
};
use kinglet_core::error::{Error, Result};
use std::path::{Path, PathBuf};

/// The file that marks a folder of prepared data.
const PREPARED: &str = "prepared.json";

/// Whether a folder is a run directory. Such a folder may have the name of a corpus but is not data.
pub(super) fn is_run(folder: &Path) -> bool {
    folder.join("checkpoints").is_dir() && folder.join("tokenizer.json").exists()
}

/// What was found in a folder, or by a pattern.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// Files, ordered by name.
    pub(super) files: Vec<PathBuf>,
    /// Folders of runs and of prepared data: a run inside its own data folder would otherwise change its own data.
    made: Count,
    /// What the system refuses to open: links to nothing or in a circle, folders of others.
    unreadable: Count,
    /// What is no file: pipes, or folders that a pattern matches.
    others: Count,
}

/// Every file below a folder. Hidden ones are skipped.
pub(super) fn walk(folder: &Path) -> Walked {
    let visible = |entry: &walkdir::DirEntry| {
        entry.depth() == 0 || !entry.file_name().to_str().is_some_and(|name| name.starts_with('.'))
    };
    let mut found = Walked::default();
    let mut walk =
        walkdir::WalkDir::new(folder).follow_links(true).sort_by_file_name().into_iter().filter_entry(visible);
    while let Some(entry) = walk.next() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                found.unreadable.add(|| why(&error, folder));
                continue;
            }
        };
        let (path, kind) = (entry.path(), entry.file_type());
        if kind.is_file() {
            found.files.push(path.to_owned());
        } else if !kind.is_dir() {
            found.others.add(|| path.display().to_string());
        } else if entry.depth() > 0 && (is_run(path) || path.join(PREPARED).exists()) {
            found.made.add(|| path.display().to_string());
            walk.skip_current_dir();
        }
    }
    found
}

/// Why something in a folder cannot be read.
fn why(error: &walkdir::Error, folder: &Path) -> String {
    let path = error.path().unwrap_or(folder);
    let why = match error.io_error() {
        None => "a link to one of its parent folders".to_owned(),
        Some(_) if path.is_symlink() && !path.exists() => "a broken link".to_owned(),
        Some(error) => error.to_string(),
    };
    format!("{} ({why})", path.display())
}

/// The files whose paths match a pattern.
///
/// # Errors
/// If it is not a pattern.
pub(super) fn matching(pattern: &str) -> Result<Walked> {
    let paths = glob::glob(pattern)
        .map_err(|error| Error::Data(format!("{pattern}: not a valid file name pattern: {error}")))?;
    let mut found = Walked::default();
    for path in paths {
        match path {
            Ok(path) if path.is_file() => found.files.push(path),
            Ok(path) if path.is_symlink() && !path.exists() => {
                found.unreadable.add(|| format!("{} (a broken link)", path.display()));
            }
            Ok(path) => found.others.add(|| path.display().to_string()),
            Err(error) => found.unreadable.add(|| format!("{} ({})", error.path().display(), error.error())),
        }
    }
    Ok(found)
}

impl Walked {
    /// What was left out, for the user.
    pub(super) fn notes(&self, name: &str) -> impl Iterator<Item = String> {
        let note = |count: &Count, one: &str, several: &str| {
            count.note(|n, first| format!("{name}: skipped {}, such as {first}", many(n, one, several)))
        };
        [
            note(&self.made, "folder of a run or of prepared data", "folders of runs or of prepared data"),
            note(&self.unreadable, "unreadable entry", "unreadable entries"),
            note(&self.others, "special file", "special files"),
        ]
        .into_iter()
        .flatten()
    }
}

/// Makes data names independent of the current folder: files, folders and patterns become absolute paths.
pub fn located(names: &[String]) -> Vec<String> {
    let here = std::env::current_dir().ok();
    names.iter().map(|name| locate(name, here.as_deref()).unwrap_or_else(|| name.clone())).collect()
}

pub(super) fn locate(name: &str, here: Option<&Path>) -> Option<String> {
    let (path, here) = (Path::new(name), here?.to_str()?);
    if path.exists() {
        return std::path::absolute(path).ok().filter(|_| !is_run(path)).map(|path| path.display().to_string());
    }
    let pattern = name.contains(['*', '?', '[']) && path.is_relative() && Builtin::named(name).is_none();
    pattern.then(|| Path::new(&glob::Pattern::escape(here)).join(path).display().to_string())
}
