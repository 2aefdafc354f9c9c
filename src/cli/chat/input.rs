//! Where messages come from: a terminal with line editing and history, or lines of a file or a pipe.

use crate::cli::terminal;
use rustyline::{Config, DefaultEditor, error::ReadlineError};
use std::{
    io::{self, BufRead},
    path::PathBuf,
};

/// Lines that the history keeps.
const KEPT: usize = 1000;
/// What opens and closes a message of several lines.
const QUOTES: &str = "\"\"\"";
const MORE: &str = "... ";

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A line, which may be a command where commands are understood.
    Line(String),
    /// A message of several lines.
    Message(String),
    /// A line that is no text.
    NotText,
    /// The line was given up with Ctrl-C.
    GivenUp,
    End,
}

/// A source of messages.
pub(super) enum Input {
    Terminal(Box<Editor>),
    Lines(io::Split<io::StdinLock<'static>>),
}

/// Lines with editing and history.
pub(super) struct Editor {
    lines: DefaultEditor,
    prompt: String,
    history: Option<PathBuf>,
}

impl Input {
    /// Lines of standard input as they are.
    pub(super) fn lines() -> Input {
        Input::Lines(io::stdin().lock().split(b'\n'))
    }

    /// A terminal; `history` tells whether lines are remembered from one time to the next.
    pub(super) fn terminal(prompt: String, history: bool) -> anyhow::Result<Input> {
        let config = Config::builder().max_history_size(KEPT)?.build();
        let mut lines = DefaultEditor::with_config(config)?;
        let wanted = history && std::env::var_os("KINGLET_NO_HISTORY").is_none_or(|value| value.is_empty());
        let history = wanted.then(dirs::data_dir).flatten().map(|dir| dir.join("kinglet").join("chat-history"));
        if let Some(path) = &history {
            // There is none the first time, and without a history one can talk as well.
            let _ = std::fs::create_dir_all(path.parent().unwrap_or(path));
            let _ = lines.load_history(path);
        }
        Ok(Input::Terminal(Box::new(Editor { lines, prompt, history })))
    }

    /// Whether a person types here.
    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Input::Terminal(_))
    }

    /// Waits for the next line or message.
    pub(super) fn next(&mut self) -> anyhow::Result<Next> {
        match self {
            Input::Lines(lines) => Ok(match lines.next().transpose()?.map(String::from_utf8) {
                None => Next::End,
                Some(Ok(line)) => Next::Line(line),
                Some(Err(_)) => Next::NotText,
            }),
            Input::Terminal(editor) => editor.next(),
        }
    }
}

impl Editor {
    fn next(&mut self) -> anyhow::Result<Next> {
        let prompt = self.prompt.clone();
        let mut read = |first: bool| self.lines.readline(if first { &*prompt } else { MORE });
        let next = match collect(&mut read) {
            Ok(next) => next,
            Err(ReadlineError::Eof) => return Ok(Next::End),
            Err(ReadlineError::Interrupted) => return Ok(Next::GivenUp),
            Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => return Ok(Next::NotText),
            Err(error) => return Err(error.into()),
        };
        if let Next::Line(text) | Next::Message(text) = &next
            && !text.trim().is_empty()
        {
            self.remember(text)?;
        }
        Ok(next)
    }

    fn remember(&mut self, text: &str) -> anyhow::Result<()> {
        self.lines.add_history_entry(text)?;
        if let Some(path) = &self.history
            && let Err(error) = self.lines.append_history(path)
        {
            terminal::tell(&format!("warning: {}: the history is not saved: {error}", path.display()));
            self.history = None;
        }
        Ok(())
    }
}

/// Reads a line, or the several of a message: between three quotes, or each but the last ending with a backslash. `read`
/// is told whether the line is the first.
fn collect<E>(read: &mut impl FnMut(bool) -> Result<String, E>) -> Result<Next, E> {
    let mut line = read(true)?;
    if let Some(rest) = line.trim_start().strip_prefix(QUOTES) {
        let mut text = rest.to_owned();
        while !text.trim_end().ends_with(QUOTES) {
            text.push('\n');
            text += &read(false)?;
        }
        let text = text.trim_end();
        let text = text.strip_suffix(QUOTES).unwrap_or(text).trim_matches('\n');
        return Ok(message(text.to_owned()));
    }
    if !line.ends_with('\\') {
        return Ok(Next::Line(line));
    }
    while line.ends_with('\\') {
        line.pop();
        line.push('\n');
        line += &read(false)?;
    }
    Ok(message(line))
}

/// A message; one that is blank is the same as an empty line.
fn message(text: String) -> Next {
    if text.trim().is_empty() { Next::Line(String::new()) } else { Next::Message(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collected(lines: &[&str]) -> Option<Next> {
        let mut lines = lines.iter();
        collect(&mut |_| lines.next().map(|line| (*line).to_owned()).ok_or(())).ok()
    }

    #[test]
    fn several_lines_make_one_message() {
        let message = |text: &str| Some(Next::Message(text.to_owned()));
        assert_eq!(collected(&["one", "two"]), Some(Next::Line("one".to_owned())));
        assert_eq!(collected(&["one\\", "two\\", "three", "four"]), message("one\ntwo\nthree"));
        assert_eq!(collected(&["\"\"\"", "/help", " b", "\"\"\""]), message("/help\n b"));
        assert_eq!(collected(&["\"\"\"one line\"\"\""]), message("one line"));
        assert_eq!(collected(&["\"\"\"a", "", "b\"\"\""]), message("a\n\nb"));
        assert_eq!(collected(&["\"\"\"He said \"yes\"\"\"\""]), message("He said \"yes\""));
        for blank in [&["\"\"\"\"\"\""][..], &["\"\"\"", " ", "\"\"\""], &["\\", ""]] {
            assert_eq!(collected(blank), Some(Next::Line(String::new())));
        }
        assert_eq!(collected(&["\"\"\"", "never closed"]), None);
        assert_eq!(collected(&["say \"\"\"", "x"]), Some(Next::Line("say \"\"\"".to_owned())));
    }
}
