//! A run with weights in few bits, made of another: rounded, measured and written.

use super::{
    Options, Source,
    report::{Measured, Report, Stage},
};
use crate::{
    data::{Dataset, Split},
    inference::{Model, Part},
    run::{Chosen, RunDir},
};
use kinglet_core::{
    backend::Cpu,
    config::Quantization,
    error::{Error, Result},
    quant::Weights,
};
use serde_json::{Value, json};
use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

/// What is to be made.
#[derive(Clone, Debug)]
pub struct Order {
    /// Of which run.
    pub of: Chosen,
    /// The new folder.
    pub out: PathBuf,
    /// Names of the text to calibrate and measure on; none is the run's own.
    pub data: Vec<String>,
    /// How weights are rounded.
    pub options: Options,
    /// What is measured for the report card; `None` for no card.
    pub card: Option<Measured>,
}

/// What is said while it is being made.
#[derive(Clone, Copy, Debug)]
pub enum Told<'a> {
    /// Damage that was found, and what is used instead.
    Warning(&'a str),
    /// What a user should know; it is among [`Made::notes`] too.
    Note(&'a str),
    /// What is being done, and how much of how much is.
    Progress(&'static str, usize, usize),
}

/// What was made.
#[derive(Debug)]
#[non_exhaustive]
pub struct Made {
    /// The folder of the run it was made of.
    pub from: PathBuf,
    /// The new folder.
    pub out: PathBuf,
    /// The step of the checkpoint.
    pub step: u64,
    /// What weights were rounded to.
    pub scheme: Quantization,
    /// The report card.
    pub report: Option<Report>,
    /// What a user should know.
    pub notes: Vec<String>,
}

impl Made {
    /// What `kinglet quantize --json` says.
    pub fn json(&self) -> Value {
        json!({
            "run": self.from.display().to_string(),
            "out": self.out.display().to_string(),
            "step": self.step,
            "scheme": self.scheme,
            "verdict": self.report.as_ref().map(Report::verdict),
            "report": self.report,
            "notes": self.notes,
        })
    }
}

/// The text to calibrate and measure on.
struct Text {
    data: Dataset,
    part: Part,
}

/// Whoever is told.
type Tell<'a> = &'a mut (dyn FnMut(Told) -> ControlFlow<()> + Send);

/// Makes a run in a new folder, which is there whole or not at all. If `tell` breaks it off at a piece of progress, the result is
/// `None`, and no folder is there.
///
/// # Errors
/// If the run, the options or the text do not allow it, or the folder is unusable.
pub fn make(order: &Order, tell: Tell) -> Result<Option<Made>> {
    let Chosen { run, which } = &order.of;
    RunDir::check_new(&order.out)?;
    let source = Source::open(run, *which)?;
    for warning in &source.warnings {
        let _ = tell(Told::Warning(warning));
    }
    let config = source.rounded_config(&order.options)?;
    let before = source.model()?;
    let mut notes = source.notes.clone();
    if source.has_learned_so() && order.card.is_some() {
        notes.push("the report card compares with the numbers that these weights are rounded from".to_owned());
    }
    let text = order.text(&before, &mut notes)?;
    notes.extend(text.as_ref().and_then(|text| source.note_text(&order.options, &text.data)));
    for note in &notes {
        let _ = tell(Told::Note(note));
    }
    let data = text.as_ref().map(|text| &text.data);
    let Some(weights) = source.round(&order.options, data, |done, of| tell(Told::Progress("rounding", done, of)))?
    else {
        return Ok(None);
    };
    let mut report = None;
    if let Some(measured) = &order.card {
        let after = Model::of(Cpu::new()?, config.clone(), before.tokenizer().clone(), weights.clone())?;
        let Some(mut card) = card([&before, &after], &weights, text, measured, tell)? else { return Ok(None) };
        card.is_own_text = order.data.is_empty();
        report = Some(card);
    }
    match &mut report {
        Some(report) => {
            let name = run.display().to_string();
            source.save_reported(&config, &weights, (report, &name), &order.out)?
        }
        None => source.save(&config, &weights, &order.out)?,
    };
    if let Some(report) = &report {
        for note in &report.notes {
            let _ = tell(Told::Note(note));
        }
        notes.extend_from_slice(&report.notes);
    }
    let (from, out, step) = (run.clone(), order.out.clone(), source.state.step);
    Ok(Some(Made { from, out, step, scheme: config.quantization, report, notes }))
}

/// Measures both models.
fn card(
    models: [&Model; 2],
    weights: &Weights,
    text: Option<Text>,
    measured: &Measured,
    tell: Tell,
) -> Result<Option<Report>> {
    let split = text.map(|text| text.measured(models[0])).transpose()?;
    Report::measure(models, weights, split.as_ref(), measured, |stage, done, of| {
        let what = match stage {
            Stage::Text => "measuring both losses",
            Stage::Layers => "measuring each layer",
            Stage::Speed => "measuring the speed",
        };
        tell(Told::Progress(what, done, of))
    })
}

impl Order {
    /// Whether the text also decides how weights are rounded.
    fn calibrates(&self) -> bool {
        self.options.feedback || self.options.scheme == Quantization::W4
    }

    /// The text, if it is needed and there is one. A text that was named must be there; without the run's own, some of it can
    /// be done, and a note says what not.
    fn text(&self, model: &Model, notes: &mut Vec<String>) -> Result<Option<Text>> {
        if self.card.is_none() && !self.calibrates() {
            return Ok(None);
        }
        if self.data.is_empty() {
            return self.own_text(model, notes);
        }
        // What weights are chosen on says little about them: then only the validation part is measured.
        let mut part = if self.calibrates() { Part::Val } else { Part::All };
        let mut data = model.dataset(Some(&self.data), part)?;
        if part == Part::All && model.trained_on(&data) && !self.data.iter().any(|name| name == "-") {
            (part, data) = (Part::Val, model.dataset(Some(&self.data), Part::Val)?);
            notes.push(
                "this is the text that the run was trained on, so only its validation part is measured".to_owned(),
            );
        }
        if data.val.windows() == 0 && (part != Part::All || data.train.windows() == 0) {
            return Err(too_short());
        }
        notes.extend_from_slice(&data.notes);
        Ok(Some(Text { data, part }))
    }

    /// The text that the run was trained on.
    fn own_text(&self, model: &Model, notes: &mut Vec<String>) -> Result<Option<Text>> {
        let without = if self.calibrates() { ", and scales are chosen for the weights alone" } else { "" };
        if model.config().data_sha256.is_empty() {
            // Without a name, commands would read the built-in text, which says nothing about this model.
            let what = "the text that this model was trained on is not known";
            if self.options.feedback {
                return Err(Error::Data(format!("{what}: name a text behind the run")));
            }
            notes.push(format!("{what}: losses and layers are not measured{without}; name a text behind the run"));
            return Ok(None);
        }
        match model.dataset(None, Part::Val) {
            Ok(data) if data.val.windows() > 0 => {
                notes.extend_from_slice(&data.notes);
                Ok(Some(Text { data, part: Part::Val }))
            }
            Ok(_) if self.options.feedback => Err(too_short()),
            Ok(_) => {
                notes.push(format!("{}: losses and layers are not measured", too_short().one_line()));
                Ok(None)
            }
            Err(error) if self.options.feedback => Err(error),
            Err(error) => {
                notes.push(format!(
                    "the run's text cannot be read ({}): losses and layers are not measured{without}; name a text behind the \
                     run to use that",
                    error.one_line()
                ));
                Ok(None)
            }
        }
    }
}

impl Text {
    /// The part to measure on.
    fn measured(self, model: &Model) -> Result<Split> {
        match self.part {
            Part::All => self.data.whole(model.tokenizer(), model.config()),
            _ => Ok(self.data.val),
        }
    }
}

fn too_short() -> Error {
    Error::Data("the part of the text to measure on is too short: it needs at least 2 tokens".to_owned())
}

/// Where a run made of this one goes unless told otherwise: beside it, with the scheme behind its name.
pub fn usual_out(run: &Path, scheme: Quantization) -> PathBuf {
    let mut name = run.file_name().unwrap_or_default().to_owned();
    name.push(format!("-{}", scheme.name()));
    run.with_file_name(name)
}
