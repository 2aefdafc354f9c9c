//! What is being computed, as server-sent events.

use super::answer::{Failure, Work};
use hyper::body::Bytes;
use std::{
    fmt::Write as _,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep};

/// What ends a stream.
const DONE: &str = "data: [DONE]\n\n";

/// So many pieces are sent as soon as they come, so that nobody waits for the first words: in a chat, the first piece only
/// says who speaks.
const AT_ONCE: usize = 2;

/// How long a stream may say nothing. Proxies give up on a connection that does.
const SILENCE: Duration = Duration::from_secs(15);

/// The pieces of a stream. Dropping it stops the work.
pub(super) struct Events {
    work: Option<Box<dyn Work>>,
    sent: usize,
    gather: Duration,
    pause: Option<Pin<Box<Sleep>>>,
    silence: Pin<Box<Sleep>>,
    /// Ready once the server ends.
    closed: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Events {
    /// What comes within `gather` is one piece. Once `closed` is ready, the client is told so.
    pub(super) fn new(
        work: Box<dyn Work>,
        gather: Duration,
        closed: impl Future<Output = ()> + Send + 'static,
    ) -> Events {
        let silence = Box::pin(sleep(SILENCE));
        Events { work: Some(work), sent: 0, gather, pause: None, silence, closed: Box::pin(closed) }
    }

    /// Whether all was sent.
    pub(super) fn is_over(&self) -> bool {
        self.work.is_none()
    }

    /// The next piece; none at the end.
    pub(super) fn poll(&mut self, cx: &mut Context) -> Poll<Option<Bytes>> {
        loop {
            let Some(work) = &mut self.work else { return Poll::Ready(None) };
            if self.closed.as_mut().poll(cx).is_ready() {
                let closing = Failure::of(503, "server_closing", "the server was told to end");
                self.work = None;
                return Poll::Ready(Some(failed(&closing)));
            }
            if let Some(pause) = &mut self.pause {
                if pause.as_mut().poll(cx).is_pending() && work.poll_urgent(cx).is_pending() {
                    return self.nothing_yet(cx);
                }
                self.pause = None;
            }
            if work.poll(cx).is_pending() {
                return self.nothing_yet(cx);
            }
            let (piece, over) = next(&mut **work);
            if over {
                self.work = None;
            }
            self.sent += usize::from(!piece.is_empty());
            if self.sent >= AT_ONCE || piece.is_empty() {
                self.pause = Some(Box::pin(sleep(self.gather)));
            }
            if !piece.is_empty() {
                self.silence.as_mut().reset(Instant::now() + SILENCE);
                return Poll::Ready(Some(piece));
            }
        }
    }

    /// Says that there is nothing, once nothing was said for long.
    fn nothing_yet(&mut self, cx: &mut Context) -> Poll<Option<Bytes>> {
        ready!(self.silence.as_mut().poll(cx));
        self.silence.as_mut().reset(Instant::now() + SILENCE);
        Poll::Ready(Some(Bytes::from_static(b": nothing yet\n\n")))
    }
}

/// What has come, and whether that is all.
fn next(work: &mut dyn Work) -> (Bytes, bool) {
    let over = work.is_done();
    match work.events() {
        Ok(events) => {
            let mut text = String::new();
            events.iter().for_each(|event| _ = write!(text, "data: {event}\n\n"));
            if over {
                text += DONE;
            }
            (text.into(), over)
        }
        Err(failure) => (failed(&failure), true),
    }
}

/// The end of a stream that fails.
fn failed(failure: &Failure) -> Bytes {
    format!("data: {}\n\n{DONE}", failure.json()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::future::{pending, poll_fn};

    /// Never has anything.
    struct Nothing;

    impl Work for Nothing {
        fn poll(&mut self, _: &mut Context) -> Poll<()> {
            Poll::Pending
        }

        fn poll_urgent(&mut self, _: &mut Context) -> Poll<()> {
            Poll::Pending
        }

        fn events(&mut self) -> Result<Vec<Value>, Failure> {
            Ok(Vec::new())
        }

        fn is_done(&self) -> bool {
            false
        }

        fn whole(&mut self) -> Result<Value, Failure> {
            Ok(Value::Null)
        }
    }

    #[test]
    fn nothing_is_told_in_time_while_pieces_are_gathered_too() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let hour = Duration::from_secs(3600);
            for pause in [None, Some(Box::pin(sleep(hour)))] {
                let mut events = Events::new(Box::new(Nothing), hour, pending());
                events.pause = pause;
                assert!(poll_fn(|cx| Poll::Ready(events.poll(cx).is_pending())).await);
                events.silence.as_mut().reset(Instant::now());
                let said = tokio::time::timeout(Duration::from_secs(10), poll_fn(|cx| events.poll(cx))).await;
                assert_eq!(said.unwrap().unwrap(), &b": nothing yet\n\n"[..]);
            }
        });
    }
}
