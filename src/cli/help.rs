//! Help, laid out from the program's own definition: one layout for all commands and any width, and the same as Markdown.

use super::{table::to_left, terminal};
use clap::{Arg, Command};
use std::fmt::Write as _;
use unicode_width::UnicodeWidthStr;

/// Where descriptions of options begin, if names fit before it.
const COLUMN: usize = 28;

/// Below this width descriptions go below their names.
const NARROW: usize = 60;

/// The widest help.
const WIDEST: usize = 100;

/// The width of help that is written to a file.
pub(super) const WRITTEN: usize = 100;

/// The groups of commands in the main help. The order in which a command is displayed says which one it is in: that of the
/// first is 100, that of the second 200, and so on.
const GROUPS: [&str; 6] = ["Train", "Look", "Use", "Manage runs", "Discover", "Other"];

/// The heading of commands outside of the groups.
const COMMANDS: &str = "Commands";

/// `display_order` of the commands that make models.
pub(super) const TRAIN: usize = 100;
/// Of those that show what a run is worth.
pub(super) const LOOK: usize = 200;
/// Of those that use a model.
pub(super) const USE: usize = 300;
/// Of those that change what is in `runs/`.
pub(super) const MANAGE: usize = 400;
/// Of those that tell what there is to choose from.
pub(super) const DISCOVER: usize = 500;
/// Of those for the machine and the shell.
pub(super) const OTHER: usize = 600;

/// The environment variables that the program reads; a test compares them with the source.
const ENVIRONMENT: [(&str, &str); 11] = [
    ("BROWSER", "If set, `serve --open` opens a browser though no screen is known"),
    ("DISPLAY", "If set, there is a screen for `serve --open`"),
    ("KINGLET_DATA_DIR", "Folder with tinyshakespeare.txt, to be used instead of a download"),
    ("KINGLET_ISA", "Instruction set to use: avx512, avx2, neon or scalar [default: the best available]"),
    (
        "KINGLET_MPI",
        "Path of the MPI library; or `none`, and processes that a launcher starts know nothing of each other",
    ),
    ("KINGLET_NO_HISTORY", "If set, `kinglet chat` keeps no history of typed lines"),
    (
        "KINGLET_RANK_TIMEOUT",
        "Seconds in which all processes of `mpirun` have ended after one of them is silent [default: 600]",
    ),
    ("NO_COLOR", "Turns colours off, unless it is empty"),
    ("TERM", "If it is `dumb`, there are no bars and no colours"),
    ("WAYLAND_DISPLAY", "As DISPLAY"),
    ("XDG_RUNTIME_DIR", "Folder of the file by which `serve --open` tells a browser the token, if there is one"),
];

/// What the exit status says.
const EXIT_CODES: [(&str, &str); 4] = [
    ("0", "Success"),
    ("1", "Failed; or `compare --bits` found a difference, or `speedrun` missed a track"),
    ("2", "The command line or a configuration is wrong; nothing was written"),
    ("130", "Stopped by Ctrl-C or SIGTERM; the work so far is saved. `serve` ends with 0 then, unless it is cut short"),
];

const EXAMPLES: &str = "\
Examples:
  kinglet train
  kinglet train my.txt --preset kinglet-0.2m --set max_iters=1000 --name mine
  kinglet train --resume mine
  kinglet tune my.txt --budget 10m
  kinglet sample mine --prompt \"Once\"
  kinglet finetune mine other.txt
";

const DOCUMENTATION: &str = "\
`kinglet help COMMAND` shows the options of a command, `kinglet man` the manual page. README.md and docs/ in \
the source contain guides and the reference.";

/// What stands at the end of the main help.
pub(super) fn ending(width: usize) -> String {
    let (environment, exit_codes) = (rows(&ENVIRONMENT, 22, width), rows(&EXIT_CODES, 8, width));
    let documentation = wrap(DOCUMENTATION, width, 0, 0);
    format!("{EXAMPLES}\nEnvironment variables:\n{environment}\nExit codes:\n{exit_codes}\n{documentation}\n")
}

/// The width of help on this terminal.
pub(super) fn terminal_width() -> usize {
    terminal::columns_out().map_or(WIDEST, |width| width.clamp(20, WIDEST))
}

/// The command that the words of a command line name, as far as they do.
pub(super) fn named(root: &Command, words: impl IntoIterator<Item = impl AsRef<str>>) -> &Command {
    let mut command = root;
    for word in words.into_iter().take_while(|word| word.as_ref() != "--") {
        if let Some(found) = command.find_subcommand(word.as_ref()).filter(|found| found.get_name() != "help") {
            command = found;
        }
    }
    command
}

/// The help of a command, of a definition that is built.
pub(super) fn text(command: &Command, width: usize) -> String {
    let is_root = command.get_version().is_some();
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let usage = command.clone().render_usage().to_string();
    let mut text = wrap(&about, width, 0, 0) + "\n";
    for line in usage.lines() {
        text += &format!("\n{}", wrap(line.trim_end(), width, 0, 11));
    }
    text += "\n";
    let is_of_commands = |heading: &str| heading == COMMANDS || GROUPS.contains(&heading);
    for (heading, lines) in sections(command) {
        let _ =
            write!(text, "\n{heading}:\n{}", rows(&lines, if is_of_commands(&heading) { 15 } else { COLUMN }, width));
    }
    if is_root {
        let _ = write!(text, "\n{}", ending(width));
    } else if let Some(after) = command.get_after_help() {
        let _ = write!(text, "\n{}\n", wrap(after.to_string().trim_end(), width, 0, 0));
    }
    text
}

/// The help of all commands as one Markdown page.
pub(super) fn markdown(root: &Command) -> String {
    let mut text = String::from(
        "# Commands\n\nWritten by `kinglet man --markdown`. Every command has this text under `--help`.\n",
    );
    let mut page = |command: &Command| {
        let title = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
        let _ = write!(text, "\n## {title}\n\n```text\n{}```\n", self::text(command, WRITTEN));
    };
    each(root, &mut page);
    text
}

/// Calls `what` with a command and every one below it that is shown.
fn each(command: &Command, what: &mut impl FnMut(&Command)) {
    what(command);
    for (_, commands) in groups(command) {
        commands.into_iter().for_each(|command| each(command, what));
    }
}

/// The commands that are shown, by group; outside of the groups at last.
fn groups(command: &Command) -> Vec<(&'static str, Vec<&Command>)> {
    let group = |command: &Command| GROUPS.get((command.get_display_order() / 100).wrapping_sub(1)).copied();
    let all = || command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help");
    let named = GROUPS.iter().map(|&name| (name, all().filter(|command| group(command) == Some(name)).collect()));
    let others = (COMMANDS, all().filter(|command| group(command).is_none()).collect());
    named.chain([others]).filter(|(_, commands): &(_, Vec<_>)| !commands.is_empty()).collect()
}

/// Headings, and names and descriptions below them.
fn sections(command: &Command) -> Vec<(String, Vec<(String, String)>)> {
    let mut found: Vec<(String, Vec<_>)> = Vec::new();
    for (heading, commands) in groups(command) {
        let line = |command: &Command| {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            let aliases: Vec<_> = command.get_visible_aliases().collect();
            let aliases = if aliases.is_empty() { String::new() } else { format!(" [also: {}]", aliases.join(", ")) };
            (command.get_name().to_owned(), about + &aliases)
        };
        found.push((heading.to_owned(), commands.into_iter().map(line).collect()));
    }
    // Options of every command come last.
    let shown = || command.get_arguments().filter(|arg| !arg.is_hide_set());
    for arg in shown().filter(|arg| !is_of_all(arg)).chain(shown().filter(|arg| is_of_all(arg))) {
        let heading = match arg.get_help_heading() {
            _ if arg.is_positional() => "Arguments",
            _ if is_of_all(arg) => "Options of every command",
            Some(heading) => heading,
            None => "Options",
        };
        let line = (name(arg), description(arg));
        match found.iter_mut().find(|(known, _)| known == heading) {
            Some((_, lines)) => lines.push(line),
            None => found.push((heading.to_owned(), vec![line])),
        }
    }
    found
}

fn is_of_all(arg: &Arg) -> bool {
    arg.is_global_set() || ["help", "version"].contains(&arg.get_id().as_str())
}

/// `-o, --out <DIR>`, with room for a short name where there is none.
fn name(arg: &Arg) -> String {
    let long = arg.to_string();
    match arg.get_short() {
        _ if arg.is_positional() => long,
        Some(short) if arg.get_long().is_some() => format!("-{short}, {long}"),
        Some(_) => long,
        None => format!("    {long}"),
    }
}

/// What an argument is for, with its values, default and other names.
fn description(arg: &Arg) -> String {
    let mut text = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let takes_values = arg.get_action().takes_values();
    let values: Vec<_> = match takes_values && !arg.is_hide_possible_values_set() {
        true => arg
            .get_possible_values()
            .into_iter()
            .filter(|v| !v.is_hide_set())
            .map(|v| v.get_name().to_owned())
            .collect(),
        false => Vec::new(),
    };
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let aliases: Vec<_> =
        arg.get_visible_aliases().unwrap_or_default().into_iter().map(|name| format!("--{name}")).collect();
    if !values.is_empty() {
        let _ = write!(text, " [values: {}]", values.join(", "));
    }
    if takes_values && !defaults.is_empty() && !arg.is_hide_default_value_set() {
        let _ = write!(text, " [default: {}]", defaults.join(", "));
    }
    if !aliases.is_empty() {
        let _ = write!(text, " [also: {}]", aliases.join(", "));
    }
    text
}

/// Names, and descriptions from a column on or, where the terminal is narrow or a name long, below.
pub(super) fn rows(lines: &[(impl AsRef<str>, impl AsRef<str>)], column: usize, width: usize) -> String {
    let mut text = String::new();
    let wide = width >= NARROW;
    for (name, description) in lines {
        let name = name.as_ref();
        let column = if wide { column } else { 8 };
        let body = wrap(description.as_ref(), width, column, column);
        let _ = match wide && name.width() + 4 <= column {
            true => writeln!(text, "  {}{}", to_left(name, column - 2), body.trim_start()),
            false => writeln!(text, "  {name}\n{body}"),
        };
    }
    text
}

/// Wraps prose at words. A command between backticks is one word, and lines that begin with a space stay as they are.
fn wrap(text: &str, width: usize, first: usize, hanging: usize) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.starts_with(' ') {
            lines.push(line.to_owned());
            continue;
        }
        let mut current = " ".repeat(first);
        let mut empty = true;
        for word in words(line) {
            if !empty && current.width() + 1 + word.width() > width {
                lines.push(std::mem::replace(&mut current, " ".repeat(hanging)));
                empty = true;
            }
            if !empty {
                current.push(' ');
            }
            current += &word;
            empty = false;
        }
        lines.push(current);
    }
    lines.join("\n")
}

/// The words of a line; what is between backticks is kept together.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut open = false;
    for word in line.split_whitespace() {
        match words.last_mut().filter(|_| open) {
            Some(last) => *last += &format!(" {word}"),
            None => words.push(word.to_owned()),
        }
        open ^= word.matches('`').count() % 2 == 1;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_wrapped_and_commands_are_not() {
        assert_eq!(wrap("a kinglet is a small bird", 12, 0, 2), "a kinglet is\n  a small\n  bird");
        assert_eq!(wrap("do `kinglet train x y z` now", 12, 0, 0), "do\n`kinglet train x y z`\nnow");
        assert_eq!(wrap("Try:\n    kinglet train --resume", 12, 0, 0), "Try:\n    kinglet train --resume");
        assert_eq!(wrap("two\n\nparts", 12, 0, 0), "two\n\nparts");
    }
}
