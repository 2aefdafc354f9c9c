//! What a corpus consists of.

use crate::text::chat::Message;

/// A piece of a corpus.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Text of a document.
    Text {
        /// The text.
        text: String,
        /// Whether the document ends here.
        end: bool,
    },
    /// A conversation: a document with answers by the assistant.
    Messages(Vec<Message>),
}

impl Piece {
    /// Whether there is no text in it.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Piece::Text { text, .. } => text.is_empty(),
            Piece::Messages(messages) => messages.iter().all(|message| message.content.is_empty()),
        }
    }

    /// Whether there is a zero in it, which no text has.
    pub(super) fn has_zero(&self) -> bool {
        match self {
            Piece::Text { text, .. } => text.contains('\0'),
            Piece::Messages(messages) => {
                messages.iter().any(|message| message.content.contains('\0') || message.role.contains('\0'))
            }
        }
    }
}
