//! Trained models.

use crate::{
    arrays,
    attend::{attend, quickly},
    data::Data,
    error::raised,
    generate::{Generation, Manner},
    names,
    tokenizer::Tokenizer,
    tools::{broken_off, progress},
    workers::Workers,
};
use kinglet::{
    backend::Cpu,
    error::{Error, Result},
    inference::{Part, Readout, Tally, TokenScore, Windows},
    text::chat::Message,
    threads::whole,
};
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1};
use pyo3::{prelude::*, types::PyDict};
use std::{ffi::OsString, path::PathBuf, sync::Arc};

/// A trained model.
#[pyclass(frozen, module = "kinglet._kinglet")]
pub(crate) struct Model {
    model: kinglet::Model,
    run: PathBuf,
    workers: Arc<Workers>,
}

/// What a model is given: a text, or token ids.
#[derive(FromPyObject)]
pub(crate) enum Input<'py> {
    Text(String),
    Ids(PyReadonlyArray1<'py, u32>),
}

/// The same without Python.
enum Given {
    Text(String),
    Ids(Vec<u32>),
}

impl From<Input<'_>> for Given {
    fn from(input: Input) -> Given {
        match input {
            Input::Text(text) => Given::Text(text),
            Input::Ids(ids) => Given::Ids(ids.as_array().to_vec()),
        }
    }
}

impl Model {
    /// The library's model.
    pub(crate) fn library(&self) -> &kinglet::Model {
        &self.model
    }

    /// Computes something with the model's threads, while the interpreter does something else.
    fn compute<R: Send>(&self, py: Python, compute: impl FnOnce(&kinglet::Model) -> Result<R> + Send) -> PyResult<R> {
        let pool = self.workers.pool(py)?;
        py.detach(|| pool.run(|| compute(&self.model))).map_err(|error| raised(py, &error))
    }

    /// The token ids of what is to be scored: those of a text with what begins texts before them. And what is lost of the text.
    fn ids(&self, py: Python, given: &Given) -> PyResult<(Vec<u32>, Option<String>)> {
        match given {
            Given::Text(text) => self.compute(py, |model| model.ids_of(text)),
            Given::Ids(ids) => Ok((ids.clone(), None)),
        }
    }

    /// Scores a text; `each` is called with the scores. Returns their figures, and what is lost of the text.
    fn scored(
        &self,
        py: Python,
        given: &Given,
        windows: &str,
        mut each: impl FnMut(&TokenScore),
    ) -> PyResult<(Tally, Option<String>)> {
        let windows = match windows {
            "half" => Ok(Windows::Half),
            "eval" => Ok(Windows::Eval),
            _ => Err(one_of("windows", windows, "half or eval")),
        };
        let windows = windows.map_err(|error| raised(py, &error))?;
        let (ids, note) = self.ids(py, given)?;
        let mut scoring = self.model.score(ids).windows(windows);
        let mut readout = Readout::new(&self.model, &scoring, None);
        while let Some(piece) = self.compute(py, |_| scoring.next().transpose())? {
            readout.add(&piece);
            piece.iter().for_each(&mut each);
            py.check_signals()?;
        }
        Ok((readout.tally(), note))
    }
}

/// An error about a value that is none of a few.
fn one_of(key: &str, value: &str, allowed: &str) -> Error {
    Error::Config { key: key.into(), value: value.into(), allowed: allowed.into() }
}

/// The part of a text of this name.
fn part_of(name: &str) -> Result<Part> {
    let found = [Part::Train, Part::Val, Part::All].into_iter().find(|part| part.name() == name);
    found.ok_or_else(|| one_of("part", name, "train, val or all"))
}

#[pymethods]
impl Model {
    /// A checkpoint of a run; with `adapter`, its weights with the adapters of another run, or with none if that is the word "none".
    #[staticmethod]
    fn load(
        py: Python,
        name: OsString,
        checkpoint: Option<&str>,
        adapter: Option<OsString>,
        threads: usize,
    ) -> PyResult<Model> {
        let load = || {
            let chosen = names::chosen(name, checkpoint)?;
            let (be, run, which) = (Cpu::new()?, &*chosen.run, chosen.which);
            let model = match adapter {
                None => kinglet::Model::load(be, run, which)?,
                Some(none) if none == "none" => kinglet::Model::load_without_adapters(be, run, which)?,
                Some(adapter) => {
                    let adapter = names::chosen(adapter, None)?;
                    kinglet::Model::load_with_adapters_of(be, (run, which), (&adapter.run, adapter.which))?
                }
            };
            Ok((model, chosen.run))
        };
        let (model, run) = quickly(py, threads, load)?;
        Ok(Model { model, run, workers: Arc::new(Workers::new(threads)) })
    }

    #[getter]
    fn run(&self) -> PathBuf {
        self.run.clone()
    }

    #[getter]
    fn step(&self) -> u64 {
        self.model.state().step
    }

    #[getter]
    fn params(&self) -> usize {
        self.model.params()
    }

    #[getter]
    fn vocab_size(&self) -> usize {
        self.model.config().vocab_size
    }

    #[getter]
    fn block_size(&self) -> usize {
        self.model.config().block_size
    }

    #[getter]
    fn warnings(&self) -> Vec<String> {
        self.model.warnings().to_vec()
    }

    #[getter]
    fn notes(&self) -> Vec<String> {
        let instead = self.model.config().precision.instead(self.model.precision());
        self.model.notes().iter().cloned().chain(instead.map(str::to_owned)).collect()
    }

    #[getter]
    fn threads(&self) -> usize {
        self.workers.threads()
    }

    #[getter]
    fn tokenizer(&self) -> Tokenizer {
        Tokenizer::of(self.model.clone())
    }

    /// A hash of all that a text depends on.
    fn fingerprint(&self, py: Python) -> String {
        py.detach(|| self.model.fingerprint())
    }

    /// The configuration as JSON.
    fn config(&self) -> String {
        names::config(self.model.config())
    }

    /// A text that continues a prompt, and what is lost of the prompt.
    fn generate(&self, py: Python, prompt: Input, manner: Manner) -> PyResult<(Generation, Option<String>)> {
        let prompt = Given::from(prompt);
        let begin = |model: &kinglet::Model| {
            let (generation, note) = match &prompt {
                // A prompt that cannot be encoded is refused at once.
                Given::Text(text) => (model.generate(text), model.prompt_note(text)?),
                Given::Ids(ids) => {
                    model.score(ids.clone()).check()?;
                    (model.generate_after(ids), None)
                }
            };
            // What follows the end of an answer is another conversation's.
            let ends = model.learned_to_answer() == Some(true);
            Ok((manner.apply(if ends { generation.until_end_of_text() } else { generation })?, note))
        };
        let (generation, note) = self.compute(py, begin)?;
        Ok((Generation::new(self.workers.clone(), generation), note))
    }

    /// The answer in a conversation: messages are pairs of a role and a text.
    fn answer(&self, py: Python, messages: Vec<(String, String)>, manner: Manner) -> PyResult<Generation> {
        let messages: Vec<_> = messages.into_iter().map(|(role, content)| Message::new(&role, &content)).collect();
        let generation = self.compute(py, |model| manner.apply(model.answer(&messages)?))?;
        Ok(Generation::new(self.workers.clone(), generation))
    }

    /// The logits (t, v) behind each token, and what is lost of the text.
    fn logits<'py>(&self, py: Python<'py>, input: Input) -> PyResult<(Bound<'py, PyArray2<f32>>, Option<String>)> {
        let (ids, note) = self.ids(py, &input.into())?;
        let logits = self.compute(py, |model| model.logits(&ids))?;
        Ok((PyArray1::from_vec(py, logits).reshape([ids.len(), self.vocab_size()])?, note))
    }

    /// The mean loss of a text in nats per token that is predicted, `None` if none is; and what is lost of the text.
    fn loss(&self, py: Python, input: Input, windows: &str) -> PyResult<(Option<f64>, Option<String>)> {
        let (tally, note) = self.scored(py, &input.into(), windows, |_| ())?;
        Ok((tally.loss, note))
    }

    /// How probable each token of a text is: arrays of ids, log-probabilities, ranks and entropies. And what is lost of the text.
    fn score<'py>(
        &self,
        py: Python<'py>,
        input: Input,
        windows: &str,
    ) -> PyResult<(Bound<'py, PyDict>, Option<String>)> {
        let (mut ids, mut logprobs, mut ranks, mut entropies) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (_, note) = self.scored(py, &input.into(), windows, |score| {
            ids.push(score.id);
            logprobs.push(score.logprob.unwrap_or(f64::NAN));
            ranks.push(score.rank.unwrap_or(0) as u64);
            entropies.push(score.entropy.unwrap_or(f64::NAN));
        })?;
        let scores = PyDict::new(py);
        scores.set_item("ids", PyArray1::from_vec(py, ids))?;
        scores.set_item("logprobs", PyArray1::from_vec(py, logprobs))?;
        scores.set_item("ranks", PyArray1::from_vec(py, ranks))?;
        scores.set_item("entropies", PyArray1::from_vec(py, entropies))?;
        Ok((scores, note))
    }

    /// Measures the exact loss on a text, and returns what the command prints as JSON. `sink` hears progress, all of it if `every`.
    fn eval(
        &self,
        py: Python,
        data: Option<Data>,
        part: Option<&str>,
        sink: &Bound<PyAny>,
        every: bool,
    ) -> PyResult<String> {
        let part = part.map(part_of).transpose().map_err(|error| raised(py, &error))?;
        let (model, run, threads) = (self.model.clone(), self.run.display().to_string(), self.workers.threads());
        attend(py, sink, every, move |teller| {
            let eval = || {
                let found = match &data {
                    None => model.measurable(None, part),
                    Some(data) if data.is_in_memory() => model.measurable_in_memory(&data.origin, part),
                    Some(data) => model.measurable(Some(&data.names), part),
                }?;
                let stop = teller.stop();
                let go_on = |done, of| {
                    teller.tell(&progress("measuring the loss", done, of), true);
                    stop.go_on()
                };
                let measured = model.eval_while(found.data, found.part, threads, go_on)?;
                let mut measured = measured.ok_or_else(broken_off)?;
                measured.notes.extend(found.note);
                Ok(measured.json(&run, model.state().step, found.part).to_string())
            };
            whole(threads, eval)?
        })
    }

    /// Its weights, one after the other: its own memory, or, where some are in few bits, a copy in which they are multiplied out.
    /// With adapters, a copy with these merged. And for each tensor its name, where it begins, and its shape.
    #[allow(clippy::type_complexity)]
    fn weights<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyArray1<f32>>, Vec<(String, usize, Vec<usize>)>)> {
        let (py, model) = (slf.py(), slf.get().library());
        if let Some(weights) = arrays::weights(slf).filter(|_| !model.layout().has_adapters()) {
            return Ok((weights, names::tensors(model.layout())));
        }
        let (layout, weights) = quickly(py, slf.get().workers.threads(), || names::merged(model))?;
        let weights = PyArray1::from_vec(py, weights);
        weights.readwrite().make_nonwriteable();
        Ok((weights, names::tensors(&layout)))
    }
}
