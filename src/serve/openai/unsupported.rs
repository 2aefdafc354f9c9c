//! Parameters that would change the answer, and that this server does not have.

use crate::serve::{answer::Failure, fields::Fields};
use serde_json::Value;

/// Their names, each with values that ask for nothing. So do `null`, `false`, 0 and what is empty, but for `{}`.
const UNSUPPORTED: [(&str, &[&str]); 52] = [
    ("add_generation_prompt", &["true"]),
    ("add_special_tokens", &["true"]),
    ("allowed_token_ids", &[]),
    ("audio", &[]),
    ("bad_words", &[]),
    ("chat_template", &[]),
    ("chat_template_kwargs", &["{}"]),
    ("continue_final_message", &[]),
    ("documents", &[]),
    ("dry_multiplier", &[]),
    ("dynatemp_range", &[]),
    ("function_call", &["\"none\"", "\"auto\""]),
    ("functions", &[]),
    ("grammar", &[]),
    ("guided_choice", &[]),
    ("guided_grammar", &[]),
    ("guided_json", &[]),
    ("guided_regex", &[]),
    ("ignore_eos", &[]),
    ("include_stop_str_in_output", &[]),
    ("json_schema", &[]),
    ("length_penalty", &["1", "1.0"]),
    ("logits_processors", &[]),
    ("max_length", &[]),
    ("max_new_tokens", &[]),
    ("min_tokens", &[]),
    ("mirostat", &[]),
    ("modalities", &["[\"text\"]"]),
    ("n_predict", &[]),
    ("num_predict", &[]),
    ("penalty_alpha", &[]),
    ("prompt_embeds", &[]),
    ("prompt_logprobs", &[]),
    ("reasoning_effort", &["\"none\""]),
    ("regex", &[]),
    ("repeat_penalty", &["1", "1.0"]),
    ("response_format", &["{\"type\":\"text\"}"]),
    ("stop_sequences", &[]),
    ("stop_token_ids", &[]),
    ("store", &[]),
    ("structured_outputs", &[]),
    ("suffix", &[]),
    ("tfs_z", &["1", "1.0"]),
    ("tool_choice", &["\"none\"", "\"auto\""]),
    ("tools", &[]),
    ("top_a", &[]),
    ("truncate_prompt_tokens", &[]),
    ("typical_p", &["1", "1.0"]),
    ("use_beam_search", &[]),
    ("verbosity", &["\"medium\""]),
    ("web_search_options", &[]),
    ("xtc_probability", &[]),
];

/// Refuses what asks for something that is not there. What has no name here is not known, and ignored.
pub(super) fn refuse(fields: &Fields) -> Result<(), Failure> {
    match UNSUPPORTED.iter().find(|(key, idle)| fields.get(key).is_some_and(|value| asks(key, value, idle))) {
        Some((key, _)) => Err(unsupported(&fields.name(key))),
        None => Ok(()),
    }
}

/// Refuses what belongs to another route.
pub(super) fn refuse_others(fields: &Fields, keys: &[&str]) -> Result<(), Failure> {
    match keys.iter().find(|key| fields.get(key).is_some_and(|value| asks(key, value, &[]))) {
        Some(key) => Err(unsupported(&fields.name(key))),
        None => Ok(()),
    }
}

/// The refusal of a parameter.
pub(super) fn unsupported(name: &str) -> Failure {
    unsupported_value(name, "is not supported by this server: leave it out")
}

/// The refusal of what a parameter says that must be there.
pub(super) fn unsupported_value(name: &str, what: &str) -> Failure {
    Failure::bad(Some(name), Some("unsupported_parameter"), format!("{name} {what}"))
}

fn asks(key: &str, value: &Value, idle: &[&str]) -> bool {
    let nothing = match value {
        Value::Null => true,
        Value::Bool(on) => !on && !["add_generation_prompt", "add_special_tokens"].contains(&key),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(_) => false,
    };
    !nothing && !idle.contains(&&*value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(value: Value) -> Option<String> {
        let Value::Object(map) = value else { unreachable!() };
        let failure = refuse(&Fields::of(&map)).err()?;
        assert_eq!((failure.status, failure.code), (400, Some("unsupported_parameter")));
        failure.param
    }

    #[test]
    fn what_asks_for_something_is_refused_by_name() {
        for (key, value) in [
            ("tools", json!([{"type": "function"}])),
            ("tool_choice", json!("required")),
            ("functions", json!([{}])),
            ("function_call", json!({"name": "f"})),
            ("response_format", json!({"type": "json_object"})),
            ("suffix", json!("end")),
            ("audio", json!({"voice": "alloy"})),
            ("modalities", json!(["text", "audio"])),
            ("web_search_options", json!({})),
            ("add_generation_prompt", json!(false)),
            ("add_special_tokens", json!(false)),
            ("min_tokens", json!(1)),
            ("repeat_penalty", json!(1.1)),
            ("n_predict", json!(20)),
            ("ignore_eos", json!(true)),
        ] {
            assert_eq!(refused(json!({key: value})).as_deref(), Some(key));
        }
    }

    #[test]
    fn what_asks_for_nothing_passes() {
        for (key, _) in UNSUPPORTED {
            assert_eq!(refused(json!({key: null})), None, "{key}");
        }
        let nothing = json!({
            "tools": [], "tool_choice": "auto", "function_call": "none", "response_format": {"type": "text"}, "suffix": "",
            "modalities": ["text"], "store": false, "add_generation_prompt": true, "min_tokens": 0, "metadata": {"a": "b"},
            "user": "u", "anything": [1],
        });
        assert_eq!(refused(nothing), None);
    }
}
