//! What must hold for any bytes from outside: parsed or refused, without panic, and what was parsed reads back the same.
//! The property tests and the fuzz targets share these.

use kinglet::{
    Model,
    config::{Config, Quantization},
    data::Header,
    params::Layout,
    run::{State, parse_metrics, read_tensors},
    text::{
        chat::{Message, Segment, Template, encode},
        source::{Corpus, Piece},
        tokenizer::{CharTokenizer, Cuts, Tokenizer},
    },
};
use std::io::Cursor;

/// A configuration file, and each line of it as a setting.
pub(crate) fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(config) = Config::from_toml(text) {
        assert_eq!(Config::from_toml(&config.to_toml()).unwrap(), config);
    }
    let mut config = Config::default();
    for line in text.lines() {
        let _ = config.set(line);
    }
    if config.check().is_ok() {
        assert_eq!(Config::from_toml(&config.to_toml()).unwrap(), config);
    }
}

/// A `tokenizer.json`.
pub(crate) fn tokenizer(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(tokenizer) = Tokenizer::from_json(text) {
        if let Some(chars) = tokenizer.chars() {
            let vocabulary: String = chars.chars().collect();
            assert_eq!(tokenizer.decode(&tokenizer.encode(&vocabulary).unwrap()), vocabulary);
        }
        assert_eq!(Tokenizer::from_json(tokenizer.to_json()).unwrap(), tokenizer);
        if let Ok(ids) = tokenizer.encode(text) {
            assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
            let _ = tokenizer.decode(&ids);
        }
    }
}

/// A file of text or of records, by each of the names it could have; strictly, and with what is bad left out.
pub(crate) fn corpus(bytes: &[u8]) {
    let strict = Config::default();
    let lenient = Config::default().with(&["skip_bad=true", "invalid_utf8=replace", "base=run"]).unwrap();
    for name in ["a.txt", "a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt.gz", "a.jsonl.zst", "a"] {
        let [size, lenient] = [&strict, &lenient].map(|config| {
            let corpus = Corpus::from_bytes_as(name, bytes, config);
            let mut size = 0;
            let read = corpus.pieces(Cuts::AtLines, |piece| {
                size += match piece {
                    Piece::Text { text, .. } => text.len(),
                    Piece::Messages(messages) => messages.iter().map(|message| message.content.len()).sum(),
                };
                Ok(())
            });
            read.map(|notes| {
                let again = corpus.pieces(Cuts::Anywhere, |_| Ok(())).unwrap();
                assert_eq!(notes, again, "the same is told each time");
                size
            })
        });
        // What can be read without leaving out anything is read all the same. (A fine-tuning may take other columns.)
        assert!(size.is_err() || lenient.is_ok(), "{name}");
        // Uncompressed text is what is there, but for its mark.
        let compressed = bytes.starts_with(b"\x1f\x8b") || bytes.starts_with(b"\x28\xb5\x2f\xfd");
        if let (Ok(size), "a.txt", false) = (size, name, compressed) {
            let utf16 = bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff");
            let mark = if bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
            assert!(utf16 || size == bytes.len() - mark);
        }
    }
}

/// The beginning of a file of token ids.
pub(crate) fn ids(bytes: &[u8]) {
    if let Ok(header) = Header::parse(&bytes[..bytes.len().min(128)], bytes.len() as u64) {
        let width = if header.wide { 4 } else { 2 };
        assert_eq!(header.start + width * header.tokens, bytes.len() as u64);
    }
}

/// A conversation template.
pub(crate) fn template(bytes: &[u8]) {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    let Ok(template) = Template::new(source, "<|endoftext|>".to_owned()) else { return };
    let messages = [("user", "a"), ("assistant", "b"), ("user", "c<|endoftext|>"), ("assistant", "d")];
    let messages: Vec<_> = messages.iter().map(|(role, content)| Message::new(role, content)).collect();
    let joined = |parts: &[Segment]| parts.iter().map(|part| part.text.as_str()).collect::<String>();
    if let Ok(parts) = template.parts(&messages) {
        assert!(parts.iter().all(|part| !part.text.is_empty()));
        encode(&parts, &Tokenizer::byte()).unwrap();
        // What is learned of the first answer is said after the prompt for it, if there are no blocks that say otherwise.
        if let (Ok(prompt), false) = (template.prompt(&messages[..1]), source.contains("generation")) {
            assert!(joined(&parts).starts_with(&joined(&prompt)));
        }
    }
    let _ = template.prompt(&messages[..3]);
    template.usual_ending(&Tokenizer::byte());
}

/// A `state.json`.
pub(crate) fn state(bytes: &[u8]) {
    if let Ok(state) = State::from_json(bytes) {
        // A number too large for f64 is read as infinite, which JSON cannot say.
        let again = State::from_json(&serde_json::to_vec(&state).unwrap());
        assert!(again.is_err() || again.unwrap() == state);
    }
}

/// A safetensors file, read as the weights of a model with one parameter of each kind.
pub(crate) fn tensors(bytes: &[u8]) {
    let layout = layout();
    for prefix in ["", "exp_avg."] {
        let mut numbers = 0;
        let read = read_tensors(&mut Cursor::new(bytes), &layout.stored(), prefix, |tensor, x| {
            assert_eq!(x.len(), tensor.span.len);
            numbers += x.len();
        });
        assert!(read.is_err() || numbers == layout.len());
    }
    // A model is made of it only if its matrices have the bits that the configuration says.
    let whole = read_tensors(&mut Cursor::new(bytes), &layout.stored(), "", |_, _| ()).is_ok();
    for scheme in SCHEMES {
        let tokenizer = CharTokenizer::train("a").into();
        let model = Model::from_parts(config_of(scheme), tokenizer, bytes);
        assert!(whole || model.is_err());
    }
}

/// What weights are rounded to.
pub(crate) const SCHEMES: [Quantization; 3] = [Quantization::None, Quantization::W8, Quantization::W4];

/// The configuration of [`layout`].
pub(crate) fn config_of(scheme: Quantization) -> Config {
    let mut config = Config::default();
    (config.vocab_size, config.block_size, config.n_layer, config.n_head, config.n_embd) = (1, 1, 1, 1, 1);
    config.quantization = scheme;
    config
}

/// The layout that [`tensors`] reads.
pub(crate) fn layout() -> Layout {
    Layout::new(&config_of(Quantization::None)).unwrap()
}

/// A `metrics.jsonl`.
pub(crate) fn metrics(bytes: &[u8]) {
    let (lines, damaged) = parse_metrics(bytes);
    assert!(lines.len() as u64 + damaged == bytes.iter().filter(|&&byte| byte == b'\n').count() as u64);
    // What is kept when a run goes on is kept whole.
    let kept: String = lines.iter().map(|line| line.text.clone() + "\n").collect();
    assert_eq!(parse_metrics(kept.as_bytes()), (lines, 0));
}
