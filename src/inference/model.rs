//! A model with its tokenizer, ready to write and to be measured.

use super::{generate::Generation, loaded::Loaded};
use crate::{
    data::{self, Dataset, TokenizerChoice},
    run::{RunDir, State, Which, read_tensors},
    text::{
        chat::{self, ASSISTANT, Message},
        tokenizer::Tokenizer,
    },
    train::eval::{self, Answers, Evaluator, Exact},
};
use kinglet_core::{
    backend::{Cpu, Forward},
    config::{Config, Precision},
    error::{Error, Result},
    model::Gpt,
    params::{Layout, edit::add_tokens},
    shards::Shards,
    threads::{current, with_threads},
};
use serde::Serialize;
use std::{io::Cursor, ops::ControlFlow, path::Path, sync::Arc};

/// A trained model. Clones share its weights, and any number of threads can write with it at once.
pub struct Model<B: Forward = Cpu> {
    inner: Arc<Loaded<B>>,
}

impl<B: Forward> Clone for Model<B> {
    fn clone(&self) -> Self {
        Model { inner: self.inner.clone() }
    }
}

impl<B: Forward> std::fmt::Debug for Model<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("params", &self.params()).field("step", &self.inner.state.step).finish()
    }
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
#[non_exhaustive]
pub struct Evaluation {
    /// The loss.
    #[serde(flatten)]
    pub exact: Exact,
    /// Nats per character that no model can stay below, on the validation part of a built-in corpus.
    pub floor: Option<f64>,
    /// Of conversations: how many answers are right.
    pub answers: Option<Answers>,
    /// What a user should know about how the data was read.
    pub notes: Vec<String>,
}

impl Model {
    /// The best checkpoint of the run in a folder, on this machine's processor.
    ///
    /// # Errors
    /// If the folder has no run, or the run no intact checkpoint.
    pub fn open(run: impl AsRef<Path>) -> Result<Model> {
        Model::load(Cpu::new()?, run.as_ref(), Which::Best)
    }

    /// A model from what a run's folder is made of, without the folder: its configuration ([`Config::from_toml`]), its
    /// tokenizer ([`Tokenizer::from_json`]) and the bytes of its `model.safetensors`.
    ///
    /// # Errors
    /// If they are not of one model, or damaged.
    pub fn from_parts(config: Config, tokenizer: Tokenizer, tensors: &[u8]) -> Result<Model> {
        if config.lora_rank > 0 {
            let what = "lora_rank is set: these are adapters, which kinglet merge puts into the weights";
            return Err(Error::BadConfig(what.to_owned()));
        }
        let layout = Layout::new(&config)?;
        let mut weights = vec![0.0; layout.len()];
        read_tensors(&mut Cursor::new(tensors), &layout.stored(), "", |tensor, x| {
            weights[tensor.span.range()].copy_from_slice(x);
        })?;
        Model::from_weights(Cpu::new()?, config, tokenizer, &weights)
    }
}

impl<B: Forward> Model<B> {
    /// A checkpoint of the run in a folder, for a backend.
    ///
    /// # Errors
    /// If the folder has no run, or the run no intact checkpoint.
    pub fn load(be: B, run: &Path, which: Which) -> Result<Model<B>> {
        let mut run = RunDir::open(run)?;
        let layout = Layout::new(&run.config)?;
        let base = run.adapted_weights()?;
        let (state, weights) = run.load_weights(&layout, base.as_deref(), which)?;
        Model::new(be, run, state, &weights)
    }

    /// A fine-tuned run with adapters as it was before it was trained.
    ///
    /// # Errors
    /// If it has none.
    pub fn load_without_adapters(be: B, run: &Path, which: Which) -> Result<Model<B>> {
        let mut run = RunDir::open(run)?;
        let base = run.base()?.filter(|_| run.config.lora_rank > 0);
        let base = base.ok_or_else(|| Error::run(run.path(), "this run has no adapters to leave out"))?;
        let (state, _) = run.load_weights(&Layout::new(&run.config)?, Some(&base.weights), which)?;
        run.config = base.config;
        Model::new(be, run, state, &base.weights)
    }

    /// The weights of a run, without its adapters if it has any, with the adapters of another one.
    ///
    /// # Errors
    /// If `adapter` is no run with adapters, or of another model.
    pub fn load_with_adapters_of(be: B, run: &Path, adapter: &Path, which: Which) -> Result<Model<B>> {
        let mut run = RunDir::open(run)?;
        let mut other = RunDir::open(adapter)?;
        let trained_on = other.base()?.filter(|_| other.config.lora_rank > 0);
        let trained_on = trained_on.ok_or_else(|| Error::run(adapter, "this run has no adapters"))?;
        let layout = Layout::new(&run.config)?;
        let weights = match run.adapted_weights()? {
            Some(weights) => weights,
            None => run.load_weights(&layout, None, which)?.1,
        };
        let mut plain = run.config.clone();
        (plain.lora_rank, plain.new_tokens) = (0, 0);
        plain.modules_to_save.clear();
        // The adapters may have been trained with tokens that were added to these weights.
        let (known, tokens) = (run.tokenizer.vocab_size(), other.config.vocab_size);
        let extended = other.tokenizer.extends(&run.tokenizer) && tokens >= plain.vocab_size;
        let (plain, weights) = if extended && tokens > plain.vocab_size {
            add_tokens(&plain, &weights, known, tokens)?
        } else {
            (plain, weights)
        };
        let shapes = |config: &Config| -> Result<Vec<_>> {
            Ok(Layout::new(config)?.tensors.into_iter().map(|tensor| tensor.shape).collect())
        };
        if !extended || shapes(&plain)? != shapes(&trained_on.config)? {
            let what = format!("its adapters are of another model than {}", run.path().display());
            return Err(Error::run(adapter, what));
        }
        let (state, adapted) = other.load_weights(&Layout::new(&other.config)?, Some(&weights), which)?;
        other.warnings.extend(run.warnings);
        if weights != trained_on.weights {
            let what = "the adapters were trained on other weights than these";
            other.warnings.push(format!("{}: {what}", adapter.display()));
        }
        Model::new(be, other, state, &adapted)
    }

    /// A model of these weights, which have the layout of `config`, for a backend.
    ///
    /// # Errors
    /// If the configuration describes no model, the weights are not as many as it has, or the tokenizer has more tokens.
    pub fn from_weights(be: B, config: Config, tokenizer: Tokenizer, weights: &[f32]) -> Result<Model<B>> {
        Model::assemble(be, config, tokenizer, (State::default(), Vec::new()), weights)
    }

    fn new(be: B, run: RunDir, state: State, weights: &[f32]) -> Result<Model<B>> {
        let RunDir { config, tokenizer, warnings, .. } = run;
        Model::assemble(be, config, tokenizer, (state, warnings), weights)
    }

    fn assemble(
        be: B,
        config: Config,
        tokenizer: Tokenizer,
        (state, warnings): (State, Vec<String>),
        host: &[f32],
    ) -> Result<Model<B>> {
        let be = be.with_precision(config.precision);
        let gpt = Gpt::new(&config)?;
        let (has, wants) = (host.len(), gpt.layout.len());
        if has != wants {
            return Err(Error::Data(format!("{has} weights, where the configuration describes {wants}")));
        }
        let (known, tokens) = (config.vocab_size, tokenizer.vocab_size());
        if tokens > known {
            return Err(Error::Data(format!("the tokenizer has {tokens} tokens and the model knows {known}")));
        }
        let mut weights = be.zeros(wants);
        be.upload(&mut weights, 0, host);
        be.pack_weights(&mut weights, &gpt.layout.linears(), false);
        Ok(Model { inner: Arc::new(Loaded { config, tokenizer, state, warnings, be, gpt, weights }) })
    }

    /// What defined its training.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Text to tokens and back.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.inner.tokenizer
    }

    /// Which checkpoint it is, and how far its training was.
    pub fn state(&self) -> &State {
        &self.inner.state
    }

    /// What of the run was found damaged, and what was taken instead.
    pub fn warnings(&self) -> &[String] {
        &self.inner.warnings
    }

    /// How many parameters it has.
    pub fn params(&self) -> usize {
        self.inner.gpt.layout.len()
    }

    /// What linear layers compute in on this machine.
    pub fn precision(&self) -> Precision {
        self.inner.be.precision()
    }

    /// Text after `prompt`, piece by piece; an empty prompt is [`Tokenizer::start_of_text`]. What of the prompt cannot be
    /// encoded is the first piece's error.
    pub fn generate(&self, prompt: &str) -> Generation<B> {
        let encoded = self.tokenizer().encode(prompt).map(|mut ids| {
            if ids.is_empty() {
                ids.push(self.tokenizer().start_of_text());
            }
            ids
        });
        Generation::new(self.inner.clone(), encoded)
    }

    /// Text after these token ids.
    pub fn generate_after(&self, ids: &[u32]) -> Generation<B> {
        Generation::new(self.inner.clone(), Ok(ids.to_vec()))
    }

    /// The answer to a conversation, until the model ends it.
    ///
    /// # Errors
    /// If the template fails, a message has unknown characters or is too long, or the model has no token that ends an answer.
    pub fn answer(&self, messages: &[Message]) -> Result<Generation<B>> {
        let template = data::template_of(self.config(), self.tokenizer())?;
        let (prompt, _) = chat::encode(&template.prompt(messages)?, self.tokenizer())?;
        let block_size = self.config().block_size;
        if prompt.len() >= block_size {
            return Err(Error::Text(format!(
                "the message has {} tokens, and the model sees {block_size} at once, answer included: make it shorter",
                prompt.len()
            )));
        }
        Ok(Generation::new(self.inner.clone(), Ok(prompt)).until_end_of_text())
    }

    /// Removes the oldest messages after the first `keep` until what is left, and some room for an answer, fits into the
    /// model's context; the last one stays. Returns how many.
    ///
    /// # Errors
    /// If the template fails, or a message has unknown characters.
    pub fn fit(&self, messages: &mut Vec<Message>, keep: usize) -> Result<usize> {
        let template = data::template_of(self.config(), self.tokenizer())?;
        let mut removed = 0;
        while messages.len() > keep + 1 {
            let tokens = chat::encode(&template.prompt(messages)?, self.tokenizer())?.0.len();
            if tokens <= self.config().block_size / 2 {
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

    /// A text as this model's tokens, to measure a `part` of it: what is named as for training, or what the run was trained on.
    ///
    /// # Errors
    /// If the text cannot be read or has unknown characters.
    pub fn dataset(&self, names: Option<&[String]>, part: Part) -> Result<Dataset> {
        let mut config = self.config().clone();
        // Whatever is there now is measured.
        config.data_sha256.clear();
        if let Some(names) = names {
            config.data = names.to_vec();
        }
        if part == Part::All {
            // All that is read at once is behind the cut.
            config.train_split = 0.0;
        }
        Ok(data::read(&config, TokenizerChoice::Fixed(self.tokenizer()))?.1)
    }

    /// Measures the model on a part of what [`Model::dataset`] read. `threads` = 0 takes one for each core; `progress` hears how
    /// many of how many sequences are done.
    ///
    /// # Errors
    /// If the text cannot be read or is too short, or the system does not start the threads.
    pub fn eval(
        &self,
        data: Dataset,
        part: Part,
        threads: usize,
        mut progress: impl FnMut(usize, usize) + Send,
    ) -> Result<Evaluation> {
        let notes = data.notes.clone();
        let (split, floor) = match part {
            Part::All => (data.whole(), None),
            Part::Train => (data.train, None),
            Part::Val => (data.val, data.floor),
        };
        let Loaded { config, be, gpt: model, weights: p, .. } = &*self.inner;
        let go_on = |done, of| {
            progress(done, of);
            ControlFlow::Continue(())
        };
        let measure = || {
            let mut shards = Shards::new(be, model, config.batch_size, current(), false);
            let exact = Evaluator { be, model, shards: &mut shards, p }.exact(&split, go_on)?;
            let answers = || eval::answers(be, model, p, &split);
            let answers = split.is_conversations().then(answers).transpose()?;
            Ok((exact.expect("nothing breaks it off"), answers))
        };
        let (exact, answers) = with_threads(threads, measure)??;
        Ok(Evaluation { exact, floor, answers, notes })
    }
}
