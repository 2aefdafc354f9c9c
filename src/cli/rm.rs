//! `kinglet rm`

use super::{
    confirm::{ask, bytes},
    run_arg::RunArg,
    terminal,
};
use crate::{
    error::Error,
    run::{Condition, Kind, Removal, Summary},
};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Remove runs and tunings. Other files in their folders are kept
#[derive(clap::Args)]
pub(super) struct Args {
    /// Runs or tunings: folders, or names in runs/
    #[arg(required = true)]
    run: Vec<RunArg>,
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        // All are looked at before the first is removed.
        let mut wholes: Vec<PathBuf> = Vec::new();
        let mut all = Vec::new();
        for run in &self.run {
            let path = run.whole_folder()?;
            let whole = path.canonicalize().unwrap_or_else(|_| path.clone());
            if !wholes.contains(&whole) {
                let about = about(&path);
                all.push((Removal::of(&path)?, about));
                wholes.push(whole);
            }
        }
        // The trials of a tuning that is named go with it.
        let inside: Vec<bool> =
            wholes.iter().map(|path| wholes.iter().any(|other| other != path && path.starts_with(other))).collect();
        let mut inside = inside.into_iter();
        all.retain(|_| !inside.next().unwrap_or(false));
        let freed: u64 = all.iter().map(|(removal, _)| removal.bytes).sum();
        if !self.yes {
            for (removal, about) in &all {
                terminal::tell(&format!("{:>8}  {} ({about})", bytes(removal.bytes), removal.path.display()));
            }
            let tunings = all.iter().filter(|(removal, _)| removal.tuning).count();
            let counts = [(all.len() - tunings, "run"), (tunings, "tuning")].into_iter().filter(|(n, _)| *n > 0);
            let what = counts.map(|(n, what)| terminal::count(n as u64, what)).collect::<Vec<_>>().join(" and ");
            match ask(&format!("Remove {what} ({})?", bytes(freed)))? {
                Some(true) => {}
                Some(false) => {
                    terminal::tell("nothing was removed");
                    return Ok(());
                }
                None => {
                    let what = "nothing was removed: confirmation needs a terminal; --yes removes without asking";
                    return Err(Error::Data(what.to_owned()).into());
                }
            }
        }
        for (removal, _) in all {
            let (path, bytes_freed) = (removal.path.clone(), removal.bytes);
            let foreign = removal.remove()?;
            let foreign: Vec<String> = foreign.iter().map(|path| path.display().to_string()).collect();
            if json {
                terminal::print_json(&json!({
                    "run": path.display().to_string(),
                    "freed_bytes": bytes_freed,
                    "stays": foreign,
                }))?;
                continue;
            }
            let stays = match foreign.len() {
                0 => String::new(),
                _ => format!("; other files there were kept: {}", foreign.join(", ")),
            };
            terminal::print(&format!("removed {} ({}){stays}\n", path.display(), bytes(bytes_freed)))?;
        }
        Ok(())
    }
}

/// What is said of a run before it is removed.
fn about(path: &Path) -> String {
    let Summary { state, step, .. } = Summary::of(path);
    match (Kind::of(path), state) {
        (Some(Kind::Tuning), _) => "a tuning".to_owned(),
        (_, Condition::Damaged | Condition::NotBegun) => state.to_string(),
        _ => format!("{state}, step {}", step.unwrap_or(0)),
    }
}
