//! The small files beside the graph.

use super::options::Options;
use crate::formats::{folder::chat_template, portable::Portable, shape::Shape};
use serde_json::{Map, Value, json};

/// What a configuration is called whose reader takes the sizes that a model has. The consumers of a graph read nothing else of
/// it; each name stands for the keys that they look for.
fn model_type(s: &Shape) -> &'static str {
    match (s.att() == s.c, s.nkv == s.nh && s.theta.is_none()) {
        (true, true) => "gpt2",
        (true, false) => "llama",
        // The one that has a head size of its own for optimum and for transformers.js.
        (false, _) => "gemma",
    }
}

/// What the user has to know about `config.json`.
pub(super) fn note(s: &Shape) -> Option<String> {
    let name = model_type(s);
    (name != "gpt2").then(|| {
        format!(
            "config.json calls the model a {name}, only because the graph's consumers find its sizes by the keys of that name: \
             the computation is in the graph"
        )
    })
}

/// The files by their names.
pub(super) fn files(model: &Portable, options: &Options, graph: &str, external: bool) -> Vec<(&'static str, String)> {
    let s = Shape::of(&model.config);
    let mut files = vec![
        ("config.json", pretty(&config(model, options, &s, external))),
        ("generation_config.json", pretty(&generation_config(model, &s))),
        ("tokenizer.json", model.tokenizer.to_json().to_owned()),
        ("tokenizer_config.json", pretty(&tokenizer_config(model, &s))),
    ];
    if options.cached() {
        files.push(("genai_config.json", pretty(&genai_config(model, graph, &s))));
    }
    files
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("a JSON value") + "\n"
}

fn config(model: &Portable, options: &Options, s: &Shape, external: bool) -> Value {
    let (name, end) = (model_type(s), model.tokenizer.end_of_text());
    let begin = model.tokenizer.begin_of_text().or(end);
    let mut config = json!({
        "model_type": name,
        "vocab_size": s.v,
        "tie_word_embeddings": model.config.tie_weights,
        "bos_token_id": begin,
        "eos_token_id": end,
        "pad_token_id": end,
        "dtype": "float32",
        "torch_dtype": "float32",
        "use_cache": options.cached(),
    });
    let sizes = match name {
        "gpt2" => json!({
            "architectures": ["GPT2LMHeadModel"],
            "n_positions": s.block, "n_embd": s.c, "n_layer": s.layers, "n_head": s.nh, "n_inner": s.inner,
            "layer_norm_epsilon": s.eps,
        }),
        _ => json!({
            "architectures": [if name == "llama" { "LlamaForCausalLM" } else { "GemmaForCausalLM" }],
            "max_position_embeddings": s.reach(), "hidden_size": s.c, "num_hidden_layers": s.layers,
            "num_attention_heads": s.nh, "num_key_value_heads": s.nkv, "head_dim": s.hs, "intermediate_size": s.inner,
            "rms_norm_eps": s.eps,
        }),
    };
    let into = config.as_object_mut().expect("an object");
    into.extend(sizes.as_object().cloned().unwrap_or_default());
    if external {
        into.insert("transformers.js_config".to_owned(), json!({"use_external_data_format": true}));
    }
    config
}

fn generation_config(model: &Portable, s: &Shape) -> Value {
    let end = model.tokenizer.end_of_text();
    let begin = model.tokenizer.begin_of_text().or(end);
    let mut config = json!({"bos_token_id": begin, "eos_token_id": end, "pad_token_id": end});
    if s.theta.is_none() {
        config["max_length"] = json!(s.block);
    }
    config
}

fn tokenizer_config(model: &Portable, s: &Shape) -> Value {
    let mut config = Map::new();
    let mut set = |key: &str, value: Value| _ = config.insert(key.to_owned(), value);
    set("tokenizer_class", json!("PreTrainedTokenizerFast"));
    // Without this, transformers 4 also passes token types.
    set("model_input_names", json!(["input_ids", "attention_mask"]));
    set("clean_up_tokenization_spaces", json!(false));
    set("model_max_length", json!(s.reach()));
    if let Some(end) = model.tokenizer.end_of_text_name() {
        set("eos_token", json!(end));
        set("bos_token", json!(model.tokenizer.begin_of_text_name().unwrap_or(&end)));
        set("pad_token", json!(end));
    } else if let Some(begin) = model.tokenizer.begin_of_text_name() {
        set("bos_token", json!(begin));
    }
    if let Some(template) = chat_template(&model.config) {
        set("chat_template", json!(template));
    }
    Value::Object(config)
}

fn genai_config(model: &Portable, graph: &str, s: &Shape) -> Value {
    let end = model.tokenizer.end_of_text();
    json!({
        "model": {
            "type": "decoder",
            "bos_token_id": model.tokenizer.start_of_text(),
            "eos_token_id": end.map_or_else(|| json!([]), |end| json!(end)),
            "pad_token_id": end.unwrap_or(0),
            "context_length": s.reach(),
            "vocab_size": s.v,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": graph,
                "head_size": s.hs,
                "hidden_size": s.c,
                "num_attention_heads": s.nh,
                "num_key_value_heads": s.nkv,
                "num_hidden_layers": s.layers,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "position_ids": "position_ids",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "do_sample": false,
            "max_length": s.block,
            "min_length": 0,
            "num_beams": 1,
            "num_return_sequences": 1,
            "past_present_share_buffer": false,
            "repetition_penalty": 1.0,
            "temperature": 1.0,
            "top_k": 1,
            "top_p": 1.0,
        },
    })
}
