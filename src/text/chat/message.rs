//! Messages of a conversation.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The role whose messages are trained on.
pub const ASSISTANT: &str = "assistant";

/// A message in a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Usually `system`, `user` or `assistant`.
    pub role: String,
    /// The text of the message.
    pub content: String,
    /// Whether a message of the assistant counts in the loss; others never do.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub learned: bool,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_yes(learned: &bool) -> bool {
    *learned
}

impl Message {
    /// Creates a message.
    pub fn new(role: &str, content: &str) -> Message {
        Message { role: role.to_owned(), content: content.to_owned(), learned: true }
    }

    /// The conversation in a JSON object, if there is one: `messages`, or `prompt` (or `instruction`, with `input`) and
    /// `response` (or `completion`, or `output`).
    pub(crate) fn of_record(object: &Map<String, Value>) -> Option<Result<Vec<Message>, String>> {
        if let Some(messages) = object.get("messages") {
            let parsed = Vec::<Message>::deserialize(messages);
            return Some(match parsed {
                Ok(messages) if messages.iter().any(|message| message.role == ASSISTANT) => Ok(messages),
                Ok(_) => Err("no message has the role \"assistant\": there is nothing to learn".into()),
                Err(error) => Err(format!("\"messages\" must be a list of {{\"role\", \"content\"}}: {error}")),
            });
        }
        // Prefer a key whose value is a string.
        let find = |keys: &[&'static str]| {
            let string = |key: &&str| object.get(*key).is_some_and(Value::is_string);
            keys.iter().copied().find(string).or_else(|| keys.iter().copied().find(|key| object.contains_key(*key)))
        };
        let keys = (find(&["prompt", "instruction"])?, find(&["response", "completion", "output"])?);
        let (Some(prompt), Some(response)) = (object[keys.0].as_str(), object[keys.1].as_str()) else {
            return Some(Err(format!("{:?} and {:?} must both be strings", keys.0, keys.1)));
        };
        let input = object.get("input").and_then(Value::as_str).filter(|input| !input.is_empty());
        let prompt = input.map_or(prompt.to_owned(), |input| format!("{prompt}\n{input}"));
        Some(Ok(vec![Message::new("user", &prompt), Message::new(ASSISTANT, response)]))
    }
}
