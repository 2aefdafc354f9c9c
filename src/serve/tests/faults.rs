//! What is refused, what is bounded, and what becomes of clients that leave or dawdle.

use super::{super::routes::ROUTES, *};
use std::fmt::Write as _;

/// The code of an error in OpenAI's form.
#[track_caller]
fn code(answer: &client::Answered) -> String {
    let error = &answer.json()["error"];
    assert!(error["message"].is_string() && error["type"].is_string() && error.get("param").is_some(), "{answer:?}");
    error["code"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn routes_methods_and_slashes() {
    let server = Running::new();
    let mut client = server.client();
    // All on one connection: nothing of this is a reason to hang up.
    let health = client.get("/health");
    assert_eq!((health.status, health.json()["status"].as_str()), (200, Some("ok")));
    assert!(health.header("x-request-id").starts_with("req_"));
    assert_eq!(client.get("//health//").status, 200);
    let echoed = client.get("/echo//group/a%40b?x=1&y=a+b").json();
    assert_eq!(echoed, json!({"id": "group/a@b", "query": [["x", "1"], ["y", "a b"]], "bytes": 0}));
    let missing = client.get("/nothing");
    assert_eq!((missing.status, code(&missing).as_str()), (404, "not_found"));
    assert_ne!(missing.header("x-request-id"), health.header("x-request-id"));
    let wrong = client.send("DELETE /health HTTP/1.1\r\nHost: localhost\r\n\r\n").answer();
    assert_eq!(
        (wrong.status, wrong.header("allow"), code(&wrong).as_str()),
        (405, "GET, HEAD, OPTIONS", "method_not_allowed")
    );
    let wrong = client.get("/numbers");
    assert_eq!((wrong.status, wrong.header("allow")), (405, "POST, OPTIONS"));
    let options = client.send("OPTIONS /numbers HTTP/1.1\r\nHost: localhost\r\n\r\n").answer();
    assert_eq!((options.status, options.header("allow")), (204, "POST, OPTIONS"));
    client.send("HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let head = client.head();
    assert_eq!((head.status, head.header("content-length")), (200, health.header("content-length")));
    let text = client.get("/metrics");
    assert_eq!(text.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert!(
        text.body.contains("kinglet_http_requests_total{method=\"GET\",route=\"/health\",status=\"200\"} 3\n"),
        "{}",
        text.body
    );
    assert!(
        text.body.contains("kinglet_http_requests_total{method=\"\",route=\"none\",status=\"405\"} 2\n"),
        "{}",
        text.body
    );
    let broken = client.get("/panics");
    assert_eq!((broken.status, code(&broken).as_str()), (500, "internal_error"));
    assert_eq!(client.get("/health").status, 200);
    let public: Vec<_> = ROUTES.iter().filter(|route| route.public).map(|route| route.path).collect();
    assert_eq!(public, ["/", "/assets/{id}", "/health"], "all others demand the token");
}

#[test]
fn streams_come_as_they_are_written_and_end_with_done() {
    let server = Running::new();
    let mut client = server.client();
    let head = client.post("/numbers", "", r#"{"n": 3, "pause": 1, "stream": true}"#).head();
    for (name, value) in [
        ("content-type", "text/event-stream; charset=utf-8"),
        ("cache-control", "no-cache"),
        ("x-accel-buffering", "no"),
        ("transfer-encoding", "chunked"),
    ] {
        assert_eq!(head.header(name), value);
    }
    let body = client.read_to("\r\n0\r\n\r\n");
    let data: Vec<_> = body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let number = |n: u64| json!({"number": n, "filling": ""}).to_string();
    assert_eq!(data, [&number(1), &number(2), &number(3), "[DONE]"]);
    // What fails within a stream is told in it.
    client.post("/numbers", "", r#"{"n": 20, "stream": true}"#).head();
    let body = client.read_to("\r\n0\r\n\r\n");
    let data: Vec<_> = body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert!(data.len() == 14 && data[12].contains("\"code\":\"thirteen\"") && data[13] == "[DONE]", "{data:?}");
    // The same without a stream, on the same connection.
    assert_eq!(client.post("/numbers", "", r#"{"n": 5}"#).answer().json(), json!({"numbers": 5}));
}

#[test]
fn the_first_piece_waits_for_nothing_and_the_others_for_each_other() {
    let server = limit(|limits| limits.gather = Duration::from_millis(200));
    let mut client = server.client();
    let since = Instant::now();
    client.post("/numbers", "", r#"{"n": 4, "stream": true}"#).read_to("\"number\":2");
    assert!(since.elapsed() < Duration::from_millis(190), "{:?}", since.elapsed());
    client.read_to("[DONE]");
    assert!(since.elapsed() > Duration::from_millis(390), "{:?}", since.elapsed());
}

#[test]
fn bodies_that_are_no_good() {
    let server = limit(|limits| limits.body = 1000);
    let mut client = server.client();
    assert_eq!(client.post("/echo", "", &"1".repeat(1000)).answer().json()["bytes"], 1000);
    let large = client.post("/echo", "", &"1".repeat(1001)).answer();
    assert_eq!((large.status, code(&large).as_str()), (413, "body_too_large"));
    // The client sent all of it and then read: the connection is as good as before.
    assert_eq!(client.get("/health").status, 200);
    let chunks = "3e8\r\n".to_owned() + &"1".repeat(1000) + "\r\n";
    let post = "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let mut chunked = server.client();
    chunked.send(format!("{post}Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"));
    let answer = chunked.answer();
    assert_eq!((answer.json()["bytes"].as_u64(), answer.header("connection")), (Some(1000), "close"));
    assert!(chunked.is_closed());
    let mut chunked = server.client();
    assert_eq!(
        chunked.send(format!("{post}Transfer-Encoding: chunked\r\n\r\n{chunks}{chunks}0\r\n\r\n")).answer().status,
        413
    );
    // Far more than that is not even read.
    let mut giant = server.client();
    let answer = giant.send(format!("{post}Content-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n")).answer();
    assert!(answer.status == 413 && giant.is_closed());
    for (sent, status) in [
        (format!("{post}Content-Length: 2\r\nContent-Encoding: gzip\r\n\r\n{{}}"), 415),
        (
            "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\n{}"
                .to_owned(),
            415,
        ),
        ("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}".to_owned(), 415),
    ] {
        let answer = client.send(sent).answer();
        assert!(answer.status == status && code(&answer) == "unsupported_media_type", "{answer:?}");
    }
    let deep = "[".repeat(900);
    for body in [deep.as_str(), "", "{", "\0", "nul"] {
        assert_eq!(client.post("/numbers", "", body).answer().status, 400, "{body:?}");
    }
    client.send(format!("{post}Content-Length: 3\r\n\r\n\"\u{e9}"));
    assert_eq!(client.answer().status, 200, "bytes are the handler's matter");
    client.send(
        "POST /numbers HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n",
    );
    assert_eq!(client.send(b"\"\xff\"").answer().status, 400);
    // A body that ends too early.
    let mut short = server.client();
    short.send(format!("{post}Content-Length: 10\r\n\r\n{{}}")).finish();
    assert!(short.is_closed());
    assert_eq!(server.client().get("/health").status, 200);
}

#[test]
fn a_body_that_dawdles_is_not_waited_for() {
    let server = limit(|limits| limits.body_within = Duration::from_millis(100));
    let mut client = server.client();
    client.send(
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{",
    );
    let answer = client.answer();
    assert_eq!((answer.status, code(&answer).as_str()), (408, "body_too_slow"));
    assert!(client.is_closed());
}

#[test]
fn all_bodies_together_are_bounded() {
    let server = limit(|limits| limits.bodies = 1500);
    let head =
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n";
    let mut first = server.client();
    first.send(head.to_owned() + &"1".repeat(900));
    soon("the first is held", || server.metric("kinglet_http_connections") >= 2.0);
    thread::sleep(Duration::from_millis(20));
    let mut second = server.client();
    let refused = second.send(head.to_owned() + &"1".repeat(1000)).answer();
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"));
    assert_eq!(first.send("1".repeat(100)).answer().status, 200);
    assert_eq!(server.client().send(head.to_owned() + &"1".repeat(1000)).answer().status, 200);
}

#[test]
fn heads_that_are_no_good() {
    let server = limit(|limits| limits.idle = Duration::from_millis(200));
    let good = "Host: localhost\r\nContent-Type: application/json\r\n";
    let mut many = String::new();
    (0..100).for_each(|n| _ = write!(many, "X-{n}: 1\r\n"));
    let long = format!("X: {}\r\n", "y".repeat(100_000));
    for (sent, status) in [
        // Two lengths, in any order.
        (format!("POST /echo HTTP/1.1\r\n{good}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        (format!("POST /echo HTTP/1.1\r\n{good}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n"), 400),
        (format!("POST /echo HTTP/1.1\n{good}Content-Length: 4\nTransfer-Encoding: chunked\n\n0\r\n\r\n"), 400),
        (format!("POST /echo HTTP/1.1\r\n{good}Content-Length: 4\r\nContent-Length: 5\r\n\r\n{{}}   "), 400),
        (format!("POST /echo HTTP/1.1\r\n{good}Transfer-Encoding: identity\r\n\r\n{{}}"), 400),
        (format!("POST /echo HTTP/1.1\r\n{good}Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"), 400),
        (format!("POST /echo HTTP/1.1\r\n{good}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"), 400),
        (format!("POST /echo HTTP/1.0\r\n{good}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        (format!("POST /echo HTTP/1.1\r\n{good}Content-Length: -1\r\n\r\n"), 400),
        (format!("GET /health HTTP/1.1\r\n{good}X: a\r\n b\r\n\r\n"), 400),
        (format!("GET /health HTTP/1.1\r\n{good}{many}\r\n"), 431),
        (format!("GET /health HTTP/1.1\r\n{good}{long}\r\n"), 431),
        ("GET /health HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n".to_owned(), 400),
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\r\n\r\n".to_owned(), 400),
    ] {
        let mut client = server.client();
        let smuggled = format!("{sent}GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let answer = client.send(smuggled).rest();
        let first: String = answer.chars().take(12).collect();
        let is_status = first == format!("HTTP/1.1 {status}");
        assert!(is_status, "{sent:.200}: {answer:.300}");
        // Nothing behind a length that is in doubt is taken for a request.
        let is_about_lengths = sent.contains("Transfer-Encoding") || sent.contains("Content-Length");
        assert!(!is_about_lengths || !answer.contains("200 OK"), "{sent}: {answer}");
    }
    assert!(server.metric("kinglet_http_malformed_total") >= 8.0);
}

#[test]
fn old_clients_and_impatient_ones_are_served() {
    let server = Running::new();
    let mut old = server.client();
    let answer = old.send("GET /health HTTP/1.0\r\n\r\n").rest();
    assert!(answer.starts_with("HTTP/1.0 200") && answer.ends_with("{\"status\":\"ok\"}"), "{answer}");
    let mut kept = server.client();
    kept.send("GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(kept.answer().status, 200);
    let body = r#"{"n": 2, "stream": true}"#;
    let post = format!(
        "POST /numbers HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let stream = server.client().send(post).rest();
    assert!(stream.ends_with("data: [DONE]\n\n") && !stream.to_lowercase().contains("chunked"), "{stream}");
    // Requests without waiting for answers are answered in order.
    let mut hasty = server.client();
    let requests: String = (0..20).map(|n| format!("GET /echo/{n} HTTP/1.1\r\nHost: localhost\r\n\r\n")).collect();
    hasty.send(requests);
    (0..20).for_each(|n| assert_eq!(hasty.answer().json()["id"], n.to_string()));
}

#[test]
fn foreign_names_pages_and_kinds_are_refused() {
    let server = Running::with(|options| options.cors_origin = Some("http://page.example".to_owned()));
    let mut client = server.client();
    let foreign = client.send("GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n").answer();
    assert_eq!((foreign.status, code(&foreign).as_str()), (403, "host_not_allowed"));
    assert!(foreign.body.contains("--allow-host evil.example"));
    let foreign = client.post("/echo", "Origin: http://evil.example\r\n", "{}").answer();
    assert_eq!((foreign.status, code(&foreign).as_str()), (403, "origin_not_allowed"));
    assert!(!foreign.has("access-control-allow-origin"));
    let foreign = "Host: localhost\r\nOrigin: http://evil.example\r\n";
    assert_eq!(client.send(format!("GET /echo/1 HTTP/1.1\r\n{foreign}\r\n")).answer().status, 403);
    let picture = "Host: localhost\r\nSec-Fetch-Site: cross-site\r\n";
    assert_eq!(client.send(format!("GET /echo/1 HTTP/1.1\r\n{picture}\r\n")).answer().status, 403);
    assert_eq!(client.send(format!("GET /health HTTP/1.1\r\n{foreign}\r\n")).answer().status, 200);
    assert_eq!(client.post("/echo", "Origin: null\r\n", "{}").answer().status, 403);
    assert_eq!(client.post("/echo", "Origin: http://localhost\r\n", "{}").answer().status, 200);
    let invited = client.post("/echo", "Origin: http://page.example\r\n", "{}").answer();
    assert_eq!((invited.status, invited.header("access-control-allow-origin")), (200, "http://page.example"));
    let preflight = |origin: &str| {
        let wants =
            "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type,x-stainless-os\r\n";
        format!("OPTIONS /echo HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n{wants}\r\n")
    };
    let allowed = client.send(preflight("http://page.example")).answer();
    assert_eq!((allowed.status, allowed.header("access-control-allow-methods")), (204, "POST, OPTIONS"));
    assert_eq!(allowed.header("access-control-allow-headers"), "content-type,x-stainless-os");
    let refused = client.send(preflight("http://evil.example")).answer();
    assert!(refused.status == 403 && !refused.headers.iter().any(|(name, _)| name.starts_with("access-control")));
}

#[test]
fn a_token_is_demanded_everywhere_but_for_health() {
    let server = Running::with(|options| options.token = Some("0123456789abcdef".to_owned()));
    let mut client = server.client();
    assert_eq!(client.get("/health").status, 200);
    for path in ["/metrics", "/echo/1", "/nothing"] {
        let refused = client.get(path);
        assert_eq!((refused.status, refused.header("www-authenticate")), (401, "Bearer"), "{path}");
        assert_eq!(code(&refused), "invalid_api_key");
        assert!(!refused.body.contains("0123456789abcdef"));
    }
    assert_eq!(client.post("/echo", "", "{}").answer().status, 401);
    assert_eq!(client.post("/echo", "Authorization: Bearer 0123456789abcdeg\r\n", "{}").answer().status, 401);
    assert_eq!(client.post("/echo", "Authorization: Bearer 0123456789abcdef\r\n", "{}").answer().status, 200);
}

/// How fast a work must end whose client has left.
const FREED: Duration = Duration::from_millis(50);

#[test]
fn the_work_of_a_client_that_leaves_is_freed() {
    let server = Running::new();
    let before = server.metric("kinglet_http_clients_gone_total");
    for (stream, reset) in [(true, false), (true, true), (false, false), (false, true)] {
        let mut client = server.client();
        let pause = if stream { 5 } else { 200_000 };
        client.post("/numbers", "", &json!({"n": 12, "pause": pause, "stream": stream}).to_string());
        if stream {
            client.read_to("\"number\":2");
        }
        soon("the work is there", || WORKS.load(SeqCst) == 1);
        let since = Instant::now();
        // What is unread makes a reset of the close.
        if reset {
            client.reset()
        } else {
            drop(client)
        }
        soon("the work is dropped", || WORKS.load(SeqCst) == 0);
        assert!(since.elapsed() < FREED, "{:?}", since.elapsed());
    }
    assert_eq!(server.metric("kinglet_http_clients_gone_total") - before, 4.0);
    // What comes too much, or too early, does not hide it.
    for more in ["\r\n", "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"] {
        let mut client = server.client();
        client.post("/numbers", "", r#"{"n": 12, "pause": 200000}"#).send(more);
        soon("the work is there", || WORKS.load(SeqCst) == 1);
        client.send(more);
        drop(client);
        soon("the work is dropped", || WORKS.load(SeqCst) == 0);
    }
    // Within the head and the body, too.
    for sent in [
        "GET /hea",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
    ] {
        server.client().send(sent);
    }
    soon("connections are closed", || server.metric("kinglet_http_connections") == 1.0);
}

#[test]
fn a_client_that_does_not_read_is_given_up() {
    let server = limit(|limits| limits.stall = Duration::from_millis(200));
    let mut stalled = server.client();
    stalled.post("/numbers", "", r#"{"n": 12, "filling": 1000000, "stream": true}"#);
    soon("the work is there", || WORKS.load(SeqCst) == 1);
    // Others are served meanwhile.
    let mut other = server.client();
    assert_eq!(other.post("/numbers", "", r#"{"n": 3}"#).answer().status, 200);
    soon("the work is dropped", || WORKS.load(SeqCst) == 0);
    assert!(server.metric("kinglet_http_timeouts_total") == 1.0);
    // One that reads slowly, but reads, is served to its end.
    let mut slow = server.client();
    slow.post("/numbers", "", r#"{"n": 9, "filling": 200000, "stream": true}"#);
    for n in 1..=9 {
        slow.read_to(&format!("\"number\":{n}"));
        thread::sleep(Duration::from_millis(40));
    }
    slow.read_to("[DONE]");
}

/// An answer that is larger than everything that the system holds for a client that does not read.
const LARGE: usize = 16 << 20;

#[test]
fn an_answer_on_its_way_keeps_its_connection() {
    let mut server = Running::with(|options| {
        options.limits.idle = Duration::from_millis(50);
        options.limits.connections = 1;
        options.limits.closing = Duration::from_secs(20);
    });
    let mut slow = server.client();
    slow.send(format!("GET /large/{LARGE} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    slow.head();
    // It is not idle for being slow, and makes no room for others.
    thread::sleep(Duration::from_millis(150));
    assert!(server.client().rest().starts_with("HTTP/1.1 503"));
    // The end of the server waits for it, too.
    let reading = thread::spawn(move || {
        thread::sleep(Duration::from_millis(1500));
        slow.rest().len()
    });
    server.end();
    assert_eq!(reading.join().unwrap(), LARGE, "all of it came");
}

#[test]
fn an_answer_that_was_not_taken_is_not_counted_as_given() {
    let server = Running::new();
    let mut client = server.client();
    client.send(format!("GET /large/{LARGE} HTTP/1.1\r\nHost: localhost\r\n\r\n")).head();
    client.reset();
    soon("it is counted", || server.metric("kinglet_http_clients_gone_total") == 1.0);
}

#[test]
fn health_metrics_and_computed_answers_wait_for_no_handler() {
    let server = limit(|limits| limits.handlers = 2);
    let closed = GATE.lock().unwrap();
    let mut waiting = [server.client(), server.client(), server.client()];
    let mut computed = server.client();
    computed.post("/numbers", "", r#"{"n": 3, "pause": 300}"#);
    soon("the work is there", || WORKS.load(SeqCst) == 1);
    waiting.iter_mut().for_each(|client| _ = client.send("GET /waits HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    assert_eq!(computed.answer().json()["numbers"], 3);
    assert_eq!(server.client().get("/health").status, 200);
    assert!(server.metric("kinglet_http_connections") >= 5.0);
    drop(closed);
    waiting.iter_mut().for_each(|client| assert_eq!(client.answer().status, 200));
}

#[test]
fn an_engine_that_has_ended_is_no_good_health() {
    let server = Running::new();
    server.server.as_ref().unwrap().service().engine.close(Duration::ZERO);
    let health = server.client().get("/health");
    assert_eq!((health.status, code(&health).as_str()), (503, "engine_failed"));
}

#[test]
fn slow_heads_and_idle_connections_are_closed_in_their_time() {
    let server =
        limit(|limits| (limits.head_within, limits.idle) = (Duration::from_millis(200), Duration::from_millis(600)));
    let since = Instant::now();
    let (mut silent, mut slow, mut used) = (server.client(), server.client(), server.client());
    assert_eq!(used.get("/health").status, 200);
    slow.send("GET / HTTP/1.1\r\n");
    let dripping = slow.socket.try_clone().unwrap();
    let drip = thread::spawn(move || {
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(25));
            _ = std::io::Write::write_all(&mut &dripping, b"X: 1\r\n");
        }
    });
    assert!(slow.is_closed());
    let closed = since.elapsed();
    assert!(closed >= Duration::from_millis(180) && closed < Duration::from_millis(500), "{closed:?}");
    assert!(silent.is_closed() && used.is_closed());
    let closed = since.elapsed();
    assert!(closed >= Duration::from_millis(580) && closed < Duration::from_millis(1500), "{closed:?}");
    assert!(server.metric("kinglet_http_timeouts_total") == 1.0, "only the slow one was at fault");
    drip.join().unwrap();
}

#[test]
fn a_thousand_idle_connections_are_in_nobodys_way() {
    let server = limit(|limits| limits.connections = 300);
    let mut working = server.client();
    working.post("/numbers", "", r#"{"n": 12, "pause": 100, "stream": true}"#).read_to("\"number\":1");
    let mut first = server.client();
    assert_eq!(first.get("/health").status, 200);
    let idle: Vec<_> = (0..1000)
        .map(|n| {
            let mut client = server.client();
            if n % 2 == 0 {
                client.send("GET /");
            }
            if n % 50 == 0 {
                assert_eq!(server.client().get("/health").status, 200);
            }
            client
        })
        .collect();
    assert!(first.is_closed(), "the oldest makes room");
    assert!(server.metric("kinglet_http_connections") <= 301.0);
    assert_eq!(server.client().post("/numbers", "", r#"{"n": 3}"#).answer().json()["numbers"], 3);
    // Who works is not closed.
    working.read_to("\"number\":12");
    drop(idle);
    soon("all are gone", || server.metric("kinglet_http_connections") <= 2.0);
}

#[test]
fn where_all_are_busy_one_more_is_told_so() {
    let server = limit(|limits| limits.connections = 2);
    let slow = r#"{"n": 12, "pause": 200000}"#;
    let (mut one, mut two) = (server.client(), server.client());
    one.post("/numbers", "", slow);
    two.post("/numbers", "", slow);
    soon("both are busy", || WORKS.load(SeqCst) == 2);
    assert!(server.client().rest().starts_with("HTTP/1.1 503"));
    drop(one);
    soon("there is room", || WORKS.load(SeqCst) == 1);
    assert_eq!(server.client().get("/health").status, 200);
}
