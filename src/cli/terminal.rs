//! What all commands print, and how they end.

use kinglet::{config::Precision, inference::Generation, threads::with_threads};
use std::io::{self, Write};

/// How a command ended, if not with an error.
pub(super) enum Ended {
    Done,
    /// Asked to stop, after saving.
    Interrupted,
    /// What was compared is not the same.
    Different,
}

/// Prints to standard output at once.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Gives a text to `write` as a model writes it. It is computed by all cores, with which products are divided that are
/// worth it.
pub(super) fn write(
    generation: Generation,
    mut write: impl FnMut(&str) -> io::Result<()> + Send,
) -> anyhow::Result<()> {
    let pieces = || -> anyhow::Result<()> {
        for piece in generation {
            write(&piece?.text)?;
        }
        Ok(())
    };
    with_threads(0, pieces)?
}

/// Prints a value as one line of JSON.
pub(super) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    Ok(print(&(serde_json::to_string(value)? + "\n"))?)
}

/// Prints a line to standard error; nobody need listen.
pub(super) fn tell(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Passes on what reading a run found damaged.
pub(super) fn warn(warnings: &[String]) {
    for warning in warnings {
        tell(&format!("warning: {warning}"));
    }
}

/// Says so where what was asked for is not what this processor computes in.
pub(super) fn note_precision(asked: Precision, computed: Precision) {
    if asked != computed {
        tell("note: precision = \"bf16\" needs a processor with instructions for it; computing in f32 instead");
    }
}

/// A progress bar on standard error, hidden where that is no terminal.
pub(super) fn progress_bar(len: u64, template: &str) -> indicatif::ProgressBar {
    let style = indicatif::ProgressStyle::with_template(template).expect("a valid template");
    indicatif::ProgressBar::new(len).with_style(style.progress_chars("━╸─"))
}
