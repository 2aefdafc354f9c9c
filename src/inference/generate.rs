//! Text generation, as an iterator.

use super::{
    loaded::Loaded,
    writer::{Desk, Finish, Manner, Piece, Writer},
};
use crate::text::chat::Ending;
use kinglet_core::{
    backend::{Cpu, Forward},
    error::{Error, Result},
    sample::Sampling,
    threads::Pool,
};
use std::sync::Arc;

/// Default maximum number of tokens.
const MAX_TOKENS: usize = 500;

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
    /// None once the text has begun, or has failed to.
    prompt: Option<Result<Vec<u32>>>,
    manner: Manner,
    pool: Option<Pool>,
    /// None before the text has begun, and after an error.
    writer: Option<Writer<B>>,
    desk: Option<Desk<B>>,
}

impl<B: Forward> Generation<B> {
    pub(super) fn new(model: Arc<Loaded<B>>, prompt: Result<Vec<u32>>) -> Generation<B> {
        let manner = Manner {
            max_tokens: MAX_TOKENS,
            sampling: Sampling::default(),
            index: 0,
            top: 0,
            stops: Vec::new(),
            ending: Ending::default(),
            within_context: false,
        };
        Generation { model, prompt: Some(prompt), manner, pool: None, writer: None, desk: None }
    }

    /// Ends after `max_tokens` tokens.
    pub fn max_tokens(mut self, max_tokens: usize) -> Self {
        self.manner.max_tokens = max_tokens;
        self
    }

    /// How tokens are sampled, including the seed.
    pub fn sampling(mut self, sampling: Sampling) -> Self {
        self.manner.sampling = sampling;
        self
    }

    /// Below 1 the text is more predictable, above 1 more varied; 0 always takes the most probable token.
    pub fn temperature(mut self, temperature: f64) -> Self {
        self.manner.sampling.temperature = temperature;
        self
    }

    /// The same seed generates the same text.
    pub fn seed(mut self, seed: u64) -> Self {
        self.manner.sampling.seed = seed;
        self
    }

    /// Texts generated with the same seed differ by index.
    pub fn index(mut self, index: u64) -> Self {
        self.manner.index = index;
        self
    }

    /// Each token comes with the `n` most probable ones in its place, and their log-probabilities.
    pub fn top(mut self, n: usize) -> Self {
        self.manner.top = n;
        self
    }

    /// Adds a stop string: generation ends before the first one that occurs. An empty string has no effect.
    pub fn stop(mut self, stop: impl Into<String>) -> Self {
        self.manner.stops.push(stop.into());
        self
    }

    /// Ends at the model's end-of-text token, if it has one.
    pub fn until_end_of_text(mut self) -> Self {
        self.manner.ending = Ending::of_text(&self.model.tokenizer);
        self
    }

    /// Ends as an answer does, and where the context is full.
    pub(super) fn answering(mut self, ending: Ending) -> Self {
        (self.manner.ending, self.manner.within_context) = (ending, true);
        self
    }

    /// Computes in a thread pool instead of on the calling thread; worthwhile for models with large matrix products.
    pub fn on(mut self, pool: &Pool) -> Self {
        self.pool = Some(pool.clone());
        self
    }

    /// Why the text ended; `None` while it is unfinished, and after an error.
    pub fn finish(&self) -> Option<Finish> {
        self.writer.as_ref().and_then(Writer::finish)
    }

    /// How many tokens the prompt has; 0 if it cannot be encoded, and once the text has begun.
    pub(crate) fn prompt_tokens(&self) -> usize {
        self.prompt.as_ref().and_then(|prompt| prompt.as_ref().ok()).map_or(0, Vec::len)
    }

    /// What ends it, and what stands before it and is no part of it.
    #[cfg(feature = "serve")]
    pub(crate) fn ending(&self) -> &Ending {
        &self.manner.ending
    }

    /// Generates the rest of the text.
    ///
    /// # Errors
    /// If the prompt cannot be encoded, or the model's logits are NaN.
    pub fn text(&mut self) -> Result<String> {
        self.map(|piece| Ok(piece?.text)).collect()
    }

    /// The text as far as it has come, for whoever goes on with it.
    ///
    /// # Errors
    /// If it cannot begin, or has failed already.
    pub(crate) fn into_writer(mut self) -> Result<Writer<B>> {
        self.begin()?;
        self.writer.ok_or_else(|| Error::Text("this text has already failed".to_owned()))
    }

    fn begin(&mut self) -> Result<()> {
        if let Some(prompt) = self.prompt.take() {
            self.writer = Some(Writer::new(self.model.clone(), &prompt?, self.manner.clone())?);
        }
        Ok(())
    }

    /// The next piece with any text; `None` at the end.
    fn advance(&mut self) -> Result<Option<Piece>> {
        self.begin()?;
        let Some(writer) = &mut self.writer else { return Ok(None) };
        let desk = self.desk.get_or_insert_with(|| Desk::of(writer));
        while writer.wants() {
            desk.draw(&mut [&mut *writer]).into_iter().collect::<Result<()>>()?;
            if let Some(piece) = writer.piece() {
                return Ok(Some(piece));
            }
        }
        self.desk = None;
        Ok(writer.piece())
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
            (self.writer, self.desk) = (None, None);
        }
        advanced.transpose()
    }
}
