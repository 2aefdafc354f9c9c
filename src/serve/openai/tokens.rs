//! vLLM's interface to the tokenizer, which evaluation harnesses look for.

use super::{
    chat,
    models::template,
    prompt::{self, fault, ids_of},
    unsupported,
};
use crate::{
    inference::Model,
    serve::{answer::Failure, fields::Fields, models::Served},
};
use serde_json::{Value, json};

/// `POST /tokenize`: a text's tokens, or those of a conversation up to where the answer begins. Unless
/// `add_special_tokens` is false, a text gets the begin-of-text token that a prompt gets.
///
/// # Errors
/// If a field is not what it must be, or the text cannot be encoded.
pub(super) fn tokenize(served: &Served, fields: &Fields) -> Result<Value, Failure> {
    let model = &served.model;
    let tokenizer = model.tokenizer();
    let special = fields.flag("add_special_tokens")?;
    let named = fields.flag("return_token_strs")?.unwrap_or(false);
    let mut notes = served.notes.clone();
    let ids = match (fields.text("prompt")?, fields.get("messages")) {
        (Some(_), Some(_)) => return Err(fields.wrong("messages", "and prompt cannot both be given")),
        (Some(text), None) => {
            let (ids, note) = tokenizer.encode_prompt(text).map_err(|error| fault("prompt", &error))?;
            notes.extend(note);
            if special.unwrap_or(true) { tokenizer.begun(ids) } else { ids }
        }
        (None, Some(_)) => {
            chat::check(served)?;
            unsupported::refuse(fields)?;
            let messages = prompt::messages(fields, &mut notes)?;
            // What the template writes is all there is: whatever is asked, nothing is added to it.
            model.ids_of_messages(&messages).map_err(|error| fault("messages", &error))?
        }
        (None, None) => return Err(fields.need("prompt").expect_err("there is none")),
    };
    let names = || ids.iter().map(|&id| tokenizer.name_of(id).unwrap_or_default()).collect::<Vec<_>>();
    let names = named.then(names);
    Ok(json!({
        "count": ids.len(),
        "max_model_len": model.config().block_size,
        "tokens": ids,
        "token_strs": names,
        "kinglet": {"notes": notes},
    }))
}

/// `POST /detokenize`: the text of tokens.
///
/// # Errors
/// If a field is not what it must be.
pub(super) fn detokenize(model: &Model, fields: &Fields) -> Result<Value, Failure> {
    let tokens = match fields.need("tokens")? {
        Value::Array(ids) => ids_of(fields, "tokens", ids, model.config().vocab_size)?,
        other => return Err(fields.wrong_type("tokens", "a list of ids of tokens", other)),
    };
    Ok(json!({"prompt": model.tokenizer().decode(&tokens)}))
}

/// `GET /tokenizer_info`: what harnesses want to know of a tokenizer, by the names of Hugging Face's configuration.
pub(super) fn info(model: &Model) -> Value {
    let (config, tokenizer) = (model.config(), model.tokenizer());
    let special: Vec<_> = tokenizer.special_tokens().into_iter().map(|(name, _)| name).collect();
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.begin_of_text_name(),
        "eos_token": tokenizer.end_of_text_name(),
        "pad_token": null,
        "unk_token": null,
        "additional_special_tokens": special,
        "chat_template": template(config),
        "model_max_length": config.block_size,
        "vocab_size": tokenizer.vocab_size(),
    })
}
