//! What a line on a terminal asks for: a message, or one of the program's own commands.

use crate::{error::Result, sample::Sampling};

/// The commands, for `/help`.
pub(super) const HELP: &str = "Commands:
  /help            this list
  /reset           start a new conversation; an empty line does it too
  /retry           answer the last message again
  /system TEXT     set the system message and start a new conversation; without TEXT: remove it
  /set             show the settings
  /set KEY VALUE   temperature, top_k, top_p, min_p, repetition_penalty, seed or tokens
  /quit            leave, as Ctrl-D does
  //TEXT           send a message that begins with a slash
  \"\"\"              begin and end a message of several lines; a \\ at the end of a line continues it too
Ctrl-C stops an answer. The arrow keys edit the line and show earlier ones.";

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Message(String),
    Help,
    Reset,
    Retry,
    /// The new system message; an empty one removes it.
    System(String),
    Settings,
    Set(String, String),
    Quit,
    /// Something else, and why it is no command.
    Unknown(String),
}

/// What a line asks for.
pub(super) fn parse(line: &str) -> Asked {
    let Some(command) = line.strip_prefix('/') else { return Asked::Message(line.to_owned()) };
    if command.starts_with('/') {
        return Asked::Message(command.to_owned());
    }
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let rest = rest.trim();
    let unknown = |why: String| Asked::Unknown(why);
    match name {
        "system" => Asked::System(rest.to_owned()),
        "set" if rest.is_empty() => Asked::Settings,
        "set" => match rest.split_once(|c: char| c.is_whitespace() || c == '=') {
            Some((key, value)) => Asked::Set(key.replace('-', "_"), value.trim().to_owned()),
            None => unknown("/set takes a key and a value, such as /set temperature 0.7".to_owned()),
        },
        "help" | "?" | "reset" | "clear" | "retry" | "quit" | "exit" | "bye" if !rest.is_empty() => {
            unknown(format!("/{name} takes no argument; to send this as a message, type //{command}"))
        }
        "help" | "?" => Asked::Help,
        "reset" | "clear" => Asked::Reset,
        "retry" => Asked::Retry,
        "quit" | "exit" | "bye" => Asked::Quit,
        _ => unknown(format!(
            "unknown command /{name}: /help lists the commands; to send this as a message, type //{command}"
        )),
    }
}

/// The settings as `/set` shows them.
pub(super) fn settings(sampling: &Sampling, tokens: usize) -> String {
    let Sampling { temperature, top_k, top_p, min_p, repetition_penalty, seed, .. } = sampling;
    format!(
        "temperature {temperature}, top_k {top_k}, top_p {top_p}, min_p {min_p}, repetition_penalty {repetition_penalty}, seed \
         {seed}, tokens {tokens}"
    )
}

/// Changes a setting. Where it is refused, says why; nothing changes then.
pub(super) fn set(sampling: &mut Sampling, tokens: &mut usize, key: &str, value: &str) -> Result<(), String> {
    fn number<T: std::str::FromStr>(value: &str) -> Result<T, String> {
        value.parse().map_err(|_| format!("{value} is not a valid number"))
    }
    let mut changed = sampling.clone();
    match key {
        "temperature" => changed.temperature = number(value)?,
        "top_k" => changed.top_k = number(value)?,
        "top_p" => changed.top_p = number(value)?,
        "min_p" => changed.min_p = number(value)?,
        "repetition_penalty" => changed.repetition_penalty = number(value)?,
        "seed" => changed.seed = number(value)?,
        "tokens" => *tokens = number(value)?,
        _ => {
            return Err(format!(
                "there is no setting {key}; the settings are temperature, top_k, top_p, min_p, \
                 repetition_penalty, seed and tokens"
            ));
        }
    }
    changed.check().map_err(|error| error.to_string())?;
    *sampling = changed;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_or_commands() {
        let message = |text: &str| Asked::Message(text.to_owned());
        for (line, asked) in [
            ("Hi /help", message("Hi /help")),
            (" /help", message(" /help")),
            ("//etc/passwd", message("/etc/passwd")),
            ("/help", Asked::Help),
            ("/reset ", Asked::Reset),
            ("/bye", Asked::Quit),
            ("/system", Asked::System(String::new())),
            ("/system  Be brief. ", Asked::System("Be brief.".to_owned())),
            ("/set", Asked::Settings),
            ("/set top-k 5", Asked::Set("top_k".to_owned(), "5".to_owned())),
            ("/set temperature=0.7", Asked::Set("temperature".to_owned(), "0.7".to_owned())),
        ] {
            assert_eq!(parse(line), asked, "{line}");
        }
        for (line, why) in [
            (
                "/etc/passwd",
                "unknown command /etc/passwd: /help lists the commands; to send this as a message, type //etc/passwd",
            ),
            ("/hlep me", "type //hlep me"),
            ("/quit now", "/quit takes no argument"),
            ("/set temperature", "/set takes a key and a value"),
        ] {
            let Asked::Unknown(said) = parse(line) else { panic!("{line}") };
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn settings_are_checked_before_they_hold() {
        let (mut sampling, mut tokens) = (Sampling::default(), 500);
        let mut change = |key: &str, value: &str| {
            let refused = set(&mut sampling, &mut tokens, key, value).err();
            (refused, settings(&sampling, tokens))
        };
        assert!(change("temperature", "0.5").1.starts_with("temperature 0.5, "));
        assert!(change("tokens", "20").1.ends_with("tokens 20"));
        for (key, value, why) in [
            ("temperature", "hot", "hot is not a valid number"),
            ("temperature", "-1", "temperature"),
            ("top_p", "2", "top_p"),
            ("colour", "red", "there is no setting colour"),
        ] {
            let (refused, shown) = change(key, value);
            assert!(refused.unwrap().contains(why), "{key} {value}");
            assert!(shown.starts_with("temperature 0.5, "));
        }
    }
}
