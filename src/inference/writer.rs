//! A text that has begun: what to compute next, and what becomes of a token that was drawn.

use super::loaded::Loaded;
use crate::{
    data::parting,
    text::chat::{End, Ending, Reader},
};
use kinglet_core::{
    backend::Forward,
    error::Result,
    model::Decoder,
    sample::{Drawn, Sampling, Sequence, draw},
};
use std::sync::Arc;

/// A piece of generated text, and the tokens that completed it.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Piece {
    /// The text: complete characters, and nothing that could be the start of a stop string.
    pub text: String,
    /// The tokens drawn since the last piece.
    pub tokens: Vec<Drawn>,
}

impl Piece {
    /// The ids of its tokens.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        self.tokens.iter().map(|token| token.id)
    }

    /// The sum of its tokens' log-probabilities in nats under the model, before temperature and the like.
    pub fn logprob(&self) -> f64 {
        self.tokens.iter().fold(0.0, |sum, token| sum + token.logprob)
    }
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finish {
    /// The maximum number of tokens was reached.
    Length,
    /// A stop string was generated; it is not part of the text.
    Stop,
    /// The model ended the text: by its end-of-text token or, in a conversation, by what the template puts behind an
    /// answer. Neither is part of the text.
    EndOfText,
    /// The model's context is full, and the text must not go on without its beginning: an answer in a conversation.
    Context,
}

impl Finish {
    /// How JSON says it.
    pub fn name(self) -> &'static str {
        match self {
            Finish::Length => "length",
            Finish::Stop => "stop",
            Finish::EndOfText => "end",
            Finish::Context => "context",
        }
    }
}

impl From<End> for Finish {
    fn from(end: End) -> Finish {
        match end {
            End::Stop => Finish::Stop,
            End::Ending => Finish::EndOfText,
        }
    }
}

/// How a text is written, apart from its prompt.
#[derive(Clone)]
pub(super) struct Manner {
    pub(super) max_tokens: usize,
    pub(super) sampling: Sampling,
    pub(super) index: u64,
    /// How many of the most probable tokens are told with each.
    pub(super) top: usize,
    pub(super) stops: Vec<String>,
    pub(super) ending: Ending,
    /// Whether it ends where the context is full.
    pub(super) within_context: bool,
}

/// A text that has begun. Tokens are drawn for it, alone or with others, as long as it [`wants`](Writer::wants) them.
pub(crate) struct Writer<B: Forward> {
    model: Arc<Loaded<B>>,
    /// None once the text has ended, so that its keys and values are freed.
    sequence: Option<Sequence<B>>,
    reader: Reader,
    /// How many more tokens may be drawn.
    left: usize,
    within_context: bool,
    /// Tokens of the prompt, and 1 from the first drawn token on.
    prompt: usize,
    /// What has come since the last piece.
    piece: Piece,
    finish: Option<Finish>,
}

impl<B: Forward> Writer<B> {
    /// Begins a text.
    pub(super) fn new(model: Arc<Loaded<B>>, prompt: &[u32], manner: Manner) -> Result<Writer<B>> {
        let Manner { max_tokens, sampling, index, top, stops, ending, within_context } = manner;
        let Loaded { config, be, gpt, tokenizer, barred, .. } = &*model;
        let sequence = Sequence::new(be, gpt, prompt, sampling, index)?;
        let sequence = sequence.barring(barred).parting_at(parting(tokenizer, config)).top(top);
        let reader = Reader::new(ending, &stops);
        let (sequence, left, prompt) = (Some(sequence), max_tokens, prompt.len());
        Ok(Writer { model, sequence, reader, left, within_context, prompt, piece: Piece::default(), finish: None })
    }

    /// Whether a token is to be drawn next. Otherwise the text has ended, and after its last piece there is no more.
    pub(crate) fn wants(&mut self) -> bool {
        let Some(sequence) = &self.sequence else { return false };
        let full = self.within_context && sequence.tokens().len() > self.model.gpt.block_size;
        if self.left == 0 || full {
            // No more tokens follow, so release the text that was held back.
            let (text, end) = self.reader.finish(&self.model.tokenizer);
            self.piece.text += &text;
            self.end(end.map_or(if full { Finish::Context } else { Finish::Length }, Finish::from));
        }
        self.sequence.is_some()
    }

    /// Takes the token that was drawn.
    fn push(&mut self, token: Drawn) {
        self.left -= 1;
        self.prompt = 1;
        let (text, end) = self.reader.push(&self.model.tokenizer, token.id);
        self.piece.tokens.push(token);
        self.piece.text += &text;
        if let Some(end) = end {
            self.end(end.into());
        }
    }

    fn end(&mut self, finish: Finish) {
        (self.finish, self.sequence) = (Some(finish), None);
    }

    /// The next piece, if one is complete: one with text or, at the end, what is left.
    pub(crate) fn piece(&mut self) -> Option<Piece> {
        let Piece { text, tokens } = &self.piece;
        let complete = !text.is_empty() || (self.finish.is_some() && !tokens.is_empty());
        complete.then(|| std::mem::take(&mut self.piece))
    }

    /// Why the text ended; `None` while it goes on.
    pub(crate) fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// How many tokens go through the model for the next one: all of a prompt at first, and then one. Where positions are
    /// learned and the context is full, it is more again; that is not told.
    pub(crate) fn rows(&self) -> usize {
        self.prompt.min(self.model.gpt.block_size)
    }

    /// Names the model: the same number for texts of the same model, and no others that are there at the same time.
    pub(crate) fn model(&self) -> usize {
        Arc::as_ptr(&self.model).addr()
    }
}

/// Scratch space to draw tokens for texts of one model, many at once.
pub(crate) struct Desk<B: Forward> {
    model: Arc<Loaded<B>>,
    decoder: Decoder<B>,
}

impl<B: Forward> Desk<B> {
    /// For the model of this text.
    pub(crate) fn of(writer: &Writer<B>) -> Desk<B> {
        let model = writer.model.clone();
        Desk { decoder: model.gpt.decoder(&model.be), model }
    }

    /// Draws a token for each of these texts, which want one, in one pass through their model.
    pub(crate) fn draw(&mut self, writers: &mut [&mut Writer<B>]) -> Vec<Result<()>> {
        let Loaded { be, gpt, weights, .. } = &*self.model;
        let sequences = writers.iter_mut().map(|writer| writer.sequence.as_mut().expect("the text wants a token"));
        let drawn = draw(be, gpt, weights, &mut self.decoder, &mut sequences.collect::<Vec<_>>());
        drawn.into_iter().zip(writers).map(|(token, writer)| token.map(|token| writer.push(token))).collect()
    }
}
