//! `kinglet eval`

use super::terminal;
use super::{
    choice::Threads,
    report::each,
    run_arg::{self, CheckpointArg, RunArg},
    table::{columns, pairs, row},
    watch::Watch,
};
use crate::{
    backend::Cpu,
    data::Dataset,
    error::Error,
    inference::{Evaluation, Measurable, Model, Part},
    report::{
        baselines::{self, Baseline},
        plot::{Chart, Series},
        with_error,
    },
    run::{RunDir, Which},
    train::eval::Answers,
};
use anyhow::Context;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};
use unicode_width::UnicodeWidthStr;

/// Measure the exact loss of a run on a text
#[derive(clap::Args)]
pub(super) struct Args {
    /// Run: its folder, or its name in runs/ [default: the newest run]; RUN@STEP selects a checkpoint
    run: Option<RunArg>,
    /// Text to evaluate on, if not the run's own: files, folders, "-", or a known name
    data: Vec<String>,
    /// Part of the text [default: val for the text that the run was trained on, all for any other text]
    #[arg(long, value_enum)]
    split: Option<SplitArg>,
    #[command(flatten)]
    checkpoint: CheckpointArg,
    /// Measure all checkpoints, as a table and a curve
    #[arg(long, conflicts_with = "checkpoint")]
    all_checkpoints: bool,
    /// With --all-checkpoints: also write the curve to this SVG file
    #[arg(long, value_name = "FILE", requires = "all_checkpoints")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    threads: Threads,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum SplitArg {
    Train,
    Val,
    All,
}

/// The loss of a checkpoint.
struct Measured {
    run: String,
    step: u64,
    part: Part,
    found: Evaluation,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        self.threads.run(|| if self.all_checkpoints { self.all(json) } else { self.one(json) })
    }

    /// The data, and the part of it to measure.
    fn dataset(&self, model: &Model) -> anyhow::Result<(Dataset, Part)> {
        let names = Some(&self.data[..]).filter(|names| !names.is_empty());
        let part = self.split.map(|split| match split {
            SplitArg::Train => Part::Train,
            SplitArg::Val => Part::Val,
            SplitArg::All => Part::All,
        });
        let Measurable { data, part, note } = model.measurable(names, part)?;
        terminal::note(&note);
        Ok((data, part))
    }

    fn measure(&self, run: &Path, model: &Model, data: Dataset, part: Part) -> anyhow::Result<Measured> {
        let (mut watch, began) = (Watch::new(true), Instant::now());
        let progress = |done: usize, of: usize| watch.even("measuring the loss", done as u64, of as u64, began);
        let found = model.eval(data, part, self.threads.count(), progress)?;
        watch.end();
        Ok(Measured { run: run.display().to_string(), step: model.state().step, part, found })
    }

    fn one(&self, json: bool) -> anyhow::Result<()> {
        let chosen = run_arg::chosen_or_newest(self.run.as_ref(), &self.checkpoint)?;
        let model = Model::load(Cpu::new()?, &chosen.run, chosen.which)?;
        terminal::warn(model.warnings());
        terminal::note(model.notes());
        terminal::note_precision(model.config().precision, model.precision());
        let (data, part) = self.dataset(&model)?;
        let vocab_size = model.config().vocab_size;
        let baseline = if part == Part::Val { baselines::best(&data, vocab_size) } else { Ok(None) };
        // It is only there to compare with.
        let baseline = baseline.unwrap_or_else(|error| {
            terminal::warn(&[baselines::missing(&error)]);
            None
        });
        let measured = self.measure(&chosen.run, &model, data, part)?;
        terminal::note(&measured.found.notes);
        if json {
            let mut about = measured.json();
            about["baseline"] = json!(baseline);
            return terminal::print_json(&about);
        }
        Ok(terminal::print(&measured.text(&model, baseline))?)
    }

    /// Measures every checkpoint that there is; those that cannot be read are passed over, with a warning.
    fn all(&self, json: bool) -> anyhow::Result<()> {
        let run = match &self.run {
            Some(run) => run.folder()?,
            None => run_arg::chosen_or_newest(None, &self.checkpoint)?.run,
        };
        let steps = RunDir::open(&run)?.steps()?;
        let (mut all, mut data): (Vec<Measured>, Option<(Dataset, Part)>) = (Vec::new(), None);
        for step in &steps {
            let model = match Model::load(Cpu::new()?, &run, Which::Step(*step)) {
                Ok(model) => model,
                Err(error) => {
                    terminal::warn(&[error.one_line()]);
                    continue;
                }
            };
            if data.is_none() {
                terminal::warn(model.warnings());
                terminal::note_precision(model.config().precision, model.precision());
                data = Some(self.dataset(&model)?);
            }
            let (data, part) = data.clone().expect("it was read");
            let measured = self.measure(&run, &model, data, part)?;
            if all.is_empty() {
                terminal::note(&measured.found.notes);
            }
            if json {
                terminal::print_json(&measured.json())?;
            }
            all.push(measured);
        }
        if all.is_empty() {
            let what = match steps.len() {
                0 => "this run has no checkpoint yet",
                _ => "no checkpoint can be read",
            };
            return Err(Error::run(&run, what).into());
        }
        let chart = chart(&all);
        if let Some(path) = &self.svg {
            terminal::refuse_other(path, "<svg")?;
            fs::write(path, chart.svg()).with_context(|| format!("cannot write {}", path.display()))?;
        }
        if json {
            return Ok(());
        }
        let (width, color) = (terminal::columns_out().unwrap_or(80), terminal::has_color());
        let curve = if all.len() > 1 { chart.text(width, color) + "\n" } else { String::new() };
        let written = self.svg.as_ref().map_or_else(String::new, |path| format!("written to {}\n", path.display()));
        Ok(terminal::print(&(curve + &table(&all, width) + &written))?)
    }
}

impl Measured {
    fn json(&self) -> Value {
        self.found.json(&self.run, self.step, self.part)
    }

    fn text(&self, model: &Model, baseline: Option<Baseline>) -> String {
        let Evaluation { exact, floor, answers, .. } = &self.found;
        let unit = model.tokenizer().unit();
        let each = each(unit.strip_suffix('s').unwrap_or(unit), exact.loss, exact.bits_per_char, exact.bits_per_byte);
        let mut lines = vec![
            ("loss", format!("{} nats per {each}", with_error(exact.loss, exact.stderr))),
            ("bits per char", format!("{:.4}", exact.bits_per_char)),
            ("bits per byte", format!("{:.4}", exact.bits_per_byte)),
            ("perplexity", format!("{:.3}", exact.perplexity)),
        ];
        lines.extend(floor.map(|nats| {
            let above = exact.loss - nats;
            ("entropy floor", format!("{nats:.4} nats, the lowest possible loss; this model is {above:.4} above it"))
        }));
        lines.extend(baseline.map(|Baseline { name, nats_per_token }| {
            ("n-gram baseline", format!("{nats_per_token:.4} nats ({name})"))
        }));
        lines.extend(answers.as_ref().map(|answers| ("exact match", matched(answers))));
        let head = format!(
            "{}: step {}, {} split, {} {each}s predicted\n",
            self.run,
            self.step,
            self.part.name(),
            exact.tokens
        );
        head + &pairs(&lines)
    }
}

fn matched(Answers { exact, of }: &Answers) -> String {
    format!("{:.2} %: {exact} of {of} answers", 100.0 * *exact as f64 / *of as f64)
}

/// The checkpoint with the lowest loss.
fn lowest(all: &[Measured]) -> Option<u64> {
    all.iter().min_by(|a, b| a.found.exact.loss.total_cmp(&b.found.exact.loss)).map(|measured| measured.step)
}

/// A line for each checkpoint; what does not fit on it is left out.
fn table(all: &[Measured], width: usize) -> String {
    let with_answers = all.iter().any(|measured| measured.found.answers.is_some());
    let mut rows = vec![row!["step", "loss", "bits per byte", "perplexity"]];
    if with_answers {
        rows[0].push("exact match".into());
    }
    rows.extend(all.iter().map(|Measured { step, found, .. }| {
        let exact = &found.exact;
        let bits = format!("{:.4}", exact.bits_per_byte);
        let mut row = row![step, with_error(exact.loss, exact.stderr), bits, format!("{:.3}", exact.perplexity)];
        row.extend(found.answers.map(|Answers { exact, of }| format!("{:.2} %", 100.0 * exact as f64 / of as f64)));
        row
    }));
    // The mark stands behind the last column.
    let marked = |rows: &[Vec<String>]| {
        let steps = std::iter::once(None).chain(all.iter().map(|measured| Some(measured.step)));
        let mark =
            |step: Option<u64>| if step.is_some() && step == lowest(all) { Some("lowest".to_owned()) } else { None };
        columns(
            &rows
                .iter()
                .zip(steps)
                .map(|(row, step)| row.iter().cloned().chain(mark(step)).collect())
                .collect::<Vec<_>>(),
        )
    };
    let mut text = marked(&rows);
    while text.lines().any(|line| line.width() > width) && rows[0].len() > 2 {
        // The perplexity first: it is the loss once more.
        let column = if rows[0].len() > 3 { 3 } else { 2 };
        rows.iter_mut().for_each(|row| _ = row.remove(column));
        text = marked(&rows);
    }
    text
}

/// The loss over the steps.
fn chart(all: &[Measured]) -> Chart {
    let points: Vec<_> = all.iter().map(|measured| (measured.step as f64, measured.found.exact.loss)).collect();
    let (first, last) = (points.first().map_or(0.0, |point| point.0), points.last().map_or(0.0, |point| point.0));
    let split = all.first().map_or("", |measured| measured.part.name());
    let floor = all.first().and_then(|measured| measured.found.floor);
    let limit = floor.map(|floor| Series::limit(format!("entropy floor {floor:.4}"), floor, first..last));
    Chart {
        title: "Exact loss of each checkpoint".into(),
        x_desc: "step".into(),
        y_desc: "loss (nats per token)".into(),
        series: [Series::new(0, format!("exact loss, {split} split"), points)].into_iter().chain(limit).collect(),
        ..Chart::default()
    }
}
