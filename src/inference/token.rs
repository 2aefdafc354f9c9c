//! A token in its place in a text, and how it is told: the one form of it in what `kinglet score` prints and in all that is served.

use crate::text::tokenizer::{StreamDecoder, Tokenizer};
use serde_json::{Map, Value, json};

/// What stands in JSON for a log-probability that JSON cannot write, as in OpenAI's answers: of what the model finds impossible.
pub const IMPOSSIBLE: f64 = -9999.0;

/// A log-probability as it is written in JSON, where null is for a token that is not predicted.
pub fn written(logprob: f64) -> f64 {
    if logprob.is_finite() { logprob } else { IMPOSSIBLE }
}

/// A token and the bytes that it adds to a text. All tokens' bytes together are the text, if it is one.
#[derive(Clone, Debug, PartialEq)]
pub struct Spelt {
    /// Its id.
    pub id: u32,
    /// Its bytes. They may be a part of a character.
    pub bytes: Vec<u8>,
}

impl Spelt {
    /// A token behind those that are in `decoder`.
    pub fn after(decoder: &StreamDecoder, tokenizer: &Tokenizer, id: u32) -> Spelt {
        let byte = || tokenizer.byte_of(id).map(|byte| vec![byte]);
        let bytes = tokenizer.bytes_of(id).or_else(byte).unwrap_or_else(|| {
            // What it adds depends on what is before it. What that leaves open is said already.
            let (mut with, mut without) = (decoder.clone(), decoder.clone());
            let (all, before) = (with.push(tokenizer, id) + &with.finish(tokenizer), without.finish(tokenizer));
            all.strip_prefix(&before).unwrap_or(&all).as_bytes().to_vec()
        });
        Spelt { id, bytes }
    }

    /// As JSON: its id, its text and, where that is not all of it, its bytes.
    pub fn json(&self) -> Map<String, Value> {
        let Spelt { id, bytes } = self;
        let (text, bytes) = match std::str::from_utf8(bytes) {
            Ok(text) => (text.into(), None),
            Err(_) => (String::from_utf8_lossy(bytes), Some(bytes)),
        };
        let Value::Object(map) = json!({"id": id, "text": text, "bytes": bytes}) else { unreachable!("an object") };
        map
    }
}

/// The tokens of a text, one after another.
pub fn spelt<'a>(tokenizer: &'a Tokenizer, ids: &'a [u32]) -> impl Iterator<Item = Spelt> + 'a {
    let mut decoder = StreamDecoder::default();
    ids.iter().map(move |&id| {
        let spelt = Spelt::after(&decoder, tokenizer, id);
        decoder.push(tokenizer, id);
        spelt
    })
}

/// A token of a text, how probable it is there, and what is more probable.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// It.
    pub spelt: Spelt,
    /// None where nothing comes before it.
    pub logprob: Option<f64>,
    /// The most probable tokens in its place, most probable first.
    pub top: Vec<(Spelt, f64)>,
}

impl Token {
    /// A token behind those that are in `decoder`.
    pub fn after(
        decoder: &StreamDecoder,
        tokenizer: &Tokenizer,
        (id, logprob): (u32, Option<f64>),
        top: &[(u32, f64)],
    ) -> Token {
        let spelt = |id| Spelt::after(decoder, tokenizer, id);
        Token { spelt: spelt(id), logprob, top: top.iter().map(|&(id, logprob)| (spelt(id), logprob)).collect() }
    }

    /// As JSON, with its number in the text, and with more that is known of it.
    pub fn json(&self, index: usize, more: &[(&str, Value)]) -> Value {
        let pair = |key: &str, value: Value| (key.to_owned(), value);
        let alternative = |(spelt, logprob): &(Spelt, f64)| {
            let logprob = pair("logprob", json!(written(*logprob)));
            Value::Object(spelt.json().into_iter().chain([logprob]).collect())
        };
        let mut map = Map::from_iter([pair("index", json!(index))]);
        map.extend(self.spelt.json());
        map.extend([pair("logprob", json!(self.logprob.map(written)))]);
        map.extend(more.iter().map(|(key, value)| pair(key, value.clone())));
        map.extend([pair("top", self.top.iter().map(alternative).collect())]);
        Value::Object(map)
    }
}

#[cfg(all(test, feature = "hf-tokenizers"))]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_byte_only_where_the_decoder_takes_it_for_one() {
        let spelling = |decoder: Value| {
            let vocab = json!({"a": 0, "<0xC3>": 1, "<0xA9>": 2});
            let json = json!({
                "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
                "pre_tokenizer": null, "post_processor": null, "decoder": decoder,
                "model": {"type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": true},
            });
            let tokenizer = Tokenizer::from_json(&json.to_string()).unwrap();
            let bytes: Vec<u8> = spelt(&tokenizer, &[0, 1, 2]).flat_map(|token| token.bytes).collect();
            (String::from_utf8(bytes).unwrap(), tokenizer.decode(&[0, 1, 2]))
        };
        let (bytes, text) = spelling(json!({"type": "ByteFallback"}));
        assert_eq!((bytes.as_str(), text.as_str()), ("aé", "aé"));
        let (bytes, text) = spelling(json!({"type": "Fuse"}));
        assert_eq!((bytes.as_str(), text.as_str()), ("a<0xC3><0xA9>", "a<0xC3><0xA9>"));
    }
}
