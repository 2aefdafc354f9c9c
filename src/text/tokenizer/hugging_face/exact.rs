//! What is certain about a tokenizer from elsewhere before it encodes anything.

use super::decoder;
use crate::text::tokenizer::json::byte_char;
use serde::Deserialize;
use std::collections::HashSet;
use tokenizers::{
    DecoderWrapper, Model, ModelWrapper, PreTokenizerWrapper, Tokenizer, models::bpe::BPE,
    tokenizer::SplitDelimiterBehavior,
};

/// Whether any text is what its tokens are decoded to: byte pair encoding of bytes that knows all of them, and around
/// it nothing that takes anything away or adds anything.
pub(super) fn keeps_everything(tokenizer: &Tokenizer) -> bool {
    let ModelWrapper::BPE(bpe) = tokenizer.get_model() else { return false };
    let decodes = matches!(tokenizer.get_decoder(), Some(DecoderWrapper::ByteLevel(_)));
    let splits = tokenizer.get_pre_tokenizer().is_some_and(to_bytes);
    tokenizer.get_normalizer().is_none() && splits && decodes && has_all_bytes(bpe) && added_are_written(tokenizer)
}

/// Whether a pre-tokenizer only splits and, at its end, makes characters of bytes.
fn to_bytes(pre_tokenizer: &PreTokenizerWrapper) -> bool {
    match pre_tokenizer {
        PreTokenizerWrapper::ByteLevel(level) => !level.add_prefix_space,
        PreTokenizerWrapper::Sequence(sequence) => {
            let all: Vec<_> = sequence.as_ref().iter().collect();
            all.split_last().is_some_and(|(last, before)| to_bytes(last) && before.iter().all(|step| only_splits(step)))
        }
        _ => false,
    }
}

fn only_splits(pre_tokenizer: &PreTokenizerWrapper) -> bool {
    let keeps = |behavior| behavior != SplitDelimiterBehavior::Removed;
    match pre_tokenizer {
        PreTokenizerWrapper::Split(split) => keeps(split.behavior),
        PreTokenizerWrapper::Punctuation(punctuation) => keeps(punctuation.behavior),
        PreTokenizerWrapper::Digits(_) => true,
        _ => false,
    }
}

fn has_all_bytes(bpe: &BPE) -> bool {
    let plain = bpe.continuing_subword_prefix.is_none() && bpe.end_of_word_suffix.is_none();
    let vocab = bpe.get_vocab();
    let ids: HashSet<u32> = vocab.values().copied().collect();
    plain && ids.len() == vocab.len() && (0..=255).all(|byte| vocab.contains_key(&byte_char(byte).to_string()))
}

/// Whether the tokens that were added to the model's are decoded to what they stand for.
fn added_are_written(tokenizer: &Tokenizer) -> bool {
    let steps = decoder::steps(tokenizer.get_decoder());
    tokenizer.get_added_tokens_decoder().iter().all(|(&id, token)| {
        let (mut steps, mut text) = (steps.clone(), String::new());
        decoder::push(&mut steps, &token.content, true, &mut text);
        decoder::finish(&mut steps, &mut text);
        let free = tokenizer.get_model().id_to_token(id).is_none_or(|other| other == token.content);
        !token.lstrip && !token.rstrip && free && text == token.content
    })
}

/// The token that stands for what the model does not know.
pub(super) fn unknown(tokenizer: &Tokenizer, json: &str) -> Option<u32> {
    /// What the library does not show of its models.
    #[derive(Deserialize)]
    struct File {
        model: Unknown,
    }
    #[derive(Deserialize)]
    struct Unknown {
        #[serde(default)]
        unk_token: Option<String>,
        #[serde(default)]
        unk_id: Option<u32>,
    }
    let Unknown { unk_token, unk_id } = serde_json::from_str::<File>(json).ok()?.model;
    unk_id.or_else(|| tokenizer.token_to_id(&unk_token?))
}

#[cfg(test)]
mod tests {
    use crate::text::tokenizer::{CharTokenizer, Tokenizer};
    use serde_json::{Value, json};

    const TEXT: &str = "The café costs 12 coins,\n\n  doesn't it? 🐦<|endoftext|>語";

    /// A change of a file, and what is said of the loss that it makes.
    type Change = (fn(&mut Value), &'static str);

    /// Our own byte pair encoding, with something of it changed.
    fn changed(change: impl FnOnce(&mut Value)) -> Tokenizer {
        let bpe = Tokenizer::train_bpe([TEXT.repeat(3)].into_iter(), 270).unwrap();
        let mut file = serde_json::from_str(bpe.to_json()).unwrap();
        change(&mut file);
        Tokenizer::from_json(&file.to_string()).unwrap()
    }

    #[test]
    fn what_certainly_keeps_everything_is_known() {
        let split = |behavior: &str| {
            let pattern = json!({"Regex": "\\d|\\s"});
            let split = json!({"type": "Split", "pattern": pattern, "behavior": behavior, "invert": false});
            let level =
                json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
            json!({"type": "Sequence", "pretokenizers": [split, {"type": "Digits", "individual_digits": true}, level]})
        };
        let keep = [
            Tokenizer::byte(),
            CharTokenizer::train("ab").into(),
            changed(|_| ()),
            changed(|file| file["pre_tokenizer"] = split("Isolated")),
            changed(|file| file["pre_tokenizer"] = split("MergedWithNext")),
        ];
        assert!(keep.iter().all(Tokenizer::keeps_everything));
        for tokenizer in &keep[2..] {
            let ids = tokenizer.encode(TEXT).unwrap();
            assert_eq!(tokenizer.decode(&ids), TEXT);
        }
        let lose: [Change; 7] = [
            (|file| file["pre_tokenizer"]["add_prefix_space"] = true.into(), "\" The café costs 12"),
            (
                |file| file["normalizer"] = json!({"type": "Lowercase"}),
                "1 of 55 characters (1.8 %) are changed; most often 'T'",
            ),
            (|file| file["normalizer"] = json!({"type": "StripAccents"}), "comes back as"),
            (|file| file["added_tokens"][0]["lstrip"] = true.into(), "white space"),
            (|file| file["decoder"] = Value::Null, "are changed"),
            (
                |file| {
                    // Without the byte 'h', which is dropped without a word.
                    let model = &mut file["model"];
                    model["vocab"].as_object_mut().unwrap().retain(|token, _| !token.contains('h'));
                    model["merges"].as_array_mut().unwrap().retain(|merge| !merge.to_string().contains('h'));
                },
                "1 of 55 characters (1.8 %) are unknown to it or dropped; most often 'h'",
            ),
            (
                |file| {
                    let split =
                        json!({"type": "Split", "pattern": {"String": "c"}, "behavior": "Removed", "invert": false});
                    file["pre_tokenizer"] =
                        json!({"type": "Sequence", "pretokenizers": [split, file["pre_tokenizer"]]});
                },
                "3 of 55 characters (5.5 %) are unknown to it or dropped; most often 'c'",
            ),
        ];
        for (i, (change, says)) in lose.into_iter().enumerate() {
            let tokenizer = changed(change);
            assert!(!tokenizer.keeps_everything(), "{i}");
            // A special token that takes in blanks needs some before it.
            let text = if says == "white space" { "a  <|endoftext|>" } else { TEXT };
            let summary = tokenizer.loss(text, &tokenizer.encode(text).unwrap()).summary();
            match says {
                "comes back as" => assert_eq!(summary, None, "a composed letter has no accent to strip"),
                _ => assert!(summary.as_ref().is_some_and(|summary| summary.contains(says)), "{i}: {summary:?}"),
            }
        }
    }

    #[test]
    fn the_token_of_what_is_unknown_is_found_in_every_kind_of_model() {
        let vocab = json!({"a": 0, "<unk>": 1, "b": 2});
        let rest = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
            "post_processor": null, "decoder": {"type": "Fuse"}, "added_tokens": [],
        });
        for model in [
            json!({"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}),
            json!({
                "type": "WordPiece", "vocab": vocab, "unk_token": "<unk>", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
            }),
            json!({
                "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": false, "vocab": vocab, "merges": [],
            }),
            json!({"type": "Unigram", "vocab": [["a", -1.0], ["<unk>", -1.0], ["b", -1.0]], "unk_id": 1, "byte_fallback": false}),
        ] {
            let mut file = rest.clone();
            file["model"] = model;
            let tokenizer = Tokenizer::from_json(&file.to_string()).unwrap();
            let (ids, note) = tokenizer.encode_prompt("a").unwrap();
            assert_eq!((&ids[..], note), (&[0][..], None));
            let error = tokenizer.encode_prompt("é").unwrap_err().to_string();
            assert!(
                error.contains("1 of 1 characters (100.0 %) are unknown to it or dropped, 1 unknown token"),
                "{error}"
            );
        }
    }
}
