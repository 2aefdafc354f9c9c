//! One connection: what it waits for, and for how long it may.

use super::{metrics::Metrics, options::Limits, service::Service};
use hyper::{
    body::{Body, Incoming},
    rt::{Read, ReadBuf, ReadBufCursor, Write},
    server::conn::http1,
    service::HttpService,
};
use hyper_util::rt::TokioIo;
use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker},
    time::Instant,
};
use tokio::{
    net::TcpStream,
    time::{Sleep, sleep_until},
};

/// What is known of a connection.
pub(super) struct Line {
    state: Mutex<State>,
    service: Arc<Service>,
}

struct State {
    /// Requests that are being answered.
    busy: usize,
    /// When the answers began that are in the hands of the writer but not in those of the system: it holds megabytes for a
    /// client that reads slowly.
    leaving: Vec<Instant>,
    /// Since when there is neither.
    idle: Instant,
    /// Since when the head of the next request arrives.
    head: Option<Instant>,
    /// What has arrived of it, until it is whole.
    bytes: Option<Vec<u8>>,
    /// Whether the length of its body was told in two ways.
    is_double: bool,
    /// Since when the client reads nothing.
    blocked: Option<Instant>,
    ending: Ending,
    waker: Option<Waker>,
}

/// Whether a connection is to end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    /// After what is being answered.
    Soon,
    Now,
}

/// While this lives, a request is being answered. Counts it, also if its client leaves.
pub(super) struct Busy {
    line: Arc<Line>,
    since: Instant,
    /// Whether all of the answer was taken by the writer.
    pub(super) over: bool,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.line.state();
        state.busy -= 1;
        state.idle = Instant::now();
        if self.over {
            state.leaving.push(self.since);
        } else {
            self.line.metrics().gone.fetch_add(1, Relaxed);
        }
        if state.busy == 0 {
            state.bytes = Some(Vec::new());
        }
    }
}

impl Line {
    pub(super) fn new(service: Arc<Service>) -> Line {
        service.metrics.connections.fetch_add(1, Relaxed);
        let state = State {
            busy: 0,
            leaving: Vec::new(),
            idle: Instant::now(),
            head: None,
            bytes: Some(Vec::new()),
            is_double: false,
            blocked: None,
            ending: Ending::No,
            waker: None,
        };
        Line { state: Mutex::new(state), service }
    }

    fn metrics(&self) -> &Metrics {
        &self.service.metrics
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// A request begins. Also says whether the length of its body was told in two ways.
    pub(super) fn begin(self: &Arc<Line>) -> (Busy, bool) {
        let mut state = self.state();
        state.busy += 1;
        (state.head, state.bytes) = (None, None);
        let busy = Busy { line: self.clone(), since: Instant::now(), over: false };
        (busy, std::mem::take(&mut state.is_double))
    }

    /// Since when it is idle, if it is.
    pub(super) fn idle(&self) -> Option<Instant> {
        let state = self.state();
        (state.is_free() && state.ending == Ending::No).then_some(state.idle)
    }

    /// Ends it after what is being answered.
    pub(super) fn end_soon(&self) {
        self.end(Ending::Soon);
    }

    /// Ends it now.
    pub(super) fn end_now(&self) {
        self.end(Ending::Now);
    }

    fn end(&self, ending: Ending) {
        let mut state = self.state();
        state.ending = ending;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// The moment at which it has taken too long, if nothing happens until then.
    fn deadline(&self, limits: &Limits) -> Option<Instant> {
        let state = self.state();
        let blocked = state.blocked.map(|since| since + limits.stall);
        let waits = match state.head {
            Some(since) => since + limits.head_within,
            None => state.idle + limits.idle,
        };
        let waits = state.is_free().then_some(waits);
        blocked.into_iter().chain(waits).min()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // Of these the client has not got all.
        self.metrics().gone.fetch_add(self.state().leaving.len() as u64, Relaxed);
        self.metrics().connections.fetch_sub(1, Relaxed);
    }
}

impl State {
    /// Whether no answer is made or is on its way.
    fn is_free(&self) -> bool {
        self.busy == 0 && self.leaving.is_empty()
    }

    /// Something arrived.
    fn arrived(&mut self, bytes: &[u8], limit: usize) {
        if self.busy > 0 || bytes.is_empty() {
            return;
        }
        self.head.get_or_insert_with(Instant::now);
        let Some(all) = &mut self.bytes else { return };
        // The end may have begun before.
        let from = all.len().saturating_sub(2);
        all.extend_from_slice(bytes);
        if let Some(end) = end_of_head(&all[from..]) {
            self.is_double = is_double(&all[..from + end]);
            self.bytes = None;
        } else if all.len() > limit {
            self.bytes = None;
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where an empty line begins; hyper takes a bare line feed for a line's end, too.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    (0..bytes.len()).find(|&at| bytes[at..].starts_with(b"\n\r\n") || bytes[at..].starts_with(b"\n\n"))
}

/// Whether a head tells the length of its body in two ways. Servers in a row may each believe another one, and then take the
/// end of a body for a request; hyper believes one and shows only that. A head that comes before the answer to the last one
/// is not looked at; for it, as for all, the connection ends after a body that comes in pieces, so that nothing behind
/// such a body is taken for a request.
fn is_double(head: &[u8]) -> bool {
    let names = head.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b':').next());
    let names: Vec<_> = names.map(|name| name.trim_ascii().to_ascii_lowercase()).collect();
    [&b"content-length"[..], b"transfer-encoding"].iter().all(|name| names.iter().any(|found| found == name))
}

/// The client's end, shared by the one task that serves it.
struct Peer {
    socket: TokioIo<TcpStream>,
    /// What was read ahead of its use, to see whether the client is still there.
    ahead: Vec<u8>,
}

impl Peer {
    /// Reads into `to`, first what was read ahead.
    fn poll_read(&mut self, cx: &mut Context, to: &mut ReadBuf) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, to.unfilled());
        }
        let n = self.ahead.len().min(to.unfilled().remaining());
        to.unfilled().put_slice(&self.ahead[..n]);
        self.ahead.drain(..n);
        Poll::Ready(Ok(()))
    }

    /// Ready once the client has hung up. hyper looks for that only while nothing else has come from the client; a line end
    /// too many, or the next request, hides it. Of a client that sends more than `limit` ahead it is not seen either.
    fn poll_gone(&mut self, cx: &mut Context, limit: usize) -> Poll<()> {
        let mut part = [0; 4 << 10];
        while self.ahead.len() < limit {
            let mut part = ReadBuf::new(&mut part);
            match Pin::new(&mut self.socket).poll_read(cx, part.unfilled()) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !part.filled().is_empty() => self.ahead.extend_from_slice(part.filled()),
                Poll::Ready(_) => return Poll::Ready(()),
            }
            // hyper may be waiting for just that.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// A socket that notes what happens to it.
pub(super) struct Watched {
    peer: Arc<Mutex<Peer>>,
    line: Arc<Line>,
    head: usize,
}

impl Watched {
    pub(super) fn new(socket: TcpStream, line: Arc<Line>, limits: &Limits) -> Watched {
        let peer = Peer { socket: TokioIo::new(socket), ahead: Vec::new() };
        Watched { peer: Arc::new(Mutex::new(peer)), line, head: limits.head }
    }

    /// Does something with the socket.
    fn with<T>(&self, act: impl FnOnce(Pin<&mut TokioIo<TcpStream>>) -> T) -> T {
        act(Pin::new(&mut locked(&self.peer).socket))
    }

    /// Notes whether the client reads.
    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let mut state = self.line.state();
        if written.is_pending() {
            state.blocked.get_or_insert_with(Instant::now);
        } else {
            state.blocked = None;
        }
        written
    }

    /// Everything was handed to the system.
    fn sent(&self) {
        let mut state = self.line.state();
        if !state.leaving.is_empty() {
            state.idle = Instant::now();
        }
        state.leaving.drain(..).for_each(|since| self.line.metrics().took(since.elapsed()));
    }
}

impl Read for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context, mut to: ReadBufCursor) -> Poll<io::Result<()>> {
        // What hyper gives cannot be looked at afterwards, but what is put in by ourselves can.
        let mut part = [0; 8 << 10];
        let room = to.remaining().min(part.len());
        let mut part = ReadBuf::new(&mut part[..room]);
        let read = locked(&self.peer).poll_read(cx, &mut part);
        if let Poll::Ready(Ok(())) = &read {
            self.line.state().arrived(part.filled(), self.head);
            to.put_slice(part.filled());
        }
        read
    }
}

impl Write for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.with(|socket| socket.poll_write(cx, bytes));
        self.wrote(written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        let flushed = self.with(|socket| socket.poll_flush(cx));
        if matches!(flushed, Poll::Ready(Ok(()))) {
            // hyper asks for this only when it holds nothing more.
            self.sent();
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        self.with(|socket| socket.poll_shutdown(cx))
    }

    fn is_write_vectored(&self) -> bool {
        self.with(|socket| socket.is_write_vectored())
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context, bytes: &[io::IoSlice]) -> Poll<io::Result<usize>> {
        let written = self.with(|socket| socket.poll_write_vectored(cx, bytes));
        self.wrote(written)
    }
}

/// A connection with its clock. It ends when hyper ends it, when it takes too long, or when it is told to.
pub(super) struct Timed<S: HttpService<Incoming>> {
    inner: Pin<Box<http1::Connection<Watched, S>>>,
    peer: Arc<Mutex<Peer>>,
    line: Arc<Line>,
    limits: Limits,
    clock: Option<Pin<Box<Sleep>>>,
    is_ending: bool,
}

impl<S: HttpService<Incoming>> Timed<S>
where
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::ResBody: 'static,
    <S::ResBody as Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Serves what comes from the socket.
    pub(super) fn new(http: &http1::Builder, socket: Watched, service: S, limits: Limits) -> Timed<S> {
        let (peer, line) = (socket.peer.clone(), socket.line.clone());
        let inner = Box::pin(http.serve_connection(socket, service));
        Timed { inner, peer, line, limits, clock: None, is_ending: false }
    }
}

impl<S> Future for Timed<S>
where
    S: HttpService<Incoming> + Unpin,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::ResBody: 'static,
    <S::ResBody as Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    http1::Connection<Watched, S>: Future<Output = hyper::Result<()>>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context) -> Poll<()> {
        let this = self.get_mut();
        let ending = {
            let mut state = this.line.state();
            state.waker = Some(cx.waker().clone());
            state.ending
        };
        match ending {
            Ending::Now => return Poll::Ready(()),
            Ending::Soon if !std::mem::replace(&mut this.is_ending, true) => {
                // What is in the middle of a head has no request yet that would be lost.
                this.inner.as_mut().graceful_shutdown();
            }
            _ => {}
        }
        if let Poll::Ready(result) = this.inner.as_mut().poll(cx) {
            let is_malformed = result.is_err_and(|error| error.is_parse());
            this.line.metrics().malformed.fetch_add(is_malformed.into(), Relaxed);
            return Poll::Ready(());
        }
        let is_busy = this.line.state().busy > 0;
        if is_busy && locked(&this.peer).poll_gone(cx, this.limits.head).is_ready() {
            return Poll::Ready(());
        }
        let Some(deadline) = this.line.deadline(&this.limits).map(Into::into) else {
            this.clock = None;
            return Poll::Pending;
        };
        let clock = this.clock.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if clock.deadline() != deadline {
            clock.as_mut().reset(deadline);
        }
        if clock.as_mut().poll(cx).is_ready() {
            let is_idle = this.line.state().head.is_none() && this.line.idle().is_some();
            this.line.metrics().timed_out.fetch_add((!is_idle).into(), Relaxed);
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::is_double;

    #[test]
    fn two_lengths_are_seen_in_any_order_and_spelling() {
        for (head, double) in [
            ("POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked", true),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\nHost: a\r\nCONTENT-LENGTH:3", true),
            ("POST / HTTP/1.1\r\nTransfer-Encoding : chunked\r\nContent-Length: 3", true),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked", false),
            ("POST / HTTP/1.1\r\nContent-Length: 3\r\nX: transfer-encoding", false),
        ] {
            assert_eq!(is_double(head.as_bytes()), double, "{head}");
        }
    }
}
