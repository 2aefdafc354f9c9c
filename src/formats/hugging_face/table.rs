//! The tables.

use super::{
    architecture::Architecture,
    line::Line::{self, Activation, Bias, Biased, HeadSize, KvHeads, Only, Rotary, Same, Training, Window},
};

const fn needed(theirs: &'static [&'static str], ours: &'static str) -> Line {
    Same { theirs, ours, missing: None }
}

const fn same(theirs: &'static [&'static str], ours: &'static str, missing: &'static str) -> Line {
    Same { theirs, ours, missing: Some(missing) }
}

const VOCAB: Line = needed(&["vocab_size"], "vocab_size");
const WIDTH: Line = needed(&["hidden_size"], "n_embd");
const DEPTH: Line = needed(&["num_hidden_layers"], "n_layer");
const HEADS: Line = needed(&["num_attention_heads"], "n_head");
const INNER: Line = needed(&["intermediate_size"], "n_inner");
const UNTIED: Line = same(&["tie_word_embeddings"], "tie_weights", "false");
const TIED: Line = same(&["tie_word_embeddings"], "tie_weights", "true");
const AS_HEADS: Line = KvHeads { missing: None };
const HEAD_DIM: Line = HeadSize { missing: None };
const GATED: Line = Activation { theirs: "hidden_act", missing: "silu" };
const ATTENTION_BIAS: Line = Bias { theirs: "attention_bias", layers: &["qkv", "proj"], missing: false };
const MLP_BIAS: Line = Bias { theirs: "mlp_bias", layers: &["mlp"], missing: false };
const ATTENTION_DROPOUT: Line = Training { theirs: "attention_dropout", written: "0.0" };
const HIDDEN_DROPOUT: Line = Training { theirs: "hidden_dropout", written: "0.0" };
const RMS_EPS: Line = same(&["rms_norm_eps"], "norm_eps", "1e-6");
const ROTATED: Line = Rotary { base: "rope_theta", share: "partial_rotary_factor", missing_share: 1.0 };
const SEQUENTIAL: Line = Only { theirs: "use_parallel_residual", value: "false", missing: "false" };

const fn context(missing: &'static str) -> Line {
    same(&["max_position_embeddings"], "block_size", missing)
}

const GPT2: &[Line] = &[
    VOCAB,
    needed(&["n_embd", "hidden_size"], "n_embd"),
    needed(&["n_layer", "num_hidden_layers"], "n_layer"),
    needed(&["n_head", "num_attention_heads"], "n_head"),
    same(&["n_inner"], "n_inner", "null"),
    needed(&["n_positions", "max_position_embeddings"], "block_size"),
    Activation { theirs: "activation_function", missing: "gelu_new" },
    same(&["layer_norm_epsilon"], "norm_eps", "1e-5"),
    TIED,
    Biased(&["qkv", "proj", "mlp", "norm"]),
    same(&["resid_pdrop"], "dropout", "0.1"),
    same(&["embd_pdrop"], "embd_dropout", "0.1"),
    Only { theirs: "scale_attn_weights", value: "true", missing: "true" },
    Only { theirs: "scale_attn_by_inverse_layer_idx", value: "false", missing: "false" },
    Only { theirs: "add_cross_attention", value: "false", missing: "false" },
    Training { theirs: "attn_pdrop", written: "0.0" },
];

const GPT_NEOX: &[Line] = &[
    VOCAB,
    WIDTH,
    DEPTH,
    HEADS,
    INNER,
    context("2048"),
    Activation { theirs: "hidden_act", missing: "gelu" },
    same(&["layer_norm_eps"], "norm_eps", "1e-5"),
    UNTIED,
    Bias { theirs: "attention_bias", layers: &["qkv", "proj"], missing: true },
    Biased(&["mlp", "norm"]),
    Rotary { base: "rotary_emb_base", share: "rotary_pct", missing_share: 0.25 },
    Only { theirs: "use_parallel_residual", value: "false", missing: "true" },
    ATTENTION_DROPOUT,
    HIDDEN_DROPOUT,
];

const LLAMA: &[Line] = &[
    VOCAB,
    WIDTH,
    DEPTH,
    HEADS,
    INNER,
    AS_HEADS,
    HEAD_DIM,
    context("2048"),
    GATED,
    RMS_EPS,
    UNTIED,
    ATTENTION_BIAS,
    MLP_BIAS,
    ROTATED,
    ATTENTION_DROPOUT,
];

/// Mistral's models are Llama's shape where their window is not shorter than the context.
const MISTRAL: &[Line] = &[
    VOCAB,
    WIDTH,
    DEPTH,
    HEADS,
    INNER,
    KvHeads { missing: Some(8) },
    HEAD_DIM,
    context("131072"),
    GATED,
    RMS_EPS,
    UNTIED,
    ROTATED,
    Window { unless_off: None, missing: Some(4096) },
    ATTENTION_DROPOUT,
];

const QWEN2: &[Line] = &[
    VOCAB,
    WIDTH,
    DEPTH,
    HEADS,
    INNER,
    KvHeads { missing: Some(32) },
    HEAD_DIM,
    context("32768"),
    GATED,
    RMS_EPS,
    UNTIED,
    Biased(&["qkv"]),
    ROTATED,
    Window { unless_off: Some("use_sliding_window"), missing: Some(4096) },
    ATTENTION_DROPOUT,
];

const QWEN3: &[Line] = &[
    VOCAB,
    WIDTH,
    DEPTH,
    HEADS,
    INNER,
    KvHeads { missing: Some(32) },
    HeadSize { missing: Some(128) },
    context("32768"),
    GATED,
    RMS_EPS,
    UNTIED,
    ATTENTION_BIAS,
    ROTATED,
    Window { unless_off: Some("use_sliding_window"), missing: Some(4096) },
    ATTENTION_DROPOUT,
];

const STABLELM: &[Line] = &[
    VOCAB,
    WIDTH,
    DEPTH,
    HEADS,
    INNER,
    KvHeads { missing: Some(32) },
    context("4096"),
    GATED,
    same(&["layer_norm_eps"], "norm_eps", "1e-5"),
    UNTIED,
    Bias { theirs: "use_qkv_bias", layers: &["qkv"], missing: false },
    Biased(&["norm"]),
    Rotary { base: "rope_theta", share: "partial_rotary_factor", missing_share: 0.25 },
    Only { theirs: "qk_layernorm", value: "false", missing: "false" },
    SEQUENTIAL,
    ATTENTION_DROPOUT,
    HIDDEN_DROPOUT,
];

const STARCODER2: &[Line] = &[
    VOCAB,
    WIDTH,
    DEPTH,
    HEADS,
    INNER,
    KvHeads { missing: Some(2) },
    HEAD_DIM,
    context("4096"),
    Activation { theirs: "hidden_act", missing: "gelu_pytorch_tanh" },
    same(&["norm_epsilon"], "norm_eps", "1e-5"),
    TIED,
    Bias { theirs: "use_bias", layers: &["qkv", "proj", "mlp"], missing: true },
    Biased(&["norm"]),
    ROTATED,
    Window { unless_off: None, missing: None },
    Training { theirs: "residual_dropout", written: "0.0" },
    Training { theirs: "embedding_dropout", written: "0.0" },
    ATTENTION_DROPOUT,
];

const NEMOTRON: &[Line] = &[
    VOCAB,
    WIDTH,
    DEPTH,
    HEADS,
    INNER,
    AS_HEADS,
    HEAD_DIM,
    context("4096"),
    Activation { theirs: "hidden_act", missing: "relu2" },
    same(&["norm_eps"], "norm_eps", "1e-5"),
    UNTIED,
    ATTENTION_BIAS,
    MLP_BIAS,
    Biased(&["norm"]),
    Rotary { base: "rope_theta", share: "partial_rotary_factor", missing_share: 0.5 },
    ATTENTION_DROPOUT,
];

const ARCEE: &[Line] = &[
    VOCAB,
    WIDTH,
    DEPTH,
    HEADS,
    INNER,
    AS_HEADS,
    HEAD_DIM,
    context("4096"),
    Activation { theirs: "hidden_act", missing: "relu2" },
    same(&["rms_norm_eps"], "norm_eps", "1e-5"),
    UNTIED,
    ATTENTION_BIAS,
    MLP_BIAS,
    ROTATED,
    ATTENTION_DROPOUT,
];

const fn table(model_type: &'static str, class: &'static str, lines: &'static [Line]) -> Architecture {
    Architecture { model_type, class, like: model_type, lines }
}

/// All architectures.
pub static ARCHITECTURES: &[Architecture] = &[
    table("gpt2", "GPT2LMHeadModel", GPT2),
    table("gpt_neox", "GPTNeoXForCausalLM", GPT_NEOX),
    table("llama", "LlamaForCausalLM", LLAMA),
    Architecture { like: "llama", ..table("mistral", "MistralForCausalLM", MISTRAL) },
    table("qwen2", "Qwen2ForCausalLM", QWEN2),
    table("qwen3", "Qwen3ForCausalLM", QWEN3),
    table("stablelm", "StableLmForCausalLM", STABLELM),
    table("starcoder2", "Starcoder2ForCausalLM", STARCODER2),
    table("nemotron", "NemotronForCausalLM", NEMOTRON),
    table("arcee", "ArceeForCausalLM", ARCEE),
];

/// The architecture of this `model_type`.
pub fn find(model_type: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|architecture| architecture.model_type == model_type)
}
