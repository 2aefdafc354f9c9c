//! Bytes that arrive in parts, as text.

use std::str::from_utf8;

/// Decodes bytes as [`String::from_utf8_lossy`] decodes all of them together, and holds back only the bytes of an
/// unfinished character.
#[derive(Clone, Debug, Default)]
pub(super) struct Lossy {
    held: Vec<u8>,
}

impl Lossy {
    /// Appends the text of these bytes, as far as it is certain.
    pub(super) fn push(&mut self, bytes: &[u8], text: &mut String) {
        self.held.extend(bytes);
        let mut rest = self.held.len();
        for chunk in self.held.utf8_chunks() {
            rest -= chunk.valid().len() + chunk.invalid().len();
            text.push_str(chunk.valid());
            if rest == 0 && from_utf8(chunk.invalid()).is_err_and(|error| error.error_len().is_none()) {
                rest = chunk.invalid().len();
            } else if !chunk.invalid().is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.held.drain(..self.held.len() - rest);
    }

    /// Appends what was held back, when no more bytes follow.
    pub(super) fn finish(&mut self, text: &mut String) {
        text.push_str(&String::from_utf8_lossy(&self.held));
        self.held.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_are_the_whole_and_at_most_three_bytes_wait(
            parts in proptest::collection::vec(proptest::collection::vec(
                prop_oneof![any::<u8>(), Just(0xf0), Just(0x9f), Just(0x90), Just(0xa6), Just(0xed), Just(b'a')], 0..4,
            ), 0..40),
        ) {
            let (mut lossy, mut text) = (Lossy::default(), String::new());
            for part in &parts {
                lossy.push(part, &mut text);
                prop_assert!(lossy.held.len() < 4);
            }
            lossy.finish(&mut text);
            prop_assert_eq!(text, String::from_utf8_lossy(&parts.concat()).into_owned());
        }
    }
}
