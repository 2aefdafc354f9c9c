//! The configurations compiled into the program.

use super::fields::Config;
use crate::error::{Error, Result};

/// Vocabulary size of Tiny Shakespeare, for which the sizes and losses of presets are.
pub const SHAKESPEARE_VOCAB: usize = 65;

/// A configuration compiled into the program.
#[derive(Debug)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// Its text, a commented configuration file.
    pub toml: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// The validation loss that it reaches on Tiny Shakespeare in nats per token, estimated after the last step, as a mean
    /// over seeds. A test compares it with docs/RESULTS.md and docs/RECIPES.md.
    pub val_loss: Option<f64>,
}

macro_rules! preset {
    ($name:literal, $val_loss:expr, $about:literal) => {
        Preset {
            name: $name,
            toml: include_str!(concat!("../../presets/", $name, ".toml")),
            about: $about,
            val_loss: $val_loss,
        }
    };
}

/// All presets.
pub const PRESETS: [Preset; 17] = [
    preset!("big-0.2m", Some(1.8298), "The lecture's small model, as published"),
    preset!("big-2.7m", Some(1.7141), "The lecture's large model, as published"),
    preset!("big-0.2m-tuned", Some(1.6461), "The small model with a recipe that learns more from the same tokens"),
    preset!("big-2.7m-tuned", Some(1.5481), "The large model with that recipe"),
    preset!("kinglet-0.2m", Some(1.6196), "The best small model: that recipe, rotary positions and SwiGLU"),
    preset!("kinglet-2.7m", Some(1.5350), "The best large model: the same"),
    preset!("llama-tiny", Some(3.2972), "A Llama that transformers, llama.cpp and Ollama take as it is"),
    preset!("chat", None, "Conversations of several messages"),
    preset!("shakespeare-char", None, "nanoGPT's character model; hours on a CPU"),
    preset!("shakespeare-cpu", None, "nanoGPT's recipe for a laptop"),
    preset!("gpt2", None, "GPT-2's shape with nanoGPT's schedule; for short runs and to look at"),
    preset!("speedrun-1.7088", None, "`kinglet speedrun`: a loss of 1.7088 in the fewest seconds"),
    preset!("speedrun-1.5611", None, "`kinglet speedrun`: a loss of 1.5611 in the fewest seconds"),
    preset!("speedrun-1.4697", None, "`kinglet speedrun`: a loss of 1.4697 in the fewest seconds"),
    preset!("speedrun-10s", None, "`kinglet speedrun`: the lowest loss in 10 s on two cores"),
    preset!("speedrun-60s", None, "`kinglet speedrun`: the lowest loss in 60 s on two cores"),
    preset!("speedrun-300s", None, "`kinglet speedrun`: the lowest loss in 300 s on two cores"),
];

impl Preset {
    /// Its configuration.
    ///
    /// # Errors
    /// Never, as the tests show.
    pub fn config(&self) -> Result<Config> {
        Config::from_toml(self.toml)
    }
}

impl Config {
    /// A compiled-in configuration by name.
    ///
    /// # Errors
    /// If there is no preset of that name; the message names the one that is probably meant, or all.
    pub fn preset(name: &str) -> Result<Config> {
        match PRESETS.iter().find(|preset| preset.name == name) {
            Some(preset) => preset.config(),
            None => Err(unknown_preset(name)),
        }
    }
}

/// The preset that a name is probably meant to be.
pub fn preset_like(name: &str) -> Option<&'static str> {
    let plain = |name: &str| name.to_lowercase().replace(['-', '_', ' '], "");
    let wanted = plain(name.strip_suffix(".toml").unwrap_or(name));
    let distance = |preset: &Preset| strsim::damerau_levenshtein(&wanted, &plain(preset.name));
    // Names are short: what differs in more than a third is another one. The size alone is enough, too.
    let nearest = PRESETS
        .iter()
        .min_by_key(|preset| distance(preset))
        .filter(|preset| 3 * distance(preset) <= plain(preset.name).len().min(wanted.len()));
    let begins = || PRESETS.iter().find(|preset| wanted.len() >= 3 && plain(preset.name).starts_with(&wanted));
    nearest.or_else(begins).map(|preset| preset.name)
}

fn unknown_preset(name: &str) -> Error {
    let hint = match preset_like(name) {
        Some(preset) => format!("did you mean {preset}?"),
        None => format!("there are {}", PRESETS.iter().map(|preset| preset.name).collect::<Vec<_>>().join(", ")),
    };
    Error::BadConfig(format!("there is no preset {name:?}; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_parses_and_comments_every_key() {
        for Preset { name, toml, .. } in PRESETS {
            Config::preset(name).unwrap();
            let mut comment = false;
            for line in toml.lines() {
                if line.contains('=') && !line.starts_with('#') {
                    assert!(comment || line.contains(" #"), "{name}: no comment for {line}");
                }
                comment = line.starts_with('#');
            }
        }
    }

    #[test]
    fn a_misspelt_preset_gets_its_neighbour() {
        for (typed, meant) in [
            ("big-0.2", "big-0.2m"),
            ("Big-0.2m", "big-0.2m"),
            ("big_2.7m", "big-2.7m"),
            ("gpt-2", "gpt2"),
            ("GPT2", "gpt2"),
            ("kinglet", "kinglet-0.2m"),
            ("kinglet-2.7", "kinglet-2.7m"),
            ("shakespeare_char", "shakespeare-char"),
            ("shakespear-cpu", "shakespeare-cpu"),
            ("chats", "chat"),
            ("big-2.7m-tune", "big-2.7m-tuned"),
            ("gpt2.toml", "gpt2"),
            ("llama", "llama-tiny"),
            ("llama_tiny", "llama-tiny"),
            ("speedrun-10", "speedrun-10s"),
            ("speedrun_1.7088", "speedrun-1.7088"),
        ] {
            let error = Config::preset(typed).unwrap_err().to_string();
            assert_eq!(error, format!("there is no preset {typed:?}; did you mean {meant}?"));
        }
        for typed in ["nope", "mistral", "", "x"] {
            let error = Config::preset(typed).unwrap_err().to_string();
            assert!(error.contains("there are big-0.2m, big-2.7m,"), "{error}");
        }
    }
}
