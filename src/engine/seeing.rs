//! What is computed a step at a time, and read once it is whole.

use super::{bell::lock, end::End, reading::Measuring};
use std::{
    fmt,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

/// Something on its way that is read once it is whole. Dropping this ends it at the next step.
pub struct Seeing<T> {
    pub(super) measuring: Measuring,
    pub(super) seen: Arc<Mutex<Option<T>>>,
}

impl<T> Seeing<T> {
    /// Ready once it has ended; else whoever asks is woken then.
    pub fn poll(&mut self, cx: &mut Context) -> Poll<()> {
        self.measuring.poll(cx)
    }

    /// Waits until it has ended. Returns whether it has.
    pub fn wait(&mut self, within: Duration) -> bool {
        self.measuring.wait(within)
    }

    /// How it ended; `None` before that.
    pub fn end(&self) -> Option<End> {
        self.measuring.end()
    }

    /// Takes what was computed, once, if it has finished.
    pub fn take(&mut self) -> Option<T> {
        lock(&self.seen).take()
    }
}

impl<T> fmt::Debug for Seeing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seeing").field("end", &self.end()).finish_non_exhaustive()
    }
}
