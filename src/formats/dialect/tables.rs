//! The tables.

use super::form::{Convention, Dialect, Holds, How, Line, Part, Tied};
use How::{ByHead, Interleaved, MinusOne, Same, Transposed};
use Part::{All, Gate, Key, Query, Up, Value};
use kinglet_core::config::{
    Activation::{self, Gelu, GeluTanh, Relu, ReluSquared, Swiglu},
    AttentionScale, Bias, NormKind, Position,
};

const fn line(ours: &'static str, part: Part, theirs: &'static str, how: How) -> Line {
    Line { ours, part, theirs, how }
}

const NO: Bias = Bias::NONE;
const QKV: Bias = Bias { qkv: true, ..NO };
const ATTENTION: Bias = Bias { qkv: true, proj: true, ..NO };
const LINEAR: Bias = Bias { mlp: true, ..ATTENTION };
const NORM: Bias = Bias { norm: true, ..NO };
const ALL: Bias = Bias { norm: true, ..LINEAR };
const EVERY: Bias = Bias { head: true, ..ALL };

/// GPT-2's shape.
const LEARNED: Holds = Holds {
    position: Position::Learned,
    norm: NormKind::LayerNorm,
    activations: &[GeluTanh],
    scale: AttentionScale::HeadSize,
    may: ALL,
    must: ALL,
    together: NO,
    qk_norm: false,
    grouped: false,
    head_size: false,
    tied: Tied::LeftOut,
};

/// Llama's shape.
const ROTARY: Holds = Holds {
    position: Position::Rotary,
    norm: NormKind::RmsNorm,
    activations: &[Swiglu],
    may: LINEAR,
    must: NO,
    together: NO,
    grouped: true,
    head_size: true,
    ..LEARNED
};

/// Every activation function of one argument.
const ANY: &[Activation] = &[Relu, ReluSquared, Gelu, GeluTanh];

const NANOGPT: &[Line] = &[
    line("transformer.wte", All, "transformer.wte", Same),
    line("transformer.wpe", All, "transformer.wpe", Same),
    line("transformer.h.{l}.ln_1", All, "transformer.h.{l}.ln_1", Same),
    line("transformer.h.{l}.attn.c_attn", All, "transformer.h.{l}.attn.c_attn", Same),
    line("transformer.h.{l}.attn.c_proj", All, "transformer.h.{l}.attn.c_proj", Same),
    line("transformer.h.{l}.ln_2", All, "transformer.h.{l}.ln_2", Same),
    line("transformer.h.{l}.mlp.c_fc", All, "transformer.h.{l}.mlp.c_fc", Same),
    line("transformer.h.{l}.mlp.c_proj", All, "transformer.h.{l}.mlp.c_proj", Same),
    line("transformer.ln_f", All, "transformer.ln_f", Same),
    line("lm_head", All, "lm_head", Same),
];

const KINGLET: &[Line] = &[
    line("transformer.wte", All, "transformer.wte", Same),
    line("transformer.wpe", All, "transformer.wpe", Same),
    line("transformer.h.{l}.ln_1", All, "transformer.h.{l}.ln_1", Same),
    line("transformer.h.{l}.attn.c_attn", All, "transformer.h.{l}.attn.c_attn", Same),
    line("transformer.h.{l}.attn.q_norm", All, "transformer.h.{l}.attn.q_norm", Same),
    line("transformer.h.{l}.attn.k_norm", All, "transformer.h.{l}.attn.k_norm", Same),
    line("transformer.h.{l}.attn.c_proj", All, "transformer.h.{l}.attn.c_proj", Same),
    line("transformer.h.{l}.ln_2", All, "transformer.h.{l}.ln_2", Same),
    line("transformer.h.{l}.mlp.c_fc", All, "transformer.h.{l}.mlp.c_fc", Same),
    line("transformer.h.{l}.mlp.c_proj", All, "transformer.h.{l}.mlp.c_proj", Same),
    line("transformer.ln_f", All, "transformer.ln_f", Same),
    line("lm_head", All, "lm_head", Same),
];

const LECTURE: &[Line] = &[
    line("transformer.wte", All, "token_embedding_table", Same),
    line("transformer.wpe", All, "position_embedding_table", Same),
    line("transformer.h.{l}.ln_1", All, "blocks.{l}.ln1", Same),
    line("transformer.h.{l}.attn.c_attn", Query, "blocks.{l}.sa.heads.{m}.query", Same),
    line("transformer.h.{l}.attn.c_attn", Key, "blocks.{l}.sa.heads.{m}.key", Same),
    line("transformer.h.{l}.attn.c_attn", Value, "blocks.{l}.sa.heads.{m}.value", Same),
    line("transformer.h.{l}.attn.c_proj", All, "blocks.{l}.sa.proj", Same),
    line("transformer.h.{l}.ln_2", All, "blocks.{l}.ln2", Same),
    line("transformer.h.{l}.mlp.c_fc", All, "blocks.{l}.ffwd.net.0", Same),
    line("transformer.h.{l}.mlp.c_proj", All, "blocks.{l}.ffwd.net.2", Same),
    line("transformer.ln_f", All, "ln_f", Same),
    line("lm_head", All, "lm_head", Same),
];

const GPT2: &[Line] = &[
    line("transformer.wte", All, "transformer.wte", Same),
    line("transformer.wpe", All, "transformer.wpe", Same),
    line("transformer.h.{l}.ln_1", All, "transformer.h.{l}.ln_1", Same),
    line("transformer.h.{l}.attn.c_attn", All, "transformer.h.{l}.attn.c_attn", Transposed),
    line("transformer.h.{l}.attn.c_proj", All, "transformer.h.{l}.attn.c_proj", Transposed),
    line("transformer.h.{l}.ln_2", All, "transformer.h.{l}.ln_2", Same),
    line("transformer.h.{l}.mlp.c_fc", All, "transformer.h.{l}.mlp.c_fc", Transposed),
    line("transformer.h.{l}.mlp.c_proj", All, "transformer.h.{l}.mlp.c_proj", Transposed),
    line("transformer.ln_f", All, "transformer.ln_f", Same),
    line("lm_head", All, "lm_head", Same),
];

const GPT_NEOX: &[Line] = &[
    line("transformer.wte", All, "gpt_neox.embed_in", Same),
    line("transformer.h.{l}.ln_1", All, "gpt_neox.layers.{l}.input_layernorm", Same),
    line("transformer.h.{l}.attn.c_attn", All, "gpt_neox.layers.{l}.attention.query_key_value", ByHead),
    line("transformer.h.{l}.attn.c_proj", All, "gpt_neox.layers.{l}.attention.dense", Same),
    line("transformer.h.{l}.ln_2", All, "gpt_neox.layers.{l}.post_attention_layernorm", Same),
    line("transformer.h.{l}.mlp.c_fc", All, "gpt_neox.layers.{l}.mlp.dense_h_to_4h", Same),
    line("transformer.h.{l}.mlp.c_proj", All, "gpt_neox.layers.{l}.mlp.dense_4h_to_h", Same),
    line("transformer.ln_f", All, "gpt_neox.final_layer_norm", Same),
    line("lm_head", All, "embed_out", Same),
];

/// The lines that Llama and its relatives share, around those of the MLP, with `$norm` as the difference of norms.
macro_rules! llama_like {
    ($norm:expr, $($mlp:expr),+) => {
        &[
            line("transformer.wte", All, "model.embed_tokens", Same),
            line("transformer.h.{l}.ln_1", All, "model.layers.{l}.input_layernorm", $norm),
            line("transformer.h.{l}.attn.c_attn", Query, "model.layers.{l}.self_attn.q_proj", Same),
            line("transformer.h.{l}.attn.c_attn", Key, "model.layers.{l}.self_attn.k_proj", Same),
            line("transformer.h.{l}.attn.c_attn", Value, "model.layers.{l}.self_attn.v_proj", Same),
            line("transformer.h.{l}.attn.c_proj", All, "model.layers.{l}.self_attn.o_proj", Same),
            line("transformer.h.{l}.ln_2", All, "model.layers.{l}.post_attention_layernorm", $norm),
            $($mlp,)+
            line("transformer.ln_f", All, "model.norm", $norm),
            line("lm_head", All, "lm_head", Same),
        ]
    };
}

const UP_PROJ: Line = line("transformer.h.{l}.mlp.c_fc", All, "model.layers.{l}.mlp.up_proj", Same);
const DOWN_PROJ: Line = line("transformer.h.{l}.mlp.c_proj", All, "model.layers.{l}.mlp.down_proj", Same);
const GATED_GATE: Line = line("transformer.h.{l}.mlp.c_fc", Gate, "model.layers.{l}.mlp.gate_proj", Same);
const GATED_UP: Line = line("transformer.h.{l}.mlp.c_fc", Up, "model.layers.{l}.mlp.up_proj", Same);
const Q_NORM: Line = line("transformer.h.{l}.attn.q_norm", All, "model.layers.{l}.self_attn.q_norm", Same);
const K_NORM: Line = line("transformer.h.{l}.attn.k_norm", All, "model.layers.{l}.self_attn.k_norm", Same);
const C_FC: Line = line("transformer.h.{l}.mlp.c_fc", All, "model.layers.{l}.mlp.c_fc", Same);
const C_PROJ: Line = line("transformer.h.{l}.mlp.c_proj", All, "model.layers.{l}.mlp.c_proj", Same);

const LLAMA: &[Line] = llama_like!(Same, GATED_GATE, GATED_UP, DOWN_PROJ);
const QWEN3: &[Line] = llama_like!(Same, Q_NORM, K_NORM, GATED_GATE, GATED_UP, DOWN_PROJ);
const ARCEE: &[Line] = llama_like!(Same, UP_PROJ, DOWN_PROJ);
const NEMOTRON: &[Line] = llama_like!(MinusOne, UP_PROJ, DOWN_PROJ);
const STARCODER2: &[Line] = llama_like!(Same, C_FC, C_PROJ);

/// The lines that all of GGUF's architectures share, around those of attention and the MLP.
macro_rules! gguf {
    ($($more:expr),+) => {
        &[
            line("transformer.wte", All, "token_embd", Same),
            line("transformer.h.{l}.ln_1", All, "blk.{l}.attn_norm", Same),
            line("transformer.h.{l}.attn.c_proj", All, "blk.{l}.attn_output", Same),
            line("transformer.h.{l}.ln_2", All, "blk.{l}.ffn_norm", Same),
            line("transformer.h.{l}.mlp.c_proj", All, "blk.{l}.ffn_down", Same),
            $($more,)+
            line("transformer.ln_f", All, "output_norm", Same),
            line("lm_head", All, "output", Same),
        ]
    };
}

const POSITIONS: Line = line("transformer.wpe", All, "position_embd", Same);
const FUSED: Line = line("transformer.h.{l}.attn.c_attn", All, "blk.{l}.attn_qkv", Same);
const Q: Line = line("transformer.h.{l}.attn.c_attn", Query, "blk.{l}.attn_q", Same);
const K: Line = line("transformer.h.{l}.attn.c_attn", Key, "blk.{l}.attn_k", Same);
const V: Line = line("transformer.h.{l}.attn.c_attn", Value, "blk.{l}.attn_v", Same);
// Llama's rotations mix neighbours in llama.cpp.
const Q_PAIRS: Line = Line { how: Interleaved, ..Q };
const K_PAIRS: Line = Line { how: Interleaved, ..K };
const UP: Line = line("transformer.h.{l}.mlp.c_fc", All, "blk.{l}.ffn_up", Same);
const GATE_OF_TWO: Line = line("transformer.h.{l}.mlp.c_fc", Gate, "blk.{l}.ffn_gate", Same);
const UP_OF_TWO: Line = line("transformer.h.{l}.mlp.c_fc", Up, "blk.{l}.ffn_up", Same);
const ATTN_Q_NORM: Line = line("transformer.h.{l}.attn.q_norm", All, "blk.{l}.attn_q_norm", Same);
const ATTN_K_NORM: Line = line("transformer.h.{l}.attn.k_norm", All, "blk.{l}.attn_k_norm", Same);

const fn hugging_face(
    name: &'static str,
    holds: Holds,
    prefix: &'static str,
    buffers: &'static [&'static str],
    lines: &'static [Line],
) -> Dialect {
    Dialect { name, convention: Convention::HuggingFace, holds, prefix, buffers, lines }
}

const fn of_gguf(name: &'static str, holds: Holds, lines: &'static [Line]) -> Dialect {
    let buffers = &["rope_freqs.weight"];
    Dialect { name, convention: Convention::Gguf, holds, prefix: "", buffers, lines }
}

const INV_FREQ: &[&str] = &["rotary_emb.inv_freq"];

/// Where several can express a model, the first is preferred.
/// kinglet's own names of whatever kinglet has. No file is recognised by them: what the model is stands beside it.
pub(super) static OWN: Dialect = Dialect {
    name: "kinglet",
    convention: Convention::NanoGpt,
    holds: Holds { activations: &[Relu, ReluSquared, Gelu, GeluTanh, Swiglu], must: NO, may: EVERY, ..LEARNED },
    prefix: "",
    buffers: &[],
    lines: KINGLET,
};

pub(super) static DIALECTS: &[Dialect] = &[
    Dialect {
        name: "nanogpt",
        convention: Convention::NanoGpt,
        holds: Holds { activations: &[Gelu], must: NO, together: ALL, tied: Tied::Written, ..LEARNED },
        prefix: "",
        buffers: &[".attn.bias"],
        lines: NANOGPT,
    },
    Dialect {
        name: "lecture",
        convention: Convention::Lecture,
        holds: Holds {
            activations: &[Relu],
            scale: AttentionScale::NEmbd,
            may: Bias { qkv: false, head: true, ..ALL },
            must: Bias { qkv: false, head: true, ..ALL },
            tied: Tied::Never,
            ..LEARNED
        },
        prefix: "",
        buffers: &[".tril"],
        lines: LECTURE,
    },
    hugging_face(
        "gpt2",
        Holds { activations: ANY, ..LEARNED },
        "transformer.",
        &[".attn.bias", ".attn.masked_bias"],
        GPT2,
    ),
    hugging_face(
        "starcoder2",
        Holds {
            activations: ANY,
            norm: NormKind::LayerNorm,
            may: ALL,
            must: NORM,
            together: LINEAR,
            head_size: false,
            ..ROTARY
        },
        "model.",
        INV_FREQ,
        STARCODER2,
    ),
    hugging_face(
        "gpt_neox",
        Holds {
            activations: &[Relu, Gelu, GeluTanh],
            norm: NormKind::LayerNorm,
            may: ALL,
            must: ALL,
            grouped: false,
            head_size: false,
            ..ROTARY
        },
        "gpt_neox.",
        &[".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq"],
        GPT_NEOX,
    ),
    hugging_face(
        "nemotron",
        Holds {
            activations: &[ReluSquared],
            norm: NormKind::LayerNorm,
            may: ALL,
            must: NORM,
            together: ATTENTION,
            ..ROTARY
        },
        "model.",
        INV_FREQ,
        NEMOTRON,
    ),
    hugging_face(
        "stablelm",
        Holds {
            norm: NormKind::LayerNorm,
            may: Bias { qkv: true, norm: true, ..NO },
            must: NORM,
            head_size: false,
            ..ROTARY
        },
        "model.",
        INV_FREQ,
        LLAMA,
    ),
    hugging_face("llama", Holds { together: ATTENTION, ..ROTARY }, "model.", INV_FREQ, LLAMA),
    hugging_face("qwen2", Holds { may: QKV, must: QKV, head_size: false, ..ROTARY }, "model.", INV_FREQ, LLAMA),
    hugging_face(
        "qwen3",
        Holds { may: ATTENTION, together: ATTENTION, qk_norm: true, ..ROTARY },
        "model.",
        INV_FREQ,
        QWEN3,
    ),
    hugging_face(
        "arcee",
        Holds { activations: &[ReluSquared], together: ATTENTION, ..ROTARY },
        "model.",
        INV_FREQ,
        ARCEE,
    ),
    of_gguf("gpt2", Holds { grouped: true, ..LEARNED }, gguf!(POSITIONS, FUSED, UP)),
    of_gguf(
        "starcoder2",
        Holds { activations: &[GeluTanh], norm: NormKind::LayerNorm, may: ALL, must: ALL, head_size: false, ..ROTARY },
        gguf!(Q, K, V, UP),
    ),
    of_gguf(
        "gptneox",
        Holds {
            activations: &[GeluTanh],
            norm: NormKind::LayerNorm,
            may: ALL,
            must: ALL,
            grouped: false,
            head_size: false,
            ..ROTARY
        },
        gguf!(FUSED, UP),
    ),
    of_gguf(
        "nemotron",
        Holds {
            activations: &[ReluSquared],
            norm: NormKind::LayerNorm,
            may: ALL,
            must: NORM,
            head_size: false,
            ..ROTARY
        },
        gguf!(Q, K, V, UP),
    ),
    of_gguf(
        "stablelm",
        Holds {
            norm: NormKind::LayerNorm,
            may: Bias { qkv: true, norm: true, ..NO },
            must: NORM,
            head_size: false,
            ..ROTARY
        },
        gguf!(Q, K, V, GATE_OF_TWO, UP_OF_TWO),
    ),
    of_gguf("llama", ROTARY, gguf!(Q_PAIRS, K_PAIRS, V, GATE_OF_TWO, UP_OF_TWO)),
    of_gguf(
        "qwen2",
        Holds { may: Bias { qkv: true, head: true, ..NO }, must: QKV, head_size: false, ..ROTARY },
        gguf!(Q, K, V, GATE_OF_TWO, UP_OF_TWO),
    ),
    of_gguf(
        "qwen3",
        Holds { may: NO, qk_norm: true, ..ROTARY },
        gguf!(Q, K, V, ATTN_Q_NORM, ATTN_K_NORM, GATE_OF_TWO, UP_OF_TWO),
    ),
    of_gguf("arcee", Holds { activations: &[ReluSquared], may: NO, ..ROTARY }, gguf!(Q_PAIRS, K_PAIRS, V, UP)),
];
