//! What a reader holds of what is being computed.

use super::{end::End, mailbox::Inbox};
use crate::inference::{Piece, TokenScore};
use std::{
    fmt,
    task::{Context, Poll},
    time::Duration,
};

/// What is on its way to a reader. It waits here until it is taken; while too much does, nothing is computed for it. Dropping
/// this ends it at the next token.
pub struct Reading<T> {
    pub(super) inbox: Inbox<T>,
    pub(super) prompt_tokens: usize,
}

/// A text on its way: the pieces that iterating over the generation gives.
pub type Text = Reading<Piece>;

/// A scoring on its way.
pub type Measuring = Reading<TokenScore>;

impl<T> Reading<T> {
    /// Ready once there is something to take, or it has ended; else whoever asks is woken when it is.
    pub fn poll(&mut self, cx: &mut Context) -> Poll<()> {
        self.inbox.poll(cx)
    }

    /// For a reader that gathers what comes: ready once it has ended, or half of [`Options::unread`](super::Options::unread)
    /// waits to be taken; else whoever asks is woken then, and not before.
    pub fn poll_urgent(&mut self, cx: &mut Context) -> Poll<()> {
        self.inbox.poll_urgent(cx)
    }

    /// Waits until there is something to take, or it has ended. Returns whether it is so.
    pub fn wait(&mut self, within: Duration) -> bool {
        self.inbox.wait(within)
    }

    /// Takes what has come, in order.
    pub fn take(&mut self) -> Vec<T> {
        self.inbox.take()
    }

    /// How it ended; `None` before that, and while there is something to take.
    pub fn end(&self) -> Option<End> {
        self.inbox.end()
    }
}

impl Text {
    /// How many tokens the prompt has.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }
}

impl<T> fmt::Debug for Reading<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").field("end", &self.end()).finish_non_exhaustive()
    }
}
