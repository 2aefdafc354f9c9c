//! The command line: one file for each command, and what they share.
// A closed standard error makes these panic: `tell` does not.
#![deny(clippy::print_stderr)]

mod bench;
mod chat;
mod choice;
mod compare;
mod data;
mod eval;
mod finetune;
mod info;
mod merge;
mod plan;
mod report;
mod reproduce;
mod sample;
mod table;
mod train;
mod tune;

use clap::{Parser, Subcommand};
use kinglet::{config::Precision, error::Error, inference::Generation, threads::with_threads};
use std::{
    io::{self, Write},
    process::ExitCode,
};

/// Train, evaluate, sample and fine-tune small GPT language models on a CPU.
#[derive(Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "\
Start with:  kinglet train            trains the 0.2M preset on the built-in corpus, in a minute or two
             kinglet train my.txt --preset big-2.7m --out runs/mine
             kinglet train --resume --out runs/mine
             kinglet tune my.txt --budget 10m
             kinglet sample runs/mine --prompt \"Once\"
             kinglet finetune runs/mine other.txt"
)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// Print events and results as JSON, one object a line; progress goes to standard error
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    Train(train::Args),
    Eval(eval::Args),
    Sample(sample::Args),
    Finetune(finetune::Args),
    Chat(chat::Args),
    Merge(merge::Args),
    Info(info::Args),
    Plan(plan::Args),
    Tune(tune::Args),
    Compare(compare::Args),
    Data(data::Args),
    Bench(bench::Args),
    Reproduce(reproduce::Args),
}

/// How a command ended, if not with an error.
enum Ended {
    Done,
    /// Asked to stop, after saving.
    Interrupted,
    /// What was compared is not the same.
    Different,
}

pub(crate) fn main() -> ExitCode {
    let args = Args::parse();
    let ended = match args.command {
        Command::Train(command) => command.run(args.json),
        Command::Eval(command) => command.run(args.json).map(|()| Ended::Done),
        Command::Sample(command) => command.run(args.json).map(|()| Ended::Done),
        Command::Finetune(command) => command.run(args.json),
        Command::Chat(command) => command.run(args.json).map(|()| Ended::Done),
        Command::Merge(command) => command.run(args.json).map(|()| Ended::Done),
        Command::Info(command) => command.run(args.json).map(|()| Ended::Done),
        Command::Plan(command) => command.run(args.json).map(|()| Ended::Done),
        Command::Tune(command) => command.run(args.json),
        Command::Compare(command) => command.run(args.json),
        Command::Data(command) => command.run(args.json),
        Command::Bench(command) => command.run(args.json).map(|()| Ended::Done),
        Command::Reproduce(command) => command.run(args.json),
    };
    match ended {
        Ok(Ended::Done) => ExitCode::SUCCESS,
        Ok(Ended::Interrupted) => ExitCode::from(130),
        Ok(Ended::Different) => ExitCode::FAILURE,
        // Whoever read our output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("error: {error:#}"));
            let usage = matches!(error.downcast_ref(), Some(Error::Config { .. } | Error::BadConfig(_)));
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|e| e.downcast_ref::<io::Error>()).any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// A duration from a command line.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text} is not a number"))?;
    if (0.0..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("allowed are 0 to 3600 seconds".into()) }
}

/// Prints to standard output at once.
fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Gives a text to `write` as a model writes it. It is computed by all cores, with which products are divided that are
/// worth it.
fn write(generation: Generation, mut write: impl FnMut(&str) -> io::Result<()> + Send) -> anyhow::Result<()> {
    let pieces = || -> anyhow::Result<()> {
        for piece in generation {
            write(&piece?.text)?;
        }
        Ok(())
    };
    with_threads(0, pieces)?
}

/// Prints a value as one line of JSON.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    Ok(print(&(serde_json::to_string(value)? + "\n"))?)
}

/// Prints a line to standard error; nobody need listen.
fn tell(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Passes on what reading a run found damaged.
fn warn(warnings: &[String]) {
    for warning in warnings {
        tell(&format!("warning: {warning}"));
    }
}

/// Says so where what was asked for is not what this processor computes in.
fn note_precision(asked: Precision, computed: Precision) {
    if asked != computed {
        tell("note: precision = \"bf16\" needs a processor with instructions for it; computing in f32 instead");
    }
}

/// A progress bar on standard error, hidden where that is no terminal.
fn progress_bar(len: u64, template: &str) -> indicatif::ProgressBar {
    let style = indicatif::ProgressStyle::with_template(template).expect("a valid template");
    indicatif::ProgressBar::new(len).with_style(style.progress_chars("━╸─"))
}

/// What was published about a preset, to stand beside what we measure.
struct Published {
    preset: &'static str,
    params: usize,
    train_loss: f64,
    val_loss: f64,
    /// "MB" that are MiB and count PyTorch's causal masks.
    size: f64,
}

const PUBLISHED: [Published; 2] = [
    Published { preset: "big-0.2m", params: 209_729, train_loss: 1.6658, val_loss: 1.8275, size: 0.86 },
    Published { preset: "big-2.7m", params: 2_697_281, train_loss: 1.5228, val_loss: 1.7088, size: 10.43 },
];

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Args::command().debug_assert();
    }
}
