//! The processes of MPI as ranks.

use crate::{
    calls::{Calls, Constants, Handle},
    launch::{Launch, Variables, launcher},
    library::{self, Interface, Spoken},
    messages::Messages,
};
use kinglet_core::{
    error::{Error, Result},
    ranks::Ranks,
};
use libloading::Library;
use std::{
    ffi::c_int,
    ptr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How long a rank that ends all waits for its own thread that is inside of MPI, and then for MPI.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// What UCX, by which MPICH may send, is told unless the user told it something else. With its own 8 KiB it asks before it sends a chunk
/// of a gradient, and the answer waits behind the chunks of the other side.
const UCX: [(&str, &str); 2] = [("UCX_TCP_TX_SEG_SIZE", "64k"), ("UCX_TCP_RX_SEG_SIZE", "64k")];

/// How long the launcher has to pass on why all end.
const LAST_WORD: Duration = Duration::from_millis(200);

/// The processes of MPI. There is one such value in a process; MPI itself allows no second start.
pub struct Mpi {
    processes: Box<dyn Processes>,
    interface: Interface,
    library: String,
    host: String,
    say: Box<dyn Fn(&str) + Send + Sync>,
}

/// [`Mpi`] without its handles' type.
trait Processes: Send + Sync {
    fn rank(&self) -> usize;
    fn size(&self) -> usize;
    fn send(&self, to: usize, bytes: Vec<u8>) -> Result<()>;
    fn expect(&self, from: usize, len: usize) -> Result<()>;
    fn poll(&self, from: usize) -> Result<Option<Vec<u8>>>;
    fn unsent(&self) -> Result<usize>;
    fn abort(&self, status: c_int);
    fn finish(&self) -> Result<()>;
}

impl Mpi {
    /// How this process was started, if that was as one of several.
    pub fn launched() -> Option<Launch> {
        let variables: Variables =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect();
        // The program that started this one is only looked for where there is one.
        Launch::of(&variables, None).and_then(|_| Launch::of(&variables, launcher().as_deref()))
    }

    /// Opens the library and starts MPI in it. If later all have to end at once, `say` is told why.
    ///
    /// # Errors
    /// If there is no library, it is not one of MPI, or MPI does not start.
    pub fn start(launch: &Launch, say: impl Fn(&str) + Send + Sync + 'static) -> Result<Mpi> {
        static STARTED: AtomicBool = AtomicBool::new(false);
        for (name, value) in UCX.iter().filter(|(name, _)| std::env::var_os(name).is_none()) {
            // SAFETY: MPI starts when the program does; no other thread reads or sets variables then.
            unsafe { std::env::set_var(name, value) };
        }
        let (library, name) = library::open(&launch.libraries)?;
        let of_library = |what: String| Error::Ranks(format!("{name}: {what}"));
        let interface = Interface::of(library).map_err(|error| of_library(error.one_line()))?;
        let spoken = interface.spoken(library).map_err(|error| of_library(error.to_string()))?;
        if STARTED.swap(true, Ordering::Relaxed) {
            return Err(Error::Ranks("MPI can be started only once in a process".into()));
        }
        let (processes, host): (Box<dyn Processes>, _) = match spoken {
            Spoken::Pointers(calls, constants) => (Box::new(World::start(calls, constants)?), calls.host()),
            Spoken::Numbers(calls, constants) => (Box::new(World::start(calls, constants)?), calls.host()),
        };
        let library = described(library, &name);
        Ok(Mpi { processes, interface, library, host, say: Box::new(say) })
    }

    /// The library's interface.
    pub fn interface(&self) -> Interface {
        self.interface
    }

    /// The library's file and its own name for itself.
    pub fn library(&self) -> &str {
        &self.library
    }

    /// The name of this machine.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Ends all processes at once, with this exit status and without a word.
    pub fn end_all(&self, status: c_int) -> ! {
        // MPICH 4.0 waits for the launcher to end this process. A launcher that is cut off does not.
        thread::spawn(move || {
            thread::sleep(LAST_WAIT);
            end_now(status)
        });
        self.processes.abort(status);
        end_now(status)
    }

    /// Ends MPI in this process, once nothing is under way. All processes have to do it.
    ///
    /// # Errors
    /// If messages are under way, or MPI says so.
    pub fn finish(&self) -> Result<()> {
        self.processes.finish()
    }
}

/// Ends this process at once. What libraries do when a program ends may wait for other processes; this does not.
pub fn end_now(status: c_int) -> ! {
    unsafe extern "C" {
        safe fn _exit(status: c_int) -> !;
    }
    _exit(status)
}

fn described(library: &Library, name: &str) -> String {
    match library::version(library) {
        Some(version) => format!("{name} ({})", version.split(',').next().unwrap_or_default().replace("Version: ", "")),
        None => name.to_owned(),
    }
}

impl Ranks for Mpi {
    fn rank(&self) -> usize {
        self.processes.rank()
    }

    fn size(&self) -> usize {
        self.processes.size()
    }

    fn send(&self, to: usize, bytes: Vec<u8>) -> Result<()> {
        self.processes.send(to, bytes)
    }

    fn expect(&self, from: usize, len: usize) -> Result<()> {
        self.processes.expect(from, len)
    }

    fn poll(&self, from: usize) -> Result<Option<Vec<u8>>> {
        self.processes.poll(from)
    }

    fn unsent(&self) -> Result<usize> {
        self.processes.unsent()
    }

    fn abort(&self, why: &str) -> ! {
        (self.say)(&format!("rank {} (host {}): {why}", self.rank(), self.host));
        // The launcher passes on what was said; once it hears of the end, it may not.
        thread::sleep(LAST_WORD);
        self.end_all(1)
    }
}

/// All processes, where handles are `H`.
struct World<H: Handle> {
    calls: Calls<H>,
    world: H,
    rank: usize,
    size: usize,
    /// One thread at a time calls MPI: the one that has this. Nothing once MPI has ended.
    messages: Mutex<Option<Messages<H>>>,
}

impl<H: Handle> World<H> {
    /// Starts MPI.
    fn start(calls: Calls<H>, constants: Constants<H>) -> Result<World<H>> {
        let (mut threads, mut rank, mut size) = (0, 0, 0);
        // SAFETY: MPI takes no arguments from this program; `Mpi::start` calls this once. The places are written to.
        unsafe {
            calls.check((calls.init)(ptr::null_mut(), ptr::null_mut(), constants.serialized, &mut threads))?;
            calls.check((calls.on_error)(constants.world, constants.errors_return))?;
            calls.check((calls.rank)(constants.world, &mut rank))?;
            calls.check((calls.size)(constants.world, &mut size))?;
        }
        if threads < constants.serialized {
            return Err(Error::Ranks("this MPI library was built for programs with one thread only".into()));
        }
        let count = |n: c_int| usize::try_from(n).expect("MPI counts from 0");
        // SAFETY: MPI was initialized; `finish` drops the messages before it ends.
        let messages = unsafe { Messages::new(calls, constants, count(size)) };
        let (rank, size) = (count(rank), count(size));
        Ok(World { calls, world: constants.world, rank, size, messages: Mutex::new(Some(messages)) })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Messages<H>>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, call: impl FnOnce(&mut Messages<H>) -> Result<T>) -> Result<T> {
        self.lock().as_mut().map_or_else(|| Err(Error::Ranks("MPI has ended in this process".into())), call)
    }
}

impl<H: Handle> Processes for World<H> {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn send(&self, to: usize, bytes: Vec<u8>) -> Result<()> {
        self.with(|messages| messages.send(to, bytes))
    }

    fn expect(&self, from: usize, len: usize) -> Result<()> {
        self.with(|messages| messages.expect(from, len))
    }

    fn poll(&self, from: usize) -> Result<Option<Vec<u8>>> {
        self.with(|messages| messages.poll(from))
    }

    fn unsent(&self) -> Result<usize> {
        self.with(Messages::unsent)
    }

    fn abort(&self, status: c_int) {
        let began = Instant::now();
        // Another thread may be inside of MPI; if it hangs there, the end of this process is noticed by the launcher.
        while began.elapsed() < LAST_WAIT {
            if let Ok(messages) = self.messages.try_lock() {
                if messages.is_some() {
                    // SAFETY: MPI has not ended, and no other thread calls it.
                    unsafe { (self.calls.abort)(self.world, status) };
                }
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn finish(&self) -> Result<()> {
        let mut messages = self.lock();
        let under_way = messages.as_ref().map_or(0, Messages::len);
        if under_way > 0 {
            return Err(Error::Ranks(format!("{under_way} messages are still under way")));
        }
        match messages.take() {
            // SAFETY: MPI was initialized, and this is its only end.
            Some(_) => self.calls.check(unsafe { (self.calls.finish)() }),
            None => Ok(()),
        }
    }
}
