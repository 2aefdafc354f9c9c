//! Arguments shared by commands: model configuration, data, and number of threads.

use super::{
    asked::{Answer, Asked},
    terminal,
};
use crate::{
    config::{Config, FIELDS, PRESETS, Quantization, TokenizerKind, key_like},
    data::Origin,
    error::Error,
    system::shell,
    threads::whole,
};
use anyhow::Context;
use clap::{
    Arg, Command,
    builder::{PossibleValue, StringValueParser, TypedValueParser},
};
use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

/// The heading of what says what is trained on what.
const MODEL: &str = "Model and data";

/// What to train on what.
#[derive(clap::Args)]
pub(super) struct Choice {
    /// Text: files, folders, patterns, "-" for standard input, or "tinyshakespeare" [default: a built-in text].
    /// Formats: plain text, .jsonl, .json, .csv, .tsv, each also as .gz or .zst; token ids from `kinglet data prepare`,
    /// nanoGPT or llm.c
    pub(super) data: Vec<String>,
    /// Start from this preset; `kinglet presets` lists them [default: big-0.2m, or chat for
    /// conversations]
    #[arg(help_heading = MODEL, long, value_name = "NAME", conflicts_with = "config", value_parser = PresetName, hide_possible_values = true)]
    preset: Option<String>,
    /// Start from a configuration file; `kinglet init` writes one
    #[arg(help_heading = MODEL, long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Set a configuration key; `kinglet keys` lists them; may be repeated
    #[arg(help_heading = MODEL, long, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    /// Tokenizer: char, byte, bpe:SIZE, or a tokenizer.json from Hugging Face [default: char]
    #[arg(help_heading = MODEL, long, value_name = "KIND")]
    tokenizer: Option<String>,
    /// Field (JSON lines) or column (CSV) that contains the text [default: text]
    #[arg(help_heading = MODEL, long, value_name = "NAME")]
    field: Option<String>,
    /// Skip and count records that cannot be read
    #[arg(help_heading = MODEL, long)]
    skip_bad: bool,
    /// Seed of all random numbers [default: 1337]
    #[arg(help_heading = MODEL, long, value_name = "N")]
    seed: Option<u64>,
}

/// What weights are rounded to.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum Scheme {
    /// Eight bits, and a scale for each row
    // What it was called in exports before.
    #[value(alias = "int8")]
    W8,
    /// Four bits, and a scale for each 32 weights of a row
    W4,
}

impl From<Scheme> for Quantization {
    fn from(scheme: Scheme) -> Quantization {
        match scheme {
            Scheme::W8 => Quantization::W8,
            Scheme::W4 => Quantization::W4,
        }
    }
}

/// How many threads work.
#[derive(clap::Args)]
pub(super) struct Threads {
    /// Number of threads; results do not depend on it [default: one per core]
    #[arg(short, long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u16).range(..=1024))]
    threads: u16,
}

/// Takes any name, and tells shells those of the presets. Whoever looks the preset up says what is wrong with a name.
#[derive(Clone)]
pub(super) struct PresetName;

impl TypedValueParser for PresetName {
    type Value = String;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(PRESETS.iter().map(|preset| PossibleValue::new(preset.name))))
    }
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
        self.data.iter().try_for_each(|name| no_setting(name))?;
        // Text of any kind may be trained on, but this is rarely meant.
        let files = self.data.iter().filter(|name| name.ends_with(".toml") && Path::new(name).is_file());
        terminal::note(&files.map(|name| as_configuration(name)).collect::<Vec<_>>());
        let Answer { mut config, name, notes } = self.asked().config_with(self.field.as_deref())?;
        terminal::note(&notes);
        let tokenizer = self.tokenizer.clone().map(tokenizer_kind).transpose()?;
        assign(&mut config, |config| {
            tokenizer.iter().for_each(|kind| config.tokenizer.clone_from(kind));
            self.field.iter().for_each(|field| config.data_field.clone_from(field));
            config.skip_bad |= self.skip_bad;
            config.seed = self.seed.unwrap_or(config.seed);
        })?;
        Ok((config, name))
    }
}

impl Choice {
    /// What the configuration comes from: a `preset` or a `config` file.
    pub(super) fn kind(&self) -> &'static str {
        if self.config.is_some() { "config" } else { "preset" }
    }

    /// What is asked for, without what has options of its own.
    fn asked(&self) -> Asked {
        let Choice { data, preset, config, set, .. } = self;
        let (data, preset, config, set) = (data.clone(), preset.clone(), config.clone(), set.clone());
        Asked { data, origin: Origin::Named, preset, config, set }
    }

    /// The keys that the preset or file and `--set` name, whether or not they differ from the defaults.
    pub(super) fn keys_set(&self, preset: &str) -> anyhow::Result<BTreeSet<String>> {
        let text = match &self.config {
            Some(path) => fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
            None => PRESETS.iter().find(|known| known.name == preset).map_or("", |preset| preset.toml).to_owned(),
        };
        let of_set = self.set.iter().filter_map(|setting| setting.split_once('='));
        let mut keys: BTreeSet<String> = Config::keys_in(&text)?.into_iter().collect();
        keys.extend(of_set.map(|(key, _)| key.trim().to_owned()));
        Ok(keys)
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
    if (0.0..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("must be 0 to 3600 seconds".into()) }
}

/// A number of things from a command line.
pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=4096) => Ok(n),
        _ => Err("must be a whole number from 1 to 4096".into()),
    }
}

/// A note on a text that is probably a configuration.
fn as_configuration(name: &str) -> String {
    format!("{name} is read as text to train on; to use it as the configuration: --config {}", shell::quoted(name))
}

/// Refuses `KEY=VALUE` as the name of a text, where there is no file of that name.
fn no_setting(name: &str) -> Result<(), Error> {
    let Some((key, value)) = name.split_once('=').filter(|_| !Path::new(name).exists()) else { return Ok(()) };
    key_like(key).map_or(Ok(()), |key| {
        let setting = shell::quoted(&format!("{key}={value}"));
        Err(Error::BadConfig(format!("there is no file {name}; to set a configuration key, use --set {setting}")))
    })
}
