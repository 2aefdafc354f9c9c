//! What GPT-2's pattern for words tells apart.

/// What kind of character a code point is for GPT-2's pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CharClass {
    /// None of the others.
    Other,
    /// `\p{L}`
    Letter,
    /// `\p{N}`
    Number,
    /// `\s`
    Blank,
}
