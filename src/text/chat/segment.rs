//! The text of a conversation in parts, and its tokens. Special tokens are only those that the template writes: what
//! looks like one inside a message is text.

use crate::text::tokenizer::Tokenizer;
use kinglet_core::error::Result;

/// A part of a conversation's text, and whether the assistant says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The text.
    pub text: String,
    /// Whether its tokens count in the loss.
    pub learned: bool,
    /// Where in the text something looks like a special token and is none, because it is from a message.
    pub(super) plain: Vec<usize>,
    /// For what the assistant says: how many bytes at the end are the template's, if that is known.
    pub(super) tail: Option<usize>,
}

impl Segment {
    /// A part of a rendered text, in which `mark` stands before what looks like a special token and is none.
    pub(super) fn of_marked(text: &str, mark: Option<char>, learned: bool, tail: Option<usize>) -> Segment {
        let mut segment = Segment { text: String::with_capacity(text.len()), learned, plain: Vec::new(), tail };
        for (i, part) in mark.map_or(vec![text], |mark| text.split(mark).collect()).into_iter().enumerate() {
            segment.plain.extend((i > 0).then_some(segment.text.len()));
            segment.text += part;
        }
        segment
    }

    /// Its tokens.
    ///
    /// # Errors
    /// If a character is unknown to the tokenizer.
    pub(crate) fn encode(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        if self.plain.is_empty() {
            return tokenizer.encode(&self.text);
        }
        let mut ids = Vec::new();
        for written in Special::of(tokenizer).divide(self) {
            match written {
                Written::Text(text) => ids.extend(tokenizer.encode_text(text)?),
                Written::Token(id) => ids.push(id),
            }
        }
        Ok(ids)
    }
}

/// The tokens of a conversation, and for each whether it counts in the loss. Parts are encoded separately, because at
/// inference the prompt is encoded before the answer exists. A begin-of-text token stands before them, if the model has
/// one and the template does not write it itself.
///
/// # Errors
/// If a character is unknown to the tokenizer.
pub fn encode(parts: &[Segment], tokenizer: &Tokenizer) -> Result<(Vec<u32>, Vec<bool>)> {
    let (mut ids, mut learned) = (Vec::new(), Vec::new());
    for part in parts {
        ids.extend(part.encode(tokenizer)?);
        learned.resize(ids.len(), part.learned);
    }
    let ids = tokenizer.begun(ids);
    learned.splice(0..0, vec![false; ids.len() - learned.len()]);
    Ok((ids, learned))
}

/// How special tokens are written.
#[derive(Clone, Debug, Default)]
pub(super) struct Special {
    /// The longest first.
    tokens: Vec<(String, u32)>,
    /// The characters that one begins with.
    firsts: Vec<char>,
}

/// A part of a text with special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written<'a> {
    Text(&'a str),
    Token(u32),
}

impl Special {
    /// The special tokens of a tokenizer.
    pub(super) fn of(tokenizer: &Tokenizer) -> Special {
        Special::new(tokenizer.special_tokens())
    }

    pub(super) fn new(mut tokens: Vec<(String, u32)>) -> Special {
        tokens.retain(|(name, _)| !name.is_empty());
        tokens.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.0.cmp(&b.0)));
        let mut firsts: Vec<char> = tokens.iter().filter_map(|(name, _)| name.chars().next()).collect();
        firsts.sort_unstable();
        firsts.dedup();
        Special { tokens, firsts }
    }

    /// The longest token that a text begins with.
    fn first(&self, text: &str) -> Option<&(String, u32)> {
        self.tokens.iter().find(|(name, _)| text.starts_with(name.as_str()))
    }

    /// Where a token is written out in a text, also inside another.
    fn places<'a>(&'a self, text: &'a str) -> impl Iterator<Item = usize> {
        let begins = text.match_indices(&self.firsts[..]).map(|(at, _)| at);
        begins.filter(|&at| self.first(&text[at..]).is_some())
    }

    /// Whether a text has one written out.
    pub(super) fn is_in(&self, text: &str) -> bool {
        self.places(text).next().is_some()
    }

    /// A text with a mark before each one written out.
    pub(super) fn marked(&self, text: &str, mark: char) -> String {
        let (mut out, mut from) = (String::with_capacity(text.len() + 8), 0);
        for at in self.places(text) {
            out += &text[from..at];
            out.push(mark);
            from = at;
        }
        out + &text[from..]
    }

    /// A part of a conversation, cut at the special tokens that the template wrote.
    pub(super) fn divide<'a>(&self, segment: &'a Segment) -> Vec<Written<'a>> {
        let (text, mut out, mut from) = (segment.text.as_str(), Vec::new(), 0);
        for at in self.places(text) {
            if at < from || segment.plain.binary_search(&at).is_ok() {
                continue;
            }
            let Some((name, id)) = self.first(&text[at..]) else { continue };
            out.extend([Written::Text(&text[from..at]), Written::Token(*id)]);
            from = at + name.len();
        }
        out.push(Written::Text(&text[from..]));
        out.retain(|written| *written != Written::Text(""));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_template_writes_is_told_from_what_looks_like_it() {
        let special =
            Special::new([("<s>", 1), ("</s>", 2), ("<s>x", 3), ("#", 4)].map(|(n, id)| (n.into(), id)).into());
        let marked = format!("<s>{}</s>", special.marked("a<s>x<</s>#<s", 'M'));
        assert_eq!(marked, "<s>aM<s>x<M</s>M#<s</s>");
        let segment = Segment::of_marked(&marked, Some('M'), true, None);
        assert_eq!((segment.text.as_str(), &segment.plain[..]), ("<s>a<s>x<</s>#<s</s>", &[4, 9, 13][..]));
        let (text, token) = (Written::Text, Written::Token);
        assert_eq!(special.divide(&segment), [token(1), text("a<s>x<</s>#<s"), token(2)]);
        let segment = Segment::of_marked("<s>x#a", None, true, None);
        assert_eq!(special.divide(&segment), [token(3), token(4), text("a")]);
        let none = Special::default();
        assert!(!none.is_in("<s>") && none.divide(&segment) == [text("<s>x#a")]);
    }
}
