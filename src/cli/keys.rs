//! `kinglet keys`

use super::{help, terminal};
use crate::{
    config::{FIELDS, Field, PRESETS, key_like, unknown_key},
    error::Result,
};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// So many keys are shown in full; of more there is a list.
const IN_FULL: usize = 5;

/// Explain configuration keys: meaning, default, allowed values, presets that set them
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  kinglet keys
  kinglet keys activation
  kinglet keys optimizer
  kinglet keys lr")]
pub(super) struct Args {
    /// Keys, sections, or parts of names [default: all keys]
    #[arg(value_name = "KEY|SECTION|PART")]
    names: Vec<String>,
    /// Print all keys as a Markdown page
    #[arg(long, hide = true, conflicts_with = "names")]
    markdown: bool,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        if json {
            return described(&self.names)?.iter().try_for_each(terminal::print_json);
        }
        let fields = fields(&self.names)?;
        if self.markdown {
            return Ok(terminal::print_exact(&markdown()?)?);
        }
        if fields.len() <= IN_FULL {
            let texts = fields.iter().map(|field| in_full(field)).collect::<anyhow::Result<Vec<_>>>()?;
            return Ok(terminal::print_exact(&texts.join("\n"))?);
        }
        terminal::print_exact(&list(&fields))?;
        terminal::hints(&[
            ("one in full", format!("kinglet keys {}", fields[0].key)),
            ("set one", "kinglet train my.txt --set n_layer=6".to_owned()),
            ("all in a file", "kinglet init".to_owned()),
        ])?;
        Ok(())
    }
}

/// The keys that are asked for, or all, as JSON.
pub(super) fn described(names: &[String]) -> Result<Vec<Value>> {
    fields(names)?.into_iter().map(about).collect()
}

/// The keys that are asked for, each once, in their usual order.
fn fields(names: &[String]) -> Result<Vec<&'static Field>> {
    let mut wanted: Vec<&str> = Vec::new();
    for name in names {
        // A setting is taken for its key.
        let name = name.split_once('=').map_or(name.as_str(), |(key, _)| key).trim();
        let found = matching(name);
        if found.is_empty() {
            return Err(unknown_key(name));
        }
        wanted.extend(found);
    }
    Ok(FIELDS.iter().filter(|field| names.is_empty() || wanted.contains(&field.key)).collect())
}

/// The keys that a name means: one of this name; or else those of the section and those with this in their name, and
/// what other tools call so.
fn matching(name: &str) -> Vec<&'static str> {
    let wanted = name.replace('-', "_").to_lowercase();
    let keys = |is_meant: &dyn Fn(&Field) -> bool| -> Vec<&'static str> {
        FIELDS.iter().filter(|field| is_meant(field)).map(|field| field.key).collect()
    };
    let section = keys(&|field| field.section == wanted);
    let exact = keys(&|field| field.key == wanted);
    match (exact.is_empty(), section.is_empty()) {
        (false, true) => exact,
        // `data` and `optimizer` are both: the key is shown in full, the section is a heading of the whole list.
        (false, false) => exact,
        (true, false) => section,
        (true, true) if wanted.is_empty() => Vec::new(),
        (true, true) => keys(&|field| field.key.contains(&wanted) || Some(field.key) == key_like(name)),
    }
}

/// Each value that presets set to other than the default, with the presets.
fn presets(field: &Field) -> Result<Vec<(toml::Value, Vec<&'static str>)>> {
    let (default, mut found) = (field.default_value(), Vec::<(toml::Value, Vec<&str>)>::new());
    for preset in &PRESETS {
        let value = preset.config()?.value(field.key);
        match found.iter_mut().find(|(known, _)| *known == value) {
            _ if value == default => {}
            Some((_, names)) => names.push(preset.name),
            None => found.push((value, vec![preset.name])),
        }
    }
    Ok(found)
}

/// A key as JSON; `presets` has those that differ from the default.
fn about(field: &Field) -> Result<Value> {
    let mut of_presets = Map::new();
    for (value, names) in presets(field)? {
        let value = serde_json::to_value(value).expect("plain values");
        names.into_iter().for_each(|name| drop(of_presets.insert(name.to_owned(), value.clone())));
    }
    Ok(json!({
        "key": field.key,
        "section": field.section,
        "help": field.help,
        "default": field.default_value(),
        "allowed": field.allowed,
        "presets": of_presets,
    }))
}

/// A table of keys for each section.
fn list(fields: &[&Field]) -> String {
    let mut text = String::new();
    for section in fields.chunk_by(|a, b| a.section == b.section) {
        let lines: Vec<_> = section
            .iter()
            .map(|field| (field.key, format!("{} [default: {}]", field.help, field.default_value())))
            .collect();
        let _ =
            write!(text, "{}[{}]\n{}", if text.is_empty() { "" } else { "\n" }, section[0].section, rows(&lines, 30));
    }
    text
}

/// A key with all there is to say.
fn in_full(field: &Field) -> anyhow::Result<String> {
    let mut lines = vec![("section", field.section.to_owned()), ("default", field.default_value().to_string())];
    if field.is_settled_by_run() {
        lines.push(("written by", "the run itself, at its start".to_owned()));
    }
    lines.push(("allowed", field.allowed.to_owned()));
    for (value, names) in presets(field)? {
        lines.push(("presets", format!("{value} in {}", names.join(", "))));
    }
    let heading =
        help::rows(&[(field.key, field.help)], 0, width()).replace("\n        ", "\n").trim_start().to_owned();
    Ok(heading + &rows(&lines, 14))
}

fn rows(lines: &[(&str, String)], column: usize) -> String {
    help::rows(lines, column, width())
}

/// The width to wrap at; a file or a pipe gets whole lines.
fn width() -> usize {
    terminal::columns_out().map_or(usize::MAX, |width| width.max(20))
}

fn markdown() -> anyhow::Result<String> {
    let mut text = String::from(
        "# Configuration keys\n\nWritten by `kinglet keys --markdown`. `kinglet keys KEY` says the same of one key. A key is set with `--set KEY=VALUE`, or in a\n\
         file for `--config`; `kinglet init` writes one with all keys. [Presets](presets.md) lists the presets.\n",
    );
    let code = |text: &str| format!("`{}`", text.replace('|', "\\|"));
    for section in FIELDS.chunk_by(|a, b| a.section == b.section) {
        write!(
            text,
            "\n## {}\n| key | default | allowed | meaning | presets |\n|---|---|---|---|---|\n",
            section[0].section
        )?;
        for field in section {
            let presets = presets(field)?;
            let presets: Vec<_> = presets
                .iter()
                .map(|(value, names)| format!("{}: {}", code(&value.to_string()), names.join(", ")))
                .collect();
            let (key, default) = (code(field.key), code(&field.default_value().to_string()));
            writeln!(
                text,
                "| {key} | {default} | {} | {} | {} |",
                cell(field.allowed),
                cell(field.help),
                presets.join("; ")
            )?;
        }
    }
    Ok(text)
}

/// Text in a table of Markdown, where `|` and `*` mean something.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('*', "\\*").replace('<', "&lt;")
}
