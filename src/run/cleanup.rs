//! What of a run may go without a loss: checkpoints that nothing uses, and what interrupted writers left.

use super::{
    checkpoint::{self, OPTIMIZER, Stored},
    dir::RunDir,
    files::{BASE, CHECKPOINTS, FILES, checkpoints},
    summary::{Condition, Summary, size},
};
use crate::system::disk::{self, Lock};
use kinglet_core::{
    error::{Error, Result},
    params::Layout,
};
use serde::{Serialize, Serializer};
use std::path::{Path, PathBuf};

/// What may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum What {
    /// A checkpoint that is neither the best nor the last.
    Checkpoint,
    /// What an interrupted writer left.
    Leftover,
    /// The optimizer's moments of a run that is done, which only training on needs.
    Optimizer,
}

/// Something that may go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// The file or folder.
    #[serde(serialize_with = "shown")]
    pub path: PathBuf,
    /// What it is.
    pub what: What,
    /// Its size.
    pub size_bytes: u64,
}

/// A path as JSON has it; names need not be UTF-8.
fn shown<S: Serializer>(path: &Path, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.collect_str(&path.display())
}

impl Item {
    fn new(path: PathBuf, what: What) -> Item {
        Item { size_bytes: size(&path), path, what }
    }

    fn remove(&self) -> Result<()> {
        match self.what {
            What::Optimizer => disk::remove_from_folder(self.path.parent().unwrap_or(&self.path), OPTIMIZER),
            _ if self.path.is_dir() => disk::remove_folder(&self.path),
            _ => disk::remove_file(&self.path),
        }
    }
}

/// What may go of a run, which stays locked meanwhile.
#[derive(Debug)]
pub struct Cleanup {
    /// What may go.
    pub items: Vec<Item>,
    /// What else could go with the optimizer's state, in bytes.
    pub optimizer_bytes: u64,
    /// What stays although it is of no use.
    pub notes: Vec<String>,
    _lock: Lock,
}

impl Cleanup {
    /// Looks for what may go of a run; with `optimizer` also the optimizer's state, if the run is done. What stays is
    /// verified, as far as anything goes: the last checkpoint, the best one and, of a run that can go on, the last that an
    /// estimate wrote, to which it returns if it diverges.
    ///
    /// # Errors
    /// If there is no run, another process is training it, or no checkpoint is intact.
    pub fn of(path: &Path, optimizer: bool) -> Result<Cleanup> {
        // Asked before the lock is ours.
        let condition = Summary::of(path).state;
        let mut run = RunDir::open(path)?;
        let lock = run.lock()?;
        let mut cleanup = Cleanup { items: leftovers(path)?, optimizer_bytes: 0, notes: Vec::new(), _lock: lock };
        let found = checkpoints(path)?;
        let is_done = condition == Condition::Done;
        if found.len() > 1 || is_done {
            cleanup.look(&mut run, &found, is_done, optimizer)?;
        }
        Ok(cleanup)
    }

    fn look(&mut self, run: &mut RunDir, found: &[(u64, PathBuf)], is_done: bool, optimizer: bool) -> Result<()> {
        if found.is_empty() {
            return Ok(());
        }
        let layout = Layout::new(&run.config)?;
        let intact = |folder: &Path| {
            let stored = Stored::open(folder)?;
            if is_done { stored.check_weights(&layout) } else { stored.check(&layout) }
        };
        // Newest first, until one is intact: that is the last.
        let mut last = None;
        for (step, folder) in found.iter().rev() {
            match intact(folder) {
                Ok(state) => {
                    last = Some(state);
                    break;
                }
                Err(error) => {
                    self.notes.push(format!("the checkpoint of step {step} was not removed: {}", error.one_line()))
                }
            }
        }
        let Some(last) = last else {
            return Err(Error::damaged(
                run.path(),
                "no checkpoint is intact, so none is \
             removed",
            ));
        };
        let best = last.best.map(|(_, step)| step);
        let estimated = if is_done { None } else { run.newest_estimated(&layout).ok().map(|(state, _)| state.step) };
        let stays = |step: u64| step >= last.step || Some(step) == best || Some(step) == estimated;
        for (step, folder) in found {
            if !stays(*step) && !only_ours(folder) {
                self.notes.push(format!("the checkpoint of step {step} was not removed: there are other files in it"));
                continue;
            }
            if !stays(*step) {
                self.items.push(Item::new(folder.clone(), What::Checkpoint));
                continue;
            }
            let moments = Item::new(folder.join(OPTIMIZER), What::Optimizer);
            if is_done && moments.size_bytes > 0 {
                if optimizer {
                    self.items.push(moments);
                } else {
                    self.optimizer_bytes += moments.size_bytes;
                }
            }
        }
        Ok(())
    }

    /// Removes it all. At every moment the run can be used as before.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn remove(self) -> Result<()> {
        self.items.iter().try_for_each(Item::remove)
    }
}

/// Whether a checkpoint has only files that we write.
fn only_ours(folder: &Path) -> bool {
    let Ok(mut entries) = folder.read_dir() else { return false };
    entries.all(|entry| {
        let name = entry.map(|entry| entry.file_name().to_string_lossy().into_owned()).unwrap_or_default();
        checkpoint::FILES.contains(&name.strip_suffix(".tmp").unwrap_or(&name))
    })
}

/// What interrupted writers left in a run.
fn leftovers(run: &Path) -> Result<Vec<Item>> {
    let aside = |name: &&str| run.join(format!("{name}.tmp"));
    let mut found: Vec<PathBuf> = FILES.iter().chain([&BASE]).map(aside).filter(|path| path.exists()).collect();
    found.extend([run.join(format!("{BASE}.old.tmp"))].into_iter().filter(|path| path.exists()));
    let folder = run.join(CHECKPOINTS);
    for entry in folder.read_dir().into_iter().flatten() {
        let path = entry.map_err(Error::io("read", &folder))?.path();
        if path.extension().is_some_and(|extension| extension == "tmp") && only_ours(&path) {
            found.push(path);
        }
    }
    for folder in checkpoints(run)?.iter().map(|(_, folder)| folder).chain([&run.join(BASE)]) {
        let aside = checkpoint::FILES.iter().map(|name| folder.join(format!("{name}.tmp")));
        found.extend(aside.filter(|path| path.exists()));
    }
    found.sort();
    Ok(found.into_iter().map(|path| Item::new(path, What::Leftover)).collect())
}

/// What ended processes left beside the runs in a folder: what they were writing, or removing.
pub fn abandoned(folder: &Path) -> Vec<Item> {
    disk::abandoned(folder).into_iter().map(|path| Item::new(path, What::Leftover)).collect()
}

/// Removes what [`abandoned`] found.
///
/// # Errors
/// If something cannot be removed.
pub fn remove_abandoned(items: &[Item]) -> Result<()> {
    items.iter().try_for_each(Item::remove)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        run::{Checkpoint, Removal, State, Which},
        system::disk::{Fault, with_fault},
        text::tokenizer::CharTokenizer,
    };
    use kinglet_core::config::Config;

    /// A run of nine steps that is done, with the checkpoints 6 to 9, of which 7 is the best, and what a writer left.
    fn run() -> (tempfile::TempDir, RunDir, Layout) {
        let temp = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        (config.vocab_size, config.n_layer, config.n_embd, config.max_iters) = (3, 1, 8, 9);
        let layout = Layout::new(&config).unwrap();
        let tokenizer = CharTokenizer::train("abc").into();
        let (run, _) = RunDir::create(&temp.path().join("run"), config, tokenizer, None).unwrap();
        for step in 6..=9 {
            let (weights, moments) = (layout.init(step), vec![0.5; layout.len()]);
            let state = State { step, best: Some((1.5, 7)), ..State::default() };
            let checkpoint = Checkpoint { state, weights, m: moments.clone(), v: moments };
            run.save(&layout, &checkpoint.state, |buffer, span, out| checkpoint.read(buffer, span, out)).unwrap();
        }
        std::fs::create_dir(run.path().join("checkpoints/step-000010.tmp")).unwrap();
        (temp, run, layout)
    }

    #[test]
    fn at_every_moment_of_a_pruning_the_run_is_what_it_was() {
        for optimizer in [false, true] {
            let mut n = 0;
            loop {
                let mut reached = false;
                for fault in [Fault::At(n), Fault::From(n)] {
                    let (_temp, run, layout) = run();
                    let path = run.path();
                    let cleanup = Cleanup::of(path, optimizer).unwrap();
                    assert_eq!(cleanup.items.len(), if optimizer { 5 } else { 3 }, "{:?}", cleanup.items);
                    let (removed, hit) = with_fault(fault, || cleanup.remove());
                    assert_eq!(removed.is_err(), hit);
                    reached |= hit;
                    let loads = || {
                        let mut run = RunDir::open(path).unwrap();
                        let best = run.load_weights(&layout, None, Which::Best).unwrap().1;
                        let last = run.load_weights(&layout, None, Which::Last).unwrap().1;
                        assert!(run.warnings.is_empty(), "fault {n}: {:?}", run.warnings);
                        (best, last) == (layout.init(7), layout.init(9))
                    };
                    assert!(loads(), "fault {n}");
                    // The next one finds the rest.
                    Cleanup::of(path, optimizer).unwrap().remove().unwrap();
                    assert!(loads() && RunDir::open(path).unwrap().steps().unwrap() == [7, 9], "fault {n}");
                    assert!(Cleanup::of(path, optimizer).unwrap().items.is_empty());
                }
                if !reached {
                    break;
                }
                n += 1;
            }
            assert!(n >= if optimizer { 10 } else { 5 }, "{n} faults");
        }
    }

    #[test]
    fn a_removal_that_fails_leaves_a_run_or_nothing_of_that_name() {
        for foreign in [false, true] {
            let mut n = 0;
            loop {
                let mut reached = false;
                for fault in [Fault::At(n), Fault::From(n)] {
                    let (temp, run, _) = run();
                    let path = run.path();
                    if foreign {
                        std::fs::write(path.join("notes.txt"), "mine").unwrap();
                    }
                    let removal = Removal::of(path).unwrap();
                    assert_eq!(removal.foreign.len(), usize::from(foreign));
                    let (removed, hit) = with_fault(fault, || removal.remove());
                    reached |= hit;
                    if removed.is_ok() {
                        assert_eq!(path.exists(), foreign, "fault {n}");
                    } else if path.join("config.toml").exists() {
                        // What is left can be removed.
                        Removal::of(path).unwrap().remove().unwrap();
                    }
                    remove_abandoned(&abandoned(temp.path())).unwrap();
                    let left: Vec<_> =
                        temp.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
                    assert_eq!(left, if foreign { vec!["run"] } else { vec![] }, "fault {n}");
                    let inside = |path: &Path| path.read_dir().map_or(0, |entries| entries.count());
                    // At worst the last file and the lock's, in which the next run can start.
                    assert!(inside(path) <= 2 + usize::from(foreign), "fault {n}");
                    assert_eq!(path.join("notes.txt").exists(), foreign);
                }
                if !reached {
                    break;
                }
                n += 1;
            }
            assert!(n > 1, "{n} faults");
        }
    }

    #[test]
    fn what_is_not_surely_ours_stays() {
        let (temp, run, _) = run();
        let path = run.path();
        // In a checkpoint, and in the folder after it was looked at.
        std::fs::write(path.join("checkpoints/step-000006/mine.txt"), "mine").unwrap();
        let cleanup = Cleanup::of(path, false).unwrap();
        assert!(cleanup.items.iter().all(|item| !item.path.ends_with("step-000006")), "{:?}", cleanup.items);
        assert!(cleanup.notes.iter().any(|note| note.contains("step 6 was not removed")), "{:?}", cleanup.notes);
        drop(cleanup);
        std::fs::remove_file(path.join("checkpoints/step-000006/mine.txt")).unwrap();
        let removal = Removal::of(path).unwrap();
        assert!(removal.foreign.is_empty());
        std::fs::write(path.join("notes.txt"), "mine").unwrap();
        assert_eq!(removal.remove().unwrap(), [path.join("notes.txt")]);
        assert_eq!(std::fs::read_to_string(path.join("notes.txt")).unwrap(), "mine");
        assert!(!path.join("config.toml").exists());
        // A project of another program that has files of these names.
        let other = temp.path().join("other");
        std::fs::create_dir(&other).unwrap();
        std::fs::write(other.join("config.toml"), "[package]").unwrap();
        std::fs::write(other.join("tokenizer.json"), "{}").unwrap();
        assert!(Removal::of(&other).unwrap_err().to_string().contains("not the folder of a run"));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_never_removed_with_what_it_points_to() {
        let (temp, run, _) = run();
        let link = temp.path().join("link");
        std::os::unix::fs::symlink(run.path(), &link).unwrap();
        for name in ["link", "link/", "link/.", "./link//"] {
            let error = Removal::of(&temp.path().join(name)).unwrap_err().to_string();
            assert!(error.contains("this is a link"), "{name}: {error}");
        }
    }
}
