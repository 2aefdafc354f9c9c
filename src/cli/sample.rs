//! `kinglet sample`

use super::{
    choice::Threads,
    run_arg::{self, CheckpointArg, RunArg, command},
    terminal,
};
use crate::{
    backend::Cpu,
    error::Error,
    inference::{Finish, Generation, Model},
    sample::Sampling,
    text::{source, tokenizer::END_OF_TEXT},
};
use anyhow::Context;
use serde_json::json;
use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Generate text with a trained model
#[derive(clap::Args)]
#[command(allow_negative_numbers = true)]
pub(super) struct Args {
    /// Run: its folder, or its name in runs/ [default: the newest run]; RUN@STEP selects a checkpoint
    run: Option<RunArg>,
    /// Prompt, or "-" for standard input. Without one, the model starts from the begin-of-text token (or the end-of-text
    /// token, or token 0)
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Read the prompt from a file; "-" is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompt_file: Option<PathBuf>,
    /// Maximum number of tokens to generate
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        default_value_t = 500,
        visible_alias = "max-tokens",
        visible_alias = "max-new-tokens"
    )]
    tokens: usize,
    /// Number of samples
    #[arg(long, value_name = "N", default_value_t = 1)]
    num: u64,
    #[command(flatten)]
    draw: Draw,
    /// Stop before this text; may be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    #[command(flatten)]
    checkpoint: CheckpointArg,
    /// Use the adapters of another run with this run's weights; "none" uses the weights without adapters
    #[arg(long, value_name = "RUN")]
    adapter: Option<RunArg>,
    #[command(flatten)]
    threads: Threads,
}

/// The heading of options that say how tokens are drawn.
const SAMPLING: &str = "Sampling";

/// How the next token is drawn: first the repetition penalty, then temperature, top-k, top-p and min-p, in this order; each
/// sees what the one before left.
#[derive(clap::Args)]
pub(super) struct Draw {
    /// Logits are divided by this: text is more predictable below 1, more varied above 1; 0 always takes the most
    /// probable token
    #[arg(help_heading = SAMPLING, long, value_name = "X", default_value_t = 1.0, value_parser = number::<0, 1000>)]
    temperature: f64,
    /// Then keep only the K most probable tokens (and ties with the last one); 0 keeps all
    #[arg(help_heading = SAMPLING, long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Then keep only the most probable tokens that together have this probability
    #[arg(help_heading = SAMPLING, long, value_name = "P", default_value_t = 1.0, value_parser = number::<0, 1>)]
    top_p: f64,
    /// Then keep only tokens with at least this fraction of the highest probability
    #[arg(help_heading = SAMPLING, long, value_name = "P", default_value_t = 0.0, value_parser = number::<0, 1>)]
    min_p: f64,
    /// Above 1, tokens that are already in the context become less probable
    #[arg(help_heading = SAMPLING, long, value_name = "X", default_value_t = 1.0, value_parser = number::<0, 1000>)]
    repetition_penalty: f64,
    /// Seed: the same seed generates the same text
    #[arg(help_heading = SAMPLING, long, value_name = "N", default_value_t = 1337)]
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

/// What to say where a run that learned to answer is asked to go on with a text.
fn note(is_chat: Option<bool>, run: &Path) -> Option<String> {
    (is_chat == Some(true)).then(|| {
        let chat = command("chat", run);
        format!(
            "this model was trained on conversations, but the prompt is continued as plain text; to chat \
             with the model: {chat}"
        )
    })
}

fn number<const LOW: u32, const HIGH: u32>(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    let range = f64::from(LOW)..=f64::from(HIGH);
    if range.contains(&number) { Ok(number) } else { Err(format!("must be {LOW} to {HIGH}")) }
}

/// The prompt on standard input. The end of its last line is not part of it, as the end of a shell's line is not.
fn prompt_of_stdin() -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::Data(format!("standard input is not UTF-8 text: see byte {at}"))
    })?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        self.threads.run(|| self.sample(json))
    }

    fn prompt(&self) -> anyhow::Result<String> {
        match (&self.prompt, &self.prompt_file) {
            (Some(prompt), _) if prompt == "-" => prompt_of_stdin(),
            (Some(prompt), _) => Ok(prompt.clone()),
            (None, Some(path)) if path.as_os_str() == "-" => prompt_of_stdin(),
            (None, Some(path)) => {
                let (prompt, notes) = source::text_of_file(path)?;
                terminal::note(&notes);
                Ok(prompt)
            }
            (None, None) => Ok(String::new()),
        }
    }

    /// The model, and the run that it is of.
    fn model(&self) -> anyhow::Result<(Model, PathBuf)> {
        let chosen = run_arg::chosen_or_newest(self.run.as_ref(), &self.checkpoint)?;
        let (be, run, which) = (Cpu::new()?, chosen.run, chosen.which);
        let (model, used) = match &self.adapter {
            None => (Model::load(be, &run, which)?, run.clone()),
            Some(none) if none.is("none") => (Model::load_without_adapters(be, &run, which)?, run.clone()),
            Some(adapter) => {
                let adapter = adapter.chosen(None)?;
                let of = (&*adapter.run, adapter.which);
                (Model::load_with_adapters_of(be, (&run, which), of)?, adapter.run)
            }
        };
        terminal::warn(model.warnings());
        terminal::note_precision(model.config().precision, model.precision());
        run_arg::tell_used(&used, &model);
        Ok((model, run))
    }

    fn generation(&self, model: &Model, prompt: &str, index: u64) -> Generation {
        let generation = model.generate(prompt).max_tokens(self.tokens).sampling(self.draw.sampling()).index(index);
        let generation = self.stop.iter().fold(generation, |generation, stop| generation.stop(stop));
        // What follows the end of an answer is another conversation's.
        if model.learned_to_answer() == Some(true) { generation.until_end_of_text() } else { generation }
    }

    fn sample(&self, json: bool) -> anyhow::Result<()> {
        let prompt = self.prompt()?;
        let (model, run) = self.model()?;
        terminal::note(&note(model.learned_to_answer(), &run));
        // A prompt that cannot be encoded is refused before anything is printed.
        terminal::note(&model.prompt_note(&prompt)?);
        let mut ended = false;
        for index in 0..self.num {
            if !json {
                let rule = if self.num > 1 { format!("----- {} of {}\n", index + 1, self.num) } else { String::new() };
                terminal::print_exact(&(rule + &prompt))?;
            }
            let mut generation = self.generation(&model, &prompt, index);
            let (mut text, mut ids) = (String::new(), Vec::<u32>::new());
            terminal::write(&mut generation, self.threads.count(), |piece| {
                text.push_str(&piece.text);
                ids.extend(piece.ids());
                if json { Ok(()) } else { terminal::print_exact(&piece.text) }
            })?;
            ended |= text.contains(END_OF_TEXT);
            if json {
                terminal::print_json(&json!({
                    "run": run.display().to_string(),
                    "step": model.state().step,
                    "index": index,
                    "seed": self.draw.seed,
                    "prompt": prompt,
                    "text": text,
                    "tokens": ids.len(),
                    "ids": ids,
                    "finish": generation.finish().map(Finish::name),
                }))?;
            } else {
                terminal::print("\n")?;
            }
        }
        if ended {
            terminal::note([&format!(
                "the model ended a text at {END_OF_TEXT} and began another; --stop '{END_OF_TEXT}' stops there"
            )]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_learned_to_answer_says_so() {
        let note = |is_chat| note(is_chat, Path::new("runs/a")).unwrap_or_default();
        assert!(note(Some(true)).ends_with("to chat with the model: kinglet chat runs/a"));
        assert_eq!([note(Some(false)), note(None)], ["", ""]);
    }
}
