//! Arguments shared by commands: model configuration, data, and number of threads.

use kinglet::{
    config::{Config, PRESETS},
    run::read_config,
};
use std::path::PathBuf;

/// What to train on what.
#[derive(clap::Args)]
pub(super) struct Choice {
    /// The text: files, folders, patterns, "-" for standard input, "tinyshakespeare" or another known name ["builtin" if
    /// nothing is named]; as text, .jsonl, .json or .csv, also .gz or .zst; or token ids, of kinglet data prepare,
    /// nanoGPT or llm.c
    data: Vec<String>,
    /// A configuration that comes with kinglet [default: big-0.2m]
    #[arg(long, value_name = "NAME", conflicts_with = "config", help = preset_help())]
    preset: Option<String>,
    /// A configuration of your own; kinglet info PRESET shows how one looks
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Override a configuration key; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    /// How text becomes tokens: char, byte, bpe:SIZE, or a tokenizer.json of Hugging Face's [default: char]
    #[arg(long, value_name = "KIND")]
    tokenizer: Option<String>,
    /// The field or column with the text, in JSON lines and CSV [default: text]
    #[arg(long, value_name = "NAME")]
    field: Option<String>,
    /// Leave out records that cannot be read, and count them; the same as --set skip_bad=true
    #[arg(long)]
    skip_bad: bool,
    /// Seed of every random number; the same as --set seed=N
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// How many threads work.
#[derive(clap::Args)]
pub(super) struct Threads {
    /// Threads to work with; results do not depend on it [default: one for each core]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u16).range(..=1024))]
    threads: u16,
}

impl Threads {
    /// The number of threads; 0 means one per core.
    pub(super) fn count(&self) -> usize {
        self.threads.into()
    }
}

impl Choice {
    /// The requested configuration, and its name.
    pub(super) fn config(&self) -> anyhow::Result<(Config, std::ffi::OsString)> {
        let (mut config, name) = match &self.config {
            Some(path) => (read_config(path)?, path.file_stem().unwrap_or_default().to_owned()),
            None => {
                let name = self.preset.as_deref().unwrap_or(PRESETS[0].0);
                (Config::preset(name)?, name.into())
            }
        };
        self.set.iter().try_for_each(|setting| config.set(setting))?;
        let tokenizer = self.tokenizer.as_ref().map(|kind| format!("tokenizer={kind:?}"));
        let seed = self.seed.map(|seed| format!("seed={seed}"));
        let field = self.field.as_ref().map(|field| format!("data_field={field:?}"));
        tokenizer.iter().chain(&seed).chain(&field).try_for_each(|setting| config.set(setting))?;
        config.skip_bad |= self.skip_bad;
        if !self.data.is_empty() {
            config.data.clone_from(&self.data);
        }
        if config.data.is_empty() {
            config.data = vec![kinglet::text::source::BUILTIN.to_owned()];
        }
        Ok((config, name))
    }
}

/// A duration from a command line.
pub(super) fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text} is not a number"))?;
    if (0.0..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("allowed are 0 to 3600 seconds".into()) }
}

/// Help for `--preset`, generated from the list of presets.
fn preset_help() -> String {
    let names: Vec<_> = PRESETS.iter().map(|(name, _)| *name).collect();
    format!("A configuration that comes with kinglet: {} [default: {}]", names.join(", "), names[0])
}
