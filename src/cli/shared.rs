//! What the commands do, for a program that has no words for them, such as the Python module.

use super::{
    asked::{Answer, Asked},
    finetune, keys, plan, preparing, presets,
};
pub use super::{run_arg::Place, tune::BUDGET_S};
use crate::{
    backend::{Cpu, Forward},
    config::Quantization,
    error::{Error, Result},
    run::{HOME, check_name},
    train::{finetune::Finetune, resolve_on},
};
use serde_json::{Value, json};
use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

/// Writes the token ids of a text to a new folder, as `kinglet data prepare --json` does. `progress` receives the bytes that are done
/// and all bytes; if it breaks, nothing is written.
///
/// # Errors
/// If the text or the folder is unusable.
pub fn prepare(asked: &Asked, out: &Path, progress: impl FnMut(u64, u64) -> ControlFlow<()>) -> Result<Option<Value>> {
    let (Answer { config, mut notes, .. }, mut found) = (asked.config()?, Vec::new());
    let written = preparing::prepare(&asked.origin, &config, out, |notes| found.extend_from_slice(notes), progress)?;
    Ok(written.map(|written| {
        let mut report = written.json(out);
        notes.extend(found);
        notes.extend(written.about.notes);
        report["notes"] = json!(notes);
        report
    }))
}

/// Where something new goes: in the folder `out`, or else in the first that is free of those called `name` in the home of runs, or of
/// those called like `default`.
///
/// # Errors
/// If there cannot be a run of that name, or both are given.
pub fn place(out: Option<PathBuf>, name: Option<&str>, default: PathBuf) -> Result<Place> {
    match (out, name) {
        (Some(_), Some(_)) => {
            Err(Error::BadConfig("out and name both say where the run goes: use only one of them".into()))
        }
        (Some(out), None) => Ok(Place::Given(out)),
        (None, Some(name)) => Ok(Place::Free(Path::new(HOME).join(checked_name(name)?))),
        (None, None) => Ok(Place::Free(default)),
    }
}

/// The name of a run, if it can be one.
fn checked_name(name: &str) -> Result<&str> {
    let refused = |what: String| Error::BadConfig(format!("{name:?}: {}", what.replace("--out", "out")));
    check_name(name).map(|()| name).map_err(refused)
}

/// The folder of a run that goes on from `run` with `data`, or with its own text in few bits, unless another is named.
pub fn place_of_finetuned(run: &Path, data: &[String], rounded: Quantization) -> PathBuf {
    finetune::default_out(run, data, rounded)
}

/// The time and memory that a run would take, as `kinglet plan --json` prints it, measured for about so many seconds; with `notes`, which
/// the command tells beside it.
///
/// # Errors
/// If it could not be started, or its threads cannot.
pub fn plan(asked: &Asked, threads: usize, seconds: f64) -> Result<Value> {
    let be = Cpu::new()?;
    let Answer { config, name, notes } = asked.config()?;
    let shards = config.shards;
    let (config, tokenizer, data) = resolve_on(&asked.origin, config)?;
    let kind = if asked.config.is_some() { "config" } else { "preset" };
    let (name, config, tokenizer, data) = (&*name.to_string_lossy(), &config, &tokenizer, &data);
    let run = plan::Planned { name, kind, config, shards, tokenizer, data, old: None };
    planned(&run, be, (threads, seconds), notes)
}

/// The same of a fine-tuning, which `name` is the folder of.
///
/// # Errors
/// As [`plan`].
pub fn plan_finetuning(prepared: &Finetune, name: &str, threads: usize, seconds: f64) -> Result<Value> {
    let Finetune { config, tokenizer, data, old, .. } = prepared;
    let run = plan::Planned { name, kind: "out", config, shards: 0, tokenizer, data, old: old.as_ref() };
    planned(&run, Cpu::new()?, (threads, seconds), Vec::new())
}

/// What was measured, with what the command tells beside it.
fn planned(run: &plan::Planned, be: Cpu, (threads, seconds): (usize, f64), mut notes: Vec<String>) -> Result<Value> {
    let wanted = run.config.precision;
    notes.extend_from_slice(&run.data.notes);
    notes.extend(run.config.doubts());
    notes.extend(wanted.instead(be.with_precision(wanted).precision()).map(str::to_owned));
    let mut report = plan::report(run, be, &plan::How { threads, seconds, machines: None, json: true })?;
    report["notes"] = json!(notes);
    Ok(report)
}

/// All presets, as `kinglet presets --json` prints them.
///
/// # Errors
/// None, as long as the presets are what they are.
pub fn presets() -> Result<Vec<Value>> {
    presets::all()
}

/// The configuration keys of these names, sections, or parts of names, or all, as `kinglet keys --json` prints them.
///
/// # Errors
/// If there are none.
pub fn keys(names: &[String]) -> Result<Vec<Value>> {
    keys::described(names)
}
