//! What a reader holds of what is being computed.

use super::{end::End, mailbox::Inbox};
use crate::inference::{Piece, TokenScore};
use std::{
    fmt,
    task::{Context, Poll},
    time::Duration,
};

/// A text on its way. Its pieces wait here until they are taken; while too many do, nothing is computed for it. Dropping
/// it ends it at the next token.
pub struct Text {
    pub(super) inbox: Inbox<Piece>,
    pub(super) prompt_tokens: usize,
}

impl Text {
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

    /// Takes the pieces that have come, in order: those that iterating over the generation gives.
    pub fn take(&mut self) -> Vec<Piece> {
        self.inbox.take()
    }

    /// How it ended; `None` before that, and while there are pieces to take.
    pub fn end(&self) -> Option<End> {
        self.inbox.end()
    }

    /// How many tokens the prompt has.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }
}

/// A scoring on its way, in the same manner as a [`Text`].
pub struct Measuring {
    pub(super) inbox: Inbox<TokenScore>,
}

impl Measuring {
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

    /// Takes the scores that have come, in order.
    pub fn take(&mut self) -> Vec<TokenScore> {
        self.inbox.take()
    }

    /// How it ended; `None` before that, and while there are scores to take.
    pub fn end(&self) -> Option<End> {
        self.inbox.end()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Text").field("prompt_tokens", &self.prompt_tokens).field("end", &self.end()).finish()
    }
}

impl fmt::Debug for Measuring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Measuring").field("end", &self.end()).finish()
    }
}
