//! What a server is to do, and its limits.

use crate::{engine, run::Which};
use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

/// A run to serve, or a folder of runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The folder.
    pub path: PathBuf,
    /// Of a run: the only checkpoint that is served.
    pub which: Option<Which>,
}

impl From<PathBuf> for Root {
    fn from(path: PathBuf) -> Root {
        Root { path, which: None }
    }
}

/// What a server is to do.
#[derive(Clone)]
#[non_exhaustive]
pub struct Options {
    /// The address or name to listen on.
    pub host: String,
    /// The port; 0 is any that is free.
    pub port: u16,
    /// What a client must know, if anything.
    pub token: Option<String>,
    /// Names by which clients may call the server, beside those of this machine.
    pub allow_hosts: Vec<String>,
    /// The only origin whose pages may use the server, beside its own.
    pub cors_origin: Option<String>,
    /// The most models in memory.
    pub models_max: usize,
    /// How texts are computed.
    pub engine: engine::Options,
    /// What a client may cost.
    pub limits: Limits,
    /// Is told what happens, in lines: models that are loaded, damage that is found.
    pub say: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            host: "127.0.0.1".to_owned(),
            port: 7317,
            token: None,
            allow_hosts: Vec::new(),
            cors_origin: None,
            models_max: 4,
            engine: engine::Options::default(),
            limits: Limits::default(),
            say: Arc::new(|_| ()),
        }
    }
}

impl fmt::Debug for Options {
    /// Without the token, which belongs in no log.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Options { host, port, limits, .. } = self;
        f.debug_struct("Options")
            .field("host", host)
            .field("port", port)
            .field("limits", limits)
            .finish_non_exhaustive()
    }
}

/// What a client may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of a body.
    pub body: usize,
    /// Bytes of all bodies that are arriving or waiting to be looked at.
    pub bodies: usize,
    /// The time that a body may take to arrive.
    pub body_within: Duration,
    /// Bytes of a request's head.
    pub head: usize,
    /// Headers of a request.
    pub headers: usize,
    /// The time that a head may take to arrive, from its first byte.
    pub head_within: Duration,
    /// The time that a connection is kept without a request.
    pub idle: Duration,
    /// Connections at once. For another one, that which was idle for longest is closed.
    pub connections: usize,
    /// The time that a client may leave unread what is sent to it.
    pub stall: Duration,
    /// The time that streams run on once the server is told to end.
    pub closing: Duration,
    /// What comes within this time is sent as one piece.
    pub gather: Duration,
    /// Requests that are looked at at once; computing is the engine's matter.
    pub handlers: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            body: 1 << 20,
            bodies: 64 << 20,
            body_within: Duration::from_secs(30),
            head: 32 << 10,
            headers: 64,
            head_within: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            connections: 2048,
            stall: Duration::from_secs(30),
            closing: Duration::from_secs(5),
            gather: Duration::from_millis(20),
            handlers: 8,
        }
    }
}
