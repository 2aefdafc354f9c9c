//! Threads: the pool that a training runs in, and work that is divided over the pool that the caller is in.

use crate::error::{Error, Result};
use rayon::iter::{
    IndexedParallelIterator,
    plumbing::{Producer, ProducerCallback},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Cores of this machine: how many threads there are unless told otherwise.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// How many threads the caller's work is divided over: those of the pool that it is in, or itself alone.
pub fn current() -> usize {
    // Asked outside of a pool, rayon would start one of its own.
    if rayon::current_thread_index().is_some() { rayon::current_num_threads() } else { 1 }
}

/// Calls `work` on each item: on the threads of the pool that the caller is in, or, outside of one, in order on the caller's
/// own thread. So whoever embeds a model decides about threads, and no thread is started unasked.
pub(crate) fn for_each<I: IndexedParallelIterator>(items: I, work: impl Fn(I::Item) + Send + Sync) {
    struct InOrder<F>(F);
    impl<T, F: Fn(T)> ProducerCallback<T> for InOrder<F> {
        type Output = ();

        fn callback<P: Producer<Item = T>>(self, items: P) {
            items.into_iter().for_each(self.0);
        }
    }
    if rayon::current_thread_index().is_some() {
        items.for_each(work);
    } else {
        items.with_producer(InOrder(work));
    }
}

/// Threads for generating text with models whose products are worth dividing. They sleep while there is nothing to do; clones are
/// the same pool.
#[derive(Clone, Debug)]
pub struct Pool(Arc<rayon::ThreadPool>);

impl Pool {
    /// A pool of so many threads (0: one for each core).
    ///
    /// # Errors
    /// If the system does not start them.
    pub fn new(threads: usize) -> Result<Pool> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("kinglet-{i}")).build();
        let refused = |error: rayon::ThreadPoolBuildError| {
            let threads = if threads == 0 { cores() } else { threads };
            Error::Threads(format!(
                "the system does not start {threads} threads: {error}; ask for fewer with --threads"
            ))
        };
        pool.map(|pool| Pool(Arc::new(pool))).map_err(refused)
    }

    /// Runs `work` in the pool: what can be divided below it is divided over the pool's threads.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.0.install(work)
    }
}

/// Threads that look for work all the time. A guess: nothing with more cores was measured.
const AWAKE: usize = 8;

/// How long they look without finding any before they do so only now and then: no computation makes them wait as long,
/// but a disk, or a reader of what is written.
const PATIENCE: Duration = Duration::from_millis(2);

/// Runs `work` in a pool of `threads` threads (0: one for each core): parallel code inside `work` runs on this pool.
///
/// All of a run is inside, not step by step, and its threads (eight of them, if there are more) look for work all the
/// time instead of sleeping, because waking one takes as long as a small product.
///
/// # Errors
/// If the system does not start the threads.
pub fn with_threads<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> Result<R> {
    /// Ends the search for work, also if the work panics.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }
    let (awake, done) = (&AtomicUsize::new(1), &AtomicBool::new(false));
    let Pool(pool) = Pool::new(threads)?;
    Ok(pool.scope(|scope| {
        let _done = Done(done);
        let wanted = rayon::current_num_threads().min(AWAKE).min(cores());
        for _ in 1..wanted {
            scope.spawn(move |_| {
                awake.fetch_add(1, Ordering::Release);
                // Each on a thread of its own: one that looked for work now would take up the next of these.
                while awake.load(Ordering::Acquire) < wanted {
                    std::thread::yield_now();
                }
                let mut last = Instant::now();
                while !done.load(Ordering::Acquire) {
                    if rayon::yield_now() == Some(rayon::Yield::Executed) {
                        last = Instant::now();
                    } else if last.elapsed() < PATIENCE {
                        std::thread::yield_now();
                    } else {
                        std::thread::sleep(PATIENCE / 10);
                    }
                }
            });
        }
        // Not before each of them has its thread: this one would take it up while it waits for something else.
        while awake.load(Ordering::Acquire) < wanted {
            std::thread::yield_now();
        }
        work()
    }))
}
