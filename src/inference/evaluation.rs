//! Measuring the loss of a model on a text.

use super::{loaded::Loaded, model::Model};
use crate::{
    data::{self, Dataset, Origin, TokenizerChoice},
    text::{source::MEMORY, tokenizer::Tokenizer},
    train::eval::{self, Answering, Answers, Evaluator, Exact},
};
use kinglet_core::{
    backend::Forward,
    config::Config,
    error::{Error, Result},
    shards::Shards,
    threads::{current, with_threads},
};
use serde::Serialize;
use serde_json::{Value, json};
use std::{ops::ControlFlow, path::Path};

/// Which part of a text to measure the loss on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The training split: the beginning.
    Train,
    /// The validation split: the rest.
    Val,
    /// All of it.
    All,
}

impl Part {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Part::Train => "train",
            Part::Val => "val",
            Part::All => "all",
        }
    }
}

/// The results of evaluating a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Evaluation {
    /// The loss.
    #[serde(flatten)]
    pub exact: Exact,
    /// The entropy floor in nats per character, a lower bound for any model; known for the validation split of a
    /// built-in corpus.
    pub floor: Option<f64>,
    /// For conversations: how many answers are exactly right.
    pub answers: Option<Answers>,
    /// Notes for the user on how the data was read.
    pub notes: Vec<String>,
}

impl Evaluation {
    /// What `kinglet eval --json` says of a checkpoint.
    pub fn json(&self, run: &str, step: u64, part: Part) -> Value {
        let Evaluation { exact, floor, answers, notes } = self;
        json!({
            "run": run,
            "step": step,
            "split": part.name(),
            "loss": exact.loss,
            "loss_stderr": exact.stderr,
            "bits_per_char": exact.bits_per_char,
            "bits_per_byte": exact.bits_per_byte,
            "perplexity": exact.perplexity,
            "predicted_tokens": exact.tokens,
            "entropy_floor": floor,
            "answers": answers,
            "notes": notes,
        })
    }
}

/// A text, and the part of it to measure.
#[derive(Clone, Debug)]
pub struct Measurable {
    /// The text.
    pub data: Dataset,
    /// The part.
    pub part: Part,
    /// Why it is this part, if that is not plain.
    pub note: Option<String>,
}

impl<B: Forward> Model<B> {
    /// Encodes a text with this model's tokenizer, to evaluate a `part` of it: the data in `names`, given as for
    /// training, or the data that the run was trained on.
    ///
    /// # Errors
    /// If the text cannot be read or has unknown characters.
    pub fn dataset(&self, names: Option<&[String]>, part: Part) -> Result<Dataset> {
        dataset(self.config(), self.tokenizer(), names, part)
    }

    /// Whether a dataset is of the text that the run was trained on, wherever it is now.
    pub fn trained_on(&self, data: &Dataset) -> bool {
        self.config().data_sha256 == data.sha256
    }

    /// [`Model::dataset`] where it may not be said which part of it to measure: then it is all of a text that is named, but of the
    /// one that the run was trained on, the validation part.
    ///
    /// # Errors
    /// As [`Model::dataset`].
    pub fn measurable(&self, names: Option<&[String]>, part: Option<Part>) -> Result<Measurable> {
        let chosen = part.unwrap_or(if names.is_some() { Part::All } else { Part::Val });
        let data =
            self.dataset(names, chosen).map_err(|error| if names.is_some() { error } else { or_moved(error) })?;
        let Some(names) = names.filter(|_| part.is_none() && self.trained_on(&data)) else {
            return Ok(Measurable { data, part: chosen, note: None });
        };
        // A stream cannot be read again.
        let pipe = |path: &Path| path.exists() && !path.is_file() && !path.is_dir();
        if names.iter().any(|name| name == "-" || pipe(Path::new(name))) {
            let note = Some(format!("{OWN}; --split val evaluates only its validation part"));
            return Ok(Measurable { data, part: chosen, note });
        }
        let data = self.dataset(Some(names), Part::Val)?;
        Ok(Measurable { data, part: Part::Val, note: Some(only_validation()) })
    }

    /// [`Model::measurable`] of data in memory.
    ///
    /// # Errors
    /// As [`Model::dataset`].
    pub fn measurable_in_memory(&self, data: &Origin, part: Option<Part>) -> Result<Measurable> {
        let read = |part| {
            let mut config = measured(self.config(), part);
            config.data = vec![MEMORY.to_owned()];
            Ok(data.read(&config, TokenizerChoice::Fixed(self.tokenizer()))?.1)
        };
        let chosen = part.unwrap_or(Part::All);
        let data = read(chosen)?;
        if part.is_some() || !self.trained_on(&data) {
            return Ok(Measurable { data, part: chosen, note: None });
        }
        Ok(Measurable { data: read(Part::Val)?, part: Part::Val, note: Some(only_validation()) })
    }

    /// Evaluates the model on a part of a dataset read by [`Model::dataset`]. `threads` = 0 uses one thread per core.
    /// `progress` receives the number of sequences done and the total.
    ///
    /// # Errors
    /// If the text cannot be read or is too short, or the threads cannot be started.
    pub fn eval(
        &self,
        data: Dataset,
        part: Part,
        threads: usize,
        mut progress: impl FnMut(usize, usize) + Send,
    ) -> Result<Evaluation> {
        let go_on = |done, of| {
            progress(done, of);
            ControlFlow::Continue(())
        };
        Ok(self.eval_while(data, part, threads, go_on)?.expect("nothing breaks it off"))
    }

    /// [`Model::eval`], which `progress` can break off; the result is `None` then.
    ///
    /// # Errors
    /// As [`Model::eval`].
    pub fn eval_while(
        &self,
        data: Dataset,
        part: Part,
        threads: usize,
        progress: impl FnMut(usize, usize) -> ControlFlow<()> + Send,
    ) -> Result<Option<Evaluation>> {
        let notes = data.notes.clone();
        let (split, floor) = match part {
            Part::All => (data.whole(self.tokenizer(), self.config())?, None),
            Part::Train => (data.train, None),
            Part::Val => (data.val, data.floor),
        };
        let Loaded { config, tokenizer, be, gpt: model, weights: p, barred, .. } = &*self.loaded();
        let measure = || {
            let mut shards = Shards::new(be, model, config.batch_size, current(), false);
            let exact = Evaluator { be, model, shards: &mut shards, p }.exact(&split, progress)?;
            let Some(exact) = exact else { return Ok(None) };
            let answers = || {
                let ending = data::template_of(config, tokenizer)?.usual_ending(tokenizer);
                eval::answers(be, model, p, &split, Answering { tokenizer, ending: &ending, barred })
            };
            let answers = split.is_conversations().then(answers).transpose()?;
            Ok(Some((exact, answers)))
        };
        let measured: Result<_> = with_threads(threads, measure)?;
        Ok(measured?.map(|(exact, answers)| Evaluation { exact, floor, answers, notes }))
    }
}

/// What a note begins with.
const OWN: &str = "this is the text that the run was trained on";

/// A note on the text that a run was trained on.
fn only_validation() -> String {
    format!("{OWN}, so only its validation part is evaluated; --split all evaluates all of it")
}

/// An error about the text of a run, with advice.
fn or_moved(error: Error) -> Error {
    match error {
        Error::Data(what) => Error::Data(format!("{what}; if the text has moved: kinglet eval RUN DATA --split val")),
        error => error,
    }
}

/// [`Model::dataset`] of the model of a run with this configuration and this tokenizer.
///
/// # Errors
/// If the text cannot be read or has unknown characters.
pub(crate) fn dataset(of: &Config, tokenizer: &Tokenizer, names: Option<&[String]>, part: Part) -> Result<Dataset> {
    let mut config = measured(of, part);
    if let Some(names) = names {
        config.data = names.to_vec();
    } else if config.data.iter().any(|name| name == "-") {
        return Err(Error::Data("this run was trained on standard input: name a text to evaluate".to_owned()));
    }
    let mut data = data::read(&config, TokenizerChoice::Fixed(tokenizer))?.1;
    let known = &of.data_sha256;
    if names.is_none() && part != Part::All && !known.is_empty() && *known != data.sha256 {
        data.notes.push(format!(
            "{} is not the text that this run was trained on (SHA-256 {}, was {known}): its validation part \
             may contain text that the model was trained on",
            config.data.join(", "),
            data.sha256
        ));
    }
    Ok(data)
}

/// The configuration of a run, for data of which a part is measured.
fn measured(of: &Config, part: Part) -> Config {
    let mut config = of.clone();
    // Measure the data as it is now, even if it has changed since training.
    config.data_sha256.clear();
    // Packing is for speed in training.
    config.packing = false;
    if part == Part::All {
        // Put all of the text into the validation split.
        config.train_split = 0.0;
    }
    config
}
