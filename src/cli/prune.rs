//! `kinglet prune`

use super::{
    confirm::{ask, bytes},
    run_arg, terminal,
};
use crate::{
    error::Error,
    run::{Cleanup, HOME, Item, Kind, What, abandoned, all_runs, remove_abandoned},
};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Free disk space: remove checkpoints that are neither best nor last
#[derive(clap::Args)]
pub(super) struct Args {
    /// Runs, or folders of runs [default: runs/]
    path: Vec<PathBuf>,
    /// Also remove the optimizer state of complete runs, about two thirds of their size. They can still be used and
    /// fine-tuned, but not resumed
    #[arg(long)]
    optimizer: bool,
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
}

/// What may go.
#[derive(Default)]
struct Found {
    runs: Vec<Cleanup>,
    /// What stands beside runs.
    beside: Vec<Item>,
    notes: Vec<String>,
    /// The runs and folders that were looked at: some may be named twice.
    seen: Vec<PathBuf>,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        let found = self.found()?;
        terminal::note(&found.notes);
        let items: Vec<&Item> = found.runs.iter().flat_map(|run| &run.items).chain(&found.beside).collect();
        let total: u64 = items.iter().map(|item| item.size_bytes).sum();
        let optimizer: u64 = found.runs.iter().map(|run| run.optimizer_bytes).sum();
        let agreed = if items.is_empty() || self.yes {
            Some(!items.is_empty())
        } else if json {
            None
        } else {
            terminal::print(&table(&items, total))?;
            ask("Remove all of this?")?
        };
        let report = json!({
            "items": items,
            "total_bytes": total,
            "optimizer_bytes": optimizer,
            "removed": agreed == Some(true),
        });
        let (n, shown) = (items.len(), table(&items, total));
        if agreed == Some(true) {
            let Found { runs, beside, .. } = found;
            runs.into_iter().try_for_each(Cleanup::remove)?;
            remove_abandoned(&beside)?;
        }
        if json {
            return terminal::print_json(&report);
        }
        let more = match optimizer {
            0 => String::new(),
            more => format!("the optimizer state of complete runs takes {}: --optimizer removes it too\n", bytes(more)),
        };
        let text = match agreed {
            Some(true) if self.yes => format!("{shown}removed\n"),
            Some(true) => "removed\n".to_owned(),
            _ if n == 0 => "there is nothing to remove\n".to_owned(),
            Some(false) => "nothing was removed\n".to_owned(),
            None => "nothing was removed: confirmation needs a terminal; --yes removes without asking\n".to_owned(),
        };
        Ok(terminal::print(&(text + &more))?)
    }

    fn found(&self) -> anyhow::Result<Found> {
        let mut found = Found::default();
        let home = Path::new(HOME);
        if self.path.is_empty() && home.is_dir() {
            found.look(home, self.optimizer)?;
        }
        for path in &self.path {
            let path = run_arg::folder(path)?;
            if Kind::of(&path).is_none() && all_runs(&path).is_empty() && abandoned(&path).is_empty() {
                return Err(Error::run(&path, "neither a run nor a folder of runs").into());
            }
            found.look(&path, self.optimizer)?;
        }
        Ok(found)
    }
}

impl Found {
    fn is_new(&mut self, path: &Path) -> bool {
        let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let is_new = !self.seen.contains(&whole);
        self.seen.push(whole);
        is_new
    }

    fn look(&mut self, path: &Path, optimizer: bool) -> anyhow::Result<()> {
        let runs = match Kind::of(path) {
            Some(Kind::Run) => vec![path.to_owned()],
            Some(Kind::Checkpoint { .. }) => {
                return Err(Error::run(path, "this is a checkpoint: name its run").into());
            }
            _ => {
                if self.is_new(path) {
                    self.beside.extend(abandoned(path));
                }
                all_runs(path)
            }
        };
        for run in runs {
            if !self.is_new(&run) {
                continue;
            }
            match Cleanup::of(&run, optimizer) {
                Ok(cleanup) => {
                    self.notes.extend(cleanup.notes.iter().map(|note| format!("{}: {note}", run.display())));
                    self.runs.push(cleanup);
                }
                // What is being trained, or damaged, stays as it is.
                Err(error) => self.notes.push(format!("left alone: {}", error.one_line())),
            }
        }
        Ok(())
    }
}

/// What may go, and how much that frees.
fn table(items: &[&Item], total: u64) -> String {
    let line = |size: u64, what: &str| format!("{:>8}  {what}\n", bytes(size));
    let mut text = String::new();
    for (kind, head) in [
        (What::Checkpoint, "Checkpoints that are neither the best nor the last:"),
        (What::Leftover, "Leftovers of interrupted commands:"),
        (What::Optimizer, "Optimizer state of complete runs:"),
    ] {
        let of_kind: Vec<_> = items.iter().filter(|item| item.what == kind).collect();
        if !of_kind.is_empty() {
            text += &format!("{head}\n");
            text.extend(of_kind.iter().map(|item| line(item.size_bytes, &item.path.display().to_string())));
        }
    }
    text + &line(total, "in all")
}
