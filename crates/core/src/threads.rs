//! Threads: the pool that a training run uses, and loops over the pool that the caller is in.

use crate::error::{Error, Result};
use rayon::iter::{
    IndexedParallelIterator,
    plumbing::{Producer, ProducerCallback},
};
use std::{
    cell::Cell,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Cores of this machine: the default number of threads.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Number of threads that the caller's work can use: those of the pool that it is in, or 1 outside of a pool.
pub fn current() -> usize {
    if divides() { rayon::current_num_threads() } else { 1 }
}

/// Whether a loop is divided among threads here.
fn divides() -> bool {
    // Outside of a pool, rayon's own questions would make it start its global pool.
    rayon::current_thread_index().is_some() && !APART.get()
}

/// Pieces of a loop for each thread: so many that one whose core is slow leaves some to the others.
const PIECES: usize = 4;

/// Calls `work` on each item: on the threads of the pool that the caller is in or, outside of a pool, in order on the
/// calling thread. So a program that embeds a model decides about threads, and none is started that it did not ask for.
///
/// Each thread begins at a place of its own, the same whenever the loop is: what it finds there is still in its cache.
pub(crate) fn for_each<I: IndexedParallelIterator>(items: I, work: impl Fn(I::Item) + Send + Sync) {
    struct Loop<F> {
        len: usize,
        work: F,
    }
    impl<T, F: Fn(T) + Sync> ProducerCallback<T> for Loop<F> {
        type Output = ();

        fn callback<P: Producer<Item = T>>(self, items: P) {
            let Loop { len, work } = self;
            let threads = current();
            let most = if threads == 1 { 1 } else { (PIECES * threads).max(len.div_ceil(items.max_len())) };
            match most.min(len / items.min_len().max(1)) {
                0 | 1 => items.into_iter().for_each(work),
                count => divide(items, (len, count), threads, |piece: P| piece.into_iter().for_each(&work)),
            }
        }
    }
    let len = items.len();
    items.with_producer(Loop { len, work });
}

/// Calls `work` on `count` pieces of `len` items, on the threads of the pool that the caller is in.
fn divide<P: Producer>(items: P, (len, count): (usize, usize), threads: usize, work: impl Fn(P) + Sync) {
    let (mut pieces, mut rest) = (Vec::with_capacity(count), items);
    for i in 1..count {
        let (piece, others) = rest.split_at(i * len / count - (i - 1) * len / count);
        pieces.push(Mutex::new(Some(piece)));
        rest = others;
    }
    pieces.push(Mutex::new(Some(rest)));
    let (pieces, work, done) = (&pieces, &work, &AtomicUsize::new(0));
    let take = move || {
        let first = rayon::current_thread_index().expect("a thread of the pool") * count / threads;
        for piece in pieces.iter().cycle().skip(first).take(count) {
            let piece = piece.lock().expect("nothing fails while it is locked").take();
            if let Some(piece) = piece {
                work(piece);
                done.fetch_add(1, Ordering::Release);
            }
        }
    };
    rayon::scope(|scope| {
        for _ in 1..threads.min(count) {
            scope.spawn(move |_| take());
        }
        take();
        // The others are about to be done, so this thread does not go to sleep: waking it would take longer.
        let mut began = Instant::now();
        while done.load(Ordering::Acquire) < count && poll(&mut began) < PATIENCE {}
    });
}

/// [`for_each`] of one large item for each thread: loops inside of `work` are not divided again, for the other threads have items
/// of their own.
pub(crate) fn apart<I: IndexedParallelIterator>(items: I, work: impl Fn(I::Item) + Send + Sync) {
    /// Ends it, even if the work panics.
    struct Over(bool);
    impl Drop for Over {
        fn drop(&mut self) {
            APART.set(self.0);
        }
    }
    for_each(items, |item| {
        let _over = Over(APART.replace(true));
        work(item);
    });
}

/// A thread pool for generating text with models whose products are worth splitting. Its threads sleep while there is
/// nothing to do; clones share the pool.
#[derive(Clone, Debug)]
pub struct Pool(Arc<rayon::ThreadPool>);

impl Pool {
    /// A pool of this many threads (0: one for each core).
    ///
    /// # Errors
    /// If the system refuses to start them.
    pub fn new(threads: usize) -> Result<Pool> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("kinglet-{i}")).build();
        let refused = |error: rayon::ThreadPoolBuildError| {
            let threads = if threads == 0 { cores() } else { threads };
            Error::Threads(format!("cannot start {threads} threads: {error}; ask for fewer with --threads"))
        };
        pool.map(|pool| Pool(Arc::new(pool))).map_err(refused)
    }

    /// Runs `work` in the pool: parallel code inside `work` runs on the pool's threads.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.0.install(work)
    }

    /// The same, while the threads of the pool poll for work as in [`with_threads`]: for a stretch of work that is made of
    /// many small pieces.
    pub fn run_awake<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.run(|| awake_at_work(work))
    }
}

/// Most threads that poll for work instead of sleeping. A guess: nothing with more cores was measured.
const AWAKE: usize = 8;

/// How long a thread polls without finding work before it polls only now and then. No computation keeps it waiting that
/// long, but a disk may, or a slow reader of the output.
const PATIENCE: Duration = Duration::from_millis(2);

/// How long a thread that polls keeps its core. After that it offers the core to others each time, which takes as long as a small
/// piece of work. With more threads than cores, the one that it waits for may need it.
const SPIN: Duration = Duration::from_micros(50);

/// Does a piece of the pool's work if there is one, and sets `last` to now; waits a moment otherwise. Returns the time since `last`.
fn poll(last: &mut Instant) -> Duration {
    if rayon::yield_now() == Some(rayon::Yield::Executed) {
        *last = Instant::now();
        return Duration::ZERO;
    }
    let idle = last.elapsed();
    if idle < SPIN {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
    idle
}

thread_local! {
    /// Whether this thread does its own item of [`apart`].
    static APART: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread does the one piece of work that its pool is for.
    static WHOLE: Cell<bool> = const { Cell::new(false) };
}

/// Runs the whole of a program's `work` in a pool of `threads` threads (0: one for each core): every loop inside that is
/// divided among threads is divided among these, and [`with_threads`] of as many starts no others.
///
/// # Errors
/// If the system refuses to start the threads.
pub fn whole<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> Result<R> {
    let pool = Pool::new(threads)?;
    Ok(pool.run(|| {
        WHOLE.set(true);
        work()
    }))
}

/// Runs `work` in a pool of `threads` threads (0: one for each core): parallel code inside `work` runs on this pool.
/// Directly inside of [`whole`] it is that pool, if it has as many.
///
/// A whole run goes inside, rather than each step. Its threads (at most eight of them) poll for work instead of
/// sleeping, because waking a thread takes as long as a small product.
///
/// # Errors
/// If the system refuses to start the threads.
pub fn with_threads<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> Result<R> {
    if WHOLE.get() && [0, rayon::current_num_threads()].contains(&threads) {
        // What is inside of this work is not the whole of anything.
        WHOLE.set(false);
        let result = awake_at_work(work);
        WHOLE.set(true);
        return Ok(result);
    }
    Ok(Pool::new(threads)?.run(|| awake_at_work(work)))
}

/// Runs `work` on the calling thread, while the others of its pool poll for work.
fn awake_at_work<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    /// Ends the polling, even if the work panics.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }
    let (awake, done) = (&AtomicUsize::new(1), &AtomicBool::new(false));
    rayon::scope(|scope| {
        let _done = Done(done);
        let wanted = rayon::current_num_threads().min(AWAKE).min(cores());
        for _ in 1..wanted {
            scope.spawn(move |_| {
                awake.fetch_add(1, Ordering::Release);
                // First wait until each of these tasks has its own thread: one that already polled for work would run
                // the next of them itself.
                while awake.load(Ordering::Acquire) < wanted {
                    std::thread::yield_now();
                }
                let mut last = Instant::now();
                while !done.load(Ordering::Acquire) {
                    if poll(&mut last) >= PATIENCE {
                        std::thread::sleep(PATIENCE / 10);
                    }
                }
            });
        }
        // Wait until each of these tasks has its thread: otherwise this thread might run one while it waits for
        // something else.
        while awake.load(Ordering::Acquire) < wanted {
            std::thread::yield_now();
        }
        work()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::prelude::*;

    #[test]
    fn each_item_of_a_loop_is_met_once_also_in_loops_within() {
        for threads in [1, 2, 3, 5] {
            for (len, least, most) in
                [(0, 1, 9), (1, 1, 9), (2, 1, 1), (7, 3, 9), (40, 1, 1), (100, 7, 20), (5000, 1, 9999)]
            {
                let met: Vec<_> = (0..len).map(|_| AtomicUsize::new(0)).collect();
                let meet = || {
                    for_each(met.par_iter().with_min_len(least).with_max_len(most), |count| {
                        for_each((0..3).into_par_iter(), |_| {
                            count.fetch_add(1, Ordering::Relaxed);
                        });
                    });
                };
                with_threads(threads, meet).unwrap();
                Pool::new(threads).unwrap().run(meet);
                meet();
                let wrong = met.iter().filter(|count| count.load(Ordering::Relaxed) != 9).count();
                assert_eq!(wrong, 0, "{threads} threads, {len} items, {least} to {most} at a time");
            }
        }
    }

    #[test]
    fn a_loop_that_panics_ends_and_the_next_one_runs() {
        with_threads(3, || {
            for at in [0, 17, 39] {
                let fails = || for_each((0..40usize).into_par_iter(), |i| assert!(i != at, "the item {i}"));
                assert!(std::panic::catch_unwind(fails).is_err());
                let sum = AtomicUsize::new(0);
                for_each((0..40usize).into_par_iter(), |i| {
                    sum.fetch_add(i, Ordering::Relaxed);
                });
                assert_eq!(sum.into_inner(), 780);
            }
        })
        .unwrap();
    }

    #[test]
    fn the_whole_work_of_a_program_has_one_pool() {
        let named = || std::thread::current().id();
        for n in [1, 3] {
            whole(n, || {
                let me = named();
                assert_eq!(current(), n);
                for same in [0, n] {
                    let inside = || (named(), current(), with_threads(n, || (named(), current())).unwrap());
                    let (id, threads, (other, of_other)) = with_threads(same, inside).unwrap();
                    assert_eq!((id, threads), (me, n), "the same pool");
                    assert!(other != me && of_other == n, "inside of a loop of it, another");
                }
                assert_eq!(with_threads(n + 1, || (named() == me, current())).unwrap(), (false, n + 1));
            })
            .unwrap();
        }
        assert_eq!(with_threads(2, current).unwrap(), 2);
    }
}
