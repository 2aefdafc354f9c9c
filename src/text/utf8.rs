//! Bytes as text: where they may be cut, and how invalid UTF-8 is handled.

use crate::text::tokenizer::END_OF_TEXT;
use kinglet_core::{
    config::InvalidUtf8,
    error::{Error, Result},
};

/// How far back from the end of a piece to look for a good place to cut, when any place is allowed, in bytes.
pub(super) const NEAR: usize = 1 << 12;

/// Length of the longest UTF-8 character, in bytes.
pub(super) const MOST_OF_CHAR: usize = 4;

/// The last place to cut for [`Cuts::AtLines`], at or after `from`.
pub(super) fn line_to_cut(bytes: &[u8], from: usize) -> Option<usize> {
    let visible = |c: Option<char>| c.is_some_and(|c| !c.is_whitespace() && !c.is_control());
    let mut end = bytes.len();
    while let Some(found) = bytes[from..end].iter().rposition(|&byte| byte == b'\n') {
        let at = from + found;
        let before = bytes[..at].strip_suffix(b"\r");
        if visible(last_char(before.unwrap_or(&bytes[..at]))) && visible(first_char(&bytes[at + 1..])) {
            // GPT-2's pattern leaves the last of two white-space characters to the following word.
            return Some(if before.is_some() { at } else { at + 1 });
        }
        end = at;
    }
    None
}

/// A place to cut for [`Cuts::Anywhere`], near the end; before a space if possible, so that most words stay whole.
pub(super) fn place_to_cut(bytes: &[u8]) -> usize {
    let near = bytes.len().saturating_sub(NEAR);
    if let Some(space) = bytes[near..].iter().rposition(|&byte| byte == b' ') {
        return near + space;
    }
    // The last character may be incomplete. Bytes that are not UTF-8 at all may be cut anywhere.
    let last = bytes.iter().rev().take(MOST_OF_CHAR).position(|byte| byte & 0xC0 != 0x80);
    let place = last.map_or(bytes.len(), |back| bytes.len() - 1 - back);
    let end = END_OF_TEXT.as_bytes();
    let begun = (1..end.len()).rev().find(|&n| bytes[..place].ends_with(&end[..n]));
    place - begun.unwrap_or(0)
}

/// The first character, if the bytes start with a valid one.
fn first_char(bytes: &[u8]) -> Option<char> {
    let first = &bytes[..bytes.len().min(MOST_OF_CHAR)];
    first.utf8_chunks().next()?.valid().chars().next()
}

/// The last character, if the bytes end with a valid one.
fn last_char(bytes: &[u8]) -> Option<char> {
    let start = bytes.iter().rev().take(MOST_OF_CHAR).position(|byte| byte & 0xC0 != 0x80)?;
    let mut chars = std::str::from_utf8(&bytes[bytes.len() - 1 - start..]).ok()?.chars();
    chars.next()
}

fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}

/// Decodes the bytes of a text piece by piece.
pub(super) struct Utf8<'a> {
    source: &'a str,
    policy: Option<InvalidUtf8>,
    /// Where the next bytes are in the source.
    offset: usize,
    pub(super) line: usize,
    /// How often U+FFFD was read for bytes that are not UTF-8.
    pub(super) replaced: u64,
}

impl<'a> Utf8<'a> {
    /// A decoder of what begins at this offset of a source, on its first line. Without a policy, what is no UTF-8 is refused,
    /// and nobody can set anything about it.
    pub(super) fn new(source: &'a str, policy: impl Into<Option<InvalidUtf8>>, offset: usize) -> Utf8<'a> {
        Utf8 { source, policy: policy.into(), offset, line: 1, replaced: 0 }
    }

    /// The next bytes as text. Where they are refused, the next ones have their place all the same.
    pub(super) fn check(&mut self, bytes: Vec<u8>) -> Result<String> {
        let lines = newlines(&bytes);
        let checked = self.check_on_line(bytes);
        self.line += lines;
        checked
    }

    /// The same where the caller counts lines.
    pub(super) fn check_on_line(&mut self, bytes: Vec<u8>) -> Result<String> {
        let (offset, line) = (self.offset, self.line);
        self.offset += bytes.len();
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) if self.policy == Some(InvalidUtf8::Replace) => self.replace(error.as_bytes()),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let (byte, line) = (error.as_bytes()[at], line + newlines(&error.as_bytes()[..at]));
                let or = self.policy.map_or("", |_| ", or set invalid_utf8 = \"replace\"");
                return Err(Error::Data(format!(
                    "{} is not UTF-8 text: byte 0x{byte:02x} at offset {} (line {line}); convert it first, for \
                     example with iconv -f latin1 -t utf-8{or}",
                    self.source,
                    offset + at
                )));
            }
        };
        if let Some(at) = text.find('\0') {
            let (at, line) = (offset + at, line + newlines(&text.as_bytes()[..at]));
            let source = self.source;
            return Err(Error::Data(format!(
                "{source} is a binary file: it contains a zero byte at offset {at} (line {line})"
            )));
        }
        Ok(text)
    }

    fn replace(&mut self, bytes: &[u8]) -> String {
        self.replaced += bytes.utf8_chunks().filter(|chunk| !chunk.invalid().is_empty()).count() as u64;
        String::from_utf8_lossy(bytes).into_owned()
    }
}
