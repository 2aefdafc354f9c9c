//! A folder that Hugging Face's transformers loads with `AutoModelForCausalLM` and `AutoTokenizer`, without code of its own
//! and without a warning, in versions 4 and 5.

use super::{dialect::Dialect, foreign::Dtype, hugging_face, portable::Portable};
use crate::text::{chat::DEFAULT_TEMPLATE, tokenizer::Tokenizer};
use kinglet_core::{
    config::{Bias, Config, Position},
    error::{Error, Result},
};
use serde_json::{Map, Value, json};

/// JSON as people read it.
pub(super) fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("a JSON value") + "\n"
}

/// The small files of the folder by their names. `bias` says which biases are written, zeros included.
///
/// # Errors
/// If the architecture has no place for one of the model's settings.
pub(super) fn files(
    model: &Portable,
    dialect: &Dialect,
    bias: Bias,
    dtype: Dtype,
) -> Result<Vec<(&'static str, String)>> {
    Ok(vec![
        ("config.json", pretty(&Value::Object(config(model, dialect, bias, dtype)?))),
        ("generation_config.json", pretty(&generation_config(model))),
        ("tokenizer.json", tokenizer_json(&model.tokenizer)?),
        ("tokenizer_config.json", pretty(&tokenizer_config(model, model.config.block_size))),
    ])
}

/// The tokens that begin and end a text, and that fill a batch: each must be said to be none, or it is GPT-2's or Llama's.
pub(super) fn ends(tokenizer: &Tokenizer) -> [(&'static str, Option<u32>); 3] {
    let end = tokenizer.end_of_text();
    let begin = tokenizer.begin_of_text().or(end);
    [("bos_token_id", begin), ("eos_token_id", end), ("pad_token_id", end)]
}

fn config(model: &Portable, dialect: &Dialect, bias: Bias, dtype: Dtype) -> Result<Map<String, Value>> {
    let named = hugging_face::find(dialect.name);
    let architecture = named.ok_or_else(|| Error::Data(format!("transformers has no {}", dialect.name)))?;
    // What is written has biases of zeros where the architecture needs them. With a single head, both scales are one.
    let mut written = model.config.clone();
    (written.bias, written.attention_scale) = (bias, dialect.holds.scale);
    let mut config = hugging_face::write(&written, architecture)?;
    config.extend(ends(&model.tokenizer).map(|(name, id)| (name.to_owned(), json!(id))));
    let name = match dtype {
        Dtype::F16 => "float16",
        Dtype::Bf16 => "bfloat16",
        _ => "float32",
    };
    // Version 4 reads the one, version 5 the other.
    config.extend(["torch_dtype", "dtype"].map(|key| (key.to_owned(), json!(name))));
    config.insert("use_cache".to_owned(), json!(true));
    Ok(config)
}

/// What is written if a call says nothing.
pub(super) fn generation_config(model: &Portable) -> Value {
    let mut config = Map::from_iter(ends(&model.tokenizer).map(|(name, id)| (name.to_owned(), json!(id))));
    if model.config.position == Position::Learned {
        // There are no positions past the block. transformers 5 remarks on it where a call says `max_new_tokens`; without it,
        // a call that says nothing would end in an IndexError.
        config.insert("max_length".to_owned(), json!(model.config.block_size));
    }
    Value::Object(config)
}

/// The tokenizer's file. Where kinglet puts a token before each text, the file says so.
///
/// # Errors
/// If it is not JSON.
pub(super) fn tokenizer_json(tokenizer: &Tokenizer) -> Result<String> {
    let json = tokenizer.to_json();
    let (Some(begin), Some(name)) = (tokenizer.begin_of_text(), tokenizer.begin_of_text_name()) else {
        return Ok(json.to_owned());
    };
    let mut file: Value = serde_json::from_str(json).map_err(|error| Error::Data(error.to_string()))?;
    if begins_texts(&file["post_processor"], name) {
        return Ok(json.to_owned());
    }
    let (token, text) =
        (json!({"SpecialToken": {"id": name, "type_id": 0}}), json!({"Sequence": {"id": "A", "type_id": 0}}));
    let second = json!({"Sequence": {"id": "B", "type_id": 1}});
    let template = json!({
        "type": "TemplateProcessing", "single": [token, text], "pair": [token, text, second],
        "special_tokens": {name: {"id": name, "ids": [begin], "tokens": [name]}},
    });
    file["post_processor"] = match file["post_processor"].take() {
        Value::Null => template,
        other => json!({"type": "Sequence", "processors": [other, template]}),
    };
    Ok(file.to_string())
}

/// Whether a tokenizer's file puts this token before each text.
fn begins_texts(processor: &Value, name: &str) -> bool {
    match processor["type"].as_str() {
        Some("TemplateProcessing") => processor["single"][0]["SpecialToken"]["id"] == name,
        Some("Sequence") => {
            processor["processors"].as_array().is_some_and(|all| all.iter().any(|p| begins_texts(p, name)))
        }
        _ => false,
    }
}

/// What transformers has to know of the tokenizer, of the `longest` text in tokens, and of the conversations that the model was
/// trained on.
pub(super) fn tokenizer_config(model: &Portable, longest: usize) -> Value {
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        // Without this, version 4 makes token types, which GPT-2 adds to its input as if they were tokens.
        "model_input_names": ["input_ids", "attention_mask"],
        // Or blanks before punctuation are gone.
        "clean_up_tokenization_spaces": false,
        "model_max_length": longest,
    });
    let (begin, end) = (model.tokenizer.begin_of_text_name(), model.tokenizer.end_of_text_name());
    for (key, name) in
        [("bos_token", begin.or(end.as_deref())), ("eos_token", end.as_deref()), ("pad_token", end.as_deref())]
    {
        if let Some(name) = name {
            config[key] = json!(name);
        }
    }
    if let Some(template) = chat_template(&model.config) {
        config["chat_template"] = json!(template);
    }
    config
}

/// The template of a model that was trained on conversations, or was given one, in the words of transformers.
pub(super) fn chat_template(config: &Config) -> Option<String> {
    let talks = ["conversations", "exchanges"].contains(&config.data_kind.as_str());
    let source = match config.chat_template.as_str() {
        "" if talks => DEFAULT_TEMPLATE,
        "" => return None,
        own => own,
    };
    // Nobody else has this name for the token, and an unknown name is an empty text there.
    let alias = if source.contains("end_of_text") { "{%- set end_of_text = eos_token -%}" } else { "" };
    Some(format!("{alias}{source}"))
}
