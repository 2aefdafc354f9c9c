//! `kinglet merge`

use super::eval::CheckpointArg;
use super::terminal;
use kinglet::train::finetune::merged;
use serde_json::json;
use std::path::PathBuf;

/// Write a run with its adapters merged into the weights, to a new folder
#[derive(clap::Args)]
pub(super) struct Args {
    /// The folder of a run with adapters
    run: PathBuf,
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Which checkpoint
    #[arg(long, value_enum, default_value_t = CheckpointArg::Best)]
    checkpoint: CheckpointArg,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        let run = merged(&self.run, self.checkpoint.into(), &self.out)?;
        terminal::warn(&run.warnings);
        let (from, out) = (self.run.display().to_string(), self.out.display().to_string());
        if json {
            return terminal::print_json(&json!({"run": from, "out": out}));
        }
        Ok(terminal::print(&format!("{from}, without adapters, is in {out}\n"))?)
    }
}
