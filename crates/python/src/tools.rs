//! What makes runs of runs, and files of models: as JSON, what the command prints.

use crate::{
    attend::{Teller, attend, quickly},
    names::{chosen, placed},
};
use kinglet::{
    config::{AttentionScale, Quantization},
    error::{Error, Result},
    formats::{self, Arrival, Dtype, ExportOptions, Format, ImportOptions, Source, Target, onnx::Ids},
    quantize::{
        Options,
        made::{self, Order, Told, usual_out},
        report::Measured,
    },
    report::compare::compare,
    run::{HOME, RunDir, RunName, check_name},
    threads::whole,
    train::finetune::merged,
};
use pyo3::prelude::*;
use serde_json::{Value, json};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// Does something long on `threads` threads, which makes something and is waited for. Returns what it returns as JSON. `sink` hears
/// warnings and, if `every`, all progress.
fn tool(
    py: Python,
    (sink, every): (&Bound<PyAny>, bool),
    threads: usize,
    each: impl FnOnce(&mut Teller) -> Result<Value> + Send + 'static,
) -> PyResult<String> {
    let done = attend(py, sink, every, move |teller| {
        if !teller.set_out() {
            return Err(broken_off());
        }
        whole(threads, || each(teller))?
    })?;
    Ok(done.to_string())
}

fn warn(teller: &mut Teller, warnings: &[String]) {
    for warning in warnings {
        teller.tell(&json!({"event": "warning", "message": warning}), false);
    }
}

/// What was broken off: an exception is what ended it, and nobody sees this.
pub(crate) fn broken_off() -> Error {
    Error::Data("broken off".to_owned())
}

/// What is being done, and how much of how much is.
pub(crate) fn progress(what: &str, done: usize, of: usize) -> Value {
    json!({"event": "progress", "what": what, "done": done, "of": of})
}

/// The choice of this name.
fn one_of<T: Copy>(key: &str, name: &str, all: &[(&str, T)]) -> Result<T> {
    let found = all.iter().find(|(other, _)| *other == name).map(|(_, value)| *value);
    found.ok_or_else(|| Error::Config {
        key: key.to_owned(),
        value: name.to_owned(),
        allowed: all.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
    })
}

/// A number of bits by its name.
fn scheme(name: &str) -> Result<Quantization> {
    one_of("scheme", name, &[("w8", Quantization::W8), ("w4", Quantization::W4)])
}

/// How weights are rounded.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Rounding {
    scheme: String,
    head: bool,
    embeddings: bool,
    calibrate: bool,
    report: bool,
    full: bool,
}

/// Makes a run with weights in few bits of a run.
#[pyfunction]
pub(crate) fn quantize_run(
    py: Python,
    of: (OsString, Option<String>),
    out_and_data: (Option<PathBuf>, Vec<String>),
    rounding: Rounding,
    threads: usize,
    hear: (Bound<PyAny>, bool),
) -> PyResult<String> {
    tool(py, (&hear.0, hear.1), threads, move |teller| {
        let (out, data) = out_and_data;
        let Rounding { head, embeddings, full, .. } = rounding;
        let scheme = scheme(&rounding.scheme)?;
        let of = chosen(of.0, of.1.as_deref())?;
        let free = |path: &Path| RunDir::check_new(path).map(|()| path.to_owned());
        let out = placed(out, || usual_out(&of.run, scheme), free)?;
        let options = Options { scheme, head, embeddings, feedback: rounding.calibrate, ..Options::default() };
        let card = rounding.report.then_some(Measured { full, threads });
        let order = Order { of, out, data, options, card };
        let stop = teller.stop();
        let made = made::make(&order, &mut |told| {
            match told {
                Told::Warning(warning) => warn(teller, &[warning.to_owned()]),
                Told::Note(_) => {}
                Told::Progress(what, done, of) => teller.tell(&progress(what, done, of), true),
            }
            stop.go_on()
        })?;
        Ok(made.ok_or_else(broken_off)?.json())
    })
}

/// Merges a run's adapters into its weights, in a new run.
#[pyfunction]
pub(crate) fn merge_run(
    py: Python,
    of: (OsString, Option<String>),
    out: Option<PathBuf>,
    threads: usize,
    sink: &Bound<PyAny>,
) -> PyResult<String> {
    tool(py, (sink, false), threads, move |teller| {
        let of = chosen(of.0, of.1.as_deref())?;
        let has_adapters = RunDir::open(&of.run)?.config.lora_rank > 0;
        let usual = || {
            let mut name = of.run.file_name().unwrap_or_default().to_owned();
            name.push("-merged");
            of.run.with_file_name(name)
        };
        let mut run = placed(out, usual, |out| merged(&of.run, of.which, out))?;
        warn(teller, &run.warnings);
        let step = run.state()?.step;
        let (from, out) = (of.run.display().to_string(), run.path().display().to_string());
        Ok(json!({"run": from, "out": out, "step": step, "had_adapters": has_adapters, "notes": run.notes}))
    })
}

/// What a file of another program does not say.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Unsaid {
    format: Option<String>,
    tokenizer: Option<PathBuf>,
    data: Vec<String>,
    n_head: Option<usize>,
    attention_scale: Option<String>,
    set: Vec<String>,
}

impl Unsaid {
    fn options(&self) -> Result<ImportOptions> {
        let formats = Format::ALL.map(|format| (format.name(), format));
        let format = self.format.as_deref().map(|name| one_of("format", name, &formats)).transpose()?;
        let scales = [("head_size", AttentionScale::HeadSize), ("n_embd", AttentionScale::NEmbd)];
        let scale = self.attention_scale.as_deref().map(|name| one_of("attention_scale", name, &scales)).transpose()?;
        Ok(ImportOptions {
            format,
            tokenizer: self.tokenizer.clone(),
            data: self.data.clone(),
            n_head: self.n_head,
            attention_scale: scale,
            set: self.set.clone(),
        })
    }
}

/// Makes a run of a model of another program.
#[pyfunction]
pub(crate) fn import_model(
    py: Python,
    path: PathBuf,
    out_and_base: (Option<PathBuf>, Option<OsString>),
    said: Unsaid,
    name: Option<String>,
    threads: usize,
    sink: &Bound<PyAny>,
) -> PyResult<String> {
    tool(py, (sink, false), threads, move |teller| {
        let (out, base) = out_and_base;
        let arrival = Arrival::read(&path, base.as_deref(), &said.options()?)?;
        warn(teller, &arrival.warnings);
        if let Some(name) = &name {
            check_name(name).map_err(|what| Error::BadConfig(format!("name = {name}: {what}")))?;
        }
        let usual = || name.map_or_else(|| arrival.usual_out(), |name| Path::new(HOME).join(name));
        let run = placed(out, usual, |out| arrival.save(out))?;
        arrival.json(run.path())
    })
}

/// How a model is written for another program.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Writing {
    to: String,
    dtype: Option<String>,
    max_difference: Option<f64>,
    ids: String,
    fixed: bool,
    scheme: Option<String>,
}

/// Writes a model for another program.
#[pyfunction]
pub(crate) fn export_model(
    py: Python,
    of: (OsString, Option<String>),
    out: Option<PathBuf>,
    writing: Writing,
    said: Unsaid,
    threads: usize,
    sink: &Bound<PyAny>,
) -> PyResult<String> {
    tool(py, (sink, false), threads, move |teller| {
        let target = one_of("to", &writing.to, &Target::ALL.map(|target| (target.name(), target)))?;
        let mut options = ExportOptions::default();
        options.dtype = writing.dtype.as_deref().map(|name| one_of("dtype", name, &DTYPES)).transpose()?;
        if writing.max_difference.is_some_and(|x| !(x >= 0.0 && x.is_finite())) {
            let value = writing.max_difference.unwrap_or_default().to_string();
            let allowed = "a number that is not negative".to_owned();
            return Err(Error::Config { key: "max_difference".to_owned(), value, allowed });
        }
        options.max_difference = writing.max_difference;
        options.ids = one_of("ids", &writing.ids, &[("int64", Ids::Int64), ("int32", Ids::Int32)])?;
        options.fixed = writing.fixed;
        options.scheme = writing.scheme.as_deref().map(scheme).transpose()?.unwrap_or(Quantization::None);
        let checkpoint = of.1.as_deref().map(crate::names::which).transpose()?;
        let source = Source::named(&of.0, checkpoint, target, &said.options()?)?;
        warn(teller, &source.warnings);
        let usual = format!("{}-{}", source.name, target.name());
        let out = out.unwrap_or_else(|| Path::new("exports").join(usual));
        let notes = source.notes.clone();
        let exported = formats::export(source, target, &out, &options)?;
        let mut json = exported.json(target, &out);
        if let Some(all) = json["notes"].as_array_mut() {
            all.splice(0..0, notes.into_iter().map(Value::from));
        }
        Ok(json)
    })
}

/// The types that weights can be stored as.
const DTYPES: [(&str, Dtype); 7] = [
    ("f32", Dtype::F32),
    ("f16", Dtype::F16),
    ("bf16", Dtype::Bf16),
    ("q8_0", Dtype::Q8_0),
    ("q5_0", Dtype::Q5_0),
    ("q4_0", Dtype::Q4_0),
    ("int8", Dtype::I8),
];

/// Where two runs differ, if they do.
#[pyfunction]
pub(crate) fn compare_bits(py: Python, a: OsString, b: OsString) -> PyResult<String> {
    quickly(py, 1, || {
        let open = |name: OsString| RunDir::open(&RunName::from(name).folder()?);
        let found = compare(&mut open(a)?, &mut open(b)?)?;
        let mut about = serde_json::to_value(&found).map_err(|error| Error::Data(error.to_string()))?;
        about["same"] = found.is_same().into();
        Ok(about.to_string())
    })
}
