//! Output helpers for all commands: what is shown how on which stream, and how commands end.

use super::program;
use crate::{
    config::Precision,
    error::Error,
    inference::{Generation, Piece},
    system::{
        progress::{self, Shown},
        remove_unfinished, shell,
    },
    threads::with_threads,
};
use std::{
    fs::File,
    io::{self, IsTerminal, Read, Write},
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};
use unicode_width::UnicodeWidthStr;

/// How a command ended, if not with an error.
pub(super) enum Ended {
    Done,
    /// Stopped on request, after saving.
    Interrupted,
    /// The compared runs differ.
    Different,
    /// A track of a speedrun was missed.
    Missed,
}

/// The exit status of a program that ends with this error.
pub(super) fn status(error: &anyhow::Error) -> u8 {
    if matches!(error.downcast_ref(), Some(Error::Config { .. } | Error::BadConfig(_))) { 2 } else { 1 }
}

/// Lets Ctrl-C and SIGTERM end the program, but first remove what it has begun to write.
pub(super) fn leave_nothing_on_signal() -> anyhow::Result<()> {
    Ok(ctrlc::set_handler(|| {
        remove_unfinished();
        std::process::exit(130);
    })?)
}

/// How the other processes of a launcher are ended.
static END_OTHERS: OnceLock<fn(i32)> = OnceLock::new();

/// Says how the other processes of a launcher are ended, with their exit status, when this one ends at once.
pub(super) fn end_others_by(end: fn(i32)) {
    let _ = END_OTHERS.set(end);
}

/// Whether the other processes are ended when this one has said all that there is to say.
static AT_LAST: AtomicBool = AtomicBool::new(false);

/// Lets [`end_others`] end the others if `so`.
pub(super) fn end_others_at_last(so: bool) {
    AT_LAST.store(so, Ordering::Relaxed);
}

/// Ends this process, and others that a launcher would wait for: one that hangs does not end by itself.
pub(super) fn end_others(status: u8) {
    if AT_LAST.load(Ordering::Relaxed) {
        END_OTHERS.get().iter().for_each(|end| end(status.into()));
    }
}

/// Ends the program at once, because of a second signal.
pub(super) fn leave_now() -> ! {
    remove_unfinished();
    END_OTHERS.get().iter().for_each(|end| end(130));
    std::process::exit(130)
}

static QUIET: AtomicBool = AtomicBool::new(false);
static VERBOSE: AtomicBool = AtomicBool::new(false);

/// Takes `--quiet` and `--verbose` to heart.
pub(super) fn set_loudness(quiet: bool, verbose: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
    VERBOSE.store(verbose, Ordering::Relaxed);
    progress::show(if quiet { Shown::Nowhere } else { Shown::InLogs });
}

/// Whether neither progress, notes nor hints are shown.
pub(super) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Whether more than usual is shown.
pub(super) fn is_verbose() -> bool {
    VERBOSE.load(Ordering::Relaxed)
}

/// The columns of standard output, if that is a terminal.
pub(super) fn columns_out() -> Option<usize> {
    let size = terminal_size::terminal_size_of(io::stdout()).filter(|_| io::stdout().is_terminal());
    size.map(|(width, _)| usize::from(width.0))
}

/// The columns of standard error, if that is a terminal.
pub(super) fn columns_err() -> Option<usize> {
    let size = terminal_size::terminal_size_of(io::stderr()).filter(|_| io::stderr().is_terminal());
    size.map(|(width, _)| usize::from(width.0))
}

/// Whether standard output takes colours.
pub(super) fn has_color() -> bool {
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stdout().is_terminal() && !is_dumb && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Prints to standard output, wrapped at words if that is a terminal, and flushes it.
pub(super) fn print(text: &str) -> io::Result<()> {
    match columns_out() {
        Some(width) => print_exact(&wrapped(text, width)),
        None => print_exact(text),
    }
}

/// Prints to standard output as it is, such as text that a model wrote.
pub(super) fn print_exact(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Passes text to `write` as a model generates it. Large matrix products are computed on `threads` threads; 0 is one for
/// each core.
pub(super) fn write(
    generation: &mut Generation,
    threads: usize,
    mut write: impl FnMut(&Piece) -> io::Result<()> + Send,
) -> anyhow::Result<()> {
    let pieces = || -> anyhow::Result<()> {
        for piece in generation {
            write(&piece?)?;
        }
        Ok(())
    };
    with_threads(threads, pieces)?
}

/// Prints a value as one line of JSON.
pub(super) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    Ok(print_exact(&(serde_json::to_string(value)? + "\n"))?)
}

/// Prints a line to standard error, wrapped at words if that is a terminal; ignores errors such as a closed pipe. With
/// `--quiet` there are no notes.
pub(super) fn tell(text: &str) {
    if is_quiet() && text.starts_with("note: ") {
        return;
    }
    let text = columns_err().map_or_else(|| text.to_owned(), |width| wrapped(text, width));
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints warnings about damage found while reading a run.
pub(super) fn warn(warnings: &[String]) {
    for warning in warnings {
        tell(&format!("warning: {warning}"));
    }
}

/// Prints notes.
pub(super) fn note<'a>(notes: impl IntoIterator<Item = &'a String>) {
    for note in notes {
        tell(&format!("note: {note}"));
    }
}

/// Prints a note if this processor computes in another precision than requested.
pub(super) fn note_precision(asked: Precision, computed: Precision) {
    if let Some(what) = asked.instead(computed) {
        tell(&format!("note: {what}"));
    }
}

/// Prints what may be done next: what for, and the command. Not with `--quiet`.
pub(super) fn hints(hints: &[(&str, String)]) -> io::Result<()> {
    if is_quiet() || hints.is_empty() {
        return Ok(());
    }
    let width = hints.iter().map(|(what, _)| what.width() + 3).max().unwrap_or(0);
    let lines: String =
        hints.iter().map(|(what, command)| format!("{:<width$}{command}\n", format!("{what}:"))).collect();
    print(&format!("\n{lines}"))
}

/// Refuses to overwrite a file that does not begin like what is to be written: a name is soon mistyped.
///
/// # Errors
/// If there is such a file.
pub(super) fn refuse_other(path: &Path, begins: &str) -> anyhow::Result<()> {
    if !path.is_file() {
        return Ok(());
    }
    let Ok(file) = File::open(path) else { return Ok(()) };
    let mut start = Vec::new();
    let read = file.take(begins.len() as u64).read_to_end(&mut start);
    match read {
        Ok(_) if start == begins.as_bytes() || start.is_empty() => Ok(()),
        _ => {
            Err(Error::BadConfig(format!("{} is another kind of file: remove it, or name another", path.display()))
                .into())
        }
    }
}

/// A path in a command that is printed to be pasted.
pub(super) fn quoted(path: impl AsRef<Path>) -> String {
    shell::quoted(&path.as_ref().display().to_string())
}

/// The command that is running, as it can be pasted.
pub(super) fn this_command() -> String {
    let args = program::args().iter().map(|arg| arg.to_string_lossy().into_owned());
    shell::command(["kinglet".to_owned()].into_iter().chain(args))
}

/// A number and what it counts, in the singular where it is 1.
pub(super) fn count(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// The least width that text is wrapped to.
const NARROWEST: usize = 20;

/// Wraps lines at words. A command is never broken: it is moved to a line of its own if need be. What is coloured is
/// left as it is, being made for the terminal already.
fn wrapped(text: &str, width: usize) -> String {
    let width = width.max(NARROWEST);
    let lines = text.split('\n').map(|line| match line.width() <= width || line.contains('\x1b') {
        true => line.to_owned(),
        false => wrapped_line(line, width),
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn wrapped_line(line: &str, width: usize) -> String {
    let indent = line.len() - line.trim_start_matches(' ').len();
    // Where there are columns, the second one goes on below itself.
    let body = &line[indent..];
    let second = body.find("  ").map(|at| at + body[at..].len() - body[at..].trim_start_matches(' ').len());
    let column = second.map_or(0, |at| body[..at].width());
    let hanging = if (1..=width / 2).contains(&column) { indent + column } else { indent };
    let mut lines = vec![" ".repeat(indent)];
    let mut empty = true;
    for (gap, word, is_command) in words(body) {
        let last = lines.last_mut().expect("one line at least");
        if empty || last.width() + gap + word.width() <= width {
            *last += &" ".repeat(if empty { 0 } else { gap });
            *last += word;
        } else {
            let from = if is_command { indent + 4 } else { hanging };
            // A word that is too long for any line is not pushed to the right as well.
            let from = if from + word.width() > width { from.min(4) } else { from };
            lines.push(" ".repeat(from) + word);
        }
        empty = false;
    }
    lines.join("\n")
}

/// The words of a line, each with the number of spaces before it, and whether it is a command. A command, from
/// `kinglet` to the end of the line or between backticks, is one word.
fn words(line: &str) -> Vec<(usize, &str, bool)> {
    let mut found = Vec::new();
    let mut rest = line;
    // A command follows a colon, or stands at the beginning of a line.
    let mut may_begin = true;
    while !rest.is_empty() {
        let gap = rest.len() - rest.trim_start_matches(' ').len();
        rest = &rest[gap..];
        let command = may_begin && rest.starts_with("kinglet ");
        let mut ticks = 0;
        let ends = |(_, c): &(usize, char)| {
            ticks += usize::from(*c == '`');
            *c == ' ' && ticks % 2 == 0
        };
        let end = if command { rest.len() } else { rest.char_indices().find(ends).map_or(rest.len(), |(at, _)| at) };
        let (word, after) = rest.split_at(end);
        if !word.is_empty() {
            found.push((gap, word, command));
        }
        may_begin = word.ends_with(':');
        rest = after;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_wrapped_at_words_and_commands_stay_whole() {
        for (text, width, want) in [
            ("short\n", 20, "short\n"),
            ("entropy floor 0.3392 nats per token\n", 30, "entropy floor 0.3392 nats per\ntoken\n"),
            ("  indented words go on below\nnext", 20, "  indented words go\n  on below\nnext"),
            ("loss      3.1 nats of something long", 24, "loss      3.1 nats of\n          something long"),
            (
                "to go on: kinglet train --resume --out runs/mine",
                30,
                "to go on:\n    kinglet train --resume --out runs/mine",
            ),
            ("kinglet train --resume --out runs/mine", 20, "kinglet train --resume --out runs/mine"),
            ("do `kinglet train x y z` next or so", 20, "do\n`kinglet train x y z`\nnext or so"),
            ("a kinglet is a small bird", 20, "a kinglet is a small\nbird"),
            ("see /a/folder/with/a/long/name for it", 20, "see\n/a/folder/with/a/long/name\nfor it"),
            ("ラベルラベルラベル ラベル", 20, "ラベルラベルラベル\nラベル"),
            ("\x1b[94mAAAAAAAAAAAAAAAAAAAA AAAA\x1b[0m", 20, "\x1b[94mAAAAAAAAAAAAAAAAAAAA AAAA\x1b[0m"),
            ("a narrow one is twenty wide", 3, "a narrow one is\ntwenty wide"),
        ] {
            assert_eq!(wrapped(text, width), want);
        }
    }

    #[test]
    fn one_of_a_thing_has_no_s() {
        assert_eq!([0, 1, 2].map(|n| count(n, "step")), ["0 steps", "1 step", "2 steps"]);
    }
}
