//! Training: new runs, runs that go on, and runs that go on from others.

use crate::{
    attend::{Teller, attend, quickly},
    data::Data,
    error::raised,
    names::chosen,
};
use kinglet::{
    backend::{Cpu, Forward},
    cli::{
        asked::{Answer, Asked},
        shared,
    },
    config::Config,
    error::{Error, Result},
    run::{Chosen, HOME, RunName, run_name},
    system::progress::{self, Shown},
    text::source::MEMORY,
    threads::whole,
    train::{
        Changes, Event, Job, Options,
        finetune::{Finetune, Texts, prepare_with},
    },
};
use pyo3::prelude::*;
use serde_json::{Value, json};
use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

/// What to start from, and what to change of it.
#[derive(FromPyObject)]
pub(crate) struct Choice {
    pub(crate) preset: Option<String>,
    pub(crate) config: Option<PathBuf>,
    /// Settings (`key=value`).
    pub(crate) set: Vec<String>,
}

impl Choice {
    pub(crate) fn asked(self, data: &Data) -> Asked {
        let Choice { preset, config, set } = self;
        Asked { data: data.names.clone(), origin: data.origin.clone(), preset, config, set }
    }
}

/// Where a new run goes.
#[derive(FromPyObject)]
pub(crate) struct Place {
    out: Option<PathBuf>,
    name: Option<String>,
}

impl Place {
    pub(crate) fn or(self, default: PathBuf) -> Result<shared::Place> {
        shared::place(self.out, self.name.as_deref(), default)
    }
}

/// How to do it, and whom to tell.
#[derive(FromPyObject)]
pub(crate) struct How {
    pub(crate) threads: usize,
    /// What is called with lists of events.
    pub(crate) sink: Py<PyAny>,
    /// Whether it is to be called with every event.
    pub(crate) every: bool,
    /// Whether progress is shown.
    pub(crate) shown: bool,
}

impl How {
    /// Does some work that takes long, in a pool of its own; see [`attend`].
    pub(crate) fn attend<T: Send + 'static>(
        self,
        py: Python,
        work: impl FnOnce(&mut Teller, usize) -> Result<T> + Send + 'static,
    ) -> PyResult<T> {
        let How { threads, sink, every, shown } = self;
        progress::show(if shown { Shown::OnTerminal } else { Shown::Nowhere });
        attend(py, sink.bind(py), every, move |teller| whole(threads, || work(teller, threads))?)
    }
}

/// Says what the user should know before there is a run that can say it.
pub(crate) fn tell_notes(teller: &mut Teller, notes: &[String]) {
    notes.iter().for_each(|note| teller.tell(&json!({"event": "note", "note": note}), false));
}

/// The configuration that is asked for. What is to be known of it is said.
pub(crate) fn answered(asked: &Asked, teller: &mut Teller) -> Result<(Config, OsString)> {
    let Answer { config, name, notes } = asked.config()?;
    let advice = |note: &String| note.replace("--preset", "preset=");
    tell_notes(teller, &notes.iter().map(advice).collect::<Vec<_>>());
    Ok((config, name))
}

/// Why nothing was begun.
pub(crate) fn stopped() -> Error {
    Error::BadConfig("asked to stop before it began".into())
}

/// Trains a run; its folder and the last event.
fn trained(job: Job, be: Cpu, teller: &mut Teller, threads: usize) -> Result<(PathBuf, String)> {
    let wanted = job.run.config.precision;
    if !teller.begin(job.run.path(), wanted.instead(be.with_precision(wanted).precision())) {
        job.discard();
        return Err(stopped());
    }
    let (path, stop) = (job.run.path().to_owned(), teller.stop());
    let options = Options::default().threads(threads).stop(stop.flag());
    let often = |event: &Event| matches!(event, Event::Step { .. } | Event::Measuring { .. });
    let last = kinglet::train::run(job, be, &options, |event| teller.tell(event, often(event)))?;
    Ok((path, serde_json::to_string(&last).expect("plain values")))
}

/// Trains a new run; its folder and the last event.
#[pyfunction]
pub(crate) fn train(py: Python, data: &Data, choice: Choice, place: Place, how: How) -> PyResult<(PathBuf, String)> {
    let asked = choice.asked(data);
    how.attend(py, move |teller, threads| {
        // An unknown KINGLET_ISA is refused before anything is written.
        let be = Cpu::new()?;
        let (config, name) = answered(&asked, teller)?;
        let job = match place.or(Path::new(HOME).join(called(&asked, &config, &name)))? {
            shared::Place::Given(out) => Job::start_on(&asked.origin, config, out)?,
            shared::Place::Free(out) => Job::start_free_on(&asked.origin, config, out)?,
        };
        trained(job, be, teller, threads)
    })
}

/// The name of a run, unless another is given.
pub(crate) fn called(asked: &Asked, config: &Config, name: &OsStr) -> String {
    let mut config = config.clone();
    if asked.origin.is_in_memory() {
        config.data = vec![MEMORY.to_owned()];
    }
    run_name(&config, name)
}

/// Goes on with a run; its folder and the last event.
#[pyfunction]
pub(crate) fn resume(
    py: Python,
    run: OsString,
    data: &Data,
    replay_data: Vec<String>,
    set: Vec<String>,
    how: How,
) -> PyResult<(PathBuf, String)> {
    let Data { names, origin } = data.clone();
    how.attend(py, move |teller, threads| {
        let be = Cpu::new()?;
        let changes = Changes { settings: set, data: names, replay_data };
        let job = Job::resume_on(&origin, RunName::from(run).folder()?, &changes)?;
        trained(job, be, teller, threads)
    })
}

/// What to go on from.
#[derive(FromPyObject)]
pub(crate) struct Base {
    run: OsString,
    checkpoint: Option<String>,
    replay_data: Vec<String>,
    /// Settings (`key=value`).
    set: Vec<String>,
}

impl Base {
    /// Prepares it, and its folder unless another is named.
    fn prepare(&self, data: &Data) -> Result<(Finetune, PathBuf)> {
        let Chosen { run, which } = chosen(self.run.clone(), self.checkpoint.as_deref())?;
        let memory = data.origin.is_in_memory().then_some(&data.origin);
        let texts = Texts { data: &data.names, replay_data: &self.replay_data, memory };
        let set = |config: &mut Config| self.set.iter().try_for_each(|setting| config.set(setting));
        let prepared = prepare_with(&run, which, texts, set)?;
        let names = if memory.is_some() { &[MEMORY.to_owned()][..] } else { &data.names };
        let out = shared::place_of_finetuned(&run, names, prepared.config.quantization);
        Ok((prepared, out))
    }
}

/// Trains a run further on other data, as a new run; its folder and the last event.
#[pyfunction]
pub(crate) fn finetune(py: Python, from: Base, data: &Data, place: Place, how: How) -> PyResult<(PathBuf, String)> {
    let data = data.clone();
    how.attend(py, move |teller, threads| {
        let be = Cpu::new()?;
        let (prepared, default) = from.prepare(&data)?;
        let job = match place.or(default)? {
            shared::Place::Given(out) => prepared.start(&out)?,
            shared::Place::Free(out) => prepared.start_free(&out)?,
        };
        trained(job, be, teller, threads)
    })
}

/// The time and memory that a run would take, as JSON.
#[pyfunction]
pub(crate) fn plan(py: Python, data: &Data, choice: Choice, seconds: f64, threads: usize) -> PyResult<String> {
    let asked = choice.asked(data);
    quickly(py, threads, || shared::plan(&asked, threads, seconds)).map(text)
}

/// The same of a fine-tuning.
#[pyfunction]
pub(crate) fn plan_finetuning(py: Python, from: Base, data: &Data, seconds: f64, threads: usize) -> PyResult<String> {
    let planned = quickly(py, threads, || {
        let (prepared, out) = from.prepare(data)?;
        shared::plan_finetuning(&prepared, &out.to_string_lossy(), threads, seconds)
    });
    planned.map(text)
}

/// All presets, as JSON.
#[pyfunction]
pub(crate) fn presets(py: Python) -> PyResult<String> {
    shared::presets().map(|all| text(Value::Array(all))).map_err(|error| raised(py, &error))
}

/// The configuration keys of these names, sections, or parts of names, or all, as JSON.
#[pyfunction]
pub(crate) fn keys(py: Python, names: Vec<String>) -> PyResult<String> {
    shared::keys(&names).map(|all| text(Value::Array(all))).map_err(|error| raised(py, &error))
}

fn text(value: Value) -> String {
    value.to_string()
}

/// Writes the token ids of a text to a new folder; what was written, as JSON.
#[pyfunction]
pub(crate) fn prepare(py: Python, data: &Data, choice: Choice, out: PathBuf, how: How) -> PyResult<String> {
    let asked = choice.asked(data);
    how.attend(py, move |teller, _| {
        let stop = teller.stop();
        let progress = |done, of| {
            teller.tell(&json!({"event": "encoding", "done": done, "of": of}), true);
            if stop.is_set() { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) }
        };
        shared::prepare(&asked, &out, progress)?.map(text).ok_or_else(stopped)
    })
}
