//! From a request to its answer.

use super::{
    answer::{Answer, Asked, Failure, Work},
    assets::{Asset, Sent},
    coding::{gzip, takes_gzip},
    connection::{Busy, Line},
    guard::{Guard, is_json},
    options::Limits,
    routes::{Found, Route, Verb, allowed, find, pairs},
    service::Service,
    sse::Events,
};
use flate2::Compression;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    header::{
        ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderName,
        HeaderValue, RETRY_AFTER, TRANSFER_ENCODING, VARY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
    },
    http::request::Parts,
};
use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, watch},
    task::spawn_blocking,
    time::{sleep, timeout},
};

/// How much of a body that is too large is read before the refusal, so that a client that sends first and reads then learns why;
/// in bodies of the largest size, and in time.
const DRAINED: usize = 8;
const DRAINING: Duration = Duration::from_secs(1);

/// JSON of this many bytes or fewer is not made smaller: it fits a packet.
const PACKED_FROM: usize = 1 << 10;

/// What all connections share.
pub(super) struct Host {
    pub(super) service: Arc<Service>,
    pub(super) routes: &'static [Route],
    pub(super) guard: Guard,
    /// Whether streams are to be cut.
    pub(super) cut: watch::Receiver<bool>,
    /// Bytes of bodies that are held.
    pub(super) bodies: Arc<AtomicUsize>,
    /// Begins the name of each request.
    pub(super) name: String,
    pub(super) requests: AtomicU64,
    /// Places for handlers.
    pub(super) places: Arc<Semaphore>,
}

/// The body of an answer. What is still to be done at its end is done when it is dropped.
pub(super) struct Reply {
    content: Content,
    busy: Busy,
}

enum Content {
    Whole(Bytes),
    Stream(Box<Events>),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let piece = match &mut this.content {
            Content::Whole(bytes) => Poll::Ready(Some(std::mem::take(bytes)).filter(|bytes| !bytes.is_empty())),
            Content::Stream(events) => events.poll(cx),
        };
        this.busy.over = this.content.is_over();
        piece.map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Stream(_) => SizeHint::default(),
        }
    }
}

impl Content {
    fn is_over(&self) -> bool {
        match self {
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Stream(events) => events.is_over(),
        }
    }
}

/// An answer before it has its headers.
struct Draft {
    status: StatusCode,
    kind: &'static str,
    content: Content,
    headers: HeaderMap,
}

impl Draft {
    fn whole(kind: &'static str, bytes: impl Into<Bytes>) -> Draft {
        let content = Content::Whole(bytes.into());
        Draft { status: StatusCode::OK, kind, content, headers: HeaderMap::new() }
    }

    fn empty(allow: HeaderValue) -> Draft {
        let mut draft = Draft::whole("", "");
        draft.status = StatusCode::NO_CONTENT;
        draft.headers.insert(ALLOW, allow);
        draft
    }

    /// A file of the page.
    fn of_asset(asset: &'static Asset, asked: &HeaderMap) -> Draft {
        let Sent { status, bytes, headers } = asset.sent(asked);
        let kind = if status == StatusCode::OK { asset.kind } else { "" };
        Draft { status, kind, content: Content::Whole(Bytes::from_static(bytes)), headers }
    }

    /// The same, smaller, if the client takes it so.
    async fn packed(mut self, asked: &HeaderMap) -> Result<Draft, Failure> {
        self.headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
        let Content::Whole(bytes) = &self.content else { return Ok(self) };
        if bytes.len() > PACKED_FROM && takes_gzip(asked) {
            let bytes = bytes.clone();
            let packed = beside(move || Ok(gzip(&bytes, Compression::fast()))).await?;
            self.content = Content::Whole(packed.into());
            self.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Ok(self)
    }

    fn with(mut self, name: HeaderName, value: HeaderValue) -> Draft {
        self.headers.insert(name, value);
        self
    }
}

impl From<&Failure> for Draft {
    fn from(failure: &Failure) -> Draft {
        let mut draft = Draft::whole("application/json", failure.json().to_string());
        draft.status = StatusCode::from_u16(failure.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if let Some(seconds) = failure.retry_after {
            draft.headers.insert(RETRY_AFTER, seconds.into());
        }
        if draft.status == StatusCode::UNAUTHORIZED {
            draft.headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        draft
    }
}

/// Answers a request. Dropping the future stops what is computed for it.
pub(super) async fn answer(
    host: Arc<Host>,
    line: Arc<Line>,
    request: Request<Incoming>,
) -> Result<Response<Reply>, Infallible> {
    let (busy, is_double) = line.begin();
    let (parts, body) = request.into_parts();
    let mut body = Arriving { body: Some(body), is_whole: false };
    let found = find(host.routes, parts.uri.path());
    let route = found.routes.iter().copied().find(|&at| host.routes[at].verb.is(&parts.method));
    let draft = if is_double {
        let what = "the length of the body is told in two ways, by Content-Length and by Transfer-Encoding";
        Draft::from(&Failure::bad(None, Some("bad_length"), what)).with(CONNECTION, HeaderValue::from_static("close"))
    } else {
        host.draft(&parts, &mut body, &found, route).await
    };
    let is_known = parts.headers.contains_key(EXPECT);
    let is_left = !body.is_whole && !is_known && !body.discard(host.service.options.limits.body).await;
    host.service.metrics.answered(route, draft.status.as_u16());
    let mut response = host.response(&parts, draft, busy);
    if is_left || parts.headers.contains_key(TRANSFER_ENCODING) {
        // Nothing that follows can be taken for a request.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

impl Host {
    /// The answer to a request, or its refusal.
    async fn draft(&self, parts: &Parts, body: &mut Arriving, found: &Found, route: Option<usize>) -> Draft {
        match self.passed(parts, found, route) {
            Err(draft) => *draft,
            Ok(route) => match self.handled(parts, body, found, route).await {
                Ok(draft) => draft,
                Err(failure) => Draft::from(&failure),
            },
        }
    }

    /// The route of a request that may take it.
    fn passed(&self, parts: &Parts, found: &Found, route: Option<usize>) -> Result<&Route, Box<Draft>> {
        let refuse = |failure: Failure| Box::new(Draft::from(&failure));
        self.guard.host(parts).map_err(refuse)?;
        let allow = HeaderValue::from_str(&allowed(self.routes, found)).expect("names of methods");
        if Guard::is_preflight(parts) && self.guard.is_invited(&parts.headers) && !found.routes.is_empty() {
            let mut draft = Draft::empty(allow.clone());
            Guard::permit(&parts.headers, allow, &mut draft.headers);
            return Err(Box::new(draft));
        }
        let route = route.map(|at| &self.routes[at]);
        if !route.is_some_and(|route| route.public) {
            self.guard.origin(parts).map_err(refuse)?;
            self.guard.token(&parts.headers).map_err(refuse)?;
        }
        if let Some(route) = route {
            return Ok(route);
        }
        let path = parts.uri.path();
        if found.routes.is_empty() {
            return Err(refuse(Failure::of(404, "not_found", format!("there is nothing at {path}"))));
        }
        if parts.method == Method::OPTIONS {
            return Err(Box::new(Draft::empty(allow)));
        }
        let what = format!("{path} takes no {}", parts.method);
        Err(Box::new(Draft::from(&Failure::of(405, "method_not_allowed", what)).with(ALLOW, allow)))
    }

    /// What a route's handler answers.
    async fn handled(
        &self,
        parts: &Parts,
        body: &mut Arriving,
        found: &Found,
        route: &Route,
    ) -> Result<Draft, Failure> {
        let mut held = Held { all: self.bodies.clone(), bytes: 0 };
        let mut bytes = Vec::new();
        if route.verb == Verb::Post {
            is_json(&parts.headers)?;
            if self.service.closing.load(Relaxed) {
                return Err(Failure::of(503, "server_closing", "the server was told to end"));
            }
            let limits = &self.service.options.limits;
            let arrived = timeout(limits.body_within, body.read(&parts.headers, limits, &mut held)).await;
            let late = |_| Failure::of(408, "body_too_slow", "the body did not arrive in time");
            bytes = arrived.map_err(late)??;
        }
        let query = pairs(parts.uri.query().unwrap_or_default());
        let asked = Asked { id: found.id.clone(), query, body: bytes };
        let (service, handler) = (self.service.clone(), route.handler);
        let answered = if route.prompt {
            handler(&service, &asked)
        } else {
            let place = self.places.clone().acquire_owned().await;
            beside(move || {
                let answered = handler(&service, &asked);
                drop((held, place));
                answered
            })
            .await
        };
        let draft = match answered? {
            Answer::Whole { kind, body } => Draft::whole(kind, body),
            Answer::Asset(asset) => Draft::of_asset(asset, &parts.headers),
            Answer::Pending(work) => Draft::whole("application/json", whole(work).await?),
            Answer::Stream(work) => return Ok(self.stream(work)),
        };
        // What the page asks for again and again.
        let is_page_data = route.verb == Verb::Get && route.path.starts_with("/api/");
        if is_page_data && draft.kind == "application/json" { draft.packed(&parts.headers).await } else { Ok(draft) }
    }

    fn stream(&self, work: Box<dyn Work>) -> Draft {
        let mut cut = self.cut.clone();
        let closed = async move { _ = cut.wait_for(|cut| *cut).await };
        let gather = work.interval().unwrap_or(self.service.options.limits.gather);
        let events = Events::new(work, gather, closed);
        let mut draft = Draft::whole("text/event-stream; charset=utf-8", "");
        draft.content = Content::Stream(Box::new(events));
        // A proxy that gathers what is sent would show nothing until the end.
        draft.with(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"))
    }

    fn response(&self, parts: &Parts, draft: Draft, mut busy: Busy) -> Response<Reply> {
        let Draft { status, kind, content, mut headers } = draft;
        if !kind.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let id = format!("req_{}{:08x}", self.name, self.requests.fetch_add(1, Relaxed));
        headers.insert(HeaderName::from_static("x-request-id"), HeaderValue::from_str(&id).expect("letters"));
        self.guard.invite(&parts.headers, &mut headers);
        // Of these nothing will be asked for.
        busy.over = content.is_over() || parts.method == Method::HEAD;
        let mut response = Response::new(Reply { content, busy });
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

/// All of what is being computed, once it is.
async fn whole(mut work: Box<dyn Work>) -> Result<Vec<u8>, Failure> {
    while !work.is_done() {
        poll_fn(|cx| work.poll(cx)).await;
        if !work.is_done() {
            // What comes piece by piece is looked at now and then, not at each piece.
            sleep(Duration::from_millis(5)).await;
        }
    }
    // It may have megabytes.
    beside(move || Ok(work.whole()?.to_string().into_bytes())).await
}

/// Does what may take long on another thread than that of the sockets.
async fn beside<T: Send + 'static>(act: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    let broken = |_| Failure::of(500, "internal_error", "the server failed at this request; its own output says why");
    spawn_blocking(act).await.map_err(broken)?
}

/// Bytes of bodies that this request holds.
struct Held {
    all: Arc<AtomicUsize>,
    bytes: usize,
}

impl Held {
    fn add(&mut self, bytes: usize, limit: usize) -> Result<(), Failure> {
        self.bytes += bytes;
        if self.all.fetch_add(bytes, Relaxed) + bytes > limit {
            return Err(Failure::of(503, "overloaded", "too many requests are arriving at once"));
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Relaxed);
    }
}

/// A body on its way.
struct Arriving {
    body: Option<Incoming>,
    /// Whether nothing more of it will come.
    is_whole: bool,
}

impl Arriving {
    /// The next piece, if there is one.
    async fn next(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        loop {
            let Some(body) = self.body.as_mut().filter(|_| !self.is_whole) else { return Ok(None) };
            match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
                None => self.is_whole = true,
                Some(Err(error)) => {
                    self.is_whole = true;
                    return Err(error);
                }
                // Trailers have nothing to say.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => return Ok(Some(bytes)),
                    Err(_) => continue,
                },
            }
        }
    }

    /// All of it.
    async fn read(&mut self, headers: &HeaderMap, limits: &Limits, held: &mut Held) -> Result<Vec<u8>, Failure> {
        let too_large = || {
            let what = format!("the body is larger than {} bytes", limits.body);
            Failure::of(413, "body_too_large", what)
        };
        let told = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if told.is_some_and(|told| told > limits.body as u64) {
            return Err(too_large());
        }
        let mut all = Vec::new();
        let broken = |_| Failure::bad(None, Some("bad_body"), "the body ended too early, or is not as its headers say");
        while let Some(piece) = self.next().await.map_err(broken)? {
            if all.len() + piece.len() > limits.body {
                return Err(too_large());
            }
            held.add(piece.len(), limits.bodies)?;
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    /// Reads what is left and forgets it; whether that was all.
    async fn discard(&mut self, size: usize) -> bool {
        let all = async {
            let mut bytes = 0;
            while let Ok(Some(piece)) = self.next().await {
                bytes += piece.len();
                if bytes > DRAINED * size {
                    return false;
                }
            }
            true
        };
        let is_all = timeout(DRAINING, all).await.unwrap_or(false);
        self.body = None;
        is_all
    }
}
