//! What is said to a command line that was not understood: what is wrong, and the whole command that was probably meant.

use super::{help::named, run_arg};
use crate::{
    config::{Config, FIELDS, PRESETS, key_elsewhere, key_like},
    system::shell,
};
use clap::{
    Arg, Command,
    error::{ContextKind, ContextValue, Error, ErrorKind},
};
use std::path::Path;

/// What other tools call a command, and what does the same here.
pub(super) const COMMANDS: &[(&str, &[&str])] = &[
    ("generate", &["sample"]),
    ("inference", &["sample"]),
    ("infer", &["sample"]),
    ("predict", &["sample"]),
    ("run", &["sample", "chat"]),
    ("talk", &["chat"]),
    ("runs", &["list"]),
    ("ps", &["list"]),
    ("checkpoints", &["eval --all-checkpoints"]),
    ("explain", &["keys"]),
    ("settings", &["keys"]),
    ("list-presets", &["presets"]),
    ("completion", &["completions"]),
    ("new", &["init", "train"]),
    ("create", &["init", "train"]),
    ("config", &["init", "keys", "info"]),
    ("settings", &["keys", "info"]),
    ("grid", &["sweep"]),
    ("multirun", &["sweep"]),
    ("search", &["tune", "sweep"]),
    ("fine-tune", &["finetune"]),
    ("fine_tune", &["finetune"]),
    ("evaluate", &["eval"]),
    ("test", &["eval"]),
    ("perplexity", &["eval", "score"]),
    ("logprobs", &["score"]),
    ("heatmap", &["score"]),
    ("resume", &["train --resume"]),
    ("continue", &["train --resume"]),
    ("show", &["info"]),
    ("prepare", &["data prepare"]),
    ("stats", &["data stats"]),
    ("tokenize", &["data encode"]),
];

/// What other tools call an option. Names that differ in `-` and `_` alone need no line.
pub(super) const OPTIONS: &[(&str, &str)] = &[
    ("out-dir", "out"),
    ("output", "out"),
    ("output-dir", "out"),
    ("model", "preset"),
    ("start", "prompt"),
    ("num-samples", "num"),
    ("max-new-tokens", "tokens"),
    ("max-tokens", "tokens"),
    ("n-predict", "tokens"),
    ("length", "tokens"),
    ("temp", "temperature"),
    ("repeat-penalty", "repetition-penalty"),
];

/// What is wrong with a command line, and the right one where that can be told. `words` has no program name.
pub(super) fn explain(error: &Error, root: &Command, words: &[String]) -> String {
    let better = match error.kind() {
        ErrorKind::InvalidSubcommand => wrong_command(error, root, words),
        ErrorKind::UnknownArgument => wrong_option(error, root, words),
        _ => None,
    };
    better.unwrap_or_else(|| {
        let text = error.render().to_string();
        text.trim().strip_prefix("error: ").unwrap_or(text.trim()).to_owned()
    })
}

/// One thing that the context of an error says.
fn context(error: &Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        _ => Vec::new(),
    }
}

/// A line with a command on it, to be pasted.
fn pasted(words: &[String]) -> String {
    format!("\n    kinglet {}", shell::command(words))
}

fn wrong_command(error: &Error, root: &Command, words: &[String]) -> Option<String> {
    let wrong = context(error, ContextKind::InvalidSubcommand).pop()?;
    let at = words.iter().position(|word| *word == wrong)?;
    let parent = named(root, &words[..at]);
    let says = format!("{} has no command {wrong}", parent.get_bin_name().unwrap_or("kinglet"));
    let split = |name: &str| name.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let mut meant: Vec<Vec<String>> = match COMMANDS.iter().find(|(name, _)| *name == wrong.to_lowercase()) {
        Some((_, meant)) => meant.iter().map(|name| split(name)).collect(),
        // A run is meant, not a command with a name like it.
        None if at == 0 && run_arg::is_run(&wrong).is_some() => Vec::new(),
        // What removes something is never guessed, nor what is hardly like what was typed.
        None => {
            let names = context(error, ContextKind::SuggestedSubcommand);
            let is_like = |name: &&String| {
                !["rm", "prune"].contains(&name.as_str()) && strsim::jaro_winkler(name, &wrong) >= 0.85
            };
            names.iter().filter(is_like).map(|name| split(name)).collect()
        }
    };
    if at == 0 && (meant.is_empty() || Path::new(&wrong).exists()) {
        meant.extend(command_for(&wrong));
    }
    let lines = meant.iter().filter(|meant| parent.find_subcommand(&meant[0]).is_some()).map(|meant| {
        let mut all = words.to_vec();
        all.splice(at..=at, meant.iter().cloned());
        let command = named(root, &all);
        pasted(&corrected(root, command, &all).map_or(all, |(all, _)| all))
    });
    let lines: Vec<String> = lines.collect();
    if lines.is_empty() {
        let names = parent.get_subcommands().filter(|command| !command.is_hide_set()).map(Command::get_name);
        return Some(format!("{says}; the commands are: {}", names.collect::<Vec<_>>().join(", ")));
    }
    let what = if lines.len() == 1 { "did you mean" } else { "did you mean one of these" };
    Some(format!("{says}; {what}:{}", lines.concat()))
}

/// The command for a word that is no command but a run, a file or a preset, with that word.
fn command_for(word: &str) -> Option<Vec<String>> {
    let path = Path::new(word);
    let words: &[&str] = if run_arg::is_run(word).is_some() {
        &["sample", word]
    } else if path.exists() {
        &["train", word]
    } else if PRESETS.iter().any(|preset| preset.name == word) {
        &["train", "--preset", word]
    } else {
        return None;
    };
    Some(words.iter().map(|&word| word.to_owned()).collect())
}

fn wrong_option(error: &Error, root: &Command, words: &[String]) -> Option<String> {
    let wrong = context(error, ContextKind::InvalidArg).pop()?;
    if !wrong.starts_with('-') || wrong.parse::<f64>().is_ok() {
        return None;
    }
    let command = named(root, words);
    let program = command.get_bin_name().unwrap_or("kinglet");
    let has_no = |wrong: &str| format!("{program} has no option {wrong}; `{program} --help` lists the options");
    Some(match corrected(root, command, words) {
        Ok((all, _)) if all == words => has_no(&wrong),
        // The option is there, but stands where it is not understood.
        Ok((all, reasons)) if reasons.is_empty() => {
            format!("{wrong} must come after the command; try:{}", pasted(&all))
        }
        Ok((all, reasons)) => format!("{}; try:{}", reasons.join("; "), pasted(&all)),
        Err(unknown) => match key_like(&unknown) {
            Some(key) => format!("{key} is a configuration key of a run, which {program} cannot change"),
            None => match key_elsewhere(&unknown) {
                Some(what) => format!("{program} has no option --{unknown}; {what}"),
                None => has_no(&format!("--{unknown}")),
            },
        },
    })
}

/// What an unknown option means.
enum Meant<'a> {
    Option(&'a Arg),
    Key(&'static str),
}

/// What a command takes that is called so by other tools, or that this is a typing mistake of.
fn meant<'a>(command: &'a Command, name: &str) -> Option<Meant<'a>> {
    let takes_keys = long(command, "set").is_some();
    if let Some(arg) = option_like(command, name) {
        return Some(Meant::Option(arg));
    }
    if let Some(key) = key_like(name) {
        return takes_keys.then_some(Meant::Key(key));
    }
    let likeness = |known: &str| strsim::jaro(known, name);
    let options = command.get_arguments().filter(|arg| !arg.is_hide_set());
    let options = options.filter_map(|arg| Some((likeness(arg.get_long()?), Meant::Option(arg))));
    let keys = FIELDS.iter().filter(|_| takes_keys).map(|field| (likeness(field.key), Meant::Key(field.key)));
    let nearest = options.chain(keys).max_by(|(a, _), (b, _)| a.total_cmp(b));
    nearest.filter(|(likeness, _)| *likeness >= 0.85).map(|(_, meant)| meant)
}

/// The words with each unknown option replaced by what it probably means, and why; or the one that remains unknown.
fn corrected(root: &Command, command: &Command, words: &[String]) -> Result<(Vec<String>, Vec<String>), String> {
    // What stands before the name of the command, but belongs behind it, is moved to the end.
    let (mut kept, mut moved, mut reasons) = (Vec::new(), Vec::new(), Vec::new());
    let mut in_command = command.get_name() == root.get_name();
    let mut rest = words.iter().peekable();
    while let Some(word) = rest.next() {
        let Some(option) = word.strip_prefix("--").filter(|name| !name.is_empty()) else {
            in_command |= *word == command.get_name() || command.get_all_aliases().any(|alias| alias == word);
            kept.push(word.clone());
            if word == "--" {
                kept.extend(rest.by_ref().cloned());
            }
            continue;
        };
        let (name, given) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        let to = if in_command || long(root, name).is_some() { &mut kept } else { &mut moved };
        let mut value = |of_switch: bool| {
            given.map(str::to_owned).or_else(|| rest.next_if(|next| is_value(next, of_switch)).cloned())
        };
        if let Some(arg) = long(command, name) {
            to.push(word.clone());
            if given.is_none() && arg.get_action().takes_values() {
                to.extend(value(false));
            }
            continue;
        }
        match meant(command, name).ok_or_else(|| name.to_owned())? {
            Meant::Option(arg) => {
                let option = format!("--{}", arg.get_long().unwrap_or_default());
                reasons.push(format!("there is no option --{name}; use {option}"));
                to.push(option);
                if arg.get_action().takes_values() {
                    to.push(value(false).unwrap_or_else(|| "VALUE".into()));
                }
            }
            // The text is named without an option.
            Meant::Key("data") => {
                reasons.push(format!("there is no option --{name}: the text is named without one"));
                to.push(value(false).unwrap_or_else(|| "DATA".into()));
            }
            Meant::Key(key) => {
                let is_switch = Config::default().value(key).is_bool();
                let value = value(is_switch).unwrap_or_else(|| if is_switch { "true" } else { "VALUE" }.into());
                reasons.push(match name == key {
                    true => format!("{key} is a configuration key, not an option"),
                    false => format!("there is no option --{name}, but there is a configuration key {key}"),
                });
                to.extend(["--set".to_owned(), format!("{key}={value}")]);
            }
        }
    }
    kept.append(&mut moved);
    Ok((kept, reasons))
}

/// Whether a word behind an option can be its value; behind a switch only what is true or false can.
fn is_value(word: &str, of_switch: bool) -> bool {
    match of_switch {
        true => ["true", "false"].contains(&word),
        false => !word.starts_with('-') || word.parse::<f64>().is_ok(),
    }
}

/// The argument with this long name, or one that it also has.
pub(super) fn long<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    let is_alias = |arg: &Arg| arg.get_all_aliases().unwrap_or_default().contains(&name);
    command.get_arguments().find(|arg| arg.get_long() == Some(name) || is_alias(arg))
}

/// The option of a command that differs from this name in `-` and `_` alone, or that other tools call so.
fn option_like<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    let name = name.replace('_', "-").to_lowercase();
    let ours = OPTIONS.iter().find(|(theirs, _)| *theirs == name).map_or(name.as_str(), |(_, ours)| ours);
    long(command, &name).or_else(|| long(command, ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_no_option_but_may_be_negative() {
        for (word, of_switch, want) in [
            ("1e-3", false, true),
            ("-1", false, true),
            ("--out", false, false),
            ("my.txt", true, false),
            ("false", true, true),
        ] {
            assert_eq!(is_value(word, of_switch), want, "{word}");
        }
    }
}
