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
