//! `kinglet sample`

use super::eval::CheckpointArg;
use super::terminal;
use kinglet::{backend::Cpu, config::Config, inference::Model, sample::Sampling, text::source};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Write text with a trained model
#[derive(clap::Args)]
#[command(allow_negative_numbers = true)]
pub(super) struct Args {
    /// The run's folder
    run: PathBuf,
    /// What the text begins with; without one it begins as a text does, or after token 0, as published
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// A file with what the text begins with
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompt_file: Option<PathBuf>,
    /// Tokens to write
    #[arg(long, value_name = "N", default_value_t = 500)]
    tokens: usize,
    /// Texts to write
    #[arg(long, value_name = "N", default_value_t = 1)]
    num: u64,
    #[command(flatten)]
    draw: Draw,
    /// End where this text would come; may be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Which checkpoint
    #[arg(long, value_enum, default_value_t = CheckpointArg::Best)]
    checkpoint: CheckpointArg,
    /// Use the adapters of another run's folder on this run's weights, or "none" of its own
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
}

/// How the next token is drawn: first the repetition penalty, then temperature, top-k, top-p and min-p, in this order; each
/// sees what the one before left.
#[derive(clap::Args)]
pub(super) struct Draw {
    /// Below 1 more predictable, above 1 more varied: logits are divided by it; 0 takes the most probable token always
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = number::<0, 1000>)]
    temperature: f64,
    /// Then choose among the K most probable tokens only, and those equal to the last of them; 0 is all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Then among the most probable of these that together have this share of their probability
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = number::<0, 1>)]
    top_p: f64,
    /// Then among those at least this fraction as probable as the most probable one
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = number::<0, 1>)]
    min_p: f64,
    /// Above 1, tokens in the context become less probable
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = number::<0, 1000>)]
    repetition_penalty: f64,
    /// The same seed writes the same text
    #[arg(long, value_name = "N", default_value_t = 1337)]
    seed: u64,
}

impl Draw {
    pub(super) fn sampling(&self) -> Sampling {
        let mut sampling = Sampling::default();
        sampling.temperature = self.temperature;
        (sampling.top_k, sampling.top_p, sampling.min_p) = (self.top_k, self.top_p, self.min_p);
        // Dividing by zero would make every seen token certain, which is never intended.
        sampling.repetition_penalty = self.repetition_penalty.max(1e-3);
        sampling.seed = self.seed;
        sampling
    }
}

/// Whether a run learned from conversations, where that is known.
pub(super) fn is_chat(config: &Config) -> Option<bool> {
    match &*config.data_kind {
        "conversations" => Some(true),
        "text" => Some(false),
        _ => None,
    }
}

/// What to say where a run is asked for something else than it learned.
pub(super) fn note(is_chat: Option<bool>, asked_to_chat: bool, run: &Path) -> Option<String> {
    let run = terminal::quoted(run);
    match (is_chat, asked_to_chat) {
        (Some(true), false) => Some(format!(
            "note: this model was trained on conversations; kinglet chat {run} talks to it; this text goes on from the \
             prompt as it is"
        )),
        (Some(false), true) => Some(format!(
            "note: this model was trained on text, not on conversations: it never learned to answer; kinglet sample {run} \
             goes on with a text"
        )),
        _ => None,
    }
}

fn number<const LOW: u32, const HIGH: u32>(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    let range = f64::from(LOW)..=f64::from(HIGH);
    if range.contains(&number) { Ok(number) } else { Err(format!("must be {LOW} to {HIGH}")) }
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        let prompt = match (&self.prompt, &self.prompt_file) {
            (Some(prompt), _) => prompt.clone(),
            (None, Some(path)) => {
                let (prompt, notes) = source::text_of_file(path)?;
                terminal::note(&notes);
                prompt
            }
            (None, None) => String::new(),
        };
        let which = self.checkpoint.into();
        let be = Cpu::new()?;
        let model = match &self.adapter {
            None => Model::load(be, &self.run, which)?,
            Some(none) if none.as_os_str() == "none" => Model::load_without_adapters(be, &self.run, which)?,
            Some(adapter) => Model::load_with_adapters_of(be, &self.run, adapter, which)?,
        };
        terminal::warn(model.warnings());
        terminal::note_precision(model.config().precision, model.precision());
        note(is_chat(model.config()), false, &self.run).iter().for_each(|note| terminal::tell(note));
        let sampling = self.draw.sampling();
        terminal::note(&model.prompt_note(&prompt)?);
        for index in 0..self.num {
            let mut text = prompt.clone();
            if !json {
                let rule = if self.num > 1 { format!("----- {} of {}\n", index + 1, self.num) } else { String::new() };
                terminal::print_exact(&(rule + &text))?;
            }
            let generation = model.generate(&prompt).max_tokens(self.tokens).sampling(sampling.clone()).index(index);
            let mut generation = self.stop.iter().fold(generation, |generation, stop| generation.stop(stop));
            terminal::write(&mut generation, |piece| {
                if json {
                    text.push_str(piece);
                    return Ok(());
                }
                terminal::print_exact(piece)
            })?;
            if json {
                terminal::print_json(&json!({"index": index, "prompt": prompt, "text": text, "seed": sampling.seed}))?;
            } else {
                terminal::print("\n")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_says_what_it_learned_where_it_is_asked_for_something_else() {
        let note = |is_chat, asked| note(is_chat, asked, Path::new("runs/a")).unwrap_or_default();
        assert!(note(Some(true), false).contains("kinglet chat runs/a talks to it"));
        assert!(note(Some(false), true).contains("kinglet sample runs/a goes on with a text"));
        for (is_chat, asked) in [(Some(true), true), (Some(false), false), (None, true), (None, false)] {
            assert_eq!(note(is_chat, asked), "");
        }
    }
}
