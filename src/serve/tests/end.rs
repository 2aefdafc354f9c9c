//! The end of a server.

use super::*;

#[test]
fn streams_run_on_and_nothing_new_begins() {
    let mut server = Running::new();
    let mut stream = server.client();
    stream.post("/numbers", "", r#"{"n": 12, "pause": 30, "stream": true}"#).read_to("\"number\":1");
    let mut other = server.client();
    assert_eq!(other.get("/health").status, 200);
    let address = server.address;
    let asking = thread::spawn(move || {
        thread::sleep(Duration::from_millis(60));
        let health = other.get("/health");
        let refused = other.post("/numbers", "", r#"{"n": 1}"#).answer();
        (health.status, refused.status, Client::new(address).get("/health").status, other.is_closed())
    });
    let took = server.end();
    assert_eq!(asking.join().unwrap(), (503, 503, 503, true));
    let rest = stream.rest();
    assert!(rest.contains("\"number\":12") && rest.contains("data: [DONE]") && rest.ends_with("0\r\n\r\n"), "{rest}");
    assert!(took > Duration::from_millis(200) && took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn streams_that_take_too_long_are_told() {
    let mut server = limit(|limits| limits.closing = Duration::from_millis(100));
    let mut stream = server.client();
    stream.post("/numbers", "", r#"{"n": 10, "pause": 60, "stream": true}"#).read_to("\"number\":1");
    let mut silent = server.client();
    silent.post("/numbers", "", r#"{"n": 10, "pause": 200000, "stream": true}"#).head();
    let took = server.end();
    for client in [&mut stream, &mut silent] {
        let rest = client.rest();
        assert!(rest.contains("\"code\":\"server_closing\"") && rest.contains("data: [DONE]"), "{rest}");
    }
    assert!(took < Duration::from_millis(600), "{took:?}");
}

#[test]
fn what_nobody_reads_does_not_hold_the_end() {
    let mut server = limit(|limits| limits.closing = Duration::from_millis(50));
    let mut stalled = server.client();
    stalled.post("/numbers", "", r#"{"n": 12, "filling": 1000000, "stream": true}"#);
    let mut half = server.client();
    half.send("GET /health HT");
    soon("the work is there", || WORKS.load(SeqCst) == 1);
    let took = server.end();
    assert!(took < Duration::from_millis(2500), "{took:?}");
}

#[test]
fn a_port_that_is_taken_is_told() {
    let server = Running::new();
    let options = Options { port: server.address.port(), ..Options::default() };
    let error = Server::start(Vec::new(), options).unwrap_err().to_string();
    assert!(error.contains("another program listens there") && error.contains("--port"), "{error}");
    let options = Options { host: "192.0.2.1".to_owned(), ..Options::default() };
    let error = Server::start(Vec::new(), options).unwrap_err().to_string();
    assert!(error.contains("not an address of this machine"), "{error}");
    let options = Options { host: "no such host".to_owned(), ..Options::default() };
    assert!(Server::start(Vec::new(), options).unwrap_err().to_string().contains("--host no such host"));
}
