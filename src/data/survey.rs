//! A first pass over a corpus: its size, its characters, its hash, and the tokenizer that can be trained on it.

use super::chats::Chats;
use crate::{
    system::{disk::hex, progress::Progress},
    text::{
        chat::{DEFAULT_TEMPLATE, Message, Template},
        many,
        source::{Corpus, Piece},
        tokenizer::{Alphabet, BpeLearner, CharTokenizer, Cuts, END_OF_TEXT, Tokenizer},
    },
};
use kinglet_core::{
    config::{Config, TokenizerKind},
    error::{Error, Result},
};
use sha2::{Digest, Sha256};
use std::collections::HashSet;

/// What a first pass over a corpus finds.
#[derive(Clone, Debug)]
pub struct Survey {
    /// Bytes of text.
    pub bytes: u64,
    /// Characters.
    pub chars: u64,
    /// Documents, including conversations.
    pub documents: u64,
    /// Conversations.
    pub conversations: u64,
    /// SHA-256 in hexadecimal; for a single text, that of its UTF-8 bytes.
    pub sha256: String,
    /// Notes for the user on what was read and what was left out.
    pub notes: Vec<String>,
    alphabet: Alphabet,
    /// What the conversations are like, without their lengths.
    pub(super) chats: Chats,
}

impl Survey {
    /// Reads a corpus from start to end.
    ///
    /// # Errors
    /// If it cannot be read, is not text, or mixes text and conversations.
    pub fn of(corpus: &Corpus, config: &Config) -> Result<Survey> {
        let mut progress = Progress::new();
        let survey = Survey::read(corpus, config, |bytes| {
            progress.show(|| format!("reading: {} MB of text", bytes / 1_000_000));
            true
        });
        Ok(survey?.expect("nothing breaks it off"))
    }

    /// The same without a word about how far it is; `None` once nobody wants it any more.
    pub(super) fn while_wanted(corpus: &Corpus, config: &Config, go_on: &dyn Fn() -> bool) -> Result<Option<Survey>> {
        Survey::read(corpus, config, |_| go_on())
    }

    /// Reads a corpus as long as `go_on`, which is told the bytes so far, says so.
    fn read(corpus: &Corpus, config: &Config, mut go_on: impl FnMut(u64) -> bool) -> Result<Option<Survey>> {
        let template = Template::new(template(config), END_OF_TEXT.to_owned())?.at(config.template_time)?;
        let mut hasher = Sha256::new();
        let (mut bytes, mut chars, mut documents, mut conversations) = (0, 0, 0, 0);
        let (mut alphabet, mut chats) = (Alphabet::default(), Chats::default());
        let (mut inside, mut is_wanted) = (false, true);
        let notes = corpus.pieces(Cuts::Anywhere, |piece| {
            is_wanted = go_on(bytes);
            if !is_wanted {
                // Reading ends with an error only.
                return Err(Error::Data(String::new()));
            }
            if documents > 0 && !inside {
                // Separate documents with a byte that UTF-8 never contains, so that the same text split into different
                // documents has another hash.
                hasher.update([0xff]);
            }
            match piece {
                Piece::Text { text, end } => {
                    hasher.update(&text);
                    bytes += text.len() as u64;
                    chars += alphabet.add(&text, chars);
                    documents += u64::from(!inside);
                    inside = !end;
                }
                Piece::Messages(messages) => {
                    hasher.update(serde_json::to_vec(&messages).expect("plain values"));
                    let fits = said(&messages) <= config.block_size + 1;
                    for part in fits.then(|| template.parts(&messages)).transpose()?.unwrap_or_default() {
                        for text in template.texts(&part) {
                            bytes += text.len() as u64;
                            chars += alphabet.add_at(text, conversations);
                        }
                    }
                    chats.add(&messages);
                    documents += 1;
                    conversations += 1;
                }
            }
            if conversations > 0 && conversations < documents {
                let names = corpus.names();
                return Err(Error::Data(format!(
                    "{names}: these are both text and conversations; \
                     train on one kind at a time"
                )));
            }
            Ok(())
        });
        if !is_wanted {
            return Ok(None);
        }
        let (notes, sha256) = (notes?, hex(&hasher.finalize()));
        Ok(Some(Survey { bytes, chars, documents, conversations, sha256, notes, alphabet, chats }))
    }

    /// The distinct characters, in code point order.
    pub fn alphabet(&self) -> impl Iterator<Item = char> {
        self.alphabet.chars()
    }

    /// The number of units a corpus is divided by: characters, or conversations if it has them.
    fn units(&self) -> u64 {
        if self.conversations > 0 { self.conversations } else { self.chars }
    }

    /// The index of the first unit of the validation split: `int(train_split * n)`.
    pub(crate) fn cut(&self, config: &Config) -> u64 {
        (config.train_split * self.units() as f64) as u64
    }

    /// Whether an end-of-text token is needed, to separate documents or to end conversations.
    pub fn needs_end_of_text(&self) -> bool {
        self.documents > 1 || self.conversations > 0
    }

    /// Trains a byte pair encoding on the training part of the corpus, and notes on it for the user.
    ///
    /// # Errors
    /// If the corpus cannot be read a second time, or kinglet was built without byte pair encoding.
    pub fn learn_bpe(&self, corpus: &Corpus, vocab_size: usize, config: &Config) -> Result<(Tokenizer, Vec<String>)> {
        let mut learner = BpeLearner::new()?;
        let (mut waiting, mut size, mut left) = (Vec::new(), 0, self.cut(config));
        corpus.pieces(Cuts::Anywhere, |piece| {
            if left == 0 {
                return Ok(());
            }
            let text = match piece {
                Piece::Text { text, .. } => first_chars(text, &mut left),
                Piece::Messages(messages) => {
                    left -= 1;
                    messages.into_iter().map(|m| m.content + "\n").collect()
                }
            };
            size += text.len();
            waiting.push(text);
            if size >= AT_ONCE * rayon::current_num_threads() {
                learner.add(&waiting);
                (size, waiting) = (0, Vec::new());
            }
            Ok(())
        })?;
        learner.add(&waiting);
        let (left_out, cut) = (learner.left_out(), learner.cut());
        let learned = learner.learn(vocab_size)?;
        let mut notes = Vec::new();
        if left_out > 0 {
            notes.push(format!(
                "the text has too many different words to keep in memory: the vocabulary was learned without {} \
                 that came after the limit was reached",
                many(left_out, "word", "words")
            ));
        }
        if cut > 0 {
            let cut = cut as f64 / 1e6;
            notes.push(format!(
                "the text has words with thousands of letters: the vocabulary was learned from the first 4 MB \
                 of them, without the other {cut:.1} MB"
            ));
        }
        if learned.vocab_size() < vocab_size {
            notes.push(format!(
                "the vocabulary has only {} tokens instead of {vocab_size}: the text has no more pairs to merge",
                learned.vocab_size()
            ));
        }
        Ok((learned, notes))
    }

    /// A note on characters that occur only in the validation part of the corpus, if there are any that `known` does not
    /// have.
    pub(crate) fn only_in_validation(&self, config: &Config, known: Option<&Tokenizer>) -> Option<String> {
        let old: HashSet<char> = known.and_then(Tokenizer::chars).into_iter().flat_map(CharTokenizer::chars).collect();
        let new: Vec<char> = self.alphabet.chars_from(self.cut(config)).filter(|c| !old.contains(c)).collect();
        let shown: Vec<_> = new.iter().take(SHOWN).map(|c| format!("{c:?}")).collect();
        let (n, shown) = (new.len(), shown.join(", "));
        let more = if n > SHOWN { ", …" } else { "" };
        match n {
            0 => None,
            1 => Some(format!("1 character occurs only in the validation part, so the model cannot learn it: {shown}")),
            _ => Some(format!(
                "{n} characters occur only in the validation part, so the model cannot learn them: {shown}{more}"
            )),
        }
    }

    /// The character tokenizer of the corpus; for a single text, the published one.
    pub fn char_tokenizer(&self) -> Tokenizer {
        let chars = Tokenizer::from(CharTokenizer::from(self.alphabet.clone()));
        chars.extended([], self.needs_end_of_text())
    }
}

/// Bytes of text per thread whose words are counted at once.
const AT_ONCE: usize = 1 << 20;

/// Characters that a note shows.
const SHOWN: usize = 8;

/// The tokenizer of a configuration as it was found: a byte pair encoding with the tokens that there are, which may be
/// fewer than were asked for.
pub(crate) fn found(config: &Config, tokenizer: &Tokenizer) -> TokenizerKind {
    match &config.tokenizer {
        TokenizerKind::Bpe(size) => TokenizerKind::Bpe(tokenizer.vocab_size().min(*size)),
        other => other.clone(),
    }
}

/// The beginning of a text: at most `left` characters, which is how many are left afterwards.
pub(super) fn first_chars(mut text: String, left: &mut u64) -> String {
    let chars = text.chars().count() as u64;
    if chars > *left {
        let end = text.char_indices().nth(*left as usize).map_or(text.len(), |(at, _)| at);
        text.truncate(end);
    }
    *left = left.saturating_sub(chars);
    text
}

/// How many messages say something, each of at least one token. Rendering takes time that grows with the square of the
/// messages, so conversations of more than fit are left out before.
pub(super) fn said(messages: &[Message]) -> usize {
    messages.iter().filter(|message| !message.content.is_empty()).count()
}

/// The conversation template, or the default one.
fn template(config: &Config) -> &str {
    if config.chat_template.is_empty() { DEFAULT_TEMPLATE } else { &config.chat_template }
}

/// The conversation template of a model, at the time that its run began.
///
/// # Errors
/// If the configured template is invalid, or it is the default one and the tokenizer has no end-of-text token.
pub fn template_of(config: &Config, tokenizer: &Tokenizer) -> Result<Template> {
    Template::of_tokenizer(template(config), tokenizer)?.at(config.template_time)
}
