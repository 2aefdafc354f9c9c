//! The metrics of runs in memory, of those that are asked for.

use crate::run::Tail;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    thread,
    time::{Duration, Instant},
};

/// Bytes that are kept, of all runs together.
const BYTES: usize = 64 << 20;

/// How long one waits while another reads the same run: long enough for millions of lines.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often one tries meanwhile.
const TRY: Duration = Duration::from_millis(5);

/// The metrics of runs, by name.
#[derive(Default)]
pub(super) struct Tails(Mutex<Held>);

#[derive(Default)]
struct Held {
    /// Counts uses, so that what was used least recently is forgotten first.
    uses: u64,
    all: BTreeMap<String, One>,
}

struct One {
    used: u64,
    run: PathBuf,
    tail: Arc<Mutex<Tail>>,
}

impl Tails {
    /// Those of the run in this folder.
    pub(super) fn of(&self, id: &str, run: &Path) -> Arc<Mutex<Tail>> {
        let mut held = self.held();
        held.uses += 1;
        let used = held.uses;
        let new = || One { used, run: run.to_owned(), tail: Arc::default() };
        let one = held.all.entry(id.to_owned()).or_insert_with(new);
        if one.run != run {
            *one = new();
        }
        one.used = used;
        one.tail.clone()
    }

    /// Keeps those of these runs only.
    pub(super) fn keep(&self, is_there: impl Fn(&str, &Path) -> bool) {
        self.held().all.retain(|id, one| is_there(id, &one.run));
    }

    /// Forgets those that nobody asks for, if they are too many; not those of this run.
    pub(super) fn forget(&self, id: &str) {
        let mut held = self.held();
        let mut sizes: Vec<_> =
            held.all.iter().filter_map(|(id, one)| Some((one.used, id.clone(), bytes(&one.tail)?))).collect();
        let mut sum: usize = sizes.iter().map(|size| size.2).sum();
        sizes.sort();
        for (_, other, size) in sizes {
            if sum > BYTES && other != id {
                sum -= size;
                held.all.remove(&other);
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// To read on; none if somebody else has been reading for too long.
pub(super) fn read(tail: &Mutex<Tail>) -> Option<MutexGuard<'_, Tail>> {
    let began = Instant::now();
    loop {
        match tail.try_lock() {
            Ok(tail) => return Some(tail),
            Err(TryLockError::Poisoned(tail)) => return Some(tail.into_inner()),
            Err(TryLockError::WouldBlock) if began.elapsed() > PATIENCE => return None,
            Err(TryLockError::WouldBlock) => thread::sleep(TRY),
        }
    }
}

/// Bytes in memory; of what is being read that is not known.
fn bytes(tail: &Mutex<Tail>) -> Option<usize> {
    match tail.try_lock() {
        Ok(tail) => Some(tail.bytes()),
        Err(TryLockError::Poisoned(tail)) => Some(tail.into_inner().bytes()),
        Err(TryLockError::WouldBlock) => None,
    }
}
