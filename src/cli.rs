//! The command line: one file per command, and the code they share.
// These macros panic if standard error is closed; `tell` does not.
#![deny(clippy::print_stderr)]

mod bench;
mod chat;
mod chats;
mod choice;
mod compare;
mod confirm;
mod data;
mod eval;
mod finetune;
mod info;
mod list;
mod merge;
mod plan;
mod prune;
mod published;
mod report;
mod reproduce;
mod rm;
mod run_arg;
mod sample;
mod table;
mod tag;
mod terminal;
mod train;
mod tune;
mod watch;

use clap::{Parser, Subcommand};
use kinglet::error::Error;
use std::{io, process::ExitCode};
use terminal::{Ended, tell};

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
    /// No progress, notes or hints; results, warnings and errors stay
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Show more, such as a line of training loss every log_interval updates
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    verbose: bool,
}

#[derive(Subcommand)]
enum Command {
    Train(train::Args),
    Eval(eval::Args),
    Sample(sample::Args),
    Finetune(finetune::Args),
    Chat(chat::Args),
    Merge(merge::Args),
    List(list::Args),
    Tag(tag::Args),
    Rm(rm::Args),
    Prune(prune::Args),
    Info(info::Args),
    Plan(plan::Args),
    Tune(tune::Args),
    Compare(compare::Args),
    Data(data::Args),
    Bench(bench::Args),
    Reproduce(reproduce::Args),
}

pub(crate) fn main() -> ExitCode {
    let args = Args::parse();
    terminal::set_loudness(args.quiet, args.verbose);
    let ended = match args.command {
        Command::Train(command) => command.run(args.json),
        Command::Eval(command) => command.run(args.json).map(|()| Ended::Done),
        Command::Sample(command) => command.run(args.json).map(|()| Ended::Done),
        Command::Finetune(command) => command.run(args.json),
        Command::Chat(command) => command.run(args.json).map(|()| Ended::Done),
        Command::Merge(command) => command.run(args.json).map(|()| Ended::Done),
        Command::List(command) => command.run(args.json).map(|()| Ended::Done),
        Command::Tag(command) => command.run(args.json).map(|()| Ended::Done),
        Command::Rm(command) => command.run(args.json).map(|()| Ended::Done),
        Command::Prune(command) => command.run(args.json).map(|()| Ended::Done),
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
        // The reader of our output closed the pipe, for example `head`.
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Args::command().debug_assert();
    }
}
