//! Where a tokenizer allows text to be cut.

/// Where the text of a document may be cut into pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cuts {
    /// Nowhere.
    Whole,
    /// At a line end between two characters that are neither white space nor control characters. At `\r\n` the cut is
    /// before the `\n`, where GPT-2's words end.
    AtLines,
    /// Between any two characters, except inside `<|endoftext|>`.
    Anywhere,
}
