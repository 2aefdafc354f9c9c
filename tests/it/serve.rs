//! `kinglet serve` as a program: what it prints, whom it answers, and how it ends. What clients may do to the server is tested
//! in `src/serve/tests/`.
#![cfg(unix)]

use crate::common::cli::Cli;
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A server and what it said at its start.
struct Serving {
    child: Child,
    about: Value,
}

impl Drop for Serving {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl Serving {
    fn new(cli: &Cli, args: &[&str]) -> Serving {
        let args = [&["serve", "--port", "0", "--json", "-t", "1"], args].concat();
        let mut child = cli.command(&args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let about = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        Serving { child, about }
    }

    fn send(&self, request: &str) -> TcpStream {
        let port = self.about["port"].as_u64().unwrap() as u16;
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        socket
    }

    /// The whole answer.
    fn answer(&self, request: &str) -> String {
        let mut text = String::new();
        self.send(request).read_to_string(&mut text).unwrap();
        text
    }

    /// Signals it; its exit status.
    fn signal(&mut self, name: &str) -> Option<i32> {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n")
}

fn post(path: &str, body: &Value) -> String {
    let (body, head) = (body.to_string(), "Host: localhost\r\nConnection: close\r\nContent-Type: application/json");
    format!("POST {path} HTTP/1.1\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn a_run_is_served_and_a_stream_is_told_of_the_end() {
    let cli = Cli::trained();
    let mut server = Serving::new(&cli, &["run"]);
    assert_eq!(server.about["models"], json!(["run"]));
    assert!(server.about["event"] == "serving" && server.about["token"].is_null(), "{}", server.about);
    assert!(server.answer(&get("/v1/models", "")).contains("\"id\":\"run\""));
    // The text of a seed is that of the command line.
    let body = json!({"model": "run", "prompt": "The ", "max_tokens": 30, "seed": 5});
    let answer = server.answer(&post("/v1/completions", &body));
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let answer: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let printed = cli.ok(&["sample", "run", "-q", "--prompt", "The ", "--tokens", "30", "--seed", "5", "--json"]);
    let text = answer["choices"][0]["text"].as_str().unwrap();
    let printed: Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    assert!(printed["text"].as_str().unwrap().ends_with(text) && !text.is_empty(), "{printed} {text:?}");
    // A text that takes longer than the end waits.
    let endless = json!({"model": "run", "prompt": "The ", "max_tokens": 65536, "stream": true});
    let mut stream = BufReader::new(server.send(&post("/v1/completions", &endless)));
    let mut line = String::new();
    while !line.starts_with("data: ") {
        line.clear();
        assert!(stream.read_line(&mut line).unwrap() > 0, "the stream has ended");
    }
    let since = Instant::now();
    assert_eq!(server.signal("-TERM"), Some(0));
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: [DONE]"), "{}", &rest[rest.len().saturating_sub(300)..]);
    assert!(!cli.path("run/lock").exists() || fs::read(cli.path("run/lock")).is_ok());
}

#[test]
fn where_others_can_connect_a_token_is_demanded() {
    let cli = Cli::trained();
    let mut server = Serving::new(&cli, &["run", "--host", "0.0.0.0"]);
    let token = server.about["token"].as_str().unwrap().to_owned();
    assert_eq!(token.len(), 48);
    assert!(server.answer(&get("/v1/models", "")).starts_with("HTTP/1.1 401"));
    assert!(
        server.answer(&get("/v1/models", &format!("Authorization: Bearer {token}\r\n"))).starts_with("HTTP/1.1 200")
    );
    assert_eq!(server.signal("-INT"), Some(0));
    fs::write(cli.path("token"), "a-token-of-my-own\n").unwrap();
    let server = Serving::new(&cli, &["run", "--token-file", "token"]);
    assert!(server.about["token"].is_null() && server.about["authenticated"] == true);
    assert!(
        server.answer(&get("/v1/models", "Authorization: Bearer a-token-of-my-own\r\n")).starts_with("HTTP/1.1 200")
    );
    let open = Serving::new(&cli, &["run", "--host", "0.0.0.0", "--no-auth"]);
    assert!(open.answer(&get("/v1/models", "")).starts_with("HTTP/1.1 200"));
    let port = open.about["port"].to_string();
    cli.fails(&["serve", "run", "--port", &port], 1, "another program listens there");
    fs::write(cli.path("short"), "abc\n").unwrap();
    let made = Serving::new(&cli, &["run", "--token-file", "made"]);
    let token = fs::read_to_string(cli.path("made")).unwrap();
    assert!(token.trim().len() == 48, "{token}");
    drop(made);
    cli.fails(&["serve", "run", "--token-file", "short"], 2, "a token has at least 16 characters");
    cli.fails(&["serve", "nothing"], 1, "there is no such run");
    cli.fails(&["serve"], 1, "there are no runs in runs/ yet");
    cli.fails(&["serve", "run", "--cors-origin", "*"], 2, "must be one origin");
    cli.fails(&["serve", "run", "--allow-host", "http://a"], 2, "must be a name");
}
