//! What is to be continued: a text, ids, or a list of them; or a conversation.

use super::unsupported::{unsupported, unsupported_value};
use crate::{
    inference::Model,
    serve::{
        answer::Failure,
        fields::{Fields, whole},
    },
    text::chat::Message,
};
use kinglet_core::error::Error;
use serde_json::Value;

/// The most prompts of a request.
const MOST_PROMPTS: usize = 2048;

/// What is to be continued.
#[derive(Debug)]
pub(super) struct Prompt {
    pub(super) source: Source,
    /// It as text.
    pub(super) text: String,
    /// How many tokens stand before it that are not of it.
    pub(super) unseen: usize,
    /// How many tokens it has, with those.
    pub(super) tokens: usize,
}

/// From what a text goes on.
#[derive(Debug)]
pub(super) enum Source {
    Ids(Vec<u32>),
    Messages(Vec<Message>),
}

/// The prompts in the field `prompt`, and what is to be said of them.
///
/// # Errors
/// If it is missing, or has the wrong type, unknown characters or ids.
pub(super) fn prompts(fields: &Fields, model: &Model) -> Result<(Vec<Prompt>, Vec<String>), Failure> {
    let wrong = |value: &Value| {
        let wanted = "a string, a list of strings, a list of ids of tokens, or a list of such lists";
        fields.wrong_type("prompt", wanted, value)
    };
    let value = fields.need("prompt")?;
    let mut notes = Vec::new();
    let mut one = |value: &Value| -> Result<Prompt, Failure> {
        match value {
            Value::String(text) => of_text(fields, model, text, &mut notes),
            Value::Array(ids) => of_ids(fields, model, ids),
            other => Err(wrong(other)),
        }
    };
    let prompts = match value {
        Value::Array(list) if list.is_empty() => return Err(fields.wrong("prompt", "is an empty list")),
        Value::Array(list) if list.len() > MOST_PROMPTS && !list[0].is_number() => {
            let what = format!("has {} prompts: at most {MOST_PROMPTS} are allowed", list.len());
            return Err(fields.wrong("prompt", &what));
        }
        Value::Array(list) if !list[0].is_number() => list.iter().map(one).collect::<Result<_, _>>()?,
        value => vec![one(value)?],
    };
    Ok((prompts, notes))
}

/// As `kinglet sample --prompt` does.
fn of_text(fields: &Fields, model: &Model, text: &str, notes: &mut Vec<String>) -> Result<Prompt, Failure> {
    let (plain, note) = model.tokenizer().encode_prompt(text).map_err(|error| fault(&fields.name("prompt"), &error))?;
    notes.extend(note);
    let before = plain.len();
    let mut ids = model.tokenizer().begun(plain);
    if ids.is_empty() {
        ids.push(model.tokenizer().start_of_text());
    }
    let (tokens, unseen) = (ids.len(), ids.len() - before);
    Ok(Prompt { source: Source::Ids(ids), text: text.to_owned(), unseen, tokens })
}

fn of_ids(fields: &Fields, model: &Model, ids: &[Value]) -> Result<Prompt, Failure> {
    let ids = ids_of(fields, "prompt", ids, model.config().vocab_size)?;
    if ids.is_empty() {
        return Err(fields.wrong("prompt", "has an empty list: a prompt needs at least one token"));
    }
    let (text, tokens) = (model.tokenizer().decode(&ids), ids.len());
    Ok(Prompt { source: Source::Ids(ids), text, unseen: 0, tokens })
}

/// A list of ids that a model of this vocabulary knows.
///
/// # Errors
/// If one is no whole number, or not known.
pub(super) fn ids_of(fields: &Fields, key: &str, ids: &[Value], vocab_size: usize) -> Result<Vec<u32>, Failure> {
    let id = |value: &Value| {
        if !value.is_number() || value.as_f64().is_none_or(|x| x.fract() != 0.0) {
            return Err(fields.wrong_type(key, "a list of ids of tokens", value));
        }
        let known = whole(value).and_then(|id| u32::try_from(id).ok()).filter(|&id| (id as usize) < vocab_size);
        known.ok_or_else(|| {
            fields.wrong(key, &format!("has the id {value}: the model's tokens are 0 to {}", vocab_size - 1))
        })
    };
    ids.iter().map(id).collect()
}

/// The failure that an error of the library is, about a parameter.
pub(in crate::serve) fn fault(param: &str, error: &Error) -> Failure {
    match error {
        Error::UnknownCharacters { .. } => Failure::bad(Some(param), Some("unknown_characters"), error.one_line()),
        Error::Text(_) | Error::BadConfig(_) => Failure::bad(Some(param), Some("invalid_value"), error.one_line()),
        _ => Failure::of(500, "model_failed", error.one_line()),
    }
}

/// The conversation in the field `messages`.
///
/// # Errors
/// If it is missing or has the wrong type, or has what is not there, as pictures.
pub(super) fn messages(fields: &Fields, notes: &mut Vec<String>) -> Result<Vec<Message>, Failure> {
    let list = match fields.need("messages")? {
        Value::Array(list) if list.is_empty() => return Err(fields.wrong("messages", "is an empty list")),
        Value::Array(list) => list,
        other => return Err(fields.wrong_type("messages", "a list of objects", other)),
    };
    let mut named = 0;
    let message = |(i, value): (usize, &Value)| {
        let path = format!("messages[{i}]");
        let Value::Object(map) = value else { return Err(fields.wrong_type(&path, "an object", value)) };
        let message = Fields::at(map, &fields.name(&path));
        named += usize::from(message.text("name")?.is_some());
        one_message(&message)
    };
    let messages = list.iter().enumerate().map(message).collect::<Result<_, _>>()?;
    if named > 0 {
        notes.push(format!("the template knows no names of speakers: {named} of {} messages have one", list.len()));
    }
    Ok(messages)
}

fn one_message(fields: &Fields) -> Result<Message, Failure> {
    for key in ["tool_calls", "function_call", "audio"] {
        if fields.get(key).is_some_and(|value| value.as_array().is_none_or(|list| !list.is_empty())) {
            return Err(unsupported(&fields.name(key)));
        }
    }
    fields.need("role")?;
    let role = match fields.text("role")?.unwrap_or_default() {
        role @ ("tool" | "function") => {
            let what = format!("is {role}, and tools are not supported by this server: leave such messages out");
            return Err(unsupported_value(&fields.name("role"), &what));
        }
        // What OpenAI calls a system message since 2024.
        "developer" => "system",
        role @ ("system" | "user" | "assistant") => role,
        _ => return Err(fields.wrong("role", "must be system, developer, user or assistant")),
    };
    let content = match fields.need("content")? {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().enumerate().map(|part| of_part(fields, part)).collect::<Result<_, _>>()?,
        other => return Err(fields.wrong_type("content", "a string or a list of parts", other)),
    };
    Ok(Message::new(role, &content))
}

/// The text of a part of a message.
fn of_part<'a>(fields: &Fields, (i, part): (usize, &'a Value)) -> Result<&'a str, Failure> {
    let path = format!("content[{i}]");
    let Value::Object(map) = part else { return Err(fields.wrong_type(&path, "an object", part)) };
    let part = Fields::at(map, &fields.name(&path));
    part.need("type")?;
    match part.text("type")? {
        Some("text") => {
            part.need("text")?;
            Ok(part.text("text")?.unwrap_or_default())
        }
        _ => {
            let what = "must be text: other parts of messages are not supported by this server; leave them out";
            Err(unsupported_value(&part.name("type"), what))
        }
    }
}
