//! Text to token ids and back. One token for each character, in code point order, as published.
//!
//! The file is a Hugging Face `tokenizer.json`, so that Python's `tokenizers` reads it too.

use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::{collections::BTreeSet, fmt::Write as _};

/// The character tokenizer: token `i` is the `i`-th of the sorted distinct characters of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CharTokenizer {
    chars: Vec<char>,
}

impl CharTokenizer {
    /// The tokenizer whose vocabulary is the characters of `text`.
    pub fn train(text: &str) -> CharTokenizer {
        // Through a table for the code points that most texts are made of; the set is for the others.
        let (mut common, mut rare) = ([false; 0x3000], BTreeSet::new());
        for c in text.chars() {
            match common.get_mut(c as usize) {
                Some(seen) => *seen = true,
                None => _ = rare.insert(c),
            }
        }
        let common = (0..0x3000).filter(|&c| common[c as usize]).filter_map(char::from_u32);
        CharTokenizer { chars: common.chain(rare).collect() }
    }

    /// Words in the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.chars.len()
    }

    /// The vocabulary, in the order of the ids.
    pub fn chars(&self) -> &[char] {
        &self.chars
    }

    /// Text to ids.
    ///
    /// # Errors
    /// Names the characters that are not in the vocabulary, each with one that is and resembles it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len());
        let mut unknown = BTreeSet::new();
        let mut ascii = [None; 128];
        for (id, &c) in self.chars.iter().enumerate().take_while(|(_, c)| c.is_ascii()) {
            ascii[c as usize] = Some(id as u32);
        }
        for c in text.chars() {
            let id =
                if c.is_ascii() { ascii[c as usize] } else { self.chars.binary_search(&c).ok().map(|id| id as u32) };
            match id {
                Some(id) => ids.push(id),
                None => _ = unknown.insert(c),
            }
        }
        if unknown.is_empty() { Ok(ids) } else { Err(self.unknown(&unknown)) }
    }

    /// Ids to text; ids beyond the vocabulary (a model may have more words than its tokenizer) become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        ids.iter().map(|&id| self.chars.get(id as usize).copied().unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    }

    fn unknown(&self, unknown: &BTreeSet<char>) -> Error {
        let mut message = String::from("not in the vocabulary of this model:");
        for &c in unknown.iter().take(8) {
            let name =
                unicode_names2::name(c).map_or_else(|| "a control character".to_owned(), |name| name.to_string());
            let _ = write!(message, " {c:?} (U+{:04X}, {name})", c as u32);
            if let Some(other) = self.resembling(c) {
                let _ = write!(message, ", try {other:?}");
            }
            message.push(';');
        }
        if unknown.len() > 8 {
            let _ = write!(message, " and {} more;", unknown.len() - 8);
        }
        let shown: String = self.chars.iter().filter(|c| !c.is_control()).take(100).collect();
        let _ = write!(message, " it knows: {shown}");
        if self.chars.iter().filter(|c| !c.is_control()).count() > 100 {
            message.push('…');
        }
        Error::Text(message)
    }

    /// A known replacement: the other case, or the plain ASCII spelling.
    fn resembling(&self, c: char) -> Option<String> {
        let cases = [c.to_lowercase().to_string(), c.to_uppercase().to_string()];
        let ascii = deunicode::deunicode_char(c).map(str::to_owned);
        let knows = |text: &String| {
            !text.is_empty() && *text != c.to_string() && text.chars().all(|c| self.chars.binary_search(&c).is_ok())
        };
        cases.into_iter().chain(ascii).find(knows)
    }

    /// The tokenizer as a Hugging Face `tokenizer.json`.
    pub fn to_json(&self) -> String {
        let vocab: Map<_, _> = self.chars.iter().enumerate().map(|(id, c)| (c.to_string(), json!(id))).collect();
        let file = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": [],
            "normalizer": null,
            "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": false},
            "post_processor": null,
            "decoder": {"type": "Fuse"},
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
        });
        serde_json::to_string_pretty(&file).expect("a JSON value")
    }

    /// Reads what [`CharTokenizer::to_json`] wrote.
    ///
    /// # Errors
    /// If the text is not such a file; the message says what is wrong with it.
    pub fn from_json(text: &str) -> Result<CharTokenizer> {
        let bad = |what: &str| Error::Data(format!("not a character tokenizer: {what}"));
        let file: Value = serde_json::from_str(text).map_err(|error| bad(&error.to_string()))?;
        let vocab = file.pointer("/model/vocab").and_then(Value::as_object).ok_or_else(|| bad("no model.vocab"))?;
        let mut chars = Vec::with_capacity(vocab.len());
        for (i, (token, id)) in vocab.iter().enumerate() {
            let mut token = token.chars();
            let (Some(c), None) = (token.next(), token.next()) else {
                return Err(bad(&format!("token {i} is not one character")));
            };
            if id.as_u64() != Some(i as u64) || chars.last().is_some_and(|&last| last >= c) {
                return Err(bad(&format!("token {i} is out of order")));
            }
            chars.push(c);
        }
        if chars.is_empty() { Err(bad("its vocabulary is empty")) } else { Ok(CharTokenizer { chars }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_follow_code_points() {
        let tokenizer = CharTokenizer::train("hello\nWörld 🐦");
        assert_eq!(tokenizer.chars().iter().collect::<String>(), "\n Wdehlorö🐦");
        assert_eq!(tokenizer.encode("\n W🐦").unwrap(), [0, 1, 2, 10]);
        assert_eq!(tokenizer.decode(&[0, 1, 2, 10, 11]), "\n W🐦\u{fffd}");
    }

    #[test]
    fn unknown_characters_are_named_and_replacements_suggested() {
        let message = CharTokenizer::train("abe\"").encode("éaB“Z").unwrap_err().to_string();
        assert_eq!(
            message,
            "not in the vocabulary of this model: 'B' (U+0042, LATIN CAPITAL LETTER B), try \"b\"; \
             'Z' (U+005A, LATIN CAPITAL LETTER Z); 'é' (U+00E9, LATIN SMALL LETTER E WITH ACUTE), try \"e\"; \
             '“' (U+201C, LEFT DOUBLE QUOTATION MARK), try \"\\\"\"; it knows: \"abe"
        );
    }

    #[test]
    fn damaged_files_are_refused() {
        let good = CharTokenizer::train("abc").to_json();
        for (from, to, message) in [
            ("\"a\": 0", "\"a\": 5", "out of order"),
            ("\"a\"", "\"ab\"", "not one character"),
            ("\"vocab\"", "\"words\"", "no model.vocab"),
            ("{", "", "not a character tokenizer"),
        ] {
            let error = CharTokenizer::from_json(&good.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_goes_round(text in "\\PC*", more in proptest::collection::vec(any::<char>(), 1..50)) {
            let text = text + &more.into_iter().collect::<String>();
            let tokenizer = CharTokenizer::train(&text);
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids), text);
            prop_assert_eq!(CharTokenizer::from_json(&tokenizer.to_json()).unwrap(), tokenizer);
        }
    }
}
