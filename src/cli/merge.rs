//! `kinglet merge`

use super::{
    choice::Threads,
    run_arg::{CheckpointArg, RunArg},
    terminal,
};
use crate::{run::RunDir, train::finetune::merged};
use serde_json::json;
use std::path::PathBuf;

/// Merge the adapters of a run into its weights, in a new folder
#[derive(clap::Args)]
pub(super) struct Args {
    /// Run with adapters: its folder, or its name in runs/; RUN@STEP selects a checkpoint
    run: RunArg,
    /// New folder for the merged run
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    checkpoint: CheckpointArg,
    #[command(flatten)]
    threads: Threads,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        self.threads.run(|| self.merge(json))
    }

    fn merge(&self, json: bool) -> anyhow::Result<()> {
        let chosen = self.run.chosen(self.checkpoint.checkpoint)?;
        let has_adapters = RunDir::open(&chosen.run)?.config.lora_rank > 0;
        let mut run = merged(&chosen.run, chosen.which, &self.out)?;
        terminal::warn(&run.warnings);
        terminal::note(&run.notes);
        let step = run.state()?.step;
        let (from, out) = (chosen.run.display().to_string(), self.out.display().to_string());
        if json {
            return terminal::print_json(&json!({"run": from, "out": out, "step": step, "had_adapters": has_adapters}));
        }
        Ok(terminal::print(&match has_adapters {
            true => format!("The adapters of {from} (step {step}) are merged: {out}\n"),
            false => format!("{from} has no adapters to merge; its weights of step {step} are copied: {out}\n"),
        })?)
    }
}
