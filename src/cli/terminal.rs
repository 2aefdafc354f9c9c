//! Output helpers for all commands, and how commands end.

use kinglet::{
    config::Precision,
    inference::{Generation, Piece},
    threads::with_threads,
};
use std::io::{self, Write};

/// How a command ended, if not with an error.
pub(super) enum Ended {
    Done,
    /// Stopped on request, after saving.
    Interrupted,
    /// The compared runs differ.
    Different,
}

/// Prints to standard output and flushes it.
pub(super) fn print(text: &str) -> io::Result<()> {
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
    Ok(print(&(serde_json::to_string(value)? + "\n"))?)
}

/// Prints a line to standard error, ignoring errors such as a closed pipe.
pub(super) fn tell(text: &str) {
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
    if asked != computed {
        tell("note: precision = \"bf16\" needs a processor with instructions for it; computing in f32 instead");
    }
}

/// A progress bar on standard error, hidden if that is not a terminal.
pub(super) fn progress_bar(len: u64, template: &str) -> indicatif::ProgressBar {
    let style = indicatif::ProgressStyle::with_template(template).expect("a valid template");
    indicatif::ProgressBar::new(len).with_style(style.progress_chars("━╸─"))
}
