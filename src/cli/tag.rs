//! `kinglet tag`

use super::{run_arg, run_arg::RunArg, terminal};
use crate::{
    error::Error,
    run::{RunDir, change_tags, tags},
};
use serde_json::json;

/// Show, add or remove tags of a run; `kinglet list --tag` finds runs by them
#[derive(clap::Args)]
pub(super) struct Args {
    /// Run: its folder, or its name in runs/
    run: RunArg,
    /// Tags to add: words without commas
    #[arg(value_parser = run_arg::tag)]
    tag: Vec<String>,
    /// Remove these tags
    #[arg(long, requires = "tag")]
    remove: bool,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        let run = self.run.folder()?;
        RunDir::open(&run)?;
        let before = tags(&run);
        if self.remove
            && let Some(tag) = self.tag.iter().find(|tag| !before.contains(tag))
        {
            let has = if before.is_empty() { "no tags".to_owned() } else { before.join(", ") };
            return Err(Error::run(&run, format!("it has no tag {tag}; it has {has}")).into());
        }
        let (add, remove) = if self.remove { (&[][..], &self.tag[..]) } else { (&self.tag[..], &[][..]) };
        let now = change_tags(&run, add, remove)?;
        if json {
            return terminal::print_json(&json!({"run": run.display().to_string(), "tags": now}));
        }
        let now = if now.is_empty() { "no tags".to_owned() } else { now.join(", ") };
        Ok(terminal::print(&format!("{}: {now}\n", run.display()))?)
    }
}
