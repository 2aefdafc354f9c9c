//! Converts text to token ids and back.
//!
//! | kind | tokens |
//! |---|---|
//! | `char` | one for each distinct character of the text, as published |
//! | `byte` | the 256 bytes of UTF-8, and `<|endoftext|>`: it can encode any text |
//! | `bpe:SIZE` | byte pair encoding (Sennrich et al. 2016) over GPT-2's words and bytes, learned from the text |
//! | a file | any Hugging Face `tokenizer.json` |
//!
//! Whatever the kind, a run stores a Hugging Face `tokenizer.json`, with which Python's `tokenizers` encodes and
//! decodes identically.

mod chars;
mod class;
mod cuts;
mod ends;
#[cfg_attr(not(feature = "hf-tokenizers"), path = "tokenizer/no_hugging_face.rs")]
mod hugging_face;
mod json;
mod loss;
mod lossy;
mod plain;

pub use chars::{Alphabet, CharTokenizer};
pub use class::CharClass;
pub use cuts::Cuts;
pub use json::END_OF_TEXT;
pub(crate) use json::{byte_char, file};
pub use loss::Loss;

use crate::system::disk;
use ends::Ends;
use hugging_face::HuggingFace;
use json::join_at_end_of_text;
use kinglet_core::error::{Error, Result};
use lossy::Lossy;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Maximum size of a `tokenizer.json`, in bytes.
const FILE_LIMIT: u64 = 1 << 28;

/// Converts text to token ids and back.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    kind: Kind,
    /// The content of its `tokenizer.json`.
    json: String,
    ends: Ends,
}

#[derive(Clone, Debug)]
enum Kind {
    Char(CharTokenizer),
    Byte,
    HuggingFace(HuggingFace),
}

impl PartialEq for Tokenizer {
    fn eq(&self, other: &Tokenizer) -> bool {
        self.json == other.json
    }
}

impl From<CharTokenizer> for Tokenizer {
    fn from(chars: CharTokenizer) -> Tokenizer {
        Tokenizer { json: chars.to_json(), kind: Kind::Char(chars), ends: Ends::default() }
    }
}

impl Tokenizer {
    /// One token per byte, with id = byte, and the end-of-text token, 256.
    pub fn byte() -> Tokenizer {
        let mut vocab: Vec<_> = (0..=255).map(|byte| (byte_char(byte).to_string(), json!(byte))).collect();
        vocab.push((END_OF_TEXT.to_owned(), json!(256)));
        let byte_level = |use_regex| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
        let model = json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab.into_iter().collect::<Map<_, _>>(), "merges": [],
        });
        let json = file(&[(256, END_OF_TEXT)], &byte_level(false), &byte_level(true), &model);
        Tokenizer { kind: Kind::Byte, json, ends: Ends::default() }
    }

    /// `n` tokens that are numbers, for ids of which nothing else is known. As text they are written with blanks between them.
    ///
    /// # Errors
    /// If there can be no such vocabulary, or kinglet was built without the feature `hf-tokenizers`.
    pub fn numbers(n: usize) -> Result<Tokenizer> {
        if n == 0 || n > MAX_VOCAB {
            return Err(Error::Data(format!("a vocabulary of {n} token ids: allowed are 1 to {MAX_VOCAB}")));
        }
        let vocab: Map<_, _> = (0..n).map(|id| (id.to_string(), json!(id))).collect();
        let model = json!({"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"});
        Tokenizer::from_json(&file(&[], &json!({"type": "WhitespaceSplit"}), &Value::Null, &model))
    }

    /// Trains a byte pair encoding on pieces of text: `vocab_size` tokens including the end-of-text token, or fewer if
    /// the text is too small.
    ///
    /// # Errors
    /// If kinglet was built without the feature `hf-tokenizers`.
    pub fn train_bpe(pieces: impl Iterator<Item = String>, vocab_size: usize) -> Result<Tokenizer> {
        let mut learner = BpeLearner::new()?;
        pieces.for_each(|piece| learner.add(&[piece]));
        learner.learn(vocab_size)
    }

    /// Reads a `tokenizer.json`, of a run or from elsewhere.
    ///
    /// # Errors
    /// If the file cannot be read or [`Tokenizer::from_json`] refuses it.
    pub fn from_file(path: &Path) -> Result<Tokenizer> {
        let text = disk::read_text(path, FILE_LIMIT)?;
        Tokenizer::from_json(&text).map_err(|error| Error::run(path, error.to_string()))
    }

    /// Reads the content of a `tokenizer.json`.
    ///
    /// # Errors
    /// If it is not valid; the message says what is wrong.
    pub fn from_json(text: &str) -> Result<Tokenizer> {
        let byte = Tokenizer::byte();
        if text == byte.json {
            return Ok(byte);
        }
        let bad = |error: String| Error::Data(format!("not a tokenizer: {error}"));
        let value: Value = serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
        if CharTokenizer::is(&value) {
            return Ok(CharTokenizer::from_json(&value)?.into());
        }
        let inner = HuggingFace::from_json(text)?;
        let size = inner.vocab_size();
        if size == 0 || size > MAX_VOCAB {
            return Err(bad(format!("its largest id implies {size} tokens; allowed are 1 to {MAX_VOCAB}")));
        }
        Ok(Tokenizer { kind: Kind::HuggingFace(inner), json: text.to_owned(), ends: Ends::default() })
    }

    /// The content of its `tokenizer.json`, to be saved.
    pub fn to_json(&self) -> &str {
        &self.json
    }

    /// What this tokenizer's tokens are called, in the plural.
    pub fn unit(&self) -> &'static str {
        match self.kind {
            Kind::Char(_) => "characters",
            Kind::Byte => "bytes",
            Kind::HuggingFace(..) => "tokens",
        }
    }

    /// The character tokenizer, if it is one.
    pub fn chars(&self) -> Option<&CharTokenizer> {
        match &self.kind {
            Kind::Char(chars) => Some(chars),
            _ => None,
        }
    }

    /// The size of the vocabulary: one more than the largest id.
    pub fn vocab_size(&self) -> usize {
        match &self.kind {
            Kind::Char(chars) => chars.vocab_size(),
            Kind::Byte => 257,
            Kind::HuggingFace(inner) => inner.vocab_size(),
        }
    }

    /// The same tokenizer with these tokens before and behind each text (`bos_token` and `eos_token` of a configuration).
    /// An empty `begin` is none; an empty `end` is the tokenizer's own.
    ///
    /// # Errors
    /// If it has no such token.
    pub fn with_ends(mut self, begin: &str, end: &str) -> Result<Tokenizer> {
        self.ends = Ends::named(begin, end, |name| self.id_of(name), || self.own_special())?;
        Ok(self)
    }

    /// The id of a token by the text it is written as.
    fn id_of(&self, name: &str) -> Option<u32> {
        match &self.kind {
            Kind::Char(_) | Kind::Byte if name == END_OF_TEXT => self.own_end(),
            Kind::Char(chars) => chars.id_of(name),
            Kind::Byte => name.bytes().next().filter(|_| name.len() == 1).map(u32::from),
            Kind::HuggingFace(inner) => inner.id(name),
        }
    }

    /// A token as [`Tokenizer::with_ends`] is told of it.
    pub(crate) fn name_of(&self, id: u32) -> Option<String> {
        match &self.kind {
            Kind::HuggingFace(inner) => inner.token(id),
            Kind::Char(_) | Kind::Byte => self.is_token(id).then(|| self.decode(&[id])),
        }
    }

    /// The end-of-text token that the tokenizer itself has.
    fn own_end(&self) -> Option<u32> {
        match &self.kind {
            Kind::Char(chars) => chars.end_of_text(),
            Kind::Byte => Some(256),
            // Names used by GPT-2, Llama and BERT.
            Kind::HuggingFace(inner) => {
                [END_OF_TEXT, "<|end_of_text|>", "</s>", "[SEP]"].iter().find_map(|name| inner.id(name))
            }
        }
    }

    /// The end-of-text token, which separates documents, if there is one.
    pub fn end_of_text(&self) -> Option<u32> {
        self.ends.end().map(|(_, id)| id).or_else(|| self.own_end())
    }

    /// How [`Tokenizer::end_of_text`] is written.
    pub fn end_of_text_name(&self) -> Option<String> {
        let own = || match &self.kind {
            Kind::HuggingFace(inner) => inner.token(self.own_end()?),
            _ => self.own_end().map(|_| END_OF_TEXT.to_owned()),
        };
        self.ends.end().map(|(name, _)| name.to_owned()).or_else(own)
    }

    /// The token before each document and each prompt, if a configuration names one.
    pub fn begin_of_text(&self) -> Option<u32> {
        self.ends.begin().map(|(_, id)| id)
    }

    /// How [`Tokenizer::begin_of_text`] is written.
    pub fn begin_of_text_name(&self) -> Option<&str> {
        self.ends.begin().map(|(name, _)| name)
    }

    /// The begin-of-text token, unless a document ends with the same token. Such a token is given and never predicted:
    /// a model is not asked for it, and what follows the end of a text is not for the model to say.
    pub fn given(&self) -> Option<u32> {
        self.begin_of_text().filter(|begin| Some(*begin) != self.end_of_text())
    }

    /// The token to start from if there is no prompt: the begin-of-text token, else the end-of-text token or, without
    /// either, token 0, as published.
    pub fn start_of_text(&self) -> u32 {
        self.begin_of_text().or_else(|| self.end_of_text()).unwrap_or(0)
    }

    /// A text's ids with the begin-of-text token before them, if there is one and they do not begin with it.
    pub fn begun(&self, mut ids: Vec<u32>) -> Vec<u32> {
        let begin = self.begin_of_text().filter(|begin| ids.first() != Some(begin));
        ids.splice(0..0, begin);
        ids
    }

    /// The special tokens, as they are written and by their ids.
    pub fn special_tokens(&self) -> Vec<(String, u32)> {
        self.ends.among(self.own_special())
    }

    fn own_special(&self) -> Vec<(String, u32)> {
        match &self.kind {
            Kind::HuggingFace(inner) => inner.special_tokens(),
            _ => self.own_end().map(|id| (END_OF_TEXT.to_owned(), id)).into_iter().collect(),
        }
    }

    /// Where a text may be cut so that encoding its parts gives the same tokens as encoding the whole.
    pub fn cuts(&self) -> Cuts {
        match &self.kind {
            Kind::Char(_) | Kind::Byte => Cuts::Anywhere,
            Kind::HuggingFace(inner) => inner.cuts(),
        }
    }

    /// Encodes text as ids.
    ///
    /// # Errors
    /// If there are characters that are not in the vocabulary. A character tokenizer names them, each with a similar
    /// known one if there is one.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match &self.kind {
            Kind::Char(chars) => chars.encode(text),
            Kind::Byte => Ok(join_at_end_of_text(text, 256, |part, ids| ids.extend(part.bytes().map(u32::from)))),
            Kind::HuggingFace(inner) => inner.encode(text),
        }
    }

    /// Whether any text that is encoded is the text that its ids are decoded to.
    pub fn keeps_everything(&self) -> bool {
        match &self.kind {
            Kind::Char(_) | Kind::Byte => true,
            Kind::HuggingFace(inner) => inner.keeps_everything(),
        }
    }

    /// What is lost of a text that was encoded as `ids`.
    pub fn loss(&self, text: &str, ids: &[u32]) -> Loss {
        let unknown = match &self.kind {
            _ if self.keeps_everything() => return Loss::default(),
            Kind::HuggingFace(inner) => inner.unknown(),
            Kind::Char(_) | Kind::Byte => None,
        };
        let known: Vec<u32> = ids.iter().copied().filter(|&id| Some(id) != unknown).collect();
        Loss::of(text, &self.decode(&known), (ids.len() - known.len()) as u64)
    }

    /// Encodes what a model is to continue, and says what of it is lost, if anything.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`], and if nothing of the text is left but unknown tokens.
    pub fn encode_prompt(&self, text: &str) -> Result<(Vec<u32>, Option<String>)> {
        let ids = self.encode(text)?;
        let loss = self.loss(text, &ids);
        let Some(summary) = loss.summary() else { return Ok((ids, None)) };
        if loss.is_everything(text, ids.len()) {
            return Err(Error::Text(format!("the tokenizer of this model cannot encode this text: {summary}")));
        }
        Ok((ids, Some(format!("the tokenizer loses part of this text: {summary}"))))
    }

    /// Encodes text in which no special token is meant: one that is written out is text like any other.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`], and if the tokenizer has no other way to write such a text than the special token.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        match &self.kind {
            Kind::Char(chars) => chars.encode_text(text),
            Kind::Byte => Ok(text.bytes().map(u32::from).collect()),
            Kind::HuggingFace(inner) => inner.encode_text(text),
        }
    }

    /// Whether an id is a token's. A model may know more ids than its tokenizer has tokens, and a vocabulary may have
    /// holes.
    pub fn is_token(&self, id: u32) -> bool {
        match &self.kind {
            Kind::HuggingFace(inner) => inner.token(id).is_some(),
            _ => (id as usize) < self.vocab_size(),
        }
    }

    /// The bytes that a token adds to a text, if it adds the same wherever it stands; not for an id that is no token.
    pub fn bytes_of(&self, id: u32) -> Option<Vec<u8>> {
        match &self.kind {
            Kind::HuggingFace(inner) => inner.bytes_of(id),
            Kind::Byte if id < 256 => Some(vec![id as u8]),
            _ => self.is_token(id).then(|| self.decode(&[id]).into_bytes()),
        }
    }

    /// The byte that a token such as `<0xE2>` stands for, where such tokens stand for bytes. It is text only if those beside it
    /// make a character of it.
    pub fn byte_of(&self, id: u32) -> Option<u8> {
        match &self.kind {
            Kind::HuggingFace(inner) => inner.byte_of(id),
            _ => None,
        }
    }

    /// If it is byte pair encoding of GPT-2's words with at most one special token: what kind of character each code point is
    /// for the pattern that finds the words, as ranges, each by its first code point.
    pub fn word_classes(&self) -> Option<Vec<(u32, CharClass)>> {
        match &self.kind {
            Kind::HuggingFace(inner) => inner.word_classes(),
            _ => None,
        }
    }

    /// Decodes ids to text. Anything that is not text (part of a character, an unknown id) becomes U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        if let Kind::Char(chars) = &self.kind {
            return chars.decode(ids);
        }
        let (mut stream, mut text) = (StreamDecoder::default(), String::with_capacity(ids.len()));
        ids.iter().for_each(|&id| stream.add(self, id, &mut text));
        text + &stream.finish(self)
    }

    /// Whether every id of `other` means the same here: the tokenizers are equal, or this one has characters added.
    pub fn extends(&self, other: &Tokenizer) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Char(new), Kind::Char(old)) => new.extends(old),
            _ => self == other,
        }
    }

    /// The same tokenizer with the missing characters of `text` appended to its vocabulary, and the end-of-text token
    /// if it is missing and `wanted`. Only character tokenizers are extended.
    pub fn extended(&self, text: impl IntoIterator<Item = char>, wanted: bool) -> Tokenizer {
        match &self.kind {
            Kind::Char(chars) => chars.extended(text, wanted).into(),
            _ => self.clone(),
        }
    }
}

/// The largest vocabulary that a model can have.
const MAX_VOCAB: usize = 1_000_000;

/// Learns a byte pair encoding from a text that is too large for memory.
pub struct BpeLearner(hugging_face::Learner);

impl BpeLearner {
    /// A learner that has not seen any text.
    ///
    /// # Errors
    /// If kinglet was built without the feature `hf-tokenizers`.
    pub fn new() -> Result<BpeLearner> {
        Ok(BpeLearner(hugging_face::Learner::new()?))
    }

    /// Counts the words of some texts, on all threads of the current pool. A word ends with its text.
    pub fn add(&mut self, texts: &[String]) {
        self.0.add(texts);
    }

    /// How many words were not counted, because a text with too many different ones would not fit into memory.
    pub fn left_out(&self) -> u64 {
        self.0.left_out()
    }

    /// How many bytes of very long words, as in text without blanks, were not learned from.
    pub fn cut(&self) -> u64 {
        self.0.cut()
    }

    /// A tokenizer of `vocab_size` tokens including the end-of-text token, or fewer if the text is too small.
    ///
    /// # Errors
    /// If the library refuses what was learned.
    pub fn learn(self, vocab_size: usize) -> Result<Tokenizer> {
        Tokenizer::from_json(&self.0.learn(vocab_size)?)
    }
}

/// Decodes ids that arrive one by one. All that it returns together is what [`Tokenizer::decode`] makes of the ids; held
/// back is only what the next ids can change, such as the bytes of an unfinished character.
#[derive(Clone, Debug, Default)]
pub struct StreamDecoder {
    bytes: Lossy,
    hugging_face: hugging_face::Stream,
}

impl StreamDecoder {
    /// Adds a token and returns the text that is now complete. `tokenizer` must be the same each time.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        let mut text = String::new();
        self.add(tokenizer, id, &mut text);
        text
    }

    fn add(&mut self, tokenizer: &Tokenizer, id: u32, text: &mut String) {
        match &tokenizer.kind {
            Kind::Char(chars) => text.push_str(&chars.decode(&[id])),
            Kind::Byte => match u8::try_from(id) {
                Ok(byte) => self.bytes.push(&[byte], text),
                Err(_) if id == 256 => self.bytes.push(END_OF_TEXT.as_bytes(), text),
                Err(_) => self.bytes.push("\u{fffd}".as_bytes(), text),
            },
            Kind::HuggingFace(inner) => inner.push(&mut self.hugging_face, id, text),
        }
    }

    /// The text held back, when no more tokens follow.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> String {
        let mut text = String::new();
        match &tokenizer.kind {
            Kind::Char(_) => {}
            Kind::Byte => self.bytes.finish(&mut text),
            Kind::HuggingFace(_) => self.hugging_face.finish(&mut text),
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::{PaddingParams, PaddingStrategy, TruncationParams};

    fn bpe() -> Tokenizer {
        let text = "in winter the kinglet weighs no more than a coin.\nthe firecrest is a little heavier, a café 🐦\n";
        Tokenizer::train_bpe([text.repeat(5)].into_iter(), 300).unwrap()
    }

    /// As Hugging Face's library reads the file, which is what Python's package does.
    fn theirs(tokenizer: &Tokenizer) -> tokenizers::Tokenizer {
        tokenizers::Tokenizer::from_bytes(tokenizer.to_json()).unwrap()
    }

    #[test]
    fn sizes_ends_and_files() {
        let chars = Tokenizer::from(CharTokenizer::train("ab"));
        assert_eq!((chars.vocab_size(), chars.end_of_text()), (2, None));
        let ended = chars.extended("abc".chars(), true);
        assert_eq!((ended.vocab_size(), ended.end_of_text()), (4, Some(3)));
        assert!(ended.extends(&chars) && !chars.extends(&ended) && !ended.extends(&Tokenizer::byte()));
        assert_eq!(ended.encode("ca<|endoftext|>b").unwrap(), [2, 0, 3, 1]);
        let byte = Tokenizer::byte();
        assert_eq!((byte.vocab_size(), byte.end_of_text()), (257, Some(256)));
        assert_eq!(byte.encode("é<|endoftext|>").unwrap(), [0xc3, 0xa9, 256]);
        let bpe = bpe();
        assert_eq!((bpe.vocab_size(), bpe.end_of_text()), (300, Some(0)));
        assert!(bpe.encode("the kinglet").unwrap().len() < 6);
        for tokenizer in [&chars, &ended, &byte, &bpe] {
            let read = Tokenizer::from_json(tokenizer.to_json()).unwrap();
            assert_eq!(&read, tokenizer);
            assert_eq!(std::mem::discriminant(&read.kind), std::mem::discriminant(&tokenizer.kind));
        }
    }

    #[test]
    fn special_tokens_that_are_meant_as_text_are_text() {
        let chars = Tokenizer::from(CharTokenizer::train("<|endoftx>ab"));
        let ended = chars.extended([], true);
        assert_eq!((chars.special_tokens(), chars.is_token(12), ended.is_token(12)), (vec![], false, true));
        for tokenizer in [&ended, &Tokenizer::byte(), &bpe()] {
            let end = tokenizer.end_of_text().unwrap();
            assert_eq!(tokenizer.special_tokens(), [(END_OF_TEXT.to_owned(), end)]);
            let text = "ab<|endoftext|><|endoftext|>ba";
            assert_eq!(tokenizer.encode(text).unwrap().iter().filter(|&&id| id == end).count(), 2);
            let ids = tokenizer.encode_text(text).unwrap();
            assert!(!ids.contains(&end) && tokenizer.decode(&ids) == text, "{ids:?}");
            let size = tokenizer.vocab_size() as u32;
            assert!((0..size).all(|id| tokenizer.is_token(id)) && !tokenizer.is_token(size));
        }
        assert_eq!(bpe().encode_text("the coin's é").unwrap(), bpe().encode("the coin's é").unwrap());
    }

    /// A tokenizer whose words are its vocabulary, special tokens among them, and an id that no token has.
    #[test]
    fn no_word_of_a_vocabulary_is_a_special_token_by_accident() {
        let words = |special: &str| {
            let added = json!([{"id": 3, "content": special, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true}]);
            let file = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
                "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null,
                "decoder": null, "model": {"type": "WordLevel", "unk_token": "[UNK]",
                "vocab": {"[UNK]": 0, "a": 1, special: 3, "<": 4, "/s>": 5}}});
            Tokenizer::from_json(&file.to_string()).unwrap()
        };
        let tokenizer = words("</s>");
        assert_eq!(tokenizer.special_tokens(), [("</s>".to_owned(), 3)]);
        assert_eq!(
            [0, 1, 2, 3, 4, 5, 6].map(|id| tokenizer.is_token(id)),
            [true, true, false, true, true, true, false]
        );
        assert_eq!(tokenizer.encode("a </s> a").unwrap(), [1, 3, 1]);
        assert_eq!(tokenizer.encode_text("a </s> a").unwrap(), [1, 4, 5, 1]);
        let error = words("#").encode_text("a # a").unwrap_err().to_string();
        assert!(error.contains("cannot represent \"#\" as text"), "{error}");
    }

    #[test]
    fn damaged_files_are_refused() {
        for (text, message) in [
            ("", "not a tokenizer: EOF"),
            ("{}", "not a tokenizer"),
            ("{\"model\": {\"type\": \"WordLevel\", \"vocab\": {}, \"unk_token\": \"x\"}}", "not a tokenizer"),
        ] {
            let error = Tokenizer::from_json(text).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        let huge = bpe().to_json().replacen("\"id\": 0", "\"id\": 4294967295", 1);
        assert_ne!(huge, bpe().to_json());
        // The ids that count are the vocabulary's: what a special token says of its own is nothing to make room for.
        let read = Tokenizer::from_json(&huge).unwrap();
        assert_eq!((read.vocab_size(), read.end_of_text()), (300, Some(0)));
        let text = "the coin<|endoftext|>é";
        let ids = read.encode(text).unwrap();
        assert_eq!((&ids, read.decode(&ids).as_str()), (&bpe().encode(text).unwrap(), text));
        // An id of the vocabulary that no model has room for.
        let end = format!("\"{END_OF_TEXT}\": 0");
        let huge = bpe().to_json().replacen(&end, &format!("\"{END_OF_TEXT}\": 4294967295"), 1);
        assert_ne!(huge, bpe().to_json());
        let error = Tokenizer::from_json(&huge).unwrap_err().to_string();
        assert!(error.contains("its largest id implies 4294967296 tokens"), "{error}");
    }

    #[test]
    fn a_tokenizer_with_dropout_is_refused() {
        let json = bpe().to_json().replacen("\"dropout\": null", "\"dropout\": 0.3", 1);
        let error = Tokenizer::from_json(&json).unwrap_err().to_string();
        assert!(error.contains("\"dropout\": 0.3") && error.contains("set it to null"), "{error}");
        let none = bpe().to_json().replacen("\"dropout\": null", "\"dropout\": 0.0", 1);
        assert!(Tokenizer::from_json(&none).is_ok());
    }

    #[test]
    fn a_prompt_of_which_nothing_is_left_is_refused_whatever_stands_before_it() {
        let json = json!({
            "version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null,
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": false},
            "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": false},
            "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": false, "byte_fallback": false,
                "vocab": {"<unk>": 0, "▁": 1, "a": 2, "b": 3}, "merges": []},
        });
        let tokenizer = Tokenizer::from_json(&json.to_string()).unwrap();
        assert!(tokenizer.encode_prompt("a b").unwrap().1.is_none());
        assert!(tokenizer.encode_prompt("a 🙀").unwrap().1.is_some());
        let error = tokenizer.encode_prompt("🙀").unwrap_err().to_string();
        assert!(error.contains("cannot encode this text"), "{error}");
    }

    #[test]
    fn a_stream_gives_whole_characters() {
        for tokenizer in [Tokenizer::byte(), bpe(), CharTokenizer::train("aé🐦 ").into()] {
            let ids = tokenizer.encode("é 🐦🐦a").unwrap();
            let mut stream = StreamDecoder::default();
            let pieces: Vec<String> = ids.iter().map(|&id| stream.push(&tokenizer, id)).collect();
            assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')), "{pieces:?}");
            assert_eq!(pieces.concat() + &stream.finish(&tokenizer), "é 🐦🐦a");
        }
        // Bytes that never become a character are given out all the same.
        let byte = Tokenizer::byte();
        let mut stream = StreamDecoder::default();
        let text: String = [0xff; 9].iter().map(|&id| stream.push(&byte, id)).collect();
        assert_eq!(text + &stream.finish(&byte), "\u{fffd}".repeat(9));
    }

    #[test]
    fn lengths_that_a_file_asks_for_are_not_of_the_text() {
        let text = "the kinglet weighs no more than a coin";
        let mut theirs = theirs(&bpe());
        theirs.with_truncation(Some(TruncationParams { max_length: 3, ..Default::default() })).unwrap();
        theirs.with_padding(Some(PaddingParams { strategy: PaddingStrategy::Fixed(99), ..Default::default() }));
        let read = Tokenizer::from_json(&theirs.to_string(true).unwrap()).unwrap();
        assert_eq!(read.encode(text).unwrap(), bpe().encode(text).unwrap());
    }

    #[test]
    fn line_ends_between_words_are_places_to_cut() {
        let bpe = bpe();
        assert_eq!((bpe.cuts(), Tokenizer::byte().cuts()), (Cuts::AtLines, Cuts::Anywhere));
        for (a, b) in [("the coin.\n", "winter is a\n\n little\n"), ("the coin.\r", "\nwinter\r\n"), ("語\n", "'s é")]
        {
            let whole = theirs(&bpe).encode_fast([a, b].concat(), false).unwrap();
            assert_eq!([bpe.encode(a).unwrap(), bpe.encode(b).unwrap()].concat(), whole.get_ids(), "{a:?}");
        }
        for (from, to) in [
            ("\"add_prefix_space\": false", "\"add_prefix_space\": true"),
            ("\"lstrip\": false", "\"lstrip\": true"),
            ("\"rstrip\": false", "\"rstrip\": true"),
        ] {
            let other = bpe.to_json().replacen(from, to, 1);
            assert!(other != bpe.to_json() && Tokenizer::from_json(&other).unwrap().cuts() == Cuts::Whole, "{to}");
        }
    }

    proptest! {
        #[test]
        fn ids_and_text_are_those_of_hugging_face(text in "\\PC*", more in proptest::collection::vec(any::<char>(), 1..50)) {
            let text = text + &more.into_iter().collect::<String>() + END_OF_TEXT + "a";
            let chars = Tokenizer::from(CharTokenizer::train(&text));
            for tokenizer in [Tokenizer::byte(), bpe(), chars.extended([], true)] {
                let theirs = theirs(&tokenizer);
                let ids = tokenizer.encode(&text).unwrap();
                let encoding = theirs.encode(text.as_str(), false).unwrap();
                prop_assert_eq!(encoding.get_ids(), &ids[..]);
                prop_assert_eq!(&tokenizer.decode(&ids), &text);
                prop_assert_eq!(theirs.decode(&ids, false).unwrap(), text.clone());
            }
        }
    }
}
