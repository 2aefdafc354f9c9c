//! Threads of one process as ranks, so that tests need no MPI.

use super::carrier::Ranks;
use crate::error::{Error, Result};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
};

/// What arrives from a rank, and the lengths of what is expected.
type Inbox = Mutex<(Receiver<Vec<u8>>, VecDeque<usize>)>;

/// A rank that is a thread.
struct Thread {
    rank: usize,
    /// To each rank; taken away when this one ends.
    to: Mutex<Vec<Sender<Vec<u8>>>>,
    /// From each rank.
    from: Vec<Inbox>,
}

/// So many ranks, each for a thread of its own. One that is dropped, or that aborts, is lost to the others.
pub fn threads(size: usize) -> Vec<Arc<dyn Ranks>> {
    let mut to: Vec<Vec<_>> = (0..size).map(|_| Vec::new()).collect();
    let mut from: Vec<Vec<_>> = (0..size).map(|_| Vec::new()).collect();
    for to in &mut to {
        for from in &mut from {
            let (sender, receiver) = channel();
            to.push(sender);
            from.push(Mutex::new((receiver, VecDeque::new())));
        }
    }
    let ranks = to.into_iter().zip(from).enumerate();
    ranks.map(|(rank, (to, from))| Arc::new(Thread { rank, to: Mutex::new(to), from }) as Arc<dyn Ranks>).collect()
}

fn lost(rank: usize) -> Error {
    Error::Ranks(format!("rank {rank} was lost"))
}

impl Ranks for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.from.len()
    }

    fn send(&self, to: usize, bytes: Vec<u8>) -> Result<()> {
        let senders = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        senders.get(to).and_then(|sender| sender.send(bytes).ok()).ok_or_else(|| lost(to))
    }

    fn expect(&self, from: usize, len: usize) -> Result<()> {
        self.from[from].lock().unwrap_or_else(PoisonError::into_inner).1.push_back(len);
        Ok(())
    }

    fn poll(&self, from: usize) -> Result<Option<Vec<u8>>> {
        let mut guard = self.from[from].lock().unwrap_or_else(PoisonError::into_inner);
        let (receiver, expected) = &mut *guard;
        let len = *expected.front().expect("a message is expected");
        match receiver.try_recv() {
            Ok(bytes) => {
                assert_eq!(bytes.len(), len, "the message that rank {} expects from rank {from}", self.rank);
                expected.pop_front();
                Ok(Some(bytes))
            }
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(lost(from)),
        }
    }

    fn unsent(&self) -> Result<usize> {
        Ok(0)
    }

    fn abort(&self, why: &str) -> ! {
        self.to.lock().unwrap_or_else(PoisonError::into_inner).clear();
        panic!("rank {}: {why}", self.rank)
    }
}
