//! `kinglet chat`

use super::terminal;
use super::{
    eval::CheckpointArg,
    sample::{Draw, is_chat, note},
};
use kinglet::{
    backend::Cpu,
    data,
    error::Error,
    inference::{Finish, Model},
    text::chat::{ASSISTANT, Message},
};
use serde_json::{Value, json};
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
    /// End an answer where this text would come; may be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    #[command(flatten)]
    draw: Draw,
    /// Which checkpoint
    #[arg(long, value_enum, default_value_t = CheckpointArg::Best)]
    checkpoint: CheckpointArg,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        let model = Model::load(Cpu::new()?, &self.run, self.checkpoint.into())?;
        // Fail before the first message if there can be no answer.
        data::template_of(model.config(), model.tokenizer())?;
        terminal::warn(model.warnings());
        terminal::note_precision(model.config().precision, model.precision());
        note(is_chat(model.config()), true, &self.run).iter().for_each(|note| terminal::tell(note));
        let system: Vec<_> = self.system.iter().map(|text| Message::new("system", text)).collect();
        let mut messages = system.clone();
        let ask = io::stdin().is_terminal() && !json;
        if ask {
            terminal::tell("a line is a message; an empty one begins a new conversation, Ctrl-D ends");
        }
        let mut lines = io::stdin().lock().split(b'\n');
        for turn in 0.. {
            if ask {
                terminal::print("> ")?;
            }
            let Some(line) = lines.next().transpose()? else { break };
            let Ok(line) = String::from_utf8(line) else {
                Args::refuse(json!(null), "this line is not UTF-8 text", json)?;
                continue;
            };
            let line = if turn == 0 { line.trim_start_matches('\u{feff}') } else { &line };
            let line = line.strip_suffix('\r').unwrap_or(line);
            if line.is_empty() || self.single {
                messages.clone_from(&system);
            }
            if line.is_empty() {
                continue;
            }
            // An error comes below, with the answer.
            terminal::note(&model.prompt_note(line).unwrap_or_default());
            let before = messages.clone();
            messages.push(Message::new("user", line));
            match self.answer(&model, &mut messages, system.len(), turn, json) {
                Ok((answer, finish)) => {
                    if json {
                        let finish = finish.map(name);
                        terminal::print_json(&json!({"prompt": line, "response": answer, "finish": finish}))?;
                    } else {
                        terminal::print("\n")?;
                    }
                    self.tell_if_cut(finish, model.config().block_size);
                    messages.push(Message::new(ASSISTANT, &answer));
                }
                // A typing mistake, or a message that the template refuses, must not end the conversation: continue
                // without that line.
                Err(error) if is_of_message(&error) => {
                    messages = before;
                    Args::refuse(json!(line), &error.to_string(), json)?;
                }
                Err(error) => return Err(error),
            }
        }
        if ask {
            terminal::print("\n")?;
        }
        Ok(())
    }

    /// Answers the last message; says why the answer ended. If the messages are too long, it first drops the oldest ones
    /// after the first `keep`. Prints the answer while it is generated, unless the output is JSON.
    fn answer(
        &self,
        model: &Model,
        messages: &mut Vec<Message>,
        keep: usize,
        turn: u64,
        json: bool,
    ) -> anyhow::Result<(String, Option<Finish>)> {
        let dropped = model.fit(messages, keep)?;
        if let Some(first) = dropped.first() {
            let (block_size, n) = (model.config().block_size, dropped.len());
            let begins: String = first.content.chars().take(40).collect();
            let (are, first) = if n == 1 { (" is", "it") } else { ("s are", "the first") };
            terminal::tell(&format!(
                "note: the model sees {block_size} tokens; {n} earlier message{are} forgotten: {first} begins {begins:?}"
            ));
        }
        let generation = model.answer(messages)?.max_tokens(self.tokens).sampling(self.draw.sampling()).index(turn);
        let mut generation = self.stop.iter().fold(generation, |generation, stop| generation.stop(stop));
        let mut answer = String::new();
        terminal::write(&mut generation, |piece| {
            answer.push_str(piece);
            if json { Ok(()) } else { terminal::print_exact(piece) }
        })?;
        Ok((answer, generation.finish()))
    }

    /// Says why a message is not answered.
    fn refuse(prompt: Value, error: &str, json: bool) -> anyhow::Result<()> {
        if json {
            return terminal::print_json(&json!({"prompt": prompt, "error": error}));
        }
        terminal::tell(&format!("error: {error}"));
        Ok(())
    }

    /// Says so if the answer did not come to its end.
    fn tell_if_cut(&self, finish: Option<Finish>, block_size: usize) {
        match finish {
            Some(Finish::Context) => terminal::tell(&format!(
                "note: the answer is cut: the context of {block_size} tokens is full; an empty line begins a new conversation"
            )),
            Some(Finish::Length) => {
                terminal::tell(&format!(
                    "note: the answer is cut after {} tokens; --tokens sets how many",
                    self.tokens
                ));
            }
            _ => {}
        }
    }
}

/// Whether an error is about a message, not about the model.
fn is_of_message(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::Text(_) | Error::UnknownCharacters { .. } | Error::BadConfig(_)))
}

/// How JSON says why an answer ended.
fn name(finish: Finish) -> &'static str {
    match finish {
        Finish::Length => "length",
        Finish::Stop => "stop",
        Finish::Context => "context",
        _ => "end",
    }
}
