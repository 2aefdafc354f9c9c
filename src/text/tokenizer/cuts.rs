//! Where a tokenizer lets a text be cut.

/// Where the text of a document may be cut into pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cuts {
    /// Nowhere.
    Whole,
    /// At a line end between two characters that are neither blank nor control characters; at `\r\n` before its last
    /// character, where GPT-2's words end.
    AtLines,
    /// Between any two characters that are not both of `<|endoftext|>`.
    Anywhere,
}
