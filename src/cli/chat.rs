//! `kinglet chat`

use super::{eval::Checkpoint, sample::Draw};
use kinglet::{
    instruct::{ASSISTANT, Message},
    session::Session,
};
use serde_json::json;
use std::{
    io::{self, BufRead, IsTerminal},
    ops::ControlFlow,
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
    #[arg(long, value_enum, default_value_t = Checkpoint::Best)]
    checkpoint: Checkpoint,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        let session = Session::load(&self.run, self.checkpoint.into())?;
        super::warn(&session.warnings);
        super::note_precision(session.config.precision, session.precision());
        let sampling = self.draw.sampling();
        let system: Vec<_> = self.system.iter().map(|text| Message::new("system", text)).collect();
        let mut messages = system.clone();
        let ask = io::stdin().is_terminal() && !json;
        if ask {
            eprintln!("a line is a message; an empty one begins a new conversation, Ctrl-D ends");
        }
        let mut lines = io::stdin().lock().lines();
        for turn in 0.. {
            if ask {
                super::print("> ")?;
            }
            let Some(line) = lines.next().transpose()? else { break };
            if line.is_empty() || self.single {
                messages.clone_from(&system);
            }
            if line.is_empty() {
                continue;
            }
            messages.push(Message::new("user", &line));
            let dropped = session.fit(&mut messages, system.len())?;
            if dropped > 0 {
                let block_size = session.config.block_size;
                eprintln!("note: the model sees {block_size} tokens; {dropped} earlier messages are forgotten");
            }
            let (mut answer, mut written) = (String::new(), Ok(()));
            session.answer(&messages, self.tokens, &sampling, turn, |piece| {
                answer.push_str(piece);
                if !json {
                    written = super::print(piece);
                }
                if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            written?;
            if json {
                super::print_json(&json!({"prompt": line, "response": answer}))?;
            } else {
                super::print("\n")?;
            }
            messages.push(Message::new(ASSISTANT, &answer));
        }
        if ask {
            super::print("\n")?;
        }
        Ok(())
    }
}
