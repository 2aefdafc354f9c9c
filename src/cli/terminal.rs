//! Output helpers for all commands, and how commands end.

use kinglet::{
    config::Precision,
    inference::{Generation, Piece},
    threads::with_threads,
};
use std::{
    io::{self, Write},
    sync::atomic::{AtomicBool, Ordering},
};

/// How a command ended, if not with an error.
pub(super) enum Ended {
    Done,
    /// Stopped on request, after saving.
    Interrupted,
    /// The compared runs differ.
    Different,
}

static QUIET: AtomicBool = AtomicBool::new(false);
static VERBOSE: AtomicBool = AtomicBool::new(false);

/// Takes `--quiet` and `--verbose` to heart.
pub(super) fn set_loudness(quiet: bool, verbose: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
    VERBOSE.store(verbose, Ordering::Relaxed);
}

/// Whether neither progress, notes nor hints are shown.
pub(super) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Whether more than usual is shown.
#[allow(dead_code, reason = "reports of a training ask for it")]
pub(super) fn is_verbose() -> bool {
    VERBOSE.load(Ordering::Relaxed)
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

/// Prints a line to standard error, ignoring errors such as a closed pipe. With `--quiet` there are no notes.
pub(super) fn tell(text: &str) {
    if is_quiet() && text.starts_with("note: ") {
        return;
    }
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
    let bar = if is_quiet() { indicatif::ProgressBar::hidden() } else { indicatif::ProgressBar::new(len) };
    bar.with_style(style.progress_chars("━╸─"))
}
