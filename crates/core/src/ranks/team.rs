//! What ranks do together, made of single messages. Whatever fails here ends all of them: none can go on without the others.

use super::{alone::Alone, carrier::Ranks};
use crate::error::Result;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How long a rank that waits keeps asking without a pause: as long as a computation keeps it waiting, but not a disk.
const AWAKE: Duration = Duration::from_millis(2);

/// The longest time that a rank is waited for, by default.
const PATIENCE: Duration = Duration::from_secs(600);

/// The ranks of a run, and how long one waits for another. Clones are the same ranks.
#[derive(Clone)]
pub struct Team {
    ranks: Arc<dyn Ranks>,
    patience: Duration,
    /// Whether this rank was asked to stop; of rank 0, whether any was.
    asked: Arc<AtomicBool>,
}

impl Default for Team {
    fn default() -> Team {
        Team::new(Arc::new(Alone))
    }
}

impl fmt::Debug for Team {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "rank {} of {}", self.rank(), self.size())
    }
}

impl Team {
    /// The pauses of a rank that waits for longer.
    pub(super) const PAUSE: Duration = Duration::from_micros(200);

    /// The team of these ranks.
    pub fn new(ranks: Arc<dyn Ranks>) -> Team {
        Team { ranks, patience: PATIENCE, asked: Arc::default() }
    }

    /// Sets how long one rank waits for another before it ends all of them.
    pub fn with_patience(self, patience: Duration) -> Team {
        Team { patience, ..self }
    }

    /// How long one rank waits for another.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Which rank this is, from 0.
    pub fn rank(&self) -> usize {
        self.ranks.rank()
    }

    /// How many ranks there are.
    pub fn size(&self) -> usize {
        self.ranks.size()
    }

    /// Whether there is only this one.
    pub fn is_alone(&self) -> bool {
        self.size() == 1
    }

    /// What carries the messages.
    pub fn ranks(&self) -> &dyn Ranks {
        &*self.ranks
    }

    /// The flag that asks the run to stop, whichever rank it is set on.
    pub fn stop(&self) -> &AtomicBool {
        &self.asked
    }

    /// Whether this rank, or one that told rank 0 so, was asked to stop.
    pub fn is_asked_to_stop(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Gathers as [`Team::gather`] does, and whether a rank was asked to stop.
    pub(crate) fn report(&self, mut bytes: Vec<u8>, len: impl Fn(usize) -> usize) -> Vec<Vec<u8>> {
        bytes.push(self.is_asked_to_stop().into());
        let mut reports = self.gather(bytes, |from| len(from) + 1);
        for report in &mut reports {
            if report.pop() == Some(1) {
                self.asked.store(true, Ordering::Relaxed);
            }
        }
        reports
    }

    /// Ends all ranks.
    pub fn abort(&self, why: &str) -> ! {
        self.ranks.abort(why)
    }

    /// A result, where an error ends all ranks.
    pub(super) fn sure<T>(&self, result: Result<T>) -> T {
        result.unwrap_or_else(|error| self.abort(&error.one_line()))
    }

    /// Sends a message to another rank; it leaves while this one goes on or waits.
    pub fn send(&self, to: usize, bytes: Vec<u8>) {
        self.sure(self.ranks.send(to, bytes));
    }

    /// Waits for a message of `len` bytes.
    pub fn receive(&self, from: usize, len: usize) -> Vec<u8> {
        self.sure(self.ranks.expect(from, len));
        self.wait(&format!("rank {from}"), || self.sure(self.ranks.poll(from)))
    }

    /// Asks until there is an answer. A watchdog: if it takes longer than the team's patience, all ranks end.
    pub(super) fn wait<T>(&self, whom: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            self.pause(began, whom);
        }
    }

    /// Pauses before asking again, if this rank has not waited too long since `began`.
    pub(super) fn pause(&self, began: Instant, whom: &str) {
        match began.elapsed() {
            waited if waited > self.patience => self.abort(&format!(
                "nothing was heard of {whom} for {} seconds: a process or a link hangs",
                self.patience.as_secs_f64()
            )),
            waited if waited > AWAKE => std::thread::sleep(Team::PAUSE),
            _ => std::thread::yield_now(),
        }
    }

    /// Sends rank 0's message of `len` bytes to all; each returns it. It goes along a tree: `log2(size)` messages after another.
    pub fn broadcast(&self, bytes: Vec<u8>, len: usize) -> Vec<u8> {
        let (rank, size) = (self.rank(), self.size());
        // The lowest bit of a rank is its distance to the one that it hears from.
        let lowest = if rank == 0 { size.next_power_of_two() } else { 1 << rank.trailing_zeros() };
        let bytes = if rank == 0 { bytes } else { self.receive(rank - lowest, len) };
        assert_eq!(bytes.len(), len);
        let mut step = lowest / 2;
        while step > 0 {
            if rank + step < size {
                self.send(rank + step, bytes.clone());
            }
            step /= 2;
        }
        bytes
    }

    /// Sends this rank's message to rank 0, which gets those of the others in order; `len` says how long each is.
    pub fn gather(&self, bytes: Vec<u8>, len: impl Fn(usize) -> usize) -> Vec<Vec<u8>> {
        if self.rank() > 0 {
            self.send(0, bytes);
            return Vec::new();
        }
        for from in 1..self.size() {
            self.sure(self.ranks.expect(from, len(from)));
        }
        let each = |from: usize| self.wait(&format!("rank {from}"), || self.sure(self.ranks.poll(from)));
        (1..self.size()).map(each).collect()
    }

    /// Waits until all ranks are here. Nothing that was sent before is under way then.
    pub fn meet(&self) {
        self.gather(Vec::new(), |_| 0);
        self.broadcast(Vec::new(), 0);
        self.settle();
    }

    /// Waits until all that was sent has left.
    pub fn settle(&self) {
        self.wait("what it sent", || (self.sure(self.ranks.unsent()) == 0).then_some(()));
    }
}
