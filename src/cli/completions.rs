//! `kinglet completions` and `kinglet man`

use super::{help, terminal};
use anyhow::Context;
use clap_complete::Shell;
use std::path::PathBuf;

/// Print shell completions
#[derive(clap::Args)]
#[command(after_help = "\
Where shells look for them:
  kinglet completions bash > ~/.local/share/bash-completion/completions/kinglet
  kinglet completions zsh > ~/.zfunc/_kinglet         # with ~/.zfunc in fpath
  kinglet completions fish > ~/.config/fish/completions/kinglet.fish
  kinglet completions powershell >> $PROFILE")]
pub(super) struct Completions {
    /// Shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self, mut definition: clap::Command) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut definition, "kinglet", &mut script);
        Ok(terminal::print_exact(&String::from_utf8(script)?)?)
    }
}

/// Print the manual page, or write one per command to a folder
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  kinglet man | man -l -
  kinglet man ~/.local/share/man/man1")]
pub(super) struct Man {
    /// Folder for kinglet.1, kinglet-train.1, ...
    dir: Option<PathBuf>,
    /// Print the help of all commands as one Markdown page
    #[arg(long, hide = true, conflicts_with = "dir")]
    markdown: bool,
}

impl Man {
    pub(super) fn run(&self, definition: clap::Command) -> anyhow::Result<()> {
        if self.markdown {
            return Ok(terminal::print_exact(&help::markdown(&definition))?);
        }
        let definition = definition.after_help(help::ending(72));
        if let Some(dir) = &self.dir {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
            let write = clap_mangen::generate_to(without_help(definition), dir);
            return write.with_context(|| format!("cannot write into {}", dir.display()));
        }
        let mut page = Vec::new();
        clap_mangen::Man::new(definition).render(&mut page)?;
        Ok(terminal::print_exact(&String::from_utf8(page)?)?)
    }
}

/// Hides the commands `help`: their pages would repeat the others.
fn without_help(command: clap::Command) -> clap::Command {
    let is_help = command.get_name() == "help";
    command.hide(is_help).mut_subcommands(without_help)
}
