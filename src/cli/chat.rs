//! `kinglet chat`

mod command;
mod input;
mod interrupt;

use super::terminal;
use super::{
    choice::Threads,
    run_arg::{self, CheckpointArg, RunArg},
    sample::Draw,
};
use crate::{
    backend::Cpu,
    data,
    error::Error,
    inference::{Finish, Model},
    sample::Sampling,
    text::chat::{ASSISTANT, Message},
    threads::with_threads,
};
use command::Asked;
use input::{Input, Next};
use interrupt::Interrupt;
use serde_json::{Value, json};
use std::{
    io::{self, IsTerminal},
    path::Path,
};

const WELCOME: &str = "Type a message and press Enter. An empty line starts a new conversation. Ctrl-D quits.\n\
     /help lists the commands.";

/// The most characters of a run's name in a prompt.
const WIDE: usize = 20;

/// Talk to a model that learned from conversations
#[derive(clap::Args)]
#[command(after_help = "\
On a terminal, lines are edited with the arrow keys, /help lists commands, and Ctrl-C stops an answer.
Typed lines are saved in the user's data folder (kinglet/chat-history), unless --no-history or the
environment variable KINGLET_NO_HISTORY is set.")]
pub(super) struct Args {
    /// Run: its folder, or its name in runs/ [default: the newest run]; RUN@STEP selects a checkpoint
    run: Option<RunArg>,
    /// System message at the start of the conversation, if the model was trained with system messages
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Forget each exchange after the answer
    #[arg(long)]
    single: bool,
    /// Maximum number of tokens per answer
    #[arg(short = 'n', long, visible_aliases = ["max-tokens", "max-new-tokens"], value_name = "N", default_value_t = 500)]
    tokens: usize,
    /// Stop an answer before this text; may be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    #[command(flatten)]
    draw: Draw,
    #[command(flatten)]
    checkpoint: CheckpointArg,
    /// Do not read or write the history of typed lines
    #[arg(long)]
    no_history: bool,
    #[command(flatten)]
    threads: Threads,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        let chosen = run_arg::chosen_or_newest(self.run.as_ref(), &self.checkpoint)?;
        let model = Model::load(Cpu::new()?, &chosen.run, chosen.which)?;
        let learned = model.learned_to_answer();
        // Fail before the first message if there can be no answer.
        if let Err(error) = data::template_of(model.config(), model.tokenizer()) {
            let advice = advice(&chosen.run);
            return Err(if learned == Some(true) { error.into() } else { anyhow::anyhow!("{error}. {advice}") });
        }
        terminal::warn(model.warnings());
        terminal::note_precision(model.config().precision, model.precision());
        run_arg::tell_used(&chosen.run, &model);
        if learned == Some(false) {
            terminal::note(&[advice(&chosen.run)]);
        }
        let on_terminal = io::stdin().is_terminal() && io::stdout().is_terminal() && !json;
        let interrupt = Interrupt::default();
        let input = if on_terminal {
            if !terminal::is_quiet() {
                terminal::tell(WELCOME);
            }
            interrupt.install()?;
            Input::terminal(prompt(&chosen.run), !self.no_history)?
        } else {
            Input::lines()
        };
        let system: Vec<_> = self.system.iter().map(|text| Message::new("system", text)).collect();
        let (sampling, tokens, messages) = (self.draw.sampling(), self.tokens, system.clone());
        Chat { args: self, model, json, interrupt, system, messages, sampling, tokens, turn: 0, told_single: false }
            .talk(input)
    }
}

/// What to do with a run that did not learn conversations.
fn advice(run: &Path) -> String {
    let run = terminal::quoted(run);
    format!(
        "this model was trained on text, not on conversations, so it cannot answer. To continue a text: kinglet \
         sample {run}. To teach it to answer, fine-tune it on your own conversations: kinglet finetune {run} \
         chats.jsonl"
    )
}

/// The name of the run, as a prompt.
fn prompt(run: &Path) -> String {
    let name = run.canonicalize().unwrap_or_else(|_| run.to_owned());
    let name: String = name.file_name().unwrap_or_default().to_string_lossy().chars().take(WIDE).collect();
    format!("{name}> ")
}

/// A conversation that goes on.
struct Chat<'a> {
    args: &'a Args,
    model: Model,
    json: bool,
    interrupt: Interrupt,
    system: Vec<Message>,
    messages: Vec<Message>,
    sampling: Sampling,
    tokens: usize,
    /// Lines so far: each draws other random numbers.
    turn: u64,
    /// Whether it was said that the model knows no second exchange.
    told_single: bool,
}

/// An answer, and what is to be said of it.
struct Answer {
    text: String,
    tokens: usize,
    finish: Option<Finish>,
    notes: Vec<String>,
}

impl Chat<'_> {
    fn talk(mut self, mut input: Input) -> anyhow::Result<()> {
        let on_terminal = input.is_terminal();
        loop {
            match input.next()? {
                Next::End => break,
                Next::NotText => self.refuse(json!(null), "this line is not UTF-8 text")?,
                Next::GivenUp => terminal::tell("Ctrl-D quits."),
                Next::Message(text) => _ = self.say(&text)?,
                Next::Line(line) if on_terminal => {
                    if self.obey(&line)? {
                        return Ok(());
                    }
                }
                Next::Line(line) => {
                    let line = if self.turn == 0 { line.trim_start_matches('\u{feff}') } else { &line };
                    match line.strip_suffix('\r').unwrap_or(line) {
                        "" => self.reset(),
                        line => _ = self.say(line)?,
                    }
                }
            }
            self.turn += 1;
        }
        if on_terminal { Ok(terminal::print("\n")?) } else { Ok(()) }
    }

    /// Does what a line on a terminal asks for; tells whether that is to leave.
    fn obey(&mut self, line: &str) -> anyhow::Result<bool> {
        match command::parse(line) {
            Asked::Message(text) if !text.trim().is_empty() => _ = self.say(&text)?,
            Asked::Message(_) | Asked::Reset => {
                self.reset();
                terminal::tell("(new conversation)");
            }
            Asked::Help => terminal::tell(command::HELP),
            Asked::Retry => self.retry()?,
            Asked::System(text) => {
                self.system = (!text.is_empty()).then(|| Message::new("system", &text)).into_iter().collect();
                self.reset();
                let what = if text.is_empty() { "no system message" } else { "the system message is set" };
                terminal::tell(&format!("(new conversation, {what})"));
            }
            Asked::Settings => terminal::tell(&command::settings(&self.sampling, self.tokens)),
            Asked::Set(key, value) => match command::set(&mut self.sampling, &mut self.tokens, &key, &value) {
                Ok(()) => terminal::tell(&command::settings(&self.sampling, self.tokens)),
                Err(why) => terminal::tell(&format!("error: {why}")),
            },
            Asked::Unknown(why) => terminal::tell(&format!("error: {why}")),
            Asked::Quit => return Ok(true),
        }
        Ok(false)
    }

    fn reset(&mut self) {
        self.messages.clone_from(&self.system);
    }

    /// Answers the last message again.
    fn retry(&mut self) -> anyhow::Result<()> {
        let Some(at) = self.messages.iter().rposition(|message| message.role == "user") else {
            terminal::tell("error: there is no message to answer again");
            return Ok(());
        };
        let before = self.messages.clone();
        let said = self.messages.split_off(at);
        if !self.say(&said[0].content)? {
            self.messages = before;
        }
        Ok(())
    }

    /// Answers a message; tells whether it did, and did not refuse.
    fn say(&mut self, text: &str) -> anyhow::Result<bool> {
        if self.args.single {
            self.reset();
        }
        let before = self.messages.clone();
        self.messages.push(Message::new("user", text));
        self.interrupt.begin();
        let answer = self.answer(text);
        self.interrupt.end();
        match answer {
            Ok(answer) => {
                self.show(text, &answer)?;
                self.messages.push(Message::new(ASSISTANT, &answer.text));
                Ok(true)
            }
            // A typing mistake, or a message that the template refuses, must not end the conversation: continue
            // without that line.
            Err(error) if is_of_message(&error) => {
                self.messages = before;
                self.refuse(json!(text), &error.to_string())?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn show(&self, prompt: &str, answer: &Answer) -> anyhow::Result<()> {
        if !self.json {
            return Ok(());
        }
        terminal::print_json(&json!({
            "prompt": prompt,
            "response": answer.text,
            "tokens": answer.tokens,
            "finish": answer.finish.map(Finish::name),
            "step": self.model.state().step,
            "notes": answer.notes,
        }))
    }

    /// Answers the last message. If the messages are too long, it first drops the oldest ones. Prints the answer while it
    /// is generated, unless the output is JSON.
    fn answer(&mut self, text: &str) -> anyhow::Result<Answer> {
        let (mut notes, json) = (Vec::new(), self.json);
        let mut tell = |note: Option<String>| {
            terminal::note(&note);
            notes.extend(note);
        };
        // An error comes below, with the answer.
        tell(self.model.prompt_note(text).unwrap_or_default());
        tell(self.single_note());
        let dropped = self.model.fit(&mut self.messages, self.system.len())?;
        tell(self.forgotten(&dropped));
        let generation = self.model.answer(&self.messages)?.max_tokens(self.tokens);
        let generation = generation.sampling(self.sampling.clone()).index(self.turn);
        let mut generation = self.args.stop.iter().fold(generation, |generation, stop| generation.stop(stop));
        let (mut answer, mut tokens, interrupt) = (String::new(), 0, &self.interrupt);
        // Large matrix products are divided among the threads.
        let write = || -> anyhow::Result<()> {
            for piece in &mut generation {
                let piece = piece?;
                tokens += piece.tokens.len();
                answer.push_str(&piece.text);
                if !json {
                    terminal::print_exact(&piece.text)?;
                }
                if interrupt.stops() {
                    break;
                }
            }
            Ok(())
        };
        with_threads(self.args.threads.count(), write)??;
        let finish = generation.finish();
        if !json {
            terminal::print("\n")?;
        }
        tell(self.cut(finish));
        Ok(Answer { text: answer, tokens, finish, notes })
    }

    /// What is said once of a model that learned one exchange at a time, when a second one begins.
    fn single_note(&mut self) -> Option<String> {
        let second = self.messages.iter().any(|message| message.role == ASSISTANT);
        if self.told_single || !second || self.model.config().data_kind != "exchanges" {
            return None;
        }
        self.told_single = true;
        Some(
            "this model was trained on single exchanges (one message, one answer), so earlier messages may \
             confuse it; kinglet chat --single forgets them"
                .to_owned(),
        )
    }

    fn forgotten(&self, dropped: &[Message]) -> Option<String> {
        let first = dropped.first()?;
        let (block_size, n) = (self.model.config().block_size, dropped.len());
        let begins: String = first.content.chars().take(40).collect();
        let (messages, (are, first)) =
            (terminal::count(n as u64, "earlier message"), if n == 1 { ("is", "it") } else { ("are", "the first") });
        Some(format!("the model sees only {block_size} tokens; {messages} {are} forgotten: {first} begins {begins:?}"))
    }

    /// Says so if the answer did not come to its end.
    fn cut(&self, finish: Option<Finish>) -> Option<String> {
        let (block_size, n) = (self.model.config().block_size, self.tokens);
        let tokens = terminal::count(n as u64, "token");
        match finish {
            Some(Finish::Context) => Some(format!(
                "the answer was cut off: the context of {block_size} tokens is full; an empty line starts a new \
                 conversation"
            )),
            Some(Finish::Length) => Some(format!("the answer was cut off after {tokens}; --tokens raises the limit")),
            None => Some("the answer was stopped".to_owned()),
            _ => None,
        }
    }

    /// Says why a message is not answered.
    fn refuse(&self, prompt: Value, error: &str) -> anyhow::Result<()> {
        if self.json {
            return terminal::print_json(&json!({"prompt": prompt, "error": error}));
        }
        terminal::tell(&format!("error: {error}"));
        Ok(())
    }
}

/// Whether an error is about a message, not about the model.
fn is_of_message(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::Text(_) | Error::UnknownCharacters { .. } | Error::BadConfig(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prompt_names_the_run() {
        for (run, shown) in
            [("runs/mine", "mine> "), ("/", "> "), ("runs/a-name-without-any-end-at-all", "a-name-without-any-e> ")]
        {
            assert_eq!(prompt(Path::new(run)), shown);
        }
    }
}
