//! The page: the files of `web/` as they are, in the program itself. Nothing is read from the disk.

use super::coding::{gzip, takes_gzip};
use flate2::Compression;
use hyper::{
    StatusCode,
    header::{
        CONTENT_ENCODING, CONTENT_SECURITY_POLICY, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH,
        REFERRER_POLICY, VARY,
    },
};
use sha2::{Digest, Sha256};
use std::sync::LazyLock;

/// The files of `web/` by their names. Each is a line here.
macro_rules! files {
    ($($name:literal,)*) => {
        &[$(($name, include_bytes!(concat!("../../web/", $name)))),*]
    };
}

const FILES: &[(&str, &[u8])] = files![
    "api.js",
    "app.js",
    "attention.js",
    "bars.js",
    "chart.js",
    "chat.js",
    "compare.js",
    "dom.js",
    "icon.svg",
    "index.html",
    "knobs.js",
    "lens.js",
    "memorized.js",
    "paste.js",
    "read.js",
    "run.js",
    "runs.js",
    "style.css",
    "table.js",
    "text.js",
    "tokens.js",
    "write.js",
];

/// The file that is the page.
const PAGE: &str = "index.html";

/// What browsers allow the page: its own files and this server, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the page.
#[derive(Debug)]
pub(super) struct Asset {
    name: &'static str,
    /// Its content type.
    pub(super) kind: &'static str,
    bytes: &'static [u8],
    /// The same, smaller; none if it is not.
    packed: Option<Vec<u8>>,
    /// A name for its bytes, and for the smaller ones.
    tags: [HeaderValue; 2],
}

/// What of a file is sent.
pub(super) struct Sent {
    pub(super) status: StatusCode,
    pub(super) bytes: &'static [u8],
    pub(super) headers: HeaderMap,
}

static ASSETS: LazyLock<Vec<Asset>> =
    LazyLock::new(|| FILES.iter().map(|&(name, bytes)| Asset::new(name, bytes)).collect());

/// Makes all files ready, so that nobody waits for it.
pub(super) fn prepare() {
    LazyLock::force(&ASSETS);
}

/// The page.
pub(super) fn page() -> &'static Asset {
    find(PAGE).expect("the page is a file")
}

/// The file of this name, if it is there. The page has its own address.
pub(super) fn find(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name)
}

/// The content type of a file.
const fn kind(name: &str) -> &'static str {
    match name.as_bytes() {
        [.., b'.', b'h', b't', b'm', b'l'] => "text/html; charset=utf-8",
        [.., b'.', b'c', b's', b's'] => "text/css; charset=utf-8",
        [.., b'.', b'j', b's'] => "text/javascript; charset=utf-8",
        [.., b'.', b's', b'v', b'g'] => "image/svg+xml",
        _ => panic!("what type has a file with this ending?"),
    }
}

/// Fails to compile where a file has no content type.
const _: () = {
    let mut i = 0;
    while i < FILES.len() {
        kind(FILES[i].0);
        i += 1;
    }
};

impl Asset {
    fn new(name: &'static str, bytes: &'static [u8]) -> Asset {
        let packed = Some(gzip(bytes, Compression::best())).filter(|packed| packed.len() < bytes.len());
        let hash: String = Sha256::digest(bytes)[..12].iter().map(|byte| format!("{byte:02x}")).collect();
        // What is sent differs to the byte, so its names do, too.
        let tags = ["", "-gzip"].map(|end| HeaderValue::from_str(&format!("\"{hash}{end}\"")).expect("letters"));
        Asset { name, kind: kind(name), bytes, packed, tags }
    }

    /// What of it is sent to a client that says this of itself.
    pub(super) fn sent(&'static self, asked: &HeaderMap) -> Sent {
        let packed = self.packed.as_deref().filter(|_| takes_gzip(asked));
        let tag = &self.tags[usize::from(packed.is_some())];
        let mut headers = HeaderMap::new();
        headers.insert(ETAG, tag.clone());
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
        for (name, value) in [
            (CONTENT_SECURITY_POLICY, POLICY),
            (REFERRER_POLICY, "no-referrer"),
            (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if self.is_known(asked) {
            return Sent { status: StatusCode::NOT_MODIFIED, bytes: &[], headers };
        }
        if packed.is_some() {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Sent { status: StatusCode::OK, bytes: packed.unwrap_or(self.bytes), headers }
    }

    /// Whether a client has it, in either form.
    fn is_known(&self, asked: &HeaderMap) -> bool {
        let all = asked.get_all(IF_NONE_MATCH).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        let mut tags = all.map(<[u8]>::trim_ascii);
        tags.any(|tag| tag == b"*" || self.tags.iter().any(|own| tag.strip_prefix(b"W/").unwrap_or(tag) == own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, fs, path::Path};

    /// The most that all files may have as they are sent.
    const MOST: usize = 120_000;

    #[test]
    fn every_file_of_the_page_is_in_the_table() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("web");
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert_eq!(FILES.iter().map(|(name, _)| (*name).to_owned()).collect::<BTreeSet<_>>(), files.collect());
    }

    #[test]
    fn the_page_is_small() {
        let sizes: Vec<_> = ASSETS.iter().map(|a| (a.packed.as_deref().unwrap_or(a.bytes).len(), a.name)).collect();
        let all: usize = sizes.iter().map(|(size, _)| size).sum();
        assert!(all < MOST, "{all} bytes, {sizes:?}");
    }

    /// What the page refers to is there: a name that was mistyped would be found only in a browser.
    #[test]
    fn what_the_files_name_is_in_the_table() {
        for (name, bytes) in FILES {
            let text = std::str::from_utf8(bytes).unwrap();
            for begin in ["\"/assets/", "\"./"] {
                for found in text.split(begin).skip(1).filter_map(|rest| rest.split('"').next()) {
                    assert!(find(found).is_some(), "{name} names {found}");
                }
            }
        }
    }
}
