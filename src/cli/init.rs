//! `kinglet init`

use super::{choice::Choice, terminal};
use crate::{
    config::{Config, FIELDS, FORMAT_VERSION, Field},
    error::Error,
    text::source::BUILTIN,
};
use anyhow::Context;
use serde_json::json;
use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// Write a commented configuration file to edit, for --config
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  kinglet init
  kinglet init my.txt --preset kinglet-0.2m -o small.toml
  kinglet train my.txt --config small.toml")]
pub(super) struct Args {
    #[command(flatten)]
    choice: Choice,
    /// The file to write
    #[arg(short, long, value_name = "FILE", default_value = "kinglet.toml")]
    out: PathBuf,
    /// Overwrite a file that is there
    #[arg(long)]
    force: bool,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        if let Some(name) = self.choice.data.iter().find(|name| name.ends_with(".toml")) {
            let file = terminal::quoted(name);
            let what = format!("{name} is taken as text to train on; to write that file: kinglet init -o {file}");
            return Err(Error::BadConfig(what).into());
        }
        let (mut config, name) = self.choice.config()?;
        config.check()?;
        let mut set = match config.data_sha256.is_empty() {
            true => self.choice.keys_set(&name.to_string_lossy())?,
            false => forget_run(&mut config)?,
        };
        if self.choice.data.is_empty() && !set.contains("data") && config.data == [BUILTIN] {
            config.data.clear();
        }
        set.extend(
            FIELDS.iter().filter(|field| config.value(field.key) != field.default_value()).map(|f| f.key.into()),
        );
        let command = self.next(&config);
        let text = text(&config, &set, &name.to_string_lossy(), &command);
        self.write(&text)?;
        terminal::warn(&config.doubts());
        if json {
            return terminal::print_json(&json!({"out": self.out.display().to_string()}));
        }
        terminal::print(&format!("{}\n", self.out.display()))?;
        terminal::hints(&[("edit it, then", command), ("what keys mean", "kinglet keys".to_owned())])?;
        Ok(())
    }

    /// The command that trains with the file.
    fn next(&self, config: &Config) -> String {
        let data = if config.data.is_empty() { "my.txt " } else { "" };
        format!("kinglet train {data}--config {}", terminal::quoted(&self.out))
    }

    /// Writes the file. One that is there stays unless `--force` was given.
    fn write(&self, text: &str) -> anyhow::Result<()> {
        let path = &self.out;
        if path.is_dir() {
            return Err(Error::BadConfig(format!("{} is a folder: name a file", path.display())).into());
        }
        let failed = || format!("cannot write {}", path.display());
        if self.force {
            return fs::write(path, text).with_context(failed);
        }
        match File::create_new(path) {
            Ok(mut file) => file.write_all(text.as_bytes()).with_context(failed),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(there_is(path).into()),
            Err(error) => Err(error).with_context(failed),
        }
    }
}

/// Takes what a run settled for itself out of its configuration, so that another run can begin with the rest. A run's file
/// names all keys, so that none is set but for its value.
fn forget_run(config: &mut Config) -> anyhow::Result<BTreeSet<String>> {
    for field in FIELDS.iter().filter(|field| field.is_settled_by_run()) {
        config.set(&format!("{}={}", field.key, field.default_value()))?;
    }
    Ok(BTreeSet::new())
}

fn there_is(path: &Path) -> Error {
    let path = path.display();
    Error::BadConfig(format!("{path} is there already: --force overwrites it, -o names another file"))
}

/// A configuration with all keys. Those in `set` are set, the others are comments.
fn text(config: &Config, set: &BTreeSet<String>, name: &str, command: &str) -> String {
    // A line break in a name would end the comment.
    let [name, command] = [name, command].map(|text| text.replace(char::is_control, "?"));
    let mut text = format!(
        "# A configuration for kinglet, begun with {name}. Train with it:\n\
         #     {command}\n\
         # Lines such as #dropout = 0.0 show defaults. To change one, remove the # and edit the value.\n\
         format_version = {FORMAT_VERSION}\n"
    );
    let shown = |field: &&Field| !field.is_settled_by_run() || set.contains(field.key);
    let fields: Vec<_> = FIELDS.iter().filter(shown).collect();
    for section in fields.chunk_by(|a, b| a.section == b.section) {
        let _ = write!(text, "\n[{}]\n", section[0].section);
        for field in section {
            let off = if set.contains(field.key) { "" } else { "#" };
            let _ = writeln!(
                text,
                "# {}\n# Allowed: {}.\n{off}{} = {}\n",
                field.help,
                field.allowed,
                field.key,
                config.value(field.key)
            );
        }
    }
    text.trim_end().to_owned() + "\n"
}
