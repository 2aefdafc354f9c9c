//! Work that takes long. It is done on a thread of its own, which never touches Python; the thread that asked for it waits, passes on
//! what happens, and listens to signals. So Ctrl-C is heard at any time, and other threads of Python run meanwhile.

use crate::error::raised;
use kinglet::error::{Error, Result};
use pyo3::prelude::*;
use serde::Serialize;
use serde_json::json;
use std::{
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

/// The time between two looks at Python's signals, and at events that come often.
const INTERVAL: Duration = Duration::from_millis(100);

/// Most events that wait to be heard. A work with more to say waits until they are.
const MOST: usize = 1024;

/// An event that is to be heard.
struct Said {
    /// The event as JSON.
    json: String,
    /// Dropped when it has been heard, for the one who waits for that.
    _heard: Option<SyncSender<()>>,
}

/// What the work has said, and how it stands.
#[derive(Default)]
struct State {
    said: Vec<Said>,
    /// Whether something is to be heard at once.
    urgent: bool,
    /// Whether stopping leaves something to wait for.
    begun: bool,
    ended: bool,
    /// Whether nobody listens any more.
    abandoned: bool,
}

/// What the two threads share.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Something urgent was said.
    told: Condvar,
    /// What was said has been taken.
    taken: Condvar,
    stop: AtomicBool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something urgent, for the end, or for the usual time; what was said, and whether that is all.
    fn take(&self) -> (Vec<Said>, bool) {
        let waits = |state: &mut State| !state.urgent && !state.ended;
        let waited = self.told.wait_timeout_while(self.state(), INTERVAL, waits);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.urgent = false;
        self.taken.notify_all();
        (std::mem::take(&mut state.said), state.ended)
    }

    /// Asks the work to stop. Returns whether it has begun, so that its end is worth waiting for; if it has not, nobody listens from
    /// now on.
    fn stop(&self) -> bool {
        self.stop.store(true, Ordering::Relaxed);
        let mut state = self.state();
        state.abandoned |= !state.begun;
        state.begun
    }

    /// Listens no longer.
    fn abandon(&self) {
        let mut state = self.state();
        state.abandoned = true;
        state.said.clear();
        self.taken.notify_all();
    }
}

/// What a work says of itself.
pub(crate) struct Teller {
    shared: Arc<Shared>,
    /// Whether every event is wanted, and the work waits until a rare one has been heard.
    every: bool,
    /// When an event was last said that comes often.
    last: Option<Instant>,
}

impl Teller {
    /// The flag that asks the work to stop.
    pub(crate) fn stop(&self) -> Stop {
        Stop(self.shared.clone())
    }

    /// Begins what is worth waiting for when it is asked to stop; whether it may, since it may have been asked before.
    pub(crate) fn set_out(&mut self) -> bool {
        let mut state = self.shared.state();
        state.begun = !state.abandoned;
        state.begun
    }

    /// [`Teller::set_out`] in this folder. The note, if there is one, is for the user, as the folder is for the package: neither is
    /// an event of the work.
    pub(crate) fn begin(&mut self, place: &Path, note: Option<&str>) -> bool {
        let begun = self.set_out();
        if begun {
            self.tell(&json!({"event": "place", "out": place.to_string_lossy(), "note": note}), false);
        }
        begun
    }

    /// Says an event; `often` are those that may be left out unless all are wanted.
    pub(crate) fn tell(&mut self, event: &impl Serialize, often: bool) {
        if often && !self.every {
            if self.last.is_some_and(|last| last.elapsed() < INTERVAL) {
                return;
            }
            self.last = Some(Instant::now());
        }
        let json = serde_json::to_string(event).expect("plain values");
        let (heard, waits) = if self.every && !often {
            let (heard, waits) = sync_channel(1);
            (Some(heard), Some(waits))
        } else {
            (None, None)
        };
        let mut state = self.shared.state();
        while state.said.len() >= MOST && !state.abandoned {
            state.urgent = true;
            self.shared.told.notify_one();
            state = self.shared.taken.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.abandoned {
            return;
        }
        state.said.push(Said { json, _heard: heard });
        if !often {
            state.urgent = true;
            self.shared.told.notify_one();
        }
        drop(state);
        if let Some(waits) = waits {
            // An error is the sign: the other end was dropped.
            let _ = waits.recv();
        }
    }
}

/// Says that the work has ended, even if it panicked.
impl Drop for Teller {
    fn drop(&mut self) {
        self.shared.state().ended = true;
        self.shared.told.notify_one();
    }
}

/// The flag that asks a work to stop.
pub(crate) struct Stop(Arc<Shared>);

impl Stop {
    /// Whether to go on.
    pub(crate) fn go_on(&self) -> ControlFlow<()> {
        if self.is_set() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.0.stop
    }

    pub(crate) fn is_set(&self) -> bool {
        self.flag().load(Ordering::Relaxed)
    }
}

/// Does `work` on a thread of its own, and calls `sink` with lists of the events that it says, as JSON, in their order: all of them if
/// `every`, else those that come often at most ten times a second.
///
/// # Errors
/// Those of the work. A signal's exception or one of `sink` asks the work to stop, and is raised when it has; if it has not begun, or
/// if a second one comes, at once, and the work stops by itself.
pub(crate) fn attend<T: Send + 'static>(
    py: Python,
    sink: &Bound<PyAny>,
    every: bool,
    work: impl FnOnce(&mut Teller) -> Result<T> + Send + 'static,
) -> PyResult<T> {
    let shared = Arc::new(Shared::default());
    let mut teller = Teller { shared: shared.clone(), every, last: None };
    let worker = thread::Builder::new().name("kinglet".into()).spawn(move || work(&mut teller));
    let worker = worker.map_err(|error| raised(py, &Error::Threads(format!("cannot start a thread: {error}"))))?;
    let mut failure: Option<PyErr> = None;
    loop {
        let (said, ended) = py.detach(|| shared.take());
        let heard = py.check_signals().and_then(|()| {
            if failure.is_none() && !said.is_empty() {
                sink.call1((said.iter().map(|said| said.json.as_str()).collect::<Vec<_>>(),))?;
            }
            Ok(())
        });
        if let Err(error) = heard {
            let again = failure.is_some();
            failure.get_or_insert(error);
            if !shared.stop() || again {
                shared.abandon();
                break;
            }
        }
        // Only now, whoever waits for it goes on.
        drop(said);
        if ended {
            break;
        }
    }
    if let Some(error) = failure {
        return Err(error);
    }
    match py.detach(|| worker.join()) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(raised(py, &error)),
        Err(panic) => Err(raised(py, &Error::BadConfig(fault(&*panic)))),
    }
}

/// Does `work` with the lock of Python released, in a pool of as many threads (0: one for each core), so that nothing begins rayon's
/// global pool: a child of `fork` would have that without its threads.
pub(crate) fn quickly<T: Send>(py: Python, threads: usize, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    let done = py.detach(|| catch_unwind(AssertUnwindSafe(|| kinglet::threads::whole(threads, work))));
    match done {
        Ok(done) => done.flatten().map_err(|error| raised(py, &error)),
        Err(panic) => Err(raised(py, &Error::BadConfig(fault(&*panic)))),
    }
}

/// What to say of a panic.
fn fault(panic: &(dyn std::any::Any + Send)) -> String {
    let what = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("a fault of kinglet's own, please report it: {}", what.unwrap_or("unknown"))
}
