//! Conversations of a ChatGPT export: `conversations.json`, where a conversation is a tree of messages.
//!
//! A message that was edited or answered again has several children. What the user last saw is the path from
//! `current_node` up to the root. Of that path the visible text is read, and what is left out is counted.

use super::json::{Fields, Json, get};
use crate::text::{
    chat::{ASSISTANT, Message},
    names::{many, quoted},
};
use std::collections::HashMap;

/// The tree of messages, by their ids.
pub(super) const MAPPING: &str = "mapping";
/// The id of the message that was shown last.
pub(super) const CURRENT: &str = "current_node";

/// What is left out of conversations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Left {
    hidden: u64,
    tools: u64,
    thoughts: u64,
    empty: u64,
    parts: u64,
    branches: u64,
    joined: u64,
    /// Conversations in which nothing remains to be learned.
    pub(super) unanswered: u64,
}

impl Left {
    /// Adds what another source has.
    pub(super) fn add(&mut self, other: &Left) {
        self.hidden += other.hidden;
        self.tools += other.tools;
        self.thoughts += other.thoughts;
        self.empty += other.empty;
        self.parts += other.parts;
        self.branches += other.branches;
        self.joined += other.joined;
        self.unanswered += other.unanswered;
    }

    /// The notes for the user.
    pub(super) fn notes(&self) -> Vec<String> {
        let counted = [
            (self.unanswered, "conversation without an answer", "conversations without an answer"),
            (self.hidden, "hidden or system message", "hidden or system messages"),
            (self.tools, "message to or from a tool", "messages to or from tools"),
            (self.thoughts, "reasoning or other message", "reasoning and other messages"),
            (self.empty, "empty message", "empty messages"),
            (self.parts, "message part that is not text", "message parts that are not text"),
            (self.branches, "message on an abandoned branch", "messages on abandoned branches"),
        ];
        let left: Vec<_> =
            counted.into_iter().filter(|(n, ..)| *n > 0).map(|(n, one, several)| many(n, one, several)).collect();
        let left = (!left.is_empty()).then(|| format!("ChatGPT export: skipped {}", left.join(", ")));
        let joined = (self.joined > 0).then(|| {
            let messages = many(self.joined, "message is", "messages are");
            format!("ChatGPT export: {messages} joined to the previous one, which has the same speaker")
        });
        left.into_iter().chain(joined).collect()
    }
}

/// The messages that the user last saw. There are none where no answer is among them, which is counted.
pub(super) fn conversation(fields: &Fields, left: &mut Left) -> Result<Vec<Message>, String> {
    let Some(Json::Object(nodes)) = get(fields, MAPPING)? else {
        return Err(format!("\"{MAPPING}\" is not an object with messages, as in a ChatGPT export"));
    };
    let path = path(nodes, get(fields, CURRENT)?)?;
    let with_message = nodes.iter().filter(|(_, node)| field(node, "message").is_some()).count();
    let shown = path.iter().filter(|node| field(node, "message").is_some()).count();
    left.branches += (with_message - shown) as u64;
    let mut messages: Vec<Message> = Vec::new();
    for (i, node) in path.into_iter().enumerate() {
        let Some(message) = field(node, "message") else { continue };
        let Some(said) = said(message, left).map_err(|what| format!("message {}: {what}", i + 1))? else { continue };
        match messages.last_mut().filter(|last| last.role == said.role) {
            // An answer around a tool's work, or a message whose answer is left out.
            Some(last) => {
                last.content = format!("{}\n\n{}", last.content, said.content);
                left.joined += 1;
            }
            None => messages.push(said),
        }
    }
    if !messages.iter().any(|message| message.role == ASSISTANT) {
        left.unanswered += 1;
        messages.clear();
    }
    Ok(messages)
}

/// The nodes from the root to the current one.
fn path<'f, 'a>(nodes: &'f Fields<'a>, current: Option<&Json>) -> Result<Vec<&'f Json<'a>>, String> {
    let Some(Json::Text(current)) = current else { return Err(format!("\"{CURRENT}\" is not the id of a message")) };
    let by_id: HashMap<&str, &Json> = nodes.iter().map(|(id, node)| (&**id, node)).collect();
    if by_id.len() < nodes.len() {
        return Err(format!("\"{MAPPING}\" has a duplicate id"));
    }
    let (mut path, mut next) = (Vec::new(), Some(&**current));
    while let Some(id) = next {
        let node = *by_id.get(id).ok_or_else(|| format!("\"{MAPPING}\" has no message {}", quoted(id)))?;
        path.push(node);
        if path.len() > nodes.len() {
            return Err(format!("\"{MAPPING}\": the parents of {} form a cycle", quoted(current)));
        }
        next = field(node, "parent").and_then(text);
    }
    path.reverse();
    Ok(path)
}

/// The text of a visible message of the user or the assistant; `None` if it is left out.
fn said(message: &Json, left: &mut Left) -> Result<Option<Message>, String> {
    let role = field(message, "author").and_then(|author| field(author, "role")).and_then(text);
    let role = role.ok_or("its author has no role")?;
    let hidden = field(message, "metadata").and_then(|about| field(about, "is_visually_hidden_from_conversation"));
    let to_a_tool = role == ASSISTANT && field(message, "recipient").and_then(text).is_some_and(|to| to != "all");
    let content = field(message, "content").ok_or("it has no content")?;
    let kind = field(content, "content_type").and_then(text).ok_or("its content has no content_type")?;
    let counted = match role {
        _ if matches!(hidden, Some(Json::Plain("true"))) => &mut left.hidden,
        "system" => &mut left.hidden,
        "tool" => &mut left.tools,
        _ if to_a_tool => &mut left.tools,
        "user" | ASSISTANT if !["text", "multimodal_text"].contains(&kind) => &mut left.thoughts,
        "user" | ASSISTANT => {
            let text = visible(content, left)?;
            if !text.trim().is_empty() {
                return Ok(Some(Message::new(role, &text)));
            }
            &mut left.empty
        }
        other => {
            return Err(format!("its author has the role {}, which does not occur in a ChatGPT export", quoted(other)));
        }
    };
    *counted += 1;
    Ok(None)
}

/// The parts of a message that are text, on lines of their own.
fn visible(content: &Json, left: &mut Left) -> Result<String, String> {
    let Some(Json::List(parts)) = field(content, "parts") else { return Err("its content has no parts".to_owned()) };
    let texts: Vec<Option<&str>> = parts.iter().map(|part| text(part).or_else(|| heard(part))).collect();
    left.parts += texts.iter().filter(|text| text.is_none()).count() as u64;
    Ok(texts.into_iter().flatten().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n"))
}

/// What was said, in a part of a conversation by voice.
fn heard<'f>(part: &'f Json) -> Option<&'f str> {
    let kind = field(part, "content_type").and_then(text)?;
    field(part, "text").and_then(text).filter(|_| kind == "audio_transcription")
}

/// A field of an object that is there and not null.
fn field<'f, 'a>(value: &'f Json<'a>, name: &str) -> Option<&'f Json<'a>> {
    let Json::Object(fields) = value else { return None };
    get(fields, name).ok().flatten()
}

fn text<'f>(value: &'f Json) -> Option<&'f str> {
    match value {
        Json::Text(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::source::json::Parser;

    fn read(json: &str) -> Result<(Vec<(String, String)>, Left), String> {
        let Json::Object(fields) = Parser::new(json, false).only().unwrap() else { panic!("{json}") };
        let mut left = Left::default();
        let messages = conversation(&fields, &mut left)?;
        Ok((messages.into_iter().map(|message| (message.role, message.content)).collect(), left))
    }

    /// A chain of nodes 0, 1, ..., each with this message, of which the last one was shown last.
    fn chain(messages: &[String]) -> String {
        let node = |(i, message): (usize, &String)| {
            let parent = if i == 0 { "null".to_owned() } else { format!("\"{}\"", i - 1) };
            format!("\"{i}\": {{\"id\": \"{i}\", \"message\": {message}, \"parent\": {parent}, \"children\": []}}")
        };
        let nodes: Vec<_> = messages.iter().enumerate().map(node).collect();
        format!("{{\"{MAPPING}\": {{{}}}, \"{CURRENT}\": \"{}\"}}", nodes.join(", "), messages.len() - 1)
    }

    fn message(role: &str, kind: &str, parts: &str, more: &str) -> String {
        format!(
            "{{\"author\": {{\"role\": \"{role}\"}}, \"content\": {{\"content_type\": \"{kind}\", \"parts\": {parts}}}, \
             \"recipient\": \"all\"{more}}}"
        )
    }

    fn says(role: &str, text: &str) -> String {
        message(role, "text", &format!("[\"{text}\"]"), "")
    }

    #[test]
    fn what_was_shown_is_read_and_the_rest_is_counted() {
        let hidden = ", \"metadata\": {\"is_visually_hidden_from_conversation\": true}";
        let call = says("assistant", "search()").replace("\"all\"", "\"browser\"");
        let heard = "{\"content_type\": \"audio_transcription\", \"text\": \"this\"}";
        let picture =
            message("user", "multimodal_text", &format!("[{{\"asset_pointer\": \"x\"}}, \"see\", {heard}]"), "");
        let tree = chain(&[
            "null".to_owned(),
            says("system", ""),
            message("user", "user_editable_context", "[\"I am Ann\"]", hidden),
            picture,
            message("assistant", "thoughts", "[]", ""),
            says("assistant", "Wait."),
            call,
            says("tool", "found"),
            says("assistant", "A bird."),
            says("user", " "),
        ]);
        let (said, left) = read(&tree).unwrap();
        let want = [("user", "see\nthis"), ("assistant", "Wait.\n\nA bird.")];
        assert_eq!(said, want.map(|(role, text)| (role.to_owned(), text.to_owned())));
        let want = Left { hidden: 2, tools: 2, thoughts: 1, empty: 1, parts: 1, joined: 1, ..Left::default() };
        assert_eq!(left, want);
        let mut twice = left.clone();
        twice.add(&left);
        let notes = twice.notes();
        assert!(notes[0].contains("skipped 4 hidden or system messages, 4 messages to or from tools, "), "{notes:?}");
        assert_eq!(notes[1], "ChatGPT export: 2 messages are joined to the previous one, which has the same speaker");
    }

    #[test]
    fn other_branches_are_left_out() {
        let mut tree = chain(&["null".to_owned(), says("user", "a"), says("assistant", "b"), says("assistant", "c")]);
        // "c" answers "a" as well, and was shown last.
        tree = tree.replace("\"parent\": \"2\"", "\"parent\": \"1\"");
        let (said, left) = read(&tree).unwrap();
        assert_eq!((said.len(), said[1].1.as_str()), (2, "c"));
        assert_eq!(left, Left { branches: 1, ..Left::default() });
        let (said, left) = read(&chain(&["null".to_owned(), says("user", "a")])).unwrap();
        assert!(said.is_empty());
        assert_eq!(left.notes(), ["ChatGPT export: skipped 1 conversation without an answer"]);
    }

    #[test]
    fn what_is_no_such_tree_is_refused() {
        let good = chain(&["null".to_owned(), says("user", "a"), says("assistant", "b")]);
        for (from, to, message) in [
            ("\"parent\": null", "\"parent\": \"2\"", "the parents of \"2\" form a cycle"),
            ("\"parent\": \"0\"", "\"parent\": \"7\"", "\"mapping\" has no message \"7\""),
            ("\"current_node\": \"2\"", "\"current_node\": null", "\"current_node\" is not the id of a message"),
            ("\"role\": \"user\"", "\"role\": \"guest\"", "message 2: its author has the role \"guest\""),
            ("\"role\": \"user\"", "\"name\": \"user\"", "message 2: its author has no role"),
            ("\"parts\": [\"a\"]", "\"text\": \"a\"", "message 2: its content has no parts"),
            ("\"content_type\": \"text\"", "\"kind\": 1", "message 2: its content has no content_type"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good);
            let error = read(&bad).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
        assert!(
            read("{\"mapping\": [], \"current_node\": \"1\"}").unwrap_err().contains("\"mapping\" is not an object")
        );
    }
}
