//! Records as documents: a text in one field, or a conversation in the fields that such records usually have.
//!
//! | fields | what |
//! |---|---|
//! | `messages` or `conversations`, lists of `role` and `content` or of `from` and `value` | a conversation; `weight` = 0 is not learned |
//! | `prompt`, `instruction` or `question`, with `input` or `context`; and `response`, `completion`, `output` or `answer` | a prompt and its answer |
//! | `mapping` and `current_node` | a conversation of a ChatGPT export |
//! | `system`, beside either | the first message |
//! | `history`, beside a prompt: a list of pairs | earlier prompts and their answers |

use super::{
    export,
    input::Rules,
    json::{Fields, Json, get},
    piece::Piece,
    reading::{Columns, nothing_to_read},
};
use crate::text::{
    chat::{ASSISTANT, Message},
    names::quoted,
};

/// Fields with a list of messages.
const LISTS: [&str; 3] = ["messages", "conversations", "conversation"];
const PROMPTS: [&str; 3] = ["prompt", "instruction", "question"];
/// What belongs to a prompt, or is one where there is no other.
const INPUT: &str = "input";
/// What a prompt is about. It follows the prompt, as `input` does.
const CONTEXT: &str = "context";
const RESPONSES: [&str; 4] = ["response", "completion", "output", "answer"];
const SYSTEM: &str = "system";
const HISTORY: &str = "history";

/// Who speaks, by the names of other formats.
const ROLES: [(&str, &str); 11] = [
    ("human", "user"),
    ("prompter", "user"),
    ("gpt", ASSISTANT),
    ("chatgpt", ASSISTANT),
    ("bard", ASSISTANT),
    ("bing", ASSISTANT),
    ("model", ASSISTANT),
    ("bot", ASSISTANT),
    ("ai", ASSISTANT),
    ("claude", ASSISTANT),
    ("gemini", ASSISTANT),
];

/// Who speaks, by the usual names, which templates know.
const USUAL: [&str; 8] = [SYSTEM, "developer", "user", ASSISTANT, "tool", "function", "observation", "ipython"];

/// The usual name of a role, however it is spelled; `None` if it has none.
fn usual(role: &str) -> Option<&'static str> {
    let role = role.trim().to_lowercase();
    let other = ROLES.iter().find(|(other, _)| *other == role).map(|(_, usual)| *usual);
    other.or_else(|| USUAL.into_iter().find(|usual| *usual == role))
}

/// What is read of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Text,
    /// The messages in this field.
    List(&'static str),
    Pair,
    /// A tree of messages, as in a ChatGPT export.
    Export,
}

/// What to read of a record, of which `is` tells whether a field has a value, and `is_list` whether that is a list.
pub(super) fn shape(rules: &Rules, is: impl Fn(&str) -> bool, is_list: impl Fn(&str) -> bool) -> Option<Shape> {
    let any = |keys: &[&str]| keys.iter().any(|key| is(key));
    let list = LISTS.into_iter().find(|key| is_list(key)).map(Shape::List);
    let pair = || ((any(&PROMPTS) || is(INPUT)) && any(&RESPONSES)).then_some(Shape::Pair);
    // Not a list of messages: an error that says so.
    let other = || LISTS.into_iter().find(|key| is(key)).map(Shape::List);
    let export = || (is(export::MAPPING) && is(export::CURRENT)).then_some(Shape::Export);
    let conversation = || list.or_else(pair).or_else(export).or_else(other);
    if is(&rules.field) && !(rules.conversations && conversation().is_some()) {
        return Some(Shape::Text);
    }
    conversation()
}

/// Whether a field is read where records have this shape.
pub(super) fn reads(rules: &Rules, shape: Shape, name: &str) -> bool {
    match shape {
        Shape::Text => name == rules.field,
        Shape::List(key) => name == key || name == SYSTEM,
        Shape::Pair => {
            PROMPTS.contains(&name) || RESPONSES.contains(&name) || [INPUT, CONTEXT, SYSTEM, HISTORY].contains(&name)
        }
        // What is beside the messages is about them, such as a title: not to be told for each export.
        Shape::Export => true,
    }
}

/// Makes a document of a record.
pub(super) fn piece(rules: &Rules, fields: &Fields, columns: &mut Columns) -> Result<Piece, String> {
    let value = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    let is = |name: &str| value(name).is_some_and(|value| *value != Json::Null);
    let Some(shape) = shape(rules, is, |name| matches!(value(name), Some(Json::List(_)))) else {
        return Err(nothing(rules, fields));
    };
    for (name, value) in fields {
        if reads(rules, shape, name) {
            columns.read.add(name);
        } else if *value != Json::Null {
            columns.unread.add(name);
        }
    }
    match shape {
        Shape::Text => match get(fields, &rules.field)? {
            Some(Json::Text(text)) => Ok(Piece::Text { text: text.to_string(), end: true }),
            Some(other) => Err(format!("{} is {}, not a string", quoted(&rules.field), other.kind())),
            None => Err(format!("{} is null", quoted(&rules.field))),
        },
        Shape::List(key) => list(fields, key, columns).map(Piece::Messages),
        Shape::Pair => pair(fields, columns).map(Piece::Messages),
        Shape::Export => export::conversation(fields, &mut columns.left).map(Piece::Messages),
    }
}

/// Why there is nothing to read in a record.
fn nothing(rules: &Rules, fields: &Fields) -> String {
    let there = |name: &&str| fields.iter().any(|(key, _)| key == name);
    let null = |name: &&str| there(name) && matches!(get(fields, name), Ok(None));
    if null(&rules.field.as_str()) {
        return format!("{} is null", quoted(&rules.field));
    }
    let prompt = PROMPTS.into_iter().chain([INPUT]).find(there);
    match (prompt, RESPONSES.into_iter().find(there)) {
        (Some(prompt), Some(response)) => {
            let missing = if null(&prompt) { prompt } else { response };
            format!("{} is null", quoted(missing))
        }
        (Some(prompt), None) => format!(
            "it has \"{prompt}\" but none of \"response\", \"completion\", \"output\", \"answer\"; to read a \
             text instead, choose its field with --field"
        ),
        _ => nothing_to_read(&rules.field, fields.iter().map(|(name, _)| name)),
    }
}

/// The text of a value; numbers and booleans as they are written.
fn words(name: &str, value: &Json) -> Result<String, String> {
    match value {
        Json::Text(text) => Ok(text.to_string()),
        Json::Plain(text) => Ok((*text).to_owned()),
        other => Err(format!("{name} is {}, not a string", other.kind())),
    }
}

/// The one of several fields that has a value; empty ones count only where there is no other.
fn one_of<'f, 'a>(
    fields: &'f Fields<'a>,
    keys: &[&'static str],
) -> Result<Option<(&'static str, &'f Json<'a>)>, String> {
    let mut found = Vec::new();
    for &key in keys {
        found.extend(get(fields, key)?.map(|value| (key, value)));
    }
    let empty = |value: &Json| matches!(value, Json::Text(text) if text.is_empty());
    if found.iter().any(|(_, value)| !empty(value)) {
        found.retain(|(_, value)| !empty(value));
    }
    match &found[..] {
        [(one, _), (other, _), ..] => {
            Err(format!("it has both \"{one}\" and \"{other}\", which is ambiguous: remove or rename one"))
        }
        _ => Ok(found.pop()),
    }
}

/// A prompt and its answer, and what was said before.
fn pair(fields: &Fields, columns: &mut Columns) -> Result<Vec<Message>, String> {
    let prompt = one_of(fields, &PROMPTS)?;
    let input = get(fields, INPUT)?.map(|input| (INPUT, input));
    let context = get(fields, CONTEXT)?.map(|context| (CONTEXT, context));
    let (response, answer) = one_of(fields, &RESPONSES)?.ok_or("it has a prompt but no response")?;
    let mut messages = system(fields)?;
    messages.extend(history(fields)?);
    match prompt.or(input).ok_or("it has a response but no prompt")? {
        // Prompts of several messages, as TRL has them.
        (key, Json::List(list)) if prompt.is_some() => {
            let mut beside = input.into_iter().chain(context);
            if let Some((name, _)) = beside.find(|(_, value)| **value != Json::Text("".into())) {
                return Err(format!("it has both \"{name}\" and a list of messages in \"{key}\""));
            }
            messages.extend(of_list(list, columns)?);
        }
        (key, first) => {
            let mut text = words(&quoted(key), first)?;
            for (name, more) in input.filter(|_| prompt.is_some()).into_iter().chain(context) {
                let more = words(&quoted(name), more)?;
                if !text.is_empty() && !more.is_empty() {
                    text.push('\n');
                }
                text += &more;
            }
            messages.push(Message::new("user", &text));
        }
    }
    match answer {
        Json::List(list) => messages.extend(of_list(list, columns)?),
        answer => messages.push(Message::new(ASSISTANT, &words(&quoted(response), answer)?)),
    }
    answered(messages)
}

fn system(fields: &Fields) -> Result<Vec<Message>, String> {
    let Some(value) = get(fields, SYSTEM)? else { return Ok(Vec::new()) };
    let text = words("\"system\"", value)?;
    Ok(if text.is_empty() { Vec::new() } else { vec![Message::new(SYSTEM, &text)] })
}

/// Earlier prompts and answers, as pairs.
fn history(fields: &Fields) -> Result<Vec<Message>, String> {
    let wrong = || "\"history\" is not a list of pairs of a prompt and its answer".to_owned();
    let turns = match get(fields, HISTORY)? {
        None => return Ok(Vec::new()),
        Some(Json::List(turns)) => turns,
        Some(_) => return Err(wrong()),
    };
    let mut messages = Vec::new();
    for turn in turns {
        let Json::List(turn) = turn else { return Err(wrong()) };
        let [prompt, answer] = &turn[..] else { return Err(wrong()) };
        for (role, value) in [("user", prompt), (ASSISTANT, answer)] {
            messages.push(Message::new(role, &words("a part of \"history\"", value)?));
        }
    }
    Ok(messages)
}

/// The conversation in a list of messages.
fn list(fields: &Fields, key: &str, columns: &mut Columns) -> Result<Vec<Message>, String> {
    let others: Vec<_> = LISTS.into_iter().filter(|other| *other != key).collect();
    if let Some((other, Json::List(_))) = one_of(fields, &others)? {
        return Err(format!("it has both \"{key}\" and \"{other}\", which is ambiguous: remove or rename one"));
    }
    let Some(Json::List(list)) = get(fields, key)? else {
        return Err(format!("\"{key}\" is not a list of messages, each with \"role\" and \"content\""));
    };
    let mut messages = system(fields)?;
    let said = of_list(list, columns)?;
    if !messages.is_empty() && said.first().is_some_and(|first| first.role == SYSTEM) {
        return Err(format!("it has both \"system\" and a first message with the role system in \"{key}\""));
    }
    messages.extend(said);
    answered(messages)
}

fn answered(messages: Vec<Message>) -> Result<Vec<Message>, String> {
    if messages.iter().any(|message| message.role == ASSISTANT) {
        return Ok(messages);
    }
    Err("no message has the role \"assistant\", so there is nothing to learn".to_owned())
}

fn of_list(list: &[Json], columns: &mut Columns) -> Result<Vec<Message>, String> {
    let numbered = list.iter().enumerate();
    numbered.map(|(i, item)| message(item, columns).map_err(|what| format!("message {}: {what}", i + 1))).collect()
}

fn message(item: &Json, columns: &mut Columns) -> Result<Message, String> {
    let Json::Object(fields) = item else { return Err(format!("it is {}, not an object", item.kind())) };
    let (role, role_name) = match one_of(fields, &["role", "from"])? {
        Some((key, Json::Text(role))) if role.trim().is_empty() => return Err(format!("its \"{key}\" is empty")),
        Some((key, Json::Text(role))) => (&**role, key),
        Some((key, other)) => return Err(format!("\"{key}\" is {}, not a string", other.kind())),
        None => return Err("it has no \"role\" (or \"from\")".to_owned()),
    };
    let role = match usual(role) {
        Some(role) => role,
        // In this format speakers have fixed names; a template would not know another one.
        None if role_name == "from" => {
            return Err(format!(
                "\"from\" is {}, which is not a known speaker such as \"human\" or \"gpt\"",
                quoted(role)
            ));
        }
        None => {
            columns.roles.add(role);
            role
        }
    };
    for call in ["tool_calls", "function_call"] {
        if get(fields, call)?.is_some_and(|calls| *calls != Json::List(Vec::new())) {
            return Err(format!("it has \"{call}\", which kinglet cannot turn into text"));
        }
    }
    let (content_name, content) = match one_of(fields, &["content", "value"])? {
        Some((key, value)) => (key, content(key, value)?),
        None => return Err("its \"content\" is null or missing".to_owned()),
    };
    let learned = learned(fields)?;
    for (name, value) in fields {
        if *value != Json::Null && ![role_name, content_name, "weight"].contains(&&**name) {
            columns.of_messages.add(name);
        }
    }
    Ok(Message { learned, ..Message::new(role, &content) })
}

/// The text of a message, which may come in parts.
fn content(key: &str, value: &Json) -> Result<String, String> {
    let Json::List(parts) = value else { return words(&quoted(key), value) };
    let mut text = String::new();
    for (i, part) in parts.iter().enumerate() {
        let at = format!("part {} of \"{key}\"", i + 1);
        let Json::Object(fields) = part else { return Err(format!("{at} is {}, not an object", part.kind())) };
        match (get(fields, "type")?, get(fields, "text")?) {
            (Some(Json::Text(kind)), Some(said)) if kind == "text" => text += &words(&at, said)?,
            (Some(Json::Text(kind)), _) => return Err(format!("{at} has the type {}, not \"text\"", quoted(kind))),
            _ => return Err(format!("{at} has no \"type\"")),
        }
    }
    if parts.is_empty() { Err(format!("\"{key}\" is an empty list")) } else { Ok(text) }
}

/// Whether a message counts, by OpenAI's `weight`.
fn learned(fields: &Fields) -> Result<bool, String> {
    let weight = match get(fields, "weight")? {
        None => return Ok(true),
        Some(Json::Plain(text)) => text.parse::<f64>().ok(),
        Some(_) => None,
    };
    match weight {
        Some(0.0) => Ok(false),
        Some(1.0) => Ok(true),
        _ => Err("its \"weight\" must be 0 or 1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::source::json::Parser;
    use kinglet_core::config::InvalidUtf8;

    fn rules(conversations: bool) -> Rules {
        Rules {
            field: "text".to_owned(),
            conversations,
            invalid_utf8: InvalidUtf8::Error,
            skip_bad: false,
            longest: 1 << 20,
        }
    }

    fn of(json: &str, conversations: bool) -> Result<Piece, String> {
        let Json::Object(fields) = Parser::new(json, false).only().unwrap() else { panic!("{json}") };
        piece(&rules(conversations), &fields, &mut Columns::default())
    }

    /// `u: question a: answer`, and so on; an answer that is not learned stands in brackets.
    fn said(json: &str) -> String {
        let Piece::Messages(messages) = of(json, false).unwrap_or_else(|error| panic!("{json}: {error}")) else {
            panic!("{json}")
        };
        let one = |m: &Message| {
            let text = format!("{}: {}", &m.role[..1], m.content);
            if m.learned { text } else { format!("({text})") }
        };
        messages.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_usual_records_are_conversations() {
        for (json, want) in [
            (r#"{"prompt": "a", "response": "b"}"#, "u: a a: b"),
            (r#"{"prompt": "a", "completion": "b"}"#, "u: a a: b"),
            (r#"{"instruction": "a", "input": "c", "output": "b"}"#, "u: a\nc a: b"),
            (r#"{"instruction": "a", "input": "", "output": "b"}"#, "u: a a: b"),
            (r#"{"instruction": "", "input": "c", "output": "b"}"#, "u: c a: b"),
            (r#"{"input": "c", "output": "b"}"#, "u: c a: b"),
            (r#"{"prompt": null, "instruction": "a", "output": "b"}"#, "u: a a: b"),
            (r#"{"prompt": "", "instruction": "a", "output": "b"}"#, "u: a a: b"),
            (r#"{"question": "a", "answer": "b"}"#, "u: a a: b"),
            (r#"{"question": "a", "context": "c", "answer": "b"}"#, "u: a\nc a: b"),
            (r#"{"instruction": "a", "context": "", "response": "b", "category": "x"}"#, "u: a a: b"),
            (r#"{"conversations": [{"from": "prompter", "value": "a"}, {"from": "AI", "value": "b"}]}"#, "u: a a: b"),
            // A number is its text, as it is written.
            (r#"{"instruction": "a", "input": 3.50, "output": 1e3}"#, "u: a\n3.50 a: 1e3"),
            (r#"{"prompt": 0, "response": true}"#, "u: 0 a: true"),
            (r#"{"system": "s", "instruction": "a", "input": null, "output": "b"}"#, "s: s u: a a: b"),
            (
                r#"{"system": "", "history": [["p", "q"], ["r", 2]], "instruction": "a", "output": "b"}"#,
                "u: p a: q u: r a: 2 u: a a: b",
            ),
            (r#"{"history": [], "instruction": "a", "output": ""}"#, "u: a a: "),
            (r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#, "u: a a: b"),
            (
                r#"{"id": "x", "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}"#,
                "s: s u: a a: b",
            ),
            (
                r#"{"system": "s", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}"#,
                "s: s u: a a: b",
            ),
            (
                r#"{"prompt": "a", "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                   {"role": "assistant", "content": "c", "tool_calls": null, "name": null}]}"#,
                "u: ab a: c",
            ),
            (
                r#"{"messages": [{"role": "user", "content": "a", "weight": 1}, {"role": "assistant", "content": "b", "weight": 0},
                   {"role": "user", "content": "c"}, {"role": "assistant", "content": "d", "weight": 1.0}]}"#,
                "u: a (a: b) u: c a: d",
            ),
            (
                r#"{"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}"#,
                "u: a a: b",
            ),
            (r#"{"text": null, "prompt": "a", "response": "b", "score": NaN}"#, "u: a a: b"),
            (
                r#"{"messages": [{"role": "SYSTEM", "content": "s"}, {"from": "Human", "value": "a"}, {"role": "Assistant ", "content": "b"},
                   {"role": " User", "content": "c"}, {"from": "GPT", "value": "d"}, {"role": "critic", "content": "e"}]}"#,
                "s: s u: a a: b u: c a: d c: e",
            ),
        ] {
            assert_eq!(said(json), want, "{json}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (json, message) in [
            (r#"{"instruction": "Double it.", "prompt": "1", "response": "2"}"#, "both \"prompt\" and \"instruction\""),
            (r#"{"prompt": "a", "response": "b", "output": "c"}"#, "both \"response\" and \"output\""),
            (r#"{"prompt": "a", "prompt": "b", "response": "c"}"#, "\"prompt\" occurs twice"),
            (r#"{"prompt": "a", "response": null}"#, "\"response\" is null"),
            (r#"{"prompt": null, "response": "a"}"#, "\"prompt\" is null"),
            (r#"{"prompt": "a", "response": {}}"#, "\"response\" is an object"),
            (r#"{"prompt": "a", "response": NaN}"#, "\"response\" is NaN"),
            (r#"{"prompt": "a"}"#, "it has \"prompt\" but none of \"response\""),
            (r#"{"prompt": "a", "response": "b", "history": ["c"]}"#, "\"history\" is not a list of pairs"),
            (r#"{"question": "a", "answer": "b", "context": ["c"]}"#, "\"context\" is a list"),
            (
                r#"{"conversations": [{"from": "human", "value": "a"}, {"from": "critic", "value": "b"}]}"#,
                "message 2: \"from\" is \"critic\", which is not a known speaker",
            ),
            (r#"{"prompt": "a", "response": "b", "system": ["c"]}"#, "\"system\" is a list"),
            (r#"{"text": null}"#, "\"text\" is null"),
            (r#"{"text": 3}"#, "\"text\" is a number, not a string"),
            (r#"{"text": NaN}"#, "\"text\" is NaN, not a string"),
            (r#"{"text": "a", "text": "b"}"#, "\"text\" occurs twice"),
            (r#"{"ข้อความ": "a"}"#, "choose a field with --field: \"ข้อความ\""),
            (r#"{"messages": 3}"#, "\"messages\" is not a list"),
            (r#"{"messages": []}"#, "nothing to learn"),
            (r#"{"messages": ["a"]}"#, "message 1: it is a string"),
            (r#"{"messages": [{"role": "user"}]}"#, "message 1: its \"content\" is null or missing"),
            (r#"{"messages": [{"content": "a"}]}"#, "message 1: it has no \"role\""),
            (r#"{"messages": [{"role": " ", "content": "a"}]}"#, "message 1: its \"role\" is empty"),
            (r#"{"messages": [{"role": "assistant", "content": null}]}"#, "message 1: its \"content\" is null"),
            (
                r#"{"messages": [{"role": "assistant", "content": null, "tool_calls": [{}]}]}"#,
                "message 1: it has \"tool_calls\"",
            ),
            (
                r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]}]}"#,
                "message 1: part 2 of \"content\" has the type \"image_url\"",
            ),
            (
                r#"{"messages": [{"role": "assistant", "content": "a", "weight": 0.5}]}"#,
                "its \"weight\" must be 0 or 1",
            ),
            (
                r#"{"messages": [{"role": "assistant", "content": "a"}], "conversations": [{}]}"#,
                "both \"messages\" and \"conversations\"",
            ),
            (
                r#"{"system": "s", "messages": [{"role": "system", "content": "a"}]}"#,
                "both \"system\" and a first message",
            ),
        ] {
            let error = of(json, false).unwrap_err();
            assert!(error.contains(message), "{json}: {error}");
        }
    }

    #[test]
    fn a_text_beside_a_conversation_is_for_training_and_the_conversation_for_fine_tuning() {
        let both = r#"{"instruction": "a", "output": "b", "text": "a b"}"#;
        assert_eq!(of(both, false).unwrap(), Piece::Text { text: "a b".into(), end: true });
        assert_eq!(
            of(both, true).unwrap(),
            Piece::Messages(vec![Message::new("user", "a"), Message::new(ASSISTANT, "b")])
        );
        assert_eq!(of(r#"{"text": "a", "prompt": "b"}"#, true).unwrap(), Piece::Text { text: "a".into(), end: true });
    }
}
