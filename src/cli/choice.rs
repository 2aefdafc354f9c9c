//! Arguments shared by commands: model configuration, data, and number of threads.

use kinglet::{
    config::{Config, FIELDS, PRESETS, TokenizerKind},
    error::Error,
    run::read_config,
    threads::whole,
};
use std::path::PathBuf;

/// What to train on what.
#[derive(clap::Args)]
pub(super) struct Choice {
    /// The text: files, folders, patterns, "-" for standard input, "tinyshakespeare" or another known name ["builtin" if
    /// nothing is named]; as text, .jsonl, .json or .csv, also .gz or .zst; or token ids, of kinglet data prepare,
    /// nanoGPT or llm.c
    pub(super) data: Vec<String>,
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
    #[arg(short, long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u16).range(..=1024))]
    threads: u16,
}

impl Threads {
    /// The number of threads; 0 means one per core.
    pub(super) fn count(&self) -> usize {
        self.threads.into()
    }

    /// Runs a command in a pool of that many threads. Without it, what is not training or measuring, such as reading
    /// text, would be divided among threads for all cores.
    pub(super) fn run<R: Send>(&self, command: impl FnOnce() -> anyhow::Result<R> + Send) -> anyhow::Result<R> {
        whole(self.count(), command)?
    }
}

impl Choice {
    /// The requested configuration, and its name.
    pub(super) fn config(&self) -> anyhow::Result<(Config, std::ffi::OsString)> {
        let (mut config, name) = match &self.config {
            Some(path) => (read_config(path)?, path.file_stem().unwrap_or_default().to_owned()),
            None => {
                let default = || super::chats::default_preset(&self.data, &self.set, self.field.as_deref());
                let name = self.preset.as_deref().unwrap_or_else(default);
                (Config::preset(name)?, name.into())
            }
        };
        self.set.iter().try_for_each(|setting| config.set(setting))?;
        let tokenizer = self.tokenizer.clone().map(tokenizer_kind).transpose()?;
        assign(&mut config, |config| {
            tokenizer.iter().for_each(|kind| config.tokenizer.clone_from(kind));
            self.field.iter().for_each(|field| config.data_field.clone_from(field));
            config.skip_bad |= self.skip_bad;
            config.seed = self.seed.unwrap_or(config.seed);
        })?;
        if !self.data.is_empty() {
            config.data.clone_from(&self.data);
        }
        if config.data.is_empty() {
            config.data = vec![kinglet::text::source::BUILTIN.to_owned()];
        }
        Ok((config, name))
    }
}

/// Changes keys of a configuration, whose values are checked alone: what they mean together with others is checked when
/// all are there.
fn assign(config: &mut Config, change: impl Fn(&mut Config)) -> anyhow::Result<()> {
    let mut alone = Config::default();
    change(&mut alone);
    alone.check()?;
    change(config);
    Ok(())
}

/// The tokenizer of this name.
fn tokenizer_kind(name: String) -> Result<TokenizerKind, Error> {
    let field = FIELDS.iter().find(|field| field.key == "tokenizer").expect("a key");
    let refused = Error::Config {
        key: field.key.into(),
        value: toml::Value::from(name.as_str()).to_string(),
        allowed: field.allowed.into(),
    };
    TokenizerKind::try_from(name).map_err(|_| refused)
}

/// A duration from a command line.
pub(super) fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text} is not a number"))?;
    if (0.0..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("allowed are 0 to 3600 seconds".into()) }
}

/// Help for `--preset`, generated from the list of presets.
fn preset_help() -> String {
    let names: Vec<_> = PRESETS.iter().map(|(name, _)| *name).collect();
    format!(
        "A configuration that comes with kinglet: {} [default: {}, or chat for conversations]",
        names.join(", "),
        names[0]
    )
}
