use super::*;
use kinglet_core::config::Config;
use serde_json::{Value, json};

fn described(json: &Value) -> Config {
    read(json, None).unwrap_or_else(|error| panic!("{json}: {error}")).config
}

/// A `config.json` of each architecture, as small as they come.
fn examples() -> Vec<Value> {
    let llama = |model_type: &str| {
        json!({
            "model_type": model_type, "vocab_size": 11, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 6,
            "num_key_value_heads": 2, "intermediate_size": 40, "max_position_embeddings": 16, "partial_rotary_factor": 1.0,
            "head_dim": 4,
        })
    };
    let mut all: Vec<Value> =
        ["llama", "mistral", "qwen2", "qwen3", "stablelm", "starcoder2", "nemotron", "arcee"].map(llama).to_vec();
    all.push(
        json!({"model_type": "gpt2", "vocab_size": 11, "n_embd": 24, "n_layer": 2, "n_head": 6, "n_positions": 16}),
    );
    all.push(json!({
        "model_type": "gpt_neox", "vocab_size": 11, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 6,
        "intermediate_size": 40, "max_position_embeddings": 16, "rotary_pct": 1.0, "use_parallel_residual": false,
    }));
    all
}

#[test]
fn what_is_written_of_a_configuration_is_read_as_the_same() {
    assert_eq!(examples().len(), ARCHITECTURES.len());
    for json in examples() {
        let config = described(&json);
        let architecture = find(json["model_type"].as_str().unwrap()).unwrap();
        let written = Value::Object(write(&config, architecture).unwrap());
        assert_eq!(described(&written).to_toml().replace("n_inner = 96", "n_inner = 0"), config.to_toml(), "{written}");
        assert_eq!(written["architectures"][0], architecture.class);
    }
}

#[test]
fn numbers_and_flags_are_those_of_the_file() {
    let config = described(&json!({
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 8,
        "num_key_value_heads": 4, "intermediate_size": 172, "max_position_embeddings": 256, "rms_norm_eps": 1e-6,
        "rope_theta": 500000, "tie_word_embeddings": true, "attention_bias": true, "mlp_bias": false, "head_dim": 16,
        "hidden_act": "silu", "torch_dtype": "float32", "rope_scaling": null, "use_cache": true,
    }));
    let key = |key: &str| config.value(key).to_string();
    assert_eq!([key("n_layer"), key("n_head"), key("n_kv_head"), key("head_size")], ["3", "8", "4", "16"]);
    assert_eq!([key("norm_eps"), key("rope_theta"), key("tie_weights")], ["0.000001", "500000.0", "true"]);
    assert_eq!([key("bias"), key("activation")], ["[\"qkv\", \"proj\"]", "\"swiglu\""]);
    // transformers 5 says it elsewhere.
    let mut five = examples()[0].clone();
    five["rope_parameters"] = json!({"rope_theta": 1000000.0, "rope_type": "default"});
    assert_eq!(described(&five).rope_theta, 1e6);
}

#[test]
fn what_kinglet_has_no_shape_for_is_refused_by_name_and_value() {
    let of = |model_type: &str| examples().into_iter().find(|json| json["model_type"] == model_type).unwrap();
    for (model_type, key, value, message) in [
        ("llama", "rope_scaling", json!({"rope_type": "yarn", "factor": 4.0}), r#"rope_scaling = {"rope_type":"yarn""#),
        ("llama", "rope_parameters", json!({"rope_type": "llama3"}), "rope_parameters = "),
        (
            "llama",
            "hidden_act",
            json!("gelu"),
            "hidden_act = \"gelu\": kinglet has no shape for this; here it has silu",
        ),
        ("gpt2", "activation_function", json!("silu"), "activation_function = \"silu\""),
        ("gpt2", "scale_attn_by_inverse_layer_idx", json!(true), "scale_attn_by_inverse_layer_idx = true"),
        ("gpt2", "add_cross_attention", json!(true), "add_cross_attention = true"),
        ("gpt2", "hidden_size", json!(32), "n_embd = 24 and hidden_size = 32 contradict each other"),
        ("gpt_neox", "use_parallel_residual", json!(true), "use_parallel_residual = true"),
        ("gpt_neox", "rotary_pct", json!(0.25), "rotary_pct = 0.25: kinglet rotates all channels"),
        ("gpt_neox", "head_dim", json!(8), "head_dim = 8: kinglet has no shape"),
        ("stablelm", "qk_layernorm", json!(true), "qk_layernorm = true"),
        ("stablelm", "partial_rotary_factor", Value::Null, "partial_rotary_factor = 0.25"),
        ("starcoder2", "sliding_window", json!(8), "sliding_window = 8: kinglet attends to all of its context"),
        ("mistral", "sliding_window", json!(4), "--set block_size=4 makes it the same"),
        ("qwen2", "num_experts", json!(8), "num_experts = 8"),
        ("qwen2", "layer_types", json!(["full_attention", "sliding_attention"]), "layer_types = "),
        ("llama", "quantization_config", json!({"bits": 4}), "quantization_config = "),
        ("llama", "attention_multiplier", json!(0.5), "attention_multiplier = 0.5"),
        ("llama", "num_hidden_layers", json!(1000), "num_hidden_layers = 1000"),
        ("llama", "hidden_size", json!("wide"), "hidden_size = \"wide\""),
        ("llama", "num_key_value_heads", json!(4), "n_kv_head"),
        ("llama", "vocab_size", Value::Null, "config.json does not say vocab_size"),
        ("llama", "model_type", json!("mamba"), "model_type = \"mamba\" is an architecture"),
    ] {
        let mut json = of(model_type);
        json[key] = value;
        let error = read(&json, None).map(|read| read.config.to_toml()).unwrap_err().to_string();
        assert!(error.contains(message), "{key}: {error}");
    }
}

#[test]
fn a_shorter_context_is_no_window() {
    let mut json = examples()[1].clone();
    json["sliding_window"] = json!(8);
    assert_eq!(read(&json, Some(8)).unwrap().config.block_size, 8);
    json["sliding_window"] = json!(16);
    assert_eq!(described(&json).block_size, 16);
    // Which layers have the window does not matter where it is none.
    let mut json = examples().into_iter().find(|json| json["model_type"] == "qwen2").unwrap();
    json["layer_types"] = json!(["full_attention", "sliding_attention"]);
    (json["use_sliding_window"], json["sliding_window"]) = (json!(true), json!(8));
    let error = read(&json, None).unwrap_err().to_string();
    assert!(error.contains("--set block_size=8 makes it the same"), "{error}");
    assert_eq!(read(&json, Some(8)).unwrap().config.block_size, 8);
    json["sliding_window"] = Value::Null;
    assert!(read(&json, Some(8)).unwrap_err().to_string().contains("layer_types = "));
    let gpt2 = examples()[8].clone();
    let error = read(&gpt2, Some(8)).unwrap_err().to_string();
    assert!(error.contains("16 positions, so it must be 16"), "{error}");
}

#[test]
fn unknown_settings_and_dropouts_are_told() {
    let mut json = examples()[0].clone();
    json["something_new"] = json!(3);
    json["attention_dropout"] = json!(0.1);
    json["transformers_version"] = json!("5.1");
    json["max_position_embeddings"] = json!(131_072);
    let mut notes = read(&json, None).unwrap().notes;
    assert!(notes.remove(0).starts_with("max_position_embeddings = 131072: block_size is 65536"), "{notes:?}");
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(
        notes[0].contains("attention_dropout = 0.1") && notes[1].ends_with("config.json: something_new = 3"),
        "{notes:?}"
    );
}

#[test]
fn a_model_that_a_class_cannot_express_is_refused_by_key() {
    let llama = find("llama").unwrap();
    let config = described(&examples()[0]);
    for (settings, message) in [
        (&["logit_softcap=30"][..], "logit_softcap = 30.0: LlamaForCausalLM has no place for it"),
        (&["attention_scale=n_embd"], "attention_scale = \"n_embd\""),
        (&["bias=[\"qkv\"]"], "bias = [\"qkv\"]"),
        (&["bias=[\"head\"]"], "bias = [\"head\"]"),
        (&["norm=layernorm"], "norm = \"layernorm\""),
        (&["position=learned", "head_size=0"], "position = \"learned\""),
        (&["qk_norm=true"], "qk_norm = true"),
        (&["activation=relu"], "hidden_act = \"relu\""),
    ] {
        let other = config.clone().with(settings).unwrap();
        let error = write(&other, llama).unwrap_err().to_string();
        assert!(error.contains(message), "{settings:?}: {error}");
    }
}
