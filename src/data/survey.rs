//! A first reading of a corpus: its size, its characters, its hash, and the tokenizer that can be learned from it.

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

/// What a first reading of a corpus tells.
#[derive(Clone, Debug)]
pub struct Survey {
    /// Bytes of text.
    pub bytes: u64,
    /// Characters.
    pub chars: u64,
    /// Documents, conversations among them.
    pub documents: u64,
    /// Conversations.
    pub conversations: u64,
    /// SHA-256 in hexadecimal; of a single text, that of its UTF-8.
    pub sha256: String,
    alphabet: Alphabet,
}

impl Survey {
    /// Reads a corpus from beginning to end.
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
        corpus.pieces(Cuts::Anywhere, |piece| {
            if documents > 0 && !inside {
                // A byte that no text has, so that the same words in other documents are another corpus.
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
        Ok(Survey { bytes, chars, documents, conversations, sha256: hex(&hasher.finalize()), alphabet })
    }

    /// The distinct characters, in code point order.
    pub fn alphabet(&self) -> impl Iterator<Item = char> {
        self.alphabet.chars()
    }

    /// What a corpus is divided by: its characters or, of conversations, these.
    fn units(&self) -> u64 {
        if self.conversations > 0 { self.conversations } else { self.chars }
    }

    /// The unit with which validation begins: `int(train_split * n)`.
    pub(crate) fn cut(&self, config: &Config) -> u64 {
        (config.train_split * self.units() as f64) as u64
    }

    /// Whether there is anything that an end of a text separates or ends.
    pub fn needs_end_of_text(&self) -> bool {
        self.documents > 1 || self.conversations > 0
    }

    /// Learns a byte pair encoding from the corpus.
    ///
    /// # Errors
    /// If it cannot be read a second time, or the library refuses.
    pub fn learn_bpe(&self, corpus: &Corpus, vocab_size: usize) -> Result<Tokenizer> {
        let (sender, pieces) = std::sync::mpsc::sync_channel(2);
        std::thread::scope(|scope| {
            // Read while it is counted, so that no more than a few pieces are in memory.
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
            read.map(|()| learned)
        })
    }

    /// The character tokenizer of the corpus; of a single text, the published one.
    pub fn char_tokenizer(&self) -> Tokenizer {
        let chars = Tokenizer::from(CharTokenizer::from(self.alphabet.clone()));
        chars.extended([], self.needs_end_of_text())
    }
}

/// The template of conversations.
fn template(config: &Config) -> &str {
    if config.chat_template.is_empty() { DEFAULT_TEMPLATE } else { &config.chat_template }
}

/// The conversation template of a model.
///
/// # Errors
/// If the configuration's is none, or the tokenizer has no token to end a conversation.
pub fn template_of(config: &Config, tokenizer: &Tokenizer) -> Result<Template> {
    let end = tokenizer.end_of_text_name().ok_or_else(|| {
        Error::Data(format!("conversations need a token that ends them, and this tokenizer has no {END_OF_TEXT}"))
    })?;
    Template::new(template(config), end)
}
