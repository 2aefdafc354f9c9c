//! A first pass over a corpus: its size, its characters, its hash, and the tokenizer that can be trained on it.

use crate::{
    system::disk::hex,
    text::{
        chat::{DEFAULT_TEMPLATE, Template},
        source::{Corpus, Piece},
        tokenizer::{Alphabet, CharTokenizer, Cuts, END_OF_TEXT, Tokenizer},
    },
};
use kinglet_core::{
    config::Config,
    error::{Error, Result},
};
use sha2::{Digest, Sha256};

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
}

impl Survey {
    /// Reads a corpus from start to end.
    ///
    /// # Errors
    /// If it cannot be read, is not text, or mixes text and conversations.
    pub fn of(corpus: &Corpus, config: &Config) -> Result<Survey> {
        let template = Template::new(template(config), END_OF_TEXT.to_owned())?;
        let mut hasher = Sha256::new();
        let (mut bytes, mut chars, mut documents, mut conversations) = (0, 0, 0, 0);
        let mut alphabet = Alphabet::default();
        let mut see = |text: &str| {
            bytes += text.len() as u64;
            chars += text.chars().count() as u64;
            alphabet.add(text);
        };
        let mut inside = false;
        let notes = corpus.pieces(Cuts::Anywhere, |piece| {
            if documents > 0 && !inside {
                // Separate documents with a byte that UTF-8 never contains, so that the same text split into different
                // documents has another hash.
                hasher.update([0xff]);
            }
            match piece {
                Piece::Text { text, end } => {
                    hasher.update(&text);
                    see(&text);
                    documents += u64::from(!inside);
                    inside = !end;
                }
                Piece::Messages(messages) => {
                    hasher.update(serde_json::to_vec(&messages).expect("plain values"));
                    for part in template.parts(&messages)? {
                        part.text.split(END_OF_TEXT).for_each(&mut see);
                    }
                    documents += 1;
                    conversations += 1;
                }
            }
            if conversations > 0 && conversations < documents {
                let names = corpus.names();
                return Err(Error::Data(format!("{names}: text and conversations; train on one kind at a time")));
            }
            Ok(())
        })?;
        Ok(Survey { bytes, chars, documents, conversations, sha256: hex(&hasher.finalize()), notes, alphabet })
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

    /// Trains a byte pair encoding on the corpus.
    ///
    /// # Errors
    /// If it cannot be read a second time, or the library reports an error.
    pub fn learn_bpe(&self, corpus: &Corpus, vocab_size: usize) -> Result<Tokenizer> {
        let (sender, pieces) = std::sync::mpsc::sync_channel(2);
        std::thread::scope(|scope| {
            // Read in a second thread while the trainer counts, so that only a few pieces are in memory.
            let reader = scope.spawn(move || {
                corpus.pieces(Cuts::Anywhere, |piece| {
                    let text = match piece {
                        Piece::Text { text, .. } => text,
                        Piece::Messages(messages) => messages.into_iter().map(|m| m.content + "\n").collect(),
                    };
                    sender.send(text).map_err(|_| Error::Data("the vocabulary was not learned".into()))
                })
            });
            let learned = Tokenizer::train_bpe(pieces.into_iter(), vocab_size);
            let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let learned = learned?;
            read.map(|_| learned)
        })
    }

    /// The character tokenizer of the corpus; for a single text, the published one.
    pub fn char_tokenizer(&self) -> Tokenizer {
        let chars = Tokenizer::from(CharTokenizer::from(self.alphabet.clone()));
        chars.extended([], self.needs_end_of_text())
    }
}

/// The conversation template, or the default one.
fn template(config: &Config) -> &str {
    if config.chat_template.is_empty() { DEFAULT_TEMPLATE } else { &config.chat_template }
}

/// The conversation template of a model.
///
/// # Errors
/// If the configured template is invalid, or the tokenizer has no end-of-text token.
pub fn template_of(config: &Config, tokenizer: &Tokenizer) -> Result<Template> {
    let end = tokenizer.end_of_text_name().ok_or_else(|| {
        Error::Data(format!("conversations need a token that ends them, and this tokenizer has no {END_OF_TEXT}"))
    })?;
    Template::new(template(config), end)
}
