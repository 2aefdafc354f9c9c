//! Messages of a conversation.

use serde::{Deserialize, Serialize};

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
}
