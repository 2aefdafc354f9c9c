//! The tokens that begin and end a text.

use super::{Kind, Tokenizer, json::END_OF_TEXT};
use kinglet_core::error::{Error, Result};

/// A token by its name and its id.
type Named = (String, u32);

/// Which tokens begin and end a text, where a configuration says so.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends {
    begin: Option<Named>,
    end: Option<Named>,
}

impl Tokenizer {
    /// The same tokenizer with these tokens before and behind each text (`bos_token` and `eos_token` of a configuration).
    /// An empty `begin` is none; an empty `end` is the tokenizer's own.
    ///
    /// # Errors
    /// If it has no such token.
    pub fn with_ends(mut self, begin: &str, end: &str) -> Result<Tokenizer> {
        let named = |key: &str, name: &str| match self.id_of(name) {
            _ if name.is_empty() => Ok(None),
            Some(id) => Ok(Some((name.to_owned(), id))),
            None => Err(self.no_such(key, name)),
        };
        self.ends = Ends { begin: named("bos_token", begin)?, end: named("eos_token", end)? };
        Ok(self)
    }

    /// The id of a token by the text it is written as.
    fn id_of(&self, name: &str) -> Option<u32> {
        match &self.kind {
            Kind::Char(_) | Kind::Byte if name == END_OF_TEXT => self.own_end(),
            Kind::Char(chars) => chars.id_of(name),
            Kind::Byte => name.bytes().next().filter(|_| name.len() == 1).map(u32::from),
            Kind::HuggingFace(inner) => inner.id(name),
        }
    }

    /// A token as [`Tokenizer::with_ends`] is told of it.
    pub(crate) fn name_of(&self, id: u32) -> Option<String> {
        match &self.kind {
            Kind::HuggingFace(inner) => inner.token(id),
            Kind::Char(_) | Kind::Byte => self.is_token(id).then(|| self.decode(&[id])),
        }
    }

    fn no_such(&self, key: &str, name: &str) -> Error {
        let special: Vec<_> = self.special_tokens().into_iter().map(|(name, _)| format!("{name:?}")).collect();
        let has = if special.is_empty() { "none".to_owned() } else { special.join(", ") };
        let allowed = format!("\"\" or a token of the tokenizer, whose special tokens are {has}");
        Error::Config { key: key.to_owned(), value: format!("{name:?}"), allowed }
    }

    /// The end-of-text token that the tokenizer itself has.
    pub(super) fn own_end(&self) -> Option<u32> {
        match &self.kind {
            Kind::Char(chars) => chars.end_of_text(),
            Kind::Byte => Some(256),
            // Names used by GPT-2, Llama and BERT.
            Kind::HuggingFace(inner) => {
                [END_OF_TEXT, "<|end_of_text|>", "</s>", "[SEP]"].iter().find_map(|name| inner.id(name))
            }
        }
    }

    /// The end-of-text token, which separates documents, if there is one.
    pub fn end_of_text(&self) -> Option<u32> {
        self.ends.end.as_ref().map(|(_, id)| *id).or_else(|| self.own_end())
    }

    /// How [`Tokenizer::end_of_text`] is written.
    pub fn end_of_text_name(&self) -> Option<String> {
        if let Some((name, _)) = &self.ends.end {
            return Some(name.clone());
        }
        let id = self.own_end()?;
        match &self.kind {
            Kind::HuggingFace(inner) => inner.token(id),
            _ => Some(END_OF_TEXT.to_owned()),
        }
    }

    /// The token before each document and each prompt, if a configuration names one.
    pub fn begin_of_text(&self) -> Option<u32> {
        self.ends.begin.as_ref().map(|(_, id)| *id)
    }

    /// How [`Tokenizer::begin_of_text`] is written.
    pub fn begin_of_text_name(&self) -> Option<&str> {
        self.ends.begin.as_ref().map(|(name, _)| name.as_str())
    }

    /// The begin-of-text token, unless a document ends with the same token. Such a token is given and never predicted:
    /// a model is not asked for it, and what follows the end of a text is not for the model to say.
    pub fn given(&self) -> Option<u32> {
        self.begin_of_text().filter(|begin| Some(*begin) != self.end_of_text())
    }

    /// The token to start from if there is no prompt: the begin-of-text token, else the end-of-text token or, without
    /// either, token 0, as published.
    pub fn start_of_text(&self) -> u32 {
        self.begin_of_text().or_else(|| self.end_of_text()).unwrap_or(0)
    }

    /// A text's ids with the begin-of-text token before them, if there is one and they do not begin with it.
    pub fn begun(&self, mut ids: Vec<u32>) -> Vec<u32> {
        let begin = self.begin_of_text().filter(|begin| ids.first() != Some(begin));
        ids.splice(0..0, begin);
        ids
    }

    /// The special tokens, as they are written and by their ids.
    pub fn special_tokens(&self) -> Vec<(String, u32)> {
        let mut special = match &self.kind {
            Kind::HuggingFace(inner) => inner.special_tokens(),
            _ => self.own_end().map(|id| (END_OF_TEXT.to_owned(), id)).into_iter().collect(),
        };
        let ends = [&self.ends.begin, &self.ends.end].into_iter().flatten();
        let more: Vec<_> = ends.filter(|(_, id)| special.iter().all(|(_, other)| other != id)).cloned().collect();
        special.extend(more);
        special.dedup();
        special
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenizer::CharTokenizer;
    use serde_json::json;

    /// A tokenizer of words, with Llama's begin and end among its tokens.
    fn words() -> Tokenizer {
        let special = |id: u32, content: &str| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        };
        let file = json!({"version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [special(1, "<s>"), special(2, "</s>")], "normalizer": null,
            "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "unk_token": "[UNK]",
                "vocab": {"[UNK]": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4}}});
        Tokenizer::from_json(&file.to_string()).unwrap()
    }

    #[test]
    fn without_a_word_about_them_ends_are_the_tokenizers_own() {
        for (tokenizer, end) in [
            (words(), Some(2)),
            (Tokenizer::byte(), Some(256)),
            (CharTokenizer::train("ab").into(), None),
            (Tokenizer::from(CharTokenizer::train("ab")).extended([], true), Some(2)),
        ] {
            let same = tokenizer.clone().with_ends("", "").unwrap();
            for tokenizer in [&tokenizer, &same] {
                assert_eq!((tokenizer.end_of_text(), tokenizer.start_of_text()), (end, end.unwrap_or(0)));
                assert_eq!((tokenizer.begin_of_text(), tokenizer.given()), (None, None));
                assert_eq!(tokenizer.begun(vec![1, 2]), [1, 2]);
            }
            assert_eq!(same.special_tokens(), tokenizer.special_tokens());
        }
    }

    #[test]
    fn ends_that_are_named_are_those_of_texts_and_prompts() {
        let plain = words();
        let named = plain.clone().with_ends("<s>", "b").unwrap();
        assert_eq!((named.begin_of_text(), named.end_of_text(), named.given()), (Some(1), Some(4), Some(1)));
        assert_eq!((named.begin_of_text_name(), named.end_of_text_name().as_deref()), (Some("<s>"), Some("b")));
        assert_eq!(named.start_of_text(), 1);
        // Only once, also where the prompt has it.
        assert_eq!(named.begun(named.encode("a b").unwrap()), [1, 3, 4]);
        assert_eq!(named.begun(named.encode("<s> a b").unwrap()), [1, 3, 4]);
        assert_eq!(named.begun(Vec::new()), [1]);
        // Encoding itself is what it was.
        assert_eq!(named.encode("a b").unwrap(), plain.encode("a b").unwrap());
        assert!(named == plain && named.to_json() == plain.to_json());
        let special: Vec<_> = named.special_tokens().into_iter().map(|(_, id)| id).collect();
        assert_eq!(special, [1, 2, 4]);
        // One token at both ends is not given: it is what ends the text before.
        let both = plain.with_ends("</s>", "").unwrap();
        assert_eq!((both.begin_of_text(), both.end_of_text(), both.given()), (Some(2), Some(2), None));
        let bytes = Tokenizer::byte().with_ends(END_OF_TEXT, "\n").unwrap();
        assert_eq!((bytes.begin_of_text(), bytes.end_of_text()), (Some(256), Some(10)));
        let chars = Tokenizer::from(CharTokenizer::train("a\nb")).with_ends("", "\n").unwrap();
        assert_eq!((chars.end_of_text(), chars.begin_of_text()), (Some(0), None));
    }

    #[test]
    fn a_name_that_no_token_has_is_refused_with_those_there_are() {
        let chars = || Tokenizer::from(CharTokenizer::train("ab"));
        for (refused, message) in [
            (
                words().with_ends("<bos>", ""),
                "bos_token = \"<bos>\": must be \"\" or a token of the tokenizer, whose special tokens are \"<s>\", \"</s>\"",
            ),
            (words().with_ends("", "<|im_end|>"), "eos_token = \"<|im_end|>\": must be"),
            (chars().with_ends("", END_OF_TEXT), "whose special tokens are none"),
            (chars().with_ends("ab", ""), "bos_token = \"ab\": must be"),
            (Tokenizer::byte().with_ends("é", ""), "special tokens are \"<|endoftext|>\""),
        ] {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
