//! The thread pool that a training runs in.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

/// Cores of this machine: how many threads there are unless told otherwise.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Threads that look for work all the time. A guess: nothing with more cores was measured.
const AWAKE: usize = 8;

/// How long they look without finding any before they do so only now and then: no computation makes them wait as long,
/// but a disk, or a reader of what is written.
const PATIENCE: Duration = Duration::from_millis(2);

/// Runs `work` on `threads` threads (0: one for each core): what divides itself below it, divides itself over them.
///
/// All of a run is inside, not step by step, and its threads (eight of them, if there are more) look for work all the
/// time instead of sleeping, because waking one takes as long as a small product.
pub fn with_threads<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    /// Ends the search for work, also if the work panics.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("kinglet-{i}")).build();
    let (awake, done) = (&AtomicUsize::new(1), &AtomicBool::new(false));
    pool.expect("the system starts threads").scope(|scope| {
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
    })
}
