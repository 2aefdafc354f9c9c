//! The small files beside the graph.

use super::options::Options;
use crate::formats::{
    folder::{self, pretty},
    portable::Portable,
    shape::Shape,
};
use kinglet_core::error::Result;
use serde_json::{Value, json};

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
///
/// # Errors
/// As [`folder::tokenizer_json`].
pub(super) fn files(
    model: &Portable,
    options: &Options,
    graph: &str,
    external: bool,
) -> Result<Vec<(&'static str, String)>> {
    let s = Shape::of(&model.config);
    let mut files = vec![
        ("config.json", pretty(&config(model, options, &s, external))),
        ("generation_config.json", pretty(&folder::generation_config(model))),
        ("tokenizer.json", folder::tokenizer_json(&model.tokenizer)?),
        ("tokenizer_config.json", pretty(&folder::tokenizer_config(model, s.reach()))),
    ];
    if options.cached() {
        files.push(("genai_config.json", pretty(&genai_config(model, graph, &s))));
    }
    Ok(files)
}

fn config(model: &Portable, options: &Options, s: &Shape, external: bool) -> Value {
    let name = model_type(s);
    let mut config = json!({
        "model_type": name,
        "vocab_size": s.v,
        "tie_word_embeddings": model.config.tie_weights,
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
    into.extend(folder::ends(&model.tokenizer).map(|(name, id)| (name.to_owned(), json!(id))));
    into.extend(sizes.as_object().cloned().unwrap_or_default());
    if external {
        into.insert("transformers.js_config".to_owned(), json!({"use_external_data_format": true}));
    }
    config
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
