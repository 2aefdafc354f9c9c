//! `kinglet eval`

use kinglet::{
    backend::Cpu,
    inference::{Evaluation, Model, Part},
    report::baselines::{self, Baseline},
    run::Which,
    train::eval::Answers,
};
use serde_json::json;
use std::path::PathBuf;

/// Measure the exact loss of a run over every position of a text
#[derive(clap::Args)]
pub(super) struct Args {
    /// The run's folder
    run: PathBuf,
    /// Another text than the run was trained on: files, folders, "-", or a known name
    data: Vec<String>,
    /// Which part of the text [default: val of the run's own text, all of another]
    #[arg(long, value_enum)]
    split: Option<Split>,
    /// Which checkpoint
    #[arg(long, value_enum, default_value_t = Checkpoint::Best)]
    checkpoint: Checkpoint,
    /// Threads to work with [default: one for each core]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u16).range(..=1024))]
    threads: u16,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Split {
    Train,
    Val,
    All,
}

/// A checkpoint of a run.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum Checkpoint {
    /// The one with the lowest estimated validation loss
    Best,
    /// The newest
    Last,
}

impl From<Checkpoint> for Which {
    fn from(checkpoint: Checkpoint) -> Which {
        match checkpoint {
            Checkpoint::Best => Which::Best,
            Checkpoint::Last => Which::Last,
        }
    }
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        let model = Model::load(Cpu::new()?, &self.run, self.checkpoint.into())?;
        super::warn(model.warnings());
        super::note_precision(model.config().precision, model.precision());
        let (data, default) = match &self.data[..] {
            [] => (None, Split::Val),
            data => (Some(data), Split::All),
        };
        let (part, name) = match self.split.unwrap_or(default) {
            Split::Train => (Part::Train, "train"),
            Split::Val => (Part::Val, "val"),
            Split::All => (Part::All, "all"),
        };
        let bar = super::progress_bar(0, "{wide_bar:.cyan/dim} {percent}% {eta} left");
        let progress = |done: usize, of: usize| {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
        };
        let data = model.dataset(data, part)?;
        let vocab_size = model.config().vocab_size;
        let baseline = if part == Part::Val { baselines::best(&data, vocab_size)? } else { None };
        let measured = model.eval(data, part, usize::from(self.threads), progress)?;
        bar.finish_and_clear();
        let Evaluation { exact, floor, answers, notes, .. } = measured;
        super::warn(&notes);
        if json {
            return super::print_json(&json!({
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
        let floor = floor.map_or(String::new(), |nats| {
            let above = exact.loss - nats;
            format!("entropy floor    {nats:.4} nats: no model can stay below it; this one is {above:.4} above\n")
        });
        let baseline = baseline.map_or(String::new(), |Baseline { name, nats_per_token }| {
            format!("best baseline    {nats_per_token:.4} nats, a {name} that only counts\n")
        });
        let answers = answers.map_or(String::new(), |Answers { exact, of }| {
            format!("exact match      {:.2} %: {exact} of {of} answers\n", 100.0 * exact as f64 / of as f64)
        });
        Ok(super::print(&format!(
            "step {}, {name} split, {} {} predicted\n\
             loss             {:.4} ± {:.4} nats each\n\
             bits per char    {:.4}\n\
             bits per byte    {:.4}\n\
             perplexity       {:.3}\n{floor}{baseline}{answers}",
            model.state().step,
            exact.tokens,
            model.tokenizer().unit(),
            exact.loss,
            exact.stderr,
            exact.bits_per_char,
            exact.bits_per_byte,
            exact.perplexity
        ))?)
    }
}
