//! The folder of a run as messages, and messages as the folder of a run.

use crate::system::disk::{self, FolderWriter, Lock};
use kinglet_core::error::{Error, Result};
use std::{
    fs,
    path::{Component, Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

/// The files of a run that another rank needs to go on with it, or has made of it: their names, and where they are.
pub(super) fn files(run: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    look(run, "", &mut found)?;
    found.sort();
    Ok(found)
}

fn look(folder: &Path, before: &str, found: &mut Vec<(String, PathBuf)>) -> Result<()> {
    for entry in folder.read_dir().map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        // What is being written is nothing yet.
        if name.ends_with(".tmp") || before.is_empty() && name == Lock::FILE {
            continue;
        }
        match path.is_dir() {
            true => look(&path, &format!("{before}{name}/"), found)?,
            false => found.push((format!("{before}{name}"), path)),
        }
    }
    Ok(())
}

/// Where a file of this name is in a folder; nowhere outside of it.
fn inside(folder: &Path, name: &str) -> Result<PathBuf> {
    let is_plain = |part: &str| {
        let mut parts = Path::new(part).components();
        matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
    };
    if !name.split('/').all(is_plain) {
        return Err(Error::Ranks(format!("another rank sent a file of the name {name:?}")));
    }
    Ok(name.split('/').fold(folder.to_owned(), |path, part| path.join(part)))
}

/// The folder of a run that arrives file by file. Until it is placed it has a temporary name, which is removed with this value.
pub(super) struct Arriving {
    writer: FolderWriter,
    /// The run, in the temporary folder.
    run: PathBuf,
    /// Whether it is to survive a power loss.
    stays: bool,
}

impl Arriving {
    /// The run in `path`, to be replaced as a whole by what arrives.
    pub(super) fn to(path: &Path) -> Result<Arriving> {
        let writer = FolderWriter::beside(path)?;
        Ok(Arriving { run: writer.aside().to_owned(), writer, stays: true })
    }

    /// A run of this name that is only here for a while.
    pub(super) fn for_a_while(name: &str) -> Result<Arriving> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let writer = FolderWriter::beside(&std::env::temp_dir().join(format!("kinglet-run-{n}")))?;
        let run = inside(writer.aside(), name)?;
        disk::create_folder(&run)?;
        Ok(Arriving { run, writer, stays: false })
    }

    /// Where the run is.
    pub(super) fn path(&self) -> &Path {
        &self.run
    }

    /// Writes a file.
    pub(super) fn add(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = inside(&self.run, name)?;
        disk::create_folder(path.parent().unwrap_or(&self.run))?;
        let written = if self.stays { disk::write_synced(&path, content) } else { fs::write(&path, content) };
        written.map_err(Error::io("write", &path))
    }

    /// Puts the run in the place of the one that was there. What somebody else put into the old one's folder stays.
    pub(super) fn place(self, path: &Path) -> Result<()> {
        // A run that has no checkpoint has that folder, too.
        disk::create_folder(&self.run.join("checkpoints"))?;
        for entry in path.read_dir().map_err(Error::io("read", path))? {
            let old = entry.map_err(Error::io("read", path))?.path();
            let name = old.file_name().unwrap_or_default();
            let new = self.run.join(name);
            if !new.exists() && !is_of_run(&name.to_string_lossy()) {
                fs::rename(&old, &new).map_err(Error::io("move", &old))?;
            }
        }
        self.writer.finish_over()?;
        // As in a folder that this process trained in.
        Lock::take(path).map(drop)
    }
}

/// Whether it is something that a run may have no more: not a tag.
fn is_of_run(name: &str) -> bool {
    const NAMES: [&str; 6] = [Lock::FILE, "checkpoints", "base", "last", "best", "metrics.jsonl"];
    NAMES.contains(&name) || name.ends_with(".tmp")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn names(path: &Path) -> Vec<String> {
        files(path).unwrap().into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn a_folder_is_replaced_whole_and_what_is_not_ours_stays() {
        let temp = tempfile::tempdir().unwrap();
        let run = temp.path().join("a.b=0.1");
        for name in
            ["config.toml", "checkpoints/step-000001/state.json", "tags", "notes/mine.txt", "lock", "x.tmp", "last"]
        {
            write(&run.join(name), "old");
        }
        assert_eq!(
            names(&run),
            ["checkpoints/step-000001/state.json", "config.toml", "last", "notes/mine.txt", "tags"]
        );
        let arriving = Arriving::to(&run).unwrap();
        for name in ["config.toml", "metrics.jsonl", "checkpoints/step-000002/state.json"] {
            arriving.add(name, b"new").unwrap();
        }
        let aside = arriving.path().to_owned();
        // As long as it is not there, nothing has changed.
        assert!(fs::read_to_string(run.join("config.toml")).unwrap() == "old" && aside.exists());
        arriving.place(&run).unwrap();
        let all = ["checkpoints/step-000002/state.json", "config.toml", "metrics.jsonl", "notes/mine.txt", "tags"];
        assert_eq!(names(&run), all);
        assert_eq!(fs::read_to_string(run.join("config.toml")).unwrap(), "new");
        assert!(run.join("lock").is_file() && !aside.exists());
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
        // One that never arrives leaves nothing.
        let arriving = Arriving::to(&run).unwrap();
        arriving.add("config.toml", b"newer").unwrap();
        drop(arriving);
        assert_eq!(names(&run), all);
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn no_file_is_written_elsewhere() {
        let arriving = Arriving::for_a_while("run").unwrap();
        for name in ["../x", "/x", "a/../../x", "", "a//b", "."] {
            assert!(arriving.add(name, b"").is_err(), "{name:?}");
        }
        arriving.add("a/b", b"x").unwrap();
        assert_eq!(fs::read(arriving.path().join("a/b")).unwrap(), b"x");
        let path = arriving.path().to_owned();
        drop(arriving);
        assert!(!path.exists());
        assert!(Arriving::for_a_while("..").is_err());
    }
}
