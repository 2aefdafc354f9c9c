//! A trained model, loaded and ready: to write text and to be measured.

use crate::{
    backend::{Backend, Buf, Cpu},
    checkpoint::State,
    config::{Config, Precision},
    data::{Dataset, Split, Text},
    error::Result,
    eval::{self, Exact},
    model::Gpt,
    run::{RunDir, Which},
    sample::{Generator, Sampling, Stopper},
    shards::{Shards, cores, with_threads},
    tokenizer::CharTokenizer,
};
use std::{ops::ControlFlow, path::Path};

/// A model from a run directory.
pub struct Session {
    /// What defined its training.
    pub config: Config,
    /// Text to tokens and back.
    pub tokenizer: CharTokenizer,
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
        text: Option<&Text>,
        part: Part,
        threads: usize,
        mut progress: impl FnMut(usize, usize) + Send,
    ) -> Result<(Exact, Option<f64>)> {
        let trained_on;
        let text = match text {
            Some(text) => text,
            None => {
                trained_on = Text::load(&self.config.data)?;
                &trained_on
            }
        };
        let (split, floor) = match part {
            Part::All => (Split::new(self.tokenizer.encode(&text.text)?, self.config.block_size)?, None),
            Part::Train => (Dataset::new(text, &self.tokenizer, &self.config)?.train, None),
            Part::Val => {
                let data = Dataset::new(text, &self.tokenizer, &self.config)?;
                (data.val, data.floor)
            }
        };
        let shards = if threads == 0 { cores() } else { threads };
        let mut shards = Shards::new(&self.be, &self.model, self.config.batch_size, shards, false);
        let go_on = |done, of| {
            progress(done, of);
            ControlFlow::Continue(())
        };
        let measure = || eval::exact(&self.be, &self.model, &mut shards, &self.weights, &split, go_on);
        Ok((with_threads(threads, measure).expect("nothing breaks it off"), floor))
    }

    /// Writes up to `tokens` tokens after `prompt` (an empty one is a single token 0, as published), giving each
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
            prompt.push(0);
        }
        let mut generator = Generator::new(&self.be, &self.model, &self.weights, &prompt, sampling.clone(), index);
        let mut stopper = Stopper::new(stop);
        with_threads(0, || {
            for _ in 0..tokens {
                let token = generator.next_token();
                let (text, stopped) = stopper.push(&self.tokenizer.decode(&[token]));
                if write(&text).is_break() || stopped {
                    return;
                }
            }
            let _ = write(&stopper.finish());
        });
        Ok(())
    }
}
