//! A trained model, loaded and ready: to write text and to be measured.

use crate::{
    backend::{Backend, Buf, Cpu},
    checkpoint::State,
    config::{Config, Precision},
    data,
    error::Result,
    eval::{self, Exact},
    model::Gpt,
    run::{RunDir, Which},
    sample::{Generator, Sampling, Stopper},
    shards::{Shards, cores, with_threads},
    source::Corpus,
    tokenizer::{StreamDecoder, Tokenizer},
    train,
};
use std::{ops::ControlFlow, path::Path};

/// A model from a run directory.
pub struct Session {
    /// What defined its training.
    pub config: Config,
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// Which checkpoint it is.
    pub state: State,
    /// What of the run was found damaged, and what was taken instead.
    pub warnings: Vec<String>,
    be: Cpu,
    model: Gpt,
    weights: Buf,
}

/// What part of a text to measure the loss on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The beginning, which is trained on.
    Train,
    /// The rest.
    Val,
    /// All of it.
    All,
}

impl Session {
    /// Loads a checkpoint of a run.
    ///
    /// # Errors
    /// If the folder has no run, or the run no intact checkpoint.
    pub fn load(run: &Path, which: Which) -> Result<Session> {
        let mut run = RunDir::open(run)?;
        let be = Cpu::new()?.with_precision(run.config.precision);
        let model = Gpt::new(&run.config);
        let (state, host) = run.load_weights(&model.layout, None, which)?;
        let mut weights = be.zeros(model.layout.len());
        be.upload(&mut weights, 0, &host);
        be.prepare(&mut weights, &model.layout.linears(), false);
        let RunDir { config, tokenizer, warnings, .. } = run;
        Ok(Session { config, tokenizer, state, warnings, be, model, weights })
    }

    /// What linear layers compute in on this machine.
    pub fn precision(&self) -> Precision {
        self.be.precision()
    }

    /// The exact loss over a part of `text`, or of the text the run was trained on; and, on the validation part of
    /// the built-in corpus, the entropy floor. `threads` = 0 takes one for each core; `progress` hears how many of
    /// how many sequences are done.
    ///
    /// # Errors
    /// If the text cannot be read, has unknown characters, or is too short.
    pub fn eval(
        &self,
        text: Option<&Corpus>,
        part: Part,
        threads: usize,
        mut progress: impl FnMut(usize, usize) + Send,
    ) -> Result<(Exact, Option<f64>)> {
        let (split, floor) = match (part, text) {
            (Part::All, Some(text)) => (data::whole(text, &self.tokenizer, &self.config)?, None),
            (Part::All, None) => (data::whole(&Corpus::open(&self.config)?, &self.tokenizer, &self.config)?, None),
            (part, text) => {
                let data = match text {
                    Some(text) => {
                        let survey = data::Survey::of(text, &self.config)?;
                        data::Dataset::new(text, &survey, &self.tokenizer, &self.config)?
                    }
                    None => train::load(&self.config, &self.tokenizer)?,
                };
                if part == Part::Train { (data.train, None) } else { (data.val, data.floor) }
            }
        };
        let shards = if threads == 0 { cores() } else { threads };
        let mut shards = Shards::new(&self.be, &self.model, self.config.batch_size, shards, false);
        let go_on = |done, of| {
            progress(done, of);
            ControlFlow::Continue(())
        };
        let measure = || eval::exact(&self.be, &self.model, &mut shards, &self.weights, &split, go_on);
        Ok((with_threads(threads, measure)?.expect("nothing breaks it off"), floor))
    }

    /// Writes up to `tokens` tokens after `prompt` (an empty one is [`start_of_text`]), giving each
    /// piece of text to `write` until that breaks or `stop`, if not empty, would be written. Streams of one seed
    /// differ by their `index`.
    ///
    /// # Errors
    /// If the prompt has unknown characters.
    pub fn generate(
        &self,
        prompt: &str,
        tokens: usize,
        sampling: &Sampling,
        stop: &str,
        index: u64,
        mut write: impl FnMut(&str) -> ControlFlow<()> + Send,
    ) -> Result<()> {
        let mut prompt = self.tokenizer.encode(prompt)?;
        if prompt.is_empty() {
            prompt.push(start_of_text(&self.tokenizer));
        }
        let mut generator = Generator::new(&self.be, &self.model, &self.weights, &prompt, sampling.clone(), index);
        let (mut stopper, mut decoder) = (Stopper::new(stop), StreamDecoder::new(&self.tokenizer));
        with_threads(0, || {
            for _ in 0..tokens {
                let (text, stopped) = stopper.push(&decoder.push(generator.next_token()));
                if write(&text).is_break() || stopped {
                    return;
                }
            }
            let (text, stopped) = stopper.push(&decoder.finish());
            if write(&text).is_continue() && !stopped {
                let _ = write(&stopper.finish());
            }
        });
        Ok(())
    }
}

/// What text begins after if there is no prompt: the end of the one before or, where the tokenizer has no such token,
/// token 0, as published.
pub fn start_of_text(tokenizer: &Tokenizer) -> u32 {
    tokenizer.end_of_text().unwrap_or(0)
}
