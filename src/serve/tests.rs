//! The server over raw sockets, with handlers whose work is made up: what clients do to it, and what it must not do for them.

mod client;
mod end;
mod faults;
mod insight;
mod models;
mod page;
mod runs;
mod score;

use super::{
    answer::{Answer, Asked, Failure, Work},
    options::{Limits, Options},
    routes::{ROUTES, Route, Verb},
    server::Server,
    service::Service,
};
use client::Client;
use serde_json::{Value, json};
use std::{
    fs,
    future::Future as _,
    net::SocketAddr,
    pin::Pin,
    sync::{
        LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, ready},
    thread,
    time::{Duration, Instant},
};
use tokio::time::{Sleep, sleep};

/// Works that are there at this moment.
static WORKS: AtomicUsize = AtomicUsize::new(0);

/// What the end of a body's work is looked at by: works are counted for all tests, which therefore take turns.
static TURN: Mutex<()> = Mutex::new(());

/// So many numbers, one after each pause.
struct Numbers {
    left: u64,
    next: u64,
    pause: Duration,
    /// What is added to each number, so that a client who does not read is noticed early.
    filling: String,
    is_stream: bool,
    clock: Option<Pin<Box<Sleep>>>,
}

impl Drop for Numbers {
    fn drop(&mut self) {
        WORKS.fetch_sub(1, SeqCst);
    }
}

impl Work for Numbers {
    fn poll(&mut self, cx: &mut Context) -> Poll<()> {
        if self.left == 0 {
            return Poll::Ready(());
        }
        let pause = self.pause;
        ready!(self.clock.get_or_insert_with(|| Box::pin(sleep(pause))).as_mut().poll(cx));
        if !self.is_stream {
            self.next += std::mem::take(&mut self.left);
        }
        Poll::Ready(())
    }

    fn poll_urgent(&mut self, _: &mut Context) -> Poll<()> {
        if self.left == 0 { Poll::Ready(()) } else { Poll::Pending }
    }

    fn events(&mut self) -> Result<Vec<Value>, Failure> {
        if self.left == 0 {
            return Ok(Vec::new());
        }
        self.clock = None;
        (self.left, self.next) = (self.left - 1, self.next + 1);
        if self.next == 13 {
            return Err(Failure::of(500, "thirteen", "that number is not written"));
        }
        Ok(vec![json!({"number": self.next, "filling": self.filling})])
    }

    fn is_done(&self) -> bool {
        self.left == 0
    }

    fn whole(&mut self) -> Result<Value, Failure> {
        Ok(json!({"numbers": self.next}))
    }
}

fn numbers(_: &Service, asked: &Asked) -> Result<Answer, Failure> {
    let body: Value =
        serde_json::from_slice(&asked.body).map_err(|error| Failure::bad(None, None, error.to_string()))?;
    let number = |key: &str| body[key].as_u64().unwrap_or_default();
    WORKS.fetch_add(1, SeqCst);
    let (left, pause) = (number("n"), Duration::from_millis(number("pause")));
    let filling = "x".repeat(number("filling") as usize);
    let is_stream = body["stream"] == true;
    let work = Box::new(Numbers { left, next: 0, pause, filling, is_stream, clock: None });
    Ok(if is_stream { Answer::Stream(work) } else { Answer::Pending(work) })
}

fn echo(_: &Service, asked: &Asked) -> Result<Answer, Failure> {
    Ok(Answer::json(&json!({"id": asked.id, "query": asked.query, "bytes": asked.body.len()})))
}

/// What handlers wait for.
static GATE: Mutex<()> = Mutex::new(());

fn waits(_: &Service, _: &Asked) -> Result<Answer, Failure> {
    drop(GATE.lock());
    Ok(Answer::json(&json!({})))
}

/// So many bytes, all of them at once.
fn large(_: &Service, asked: &Asked) -> Result<Answer, Failure> {
    let bytes = asked.id.parse().map_err(|_| Failure::bad(None, None, "no number"))?;
    Ok(Answer::Whole { kind: "text/plain", body: vec![b'x'; bytes] })
}

/// JSON of so many bytes.
fn large_json(_: &Service, asked: &Asked) -> Result<Answer, Failure> {
    let bytes: usize = asked.id.parse().map_err(|_| Failure::bad(None, None, "no number"))?;
    Ok(Answer::json(&json!("x".repeat(bytes - 2))))
}

fn panics(_: &Service, _: &Asked) -> Result<Answer, Failure> {
    panic!("this handler is broken on purpose")
}

fn model(service: &Service, asked: &Asked) -> Result<Answer, Failure> {
    let served = service.models.get(&asked.id)?;
    Ok(Answer::json(&json!({"step": served.model.state().step, "fingerprint": served.fingerprint})))
}

/// The server's own routes and these.
static TABLE: LazyLock<Vec<Route>> = LazyLock::new(|| {
    let route = |verb, path, handler| Route { verb, path, public: false, prompt: false, handler };
    let own = ROUTES.iter().map(|route| Route { ..*route });
    own.chain([
        route(Verb::Post, "/numbers", numbers as _),
        route(Verb::Post, "/echo", echo as _),
        route(Verb::Get, "/echo/{id}", echo as _),
        route(Verb::Get, "/large/{id}", large as _),
        route(Verb::Get, "/api/large/{id}", large_json as _),
        route(Verb::Get, "/waits", waits as _),
        route(Verb::Get, "/panics", panics as _),
        route(Verb::Get, "/model/{id}", model as _),
    ])
    .collect()
});

/// A server that ends with the test, and must leave nothing behind.
struct Running {
    server: Option<Server>,
    address: SocketAddr,
    before: (usize, usize),
    _turn: MutexGuard<'static, ()>,
}

impl Running {
    fn new() -> Running {
        Running::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut Options)) -> Running {
        Running::of(Vec::new(), change)
    }

    fn of(roots: Vec<super::options::Root>, change: impl FnOnce(&mut Options)) -> Running {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let before = resources();
        let mut options = Options::default();
        (options.port, options.engine.threads) = (0, 1);
        change(&mut options);
        let server = Server::with_routes(roots, options, &TABLE).unwrap();
        Running { address: server.address(), server: Some(server), before, _turn: turn }
    }

    fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// The value of a metric.
    fn metric(&self, name: &str) -> f64 {
        let text = self.client().get("/metrics").body;
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// Tells it to end; how long that took.
    fn end(&mut self) -> Duration {
        let server = self.server.take().unwrap();
        let since = Instant::now();
        server.stopper().stop();
        server.wait().unwrap();
        since.elapsed()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.end();
        }
        if !thread::panicking() {
            let before = self.before;
            soon("threads and descriptors are given back", || {
                let now = resources();
                now.0 <= before.0 && now.1 <= before.1
            });
            assert_eq!(WORKS.load(SeqCst), 0, "works are left");
        }
    }
}

/// The server's threads, and the sockets and pipes of this process.
fn resources() -> (usize, usize) {
    let list = |path: &str| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let name = |task: std::path::PathBuf| fs::read_to_string(task.join("comm")).unwrap_or_default();
    let threads = list("/proc/self/task").filter(|task| name(task.clone()).starts_with("kinglet")).count();
    let is_ours = |path: std::path::PathBuf| {
        fs::read_link(path)
            .is_ok_and(|to| to.to_string_lossy().starts_with("socket:") || to.to_string_lossy().contains("event"))
    };
    (threads, list("/proc/self/fd").filter(|fd| is_ours(fd.clone())).count())
}

/// Waits until something is so.
#[track_caller]
fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_secs(5), "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Options with one limit changed.
fn limit(change: impl Fn(&mut Limits)) -> Running {
    Running::with(|options| change(&mut options.limits))
}

/// The table of routes in the documentation is the table of routes.
#[test]
fn the_documentation_has_all_routes() {
    let text = include_str!("../../docs/SERVING.md");
    let table = text.split("## Routes").nth(1).unwrap().trim_start().split("\n\n").next().unwrap();
    let cells = table.lines().map(|line| line.split(" | ").next().unwrap());
    let mut told: Vec<&str> = cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(|text| text.split(' ').next_back().unwrap())
        .collect();
    let mut there: Vec<_> = super::routes::ROUTES.iter().map(|route| route.path).collect();
    told.sort();
    there.sort();
    assert_eq!(told, there);
}
