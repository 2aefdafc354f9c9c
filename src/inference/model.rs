//! A trained model, loaded and ready: to write text and to be measured.

use crate::{
    data::{self, TokenizerChoice},
    report::baselines::{self, Baseline},
    run::{RunDir, State, Which},
    text::{
        chat::{self, ASSISTANT, Message},
        tokenizer::{StreamDecoder, Tokenizer},
    },
    train::eval::{self, Answers, Exact},
};
use kinglet_core::{
    backend::{Backend, Buf, Cpu},
    config::{Config, Precision},
    error::{Error, Result},
    model::Gpt,
    params::{Layout, edit::add_words},
    sample::{Generator, Sampling, Stopper},
    shards::Shards,
    threads::{cores, with_threads},
};
use serde::Serialize;
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

/// What was measured of a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// The loss.
    #[serde(flatten)]
    pub exact: Exact,
    /// Nats per character that no model can stay below, on the validation part of a built-in corpus.
    pub floor: Option<f64>,
    /// The best model that only counts, on the validation part of a text: what is to be beaten.
    pub baseline: Option<Baseline>,
    /// Of conversations: how many answers are right.
    pub answers: Option<Answers>,
    /// What a user should know about how the data was read.
    pub notes: Vec<String>,
}

impl Session {
    /// Loads a checkpoint of a run.
    ///
    /// # Errors
    /// If the folder has no run, or the run no intact checkpoint.
    pub fn load(run: &Path, which: Which) -> Result<Session> {
        let mut run = RunDir::open(run)?;
        let layout = Layout::new(&run.config);
        let base = run.adapted_weights()?;
        let (state, weights) = run.load_weights(&layout, base.as_deref(), which)?;
        Session::new(run, state, &weights)
    }

    /// Loads a fine-tuned run with adapters as it was before it was trained.
    ///
    /// # Errors
    /// If it has none.
    pub fn without_adapters(run: &Path, which: Which) -> Result<Session> {
        let mut run = RunDir::open(run)?;
        let base = run.base()?.filter(|_| run.config.lora_rank > 0);
        let base = base.ok_or_else(|| Error::run(run.path(), "this run has no adapters to leave out"))?;
        let (state, _) = run.load_weights(&Layout::new(&run.config), Some(&base.weights), which)?;
        run.config = base.config;
        Session::new(run, state, &base.weights)
    }

    /// Loads the weights of a run, without its adapters if it has any, with the adapters of another one.
    ///
    /// # Errors
    /// If `adapter` is no run with adapters, or of another model.
    pub fn with_adapters_of(run: &Path, adapter: &Path, which: Which) -> Result<Session> {
        let mut run = RunDir::open(run)?;
        let mut other = RunDir::open(adapter)?;
        let trained_on = other.base()?.filter(|_| other.config.lora_rank > 0);
        let trained_on = trained_on.ok_or_else(|| Error::run(adapter, "this run has no adapters"))?;
        let layout = Layout::new(&run.config);
        let weights = match run.adapted_weights()? {
            Some(weights) => weights,
            None => run.load_weights(&layout, None, which)?.1,
        };
        let plain = Config { lora_rank: 0, modules_to_save: Vec::new(), new_words: 0, ..run.config.clone() };
        // The adapters may have been trained with words that were added to these weights.
        let (known, words) = (run.tokenizer.vocab_size(), other.config.vocab_size);
        let extended = other.tokenizer.extends(&run.tokenizer) && words >= plain.vocab_size;
        let (_, weights) = if extended && words > plain.vocab_size {
            add_words(&plain, &weights, known, words)
        } else {
            (plain, weights)
        };
        let shapes = |config: &Config| Layout::new(config).tensors.into_iter().map(|t| t.shape).collect::<Vec<_>>();
        let same =
            |base: &Config| shapes(&Config { vocab_size: words, lora_rank: 0, ..run.config.clone() }) == shapes(base);
        if !extended || !same(&trained_on.config) {
            let what = format!("its adapters are of another model than {}", run.path().display());
            return Err(Error::run(adapter, what));
        }
        let (state, adapted) = other.load_weights(&Layout::new(&other.config), Some(&weights), which)?;
        other.warnings.extend(run.warnings);
        if weights != trained_on.weights {
            let what = "the adapters were trained on other weights than these";
            other.warnings.push(format!("{}: {what}", adapter.display()));
        }
        Session::new(other, state, &adapted)
    }

    fn new(run: RunDir, state: State, host: &[f32]) -> Result<Session> {
        let RunDir { config, tokenizer, warnings, .. } = run;
        let be = Cpu::new()?.with_precision(config.precision);
        let model = Gpt::new(&config);
        let mut weights = be.zeros(model.layout.len());
        be.upload(&mut weights, 0, host);
        be.prepare(&mut weights, &model.layout.linears(), false);
        Ok(Session { config, tokenizer, state, warnings, be, model, weights })
    }

    /// What linear layers compute in on this machine.
    pub fn precision(&self) -> Precision {
        self.be.precision()
    }

    /// Measures the model on a part of `data`, named as for training, or of the data the run was trained on. `threads` = 0
    /// takes one for each core; `progress` hears how many of how many sequences are done.
    ///
    /// # Errors
    /// If the text cannot be read, has unknown characters, or is too short.
    pub fn eval(
        &self,
        data: Option<&[String]>,
        part: Part,
        threads: usize,
        mut progress: impl FnMut(usize, usize) + Send,
    ) -> Result<Evaluation> {
        // Whatever is there now is measured.
        let mut config = Config { data_sha256: String::new(), ..self.config.clone() };
        if let Some(names) = data {
            config.data = names.to_vec();
        }
        if part == Part::All {
            // All that is read at once is behind the cut.
            config.train_split = 0.0;
        }
        let (_, data) = data::read(&config, TokenizerChoice::Fixed(&self.tokenizer))?;
        let notes = data.notes.clone();
        let (split, floor, baseline) = match part {
            Part::All => (data.whole(), None, None),
            Part::Train => (data.train, None, None),
            Part::Val => {
                let baseline = baselines::best(&data, self.config.vocab_size)?;
                (data.val, data.floor, baseline)
            }
        };
        let shards = if threads == 0 { cores() } else { threads };
        let mut shards = Shards::new(&self.be, &self.model, self.config.batch_size, shards, false);
        let go_on = |done, of| {
            progress(done, of);
            ControlFlow::Continue(())
        };
        let measure = || eval::exact(&self.be, &self.model, &mut shards, &self.weights, &split, go_on);
        let exact = with_threads(threads, measure)?.expect("nothing breaks it off");
        let answers = || eval::answers(&self.be, &self.model, &self.weights, &split);
        let answers = split.is_conversations().then(answers).transpose()?;
        Ok(Evaluation { exact, floor, baseline, answers, notes })
    }

    /// Writes up to `tokens` tokens after `prompt` (an empty one is [`Tokenizer::start_of_text`]), giving each
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
            prompt.push(self.tokenizer.start_of_text());
        }
        self.write(&prompt, tokens, sampling, stop, None, index, &mut write);
        Ok(())
    }

    /// Removes the oldest messages after the first `keep` until what is left, and some room for an answer, fits into the
    /// model's context; the last one stays. Returns how many.
    ///
    /// # Errors
    /// If the template fails, or a message has unknown characters.
    pub fn fit(&self, messages: &mut Vec<Message>, keep: usize) -> Result<usize> {
        let template = data::template_of(&self.config, &self.tokenizer)?;
        let mut removed = 0;
        while messages.len() > keep + 1 {
            let tokens = chat::encode(&template.prompt(messages)?, &self.tokenizer)?.0.len();
            if tokens <= self.config.block_size / 2 {
                break;
            }
            // A message goes with its answer.
            let answers = messages[keep + 1..].iter().take_while(|message| message.role == ASSISTANT).count();
            let gone = (1 + answers).min(messages.len() - keep - 1);
            messages.drain(keep..keep + gone);
            removed += gone;
        }
        Ok(removed)
    }

    /// Answers a conversation: up to `tokens` tokens until the end of the text, as [`Session::generate`] otherwise.
    ///
    /// # Errors
    /// If the template fails, a message has unknown characters, or the model has no token that ends an answer.
    pub fn answer(
        &self,
        messages: &[Message],
        tokens: usize,
        sampling: &Sampling,
        index: u64,
        mut write: impl FnMut(&str) -> ControlFlow<()> + Send,
    ) -> Result<()> {
        let template = data::template_of(&self.config, &self.tokenizer)?;
        let (prompt, _) = chat::encode(&template.prompt(messages)?, &self.tokenizer)?;
        if prompt.len() >= self.config.block_size {
            return Err(Error::Text(format!(
                "the message has {} tokens, and the model sees {} at once, answer included: make it shorter",
                prompt.len(),
                self.config.block_size
            )));
        }
        let end = self.tokenizer.end_of_text();
        self.write(&prompt, tokens, sampling, "", end, index, &mut write);
        Ok(())
    }

    /// Writes after `prompt`, until the token `end`, the text `stop`, or `write` breaks.
    fn write(
        &self,
        prompt: &[u32],
        tokens: usize,
        sampling: &Sampling,
        stop: &str,
        end: Option<u32>,
        index: u64,
        write: &mut (dyn FnMut(&str) -> ControlFlow<()> + Send),
    ) {
        let mut generator = Generator::new(&self.be, &self.model, &self.weights, prompt, sampling.clone(), index);
        let (mut stopper, mut decoder) = (Stopper::new(stop), StreamDecoder::new(&self.tokenizer));
        with_threads(0, || {
            for _ in 0..tokens {
                let token = generator.next_token();
                if Some(token) == end {
                    break;
                }
                let (text, stopped) = stopper.push(&decoder.push(token));
                if write(&text).is_break() || stopped {
                    return;
                }
            }
            let (text, stopped) = stopper.push(&decoder.finish());
            if write(&text).is_continue() && !stopped {
                let _ = write(&stopper.finish());
            }
        });
    }
}
