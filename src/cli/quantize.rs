//! `kinglet quantize`

use super::{
    choice::{Scheme, Threads},
    run_arg::{CheckpointArg, RunArg},
    table::{columns, pairs},
    terminal,
    watch::Watch,
};
use crate::{
    backend::Cpu,
    config::Config,
    data::{Dataset, Split},
    error::Error,
    inference::{Model, Part},
    quant::Weights,
    quantize::{
        Options, Source,
        report::{Measured, PAGE, Report, Stage},
    },
    run::RunDir,
};
use serde_json::json;
use std::{ops::ControlFlow, path::PathBuf, time::Instant};

/// Make a run's weights up to four times smaller (w8) or seven times (w4), in a new folder, and say what that costs
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  kinglet quantize mine --scheme w8 --out runs/mine-w8
  kinglet quantize mine --scheme w4 --calibrate --out runs/mine-w4

A report card compares both runs: sizes, losses on the same tokens with the error of their difference, how far apart predictions \
are, which layer hurts most, speed and memory. It is printed, and written into the new run as quantization.md with a picture.")]
pub(super) struct Args {
    /// Run: its folder, or its name in runs/; RUN@STEP selects a checkpoint
    run: RunArg,
    /// Text to calibrate and measure on, if not the run's own: files, folders, "-", or a known name
    data: Vec<String>,
    /// What to round weights to
    #[arg(long, value_enum)]
    scheme: Scheme,
    /// New folder for the smaller run
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Round the weights of the head too
    #[arg(long)]
    head: bool,
    /// Round the embeddings too; where they share their weights with the head, both are rounded
    #[arg(long)]
    embeddings: bool,
    /// Make up for the error of each column of a matrix in those after it (GPTQ); this needs text
    #[arg(long)]
    calibrate: bool,
    /// Do not measure what it costs: no report card
    #[arg(long, conflicts_with = "full")]
    no_report: bool,
    /// Measure on all of the text, however large the model is [default: on evenly spread parts of it, if all would take
    /// minutes]
    #[arg(long)]
    full: bool,
    #[command(flatten)]
    checkpoint: CheckpointArg,
    #[command(flatten)]
    threads: Threads,
}

/// The text to calibrate and measure on.
struct Text {
    data: Dataset,
    part: Part,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        // The new run is there whole or not at all.
        terminal::leave_nothing_on_signal()?;
        self.threads.run(|| self.quantize(json))
    }

    fn quantize(&self, json: bool) -> anyhow::Result<()> {
        let chosen = self.run.chosen(&self.checkpoint)?;
        RunDir::check_new(&self.out)?;
        let source = Source::open(&chosen.run, chosen.which)?;
        terminal::warn(&source.warnings);
        let options = self.options();
        let config = source.rounded_config(&options)?;
        let before = source.model()?;
        let mut notes = source.notes.clone();
        if source.has_learned_so() && !self.no_report {
            notes.push("the report card compares with the numbers that these weights are rounded from".to_owned());
        }
        let text = self.text(&before, &mut notes)?;
        notes.extend(text.as_ref().and_then(|text| source.note_text(&options, &text.data)));
        terminal::note(&notes);
        let data = text.as_ref().map(|text| &text.data);
        let (mut watch, began) = (Watch::new(true), Instant::now());
        let progress = |done: usize, of: usize| {
            watch.even("rounding", done as u64, of as u64, began);
            ControlFlow::Continue(())
        };
        let weights = source.round(&options, data, progress)?.expect("nothing breaks it off");
        watch.end();
        let is_own_text = self.data.is_empty();
        let mut report = match self.no_report {
            true => None,
            false => Some(self.report([&before, &after(&before, &config, &weights)?], &weights, text)?),
        };
        let (from, out) = (chosen.run.display().to_string(), self.out.display().to_string());
        report.iter_mut().for_each(|report| report.is_own_text = is_own_text);
        match &mut report {
            Some(report) => source.save_reported(&config, &weights, (report, &from), &self.out)?,
            None => source.save(&config, &weights, &self.out)?,
        };
        if let Some(report) = &report {
            terminal::note(&report.notes);
            notes.extend_from_slice(&report.notes);
        }
        if json {
            return terminal::print_json(&json!({
                "run": from,
                "out": out,
                "step": source.state.step,
                "scheme": config.quantization,
                "verdict": report.as_ref().map(Report::verdict),
                "report": report,
                "notes": notes,
            }));
        }
        let card = report.map_or_else(String::new, |report| card(&report));
        let page = self.out.join(PAGE);
        let page = if self.no_report { out } else { format!("{out}; the report card is in {}", page.display()) };
        let (step, scheme) = (source.state.step, config.quantization.name());
        Ok(terminal::print(&format!("{card}{from} (step {step}) in {scheme}: {page}\n"))?)
    }

    fn options(&self) -> Options {
        let scheme = self.scheme.into();
        let (head, embeddings) = (self.head, self.embeddings);
        Options { scheme, head, embeddings, feedback: self.calibrate, ..Options::default() }
    }

    /// Whether the text also decides how weights are rounded.
    fn calibrates(&self) -> bool {
        self.calibrate || matches!(self.scheme, Scheme::W4)
    }

    /// What a note says of rounding without a text.
    fn alone(&self) -> &'static str {
        if self.calibrates() { ", and scales are chosen for the weights alone" } else { "" }
    }

    /// The text, if it is needed and there is one. A text that was named must be there; without the run's own, some of it can
    /// be done, and a note says what not.
    fn text(&self, model: &Model, notes: &mut Vec<String>) -> anyhow::Result<Option<Text>> {
        if self.no_report && !self.calibrates() {
            return Ok(None);
        }
        if self.data.is_empty() && model.config().data_sha256.is_empty() {
            // Without a name, commands would read the built-in text, which says nothing about this model.
            let what = "the text that this model was trained on is not known";
            return match self.calibrate {
                true => Err(Error::Data(format!("{what}: name a text behind the run")).into()),
                false => {
                    notes.push(format!(
                        "{what}: losses and layers are not measured{}; name a text behind the run",
                        self.alone()
                    ));
                    Ok(None)
                }
            };
        }
        if self.data.is_empty() {
            return match model.dataset(None, Part::Val) {
                Ok(data) if data.val.windows() > 0 => {
                    notes.extend_from_slice(&data.notes);
                    Ok(Some(Text { data, part: Part::Val }))
                }
                Ok(_) if self.calibrate => Err(too_short().into()),
                Ok(_) => {
                    notes.push(format!("{}: losses and layers are not measured", too_short().one_line()));
                    Ok(None)
                }
                Err(error) if self.calibrate => Err(error.into()),
                Err(error) => {
                    notes.push(format!(
                        "the run's text cannot be read ({}): losses and layers are not measured{}; name a text behind the \
                         run to use that",
                        error.one_line(),
                        self.alone()
                    ));
                    Ok(None)
                }
            };
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
            return Err(too_short().into());
        }
        notes.extend_from_slice(&data.notes);
        Ok(Some(Text { data, part }))
    }

    /// Measures both models.
    fn report(&self, models: [&Model; 2], weights: &Weights, text: Option<Text>) -> anyhow::Result<Report> {
        let split = text.map(|text| text.measured(models[0])).transpose()?;
        let mut watch = Watch::new(true);
        let (mut now, mut began) = (None, Instant::now());
        let progress = |stage: Stage, done: usize, of: usize| {
            if now != Some(stage) {
                (now, began) = (Some(stage), Instant::now());
            }
            let what = match stage {
                Stage::Text => "measuring both losses",
                Stage::Layers => "measuring each layer",
                Stage::Speed => "measuring the speed",
            };
            watch.even(what, done as u64, of as u64, began);
            ControlFlow::Continue(())
        };
        let measured = Measured { full: self.full, threads: self.threads.count() };
        let report = Report::measure(models, weights, split.as_ref(), &measured, progress)?;
        watch.end();
        Ok(report.expect("nothing breaks it off"))
    }
}

impl Text {
    /// The part to measure on.
    fn measured(self, model: &Model) -> anyhow::Result<Split> {
        Ok(match self.part {
            Part::All => self.data.whole(model.tokenizer(), model.config())?,
            _ => self.data.val,
        })
    }
}

fn too_short() -> Error {
    Error::Data("the part of the text to measure on is too short: it needs at least 2 tokens".to_owned())
}

/// The model that the new run will be.
fn after(before: &Model, config: &Config, weights: &Weights) -> anyhow::Result<Model> {
    Ok(Model::of(Cpu::new()?, config.clone(), before.tokenizer().clone(), weights.clone())?)
}

/// The report card on a terminal.
fn card(report: &Report) -> String {
    let head = ["", "before", "after", ""].map(str::to_owned).to_vec();
    let rows: Vec<_> = std::iter::once(head).chain(report.rows().into_iter().map(Vec::from)).collect();
    let findings = report.findings();
    let findings = if findings.is_empty() { String::new() } else { pairs(&findings) + "\n" };
    format!("{}\n{findings}{}\n\n", columns(&rows), report.verdict())
}
