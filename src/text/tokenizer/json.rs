//! Building blocks of our own tokenizers' files, in the format of Hugging Face's library.

use serde_json::{Value, json};

/// The end-of-text token, as GPT-2 writes it.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// The ids of `text`, with the id `end` wherever the end-of-text token is written out, as Hugging Face's tokenizers
/// treat special tokens.
pub(super) fn join_at_end_of_text(text: &str, end: u32, encode: impl Fn(&str, &mut Vec<u32>)) -> Vec<u32> {
    let mut ids = Vec::with_capacity(text.len());
    for (i, part) in text.split(END_OF_TEXT).enumerate() {
        if i > 0 {
            ids.push(end);
        }
        encode(part, &mut ids);
    }
    ids
}

/// The character that represents a byte in GPT-2's vocabulary: the byte itself if it is printable, else a character
/// from U+0100 on.
pub(crate) fn byte_char(byte: u8) -> char {
    let visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if visible(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&other| !visible(other)).count() as u32;
    char::from_u32(0x100 + before).expect("a letter")
}

/// A `tokenizer.json` with these special tokens.
pub(crate) fn file(special: &[(u32, &str)], pre_tokenizer: &Value, decoder: &Value, model: &Value) -> String {
    let added = special.iter().map(|(id, content)| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    });
    let file = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": decoder,
        "model": model,
    });
    serde_json::to_string_pretty(&file).expect("a JSON value")
}
