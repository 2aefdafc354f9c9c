//! One text on its way to a client, and its tokens beside it.

use super::logprobs::{Entry, Listing};
use crate::{
    inference::{Finish, Piece, Token},
    text::tokenizer::{StreamDecoder, Tokenizer},
};
use kinglet_core::sample::Drawn;
use std::collections::VecDeque;

/// Text and its tokens, to be sent together.
#[derive(Default)]
pub(super) struct Delta {
    pub(super) text: String,
    /// The tokens of OpenAI's log-probabilities.
    pub(super) entries: Vec<Entry>,
    /// All tokens that were drawn.
    pub(super) details: Vec<Token>,
}

impl Delta {
    pub(super) fn extend(&mut self, other: Delta) {
        self.text += &other.text;
        self.entries.extend(other.entries);
        self.details.extend(other.details);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.entries.is_empty() && self.details.is_empty()
    }
}

/// What is told of tokens beside the text, unless nothing is.
#[derive(Default)]
pub(super) struct Beside {
    /// For OpenAI's log-probabilities.
    pub(super) listing: Option<Listing>,
    /// How many alternatives of each token are in the details.
    pub(super) details: Option<usize>,
    /// The tokens so far, as far as their text is open.
    decoder: StreamDecoder,
}

impl Beside {
    pub(super) fn new(listing: Option<Listing>, details: Option<usize>) -> Beside {
        Beside { listing, details, decoder: StreamDecoder::default() }
    }

    /// The details of a piece: all of its tokens, also those that are no part of the text.
    fn details(&mut self, piece: &Piece, tokenizer: &Tokenizer) -> Vec<Token> {
        let Some(most) = self.details else { return Vec::new() };
        let token = |drawn: &Drawn| {
            let top = &drawn.top[..most.min(drawn.top.len())];
            let token = Token::after(&self.decoder, tokenizer, (drawn.id, Some(drawn.logprob)), top);
            self.decoder.push(tokenizer, drawn.id);
            token
        };
        piece.tokens.iter().map(token).collect()
    }
}

/// One text.
#[derive(Default)]
pub(super) struct Choice {
    pub(super) beside: Beside,
    /// What was not sent yet.
    pub(super) deltas: VecDeque<Delta>,
    /// How many tokens were drawn, and how many details were sent.
    pub(super) tokens: usize,
    pub(super) sent: usize,
    pub(super) finish: Option<Finish>,
    /// Whether its beginning was sent, and its end.
    pub(super) begun: bool,
    pub(super) ended: bool,
}

impl Choice {
    /// Takes what has come, to be sent by itself or with what was not sent before it.
    pub(super) fn push(&mut self, piece: Piece, tokenizer: &Tokenizer, by_itself: bool) {
        self.tokens += piece.tokens.len();
        let details = self.beside.details(&piece, tokenizer);
        let entries = self.beside.listing.as_mut().map(|listing| {
            piece.tokens.iter().for_each(|token| listing.push(tokenizer, token));
            listing.certain(&piece.text)
        });
        let delta = Delta { text: piece.text, entries: entries.unwrap_or_default(), details };
        match self.deltas.back_mut().filter(|_| !by_itself) {
            Some(last) => last.extend(delta),
            None => self.deltas.push_back(delta),
        }
    }

    pub(super) fn end(&mut self, finish: Finish, tokenizer: &Tokenizer) {
        self.finish = Some(finish);
        if let Some(mut listing) = self.beside.listing.take() {
            listing.finish(tokenizer);
            let entries = listing.certain("");
            self.deltas.extend((!entries.is_empty()).then(|| Delta { entries, ..Delta::default() }));
        }
    }

    pub(super) fn reason(&self) -> Option<&'static str> {
        Some(match self.finish? {
            Finish::Stop | Finish::EndOfText => "stop",
            _ => "length",
        })
    }
}
