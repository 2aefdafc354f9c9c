//! A tokenizer as tables: the bytes of each token, and what encoding needs.

use crate::text::tokenizer::{CharClass, Tokenizer};
use serde_json::Value;
use std::collections::HashMap;

/// A tokenizer as tables.
pub(super) struct Vocabulary {
    /// The bytes of each token; none for an id that is no token.
    pub(super) tokens: Vec<Vec<u8>>,
    /// How text becomes tokens, or none where that is not written.
    pub(super) encoder: Option<Encoder>,
    /// The token that is not text, as it is written.
    pub(super) special: Option<u32>,
}

/// How text becomes tokens.
pub(super) enum Encoder {
    /// Each character is one.
    Chars,
    /// Each byte is one, its id.
    Bytes,
    /// Byte pair encoding of GPT-2's words.
    Words(Box<Words>),
}

/// Byte pair encoding.
pub(super) struct Words {
    /// The token of each byte.
    pub(super) byte_ids: [u32; 256],
    /// In order of the pairs.
    pub(super) merges: Vec<Merge>,
    /// Ranges of code points, each by its first, and the kinds of their characters.
    pub(super) classes: Vec<(u32, CharClass)>,
}

/// Two tokens that become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Merge {
    pub(super) a: u32,
    pub(super) b: u32,
    pub(super) rank: u32,
    pub(super) id: u32,
}

impl Vocabulary {
    /// The tables of a tokenizer; none where what a token adds to the text depends on others.
    pub(super) fn of(tokenizer: &Tokenizer) -> Option<Vocabulary> {
        let ids = 0..tokenizer.vocab_size() as u32;
        if ids.clone().any(|id| tokenizer.is_token(id) && tokenizer.bytes_of(id).is_none()) {
            return None;
        }
        let tokens: Vec<Vec<u8>> = ids.map(|id| tokenizer.bytes_of(id).unwrap_or_default()).collect();
        // Those that a configuration names are text like any other.
        let special = tokenizer.clone().with_ends("", "").ok()?.special_tokens();
        let encoder = if tokenizer.chars().is_some() {
            Some(Encoder::Chars)
        } else if *tokenizer == Tokenizer::byte() {
            Some(Encoder::Bytes)
        } else {
            words(tokenizer).map(|words| Encoder::Words(Box::new(words)))
        };
        Some(Vocabulary { tokens, encoder, special: special.first().map(|(_, id)| *id) })
    }

    /// The longest token, in bytes.
    pub(super) fn longest(&self) -> usize {
        self.tokens.iter().map(Vec::len).max().unwrap_or(0)
    }
}

/// What is needed to encode words, if the tokenizer does nothing else.
fn words(tokenizer: &Tokenizer) -> Option<Words> {
    let file: Value = serde_json::from_str(tokenizer.to_json()).ok()?;
    let model = file.get("model")?;
    // What changes how words are merged.
    let plain = |key: &str| model.get(key).is_none_or(|value| matches!(value, Value::Null | Value::Bool(false)));
    let affix = |key: &str| plain(key) || model[key] == "";
    let simple = ["unk_token", "byte_fallback", "ignore_merges"].into_iter().all(plain)
        && ["continuing_subword_prefix", "end_of_word_suffix"].into_iter().all(affix);
    let vocab: HashMap<&str, u32> = model
        .get("vocab")?
        .as_object()?
        .iter()
        .filter_map(|(token, id)| Some((&**token, id.as_u64()? as u32)))
        .collect();
    let byte_of: HashMap<u32, u8> = vocab
        .values()
        .filter_map(|&id| match tokenizer.bytes_of(id)?[..] {
            [byte] => Some((id, byte)),
            _ => None,
        })
        .collect();
    let mut byte_ids = [None; 256];
    byte_of.iter().for_each(|(&id, &byte)| byte_ids[usize::from(byte)] = Some(id));
    let byte_ids: Vec<u32> = byte_ids.into_iter().collect::<Option<_>>()?;
    let merges = model.get("merges")?.as_array()?.iter().zip(0..).map(|(pair, rank)| {
        let (a, b) = match pair {
            Value::String(pair) => pair.split_once(' ')?,
            _ => (pair.get(0)?.as_str()?, pair.get(1)?.as_str()?),
        };
        Some(Merge { a: *vocab.get(a)?, b: *vocab.get(b)?, rank, id: *vocab.get(&*format!("{a}{b}"))? })
    });
    let mut merges: Vec<Merge> = merges.collect::<Option<_>>()?;
    merges.sort_unstable();
    let classes = if simple { tokenizer.word_classes()? } else { return None };
    Some(Words { byte_ids: byte_ids.try_into().ok()?, merges, classes })
}
