//! Tokenizers that use Hugging Face's library: byte pair encodings trained here, and any `tokenizer.json` that is not
//! kinglet's own.

mod decoder;
mod exact;
mod gpt2_words;
mod learn;
mod line;
mod long_words;
mod pairs;

use super::{class::CharClass, cuts::Cuts, json::END_OF_TEXT};
use crate::system::progress::Progress;
use decoder::Step;
use gpt2_words::Words;
use kinglet_core::error::{Error, Result};
use learn::{Learned, WordCounts};
use std::sync::{Arc, OnceLock};
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, PreTokenizerWrapper,
    models::bpe::{BPE, Vocab},
    pre_tokenizers::byte_level::ByteLevel,
};

/// A tokenizer from the library.
#[derive(Clone, Debug)]
pub(super) struct HuggingFace {
    inner: Box<tokenizers::Tokenizer>,
    /// A faster encoder, used if it is byte pair encoding over GPT-2's words.
    words: Option<Arc<Words>>,
    /// Its decoder, at the beginning of a text.
    steps: Arc<[Step]>,
    /// See [`super::Tokenizer::keeps_everything`].
    exact: bool,
    /// The token that stands for what is unknown.
    unknown: Option<u32>,
    /// The same, with special tokens encoded as text; made when first needed.
    plain: Arc<OnceLock<tokenizers::Tokenizer>>,
    /// One more than its largest id.
    size: usize,
}

impl HuggingFace {
    /// Reads the content of a `tokenizer.json`.
    pub(super) fn from_json(text: &str) -> Result<HuggingFace> {
        let bad = |error: tokenizers::Error| Error::Data(format!("not a tokenizer: {error}"));
        let mut inner = Box::new(tokenizers::Tokenizer::from_bytes(text).map_err(bad)?);
        // Encode the whole text without padding, whatever length the file asks for.
        inner.with_padding(None).with_truncation(None).map_err(bad)?;
        if let ModelWrapper::BPE(BPE { dropout: Some(rate @ 0.0001..), .. }) = inner.get_model() {
            return Err(Error::Data(format!(
                "this tokenizer cannot be used: its model has \"dropout\": {rate}, so the same text gets \
                 different tokens each time; set it to null"
            )));
        }
        let size = inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
        let words = Words::of(&inner).map(Arc::new);
        let steps = decoder::steps(inner.get_decoder()).into();
        let unknown = exact::unknown(&inner, text);
        let exact = exact::keeps_everything(&inner);
        Ok(HuggingFace { inner, words, steps, exact, unknown, plain: Arc::default(), size })
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

    /// See [`super::Tokenizer::bytes_of`].
    pub(super) fn bytes_of(&self, id: u32) -> Option<Vec<u8>> {
        decoder::bytes_of(&self.steps, &self.inner.id_to_token(id)?)
    }

    /// See [`super::Tokenizer::byte_of`].
    pub(super) fn byte_of(&self, id: u32) -> Option<u8> {
        decoder::byte_of(&self.steps, &self.inner.id_to_token(id)?)
    }

    /// See [`super::Tokenizer::word_classes`].
    pub(super) fn word_classes(&self) -> Option<Vec<(u32, CharClass)>> {
        self.words.as_ref().map(|words| words.classes())
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
        // What the vocabulary does not know is counted elsewhere.
        let is_special = |id: &u32| Some(*id) != self.unknown && special.iter().any(|(_, special)| special == id);
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
                Err(Error::Text(format!("cannot encode: this tokenizer cannot represent {name:?} as text")))
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

    /// See [`super::Tokenizer::keeps_everything`].
    pub(super) fn keeps_everything(&self) -> bool {
        self.exact
    }

    /// The token that stands for what is unknown.
    pub(super) fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// Appends the text that a token completes; an unknown id becomes U+FFFD, and what follows it is decoded as a text
    /// of its own. The library would skip it.
    pub(super) fn push(&self, stream: &mut Stream, id: u32, text: &mut String) {
        match self.inner.id_to_token(id) {
            Some(token) => decoder::push(stream.0.get_or_insert_with(|| self.steps.to_vec()), &token, true, text),
            None => {
                stream.finish(text);
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
    }
}

/// Learns a byte pair encoding. See [`super::BpeLearner`].
pub(super) struct Learner {
    counts: WordCounts,
    read: usize,
    progress: Progress,
}

impl Learner {
    /// A learner that has not seen any text.
    pub(super) fn new() -> Result<Learner> {
        Ok(Learner { counts: WordCounts::default(), read: 0, progress: Progress::new() })
    }

    /// Counts the words of some texts.
    pub(super) fn add(&mut self, texts: &[String]) {
        self.counts.add(texts);
        self.read += texts.iter().map(String::len).sum::<usize>();
        self.progress.show(|| format!("learning a vocabulary: {} MB of text read", self.read / 1_000_000));
    }

    /// How many words were not counted, as there are too many different ones.
    pub(super) fn left_out(&self) -> u64 {
        self.counts.left_out
    }

    /// How many bytes of very long words were not learned from.
    pub(super) fn cut(&self) -> u64 {
        self.counts.cut
    }

    /// The `tokenizer.json` of what was learned.
    pub(super) fn learn(self, size: usize) -> Result<String> {
        let Learner { counts, mut progress, .. } = self;
        let show = |tokens| progress.show(|| format!("learning a vocabulary: {tokens} of {size} tokens"));
        let Learned { tokens, merges } = counts.learn(size, show);
        let written = |id: u32| tokens[id as usize].clone();
        let merges = merges.into_iter().map(|(a, b)| (written(a), written(b))).collect();
        let byte_level = || ByteLevel::new(false, true, true);
        let refused = |error| Error::Data(format!("cannot learn a vocabulary: {error}"));
        let vocab: Vocab = tokens.iter().cloned().zip(0..).collect();
        let bpe = BPE::builder().vocab_and_merges(vocab, merges).build();
        let mut tokenizer = tokenizers::Tokenizer::new(bpe.map_err(refused)?);
        tokenizer
            .with_pre_tokenizer(Some(PreTokenizerWrapper::ByteLevel(byte_level())))
            .with_decoder(Some(DecoderWrapper::ByteLevel(byte_level())));
        tokenizer.add_special_tokens([AddedToken::from(END_OF_TEXT, true)]).map_err(refused)?;
        tokenizer.to_string(true).map_err(refused)
    }
}

/// What a decoder holds back, if it has begun.
#[derive(Clone, Debug, Default)]
pub(super) struct Stream(Option<Vec<Step>>);

impl Stream {
    /// Appends what was held back, when no more tokens follow.
    pub(super) fn finish(&mut self, text: &mut String) {
        if let Some(mut steps) = self.0.take() {
            decoder::finish(&mut steps, text);
        }
    }
}
