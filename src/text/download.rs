//! Tiny Shakespeare, the only corpus that is downloaded.

use crate::system::disk::{self, sha256};
use kinglet_core::error::{Error, Result};
use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Tiny Shakespeare: its public URL, and the hash and length of the expected file.
const TINY_SHAKESPEARE_URL: &str =
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt";

/// The SHA-256 of Tiny Shakespeare.
pub(crate) const TINY_SHAKESPEARE_SHA256: &str = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed";

const TINY_SHAKESPEARE_BYTES: u64 = 1_115_394;

/// Tiny Shakespeare from `$KINGLET_DATA_DIR`, from the user's cache, or downloaded into that cache.
pub(super) fn tiny_shakespeare() -> Result<Vec<u8>> {
    let [own, cached] = places();
    if let Some(path) = [&own, &cached].into_iter().flatten().find(|path| path.exists()) {
        let bytes = fs::read(path).map_err(Error::io("read", path))?;
        if sha256(&bytes) != TINY_SHAKESPEARE_SHA256 {
            return Err(Error::damaged(path, "this is not Tiny Shakespeare (its SHA-256 differs): remove it"));
        }
        return Ok(bytes);
    }
    let bytes = download(TINY_SHAKESPEARE_URL, TINY_SHAKESPEARE_BYTES, TINY_SHAKESPEARE_SHA256)?;
    if let Some(path) = cached {
        // Caching may fail: the text is still available, and the next run downloads it again.
        let _ = fs::create_dir_all(path.with_file_name("")).and_then(|()| disk::write_whole(&path, &bytes));
    }
    Ok(bytes)
}

/// Where it may be: in `$KINGLET_DATA_DIR`, and in the user's cache.
fn places() -> [Option<PathBuf>; 2] {
    let file = "tinyshakespeare.txt";
    let own = std::env::var_os("KINGLET_DATA_DIR").map(|dir| Path::new(&dir).join(file));
    [own, dirs::cache_dir().map(|dir| dir.join("kinglet").join(file))]
}

/// Whether it need not be downloaded.
pub(super) fn is_here() -> bool {
    places().iter().flatten().any(|path| path.exists())
}

/// Downloads a file of known length and hash with a program installed on the system. The hash verifies the file, and a
/// built-in TLS library for one file would be a tenth of the binary.
fn download(url: &str, bytes: u64, hash: &str) -> Result<Vec<u8>> {
    let fail = |what: String| {
        Error::Data(format!(
            "{what}. Without a network, put the file at $KINGLET_DATA_DIR/tinyshakespeare.txt, train on a file \
             of your own, or name no data to train on the built-in corpus"
        ))
    };
    let body = fetch(url, bytes).map_err(|why| fail(format!("cannot download {url}: {why}")))?;
    if body.len() as u64 == bytes && sha256(&body) == hash {
        Ok(body)
    } else {
        Err(fail(format!("{url} has changed: it now has {} bytes and the SHA-256 {}", body.len(), sha256(&body))))
    }
}

/// curl, or else wget, and the arguments with which each writes a URL's content to standard output. curl gives up after a
/// minute, wget after a minute without data.
const FETCHERS: [(&str, &[&str]); 2] =
    [("curl", &["-fsSL", "--max-time", "60", "--"]), ("wget", &["-q", "-O", "-", "--timeout=60", "--tries=1", "--"])];

/// Downloads `url`, reading at most one byte more than the expected `bytes`; the error says why it failed.
fn fetch(url: &str, bytes: u64) -> std::result::Result<Vec<u8>, String> {
    for (program, arguments) in FETCHERS {
        let mut command = Command::new(program);
        command.args(arguments).arg(url).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("{program}: {error}")),
        };
        let mut body = Vec::new();
        let stdout = child.stdout.take().expect("it is piped");
        let read = stdout.take(bytes + 1).read_to_end(&mut body);
        // A longer response is not the expected file, so stop the download.
        if body.len() as u64 > bytes {
            let _ = child.kill();
        }
        let output = child.wait_with_output().map_err(|error| format!("{program}: {error}"))?;
        read.map_err(|error| format!("{program}: {error}"))?;
        if output.status.success() || body.len() as u64 > bytes {
            return Ok(body);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{program} ended with {}: {}", output.status, said.trim()));
    }
    Err("neither curl nor wget is installed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A server on the loopback address that answers one request with `body`.
    fn serve(body: &'static str) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/input.txt", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        });
        url
    }

    #[test]
    fn a_download_is_checked() {
        let hash = sha256(b"hello");
        assert_eq!(download(&serve("hello"), 5, &hash).unwrap(), b"hello");
        for (url, message) in [
            (serve("jello"), "has changed: it now has 5 bytes"),
            (serve("hell"), "has changed: it now has 4 bytes"),
            (serve("hello hello hello"), "has changed: it now has 6 bytes"),
            ("http://127.0.0.1:9/".to_owned(), "cannot download http://127.0.0.1:9/"),
        ] {
            let error = download(&url, 5, &hash).unwrap_err().to_string();
            assert!(error.contains(message) && error.contains("KINGLET_DATA_DIR"), "{error}");
        }
    }
}
