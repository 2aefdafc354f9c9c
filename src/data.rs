//! Where text comes from, and what batches are made of.

use crate::{
    config::Config,
    corpus,
    disk::{self, sha256},
    error::{Error, Result},
    machine,
    rng::{Purpose, Rng},
    tokenizer::CharTokenizer,
};
use std::{fs, io::Read, path::Path};

/// Tiny Shakespeare: its well-known public address and what must come from there.
const TINY_SHAKESPEARE_URL: &str =
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt";
const TINY_SHAKESPEARE_SHA256: &str = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed";
const TINY_SHAKESPEARE_BYTES: u64 = 1_115_394;

/// The name of the corpus built into the program, which is used when no other data is named.
pub const BUILTIN: &str = "builtin";
/// The name of the corpus that the published models were trained on.
pub const TINY_SHAKESPEARE: &str = "tinyshakespeare";

/// A text and what identifies it.
#[derive(Clone, Debug)]
pub struct Text {
    /// The text.
    pub text: String,
    /// SHA-256 of its UTF-8, in hexadecimal.
    pub sha256: String,
    builtin: bool,
}

impl Text {
    /// Reads and joins the sources: files, `-` for standard input, `builtin`, `tinyshakespeare`. None is `builtin`.
    ///
    /// # Errors
    /// If a source cannot be read, is empty, or is not UTF-8 text.
    pub fn load(sources: &[String]) -> Result<Text> {
        let builtin = sources.is_empty() || sources == [BUILTIN];
        let text =
            if builtin { corpus::text() } else { sources.iter().map(|s| load_one(s)).collect::<Result<String>>()? };
        Ok(Text { sha256: sha256(text.as_bytes()), text, builtin })
    }

    /// A text from memory.
    pub fn from_string(text: String) -> Text {
        Text { sha256: sha256(text.as_bytes()), text, builtin: false }
    }
}

fn load_one(source: &str) -> Result<String> {
    let named = |name: &str| source == name && !Path::new(source).exists();
    if named(BUILTIN) {
        return Ok(corpus::text());
    }
    if named(TINY_SHAKESPEARE) {
        return tiny_shakespeare();
    }
    let bytes = if source == "-" {
        let mut bytes = Vec::new();
        let most = machine::memory().map_or(u64::MAX, |memory| memory / BYTES_PER_BYTE + 1);
        let stdin = Path::new("standard input");
        std::io::stdin().take(most).read_to_end(&mut bytes).map_err(Error::io("read", stdin))?;
        check_size("standard input", bytes.len() as u64)?;
        bytes
    } else {
        let path = Path::new(source);
        if path.is_dir() {
            return Err(Error::Data(format!("{source} is a folder: name the text files in it")));
        }
        if let Ok(metadata) = fs::metadata(path) {
            check_size(source, metadata.len())?;
        }
        fs::read(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::Data(format!(
                "there is no file {source}, nor a corpus of that name; \
                 name a text file, \"-\", {BUILTIN:?} or {TINY_SHAKESPEARE:?}"
            )),
            _ => Error::io("read", path)(error),
        })?
    };
    into_text(source, bytes)
}

/// Memory that a text of one-byte characters takes at once, per byte: itself, joined with others, and its ids twice.
const BYTES_PER_BYTE: u64 = 10;

/// Refuses a text too large for this machine before any of it is read.
fn check_size(source: &str, bytes: u64) -> Result<()> {
    machine::check_memory(bytes.saturating_mul(BYTES_PER_BYTE), |need, have| {
        let size = bytes as f64 / f64::from(1 << 30);
        Error::Data(format!(
            "{source} has {size:.1} GiB; training on it takes about {need:.0} GiB of memory and this machine has \
             {have:.1} GiB: use a part of it"
        ))
    })
}

fn into_text(source: &str, bytes: Vec<u8>) -> Result<String> {
    if bytes.is_empty() {
        return Err(Error::Data(format!("{source} is empty")));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count();
        let byte = error.as_bytes()[at];
        Error::Data(format!(
            "{source} is not UTF-8 text: byte 0x{byte:02x} at offset {at} (line {line}); \
             convert it first, for example with iconv -f latin1 -t utf-8"
        ))
    })?;
    match text.find('\0') {
        Some(at) => Err(Error::Data(format!("{source} is a binary file: it has a zero byte at offset {at}"))),
        None => Ok(text),
    }
}

/// Tiny Shakespeare from `$KINGLET_DATA_DIR`, from the user's cache, or downloaded into that cache.
fn tiny_shakespeare() -> Result<String> {
    let file = "tinyshakespeare.txt";
    let own = std::env::var_os("KINGLET_DATA_DIR").map(|dir| Path::new(&dir).join(file));
    let cached = dirs::cache_dir().map(|dir| dir.join("kinglet").join(file));
    if let Some(path) = [&own, &cached].into_iter().flatten().find(|path| path.exists()) {
        let bytes = fs::read(path).map_err(Error::io("read", path))?;
        if sha256(&bytes) != TINY_SHAKESPEARE_SHA256 {
            return Err(Error::run(path, "this is not Tiny Shakespeare (its SHA-256 differs): remove it"));
        }
        return into_text(TINY_SHAKESPEARE, bytes);
    }
    let bytes = download(TINY_SHAKESPEARE_URL, TINY_SHAKESPEARE_BYTES, TINY_SHAKESPEARE_SHA256)?;
    if let Some(path) = cached {
        // Without a cache the text is still there; the next run downloads again.
        let _ = fs::create_dir_all(path.with_file_name("")).and_then(|()| disk::write_whole(&path, &bytes));
    }
    into_text(TINY_SHAKESPEARE, bytes)
}

/// Fetches a file of known length and hash.
fn download(url: &str, bytes: u64, hash: &str) -> Result<Vec<u8>> {
    let fail = |what: String| {
        Error::Data(format!(
            "{what}. Without a network, put the file at $KINGLET_DATA_DIR/tinyshakespeare.txt, \
             or train on a file of your own, or on the built-in corpus by naming no data"
        ))
    };
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(std::time::Duration::from_secs(60))).build().into();
    let answer =
        agent.get(url).call().and_then(|mut answer| answer.body_mut().with_config().limit(bytes + 1).read_to_vec());
    let body = answer.map_err(|error| fail(format!("cannot download {url}: {error}")))?;
    if body.len() as u64 == bytes && sha256(&body) == hash {
        Ok(body)
    } else {
        Err(fail(format!("{url} is not what it was: {} bytes, SHA-256 {}", body.len(), sha256(&body))))
    }
}

/// A text as token ids, in two parts.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// What the model learns from.
    pub train: Split,
    /// What it is tested on.
    pub val: Split,
    /// Nats per character that no model can stay below on the validation part, where that is known.
    pub floor: Option<f64>,
}

impl Dataset {
    /// Encodes a text and divides it; the training part is the first `int(train_split * n)` tokens.
    ///
    /// # Errors
    /// If the text has characters the tokenizer does not know, or a part is too short for one sequence.
    pub fn new(text: &Text, tokenizer: &CharTokenizer, config: &Config) -> Result<Dataset> {
        let ids = tokenizer.encode(&text.text)?;
        let cut = (config.train_split * ids.len() as f64) as usize;
        let floor = text.builtin.then(|| corpus::floor(cut..ids.len()));
        let (train, val) = ids.split_at(cut);
        for (name, part) in [("training", train), ("validation", val)] {
            if part.len() <= config.block_size {
                return Err(Error::Data(format!(
                    "the {name} part of the text has {} tokens, fewer than one sequence of block_size + 1 = {}: \
                     use a longer text or a smaller block_size",
                    part.len(),
                    config.block_size + 1
                )));
            }
        }
        let split = |ids: &[u32]| Split::new(ids.to_vec(), config.block_size);
        Ok(Dataset { train: split(train)?, val: split(val)?, floor })
    }
}

/// A part of a text.
#[derive(Clone, Debug)]
pub struct Split {
    ids: Vec<u32>,
    block_size: usize,
}

impl Split {
    /// A part of its own, to be measured on: at least two tokens.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn new(ids: Vec<u32>, block_size: usize) -> Result<Split> {
        if ids.len() < 2 {
            return Err(Error::Data(format!("the text has {} tokens; predicting one takes two", ids.len())));
        }
        Ok(Split { ids, block_size })
    }

    /// All its tokens.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Random sequence number `index` for one step and purpose: `block_size + 1` tokens, every offset equally likely.
    pub fn sample(&self, seed: u64, purpose: Purpose, step: u64, index: usize) -> &[u32] {
        let offsets = (self.ids.len() - self.block_size) as u64;
        let offset = Rng::new(seed, purpose, step, index as u64).below(offsets) as usize;
        &self.ids[offset..=offset + self.block_size]
    }

    /// How many sequences [`Split::window`] cuts the part into.
    pub fn windows(&self) -> usize {
        (self.ids.len() - 1).div_ceil(self.block_size)
    }

    /// Sequence number `index` of those that together predict every token but the first exactly once.
    pub fn window(&self, index: usize) -> &[u32] {
        let start = index * self.block_size;
        &self.ids[start..self.ids.len().min(start + self.block_size + 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn dataset(text: &str, block_size: usize) -> Result<Dataset> {
        let config = Config { block_size, ..Config::default() };
        let text = Text::from_string(text.to_owned());
        Dataset::new(&text, &CharTokenizer::train(&text.text), &config)
    }

    #[test]
    fn windows_predict_every_token_once_and_samples_reach_both_ends() {
        let text: String = (0..103).map(|i| char::from(b'a' + i % 26)).collect();
        for block_size in [1, 4, 10] {
            let split = dataset(&text, block_size).unwrap().val;
            let predicted: Vec<u32> = (0..split.windows()).flat_map(|i| split.window(i)[1..].to_vec()).collect();
            assert_eq!(predicted, split.ids()[1..]);
            let samples: Vec<_> = (0..2000).map(|i| split.sample(1, Purpose::Batch, 0, i)).collect();
            assert!(samples.iter().all(|sample| sample.len() == block_size + 1));
            assert!(samples.contains(&&split.ids()[..=block_size]), "the first sequence");
            assert!(samples.contains(&&split.ids()[split.ids().len() - block_size - 1..]), "the last sequence");
        }
    }

    #[test]
    fn the_split_is_the_published_one() {
        let data = dataset(&"ab".repeat(550), 10).unwrap();
        assert_eq!((data.train.ids().len(), data.val.ids().len()), (990, 110));
        let message = dataset("abcdefghijklmnopqrstuvwxyz", 3).unwrap_err().to_string();
        assert!(message.contains("validation part of the text has 3 tokens"), "{message}");
    }

    #[test]
    fn bytes_that_are_not_text_are_located() {
        for (bytes, message) in [
            (&b""[..], "x is empty"),
            (b"ab\ncd\xe9f", "byte 0xe9 at offset 5 (line 2)"),
            (b"ab\0c", "zero byte at offset 2"),
        ] {
            let error = into_text("x", bytes.to_vec()).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

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
            (serve("jello"), "is not what it was: 5 bytes"),
            (serve("hell"), "is not what it was: 4 bytes"),
            (serve("hello hello hello"), "cannot download"),
            ("http://127.0.0.1:9/".to_owned(), "cannot download http://127.0.0.1:9/"),
        ] {
            let error = download(&url, 5, &hash).unwrap_err().to_string();
            assert!(error.contains(message) && error.contains("KINGLET_DATA_DIR"), "{error}");
        }
    }
}
