//! `kinglet quantize`

use super::{
    choice::Threads,
    run_arg::{CheckpointArg, RunArg},
    terminal,
};
use kinglet::{
    config::Quantization,
    quantize::{Options, Source},
};
use serde_json::json;
use std::{ops::ControlFlow, path::PathBuf};

/// Make a run's weights four or eight times smaller, in a new folder, and say what that costs
#[derive(clap::Args)]
pub(super) struct Args {
    /// Run: its folder, or its name in runs/; RUN@STEP selects a checkpoint
    run: RunArg,
    /// Bits of a weight in the layers inside the blocks: w8 or w4
    #[arg(long, value_enum)]
    scheme: SchemeArg,
    /// New folder for the smaller run
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Round the weights of the head too
    #[arg(long)]
    head: bool,
    /// Round the embeddings too
    #[arg(long)]
    embeddings: bool,
    #[command(flatten)]
    checkpoint: CheckpointArg,
    #[command(flatten)]
    threads: Threads,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum SchemeArg {
    /// Eight bits, and a scale for each row
    W8,
    /// Four bits, and a scale for each 32 weights
    W4,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        self.threads.run(|| self.quantize(json))
    }

    fn quantize(&self, json: bool) -> anyhow::Result<()> {
        let chosen = self.run.chosen(&self.checkpoint)?;
        let source = Source::open(&chosen.run, chosen.which)?;
        terminal::warn(&source.warnings);
        terminal::note(&source.notes);
        let scheme = match self.scheme {
            SchemeArg::W8 => Quantization::W8,
            SchemeArg::W4 => Quantization::W4,
        };
        let options = Options { scheme, head: self.head, embeddings: self.embeddings, ..Options::default() };
        let data = source.data(None)?;
        let weights = source.round(&options, Some(&data), |_, _| ControlFlow::Continue(()))?.expect("never breaks");
        source.save(&source.rounded_config(&options)?, &weights, &self.out)?;
        if json {
            return terminal::print_json(&json!({"out": self.out.display().to_string()}));
        }
        Ok(terminal::print(&format!("{}\n", self.out.display()))?)
    }
}
