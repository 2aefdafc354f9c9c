//! The tokens that begin and end a text, where a configuration names them.

use kinglet_core::error::{Error, Result};

/// A token by its name and its id.
type Named = (String, u32);

/// Which tokens begin and end a text.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends {
    begin: Option<Named>,
    end: Option<Named>,
}

impl Ends {
    /// The tokens of these names, where an empty name is none. `id_of` finds a token, `special` are those to choose from.
    ///
    /// # Errors
    /// If there is no such token.
    pub(super) fn named(
        begin: &str,
        end: &str,
        id_of: impl Fn(&str) -> Option<u32>,
        special: impl Fn() -> Vec<Named>,
    ) -> Result<Ends> {
        let named = |key: &str, name: &str| match id_of(name) {
            _ if name.is_empty() => Ok(None),
            Some(id) => Ok(Some((name.to_owned(), id))),
            None => Err(no_such(key, name, &special())),
        };
        Ok(Ends { begin: named("bos_token", begin)?, end: named("eos_token", end)? })
    }

    /// The token before a text.
    pub(super) fn begin(&self) -> Option<(&str, u32)> {
        self.begin.as_ref().map(|(name, id)| (name.as_str(), *id))
    }

    /// The token behind a text.
    pub(super) fn end(&self) -> Option<(&str, u32)> {
        self.end.as_ref().map(|(name, id)| (name.as_str(), *id))
    }

    /// These special tokens and, behind them, those of the ends that are not among them.
    pub(super) fn among(&self, mut special: Vec<Named>) -> Vec<Named> {
        for named in [&self.begin, &self.end].into_iter().flatten() {
            if special.iter().all(|(_, id)| *id != named.1) {
                special.push(named.clone());
            }
        }
        special
    }
}

fn no_such(key: &str, name: &str, special: &[Named]) -> Error {
    let special: Vec<_> = special.iter().map(|(name, _)| format!("{name:?}")).collect();
    let has = if special.is_empty() { "none".to_owned() } else { special.join(", ") };
    let allowed = format!("\"\" or a token of the tokenizer, whose special tokens are {has}");
    Error::Config { key: key.to_owned(), value: format!("{name:?}"), allowed }
}

#[cfg(test)]
mod tests {
    use crate::text::tokenizer::{CharTokenizer, END_OF_TEXT, Tokenizer};
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
