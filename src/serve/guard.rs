//! Who may ask: by which name, from which page, and with which token.

use super::{answer::Failure, options::Options};
use hyper::{
    Method,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
        ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderMap, HeaderValue,
        ORIGIN, VARY,
    },
    http::{request::Parts, uri::Authority},
};
use kinglet_core::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::net::IpAddr;

/// The header in which browsers tell how far the page is from the server.
const SITE: &str = "sec-fetch-site";

/// What is checked of each request.
pub(super) struct Guard {
    /// The names that clients may call the server by, in small letters.
    names: Vec<String>,
    /// Whether it listens on all addresses of the machine: then it may be called by any address.
    everywhere: bool,
    origin: Option<HeaderValue>,
    /// The token's hash: comparing hashes tells nothing about the token by the time that it takes.
    token: Option<[u8; 32]>,
}

impl Guard {
    /// For a server that listens on `bound`.
    ///
    /// # Errors
    /// If a name or the origin is not one.
    pub(super) fn new(options: &Options, bound: IpAddr) -> Result<Guard> {
        let mut names = vec![plain(&options.host), bound.to_string()];
        for name in &options.allow_hosts {
            if !is_host(name) && plain(name).parse::<IpAddr>().is_err() {
                let what = if name.contains('*') {
                    "stands for no other names: name each one that clients use, with an --allow-host of its own"
                } else {
                    "must be a name such as box.example, or an address, without http:// and without a port"
                };
                return Err(Error::BadConfig(format!("--allow-host {name}: {what}")));
            }
            names.push(plain(name));
        }
        let origin = options.cors_origin.as_deref().map(checked_origin).transpose()?;
        let token = options.token.as_deref().map(hash);
        Ok(Guard { names, everywhere: bound.is_unspecified(), origin, token })
    }

    /// Refuses a request that calls the server by a name that is not its own. A page of another name that leads to this
    /// machine could otherwise read what is served.
    pub(super) fn host(&self, request: &Parts) -> Result<(), Failure> {
        let headers: Vec<_> = request.headers.get_all(HOST).iter().collect();
        let named = match headers[..] {
            [] if request.version == hyper::Version::HTTP_10 => None,
            [host] => Some(host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()).ok_or("that is no name")),
            [] => Some(Err("there is none")),
            _ => Some(Err("there are several")),
        };
        let authorities = named.into_iter().chain(request.uri.authority().cloned().map(Ok));
        for authority in authorities {
            let authority =
                authority.map_err(|what| Failure::bad(None, Some("bad_host"), format!("Host header: {what}")))?;
            if !self.knows(&authority) {
                let host = authority.host();
                let what = format!(
                    "this server does not answer to the name {host:?}; if it should, start it with --allow-host {host}"
                );
                return Err(Failure::of(403, "host_not_allowed", what));
            }
        }
        Ok(())
    }

    fn knows(&self, authority: &Authority) -> bool {
        let host = plain(authority.host());
        let is_local = || host == "localhost" || host.ends_with(".localhost");
        let is_address = || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback() || self.everywhere);
        !authority.as_str().contains('@') && (is_local() || is_address() || self.names.contains(&host))
    }

    /// Whether the request comes from a page that may read the answer.
    pub(super) fn is_invited(&self, headers: &HeaderMap) -> bool {
        self.origin.is_some() && headers.get(ORIGIN) == self.origin.as_ref()
    }

    /// Refuses a page of elsewhere, whatever it wants: it could not read the answer, but even a question may load a model.
    pub(super) fn origin(&self, request: &Parts) -> Result<(), Failure> {
        if self.is_invited(&request.headers) {
            return Ok(());
        }
        let page = match request.headers.get(ORIGIN) {
            Some(origin) if is_own(origin, request) => return Ok(()),
            Some(origin) => format!("pages of {}", String::from_utf8_lossy(origin.as_bytes())),
            // For pictures, frames and links, browsers tell only how far the page is from here.
            None if request.headers.get(SITE).is_some_and(|site| site == "cross-site") => {
                "pages of other sites".to_owned()
            }
            None => return Ok(()),
        };
        let what =
            format!("{page} may not use this server; if they should, start it with --cors-origin and that address");
        Err(Failure::of(403, "origin_not_allowed", what))
    }

    /// Refuses a client that does not know the token.
    pub(super) fn token(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let Some(token) = &self.token else { return Ok(()) };
        let given =
            headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| value.split_once(' '));
        let given =
            given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, given)| hash(given.trim()));
        let differ = given.is_none_or(|given| given.iter().zip(token).fold(0, |all, (a, b)| all | (a ^ b)) != 0);
        let what =
            "this server demands its token, as the header `Authorization: Bearer TOKEN`; clients call it the API key";
        if differ { Err(Failure::of(401, "invalid_api_key", what)) } else { Ok(()) }
    }

    /// Whether a request only asks what a page may do.
    pub(super) fn is_preflight(request: &Parts) -> bool {
        let has = |name| request.headers.contains_key(name);
        request.method == Method::OPTIONS && has(ORIGIN) && has(ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// Adds what a page needs to read the answer, if it may.
    pub(super) fn invite(&self, asked: &HeaderMap, answered: &mut HeaderMap) {
        let Some(origin) = &self.origin else { return };
        answered.append(VARY, HeaderValue::from_static("origin"));
        if self.is_invited(asked) {
            answered.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            answered.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("x-request-id, retry-after"));
        }
    }

    /// What a page may do, for one that is invited.
    pub(super) fn permit(asked: &HeaderMap, allow: HeaderValue, answered: &mut HeaderMap) {
        answered.insert(ACCESS_CONTROL_ALLOW_METHODS, allow);
        // Official clients send headers of their own, which differ between versions.
        if let Some(names) = asked.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            answered.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
        answered.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
}

/// Refuses a body that is not JSON as it is: any page can send text to any server, but not JSON.
pub(super) fn is_json(headers: &HeaderMap) -> Result<(), Failure> {
    let kinds: Vec<_> = headers.get_all(CONTENT_TYPE).iter().collect();
    let kind = if let [kind] = kinds[..] { kind.to_str().unwrap_or_default() } else { "" };
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let what = "the body must be JSON, with the header `Content-Type: application/json`";
        return Err(Failure::of(415, "unsupported_media_type", what));
    }
    if headers.get(CONTENT_ENCODING).is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Failure::of(415, "unsupported_media_type", "compressed bodies are not supported"));
    }
    Ok(())
}

/// Whether a page is the server's own.
fn is_own(origin: &HeaderValue, request: &Parts) -> bool {
    let Some(host) = request.headers.get(HOST) else { return false };
    ["http://", "https://"].iter().any(|scheme| {
        let rest = origin.as_bytes().strip_prefix(scheme.as_bytes());
        rest.is_some_and(|rest| rest.eq_ignore_ascii_case(host.as_bytes()))
    })
}

/// A host without the brackets of an IPv6 address and the dot at the end of a full name, in small letters.
fn plain(host: &str) -> String {
    host.trim_matches(['[', ']']).trim_end_matches('.').to_lowercase()
}

/// Whether this can be the name of a machine, as clients send it: letters beyond ASCII are encoded in it.
fn is_host(name: &str) -> bool {
    let is_in_label = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(is_in_label);
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= 253 && name.split('.').all(is_label)
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// An origin as browsers write it.
fn checked_origin(origin: &str) -> Result<HeaderValue> {
    let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let authority = host.and_then(|host| host.parse::<Authority>().ok()).filter(|found| Some(found.as_str()) == host);
    let is_one = authority.is_some_and(|found| !found.as_str().contains(['@', '*']) && origin == origin.to_lowercase());
    let value = HeaderValue::from_str(origin).ok().filter(|_| is_one);
    value.ok_or_else(|| {
        let what =
            format!("--cors-origin {origin}: must be one origin in small letters, such as http://localhost:3000");
        Error::BadConfig(what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;

    fn parts(request: hyper::http::request::Builder) -> Parts {
        request.body(()).unwrap().into_parts().0
    }

    fn guard(bound: &str, options: &Options) -> Guard {
        Guard::new(options, bound.parse().unwrap()).unwrap()
    }

    #[test]
    fn only_the_servers_own_names_are_answered_to() {
        let names = ["Box.example", "10.0.0.7"].map(str::to_owned).into();
        let mut options = Options { host: "Own.example.".to_owned(), allow_hosts: names, ..Options::default() };
        let local = guard("127.0.0.1", &options);
        options.host = "0.0.0.0".to_owned();
        let wide = guard("0.0.0.0", &options);
        for (host, by_local, by_wide) in [
            ("localhost", true, true),
            ("LOCALHOST:7317", true, true),
            ("a.localhost:1", true, true),
            ("localhost.", true, true),
            ("own.example", true, false),
            ("127.0.0.1:7317", true, true),
            ("127.8.9.1", true, true),
            ("[::1]:7317", true, true),
            ("box.example:80", true, true),
            ("10.0.0.7:7317", true, true),
            ("192.168.1.2:7317", false, true),
            ("evil.example", false, false),
            ("localhost.evil.example", false, false),
            ("127.0.0.1.evil.example", false, false),
            ("evil.example@localhost", false, false),
            ("localhost@evil.example", false, false),
            ("box.example.evil.example", false, false),
        ] {
            let request = parts(Request::get("/").header(HOST, host));
            assert_eq!(local.host(&request).is_ok(), by_local, "{host}");
            assert_eq!(wide.host(&request).is_ok(), by_wide, "{host}");
        }
        let status = |request| local.host(&parts(request)).map_err(|failure| failure.status);
        assert_eq!(status(Request::get("/")), Err(400));
        assert_eq!(status(Request::get("/").version(hyper::Version::HTTP_10)), Ok(()));
        assert_eq!(status(Request::get("/").header(HOST, "localhost").header(HOST, "localhost")), Err(400));
        assert_eq!(status(Request::get("/").header(HOST, "a b")), Err(400));
        assert_eq!(status(Request::get("http://evil.example/").header(HOST, "localhost")), Err(403));
        let mut allow = |name: &str| {
            options.allow_hosts = vec![name.to_owned()];
            Guard::new(&options, "127.0.0.1".parse().unwrap()).map(|_| ()).map_err(|error| error.to_string())
        };
        let long = "a".repeat(64);
        for name in
            ["http://a.example", "a.example:80", "a@b", "", ".", "a..b", "a b", "b\u{fc}cher.example", "%2a", &long]
        {
            assert!(allow(name).unwrap_err().contains("must be a name"), "{name:?}");
        }
        for name in ["*", "*.example", "10.0.0.*"] {
            assert!(allow(name).unwrap_err().contains("name each one"), "{name:?}");
        }
        for name in ["box", "Box.example.", "my_box-2.local", "xn--bcher-kva.example", "10.0.0.7", "::1", "[::1]"] {
            assert_eq!(allow(name), Ok(()), "{name:?}");
        }
    }

    #[test]
    fn one_origin_is_invited_and_never_a_list() {
        let mut options = Options { cors_origin: Some("http://localhost:3000".to_owned()), ..Options::default() };
        let guard = guard("127.0.0.1", &options);
        for (origin, may_ask, may_read) in [
            ("http://localhost:3000", true, true),
            ("http://localhost:7317", true, false),
            ("http://localhost:3001", false, false),
            ("https://evil.example", false, false),
            ("null", false, false),
            ("http://localhost:3000, http://evil.example", false, false),
        ] {
            let request = parts(Request::post("/").header(HOST, "localhost:7317").header(ORIGIN, origin));
            assert_eq!(guard.origin(&request).is_ok(), may_ask, "{origin}");
            let asking = parts(Request::get("/").header(HOST, "localhost:7317").header(ORIGIN, origin));
            assert_eq!(guard.origin(&asking).is_ok(), may_ask, "GET {origin}");
            let mut answered = HeaderMap::new();
            guard.invite(&request.headers, &mut answered);
            assert_eq!(answered.get(ACCESS_CONTROL_ALLOW_ORIGIN).is_some(), may_read, "{origin}");
            assert!(!answered.contains_key("access-control-allow-credentials") && answered.contains_key(VARY));
        }
        for (site, may_ask) in [("cross-site", false), ("same-site", true), ("same-origin", true), ("none", true)] {
            let request = parts(Request::get("/").header(HOST, "localhost:7317").header(SITE, site));
            assert_eq!(guard.origin(&request).is_ok(), may_ask, "{site}");
        }
        for origin in [
            "*",
            "null",
            "localhost:3000",
            "http://a.example/",
            "http://a.example, http://b.example",
            "http://A.example",
        ] {
            options.cors_origin = Some(origin.to_owned());
            assert!(Guard::new(&options, "127.0.0.1".parse().unwrap()).is_err(), "{origin}");
        }
    }

    #[test]
    fn the_token_is_demanded_whole() {
        let options = Options { token: Some("a-token-of-the-users".to_owned()), ..Options::default() };
        let guard = guard("127.0.0.1", &options);
        for (value, fits) in [
            ("Bearer a-token-of-the-users", true),
            ("bearer  a-token-of-the-users", true),
            ("Bearer a-token-of-the-user", false),
            ("Bearer a-token-of-the-users2", false),
            ("Basic a-token-of-the-users", false),
            ("a-token-of-the-users", false),
            ("Bearer", false),
            ("Bearer ", false),
        ] {
            let headers = parts(Request::get("/").header(AUTHORIZATION, value)).headers;
            assert_eq!(guard.token(&headers).is_ok(), fits, "{value}");
        }
        assert_eq!(guard.token(&HeaderMap::new()).unwrap_err().status, 401);
    }

    #[test]
    fn a_body_is_json_and_nothing_else() {
        for (kind, fits) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("text/plain", false),
            ("text/plain; application/json", false),
            ("application/jsonp", false),
            ("", false),
        ] {
            let headers = parts(Request::post("/").header(CONTENT_TYPE, kind)).headers;
            assert_eq!(is_json(&headers).is_ok(), fits, "{kind}");
        }
        assert!(is_json(&HeaderMap::new()).is_err());
        let packed = Request::post("/").header(CONTENT_TYPE, "application/json").header(CONTENT_ENCODING, "gzip");
        assert!(is_json(&parts(packed).headers).is_err());
    }
}
