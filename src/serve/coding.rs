//! What is sent smaller than it is, to clients that say that they take it.

use flate2::{Compression, write::GzEncoder};
use hyper::header::{ACCEPT_ENCODING, HeaderMap};
use std::io::Write;

/// Whether a client takes gzip, by its header `Accept-Encoding`.
pub(super) fn takes_gzip(asked: &HeaderMap) -> bool {
    let all = || asked.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let parts = || all().flat_map(|value| value.split(','));
    // Whether it is wanted, if it is named.
    let wanted = |name: &str| {
        parts().find_map(|part| {
            let (coding, rest) = part.split_once(';').unwrap_or((part, ""));
            let is_refused = rest.trim().strip_prefix("q=").is_some_and(|weight| weight.trim().parse() == Ok(0.0));
            coding.trim().eq_ignore_ascii_case(name).then_some(!is_refused)
        })
    };
    wanted("gzip").or_else(|| wanted("x-gzip")).or_else(|| wanted("*")).unwrap_or(false)
}

/// Bytes as a gzip file.
pub(super) fn gzip(bytes: &[u8], level: Compression) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), level);
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.expect("memory can be written to")
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    #[test]
    fn gzip_is_sent_to_those_who_take_it() {
        for (said, takes) in [
            (&["gzip"][..], true),
            (&["gzip, deflate, br, zstd"], true),
            (&["br;q=1.0, GZIP;q=0.5"], true),
            (&["br", "gzip"], true),
            (&["x-gzip"], true),
            (&["*"], true),
            (&[], false),
            (&[""], false),
            (&["identity"], false),
            (&["br"], false),
            (&["gzip;q=0"], false),
            (&["gzip; q=0.000, *"], false),
            (&["*;q=0"], false),
            (&["gzipped"], false),
        ] {
            let mut asked = HeaderMap::new();
            said.iter().for_each(|said| _ = asked.append(ACCEPT_ENCODING, HeaderValue::from_static(said)));
            assert_eq!(takes_gzip(&asked), takes, "{said:?}");
        }
    }
}
