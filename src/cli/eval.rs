//! `kinglet eval`

use super::terminal;
use super::{choice::Threads, table::pairs, watch::Watch};
use kinglet::{
    backend::Cpu,
    data::Dataset,
    inference::{Evaluation, Model, Part},
    report::{
        baselines::{self, Baseline},
        with_error,
    },
    run::Which,
    train::eval::Answers,
};
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    time::Instant,
};

/// Measure the exact loss of a run over every position of a text
#[derive(clap::Args)]
pub(super) struct Args {
    /// The run's folder
    run: PathBuf,
    /// Another text than the run was trained on: files, folders, "-", or a known name
    data: Vec<String>,
    /// Which part of the text [default: val of the text that the run was trained on, all of another]
    #[arg(long, value_enum)]
    split: Option<SplitArg>,
    /// Which checkpoint
    #[arg(long, value_enum, default_value_t = CheckpointArg::Best)]
    checkpoint: CheckpointArg,
    #[command(flatten)]
    threads: Threads,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum SplitArg {
    Train,
    Val,
    All,
}

/// A checkpoint of a run.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum CheckpointArg {
    /// The one with the lowest estimated validation loss
    Best,
    /// The newest
    Last,
}

impl From<CheckpointArg> for Which {
    fn from(checkpoint: CheckpointArg) -> Which {
        match checkpoint {
            CheckpointArg::Best => Which::Best,
            CheckpointArg::Last => Which::Last,
        }
    }
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        self.threads.run(|| self.eval(json))
    }

    /// The data, and the part of it to measure.
    fn dataset(&self, model: &Model) -> anyhow::Result<(Dataset, Part)> {
        let names = Some(&self.data[..]).filter(|names| !names.is_empty());
        let part = match self.split {
            Some(SplitArg::Train) => Part::Train,
            Some(SplitArg::Val) => Part::Val,
            Some(SplitArg::All) => Part::All,
            None if names.is_some() => Part::All,
            None => Part::Val,
        };
        let data = model.dataset(names, part)?;
        if self.split.is_none() && names.is_some() && model.trained_on(&data) {
            // A stream cannot be read again.
            let pipe = |path: &Path| path.exists() && !path.is_file() && !path.is_dir();
            if !self.data.iter().any(|name| name == "-" || pipe(Path::new(name))) {
                terminal::tell(
                    "note: this is the text that the run was trained on; its validation part is measured, --split all is \
                     all of it",
                );
                return Ok((model.dataset(names, Part::Val)?, Part::Val));
            }
            terminal::tell(
                "note: this is the text that the run was trained on; --split val measures its validation part",
            );
        }
        Ok((data, part))
    }

    fn eval(&self, json: bool) -> anyhow::Result<()> {
        let model = Model::load(Cpu::new()?, &self.run, self.checkpoint.into())?;
        terminal::warn(model.warnings());
        terminal::note_precision(model.config().precision, model.precision());
        let (data, part) = self.dataset(&model)?;
        let name = match part {
            Part::Train => "train",
            Part::Val => "val",
            Part::All => "all",
        };
        let (mut watch, began) = (Watch::new(true), Instant::now());
        let progress = |done: usize, of: usize| watch.even("measuring the loss", done as u64, of as u64, began);
        let vocab_size = model.config().vocab_size;
        let baseline = if part == Part::Val { baselines::best(&data, vocab_size) } else { Ok(None) };
        // It is only there to compare with.
        let baseline = baseline.unwrap_or_else(|error| {
            terminal::warn(&[baselines::missing(&error)]);
            None
        });
        let measured = model.eval(data, part, self.threads.count(), progress)?;
        watch.end();
        let Evaluation { exact, floor, answers, notes, .. } = measured;
        terminal::note(&notes);
        if json {
            return terminal::print_json(&json!({
                "run": self.run.display().to_string(),
                "step": model.state().step,
                "split": name,
                "loss": exact.loss,
                "stderr": exact.stderr,
                "bits_per_char": exact.bits_per_char,
                "bits_per_byte": exact.bits_per_byte,
                "perplexity": exact.perplexity,
                "tokens": exact.tokens,
                "entropy_floor": floor,
                "baseline": baseline,
                "answers": answers,
            }));
        }
        let mut lines = vec![
            ("loss", format!("{} nats each", with_error(exact.loss, exact.stderr))),
            ("bits per char", format!("{:.4}", exact.bits_per_char)),
            ("bits per byte", format!("{:.4}", exact.bits_per_byte)),
            ("perplexity", format!("{:.3}", exact.perplexity)),
        ];
        lines.extend(floor.map(|nats| {
            let above = exact.loss - nats;
            let what = format!("{nats:.4} nats: no model can stay below it; this one is {above:.4} above");
            ("entropy floor", what)
        }));
        lines.extend(baseline.map(|Baseline { name, nats_per_token }| {
            ("n-gram baseline", format!("{nats_per_token:.4} nats ({name})"))
        }));
        lines.extend(answers.map(|Answers { exact, of }| {
            ("exact match", format!("{:.2} %: {exact} of {of} answers", 100.0 * exact as f64 / of as f64))
        }));
        let (step, unit) = (model.state().step, model.tokenizer().unit());
        let head = format!("step {step}, {name} split, {} {unit} predicted\n", exact.tokens);
        Ok(terminal::print(&(head + &pairs(&lines)))?)
    }
}
