//! A text or a scoring that is being computed, as far as its reader is concerned.

use super::{end::End, figures::Stage, mailbox::Outbox};
use std::time::{Duration, Instant};

/// What its reader lets it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seat {
    /// It is computed.
    At,
    /// Its reader has too much to read, since then.
    Held(Instant),
    /// Its reader has read again, and it waits for a place.
    Back,
}

/// Work whose result goes to a reader.
pub(super) struct Open<W, T> {
    pub(super) work: W,
    pub(super) out: Outbox<T>,
    seat: Seat,
    /// Set once it has ended; then it only has to be told.
    pub(super) end: Option<End>,
}

impl<W, T> Open<W, T> {
    pub(super) fn new(work: W, out: Outbox<T>) -> Open<W, T> {
        Open { work, out, seat: Seat::At, end: None }
    }

    /// Whether it has a place.
    pub(super) fn is_at_work(&self) -> bool {
        self.seat == Seat::At && self.end.is_none()
    }

    /// Whether it would go on if it had a place.
    pub(super) fn is_back(&self) -> bool {
        self.seat == Seat::Back && self.end.is_none()
    }

    /// Gives it a place again.
    pub(super) fn seat(&mut self, stage: Stage) {
        self.seat = Seat::At;
        self.out.stage(stage);
    }

    /// Takes its place away if more than `limit` tokens are unread.
    pub(super) fn hold_above(&mut self, limit: usize, now: Instant) {
        if self.end.is_none() && self.out.hold_above(limit) {
            self.seat = Seat::Held(now);
            self.out.stage(Stage::Held);
        }
    }

    /// Looks at what the reader has done: gone, read at last, or not read for too long. `waiting` is what it does until it
    /// has a place again.
    pub(super) fn look(&mut self, stall: Duration, now: Instant, waiting: Stage) {
        if self.out.is_gone() {
            // The figures have it as cancelled.
            self.end = Some(End::Closed);
        } else if let Seat::Held(since) = self.seat {
            if !self.out.is_held() {
                self.seat = Seat::Back;
                self.out.stage(waiting);
            } else if now.duration_since(since) >= stall {
                self.end = Some(End::Stalled);
            }
        }
    }

    /// When its reader has not read for too long.
    pub(super) fn stalls_at(&self, stall: Duration) -> Option<Instant> {
        match self.seat {
            Seat::Held(since) => since.checked_add(stall),
            _ => None,
        }
    }
}

/// Tells the readers of those that have ended, and forgets them.
pub(super) fn clear<W, T>(all: &mut Vec<Open<W, T>>) {
    for Open { work, out, end, .. } in all.extract_if(.., |open| open.end.is_some()) {
        // What it has in memory is free before anyone knows.
        drop(work);
        out.end(end.expect("it has ended"));
    }
}
