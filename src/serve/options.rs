//! What a server is to do, and its limits.

use crate::{engine, run::Which};
use kinglet_core::error::{Error, Result};
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
    /// Bytes of a request's head, 8192 or more.
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
    /// Requests that are looked at at once, and models that are loaded for them; computing is the engine's matter.
    pub handlers: usize,
}

/// The least that a head may have: the HTTP library takes no less.
const HEAD: usize = 8192;

/// Longer than anybody waits, and short enough to be added to any moment.
const LONGEST: Duration = Duration::from_secs(1 << 30);

impl Limits {
    /// Refuses what cannot be kept.
    pub(super) fn check(&self) -> Result<()> {
        if self.head < HEAD {
            return Err(Error::BadConfig(format!("limits.head is {}: must be {HEAD} bytes or more", self.head)));
        }
        for (name, time) in [
            ("body_within", self.body_within),
            ("head_within", self.head_within),
            ("idle", self.idle),
            ("stall", self.stall),
            ("closing", self.closing),
            ("gather", self.gather),
        ] {
            if time > LONGEST {
                let what = format!("limits.{name} is {time:?}: must be {} seconds or less", LONGEST.as_secs());
                return Err(Error::BadConfig(what));
            }
        }
        Ok(())
    }
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
            handlers: 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_cannot_be_kept_are_refused() {
        let checked = |change: &dyn Fn(&mut Limits)| {
            let mut limits = Limits::default();
            change(&mut limits);
            limits.check().map_err(|error| error.to_string())
        };
        assert_eq!(checked(&|_| ()), Ok(()));
        assert_eq!(checked(&|limits| limits.head = HEAD), Ok(()));
        assert!(checked(&|limits| limits.head = HEAD - 1).unwrap_err().contains("limits.head is 8191"));
        assert!(checked(&|limits| limits.stall = Duration::MAX).unwrap_err().contains("limits.stall"));
        assert!(checked(&|limits| limits.idle = Duration::MAX).unwrap_err().contains("limits.idle"));
    }
}
