//! The server: its thread, its connections, and its end.

use super::{
    connection::{Line, Timed, Watched},
    guard::Guard,
    http::{Host, answer},
    options::{Limits, Options, Root},
    routes::{ROUTES, Route, labels},
    service::Service,
};
use hyper::{server::conn::http1, service::service_fn};
use kinglet_core::error::{Error, Result};
use std::{
    future::poll_fn,
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::{Builder, Runtime},
    sync::{Semaphore, watch},
    time::sleep,
};

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// What the system holds of what a client has not read. More would only hide that it does not read.
const SEND_BUFFER: u32 = 64 << 10;

/// How long the last words to clients may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How many answers that were computed are put into words at once, however many handlers are at work.
const WRITERS: usize = 2;

/// How often it is looked whether all has ended, while it does.
const GLANCE: Duration = Duration::from_millis(5);

/// Where the system refuses a connection, so many idle ones are closed, so that there are descriptors for files too.
const RELIEF: usize = 32;

/// How long nothing is accepted after such a refusal.
const BREATH: Duration = Duration::from_millis(20);

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    names: Vec<String>,
    stopper: Stopper,
    thread: JoinHandle<()>,
    #[cfg(test)]
    service: Weak<Service>,
}

/// Ends a server, from any thread.
#[derive(Clone, Debug)]
pub struct Stopper(watch::Sender<bool>);

impl Stopper {
    /// The server takes no new work, lets streams run on for a while, and ends.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Server {
    /// Listens, and serves from a thread of its own.
    ///
    /// # Errors
    /// If the address cannot be listened on, an option is wrong, or the system refuses a thread.
    pub fn start(roots: Vec<Root>, options: Options) -> Result<Server> {
        Server::with_routes(roots, options, ROUTES)
    }

    pub(super) fn with_routes(roots: Vec<Root>, options: Options, routes: &'static [Route]) -> Result<Server> {
        let limits = options.limits;
        limits.check()?;
        let handlers = limits.handlers.max(1);
        let mut builder = Builder::new_current_thread();
        builder.enable_io().enable_time().max_blocking_threads(handlers + WRITERS).thread_name("kinglet-handler");
        let runtime = builder.build().map_err(no_thread)?;
        let listener = listen(&runtime, &options.host, options.port)?;
        let address = listener.local_addr().map_err(|error| cannot(&options.host, options.port, &error))?;
        let guard = Guard::new(&options, address.ip())?;
        let service = Arc::new(Service::start(roots, options, labels(routes))?);
        let (cut, is_cut) = watch::channel(false);
        let (stop, is_stopped) = watch::channel(false);
        let host = Arc::new(Host {
            guard,
            routes,
            cut: is_cut,
            bodies: Arc::new(AtomicUsize::new(0)),
            name: random_hex(4)?,
            requests: AtomicU64::new(0),
            places: Arc::new(Semaphore::new(handlers)),
            service: service.clone(),
        });
        let names = service.models.list().iter().map(|listed| listed.id.clone()).collect();
        let accepting = Accepting { host, listener, lines: Lines::default(), limits, cut, is_stopped };
        #[cfg(test)]
        let weak = Arc::downgrade(&service);
        let run = move || {
            runtime.block_on(accepting.run());
            // What handlers still compute is for nobody.
            runtime.shutdown_timeout(LAST_WORDS);
            drop(service);
        };
        let thread = thread::Builder::new().name("kinglet-http".to_owned()).spawn(run).map_err(no_thread)?;
        Ok(Server {
            address,
            names,
            stopper: Stopper(stop),
            thread,
            #[cfg(test)]
            service: weak,
        })
    }

    #[cfg(test)]
    pub(super) fn service(&self) -> Arc<Service> {
        self.service.upgrade().expect("the server runs")
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The models that were there when it was started.
    pub fn models(&self) -> &[String] {
        &self.names
    }

    /// What ends it.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it ended because something in it is broken.
    pub fn wait(self) -> Result<()> {
        self.thread.join().map_err(|_| Error::Threads("the server's thread has failed".to_owned()))
    }
}

/// Random bytes in hexadecimal, which nobody can guess.
///
/// # Errors
/// If the system has none.
pub fn random_hex(bytes: usize) -> Result<String> {
    let mut random = vec![0; bytes];
    let none = |error| Error::Threads(format!("the system gives no random numbers: {error}"));
    getrandom::fill(&mut random).map_err(none)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn no_thread(error: io::Error) -> Error {
    Error::Threads(format!("the system refuses a thread for the server: {error}"))
}

/// The addresses of a host.
///
/// # Errors
/// If the name leads nowhere.
pub fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>> {
    let found = (host.trim_matches(['[', ']']), port).to_socket_addrs().map(Vec::from_iter);
    found.ok().filter(|found| !found.is_empty()).ok_or_else(|| {
        Error::BadConfig(format!("--host {host}: this is no address of this machine, and no name of one"))
    })
}

fn listen(runtime: &Runtime, host: &str, port: u16) -> Result<TcpListener> {
    let _context = runtime.enter();
    let bind = |address: SocketAddr| {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // What was served a moment ago keeps no port on Unix; on Windows this would share one that is in use.
        #[cfg(unix)]
        socket.set_reuseaddr(true)?;
        socket.set_send_buffer_size(SEND_BUFFER)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    let mut failed = io::Error::other("no address");
    for address in addresses(host, port)? {
        match bind(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => failed = error,
        }
    }
    Err(cannot(host, port, &failed))
}

/// Why an address cannot be listened on, and what to do.
fn cannot(host: &str, port: u16, error: &io::Error) -> Error {
    let what = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program listens there, perhaps another kinglet serve: end that, or choose another port with --port; \
             --port 0 takes one that is free"
                .to_owned()
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 are the system's: choose another with --port".to_owned(),
        io::ErrorKind::AddrNotAvailable => {
            "this is not an address of this machine: --host 127.0.0.1 is for this machine alone, --host 0.0.0.0 for others too"
                .to_owned()
        }
        _ => error.to_string(),
    };
    Error::Address(format!("cannot listen on {host}:{port}: {what}"))
}

/// All connections.
#[derive(Default)]
struct Lines(Mutex<Vec<Weak<Line>>>);

impl Lines {
    fn add(&self, line: &Arc<Line>) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that have ended are forgotten before the list would grow: it is as long as there were connections at once.
        if lines.len() == lines.capacity() {
            lines.retain(|line| line.strong_count() > 0);
        }
        lines.push(Arc::downgrade(line));
    }

    /// Those that are open.
    fn open(&self) -> Vec<Arc<Line>> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|line| line.strong_count() > 0);
        lines.iter().filter_map(Weak::upgrade).collect()
    }

    /// Closes those that were idle for longest; whether there were any.
    fn close_idle(&self, n: usize) -> bool {
        let mut idle: Vec<_> = self.open().into_iter().filter_map(|line| Some((line.idle()?, line))).collect();
        idle.sort_by_key(|(since, _)| *since);
        idle.iter().take(n).for_each(|(_, line)| line.end_now());
        !idle.is_empty()
    }
}

/// The server's thread at work.
struct Accepting {
    host: Arc<Host>,
    listener: TcpListener,
    lines: Lines,
    limits: Limits,
    cut: watch::Sender<bool>,
    is_stopped: watch::Receiver<bool>,
}

impl Accepting {
    async fn run(mut self) {
        let mut stopped = self.is_stopped.clone();
        // It also ends when nobody is left who could stop it.
        let mut stopping = Box::pin(async move { _ = stopped.wait_for(|stop| *stop).await });
        while let Some(accepted) = poll_fn(|cx| match stopping.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => self.listener.poll_accept(cx).map(Some),
        })
        .await
        {
            self.take(accepted.map(|(socket, _)| socket)).await;
        }
        self.close().await;
    }

    async fn take(&self, accepted: io::Result<TcpStream>) {
        match accepted {
            Ok(socket) => self.connect(socket),
            Err(error) if is_of_one(&error) => {}
            // The system has no more descriptors or memory.
            Err(_) => {
                self.lines.close_idle(RELIEF);
                sleep(BREATH).await;
            }
        }
    }

    /// Serves a connection.
    fn connect(&self, socket: TcpStream) {
        let open = self.host.service.metrics.connections.load(Relaxed) as usize;
        if open >= self.limits.connections && !self.lines.close_idle(1) {
            // Everybody is served at this moment.
            let refusal =
                b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            _ = socket.try_write(refusal);
            return;
        }
        // Small pieces are sent as they come.
        _ = socket.set_nodelay(true);
        let line = Arc::new(Line::new(self.host.service.clone()));
        self.lines.add(&line);
        let socket = Watched::new(socket, line.clone(), &self.limits);
        let (host, of) = (self.host.clone(), line);
        let service = service_fn(move |request| answer(host.clone(), of.clone(), request));
        let mut http = http1::Builder::new();
        // The clocks are our own: hyper's would close idle connections as early as slow ones.
        http.header_read_timeout(None).max_buf_size(self.limits.head).max_headers(self.limits.headers);
        tokio::spawn(Timed::new(&http, socket, service, self.limits));
    }

    /// Lets streams run on for a while, tells the rest, and hangs up.
    async fn close(&mut self) {
        self.host.service.closing.store(true, Relaxed);
        let within = self.limits.closing;
        let engine = self.host.service.engine.clone();
        let engine = thread::spawn(move || engine.close(within));
        let deadline = Instant::now() + within;
        let is_busy = || self.lines.open().iter().any(|line| line.idle().is_none());
        while Instant::now() < deadline && (is_busy() || !engine.is_finished()) {
            // Who asks now is told that it is over.
            if let Poll::Ready(accepted) = poll_fn(|cx| Poll::Ready(self.listener.poll_accept(cx))).await {
                self.take(accepted.map(|(socket, _)| socket)).await;
            } else {
                sleep(GLANCE).await;
            }
        }
        self.cut.send_replace(true);
        self.lines.open().iter().for_each(|line| line.end_soon());
        let deadline = Instant::now() + LAST_WORDS;
        while Instant::now() < deadline && (!self.lines.open().is_empty() || !engine.is_finished()) {
            sleep(GLANCE).await;
        }
    }
}

/// Whether an error is that of one connection, and no reason to wait.
fn is_of_one(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_have_ended_are_forgotten() {
        let service = Arc::new(Service::start(Vec::new(), Options::default(), Vec::new()).unwrap());
        let line = || Arc::new(Line::new(service.clone()));
        let (lines, kept) = (Lines::default(), line());
        lines.add(&kept);
        (0..1000).for_each(|_| lines.add(&line()));
        let held = lines.0.lock().unwrap().len();
        assert!(held < 10, "{held} are held, of which one is open");
        assert_eq!(lines.open().len(), 1);
    }
}
