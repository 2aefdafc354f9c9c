//! Between the engine and a reader: what has come and was not read yet.

use super::{
    bell::{Bell, lock},
    end::End,
    figures::{Figures, Stage},
};
use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

/// What the two sides share.
struct Mailbox<T> {
    state: Mutex<State<T>>,
    came: Condvar,
    /// Whether the reader is gone.
    gone: AtomicBool,
}

struct State<T> {
    items: Vec<T>,
    /// How many tokens `items` stand for.
    unread: usize,
    /// Whether the engine waits for the reader.
    held: bool,
    end: Option<End>,
    /// How many tokens may be unread before the engine waits for the reader.
    limit: usize,
    waker: Option<Waker>,
    /// Whether the reader is only woken once it should not leave what is there any longer.
    patient: bool,
}

impl<T> State<T> {
    fn is_ready(&self) -> bool {
        !self.items.is_empty() || self.end.is_some()
    }

    /// Whether nothing more will come, or the engine would soon wait for the reader.
    fn is_urgent(&self) -> bool {
        self.end.is_some() || self.held || self.unread > self.limit / 2
    }
}

impl<T> Mailbox<T> {
    /// Changes what is there, and wakes the reader.
    fn post(&self, change: impl FnOnce(&mut State<T>)) {
        let waker = {
            let mut state = lock(&self.state);
            change(&mut state);
            if state.patient && !state.is_urgent() { None } else { state.waker.take() }
        };
        self.came.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A new mailbox's two sides. The engine's figures have it at `stage` from before.
pub(super) fn mailbox<T>(stage: Stage, figures: Arc<Mutex<Figures>>, bell: Arc<Bell>) -> (Outbox<T>, Inbox<T>) {
    let state =
        State { items: Vec::new(), unread: 0, held: false, end: None, limit: usize::MAX, waker: None, patient: false };
    let mailbox = Arc::new(Mailbox { state: Mutex::new(state), came: Condvar::new(), gone: AtomicBool::new(false) });
    let scoring = stage == Stage::Scoring;
    (Outbox { mailbox: mailbox.clone(), figures, stage, scoring, ended: false }, Inbox { mailbox, bell })
}

/// The engine's side. However it is dropped, the reader is told an end, and the figures are right.
pub(super) struct Outbox<T> {
    mailbox: Arc<Mailbox<T>>,
    figures: Arc<Mutex<Figures>>,
    stage: Stage,
    scoring: bool,
    ended: bool,
}

impl<T> Outbox<T> {
    /// Gives the reader items that stand for so many tokens.
    pub(super) fn send(&self, items: impl IntoIterator<Item = T>, tokens: usize) {
        self.mailbox.post(|state| {
            state.items.extend(items);
            state.unread += tokens;
        });
    }

    /// Whether the reader is gone.
    pub(super) fn is_gone(&self) -> bool {
        self.mailbox.gone.load(Ordering::Acquire)
    }

    /// Waits for the reader from now on, if more than `limit` tokens are unread. Returns whether it does.
    pub(super) fn hold_above(&self, limit: usize) -> bool {
        let mut state = lock(&self.mailbox.state);
        state.limit = limit;
        state.held = state.unread > limit;
        state.held
    }

    /// Whether the reader has not read since.
    pub(super) fn is_held(&self) -> bool {
        lock(&self.mailbox.state).held
    }

    /// Tells the figures what is done with it now.
    pub(super) fn stage(&mut self, stage: Stage) {
        lock(&self.figures).pass_on(self.stage, stage);
        self.stage = stage;
    }

    /// Tells the reader that this is all.
    pub(super) fn end(mut self, end: End) {
        self.finish(end);
    }

    fn finish(&mut self, end: End) {
        if !std::mem::replace(&mut self.ended, true) {
            // First the figures: whoever has seen the end finds it there.
            let counted = (!self.is_gone()).then_some(&end);
            lock(&self.figures).leave(self.stage, counted, self.scoring);
            self.mailbox.post(|state| state.end = Some(end));
        }
    }
}

impl<T> Drop for Outbox<T> {
    fn drop(&mut self) {
        self.finish(if std::thread::panicking() {
            End::Failed("the engine has failed".to_owned())
        } else {
            End::Closed
        });
    }
}

/// The reader's side. Dropping it tells the engine that nobody reads any more.
pub(super) struct Inbox<T> {
    mailbox: Arc<Mailbox<T>>,
    bell: Arc<Bell>,
}

impl<T> Inbox<T> {
    pub(super) fn poll(&mut self, cx: &mut Context) -> Poll<()> {
        self.poll_for(cx, false)
    }

    /// The same for a reader that gathers what comes: ready once it has ended, or half of what may be unread is.
    pub(super) fn poll_urgent(&mut self, cx: &mut Context) -> Poll<()> {
        self.poll_for(cx, true)
    }

    fn poll_for(&mut self, cx: &mut Context, patient: bool) -> Poll<()> {
        let mut state = lock(&self.mailbox.state);
        if if patient { state.is_urgent() } else { state.is_ready() } {
            return Poll::Ready(());
        }
        state.patient = patient;
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    pub(super) fn wait(&mut self, within: Duration) -> bool {
        let state = lock(&self.mailbox.state);
        let waited = self.mailbox.came.wait_timeout_while(state, within, |state| !state.is_ready());
        waited.unwrap_or_else(PoisonError::into_inner).0.is_ready()
    }

    pub(super) fn take(&mut self) -> Vec<T> {
        let mut state = lock(&self.mailbox.state);
        state.unread = 0;
        if std::mem::take(&mut state.held) {
            self.bell.ring();
        }
        std::mem::take(&mut state.items)
    }

    pub(super) fn end(&self) -> Option<End> {
        let state = lock(&self.mailbox.state);
        state.end.clone().filter(|_| state.items.is_empty())
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        self.mailbox.gone.store(true, Ordering::Release);
        if lock(&self.mailbox.state).end.is_none() {
            self.bell.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::atomic::AtomicUsize, task::Wake};

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Count>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn who_gathers_is_woken_at_half_of_what_may_be_unread_and_at_the_end() {
        let figures = Arc::new(Mutex::new(Figures::default()));
        lock(&figures).enter(Stage::Running);
        let (out, mut inbox) = mailbox(Stage::Running, figures, Arc::default());
        let count = Arc::new(Count::default());
        let waker = count.clone().into();
        let mut cx = Context::from_waker(&waker);
        out.hold_above(8);
        for woken in 1..=3 {
            assert!(inbox.poll_urgent(&mut cx).is_pending());
            for sent in 1..=4 {
                out.send([sent], 1);
            }
            assert_eq!(count.0.load(Ordering::SeqCst), woken - 1, "there is room for as much again");
            assert!(inbox.poll(&mut cx).is_ready() && inbox.poll_urgent(&mut cx).is_pending());
            out.send([5], 1);
            assert_eq!(count.0.load(Ordering::SeqCst), woken);
            assert!(inbox.poll_urgent(&mut cx).is_ready());
            assert_eq!(inbox.take(), [1, 2, 3, 4, 5]);
        }
        assert!(inbox.poll(&mut cx).is_pending(), "who reads what comes is woken by anything");
        out.send([6], 1);
        assert_eq!(count.0.load(Ordering::SeqCst), 4);
        inbox.take();
        assert!(inbox.poll_urgent(&mut cx).is_pending());
        out.end(End::Closed);
        assert_eq!(count.0.load(Ordering::SeqCst), 5);
        assert!(inbox.poll_urgent(&mut cx).is_ready() && inbox.end() == Some(End::Closed));
    }
}
