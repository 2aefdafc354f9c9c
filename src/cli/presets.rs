//! `kinglet presets`

use super::{
    choice::PresetName,
    info::assumed_vocab,
    table::{columns, row},
    terminal,
};
use crate::{
    config::{Config, PRESETS, Preset},
    error::Result,
    params::Layout,
};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// List the presets, or print one as a file for --config
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  kinglet presets
  kinglet presets kinglet-0.2m > mine.toml
  kinglet train my.txt --config mine.toml")]
pub(super) struct Args {
    /// Print this preset's text
    #[arg(value_parser = PresetName, hide_possible_values = true)]
    name: Option<String>,
    /// Print the list as a Markdown page
    #[arg(long, hide = true, conflicts_with = "name")]
    markdown: bool,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        if let Some(name) = &self.name {
            return one(name, json);
        }
        if json {
            return all()?.iter().try_for_each(terminal::print_json);
        }
        if self.markdown {
            return Ok(terminal::print_exact(&markdown()?)?);
        }
        terminal::print(&text()?)?;
        terminal::hints(&[
            ("more about one", "kinglet info kinglet-0.2m".to_owned()),
            ("train it", "kinglet train my.txt --preset kinglet-0.2m".to_owned()),
            ("a file of your own", "kinglet init --preset kinglet-0.2m".to_owned()),
        ])?;
        Ok(())
    }
}

fn one(name: &str, json: bool) -> anyhow::Result<()> {
    let Some(preset) = PRESETS.iter().find(|preset| preset.name == name) else {
        return Err(Config::preset(name).expect_err("no such preset").into());
    };
    if json {
        let mut about = about(preset)?;
        about["toml"] = json!(preset.toml);
        return terminal::print_json(&about);
    }
    Ok(terminal::print_exact(preset.toml)?)
}

/// The number of parameters, with the vocabulary of Tiny Shakespeare's characters where the data decides.
fn params(preset: &Preset) -> Result<usize> {
    let mut config = preset.config()?;
    if config.vocab_size == 0 {
        config.vocab_size = assumed_vocab(&config);
    }
    Ok(Layout::new(&config)?.len())
}

/// All presets in short, as JSON.
pub(super) fn all() -> Result<Vec<Value>> {
    PRESETS.iter().map(about).collect()
}

/// A preset in short, as JSON.
fn about(preset: &Preset) -> Result<Value> {
    let config = preset.config()?;
    Ok(json!({
        "preset": preset.name,
        "about": preset.about,
        "params": params(preset)?,
        "block_size": config.block_size,
        "max_iters": config.max_iters,
        "val_loss": preset.val_loss,
    }))
}

/// The cells of a preset: name, parameters, block size, updates, loss.
fn cells(preset: &Preset) -> anyhow::Result<Vec<String>> {
    let config = preset.config()?;
    let params = format!("{:.2} M", params(preset)? as f64 / 1e6);
    let loss = preset.val_loss.map_or_else(|| "-".to_owned(), |loss| format!("{loss:.3}"));
    Ok(row![preset.name, params, config.block_size, config.max_iters, loss])
}

/// What the columns are.
const LEGEND: &str = "params: with the 65 characters of Tiny Shakespeare, where the data decides. val loss: of Tiny Shakespeare, in nats per \
                      token, after the last step. llama-tiny's tokens are of BPE: two to three characters each.";

fn text() -> anyhow::Result<String> {
    let mut rows = vec![row!["preset", "params", "block_size", "steps", "val loss"]];
    for preset in &PRESETS {
        rows.push(cells(preset)?);
    }
    let mut text = columns(&rows) + "\n";
    let width = PRESETS.iter().map(|preset| preset.name.len()).max().unwrap_or(0) + 3;
    for preset in &PRESETS {
        writeln!(text, "{:<width$}{}", preset.name, preset.about)?;
    }
    Ok(text + "\n" + LEGEND + "\n")
}

fn markdown() -> anyhow::Result<String> {
    let mut text = String::from(
        "# Presets\n\nWritten by `kinglet presets --markdown`. `kinglet presets NAME` prints one as a file for `--config`, `kinglet info NAME`\n\
         its parameters and memory. [Keys](keys.md) says what each setting means, and which preset sets it.\n\n\
         | preset | parameters | block size | steps | validation loss | for |\n|---|---|---|---|---|---|\n",
    );
    for preset in &PRESETS {
        let mut cells = cells(preset)?;
        cells[0] = format!("`{}`", cells[0]);
        writeln!(text, "| {} | {} |", cells.join(" | "), preset.about)?;
    }
    Ok(text
        + "\nParameters are with the 65 characters of Tiny Shakespeare, where the data decides. Losses are of Tiny Shakespeare, in nats per\n\
           token, estimated after the last step, means over three seeds: [results](../RESULTS.md), [recipes](../RECIPES.md). The tokens of\n\
           `llama-tiny` are of BPE, two to three characters each, so its loss is no character's.\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_as_known() {
        for (name, want) in [("big-0.2m", 209_729), ("big-2.7m", 2_697_281), ("gpt2", 124_439_808)] {
            let preset = PRESETS.iter().find(|preset| preset.name == name).unwrap();
            assert_eq!(params(preset).unwrap(), want, "{name}");
        }
    }
}
