//! The tokens of a text beside it, with their log-probabilities, in both of OpenAI's shapes.
//!
//! A token is shown as the text that it adds. One that is not whole characters is shown as OpenAI does: `bytes:\xe2\x80`.

use crate::{
    inference::{IMPOSSIBLE, Spelt, Token, TokenScore, written},
    text::{
        chat::Ending,
        tokenizer::{StreamDecoder, Tokenizer},
    },
};
use kinglet_core::sample::Drawn;
use serde_json::{Map, Value, json};
use std::{borrow::Cow, collections::VecDeque, fmt::Write};

/// A token of a text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    token: Token,
    /// How many characters of the text are before it.
    offset: usize,
}

impl Entry {
    /// A token of which only this is seen in the text.
    fn seen_as(mut self, text: &str) -> Entry {
        self.token.spelt.bytes = text.as_bytes().to_vec();
        self
    }
}

/// How a token is shown.
fn shown(spelt: &Spelt) -> Cow<'_, str> {
    match std::str::from_utf8(&spelt.bytes) {
        Ok(text) => text.into(),
        Err(_) => spelt
            .bytes
            .iter()
            .fold("bytes:".to_owned(), |mut text, byte| {
                let _ = write!(text, "\\x{byte:02x}");
                text
            })
            .into(),
    }
}

/// The tokens of a text that is being written. Each is given out with the text that it is part of.
pub(super) struct Listing {
    ending: Ending,
    /// Whether the token that ends the text is listed too, with no text of its own.
    lists_end: bool,
    /// How many alternatives are shown.
    top: usize,
    decoder: StreamDecoder,
    /// The text so far, while it may be what stands before an answer and is not part of it.
    head: Option<String>,
    /// Tokens whose characters are not whole yet.
    open: Vec<Entry>,
    /// Tokens that were not given out, and how many bytes of the text are there up to the end of each.
    closed: VecDeque<(usize, Entry)>,
    /// How many bytes the tokens so far have.
    decoded: usize,
    /// How many characters there are before the next token.
    chars: usize,
    /// How many bytes of the text are certain.
    certain: usize,
}

impl Listing {
    /// Lists the tokens of a text that ends so, behind so many characters, with so many alternatives.
    pub(super) fn new(ending: Ending, lists_end: bool, chars: usize, top: usize) -> Listing {
        let (decoder, head) = (StreamDecoder::default(), Some(String::new()));
        let (open, closed) = (Vec::new(), VecDeque::new());
        Listing { ending, lists_end, top, decoder, head, open, closed, decoded: 0, chars, certain: 0 }
    }

    /// Adds a token.
    pub(super) fn push(&mut self, tokenizer: &Tokenizer, token: &Drawn) {
        let top = &token.top[..self.top.min(token.top.len())];
        let entry = self.entry(tokenizer, (token.id, Some(token.logprob)), top);
        if !self.ending.tokens.contains(&token.id) {
            let text = self.decoder.push(tokenizer, token.id);
            return self.add(entry, &text);
        }
        self.finish(tokenizer);
        if self.lists_end {
            self.closed.push_back((self.decoded, Entry { offset: self.chars, ..entry.seen_as("") }));
        }
    }

    /// No more tokens follow.
    pub(super) fn finish(&mut self, tokenizer: &Tokenizer) {
        let rest = self.decoder.finish(tokenizer);
        let rest = self.behind_head(rest) + &self.head.take().unwrap_or_default();
        self.close(&rest);
    }

    /// Tells that this text is certain. Returns the tokens that are part of it and of what was certain before.
    pub(super) fn certain(&mut self, text: &str) -> Vec<Entry> {
        self.certain += text.len();
        let certain = self.closed.iter().take_while(|(end, _)| *end <= self.certain).count();
        self.closed.drain(..certain).map(|(_, entry)| entry).collect()
    }

    /// The next token.
    fn entry(&self, tokenizer: &Tokenizer, token: (u32, Option<f64>), top: &[(u32, f64)]) -> Entry {
        Entry { token: Token::after(&self.decoder, tokenizer, token, top), offset: 0 }
    }

    fn add(&mut self, entry: Entry, text: &str) {
        self.open.push(Entry { offset: self.chars, ..entry });
        let behind = self.behind_head(text.to_owned());
        if behind.len() < text.len() && !behind.is_empty() {
            // The tokens before belong to the head, and this one in part.
            let last = self.open.pop().map(|entry| entry.seen_as(&behind));
            self.open = last.into_iter().collect();
        }
        if !behind.is_empty() {
            self.close(&behind);
        }
    }

    fn close(&mut self, text: &str) {
        self.decoded += text.len();
        self.chars += text.chars().count();
        self.closed.extend(self.open.drain(..).map(|entry| (self.decoded, entry)));
    }

    /// As the reader of an answer does: the text without its head; nothing yet while it may still be that.
    fn behind_head(&mut self, text: String) -> String {
        let Some(mut begun) = self.head.take() else { return text };
        begun += &text;
        let head = &self.ending.head;
        if begun.len() < head.len() && head.starts_with(&begun) {
            self.head = Some(begun);
            return String::new();
        }
        match begun.strip_prefix(head.as_str()) {
            Some("") if !head.is_empty() => {
                self.open.clear();
                String::new()
            }
            Some(rest) => rest.to_owned(),
            None => begun,
        }
    }
}

/// The tokens of a prompt. The first `unseen` of them were put before it, and are not seen in its text.
pub(super) fn of_prompt(tokenizer: &Tokenizer, scores: &[TokenScore], unseen: usize) -> Vec<Entry> {
    let mut listing = Listing::new(Ending::default(), false, 0, 0);
    for (i, score) in scores.iter().enumerate() {
        let entry = listing.entry(tokenizer, (score.id, score.logprob), &score.top);
        if i < unseen {
            listing.closed.push_back((0, entry.seen_as("")));
        } else {
            let text = listing.decoder.push(tokenizer, score.id);
            listing.add(entry, &text);
        }
    }
    listing.finish(tokenizer);
    listing.closed.into_iter().map(|(_, entry)| entry).collect()
}

/// As `/v1/completions` has them. A token's alternatives have the token itself among them.
pub(super) fn legacy(entries: &[Entry]) -> Value {
    let alternatives = |entry: &Entry| {
        let Token { spelt, logprob, top } = &entry.token;
        let own = (spelt.clone(), (*logprob)?);
        let mut named = Map::new();
        // Different tokens may be shown as the same text: then the most probable one is.
        for (spelt, logprob) in top.iter().chain([&own]) {
            named.entry(shown(spelt)).or_insert_with(|| json!(written(*logprob)));
        }
        Some(named)
    };
    let tokens = || entries.iter().map(|entry| &entry.token);
    json!({
        "tokens": tokens().map(|token| shown(&token.spelt)).collect::<Vec<_>>(),
        "token_logprobs": tokens().map(|token| token.logprob.map(written)).collect::<Vec<_>>(),
        "top_logprobs": entries.iter().map(alternatives).collect::<Vec<_>>(),
        "text_offset": entries.iter().map(|entry| entry.offset).collect::<Vec<_>>(),
    })
}

/// As `/v1/chat/completions` has them.
pub(super) fn chat(entries: &[Entry]) -> Value {
    let one =
        |spelt: &Spelt, logprob: f64| json!({"token": shown(spelt), "logprob": written(logprob), "bytes": spelt.bytes});
    let content = entries.iter().map(|Entry { token, .. }| {
        let mut whole = one(&token.spelt, token.logprob.unwrap_or(IMPOSSIBLE));
        whole["top_logprobs"] = token.top.iter().map(|(spelt, logprob)| one(spelt, *logprob)).collect();
        whole
    });
    json!({"content": content.collect::<Vec<_>>(), "refusal": null})
}
