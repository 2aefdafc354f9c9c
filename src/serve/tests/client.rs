//! A client that can do wrong.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection.
pub(super) struct Client {
    pub(super) socket: TcpStream,
    read: Vec<u8>,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: u16,
    /// Names in small letters.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
    /// The same as it is, which may be no text.
    pub(super) bytes: Vec<u8>,
}

impl Answered {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(found, _)| found == name)
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Client {
    pub(super) fn new(address: SocketAddr) -> Client {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { socket, read: Vec::new() }
    }

    pub(super) fn send(&mut self, text: impl AsRef<[u8]>) -> &mut Client {
        // A server that has hung up is no error here: what it said before is looked at.
        _ = self.socket.write_all(text.as_ref());
        self
    }

    /// GET with a good head.
    pub(super) fn get(&mut self, path: &str) -> Answered {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).answer()
    }

    /// The same with more headers.
    pub(super) fn get_with(&mut self, path: &str, headers: &str) -> Answered {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")).answer()
    }

    /// The head of a POST with a good head and more headers.
    pub(super) fn post(&mut self, path: &str, headers: &str, body: &str) -> &mut Client {
        let head = "Host: localhost\r\nContent-Type: application/json";
        self.send(format!("POST {path} HTTP/1.1\r\n{head}\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len()))
    }

    /// Reads until it has so many bytes, or this text, or all.
    fn until(&mut self, is_enough: impl Fn(&[u8]) -> bool) -> bool {
        let mut part = [0; 4096];
        while !is_enough(&self.read) {
            match self.socket.read(&mut part) {
                Ok(n @ 1..) => self.read.extend_from_slice(&part[..n]),
                Ok(0) => return false,
                Err(error) => {
                    let is_reset = error.kind() == std::io::ErrorKind::ConnectionReset;
                    assert!(is_reset, "{error} after {:?}", String::from_utf8_lossy(&self.read));
                    return false;
                }
            }
        }
        true
    }

    /// All text up to and with this.
    #[track_caller]
    pub(super) fn read_to(&mut self, end: &str) -> String {
        let at = |bytes: &[u8]| bytes.windows(end.len()).position(|window| window == end.as_bytes());
        let found = self.until(|bytes| at(bytes).is_some());
        assert!(found, "no {end:?} in {:?}", String::from_utf8_lossy(&self.read));
        let at = at(&self.read).unwrap() + end.len();
        String::from_utf8(self.read.drain(..at).collect()).unwrap()
    }

    /// The head of an answer.
    #[track_caller]
    pub(super) fn head(&mut self) -> Answered {
        let head = self.read_to("\r\n\r\n");
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let pair = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        Answered { status, headers: lines.filter_map(pair).collect(), body: String::new(), bytes: Vec::new() }
    }

    /// An answer whose length is told.
    #[track_caller]
    pub(super) fn answer(&mut self) -> Answered {
        let mut answer = self.head();
        let length: usize = answer.header("content-length").parse().unwrap_or(0);
        assert!(self.until(|bytes| bytes.len() >= length), "{answer:?}: the body is cut off");
        answer.bytes = self.read.drain(..length).collect();
        answer.body = String::from_utf8_lossy(&answer.bytes).into_owned();
        answer
    }

    /// Whether the server has hung up, or does so soon.
    pub(super) fn is_closed(&mut self) -> bool {
        !self.until(|_| false)
    }

    /// What comes until the server hangs up.
    pub(super) fn rest(&mut self) -> String {
        self.until(|_| false);
        String::from_utf8_lossy(&std::mem::take(&mut self.read)).into_owned()
    }

    /// Closes so that the other side gets a reset.
    pub(super) fn reset(self) {
        // What was sent and not read makes a reset of a close.
        drop(self.socket);
    }

    /// Sends nothing more.
    pub(super) fn finish(&mut self) {
        self.socket.shutdown(Shutdown::Write).unwrap();
    }
}
