//! Other ranks that are not there: what arrives from them is zero and takes no time. So one process measures what a rank does by
//! itself.

use kinglet_core::{error::Result, ranks::Ranks};
use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// A rank among others that are imagined.
pub(super) struct Imagined {
    rank: usize,
    /// The lengths of what is expected from each.
    expected: Vec<Mutex<VecDeque<usize>>>,
    /// The messages that were sent along the chain: their lengths, and when.
    sent: Mutex<Vec<(usize, Instant)>>,
}

impl Imagined {
    pub(super) fn new(rank: usize, size: usize) -> Imagined {
        Imagined { rank, expected: (0..size).map(|_| Mutex::default()).collect(), sent: Mutex::default() }
    }

    /// The neighbour that this rank's sums go to: the next one; of the last rank, the one before, which gets the totals.
    fn next(&self) -> usize {
        if self.rank + 1 < self.size() { self.rank + 1 } else { self.rank - 1 }
    }

    /// How long before the last of these chunks each was sent, in seconds. Forgets what has been sent.
    pub(super) fn ahead(&self, chunks: &[usize]) -> Option<Vec<f64>> {
        let sent = std::mem::take(&mut *self.sent.lock().unwrap_or_else(PoisonError::into_inner));
        let is_chain = |sent: &&[(usize, Instant)]| sent.iter().map(|(len, _)| len).eq(chunks);
        let chain = sent.windows(chunks.len().max(1)).find(is_chain)?;
        let (_, last) = chain.last()?;
        Some(chain.iter().map(|(_, at)| (*last - *at).as_secs_f64()).collect())
    }
}

impl Ranks for Imagined {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.expected.len()
    }

    fn send(&self, to: usize, bytes: Vec<u8>) -> Result<()> {
        if to == self.next() {
            let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
            sent.push((bytes.len(), Instant::now()));
        }
        Ok(())
    }

    fn expect(&self, from: usize, len: usize) -> Result<()> {
        self.expected[from].lock().unwrap_or_else(PoisonError::into_inner).push_back(len);
        Ok(())
    }

    fn poll(&self, from: usize) -> Result<Option<Vec<u8>>> {
        let len = self.expected[from].lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        Ok(Some(vec![0; len.expect("a message is expected")]))
    }

    fn unsent(&self) -> Result<usize> {
        Ok(0)
    }

    fn abort(&self, why: &str) -> ! {
        panic!("{why}")
    }
}
