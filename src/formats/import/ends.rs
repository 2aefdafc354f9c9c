//! Which tokens begin and end a text, and how conversations are written, as a folder of transformers says it.

use super::options::ImportOptions;
use crate::{
    data,
    formats::{
        gguf,
        hugging_face::read_json,
        opened::{Format, Opened},
    },
    system::disk,
    text::tokenizer::Tokenizer,
};
use kinglet_core::{config::Config, error::Result};
use serde_json::Value;

/// Takes ends and template into the configuration, and gives the tokenizer its ends.
pub(super) fn add(
    opened: &Opened,
    config: &mut Config,
    tokenizer: Tokenizer,
    options: &ImportOptions,
    notes: &mut Vec<String>,
) -> Result<Tokenizer> {
    let is_set =
        |key: &str| options.set.iter().any(|setting| setting.split_once('=').is_some_and(|(k, _)| k.trim() == key));
    let json =
        |name: &str| Ok::<_, kinglet_core::error::Error>(read_json(&opened.folder.join(name))?.unwrap_or_default());
    let folder = if opened.config.is_some() {
        Folder { generation: json("generation_config.json")?, tokenizer: json("tokenizer_config.json")? }
    } else {
        Folder::default()
    };
    if let Some(model) = &opened.config {
        if !is_set("eos_token") {
            config.eos_token = folder.end(model, &tokenizer, notes).unwrap_or_default();
        }
        if !is_set("bos_token") {
            config.bos_token = folder.begin(&tokenizer).unwrap_or_default();
        }
    }
    if opened.format == Format::Gguf {
        let (begin, end) = gguf::ends(&opened.foreign, &tokenizer)?;
        for (key, ours, theirs) in
            [("bos_token", &mut config.bos_token, begin), ("eos_token", &mut config.eos_token, end)]
        {
            if !is_set(key) {
                *ours = theirs;
            }
        }
    }
    let own = tokenizer.end_of_text_name();
    let tokenizer = tokenizer.with_ends(&config.bos_token, &config.eos_token)?;
    // What the tokenizer says anyway need not be said again.
    if !is_set("eos_token") && own.as_deref() == Some(config.eos_token.as_str()) {
        config.eos_token.clear();
    }
    if let Some(template) = folder.template(opened)?.filter(|_| !is_set("chat_template")) {
        config.chat_template = template;
        if let Err(error) = data::template_of(config, &tokenizer) {
            config.chat_template.clear();
            notes.push(format!("its chat template is left out: {}", error.one_line()));
        }
    }
    Ok(tokenizer)
}

/// What stands beside `config.json`.
#[derive(Default)]
struct Folder {
    generation: Value,
    tokenizer: Value,
}

impl Folder {
    /// The token that ends a text: the first of those at which transformers stops.
    fn end(&self, model: &Value, tokenizer: &Tokenizer, notes: &mut Vec<String>) -> Option<String> {
        let special = tokenizer.special_tokens();
        for json in [&self.generation, model] {
            let ids: Vec<u64> = match &json["eos_token_id"] {
                Value::Array(ids) => ids.iter().filter_map(Value::as_u64).collect(),
                one => one.as_u64().into_iter().collect(),
            };
            let Some(first) = ids.first() else { continue };
            let named = |id: &u64| special.iter().find(|(_, of)| u64::from(*of) == *id).map(|(name, _)| name.clone());
            let Some(name) = named(first) else {
                // A class writes its default even where the tokenizer has other tokens.
                let note = format!("eos_token_id = {first} is left out: it is no special token of the tokenizer");
                // Both files say the same, as a rule.
                if !notes.contains(&note) {
                    notes.push(note);
                }
                continue;
            };
            if ids.len() > 1 {
                let others: Vec<_> = ids[1..].iter().map(|id| named(id).unwrap_or_else(|| id.to_string())).collect();
                notes.push(format!("a text ends with {name} only, and not also with {}", others.join(", ")));
            }
            return Some(name);
        }
        let name = token(&self.tokenizer["eos_token"])?;
        special.iter().any(|(of, _)| *of == name).then_some(name)
    }

    /// The token that the tokenizer puts before a text.
    fn begin(&self, tokenizer: &Tokenizer) -> Option<String> {
        let json: Value = serde_json::from_str(tokenizer.to_json()).unwrap_or_default();
        let added = || token(&self.tokenizer["bos_token"]).filter(|_| self.tokenizer["add_bos_token"] == true);
        let name = first_of_template(&json["post_processor"]).or_else(added)?;
        tokenizer.special_tokens().into_iter().any(|(of, _)| of == name).then_some(name)
    }

    /// The template of conversations.
    fn template(&self, opened: &Opened) -> Result<Option<String>> {
        let file = opened.folder.join("chat_template.jinja");
        if opened.config.is_some() && file.is_file() {
            return disk::read_text(&file, 1 << 20).map(Some);
        }
        Ok(match &self.tokenizer["chat_template"] {
            Value::String(template) => Some(template.clone()),
            Value::Array(several) => {
                let default = several.iter().find(|one| one["name"] == "default");
                default.and_then(|one| Some(one["template"].as_str()?.to_owned()))
            }
            // A GGUF has it among its keys.
            _ => opened.foreign.meta.get("tokenizer.chat_template").and_then(Value::as_str).map(str::to_owned),
        })
    }
}

/// A token of a `tokenizer_config.json`: its text, or an object with its text.
fn token(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// The token that a post-processor puts before a single text.
fn first_of_template(processor: &Value) -> Option<String> {
    match processor["type"].as_str()? {
        "TemplateProcessing" => {
            let special = &processor["single"][0]["SpecialToken"]["id"];
            special.as_str().map(str::to_owned)
        }
        "Sequence" => processor["processors"].as_array()?.iter().find_map(first_of_template),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_template_of_a_post_processor_names_what_begins_a_text() {
        let template =
            |first: Value| json!({"type": "TemplateProcessing", "single": [first, {"Sequence": {"id": "A"}}]});
        let bos = json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
        for (processor, want) in [
            (template(bos.clone()), Some("<s>")),
            (json!({"type": "Sequence", "processors": [{"type": "ByteLevel"}, template(bos)]}), Some("<s>")),
            (template(json!({"Sequence": {"id": "A", "type_id": 0}})), None),
            (json!({"type": "ByteLevel"}), None),
            (Value::Null, None),
        ] {
            assert_eq!(first_of_template(&processor).as_deref(), want, "{processor}");
        }
        assert_eq!(token(&json!({"content": "</s>", "lstrip": false})).as_deref(), Some("</s>"));
        assert_eq!(token(&json!("x")).as_deref(), Some("x"));
        assert_eq!(token(&Value::Null), None);
    }
}
