//! Messages under way. Their bytes stay where they are until MPI says that it is done with them.

use crate::calls::{Calls, Constants, Handle, Status};
use kinglet_core::error::{Error, Result};
use std::{
    collections::VecDeque,
    ffi::{c_int, c_void},
    mem,
    ops::Range,
};

/// The longest message that MPI is given: it counts in `int`. Longer ones go in pieces, on which both sides agree.
const LONGEST: usize = 1 << 30;

/// All messages of kinglet's have one tag: MPI keeps the order of those between two processes.
const TAG: c_int = 0;

/// The pieces of a message of `len` bytes: at least one, so that an empty message arrives too.
fn pieces(len: usize, longest: usize) -> impl Iterator<Item = Range<usize>> {
    let count = len.div_ceil(longest).max(1);
    (0..count).map(move |i| i * longest..len.min((i + 1) * longest))
}

/// A message that is being sent or received.
struct Message<H> {
    /// Neither read nor written by anybody but MPI while there are requests.
    bytes: Vec<u8>,
    /// A request for each piece that is under way, with its length.
    requests: VecDeque<(H, usize)>,
}

/// All messages that are under way.
pub(crate) struct Messages<H: Handle> {
    calls: Calls<H>,
    constants: Constants<H>,
    /// Those to each rank and those from it, the oldest first.
    to: Vec<VecDeque<Message<H>>>,
    from: Vec<VecDeque<Message<H>>>,
}

/// A rank's number, as MPI counts.
fn number(n: usize) -> c_int {
    c_int::try_from(n).expect("ranks and pieces are counted in int")
}

impl<H: Handle> Messages<H> {
    /// No messages.
    ///
    /// # Safety
    /// MPI must be initialized, and not be finished before these are dropped. Nobody else calls it while a method runs.
    pub(crate) unsafe fn new(calls: Calls<H>, constants: Constants<H>, ranks: usize) -> Messages<H> {
        let none = || (0..ranks).map(|_| VecDeque::new()).collect();
        Messages { calls, constants, to: none(), from: none() }
    }

    /// Begins to send.
    pub(crate) fn send(&mut self, to: usize, bytes: Vec<u8>) -> Result<()> {
        let Constants { world, byte, no_request, .. } = self.constants;
        let mut message = Message { bytes, requests: VecDeque::new() };
        let result = pieces(message.bytes.len(), LONGEST).try_for_each(|piece| {
            let (mut request, len) = (no_request, piece.len());
            let start: *const c_void = message.bytes[piece].as_ptr().cast();
            // SAFETY: `message` keeps these bytes as they are until the request is done: see `Message::is_done` and `drop`.
            let code = unsafe { (self.calls.send)(start, number(len), byte, number(to), TAG, world, &mut request) };
            self.calls.check(code)?;
            message.requests.push_back((request, len));
            Ok(())
        });
        self.to[to].push_back(message);
        result
    }

    /// Begins to receive.
    pub(crate) fn expect(&mut self, from: usize, len: usize) -> Result<()> {
        let Constants { world, byte, no_request, .. } = self.constants;
        let mut message = Message { bytes: vec![0; len], requests: VecDeque::new() };
        let start = message.bytes.as_mut_ptr();
        let result = pieces(len, LONGEST).try_for_each(|piece| {
            let mut request = no_request;
            // SAFETY: the piece is a part of the bytes; `message` leaves them alone until the request is done.
            let code = unsafe {
                let start = start.add(piece.start).cast();
                (self.calls.receive)(start, number(piece.len()), byte, number(from), TAG, world, &mut request)
            };
            self.calls.check(code)?;
            message.requests.push_back((request, piece.len()));
            Ok(())
        });
        self.from[from].push_back(message);
        result
    }

    /// The oldest message that is expected from a rank, if it is here. Whoever waits for it also lets others leave.
    pub(crate) fn poll(&mut self, from: usize) -> Result<Option<Vec<u8>>> {
        self.unsent()?;
        let Messages { calls, constants, .. } = *self;
        let message = self.from[from].front_mut().expect("a message is expected");
        if !message.is_done(&calls, &constants, true)? {
            return Ok(None);
        }
        Ok(self.from[from].pop_front().map(|message| message.bytes))
    }

    /// How many messages have not left yet.
    pub(crate) fn unsent(&mut self) -> Result<usize> {
        let Messages { calls, constants, .. } = *self;
        let mut left = 0;
        for to in &mut self.to {
            while let Some(message) = to.front_mut()
                && message.is_done(&calls, &constants, false)?
            {
                to.pop_front();
            }
            left += to.len();
        }
        Ok(left)
    }

    /// How many messages are under way.
    pub(crate) fn len(&self) -> usize {
        self.to.iter().chain(&self.from).map(VecDeque::len).sum()
    }
}

impl<H: Handle> Message<H> {
    /// Whether MPI is done with it. A message that was received has all the bytes that were expected.
    fn is_done(&mut self, calls: &Calls<H>, constants: &Constants<H>, received: bool) -> Result<bool> {
        while let Some((request, len)) = self.requests.front_mut() {
            let (mut done, mut status) = (0, Status::default());
            // SAFETY: the request is one that is not done yet, and there is room for the status.
            calls.check(unsafe { (calls.test)(request, &mut done, &mut status) })?;
            if done == 0 {
                return Ok(false);
            }
            let (mut count, len) = (0, *len);
            self.requests.pop_front();
            if received {
                // SAFETY: the status is the one that the library has just written.
                calls.check(unsafe { (calls.count)(&status, constants.byte, &mut count) })?;
                if count != number(len) {
                    let what = format!("a message of {count} bytes came where one of {len} was expected");
                    return Err(Error::Ranks(what));
                }
            }
        }
        Ok(true)
    }
}

impl<H: Handle> Drop for Messages<H> {
    /// MPI may still read and write what is under way: those bytes are never freed.
    fn drop(&mut self) {
        for queue in self.to.iter_mut().chain(&mut self.from) {
            queue
                .drain(..)
                .filter(|message| !message.requests.is_empty())
                .for_each(|message| mem::forget(message.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_go_in_pieces() {
        let all = |len, longest| pieces(len, longest).map(|piece| (piece.start, piece.end)).collect::<Vec<_>>();
        assert_eq!(all(0, 4), [(0, 0)]);
        assert_eq!(all(3, 4), [(0, 3)]);
        assert_eq!(all(4, 4), [(0, 4)]);
        assert_eq!(all(9, 4), [(0, 4), (4, 8), (8, 9)]);
        let gpt2_xl = 4 * 1_557_611_200;
        let lens: Vec<_> = pieces(gpt2_xl, LONGEST).map(|piece| piece.len()).collect();
        assert_eq!(lens.iter().sum::<usize>(), gpt2_xl);
        assert!(lens.len() == 6 && lens.iter().all(|&len| len > 0 && c_int::try_from(len).is_ok()));
    }
}
