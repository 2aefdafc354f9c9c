//! Text generation, as an iterator.

use super::loaded::Loaded;
use crate::{
    data::parting,
    text::chat::{End, Ending, Reader},
};
use kinglet_core::{
    backend::{Cpu, Forward},
    error::Result,
    sample::{Sampling, Stream},
    threads::Pool,
};
use std::sync::Arc;

/// Default maximum number of tokens.
const MAX_TOKENS: usize = 500;

/// A piece of generated text, and the tokens that completed it.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Piece {
    /// The text: complete characters, and nothing that could be the start of a stop string.
    pub text: String,
    /// The tokens drawn since the last piece.
    pub ids: Vec<u32>,
    /// The sum of their log-probabilities in nats under the model, before temperature and the like.
    pub logprob: f64,
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

impl From<End> for Finish {
    fn from(end: End) -> Finish {
        match end {
            End::Stop => Finish::Stop,
            End::Ending => Finish::EndOfText,
        }
    }
}

/// A text being generated: first configured, then iterated over. It owns its state and shares ownership of the model,
/// so it can be moved to any thread. It computes on the thread that requests a piece.
///
/// ```no_run
/// # fn main() -> kinglet::error::Result<()> {
/// let model = kinglet::Model::open("runs/first")?;
/// let mut text = model.generate("The ").max_tokens(200).temperature(0.8).stop("\n").seed(1);
/// for piece in &mut text {
///     print!("{}", piece?.text);
/// }
/// println!("\n{:?}", text.finish());
/// # Ok(())
/// # }
/// ```
pub struct Generation<B: Forward = Cpu> {
    model: Arc<Loaded<B>>,
    prompt: Option<Result<Vec<u32>>>,
    max_tokens: usize,
    sampling: Sampling,
    index: u64,
    stops: Vec<String>,
    ending: Ending,
    /// Whether it ends where the context is full.
    within_context: bool,
    pool: Option<Pool>,
    writing: Option<Writing<B>>,
    finish: Option<Finish>,
}

/// The state of a text once generation has started.
struct Writing<B: Forward> {
    stream: Stream<B>,
    reader: Reader,
    drawn: usize,
}

impl<B: Forward> Generation<B> {
    pub(super) fn new(model: Arc<Loaded<B>>, prompt: Result<Vec<u32>>) -> Generation<B> {
        Generation {
            model,
            prompt: Some(prompt),
            max_tokens: MAX_TOKENS,
            sampling: Sampling::default(),
            index: 0,
            stops: Vec::new(),
            ending: Ending::default(),
            within_context: false,
            pool: None,
            writing: None,
            finish: None,
        }
    }

    /// Ends after `max_tokens` tokens.
    pub fn max_tokens(mut self, max_tokens: usize) -> Self {
        self.max_tokens = max_tokens;
        self
    }

    /// How tokens are sampled, including the seed.
    pub fn sampling(mut self, sampling: Sampling) -> Self {
        self.sampling = sampling;
        self
    }

    /// Below 1 the text is more predictable, above 1 more varied; 0 always takes the most probable token.
    pub fn temperature(mut self, temperature: f64) -> Self {
        self.sampling.temperature = temperature;
        self
    }

    /// The same seed generates the same text.
    pub fn seed(mut self, seed: u64) -> Self {
        self.sampling.seed = seed;
        self
    }

    /// Texts generated with the same seed differ by index.
    pub fn index(mut self, index: u64) -> Self {
        self.index = index;
        self
    }

    /// Adds a stop string: generation ends before the first one that occurs. An empty string has no effect.
    pub fn stop(mut self, stop: impl Into<String>) -> Self {
        self.stops.push(stop.into());
        self
    }

    /// Ends at the model's end-of-text token, if it has one.
    pub fn until_end_of_text(mut self) -> Self {
        self.ending = Ending::of_text(&self.model.tokenizer);
        self
    }

    /// Ends as an answer does, and where the context is full.
    pub(super) fn answering(mut self, ending: Ending) -> Self {
        (self.ending, self.within_context) = (ending, true);
        self
    }

    /// Computes in a thread pool instead of on the calling thread; worthwhile for models with large matrix products.
    pub fn on(mut self, pool: &Pool) -> Self {
        self.pool = Some(pool.clone());
        self
    }

    /// Why the text ended; `None` while it is unfinished, and after an error.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// Generates the rest of the text.
    ///
    /// # Errors
    /// If the prompt cannot be encoded, or the model's logits are NaN.
    pub fn text(&mut self) -> Result<String> {
        self.map(|piece| Ok(piece?.text)).collect()
    }

    /// The next piece with any text; `None` at the end.
    fn advance(&mut self) -> Result<Option<Piece>> {
        let Loaded { config, be, gpt, weights, tokenizer, barred, .. } = &*self.model;
        if let Some(prompt) = self.prompt.take() {
            let stream = Stream::new(be, gpt, &prompt?, self.sampling.clone(), self.index)?;
            let stream = stream.barring(barred).parting_at(parting(tokenizer, config));
            let reader = Reader::new(self.ending.clone(), &self.stops);
            self.writing = Some(Writing { stream, reader, drawn: 0 });
        }
        let Some(Writing { stream, reader, drawn }) = &mut self.writing else { return Ok(None) };
        let mut piece = Piece::default();
        let finish = loop {
            let full = self.within_context && stream.tokens().len() > gpt.block_size;
            if *drawn == self.max_tokens || full {
                // No more tokens follow, so release the text that was held back.
                let (text, end) = reader.finish(tokenizer);
                piece.text += &text;
                break end.map_or(if full { Finish::Context } else { Finish::Length }, Finish::from);
            }
            let token = stream.draw(be, gpt, weights)?;
            *drawn += 1;
            piece.ids.push(token.id);
            piece.logprob += token.logprob;
            let (text, end) = reader.push(tokenizer, token.id);
            piece.text = text;
            if let Some(end) = end {
                break end.into();
            }
            if !piece.text.is_empty() {
                return Ok(Some(piece));
            }
        };
        self.finish = Some(finish);
        self.writing = None;
        let something = !piece.text.is_empty() || !piece.ids.is_empty();
        Ok(something.then_some(piece))
    }
}

impl<B: Forward> Iterator for Generation<B> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Result<Piece>> {
        let advanced = match self.pool.clone() {
            Some(pool) => pool.run(|| self.advance()),
            None => self.advance(),
        };
        if advanced.is_err() {
            self.writing = None;
        }
        advanced.transpose()
    }
}
