//! `kinglet serve` as a program: what it prints, whom it answers, and how it ends. What clients may do to the server is tested
//! in `src/serve/tests/`.
#![cfg(unix)]

use crate::common::cli::Cli;
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
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
    assert!(server.about["page"].as_str().unwrap().ends_with('/'), "a token that was there is not shown");
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

/// What the program says of a server that a person starts, line by line, and what comes after it.
fn said(
    mut command: Command,
    stream: impl Fn(&mut Child) -> Box<dyn Read>,
    is_last: impl Fn(&str) -> bool,
) -> Vec<String> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = Vec::new();
    for line in BufReader::new(stream(&mut child)).lines() {
        lines.push(line.unwrap());
        if is_last(lines.last().unwrap()) {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    lines
}

#[test]
fn the_page_is_named_first_and_opened() {
    let cli = Cli::trained();
    let bin = cli.path("bin");
    fs::create_dir(&bin).unwrap();
    fs::create_dir(cli.path("own")).unwrap();
    for name in ["xdg-open", "open"] {
        let opened = cli.path("opened");
        let script = format!(
            "#!/bin/sh\nPATH=/bin:/usr/bin\n{{ echo \"$1\"; ls -l \"$1\"; cat \"$1\"; ps -o pgid= -p $$; echo $$; }} > '{0}.part' && mv '{0}.part' '{0}'\n",
            opened.display()
        );
        fs::write(bin.join(name), script).unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let command = |args: &[&str], screen: &str| {
        let mut command = cli.command(&[&["serve", "run", "--port", "0", "-t", "1"], args].concat());
        command.env_remove("WAYLAND_DISPLAY").env_remove("BROWSER").env("DISPLAY", screen).env("PATH", &bin);
        command.env("XDG_RUNTIME_DIR", cli.path("own"));
        command
    };
    let out = |child: &mut Child| -> Box<dyn Read> { Box::new(child.stdout.take().unwrap()) };
    let err = |child: &mut Child| -> Box<dyn Read> { Box::new(child.stderr.take().unwrap()) };
    let is_opened = |_: &str| {
        let since = Instant::now();
        while !cli.path("opened").exists() {
            assert!(since.elapsed() < Duration::from_secs(20), "no browser was opened");
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    };
    // With a token that was made, which is behind what a server is told.
    let lines = said(command(&["--open", "--host", "0.0.0.0"], ":0"), out, is_opened);
    let page = lines[0].strip_prefix("page      http://127.0.0.1:").unwrap_or_else(|| panic!("{lines:?}"));
    let (_, token) = page.split_once("/#token=").unwrap();
    assert_eq!(token.len(), 48);
    let opened = fs::read_to_string(cli.path("opened")).unwrap();
    let opened: Vec<&str> = opened.lines().map(str::trim).collect();
    // Others can read command lines: it is in a file that they cannot read.
    let own = cli.path("own").display().to_string();
    assert!(opened[0].starts_with(&own) && opened[0].ends_with(".html") && !opened[0].contains(token), "{opened:?}");
    assert!(opened[1].starts_with("-rw-------"), "{opened:?}");
    assert!(opened[2].contains(&format!("content=\"0; url=http://127.0.0.1:{page}\"")), "{opened:?}");
    // Ctrl-C in the terminal does not reach it: it leads a group of its own.
    assert_eq!(opened[3], opened[4]);
    // What fails at once is named with its status.
    for name in ["xdg-open", "open"] {
        fs::write(bin.join(name), "#!/bin/sh\nexit 3\n").unwrap();
    }
    let note = said(command(&["--open"], ":0"), err, |line| line.starts_with("note: no browser")).pop().unwrap();
    assert!(note.contains("ended with exit status: 3): open http://127.0.0.1:"), "{note}");
    // Without a screen, and without what opens a browser, the server runs all the same.
    if !cfg!(target_os = "macos") {
        let note = said(command(&["--open"], ""), err, |line| line.starts_with("note: no browser")).pop().unwrap();
        assert!(note.contains("there is no screen here): open http://127.0.0.1:"), "{note}");
    }
    fs::remove_dir_all(&bin).unwrap();
    let note = said(command(&["--open"], ":0"), err, |line| line.starts_with("note: no browser")).pop().unwrap();
    assert!(note.contains("nothing is installed"), "{note}");
    let without = said(command(&["--no-page"], ""), out, |line| line.starts_with("API"));
    assert!(without[0].starts_with("API       http://127.0.0.1:") && without[0].ends_with("/v1"), "{without:?}");
    // The page is there for all, and says nothing by itself.
    let server = Serving::new(&cli, &["run", "--host", "0.0.0.0"]);
    let token = server.about["token"].as_str().unwrap();
    let page = format!("http://127.0.0.1:{}/#token={token}", server.about["port"]);
    assert_eq!(server.about["page"], page);
    let answer = server.answer(&get("/", ""));
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("<!doctype html>"), "{answer}");
    let none = Serving::new(&cli, &["run", "--no-page"]);
    assert!(none.about["page"].is_null() && none.answer(&get("/", "")).starts_with("HTTP/1.1 404"));
    cli.fails(&["serve", "run", "--no-page", "--open"], 2, "cannot be used with");
}
