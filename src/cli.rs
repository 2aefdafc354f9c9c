//! The command line: one file per command, and the code they share.
// These macros panic if standard error is closed; `tell` does not.
#![deny(clippy::print_stderr)]

pub mod asked;
mod bench;
#[cfg(feature = "serve")]
mod browser;
mod chat;
mod chats;
mod choice;
mod compare;
mod completions;
mod confirm;
mod data;
mod eval;
mod export;
mod finetune;
mod heat;
mod help;
mod import;
mod info;
mod init;
mod keys;
mod list;
mod machines;
mod many;
mod merge;
mod plan;
mod preparing;
mod presets;
mod program;
mod prune;
mod published;
mod quantize;
mod report;
mod reproduce;
mod rm;
mod run_arg;
mod sample;
mod score;
mod seeded;
#[cfg(feature = "serve")]
mod serve;
#[cfg(not(feature = "serve"))]
#[path = "cli/no_serve.rs"]
mod serve;
pub mod shared;
mod speedrun;
mod suggest;
mod sweep;
mod table;
mod tag;
mod terminal;
mod train;
mod tune;
mod watch;
mod world;

pub use program::Program;

use crate::{backend::Cpu, error::Error};
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};
use kinglet_mpi::Launch;
use serde_json::json;
use std::io;
use terminal::{Ended, tell};
use world::{Shared, Silent, World};

/// Train, evaluate, sample and fine-tune small GPT language models on a CPU
#[derive(Parser)]
#[command(version, disable_help_flag = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// Print results, events and errors as JSON, one object per line; progress goes to standard error
    #[arg(long, global = true)]
    json: bool,
    /// Hide progress, notes and hints; results, warnings and errors are still shown
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Show more, such as the training loss every log_interval updates
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    verbose: bool,
    /// Print help
    #[arg(short, long, global = true, action = ArgAction::HelpShort)]
    help: Option<bool>,
}

/// The commands. `display_order` says in which group of the main help each is.
#[derive(Subcommand)]
enum Command {
    #[command(display_order = help::TRAIN)]
    Train(train::Args),
    #[command(display_order = help::TRAIN)]
    Finetune(finetune::Args),
    #[command(display_order = help::TRAIN)]
    Tune(tune::Args),
    #[command(display_order = help::TRAIN)]
    Sweep(sweep::Args),
    #[command(display_order = help::TRAIN)]
    Plan(plan::Args),
    #[command(display_order = help::TRAIN)]
    Data(data::Args),
    #[command(display_order = help::LOOK)]
    Info(info::Args),
    #[command(display_order = help::LOOK)]
    Eval(eval::Args),
    #[command(display_order = help::LOOK)]
    Score(score::Args),
    #[command(display_order = help::LOOK)]
    Compare(compare::Args),
    #[command(display_order = help::USE)]
    Sample(sample::Args),
    #[command(display_order = help::USE)]
    Chat(chat::Args),
    #[command(display_order = help::USE)]
    Serve(serve::Args),
    #[command(display_order = help::USE)]
    Merge(merge::Args),
    #[command(display_order = help::USE)]
    Quantize(quantize::Args),
    #[command(display_order = help::USE)]
    Import(import::Args),
    #[command(display_order = help::USE)]
    Export(export::Args),
    #[command(display_order = help::MANAGE, visible_alias = "ls")]
    List(list::Args),
    #[command(display_order = help::MANAGE)]
    Tag(tag::Args),
    #[command(display_order = help::MANAGE, aliases = ["delete", "remove"])]
    Rm(rm::Args),
    #[command(display_order = help::MANAGE)]
    Prune(prune::Args),
    #[command(display_order = help::DISCOVER)]
    Presets(presets::Args),
    #[command(display_order = help::DISCOVER)]
    Keys(keys::Args),
    #[command(display_order = help::DISCOVER)]
    Init(init::Args),
    #[command(display_order = help::OTHER)]
    Bench(bench::Args),
    #[command(display_order = help::OTHER)]
    Reproduce(reproduce::Args),
    #[command(display_order = help::OTHER)]
    Speedrun(speedrun::Args),
    #[command(display_order = help::OTHER)]
    Completions(completions::Completions),
    #[command(display_order = help::OTHER)]
    Man(completions::Man),
}

/// The program's definition, complete with the names of all commands.
fn definition() -> clap::Command {
    let mut definition = Args::command();
    definition.build();
    definition
}

/// Runs the command that these words name, and returns the status that the process is to end with. It prints what is to be printed,
/// handles signals, and may be called once in a process.
pub fn main(program: Program) -> u8 {
    let words = &program.started().words;
    let launch = world::launched();
    let matches = Args::command().try_get_matches_from(words);
    let name = matches.as_ref().ok().and_then(|matches| matches.subcommand_name()).unwrap_or_default().to_owned();
    let args = matches.and_then(|matches| Args::from_arg_matches(&matches));
    let words: Vec<_> = words.iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    match args {
        Ok(args) => args.run(&name, launch),
        Err(error) if launch.is_some_and(|launch| launch.rank > 0) => silently(if error.use_stderr() { 2 } else { 0 }),
        Err(error) => answer(&error, &words),
    }
}

impl Args {
    /// Runs the command, which is called `name`.
    fn run(self, name: &str, launch: Option<Launch>) -> u8 {
        terminal::set_loudness(self.quiet, self.verbose);
        let json = self.json;
        let ended = match (self.command.shared(), launch) {
            (Some(shared), launch) => {
                World::start(launch, shared).and_then(|world| world.run(|world| self.command.run(json, world)))
            }
            (None, Some(launch)) if launch.rank > 0 => Err(Silent(2).into()),
            (None, Some(_)) => Err(world::refuse(name)),
            (None, None) => World::start(None, Shared::default()).and_then(|world| self.command.run(json, &world)),
        };
        let status = match ended {
            Ok(Ended::Done) => 0,
            Ok(Ended::Interrupted) => 130,
            Ok(Ended::Different | Ended::Missed) => 1,
            // The reader of our output closed the pipe, for example `head`.
            Err(error) if is_broken_pipe(&error) => 0,
            Err(error) => match error.downcast_ref() {
                Some(&Silent(status)) => return silently(status),
                None => {
                    let kind = error.downcast_ref().map_or("other", Error::kind);
                    fail(&format!("{error:#}"), (kind, terminal::status(&error)), json)
                }
            },
        };
        terminal::end_others(status);
        status
    }
}

impl Command {
    /// What several processes share of this command, if they can.
    fn shared(&self) -> Option<Shared> {
        let steps = |threads| Shared { threads, runs: false };
        let runs = |threads| Shared { threads, runs: true };
        match self {
            Command::Train(command) => command.is_shared().then(|| steps(command.threads())),
            Command::Finetune(command) => command.is_shared().then(|| steps(command.threads())),
            Command::Tune(command) => Some(runs(command.threads())),
            Command::Sweep(command) => command.is_shared().then(|| runs(command.threads())),
            Command::Reproduce(command) => Some(runs(command.threads())),
            Command::Speedrun(command) => Some(runs(command.threads())),
            _ => None,
        }
    }

    fn run(self, json: bool, world: &World) -> anyhow::Result<Ended> {
        let done = |()| Ended::Done;
        match self {
            Command::Train(command) => command.run(json, world),
            Command::Finetune(command) => command.run(json, world),
            Command::Tune(command) => command.run(json, world),
            Command::Sweep(command) => command.run(json, world),
            Command::Plan(command) => command.run(json).map(done),
            Command::Data(command) => command.run(json),
            Command::Info(command) => command.run(json).map(done),
            Command::Eval(command) => command.run(json).map(done),
            Command::Score(command) => command.run(json).map(done),
            Command::Compare(command) => command.run(json),
            Command::Sample(command) => command.run(json).map(done),
            Command::Chat(command) => command.run(json).map(done),
            Command::Serve(command) => command.run(json),
            Command::Merge(command) => command.run(json).map(done),
            Command::Quantize(command) => command.run(json).map(done),
            Command::Import(command) => command.run(json).map(done),
            Command::Export(command) => command.run(json).map(done),
            Command::List(command) => command.run(json).map(done),
            Command::Tag(command) => command.run(json).map(done),
            Command::Rm(command) => command.run(json).map(done),
            Command::Prune(command) => command.run(json).map(done),
            Command::Presets(command) => command.run(json).map(done),
            Command::Keys(command) => command.run(json).map(done),
            Command::Init(command) => command.run(json).map(done),
            Command::Bench(command) => command.run(json).map(done),
            Command::Reproduce(command) => command.run(json, world),
            Command::Speedrun(command) => command.run(json, world),
            Command::Completions(command) => command.run(Args::command()).map(done),
            Command::Man(command) => command.run(definition()).map(done),
        }
    }
}

/// Ends without a message, because rank 0 of several processes has one.
fn silently(exit_status: u8) -> u8 {
    world::let_speak();
    exit_status
}

/// Prints what a command line without a command to run asks for, or what is wrong with it.
fn answer(error: &clap::Error, words: &[String]) -> u8 {
    let options = words.iter().take_while(|word| *word != "--");
    let has = |names: &[&str]| options.clone().any(|word| names.contains(&word.as_str()));
    let text = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            help::text(help::named(&definition(), words), help::terminal_width())
        }
        ErrorKind::DisplayVersion if has(&["-v", "--verbose", "-Vv", "-vV"]) => {
            let isa = Cpu::new().map_or_else(|error| error.to_string(), |be| be.isa().name().to_owned());
            format!("kinglet {}\ninstruction set: {isa}\n", env!("CARGO_PKG_VERSION"))
        }
        ErrorKind::DisplayVersion => error.to_string(),
        _ => return fail(&suggest::explain(error, &definition(), words), ("usage", 2), has(&["--json"])),
    };
    // Nobody need read it.
    let _ = terminal::print_exact(&text);
    0
}

/// Prints an error, also as JSON if that is asked for.
fn fail(message: &str, (kind, exit_status): (&str, u8), json: bool) -> u8 {
    tell(&format!("error: {message}"));
    if json {
        let _ = terminal::print_json(
            &json!({"event": "error", "message": message, "kind": kind, "exit_status": exit_status}),
        );
    }
    exit_status
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|e| e.downcast_ref::<io::Error>()).any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::{Args, definition, help, suggest};

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn everything_is_described_once_and_in_its_place() {
        let root = definition();
        let main = help::text(&root, 100);
        assert!(!main.contains("\nCommands:"), "a command without a group: display_order says which");
        let mut all: Vec<&clap::Command> = vec![&root];
        while let Some(command) = all.pop() {
            let name = command.get_bin_name().unwrap_or_default();
            all.extend(command.get_subcommands().filter(|command| command.get_name() != "help"));
            // `-h` would leave out the longer texts that clap knows too.
            assert!(command.get_about().is_some() && command.get_long_about().is_none(), "{name}");
            no_bare_command(&command.get_about().unwrap_or_default().to_string());
            for arg in command.get_arguments() {
                no_bare_command(&arg.get_help().unwrap_or_default().to_string());
                assert!(arg.get_help().is_some() && arg.get_long_help().is_none(), "{name} {arg}");
            }
        }
        for command in root.get_subcommands().filter(|command| command.get_name() != "help") {
            assert!(main.contains(&format!("\n  {} ", command.get_name())), "{}", command.get_name());
        }
    }

    /// A command in prose stands between backticks, so that it is not broken.
    fn no_bare_command(prose: &str) {
        let bare: String = prose.split('`').step_by(2).collect();
        let root = definition();
        let mut after =
            bare.split("kinglet ").skip(1).filter_map(|rest| rest.split([' ', ':', ';', ',', '.', ')']).next());
        assert!(after.all(|word| root.find_subcommand(word).is_none()), "{prose}");
    }

    #[test]
    fn what_is_suggested_is_there() {
        let root = definition();
        let is_there = |words: &str| {
            let mut command = &root;
            words.split(' ').all(|word| match command.find_subcommand(word) {
                Some(found) => {
                    command = found;
                    true
                }
                None => word.starts_with("--"),
            })
        };
        for (theirs, ours) in suggest::COMMANDS {
            assert!(ours.iter().any(|ours| is_there(ours)), "{theirs}");
            assert!(root.get_subcommands().all(|command| command.get_name() != *theirs), "{theirs} is a command");
        }
        for (theirs, ours) in suggest::OPTIONS {
            let of_some = root.get_subcommands().any(|command| suggest::long(command, ours).is_some());
            assert!(of_some, "{theirs}: {ours}");
        }
    }
}
