//! `kinglet chat`

use super::terminal;
use super::{eval::CheckpointArg, sample::Draw};
use kinglet::{
    backend::Cpu,
    data,
    error::Error,
    inference::Model,
    text::chat::{ASSISTANT, Message},
};
use serde_json::json;
use std::{
    io::{self, BufRead, IsTerminal},
    path::PathBuf,
};

/// Talk to a run that learned to answer: each line is a message
#[derive(clap::Args)]
pub(super) struct Args {
    /// The run's folder
    run: PathBuf,
    /// What the model is told before the conversation, if it learned from conversations that begin like this
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Forget each message once it is answered
    #[arg(long)]
    single: bool,
    /// The longest answer, in tokens
    #[arg(long, value_name = "N", default_value_t = 500)]
    tokens: usize,
    #[command(flatten)]
    draw: Draw,
    /// Which checkpoint
    #[arg(long, value_enum, default_value_t = CheckpointArg::Best)]
    checkpoint: CheckpointArg,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        let model = Model::load(Cpu::new()?, &self.run, self.checkpoint.into())?;
        // Fail before the first message if the model cannot end an answer.
        data::template_of(model.config(), model.tokenizer())?;
        terminal::warn(model.warnings());
        terminal::note_precision(model.config().precision, model.precision());
        let system: Vec<_> = self.system.iter().map(|text| Message::new("system", text)).collect();
        let mut messages = system.clone();
        let ask = io::stdin().is_terminal() && !json;
        if ask {
            terminal::tell("a line is a message; an empty one begins a new conversation, Ctrl-D ends");
        }
        let mut lines = io::stdin().lock().lines();
        for turn in 0.. {
            if ask {
                terminal::print("> ")?;
            }
            let Some(line) = lines.next().transpose()? else { break };
            if line.is_empty() || self.single {
                messages.clone_from(&system);
            }
            if line.is_empty() {
                continue;
            }
            // An error comes below, with the answer.
            terminal::note(model.prompt_note(&line).unwrap_or_default());
            let before = messages.clone();
            messages.push(Message::new("user", &line));
            match self.answer(&model, &mut messages, system.len(), turn, json) {
                Ok(answer) => {
                    if json {
                        terminal::print_json(&json!({"prompt": line, "response": answer}))?;
                    } else {
                        terminal::print("\n")?;
                    }
                    messages.push(Message::new(ASSISTANT, &answer));
                }
                // A typing mistake must not end the conversation: continue without that line.
                Err(error)
                    if matches!(error.downcast_ref(), Some(Error::Text(_) | Error::UnknownCharacters { .. })) =>
                {
                    messages = before;
                    if json {
                        terminal::print_json(&json!({"prompt": line, "error": error.to_string()}))?;
                    } else {
                        terminal::tell(&format!("error: {error}"));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        if ask {
            terminal::print("\n")?;
        }
        Ok(())
    }
    /// Answers the last message. If the messages are too long, it first drops the oldest ones after the first `keep`.
    /// Prints the answer while it is generated, unless the output is JSON.
    fn answer(
        &self,
        model: &Model,
        messages: &mut Vec<Message>,
        keep: usize,
        turn: u64,
        json: bool,
    ) -> anyhow::Result<String> {
        let dropped = model.fit(messages, keep)?;
        if dropped > 0 {
            let block_size = model.config().block_size;
            terminal::tell(&format!(
                "note: the model sees {block_size} tokens; {dropped} earlier messages are forgotten"
            ));
        }
        let generation = model.answer(messages)?.max_tokens(self.tokens).sampling(self.draw.sampling()).index(turn);
        let mut answer = String::new();
        terminal::write(generation, |piece| {
            answer.push_str(piece);
            if json { Ok(()) } else { terminal::print(piece) }
        })?;
        Ok(answer)
    }
}
