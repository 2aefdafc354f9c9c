//! A model with its tokenizer, ready to generate text and to be evaluated.

use super::{generate::Generation, loaded::Loaded, score::Scoring};
use crate::{
    data,
    run::{RunDir, State, Which, parse_weights},
    text::{
        chat::{self, Message, Template},
        tokenizer::Tokenizer,
    },
};
use kinglet_core::{
    backend::{Cpu, Forward},
    config::{Config, Precision, Quantization},
    error::{Error, Result},
    model::Gpt,
    params::{Layout, edit::add_tokens},
    quant::Weights,
};
use sha2::{Digest, Sha256};
use std::{path::Path, sync::Arc};

/// A trained model. Clones share its weights, and any number of threads can generate text with it at once.
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

impl Model {
    /// The best checkpoint of the run in a folder, on this machine's processor.
    ///
    /// # Errors
    /// If the folder has no run, or the run has no intact checkpoint.
    pub fn open(run: impl AsRef<Path>) -> Result<Model> {
        Model::load(Cpu::new()?, run.as_ref(), Which::Best)
    }

    /// Builds a model from the contents of a run's folder: its configuration ([`Config::from_toml`]), its tokenizer
    /// ([`Tokenizer::from_json`]) and the bytes of its `model.safetensors`.
    ///
    /// # Errors
    /// If they do not belong together, or are damaged.
    pub fn from_parts(config: Config, tokenizer: Tokenizer, tensors: &[u8]) -> Result<Model> {
        if config.lora_rank > 0 {
            let what = "these are adapters (lora_rank is set); kinglet merge adds them to the weights";
            return Err(Error::BadConfig(what.to_owned()));
        }
        let weights = parse_weights(&config, tensors)?;
        Model::assemble(Cpu::new()?, config, tokenizer, Default::default(), weights)
    }
}

impl Model {
    /// A hash of all that a text depends on: its weights, configuration and tokenizer, its precision and this machine's
    /// instruction set.
    pub fn fingerprint(&self) -> String {
        let Loaded { config, tokenizer, be, gpt, weights, .. } = &*self.inner;
        let mut hash = Sha256::new();
        // Weights in few bits make the same text on all of them.
        let isa = if config.quantization == Quantization::None { be.isa().name() } else { "any" };
        hash.update(format!("{isa} {:?} {}", be.precision(), gpt.layout.len()));
        for text in [&*config.to_toml(), tokenizer.to_json()] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        let mut part = vec![0.0; 1 << 14];
        for start in (0..gpt.layout.len()).step_by(part.len()) {
            let len = part.len().min(gpt.layout.len() - start);
            be.download(weights, start, &mut part[..len]);
            hash.update(bytemuck::cast_slice::<f32, u8>(&part[..len]));
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl<B: Forward> Model<B> {
    /// A checkpoint of the run in a folder, for a backend.
    ///
    /// # Errors
    /// If the folder has no run, or the run has no intact checkpoint.
    pub fn load(be: B, run: &Path, which: Which) -> Result<Model<B>> {
        let mut run = RunDir::open(run)?;
        let layout = Layout::new(&run.config)?;
        let base = run.adapted_weights()?;
        let (state, weights) = run.load_model(&layout, base.as_deref(), which)?;
        Model::new(be, run, state, weights)
    }

    /// A fine-tuned run with its adapters left out: the base weights.
    ///
    /// # Errors
    /// If it has no adapters.
    pub fn load_without_adapters(be: B, run: &Path, which: Which) -> Result<Model<B>> {
        let mut run = RunDir::open(run)?;
        let base = run.base()?.filter(|_| run.config.lora_rank > 0);
        let base = base.ok_or_else(|| Error::run(run.path(), "this run has no adapters to disable"))?;
        let (state, _) = run.load_weights(&Layout::new(&run.config)?, Some(&base.weights), which)?;
        run.config = base.config;
        Model::new(be, run, state, base.weights.into())
    }

    /// The weights of a run, without its own adapters, combined with the adapters of another run; a checkpoint of each.
    ///
    /// # Errors
    /// If `adapter` is not a run with adapters, or they belong to another model.
    pub fn load_with_adapters_of(
        be: B,
        (run, which): (&Path, Which),
        (adapter, adapter_which): (&Path, Which),
    ) -> Result<Model<B>> {
        let mut run = RunDir::open(run)?;
        let mut other = RunDir::open(adapter)?;
        let trained_on = other.base()?.filter(|_| other.config.lora_rank > 0);
        let trained_on = trained_on.ok_or_else(|| Error::run(adapter, "this run has no adapters"))?;
        let layout = Layout::new(&run.config)?;
        let weights = match run.adapted_weights()? {
            Some(weights) => weights,
            None => run.load_numbers(&layout, None, which)?.1,
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
            let what = format!("its adapters were made for a different model than {}", run.path().display());
            return Err(Error::run(adapter, what));
        }
        let (state, adapted) = other.load_weights(&Layout::new(&other.config)?, Some(&weights), adapter_which)?;
        other.warnings.extend(run.warnings);
        other.notes.extend(run.notes);
        if weights != trained_on.weights {
            let what = "the adapters were trained with different base weights";
            other.warnings.push(format!("{}: {what}", adapter.display()));
        }
        Model::new(be, other, state, adapted.into())
    }

    /// Builds a model from weights in the layout of `config`, for a backend.
    ///
    /// # Errors
    /// If the configuration is invalid, the number of weights does not match it, or the tokenizer has more tokens than
    /// it allows.
    pub fn from_weights(be: B, config: Config, tokenizer: Tokenizer, weights: &[f32]) -> Result<Model<B>> {
        let layout = Layout::new(&config)?;
        let (has, wants) = (weights.len(), layout.len());
        if has != wants {
            return Err(Error::Data(format!("there are {has} weights, but the configuration describes {wants}")));
        }
        let weights = Weights::rounded(&config, &layout, weights.to_vec())?;
        Model::of(be, config, tokenizer, weights)
    }

    /// Builds a model from weights of which some are in few bits, for a backend.
    ///
    /// # Errors
    /// As [`Model::from_weights`].
    pub fn of(be: B, config: Config, tokenizer: Tokenizer, weights: Weights) -> Result<Model<B>> {
        Model::assemble(be, config, tokenizer, Default::default(), weights)
    }

    fn new(be: B, run: RunDir, state: State, weights: Weights) -> Result<Model<B>> {
        let RunDir { config, tokenizer, warnings, notes, .. } = run;
        Model::assemble(be, config, tokenizer, (state, warnings, notes), weights)
    }

    fn assemble(
        be: B,
        config: Config,
        tokenizer: Tokenizer,
        (state, warnings, notes): (State, Vec<String>, Vec<String>),
        host: Weights,
    ) -> Result<Model<B>> {
        let be = be.with_precision(config.precision).with_quantization(config.quantization);
        let gpt = Gpt::new(&config)?;
        let (has, wants) = (host.numbers.len(), gpt.layout.len());
        if has != wants {
            return Err(Error::Data(format!("there are {has} weights, but the configuration describes {wants}")));
        }
        let tokenizer = tokenizer.with_ends(&config.bos_token, &config.eos_token)?;
        let (known, tokens) = (config.vocab_size, tokenizer.vocab_size());
        if tokens > known {
            return Err(Error::Data(format!("the tokenizer has {tokens} tokens, but the model has {known}")));
        }
        let mut weights = be.parameters(&host);
        drop(host);
        be.pack_weights(&mut weights, &gpt.layout.linears(), false);
        let barred = (0..gpt.vocab_size as u32).filter(|&id| !tokenizer.is_token(id)).collect();
        Ok(Model { inner: Arc::new(Loaded { config, tokenizer, state, warnings, notes, be, gpt, weights, barred }) })
    }

    /// What all clones share.
    pub(super) fn loaded(&self) -> Arc<Loaded<B>> {
        self.inner.clone()
    }

    /// What computes it, its architecture, and its parameters.
    pub(crate) fn parts(&self) -> (&B, &Gpt, &B::Buf) {
        (&self.inner.be, &self.inner.gpt, &self.inner.weights)
    }

    /// The configuration it was trained with.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.inner.tokenizer
    }

    /// The state of its checkpoint: which step it is from, and so on.
    pub fn state(&self) -> &State {
        &self.inner.state
    }

    /// Whether it learned from conversations, where that is known.
    pub fn learned_to_answer(&self) -> Option<bool> {
        match &*self.config().data_kind {
            "conversations" | "exchanges" => Some(true),
            "text" => Some(false),
            _ => None,
        }
    }

    /// Damage found in the run, and what was used instead.
    pub fn warnings(&self) -> &[String] {
        &self.inner.warnings
    }

    /// What was used instead of what was asked for, where nothing is damaged.
    pub fn notes(&self) -> &[String] {
        &self.inner.notes
    }

    /// How many parameters it has.
    pub fn params(&self) -> usize {
        self.inner.gpt.layout.len()
    }

    /// The precision that linear layers compute in on this machine.
    pub fn precision(&self) -> Precision {
        self.inner.be.precision()
    }

    /// Continues `prompt`, piece by piece; an empty prompt becomes [`Tokenizer::start_of_text`]. If the prompt cannot
    /// be encoded, the first piece is the error. Where the model begins texts with a token of their own, the prompt gets
    /// it, and the text ends at the end-of-text token: what comes next is never predicted.
    pub fn generate(&self, prompt: &str) -> Generation<B> {
        let encoded = self.tokenizer().encode_prompt(prompt).map(|(ids, _)| {
            let mut ids = self.tokenizer().begun(ids);
            if ids.is_empty() {
                ids.push(self.tokenizer().start_of_text());
            }
            ids
        });
        self.continuing(encoded)
    }

    fn continuing(&self, ids: Result<Vec<u32>>) -> Generation<B> {
        let generation = Generation::new(self.inner.clone(), ids);
        if self.tokenizer().given().is_some() { generation.until_end_of_text() } else { generation }
    }

    /// What the tokenizer does not keep of a prompt, as a note for the user, if anything.
    ///
    /// # Errors
    /// If the prompt cannot be encoded, or nothing of it is left but unknown tokens.
    pub fn prompt_note(&self, prompt: &str) -> Result<Option<String>> {
        Ok(self.tokenizer().encode_prompt(prompt)?.1)
    }

    /// Continues these token ids, before which nothing is put.
    pub fn generate_after(&self, ids: &[u32]) -> Generation<B> {
        self.continuing(Ok(ids.to_vec()))
    }

    /// The token ids of a text as it is scored, with the begin-of-text token before it if texts have one, and what the
    /// tokenizer does not keep of it, as a note for the user.
    ///
    /// # Errors
    /// If the text cannot be encoded, or nothing of it is left but unknown tokens.
    pub fn ids_of(&self, text: &str) -> Result<(Vec<u32>, Option<String>)> {
        let (ids, note) = self.tokenizer().encode_prompt(text)?;
        Ok((if ids.is_empty() { ids } else { self.tokenizer().begun(ids) }, note))
    }

    /// How probable each of these tokens is after those before it, piece by piece. Where documents were kept apart in
    /// training, they are here.
    pub fn score(&self, ids: Vec<u32>) -> Scoring<B> {
        Scoring::new(self.inner.clone(), ids)
    }

    /// The conversation template at the present time.
    fn template(&self) -> Result<Template> {
        data::template_of(self.config(), self.tokenizer())?.at(0)
    }

    /// The token ids after which the answer to these messages begins.
    ///
    /// # Errors
    /// If the template fails, or a message has unknown characters or nothing but unknown tokens.
    pub fn ids_of_messages(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let template = self.template()?;
        for message in messages.iter().filter(|message| !message.content.is_empty()) {
            self.tokenizer().encode_prompt(&message.content)?;
        }
        Ok(chat::encode(&template.prompt(messages)?, self.tokenizer())?.0)
    }

    /// Why there is no room for an answer to these messages, if there is none, and which of them is to be shorter.
    ///
    /// # Errors
    /// As [`Model::ids_of_messages`].
    pub fn too_long(&self, messages: &[Message]) -> Result<Option<String>> {
        let (tokens, sees) = (self.ids_of_messages(messages)?.len(), self.config().block_size);
        if tokens < sees {
            return Ok(None);
        }
        let system = messages.iter().take_while(|message| message.role == "system").count();
        // A template may refuse a conversation without them.
        let rest = self.ids_of_messages(&messages[system..]).map_or(usize::MAX, |ids| ids.len());
        let what = if system > 0 && system < messages.len() && rest < sees {
            format!("the system message has {} of {tokens} tokens", tokens.saturating_sub(rest))
        } else {
            format!("the message has {tokens} tokens with what the template adds")
        };
        Ok(Some(format!("{what}, but the model sees only {sees} at once, including the answer: make it shorter")))
    }

    /// Generates the answer in a conversation, until the model ends it: by its end-of-text token, or by what the template
    /// puts behind an answer. It also ends where the context is full.
    ///
    /// # Errors
    /// If the template fails, a message has unknown characters or nothing but unknown tokens, the messages are too long, or
    /// nothing could end an answer because the tokenizer has no end-of-text token.
    pub fn answer(&self, messages: &[Message]) -> Result<Generation<B>> {
        if let Some(why) = self.too_long(messages)? {
            return Err(Error::Text(why));
        }
        let prompt = self.ids_of_messages(messages)?;
        let ending = self.template()?.ending(messages, self.tokenizer())?;
        Ok(Generation::new(self.inner.clone(), Ok(prompt)).answering(ending))
    }

    /// Removes the oldest exchanges after the first `keep` messages until the rest, with at least one token of an
    /// answer, fits into the model's context. The last message always stays. Returns the messages removed.
    ///
    /// # Errors
    /// If the template fails, or a message has unknown characters.
    pub fn fit(&self, messages: &mut Vec<Message>, keep: usize) -> Result<Vec<Message>> {
        let template = self.template()?;
        let fits = |dropped: usize| -> Result<bool> {
            let rest = [&messages[..keep], &messages[keep + dropped..]].concat();
            Ok(chat::encode(&template.prompt(&rest)?, self.tokenizer())?.0.len() < self.config().block_size)
        };
        // How many messages go with the first exchanges. A conversation without more of them is shorter, so that few have
        // to be looked at, however many there are.
        let cuts = exchanges(messages, keep);
        let (mut low, mut high) = (0, cuts.len() - 1);
        if high == 0 || fits(0)? {
            return Ok(Vec::new());
        }
        while low + 1 < high {
            let middle = low.midpoint(high);
            *(if fits(cuts[middle])? { &mut high } else { &mut low }) = middle;
        }
        Ok(messages.drain(keep..keep + cuts[high]).collect())
    }
}

/// How many messages behind the first `keep` are none, one, two and more whole exchanges, of those before the last message.
fn exchanges(messages: &[Message], keep: usize) -> Vec<usize> {
    let (mut cuts, mut start) = (vec![0], keep);
    while start + 1 < messages.len() {
        // An exchange is a message and all that follows it until the same role speaks again.
        let role = &messages[start].role;
        let rest = messages[start + 1..messages.len() - 1].iter().take_while(|message| message.role != *role).count();
        start += 1 + rest;
        cuts.push(start - keep);
    }
    cuts
}
