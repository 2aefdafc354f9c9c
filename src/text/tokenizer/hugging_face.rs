//! Tokenizers that use Hugging Face's library: byte pair encodings trained here, and any `tokenizer.json` that is not
//! kinglet's own.

mod gpt2_words;

use super::{cuts::Cuts, json::END_OF_TEXT};
use gpt2_words::Words;
use kinglet_core::error::{Error, Result};
use std::{
    io::{self, IsTerminal},
    sync::{Arc, OnceLock},
};
use tokenizers::{
    AddedToken, DecoderWrapper, PreTokenizerWrapper,
    models::{
        TrainerWrapper,
        bpe::{BPE, BpeTrainer},
    },
    pre_tokenizers::byte_level::ByteLevel,
};

/// A tokenizer from the library.
#[derive(Clone, Debug)]
pub(super) struct HuggingFace {
    inner: Box<tokenizers::Tokenizer>,
    /// A faster encoder, used if it is byte pair encoding over GPT-2's words.
    words: Option<Arc<Words>>,
    /// The same, with special tokens encoded as text; made when first needed.
    plain: Arc<OnceLock<tokenizers::Tokenizer>>,
    /// One more than its largest id.
    size: usize,
}

impl HuggingFace {
    /// Trains a byte pair encoding and returns its `tokenizer.json`. See [`super::Tokenizer::train_bpe`].
    pub(super) fn train(pieces: impl Iterator<Item = String> + Send, vocab_size: usize) -> Result<String> {
        let byte_level = || ByteLevel::new(false, true, true);
        let mut tokenizer = tokenizers::Tokenizer::new(BPE::default());
        tokenizer
            .with_pre_tokenizer(Some(PreTokenizerWrapper::ByteLevel(byte_level())))
            .with_decoder(Some(DecoderWrapper::ByteLevel(byte_level())));
        let trainer = BpeTrainer::builder()
            .vocab_size(vocab_size)
            // The library's progress bars leave empty lines on standard output, where a program may expect JSON.
            .show_progress(io::stdout().is_terminal())
            .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let refused = |error| Error::Data(format!("cannot learn a vocabulary: {error}"));
        tokenizer.train(&mut TrainerWrapper::BpeTrainer(trainer), pieces).map_err(refused)?;
        tokenizer.to_string(true).map_err(refused)
    }

    /// Reads the content of a `tokenizer.json`.
    pub(super) fn from_json(text: &str) -> Result<HuggingFace> {
        let bad = |error: tokenizers::Error| Error::Data(format!("not a tokenizer: {error}"));
        let mut inner = Box::new(tokenizers::Tokenizer::from_bytes(text).map_err(bad)?);
        // Encode the whole text without padding, whatever length the file asks for.
        inner.with_padding(None).with_truncation(None).map_err(bad)?;
        let size = inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
        let words = Words::of(&inner).map(Arc::new);
        Ok(HuggingFace { inner, words, plain: Arc::default(), size })
    }

    /// One more than the largest id.
    pub(super) fn vocab_size(&self) -> usize {
        self.size
    }

    /// The id of a token.
    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// How a token is written.
    pub(super) fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// See [`super::Tokenizer::cuts`].
    pub(super) fn cuts(&self) -> Cuts {
        // Cutting at lines is wrong if each part gets a space prefix, or a special token takes in white space across a
        // line end: the whole text would then be encoded differently.
        let plain = |level: &ByteLevel| level.use_regex && !level.add_prefix_space;
        let reaches = |token: &AddedToken| token.lstrip || token.rstrip || token.content.contains('\n');
        let lines = self.inner.get_normalizer().is_none()
            && matches!(self.inner.get_pre_tokenizer(), Some(PreTokenizerWrapper::ByteLevel(level)) if plain(level))
            && !self.inner.get_added_tokens_decoder().values().any(reaches);
        if lines { Cuts::AtLines } else { Cuts::Whole }
    }

    /// Encodes text as ids.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if let Some(words) = &self.words {
            return words.encode(text, &self.inner);
        }
        let encoding = self.inner.encode_fast(text, false);
        Ok(encoding.map_err(|error| Error::Text(format!("cannot encode: {error}")))?.get_ids().to_vec())
    }

    /// See [`super::Tokenizer::encode_text`].
    pub(super) fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        let plain = self.plain.get_or_init(|| {
            let mut plain = (*self.inner).clone();
            plain.set_encode_special_tokens(true);
            plain
        });
        let encode = |text: &str| {
            let encoding = plain.encode_fast(text, false);
            Ok(encoding.map_err(|error| Error::Text(format!("cannot encode: {error}")))?.get_ids().to_vec())
        };
        let special = self.special_tokens();
        let is_special = |id: &u32| special.iter().any(|(_, special)| special == id);
        let ids: Vec<u32> = encode(text)?;
        if !ids.iter().any(is_special) {
            return Ok(ids);
        }
        // The vocabulary has the special token as a word, too: take it apart.
        let begins = |at: &usize| special.iter().any(|(name, _)| text[*at..].starts_with(name.as_str()));
        let (mut ids, mut from) = (Vec::new(), 0);
        for at in text.char_indices().map(|(at, _)| at).filter(begins) {
            let to = at + text[at..].chars().next().map_or(0, char::len_utf8);
            ids.extend(encode(&text[from..to])?);
            from = to;
        }
        ids.extend(encode(&text[from..])?);
        match ids.iter().find(|id| is_special(id)) {
            Some(&id) => {
                let name = self.token(id).unwrap_or_default();
                Err(Error::Text(format!("cannot encode: this tokenizer has no way to write {name:?} as text")))
            }
            None => Ok(ids),
        }
    }

    /// The special tokens, as they are written and by their ids, in the order of the ids.
    pub(super) fn special_tokens(&self) -> Vec<(String, u32)> {
        let added = self.inner.get_added_tokens_decoder().into_iter();
        let mut special: Vec<_> =
            added.filter(|(_, token)| token.special).map(|(id, token)| (token.content, id)).collect();
        special.sort_by_key(|(_, id)| *id);
        special
    }

    /// Decodes ids to text; an unknown id becomes U+FFFD.
    pub(super) fn decode(&self, ids: &[u32]) -> String {
        // The library would skip unknown ids.
        let known = |id: &u32| self.inner.id_to_token(*id).is_some();
        let pieces = ids.chunk_by(|a, b| known(a) == known(b)).map(|ids| {
            if known(&ids[0]) {
                self.inner.decode(ids, false).unwrap_or_default()
            } else {
                "\u{fffd}".repeat(ids.len())
            }
        });
        pieces.collect()
    }
}
