//! The page and its files, as browsers ask for them.

use super::{client::Answered, *};
use flate2::read::GzDecoder;
use std::io::Read;

const TOKEN: &str = "Authorization: Bearer a-token-of-the-users\r\n";

const GZIP: &str = "Accept-Encoding: gzip, deflate, br\r\n";

fn unpacked(answer: &Answered) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(&answer.bytes[..]).read_to_end(&mut bytes).unwrap();
    bytes
}

/// The files of the page: what is on the disk is what is served.
fn files() -> Vec<(String, Vec<u8>)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("web");
    let file = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
    };
    fs::read_dir(folder).unwrap().map(file).collect()
}

#[test]
fn the_page_is_served_to_all_who_call_the_server_by_its_name() {
    let server = Running::with(|options| options.token = Some("a-token-of-the-users".to_owned()));
    let mut client = server.client();
    let index = client.get("/");
    for (name, bytes) in files() {
        let answer = client.get(&format!("/assets/{name}"));
        assert_eq!((answer.status, &answer.bytes), (200, &bytes), "{name}");
        let kinds = [("html", "text/html"), ("css", "text/css"), ("js", "text/javascript"), ("svg", "image/svg+xml")];
        let kind = kinds.iter().find(|(end, _)| name.ends_with(&format!(".{end}"))).unwrap().1;
        assert!(answer.header("content-type").starts_with(kind), "{name}: {answer:?}");
        for (header, value) in [
            ("cache-control", "no-cache"),
            ("vary", "accept-encoding"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-opener-policy", "same-origin"),
            ("x-content-type-options", "nosniff"),
        ] {
            assert_eq!(answer.header(header), value, "{name}");
        }
        let policy = answer.header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self'; ") && !policy.contains("unsafe"),
            "{policy}"
        );
        if name == "index.html" {
            assert_eq!((&index.bytes, index.header("etag")), (&bytes, answer.header("etag")));
        }
    }
    let head = client.send("HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n").head();
    assert_eq!((head.status, head.header("content-length")), (200, &*index.bytes.len().to_string()));
    // The data are not, and no other name is answered to.
    assert_eq!(client.get("/v1/models").status, 401);
    for path in ["/", "/assets/app.js"] {
        let answer = client.send(format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\n\r\n")).answer();
        assert_eq!(answer.status, 403, "{path}");
        let answer = client.post(path, TOKEN, "{}").answer();
        assert_eq!(answer.status, 405, "{path}");
    }
    for path in ["/assets/none.js", "/assets/../Cargo.toml", "/assets/%2e%2e/Cargo.toml", "/assets/"] {
        assert_eq!(client.get_with(path, TOKEN).status, 404, "{path}");
    }
    // A link from elsewhere leads to the page.
    assert_eq!(client.get_with("/", "Sec-Fetch-Site: cross-site\r\n").status, 200);
}

#[test]
fn files_are_sent_small_and_once() {
    let server = Running::new();
    let mut client = server.client();
    let (plain, packed) = (client.get("/assets/style.css"), client.get_with("/assets/style.css", GZIP));
    assert_eq!((packed.status, packed.header("content-encoding")), (200, "gzip"));
    assert!(
        unpacked(&packed) == plain.bytes && packed.bytes.len() < plain.bytes.len() && !plain.has("content-encoding")
    );
    assert_ne!(plain.header("etag"), packed.header("etag"), "other bytes have another name");
    for tag in [
        plain.header("etag").to_owned(),
        packed.header("etag").to_owned(),
        format!("\"none\", W/{}", packed.header("etag")),
        "*".to_owned(),
    ] {
        let again = client.get_with("/assets/style.css", &format!("{GZIP}If-None-Match: {tag}\r\n"));
        assert_eq!((again.status, again.bytes.len()), (304, 0), "{tag}");
        assert!(again.has("etag") && !again.has("content-type") && !again.has("content-length"), "{again:?}");
    }
    let other = plain.header("etag").replace('"', "");
    for tag in ["\"none\"", &other, ""] {
        assert_eq!(client.get_with("/assets/style.css", &format!("If-None-Match: {tag}\r\n")).status, 200, "{tag}");
    }
}

#[test]
fn without_a_page_there_is_only_the_interface() {
    let server = Running::with(|options| options.page = false);
    for path in ["/", "/assets/app.js"] {
        let answer = server.client().get(path);
        assert_eq!((answer.status, answer.json()["error"]["code"].clone()), (404, json!("not_found")), "{path}");
    }
    assert_eq!(server.client().get("/v1/models").status, 200);
}

#[test]
fn large_data_of_the_page_are_sent_small() {
    let server = Running::with(|options| options.cors_origin = Some("http://a.example".to_owned()));
    let mut client = server.client();
    for (path, headers, is_packed) in [
        ("/api/large/1025", GZIP, true),
        ("/api/large/1024", GZIP, false),
        ("/api/large/5000", "", false),
        ("/api/large/5000", "Accept-Encoding: gzip;q=0\r\n", false),
        ("/large/5000", GZIP, false),
        ("/openapi.json", GZIP, false),
    ] {
        let answer = client.get_with(path, headers);
        assert_eq!((answer.status, answer.header("content-encoding") == "gzip"), (200, is_packed), "{path} {headers}");
        let varies = answer.headers.iter().filter(|(name, _)| name == "vary").map(|(_, value)| value.as_str());
        let of_api = ["accept-encoding", "origin"];
        assert_eq!(varies.collect::<Vec<_>>(), if path.starts_with("/api/") { &of_api[..] } else { &of_api[1..] });
        if is_packed {
            assert_eq!(unpacked(&answer), client.get(path).bytes);
        }
    }
    let failure = client.get_with("/api/large/none", GZIP);
    assert_eq!((failure.status, failure.has("content-encoding")), (400, false));
}
