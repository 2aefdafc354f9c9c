//! GPT-2's words, each of which byte pair encoding encodes independently.
//!
//! One pass over the text finds what the pattern
//!
//! ```text
//! 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//! ```
//!
//! matches, and caches the tokens of words seen before. Hugging Face's library runs a general regex engine for each
//! word and copies the word several times.

use super::long_words::Merges;
use crate::text::tokenizer::{class::CharClass as Class, json::byte_char};
use kinglet_core::error::{Error, Result};
use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, OnceLock, PoisonError},
};
use tokenizers::{Model, ModelWrapper, PreTokenizerWrapper, utils::SysRegex};

/// Words cached per thread. A full cache is cleared, so that rare words do not occupy it forever.
const REMEMBERED: usize = 1 << 16;

/// Longest word worth caching, in bytes.
const LONGEST: usize = 64;

/// From how many bytes on a word is encoded here and not by the library.
const LONG: usize = 1 << 13;

/// Encodes exactly like a given Hugging Face tokenizer, but faster.
#[derive(Debug)]
pub(super) struct Words {
    /// The special token, at which the text is split before looking for words.
    special: Option<(String, u32)>,
    byte_chars: [char; 256],
    /// For long words, made when one comes; `None` if they are not what the model does.
    merges: OnceLock<Option<Merges>>,
    /// A pool of caches, one for each thread that encodes concurrently.
    memories: Mutex<Vec<Memory>>,
}

/// A cache: for each word, the range of its tokens in `ids`.
#[derive(Debug, Default)]
struct Memory {
    words: HashMap<Box<str>, (usize, usize)>,
    ids: Vec<u32>,
}

impl Words {
    /// `None` if this tokenizer does anything except byte pair encoding of GPT-2's words with at most one special
    /// token.
    pub(super) fn of(tokenizer: &tokenizers::Tokenizer) -> Option<Words> {
        let mut added = tokenizer.get_added_tokens_decoder().into_iter();
        let special = added.next();
        let plain = special
            .as_ref()
            .is_none_or(|(_, token)| !token.single_word && !token.lstrip && !token.rstrip && !token.content.is_empty());
        let words = match tokenizer.get_pre_tokenizer() {
            Some(PreTokenizerWrapper::ByteLevel(level)) => level.use_regex && !level.add_prefix_space,
            _ => false,
        };
        let fixed = matches!(tokenizer.get_model(), ModelWrapper::BPE(bpe) if bpe.dropout.is_none());
        if added.next().is_some() || tokenizer.get_normalizer().is_some() || !plain || !words || !fixed {
            return None;
        }
        Some(Words {
            special: special.map(|(id, token)| (token.content, id)),
            byte_chars: std::array::from_fn(|byte| byte_char(byte as u8)),
            merges: OnceLock::new(),
            memories: Mutex::default(),
        })
    }

    /// See [`crate::text::tokenizer::Tokenizer::word_classes`].
    pub(super) fn classes(&self) -> Vec<(u32, Class)> {
        let mut ranges: Vec<(u32, Class)> = Vec::new();
        for c in '\0'..=char::MAX {
            let class = class_of(c);
            if ranges.last().is_none_or(|(_, last)| *last != class) {
                ranges.push((c as u32, class));
            }
        }
        ranges
    }

    /// Encodes text as ids; `tokenizer` must be the one passed to [`Words::of`].
    pub(super) fn encode(&self, text: &str, tokenizer: &tokenizers::Tokenizer) -> Result<Vec<u32>> {
        let memories = || self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        let mut memory = memories().pop().unwrap_or_default();
        let mut ids = Vec::with_capacity(text.len() / 3);
        let mut encode = |part: &str, ids: &mut Vec<u32>| {
            words(part).try_for_each(|word| self.add(word, tokenizer, &mut memory, ids))
        };
        let encoded = match &self.special {
            None => encode(text, &mut ids),
            Some((special, id)) => text.split(special.as_str()).enumerate().try_for_each(|(i, part)| {
                ids.extend((i > 0).then_some(*id));
                encode(part, &mut ids)
            }),
        };
        memories().push(memory);
        encoded.map(|()| ids)
    }

    /// Appends the tokens of a word.
    fn add(
        &self,
        word: &str,
        tokenizer: &tokenizers::Tokenizer,
        memory: &mut Memory,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        if let Some(&(start, end)) = memory.words.get(word) {
            ids.extend(&memory.ids[start..end]);
            return Ok(());
        }
        if word.len() >= LONG
            && let ModelWrapper::BPE(bpe) = tokenizer.get_model()
            && let Some(merges) = self.merges.get_or_init(|| Merges::of(bpe))
        {
            merges.encode(word.as_bytes(), ids);
            return Ok(());
        }
        let written: String = word.bytes().map(|byte| self.byte_chars[usize::from(byte)]).collect();
        let tokens = tokenizer.get_model().tokenize(&written);
        let tokens = tokens.map_err(|error| Error::Text(format!("cannot encode: {error}")))?;
        let first = ids.len();
        ids.extend(tokens.iter().map(|token| token.id));
        if word.len() <= LONGEST {
            if memory.words.len() == REMEMBERED {
                memory.words.clear();
                memory.ids.clear();
            }
            let start = memory.ids.len();
            memory.ids.extend(&ids[first..]);
            memory.words.insert(word.into(), (start, memory.ids.len()));
        }
        Ok(())
    }
}

/// The words of a text; concatenated, they give the text.
pub(super) fn words(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let (word, rest) = text.split_at(first_word(text));
        text = rest;
        (!word.is_empty()).then_some(word)
    })
}

/// Length of the first word, in bytes.
fn first_word(text: &str) -> usize {
    if text.starts_with('\'')
        && let Some(found) = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"].iter().find(|end| text.starts_with(**end))
    {
        return found.len();
    }
    let mut chars = text.chars().map(|c| (class_of(c), c.len_utf8()));
    let Some((mut class, len)) = chars.next() else { return 0 };
    let (mut last, mut end) = (0, len);
    let mut next = chars.next();
    // A space belongs to the word after it.
    if let Some((second, len)) = next
        && text.starts_with(' ')
        && second != Class::Blank
    {
        (class, last, end) = (second, end, end + len);
        next = chars.next();
    }
    while let Some((_, len)) = next.filter(|(found, _)| *found == class) {
        (last, end) = (end, end + len);
        next = chars.next();
    }
    // The last of several white-space characters is left to the following word.
    if class == Class::Blank && next.is_some() && last > 0 { last } else { end }
}

/// Code points per page of the class table.
const PAGE: usize = 1 << 8;
const PAGES: usize = (char::MAX as usize + 1) / PAGE;

fn class_of(c: char) -> Class {
    // Boxed, or a megabyte of nothing would be in the program.
    static TABLE: [OnceLock<Box<[Class; PAGE]>>; PAGES] = [const { OnceLock::new() }; PAGES];
    let (page, at) = (c as usize / PAGE, c as usize % PAGE);
    let look_up = || Box::new(std::array::from_fn(|at| look_up((page * PAGE + at) as u32)));
    TABLE[page].get_or_init(look_up)[at]
}

/// Uses the library's own regex engine, so that the Unicode version is the same.
fn look_up(c: u32) -> Class {
    static PATTERNS: LazyLock<[(SysRegex, Class); 3]> = LazyLock::new(|| {
        [("\\p{L}", Class::Letter), ("\\p{N}", Class::Number), ("\\s", Class::Blank)]
            .map(|(pattern, class)| (SysRegex::new(pattern).expect("a pattern"), class))
    });
    let Some(c) = char::from_u32(c).map(String::from) else { return Class::Other };
    let found = PATTERNS.iter().find(|(pattern, _)| pattern.find_iter(&c).next().is_some());
    found.map_or(Class::Other, |(_, class)| *class)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    fn matched(text: &str) -> Vec<&str> {
        let pattern = SysRegex::new(PATTERN).unwrap();
        pattern.find_iter(text).map(|(start, end)| &text[start..end]).collect()
    }

    #[test]
    fn words_are_those_of_the_pattern() {
        for text in [
            "",
            " ",
            "  ",
            "\n",
            "a",
            " a",
            "  a",
            "\u{a0}a",
            "\u{a0} a",
            " \u{a0}a",
            "a  ",
            "x\n\n y",
            "x \r\n\t y",
            "it's 'tis 'S '",
            "'''s",
            " 's",
            "we'll've",
            "3.14 x²",
            "½ ٣ Ⅷ",
            "e\u{301}",
            "日本 語",
            "👩\u{200d}👧 🇩🇪",
            "\u{85}\u{2028}b",
            "\u{1c}c",
        ] {
            assert_eq!(words(text).collect::<Vec<_>>(), matched(text), "{text:?}");
        }
    }

    #[test]
    fn every_character_is_of_the_class_it_has_in_the_pattern() {
        // Between a letter, a digit and a sign, a character shows what it is; by pages, so that a failure says where.
        for page in 0..PAGES as u32 {
            let chars = (0..PAGE as u32).filter_map(|at| char::from_u32(page * PAGE as u32 + at));
            let text: String = chars.flat_map(|c| ['a', c, '1', c, '+', c]).collect();
            assert_eq!(words(&text).collect::<Vec<_>>(), matched(&text), "page {page:#x}");
        }
    }

    proptest! {
        #[test]
        fn words_of_any_text_are_those_of_the_pattern(
            text in "([ \\t\\r\\n\u{a0}\u{3000}]|[a-z]|'[a-z]|\\PC|[0-9])*",
            any in any::<String>(),
        ) {
            let text = text + &any;
            prop_assert_eq!(words(&text).collect::<Vec<_>>(), matched(&text));
        }
    }
}
