//! Everything that defines a run: one flat, typed struct. Keys use nanoGPT's and PyTorch's names.
//!
//! A configuration is built in layers, each overriding the one before: defaults, a preset or a TOML file, `key=value`
//! settings. A key that does not exist and a value that is not allowed are errors wherever they appear.

use super::names;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, fmt::Write as _};

/// The version of the configuration format; files of a newer version are refused.
pub const FORMAT_VERSION: u64 = 1;

/// The names of all keys.
fn keys() -> Vec<&'static str> {
    FIELDS.iter().map(|field| field.key).collect()
}

/// The key that a name means which has `-` for `_`, or is what other tools call it.
pub fn key_like(name: &str) -> Option<&'static str> {
    names::key_like(name, &keys())
}

/// The error about a key that does not exist; it says which one is probably meant.
pub fn unknown_key(key: &str) -> Error {
    names::unknown_key(key, &keys())
}

/// One line of documentation for a configuration key.
#[derive(Debug)]
pub struct Field {
    /// The key.
    pub key: &'static str,
    /// The heading it is listed under.
    pub section: &'static str,
    /// What it means.
    pub help: &'static str,
    /// Which values are allowed.
    pub allowed: &'static str,
}

impl Field {
    /// Its value where nothing sets it.
    pub fn default_value(&self) -> toml::Value {
        Config::default().value(self.key)
    }

    /// Whether a run settles it for itself and writes it at its start, so that a configuration leaves it out.
    pub fn is_settled_by_run(&self) -> bool {
        const SETTLED: [&str; 8] = [
            "vocab_size",
            "base",
            "teacher_sha256",
            "new_tokens",
            "data_kind",
            "data_sha256",
            "tokenizer_sha256",
            "template_time",
        ];
        SETTLED.contains(&self.key)
    }
}

macro_rules! fields {
    ($($section:literal: $($key:ident: $type:ty = $default:expr, $allowed:literal if $check:expr, $help:literal;)+)+) => {
        /// Everything that defines a run. See [`FIELDS`] for what is allowed.
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub struct Config {
            $($(#[doc = $help] pub $key: $type,)+)+
        }

        impl Default for Config {
            fn default() -> Self {
                Config { $($($key: $default,)+)+ }
            }
        }

        /// Every configuration key, in the order files are written.
        pub const FIELDS: &[Field] = &[
            $($(Field { key: stringify!($key), section: $section, help: $help, allowed: $allowed },)+)+
        ];

        impl Config {
            /// Assigns one key; the value must have the key's type and be allowed.
            fn assign(&mut self, key: &str, value: &toml::Value) -> Result<()> {
                match key {
                    $($(stringify!($key) => self.$key = checked(key, value, $allowed, $check)?,)+)+
                    _ => return Err(unknown_key(key)),
                }
                Ok(())
            }

            /// The value of a key as TOML.
            pub fn value(&self, key: &str) -> toml::Value {
                match key {
                    // A value that TOML cannot hold, such as an integer above 2^63, becomes a string, which no check
                    // accepts.
                    $($(stringify!($key) => toml::Value::try_from(&self.$key)
                        .unwrap_or_else(|_| toml::Value::String(format!("{:?}", self.$key))),)+)+
                    _ => unreachable!("only keys from FIELDS are asked for"),
                }
            }
        }
    };
}

fields! {
"model":
    vocab_size: usize = 0, "0 (from the data) to 1000000" if |&v| v <= 1_000_000,
        "Vocabulary size in tokens; 0 takes it from the tokenizer.";
    block_size: usize = 32, "1 to 65536" if |v| (1..=65536).contains(v),
        "Context length: the number of tokens that the model sees at once.";
    n_layer: usize = 4, "1 to 256" if |v| (1..=256).contains(v),
        "Transformer blocks.";
    n_head: usize = 4, "1 to 256" if |v| (1..=256).contains(v),
        "Attention heads per block; must divide n_embd unless head_size is set.";
    n_embd: usize = 64, "1 to 65536" if |v| (1..=65536).contains(v),
        "Embedding size: the width of the residual stream.";
    dropout: f64 = 0.0, "at least 0 and below 1" if |v| (0.0..0.9999).contains(v),
        "Dropout on the attention weights and on both branches of a block.";
    embd_dropout: f64 = 0.0, "at least 0 and below 1" if |v| (0.0..0.9999).contains(v),
        "Dropout on the sum of token and position embeddings.";
    activation: Activation = Activation::Relu,
        "\"relu\", \"relu_squared\", \"gelu\", \"gelu_tanh\" or \"swiglu\"" if |_| true,
        "Activation function of the MLP.";
    n_inner: usize = 0, "0 (4 n_embd; for swiglu about 8/3 n_embd) to 262144" if |&v| v <= 262_144,
        "Hidden size of the MLP; 0 means 4 n_embd, or for swiglu the multiple of 8 nearest to 8/3 n_embd.";
    norm: NormKind = NormKind::LayerNorm, "\"layernorm\" or \"rmsnorm\"" if |_| true,
        "Normalization before attention, MLP and head; rmsnorm never has a bias.";
    norm_eps: f64 = 1e-5, "0.000000000001 to 1" if |v| (1e-12..=1.0).contains(v),
        "Small constant that norms, also those of qk_norm, add to the variance or the mean square.";
    zero_init_proj: bool = false, "true or false" if |_| true,
        "If true, the output projections of attention and MLP start at zero, so each block starts as the identity.";
    logit_softcap: f64 = 0.0, "0 (off) to 1000000" if |v| (0.0..=1e6).contains(v),
        "Soft cap on the logits z: cap * tanh(z / cap), in training, evaluation and sampling; 0 turns it off.";
    bias: Bias = Bias::NONE, "true, false or a list of \"qkv\", \"proj\", \"mlp\", \"head\", \"norm\"" if |_| true,
        "Layers that have a bias: attention's qkv and output projection, mlp, head, norm; true means all except the head.";
    tie_weights: bool = false, "true or false" if |_| true,
        "If true, lm_head shares its weight with the token embedding.";
    attention_scale: AttentionScale = AttentionScale::HeadSize, "\"head_size\" or \"n_embd\"" if |_| true,
        "Attention scores are divided by the square root of this size: the channels of a head, or n_embd.";
    position: Position = Position::Learned, "\"learned\" or \"rotary\"" if |_| true,
        "Position encoding: a learned embedding added to each token, or rotary embeddings (RoPE) of queries and keys.";
    rope_theta: f64 = 10000.0, "1 to 1000000000000" if |v| (1.0..=1e12).contains(v),
        "Base of the rotary frequencies: with head size hs, channel pair i rotates by rope_theta^(-2i/hs) per position.";
    n_kv_head: usize = 0, "0 (n_head) to 256" if |&v| v <= 256,
        "Key/value heads for grouped-query attention; must divide n_head. 0 means n_head (no grouping).";
    head_size: usize = 0, "0 (n_embd / n_head) to 1024" if |&v| v <= 1024,
        "Channels of each attention head, if attention is to be n_head * head_size wide instead of n_embd; 0 means n_embd / n_head.";
    qk_norm: bool = false, "true or false" if |_| true,
        "If true, queries and keys are normalized (RMSNorm) before attention.";
    qkv_conv: usize = 0, "0 (off) or 2 to 8" if |&v| v == 0 || (2..=8).contains(&v),
        "Positions that a short causal convolution of queries, keys and values sees, channel by channel, its own included; it starts as the identity. 0 turns it off.";
    res_conv: usize = 0, "0 (off) or 2 to 8" if |&v| v == 0 || (2..=8).contains(&v),
        "Positions that a short causal convolution of the residual stream before each block sees, channel by channel, its own included; it starts as the identity. 0 turns it off.";
    init: Init = Init::Pytorch, "\"pytorch\" or \"gpt2\"" if |_| true,
        "Initial weights: PyTorch's defaults, or GPT-2's (normal with std 0.02, residual projections scaled by 1/sqrt(2 n_layer)).";
    quantization: Quantization = Quantization::None, "\"none\", \"w8\" or \"w4\"" if |_| true,
        "Bits of the weights of the linear layers in the blocks, wherever the model computes: w8 is 8 bits and a scale for each row, w4 is 4 bits and a scale for each 32 weights. Training keeps the weights that are rounded, and their gradients go straight through the rounding.";
    quantize_head: bool = false, "true or false" if |_| true,
        "If true, quantization includes the weight of the head.";
    quantize_embeddings: bool = false, "true or false" if |_| true,
        "If true, quantization includes the token and position embeddings.";
"training":
    batch_size: usize = 16, "1 to 65536" if |v| (1..=65536).contains(v),
        "Sequences per batch.";
    gradient_accumulation_steps: usize = 1, "1 to 65536" if |v| (1..=65536).contains(v),
        "Batches per update; their gradients are averaged.";
    max_iters: u64 = 5000, "1 to 1000000000" if |v| (1..=1_000_000_000).contains(v),
        "Number of updates (training steps) in the run.";
    eval_interval: u64 = 100, "1 to 1000000000" if |v| (1..=1_000_000_000).contains(v),
        "Updates between estimates of the loss; a checkpoint is written at each estimate.";
    eval_iters: u64 = 200, "1 to 1000000" if |v| (1..=1_000_000).contains(v),
        "Random batches per split in each estimate.";
    sample_tokens: usize = 200, "0 (none) to 10000" if |&v| v <= 10_000,
        "Tokens of the text that the model writes at an estimate, for metrics.jsonl: at the first, at the last, and at as many between as take about 0.5 % of the time, or 2 % if they are fewer than 8.";
    teacher: String = String::new(), "\"\" (none) or a run" if |_| true,
        "A run whose probabilities of the next token are learned besides the text (distillation); it needs the same tokens, and a block_size that is at least as large.";
    teacher_weight: f64 = 0.5, "above 0, at most 1" if |&v| v > 0.0 && v <= 1.0,
        "Share of the training objective that is the cross-entropy with the teacher's probabilities; losses that are shown are always those of the text.";
    teacher_sha256: String = String::new(), "the SHA-256 of the teacher's weights in hexadecimal" if |_| true,
        "Checksum of the teacher's weights, written when the run starts; resuming with others is refused.";
    precision: Precision = Precision::F32, "\"f32\" or \"bf16\"" if |_| true,
        "Precision of the inputs of matrix products in linear layers and Muon, if the processor supports it; everything else is f32.";
    reduce_precision: Precision = Precision::F32, "\"f32\" or \"bf16\"" if |_| true,
        "Precision of the gradients that ranks send each other; bf16 halves what is sent, and makes the result depend on the number of ranks.";
    z_loss: f64 = 0.0, "0 (off) to 1000" if |v| (0.0..=1000.0).contains(v),
        "Weight of the squared log-sum-exp of the logits. It is added to the training loss, but not to the losses that are shown.";
    log_interval: u64 = 10, "1 to 1000000000" if |v| (1..=1_000_000_000).contains(v),
        "Updates between training losses in metrics.jsonl.";
    seed: u64 = 1337, "0 to 9223372036854775807" if |&v| i64::try_from(v).is_ok(),
        "Seed of all random numbers.";
    keep_last: usize = 2, "1 to 1000000" if |v| (1..=1_000_000).contains(v),
        "Number of estimates whose checkpoints are kept, the newest included; the best checkpoint is always kept.";
    patience: u64 = 0, "0 (off) to 1000000000" if |&v| v <= 1_000_000_000,
        "Early stopping: the run ends after this many estimates in a row without a new best validation loss; 0 turns it off.";
    on_divergence: OnDivergence = OnDivergence::Stop, "\"stop\", \"skip\" or \"rollback\"" if |_| true,
        "When the loss or gradient is not finite, or the loss spikes: stop, skip the update, or return to a checkpoint.";
    spike_zscore: f64 = 0.0, "0 (off) to 1000" if |v| (0.0..=1000.0).contains(v),
        "A loss this many standard deviations above the mean of about the last hundred is a spike; 0 turns the check off.";
    rollback_lr: f64 = 0.5, "above 0, at most 1" if |&v| v > 0.0 && v <= 1.0,
        "The learning rate is multiplied by this at each return to a checkpoint.";
    shards: usize = 0, "0 (one for each core) to 1024" if |&v| v <= 1024,
        "Number of parts that each batch is divided into. It is fixed at the start of a run, so results do not depend on the number of threads.";
"optimizer":
    optimizer: OptimizerKind = OptimizerKind::Adamw, "\"adamw\" or \"muon\"" if |_| true,
        "Optimizer for the weight matrices in the blocks; the rest uses AdamW.";
    learning_rate: f64 = 1e-3, "above 0, at most 10" if |&v| v > 0.0 && v <= 10.0,
        "AdamW's learning rate; with a schedule, the peak learning rate.";
    muon_lr: f64 = 0.02, "above 0, at most 10" if |&v| v > 0.0 && v <= 10.0,
        "Muon's learning rate; it follows the same schedule as AdamW's.";
    muon_momentum: f64 = 0.95, "at least 0 and below 1" if |v| (0.0..1.0).contains(v),
        "Muon: Nesterov momentum.";
    muon_ns_steps: usize = 5, "1 to 20" if |v| (1..=20).contains(v),
        "Muon: Newton-Schulz iterations that orthogonalize an update.";
    lr_schedule: LrSchedule = LrSchedule::Constant, "\"constant\", \"cosine\", \"linear\" or \"wsd\"" if |_| true,
        "How the learning rate falls from learning_rate to min_lr after the warm-up; wsd (warmup-stable-decay) stays constant, then falls linearly.";
    warmup_iters: u64 = 0, "0 to 1000000000" if |&v| v <= 1_000_000_000,
        "Number of updates over which the learning rate rises linearly.";
    lr_decay_iters: u64 = 0, "0 (max_iters) to 1000000000" if |&v| v <= 1_000_000_000,
        "The update at which the learning rate reaches min_lr; 0 means max_iters.";
    min_lr: f64 = 0.0, "0 to 10" if |v| (0.0..=10.0).contains(v),
        "The learning rate at the end of the schedule.";
    cooldown: f64 = 0.2, "above 0, at most 1" if |&v| v > 0.0 && v <= 1.0,
        "wsd: the learning rate falls during this last fraction of the updates after the warm-up.";
    beta1: f64 = 0.9, "at least 0 and below 1" if |v| (0.0..1.0).contains(v),
        "AdamW: decay rate of the first moment.";
    beta2: f64 = 0.999, "at least 0 and below 1" if |v| (0.0..1.0).contains(v),
        "AdamW: decay rate of the second moment.";
    eps: f64 = 1e-8, "above 0, at most 1" if |&v| v > 0.0 && v <= 1.0,
        "AdamW: small constant added to the denominator.";
    weight_decay: f64 = 0.01, "0 to 10" if |v| (0.0..=10.0).contains(v),
        "AdamW: decoupled weight decay.";
    decay: Decay = Decay::All, "\"all\" or \"matrices\"" if |_| true,
        "Parameters that weight decay applies to: all of them, or only matrices (two dimensions).";
    grad_clip: f64 = 0.0, "0 (off) to 1000000" if |v| (0.0..=1e6).contains(v),
        "A gradient with a larger norm is scaled down to this norm; 0 turns clipping off.";
    param_groups: Vec<ParamGroup> = Vec::new(), "a list of tables: params, a list of tensor names, and optimizer keys" if |_| true,
        "Optimizer settings for some parameters. The first group whose pattern matches a tensor applies; * matches anything.";
"finetuning":
    lora_rank: usize = 0, "0 (off) to 4096" if |&v| v <= 4096,
        "Rank of the LoRA adapters that are trained instead of the weights; 0 trains the weights themselves.";
    lora_alpha: f64 = 16.0, "above 0, at most 1000000" if |&v| v > 0.0 && v <= 1e6,
        "The output of adapters is scaled by lora_alpha / lora_rank.";
    lora_dropout: f64 = 0.0, "at least 0 and below 1" if |v| (0.0..0.9999).contains(v),
        "Dropout on the adapters' input.";
    lora_targets: LoraTargets = LoraTargets::BLOCKS,
        "a list of at least one of \"qkv\", \"proj\", \"mlp\", \"head\"" if |_| true,
        "Layers that get an adapter: attention's qkv and output projection, mlp, head.";
    freeze: Vec<String> = Vec::new(), "a list of tensor names; * matches anything" if |_| true,
        "Parameters that are not trained.";
    base: String = String::new(), "the folder of a run" if |_| true,
        "The run that fine-tuning started from; written when it starts.";
    new_tokens: usize = 0, "0 to 1000000" if |&v| v <= 1_000_000,
        "Number of tokens that the new text added to the base run's vocabulary; with adapters, only their rows of the embedding and the head are trained.";
    replay: f64 = 0.0, "at least 0 and below 1" if |v| (0.0..1.0).contains(v),
        "Fraction of the sequences that are drawn from the base run's data, to reduce forgetting.";
    modules_to_save: Vec<String> = Vec::new(), "a list of tensor names; * matches anything" if |_| true,
        "Parameters that are trained and saved together with the adapters.";
"data":
    data: Vec<String> = Vec::new(), "a list of files, folders and names" if |_| true,
        "Where the text comes from: files, folders, patterns, \"-\" for standard input, or a known name such as \"builtin\".";
    data_kind: String = String::new(), "\"\", \"text\", \"conversations\" or \"exchanges\"" if |v: &String| ["", "text", "conversations", "exchanges"].contains(&&**v),
        "Kind of data that the run is trained on; written when it starts.";
    data_sha256: String = String::new(), "the SHA-256 of the text in hexadecimal" if |_| true,
        "Checksum of the text, written when the run starts; resuming on a different text is refused.";
    tokenizer_sha256: String = String::new(), "the SHA-256 of tokenizer.json in hexadecimal" if |_| true,
        "Checksum of tokenizer.json, written when the run starts.";
    tokenizer: TokenizerKind = TokenizerKind::Char, "\"char\", \"byte\", \"bpe:SIZE\" with SIZE from 257 to 1000000, or a tokenizer.json file" if |_| true,
        "How text becomes tokens: characters, bytes, byte pair encoding learned from the text, or a tokenizer.json file.";
    bos_token: String = String::new(), "\"\" (none) or a token of the tokenizer" if |_| true,
        "Token put before each document and each prompt. The model reads it; its prediction does not count in any loss.";
    eos_token: String = String::new(), "\"\" (the tokenizer's own) or a token of the tokenizer" if |_| true,
        "Token that ends a document and an answer; empty means the tokenizer's end-of-text token, if it has one.";
    data_field: String = "text".to_owned(), "the name of a field or column" if |v: &String| !v.is_empty(),
        "The field (JSON lines) or column (CSV) that contains the text.";
    invalid_utf8: InvalidUtf8 = InvalidUtf8::Error, "\"error\" or \"replace\"" if |_| true,
        "How to handle bytes that are not UTF-8: report an error, or replace them with U+FFFD.";
    skip_bad: bool = false, "true or false" if |_| true,
        "If true, records that cannot be read (broken JSON, a missing field, a row of the wrong length) are skipped and counted; if false, they are an error.";
    replacement: bool = true, "true or false" if |_| true,
        "true: sequences start at random offsets, drawn with replacement, as published; false: each epoch visits every token once, with a different window offset.";
    within_documents: bool = false, "true or false" if |_| true,
        "If true, documents in the same sequence do not attend to each other, and positions start at 0 in each.";
    packing: bool = false, "true or false" if |_| true,
        "If true, several conversations share a sequence in training and do not attend to each other: fewer sequences, the same losses.";
    chat_template: String = String::new(), "a Jinja template for messages" if |_| true,
        "Jinja template that turns conversations into text. If empty, each message is a line, and each answer ends with the end-of-text token.";
    template_time: u64 = 0, "0 (time of the start) to 9223372036854775807" if |&v| i64::try_from(v).is_ok(),
        "Current time for strftime_now in a chat_template, in seconds since 1970; 0 is replaced with the time at which the run starts.";
    train_split: f64 = 0.9, "above 0 and below 1" if |&v| v > 0.0 && v < 1.0,
        "Fraction of the text, from its beginning, used for training; the rest is for validation.";
}

/// The MLP's non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)^2` (So et al. 2021).
    ReluSquared,
    /// The exact GELU, as in PyTorch's `GELU()` and nanoGPT.
    Gelu,
    /// GPT-2's tanh approximation.
    GeluTanh,
    /// `silu(gate) up` (Shazeer 2020); gate and up are the halves of a first layer that is twice as wide, gate first.
    Swiglu,
}

impl Activation {
    /// Whether the backward pass needs the input. The derivatives of ReLU and of its square can be computed from the
    /// output.
    pub fn keeps_input(self) -> bool {
        !matches!(self, Activation::Relu | Activation::ReluSquared)
    }
}

/// How each row is normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum NormKind {
    /// `(x - mean) / sqrt(var + eps) w + b`.
    LayerNorm,
    /// `x / sqrt(mean(x^2) + eps) w` (Zhang, Sennrich 2019).
    RmsNorm,
}

/// What the attention scores are divided by the square root of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionScale {
    /// The channels of a head, as in the paper.
    HeadSize,
    /// `n_embd`, as in the lecture's code behind the published numbers.
    NEmbd,
}

/// How the model knows a token's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Position {
    /// An embedding of the position is added to the token's.
    Learned,
    /// Queries and keys are rotated by their position (Su et al. 2021). Each pair has one channel from either half of a
    /// head, as in GPT-NeoX and Llama.
    Rotary,
}

/// What the factors of matrix products (linear layers and Muon) are rounded to; weights, sums and everything else are
/// f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Precision {
    /// Not rounded.
    F32,
    /// bf16, eight significant bits, on processors that have instructions for it; elsewhere f32.
    Bf16,
}

impl Precision {
    /// What to tell a user where a processor computes in another precision than this one.
    pub fn instead(self, computed: Precision) -> Option<&'static str> {
        let what = "precision = \"bf16\" needs a processor with instructions for it; computing in f32 instead";
        (self != computed).then_some(what)
    }
}

/// What weights are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Quantization {
    /// Nothing.
    None,
    /// Eight bits, with an f32 scale for each row of a matrix.
    W8,
    /// Four bits, with an f16 scale for each 32 neighbours in a row.
    W4,
}

impl Quantization {
    /// What it is called in configurations and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Quantization::None => "none",
            Quantization::W8 => "w8",
            Quantization::W4 => "w4",
        }
    }

    /// Whether it is nothing, for what is written of it.
    pub fn is_none(&self) -> bool {
        *self == Quantization::None
    }
}

/// What to do about a step that the guard against divergence rejects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDivergence {
    /// End the run; its last checkpoint is kept.
    Stop,
    /// Leave the weights as they are and go on with the next batch.
    Skip,
    /// Return to the last checkpoint that was written with a loss estimate, and lower the learning rate.
    Rollback,
}

/// The distribution of the initial weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Init {
    /// Linear weights and biases uniform in ±1/sqrt(fan_in), embeddings normal with standard deviation 1.
    Pytorch,
    /// Everything normal with standard deviation 0.02, residual projections 0.02/sqrt(2 n_layer), biases zero.
    Gpt2,
}

/// Which optimizer updates the matrices inside the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OptimizerKind {
    /// AdamW (Loshchilov, Hutter 2019).
    Adamw,
    /// Muon (Jordan et al. 2024): momentum, orthogonalised.
    Muon,
}

/// Optimizer settings for some of the parameters, which override the configuration's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParamGroup {
    /// Names of tensors, in which `*` matches anything.
    pub params: Vec<String>,
    /// Keys of the optimizer section, and their values.
    #[serde(flatten)]
    pub settings: BTreeMap<String, toml::Value>,
}

/// The learning rate schedule after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LrSchedule {
    /// No change.
    Constant,
    /// Half a cosine down to `min_lr`.
    Cosine,
    /// A straight line down to `min_lr`.
    Linear,
    /// Constant until the cooldown, then a straight line down to `min_lr` ("warm-up, stable, decay", Hu et al. 2024).
    Wsd,
}

/// Which parameters weight decay applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Every parameter, as PyTorch's AdamW does by default.
    All,
    /// Parameters with two dimensions, as nanoGPT does.
    Matrices,
}

/// How text becomes tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TokenizerKind {
    /// One token for each distinct character, in code point order.
    Char,
    /// One for each byte.
    Byte,
    /// Byte pair encoding with this many tokens, learned from the text.
    Bpe(usize),
    /// A Hugging Face `tokenizer.json`.
    File(String),
}

impl TryFrom<String> for TokenizerKind {
    type Error = String;

    fn try_from(text: String) -> Result<TokenizerKind, String> {
        match text.strip_prefix("bpe:") {
            _ if text == "char" => Ok(TokenizerKind::Char),
            _ if text == "byte" => Ok(TokenizerKind::Byte),
            // The 256 bytes and the end-of-text token are always in the vocabulary.
            Some(size) => match size.parse() {
                Ok(size) if (257..=1_000_000).contains(&size) => Ok(TokenizerKind::Bpe(size)),
                _ => Err(format!("not a size: {size}")),
            },
            None if text.ends_with(".json") => Ok(TokenizerKind::File(text)),
            None => Err(format!("not a tokenizer: {text}")),
        }
    }
}

impl From<TokenizerKind> for String {
    fn from(kind: TokenizerKind) -> String {
        match kind {
            TokenizerKind::Char => "char".into(),
            TokenizerKind::Byte => "byte".into(),
            TokenizerKind::Bpe(size) => format!("bpe:{size}"),
            TokenizerKind::File(path) => path,
        }
    }
}

/// How bytes that are not UTF-8 are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InvalidUtf8 {
    /// The text is refused.
    Error,
    /// They are replaced by U+FFFD.
    Replace,
}

/// Which layers have a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BiasSpec", into = "BiasSpec")]
pub struct Bias {
    /// The projection to query, key and value.
    pub qkv: bool,
    /// Attention's output projection.
    pub proj: bool,
    /// Both layers of the MLP.
    pub mlp: bool,
    /// `lm_head`.
    pub head: bool,
    /// LayerNorm; RMSNorm has none.
    pub norm: bool,
}

impl Bias {
    /// No biases.
    pub const NONE: Bias = Bias { qkv: false, proj: false, mlp: false, head: false, norm: false };

    fn parts(&mut self) -> [NamedFlag<'_>; 5] {
        [
            ("qkv", &mut self.qkv),
            ("proj", &mut self.proj),
            ("mlp", &mut self.mlp),
            ("head", &mut self.head),
            ("norm", &mut self.norm),
        ]
    }
}

/// The name of a kind of layer in the configuration, and whether it is chosen.
type NamedFlag<'a> = (&'static str, &'a mut bool);

/// Sets the flags of the named parts.
fn choose(parts: &mut [NamedFlag], names: &[String]) -> Result<(), String> {
    for name in names {
        let (_, on) = parts.iter_mut().find(|(part, _)| part == name).ok_or_else(|| format!("no layer {name}"))?;
        **on = true;
    }
    Ok(())
}

/// The names of the parts whose flags are set.
fn chosen(parts: &[NamedFlag]) -> Vec<String> {
    parts.iter().filter(|(_, on)| **on).map(|(name, _)| (*name).to_owned()).collect()
}

/// How [`Bias`] is written in a configuration.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum BiasSpec {
    All(bool),
    Parts(Vec<String>),
}

impl TryFrom<BiasSpec> for Bias {
    type Error = String;

    fn try_from(spec: BiasSpec) -> Result<Bias, String> {
        let mut bias = Bias::NONE;
        match spec {
            BiasSpec::All(on) => bias = Bias { qkv: on, proj: on, mlp: on, head: false, norm: on },
            BiasSpec::Parts(names) => choose(&mut bias.parts(), &names)?,
        }
        Ok(bias)
    }
}

impl From<Bias> for BiasSpec {
    fn from(mut bias: Bias) -> BiasSpec {
        BiasSpec::Parts(chosen(&bias.parts()))
    }
}

/// Which layers have an adapter; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct LoraTargets {
    /// The projection to query, key and value.
    pub qkv: bool,
    /// Attention's output projection.
    pub proj: bool,
    /// Both layers of the MLP.
    pub mlp: bool,
    /// `lm_head`.
    pub head: bool,
}

impl LoraTargets {
    /// All matrices of the blocks.
    pub const BLOCKS: LoraTargets = LoraTargets { qkv: true, proj: true, mlp: true, head: false };

    fn parts(&mut self) -> [NamedFlag<'_>; 4] {
        [("qkv", &mut self.qkv), ("proj", &mut self.proj), ("mlp", &mut self.mlp), ("head", &mut self.head)]
    }
}

impl TryFrom<Vec<String>> for LoraTargets {
    type Error = String;

    fn try_from(names: Vec<String>) -> Result<LoraTargets, String> {
        let mut targets = LoraTargets { qkv: false, proj: false, mlp: false, head: false };
        choose(&mut targets.parts(), &names)?;
        if names.is_empty() { Err("no layer".to_owned()) } else { Ok(targets) }
    }
}

impl From<LoraTargets> for Vec<String> {
    fn from(mut targets: LoraTargets) -> Vec<String> {
        chosen(&targets.parts())
    }
}

impl Config {
    /// Parses TOML. Keys may be grouped under headings, but a key must still be unique in the whole file.
    ///
    /// # Errors
    /// On a syntax error, an unknown or repeated key, a value that is not allowed, or a newer format version.
    pub fn from_toml(text: &str) -> Result<Config> {
        let mut flat = flat(text)?;
        if let Some(version) = flat.remove("format_version") {
            let known = |v: i64| (1..=FORMAT_VERSION as i64).contains(&v);
            if !version.as_integer().is_some_and(known) {
                return Err(Error::BadConfig(format!(
                    "format_version = {version}: this kinglet reads versions up to {FORMAT_VERSION}; this file needs a newer kinglet"
                )));
            }
        }
        let mut config = Config::default();
        for (key, value) in &flat {
            config.assign(key, value)?;
        }
        config.check()?;
        Ok(config)
    }

    /// The keys that a text for [`Config::from_toml`] sets.
    ///
    /// # Errors
    /// If it is not TOML.
    pub fn keys_in(text: &str) -> Result<Vec<String>> {
        Ok(flat(text)?.into_keys().filter(|key| key != "format_version").collect())
    }

    /// Applies a `key=value` setting; the value is written as in TOML, but the quotes around a string may be left out.
    ///
    /// Values that only make sense together (`n_embd` and `n_head`) are checked by [`Config::check`].
    ///
    /// # Errors
    /// If the key does not exist or the value is not allowed.
    pub fn set(&mut self, setting: &str) -> Result<()> {
        let Some((key, text)) = setting.split_once('=') else {
            return Err(Error::BadConfig(format!("{setting:?} does not have the form key=value")));
        };
        let (key, text) = (renamed(key.trim()), text.trim());
        let parsed = format!("x = {text}").parse::<toml::Table>().ok().filter(|table| table.len() == 1);
        let as_text = toml::Value::String(text.to_owned());
        let Some(value) = parsed.and_then(|mut table| table.remove("x")) else { return self.assign(key, &as_text) };
        // Text that looks like a number or a list is text where text is wanted: a column may be called 2024.
        let assigned = self.assign(key, &value);
        assigned
            .or_else(|error| if value.is_str() { Err(error) } else { self.assign(key, &as_text).map_err(|_| error) })
    }

    /// The configuration with some `key=value` settings, as [`Config::set`] reads them.
    ///
    /// # Errors
    /// If a setting is not allowed, or some are not allowed together.
    pub fn with(mut self, settings: &[&str]) -> Result<Config> {
        settings.iter().try_for_each(|setting| self.set(setting))?;
        self.check()?;
        Ok(self)
    }

    /// Checks every value, and the constraints between keys.
    ///
    /// # Errors
    /// If a value is not allowed; the error names the key to change.
    pub fn check(&self) -> Result<()> {
        for field in FIELDS {
            // Fields are public, so their values need not have come through `set`.
            self.clone().assign(field.key, &self.value(field.key))?;
        }
        let fail =
            |key: &str, value: String, allowed: String| Err(Error::Config { key: key.to_owned(), value, allowed });
        if !self.teacher.is_empty() && self.logit_softcap > 0.0 {
            return fail("logit_softcap", self.logit_softcap.to_string(), "0 with a teacher".into());
        }
        if self.head_size == 0 && !self.n_embd.is_multiple_of(self.n_head) {
            return fail("n_head", self.n_head.to_string(), format!("a divisor of n_embd = {}", self.n_embd));
        }
        if !self.n_head.is_multiple_of(self.kv_heads()) {
            return fail(
                "n_kv_head",
                self.n_kv_head.to_string(),
                format!("0 or a divisor of n_head = {}", self.n_head),
            );
        }
        if self.position == Position::Rotary && !self.head_size().is_multiple_of(2) {
            let heads = match self.head_size {
                0 => format!("n_embd / n_head = {} / {}", self.n_embd, self.n_head),
                size => size.to_string(),
            };
            let allowed =
                format!("\"learned\" if the head size, {heads}, is odd: rotary positions rotate pairs of channels");
            return fail("position", "\"rotary\"".into(), allowed);
        }
        if self.lr_schedule != LrSchedule::Constant && (1..=self.warmup_iters).contains(&self.lr_decay_iters) {
            let allowed = format!(
                "0 or above warmup_iters = {}: the learning rate can only fall after the warm-up",
                self.warmup_iters
            );
            return fail("lr_decay_iters", self.lr_decay_iters.to_string(), allowed);
        }
        if self.lr_schedule != LrSchedule::Constant && self.min_lr > self.learning_rate {
            return fail("min_lr", self.min_lr.to_string(), format!("at most learning_rate = {}", self.learning_rate));
        }
        if self.quantization == Quantization::None {
            for (key, value) in
                [("quantize_head", self.quantize_head), ("quantize_embeddings", self.quantize_embeddings)]
            {
                if value {
                    return fail(key, "true".into(), "false if quantization is \"none\"".into());
                }
            }
        } else if self.lora_rank > 0 {
            let allowed = "\"none\" if lora_rank is above 0: adapters are not rounded".to_owned();
            return fail("quantization", self.value("quantization").to_string(), allowed);
        } else if self.tie_weights && self.quantize_head != self.quantize_embeddings {
            let allowed = format!(
                "{} if tie_weights is true, as the embeddings: they are the same weights",
                self.quantize_embeddings
            );
            return fail("quantize_head", self.quantize_head.to_string(), allowed);
        }
        for group in &self.param_groups {
            self.of_group(group)
                .and_then(|config| config.check())
                .map_err(|error| Error::BadConfig(format!("param_groups: {:?}: {error}", group.params)))?;
        }
        Ok(())
    }

    /// What is allowed but can hardly be meant, one sentence each: schedules that do not reach what they aim at, and
    /// settings without an effect.
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts = self.own_doubts();
        for group in &self.param_groups {
            let found = self.of_group(group).map(|config| config.own_doubts()).unwrap_or_default();
            let new: Vec<_> = found.into_iter().filter(|doubt| !doubts.contains(doubt)).collect();
            doubts.extend(new.into_iter().map(|doubt| format!("param_groups: {:?}: {doubt}", group.params)));
        }
        doubts
    }

    /// The same for the parameters of no group.
    fn own_doubts(&self) -> Vec<String> {
        let (default, mut doubts) = (Config::default(), Vec::new());
        let last = self.max_iters - 1;
        if self.warmup_iters >= self.max_iters {
            doubts.push(format!(
                "warmup_iters = {} is not below max_iters = {}: the learning rate never reaches {}; it ends at {:.3e}",
                self.warmup_iters,
                self.max_iters,
                self.learning_rate,
                self.lr(last)
            ));
        } else if self.lr_schedule == LrSchedule::Constant {
            let idle = [("min_lr", self.min_lr != default.min_lr), ("lr_decay_iters", self.lr_decay_iters > 0)];
            let idle = idle.into_iter().filter(|(_, set)| *set);
            doubts.extend(idle.map(|(key, _)| format!("{key} has no effect with lr_schedule = \"constant\"")));
        } else if self.lr_decay_iters > self.max_iters {
            doubts.push(format!(
                "lr_decay_iters = {} is above max_iters = {}: the learning rate never reaches min_lr = {}; it ends at {:.3e}",
                self.lr_decay_iters,
                self.max_iters,
                self.min_lr,
                self.lr(last)
            ));
        } else if (1..self.max_iters).contains(&self.lr_decay_iters) && self.lr(last) == 0.0 {
            let n = self.max_iters - self.lr_decay_iters;
            doubts.push(format!("the learning rate is 0 in the last {n} updates: lr_decay_iters is below max_iters"));
        }
        if self.teacher_weight != default.teacher_weight && self.teacher.is_empty() {
            doubts.push("teacher_weight has no effect without a teacher".to_owned());
        }
        if self.cooldown != default.cooldown && self.lr_schedule != LrSchedule::Wsd {
            doubts.push("cooldown has no effect unless lr_schedule = \"wsd\"".to_owned());
        }
        let after_warm_up = self.max_iters.saturating_sub(self.warmup_iters) as f64;
        if self.lr_schedule == LrSchedule::Wsd && self.cooldown * after_warm_up < 1.0 && after_warm_up > 0.0 {
            doubts.push(format!("cooldown = {} is less than one update: the learning rate never falls", self.cooldown));
        }
        doubts
    }

    /// The configuration for the parameters of a group.
    fn of_group(&self, group: &ParamGroup) -> Result<Config> {
        let mut config = Config { param_groups: Vec::new(), ..self.clone() };
        for (key, value) in &group.settings {
            config.assign(key, value)?;
            let of_optimizer = |field: &Field| field.key == key && field.section == "optimizer";
            if !FIELDS.iter().any(of_optimizer) || ["param_groups", "grad_clip"].contains(&key.as_str()) {
                return Err(Error::BadConfig(format!(
                    "{key} applies to all parameters: set it outside of param_groups"
                )));
            }
        }
        Ok(config)
    }

    /// The configuration for each of `param_groups`, followed by the one for all other parameters.
    ///
    /// # Errors
    /// If a group has a setting that is not allowed.
    pub fn groups(&self) -> Result<Vec<Config>> {
        let others = Config { param_groups: Vec::new(), ..self.clone() };
        self.param_groups.iter().map(|group| self.of_group(group)).chain([Ok(others)]).collect()
    }

    /// The configuration as a file, with headings and a comment for each key.
    pub fn to_toml(&self) -> String {
        let mut text = format!("format_version = {FORMAT_VERSION}\n");
        let mut section = "";
        for field in FIELDS {
            // Earlier versions call this key `new_words`. Without new tokens it is left out, so that they can read the
            // file.
            if field.key == "new_tokens" && self.new_tokens == 0 {
                continue;
            }
            // Earlier versions know no quantization.
            if field.key.starts_with("quanti") && self.quantization == Quantization::None {
                continue;
            }
            if field.section != section {
                section = field.section;
                let _ = write!(text, "\n[{section}]\n");
            }
            let _ = writeln!(text, "# {}\n{} = {}", field.help, field.key, self.value(field.key));
        }
        text
    }

    /// Sequences per update.
    pub fn sequences_per_step(&self) -> usize {
        self.gradient_accumulation_steps * self.batch_size
    }

    /// Tokens per update; in f64, because the total over a run (times `max_iters`) may need more than 64 bits.
    pub fn tokens_per_step(&self) -> f64 {
        self.gradient_accumulation_steps as f64 * self.batch_size as f64 * self.block_size as f64
    }

    /// Channels of one head.
    pub fn head_size(&self) -> usize {
        if self.head_size == 0 { self.n_embd / self.n_head } else { self.head_size }
    }

    /// Channels of all heads together: the width of the queries, and of what attention's output projection reads.
    pub fn attention_size(&self) -> usize {
        self.n_head * self.head_size()
    }

    /// Hidden channels of the MLP, not counting those of the gate.
    pub fn mlp_size(&self) -> usize {
        match (self.n_inner, self.activation) {
            // Two thirds of 4 n_embd, because there are three matrices instead of two.
            (0, Activation::Swiglu) => 8 * ((2 * self.n_embd + 3) / 6).max(1),
            (0, _) => 4 * self.n_embd,
            (n_inner, _) => n_inner,
        }
    }

    /// Heads of keys and values.
    pub fn kv_heads(&self) -> usize {
        if self.n_kv_head == 0 { self.n_head } else { self.n_kv_head }
    }

    /// The learning rate of update number `step`, counted from 0.
    pub fn lr(&self, step: u64) -> f64 {
        if step < self.warmup_iters {
            return self.learning_rate * (step + 1) as f64 / (self.warmup_iters + 1) as f64;
        }
        let end = if self.lr_decay_iters == 0 { self.max_iters } else { self.lr_decay_iters };
        let progress =
            if step >= end { 1.0 } else { (step - self.warmup_iters) as f64 / (end - self.warmup_iters) as f64 };
        let left = match self.lr_schedule {
            LrSchedule::Constant => 1.0,
            LrSchedule::Cosine => 0.5 * (1.0 + libm::cos(std::f64::consts::PI * progress)),
            LrSchedule::Linear => 1.0 - progress,
            LrSchedule::Wsd => ((1.0 - progress) / self.cooldown).min(1.0),
        };
        self.min_lr + left * (self.learning_rate - self.min_lr)
    }

    /// Muon's learning rate of update number `step`.
    pub fn muon_lr(&self, step: u64) -> f64 {
        self.muon_lr * self.lr(step) / self.learning_rate
    }
}

/// Keys and values of a TOML file, whatever headings they are under.
fn flat(text: &str) -> Result<BTreeMap<String, toml::Value>> {
    let table: toml::Table = text.parse().map_err(|error| Error::BadConfig(format!("not TOML: {error}")))?;
    let mut flat = BTreeMap::new();
    for (key, value) in table {
        let entries: Vec<_> = match value {
            toml::Value::Table(section) => section.into_iter().collect(),
            value => vec![(key, value)],
        };
        for (key, value) in entries {
            let key = renamed(&key).to_owned();
            if flat.insert(key.clone(), value).is_some() {
                return Err(Error::BadConfig(format!("the key {key} is set twice")));
            }
        }
    }
    Ok(flat)
}

/// The current name of a key: the names that earlier versions wrote are still read.
fn renamed(key: &str) -> &str {
    if key == "new_words" { "new_tokens" } else { key }
}

fn checked<T: DeserializeOwned>(
    key: &str,
    value: &toml::Value,
    allowed: &str,
    check: impl Fn(&T) -> bool,
) -> Result<T> {
    value.clone().try_into().ok().filter(check).ok_or_else(|| Error::Config {
        key: key.to_owned(),
        value: shown(value),
        allowed: allowed.to_owned(),
    })
}

/// A value in a message: a number without hundreds of zeros.
fn shown(value: &toml::Value) -> String {
    match value {
        toml::Value::Float(x) if x.is_finite() && *x != 0.0 && !(1e-9..1e16).contains(&x.abs()) => format!("{x:e}"),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PRESETS, Preset};

    #[test]
    fn a_written_configuration_reads_back_the_same() {
        for Preset { name, .. } in PRESETS {
            let mut config = Config::preset(name).unwrap();
            config.data = vec!["a \"b\".txt".into()];
            assert_eq!(Config::from_toml(&config.to_toml()).unwrap(), config);
        }
    }

    #[test]
    fn settings_override_and_mistakes_name_key_value_and_what_is_allowed() {
        let mut config = Config::default();
        for setting in ["n_layer=6", "activation=gelu", "learning_rate = 3e-4", "bias=[\"mlp\", \"head\"]", "dropout=0"]
        {
            config.set(setting).unwrap();
        }
        assert!(config.n_layer == 6 && config.activation == Activation::Gelu && config.bias.mlp && !config.bias.qkv);
        for (setting, message) in [
            ("n_layer=0", "n_layer = 0: must be 1 to 256"),
            ("n_layer=-1", "n_layer = -1: must be 1 to 256"),
            ("n_layer=x", "n_layer = \"x\": must be 1 to 256"),
            ("dropout=1", "dropout = 1: must be at least 0 and below 1"),
            ("dropout=1e300", "dropout = 1e300: must be at least 0 and below 1"),
            ("norm_eps=-1e-300", "norm_eps = -1e-300: must be 0.000000000001 to 1"),
            ("learning_rate=nan", "learning_rate = nan: must be above 0, at most 10"),
            (
                "bias=[\"x\"]",
                "bias = [\"x\"]: must be true, false or a list of \"qkv\", \"proj\", \"mlp\", \"head\", \"norm\"",
            ),
            ("n_layers=6", "there is no configuration key \"n_layers\"; did you mean n_layer?"),
            ("n_layer", "\"n_layer\" does not have the form key=value"),
        ] {
            assert_eq!(config.set(setting).unwrap_err().to_string(), message);
        }
        config.set("n_head=5").unwrap();
        assert_eq!(config.check().unwrap_err().to_string(), "n_head = 5: must be a divisor of n_embd = 64");
    }

    #[test]
    fn heads_that_cannot_be_are_refused() {
        for (settings, message) in [
            (&["n_kv_head=3"][..], "n_kv_head = 3: must be 0 or a divisor of n_head = 4"),
            (&["n_kv_head=8"], "n_kv_head = 8: must be 0 or a divisor of n_head = 4"),
            (
                &["position=rotary", "n_embd=12"],
                "position = \"rotary\": must be \"learned\" if the head size, n_embd / n_head = 12 / 4, is odd",
            ),
            (
                &["position=rotary", "head_size=5"],
                "position = \"rotary\": must be \"learned\" if the head size, 5, is odd",
            ),
        ] {
            let mut config = Config::default();
            settings.iter().for_each(|setting| config.set(setting).unwrap());
            let error = config.check().unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }

    #[test]
    fn files_may_have_headings_but_no_unknown_or_repeated_key() {
        assert_eq!(Config::from_toml("[a]\nn_layer = 3\n[b]\nn_head = 2").unwrap().n_layer, 3);
        for (text, message) in [
            ("n_layer = 3\n[model]\nn_layer = 4", "set twice"),
            ("layers = 3", "there is no configuration key"),
            ("n_layer = ", "not TOML"),
            ("format_version = 2", "newer kinglet"),
        ] {
            let error = Config::from_toml(text).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn groups_of_parameters_have_settings_of_their_own() {
        let mut config = Config::from_toml(
            "learning_rate = 0.5\nmax_iters = 100\nbeta2 = 0.9\n\
             [[param_groups]]\nparams = [\"*.wte.*\"]\nlearning_rate = 0.25\nlr_schedule = \"linear\"\n\
             [[param_groups]]\nparams = [\"*.bias\"]\nweight_decay = 0",
        )
        .unwrap();
        let groups = config.groups().unwrap();
        assert_eq!(groups.iter().map(|group| group.lr(50)).collect::<Vec<_>>(), [0.125, 0.5, 0.5]);
        assert_eq!(groups.iter().map(|group| group.weight_decay).collect::<Vec<_>>(), [0.01, 0.0, 0.01]);
        assert!(groups.iter().all(|group| group.beta2 == 0.9 && group.param_groups.is_empty()));
        assert_eq!(Config::from_toml(&config.to_toml()).unwrap(), config);
        config.set("param_groups=[{params=[\"*\"],lr_schedule=\"linear\",min_lr=1}]").unwrap();
        let error = config.check().unwrap_err().to_string();
        assert_eq!(error, "param_groups: [\"*\"]: min_lr = 1: must be at most learning_rate = 0.5");
    }

    #[test]
    fn muon_takes_the_course_of_the_learning_rate() {
        let toml = "muon_lr = 0.02\nlearning_rate = 0.1\nmin_lr = 0.05\nlr_schedule = \"wsd\"\nmax_iters = 100";
        let config = Config::from_toml(toml).unwrap();
        for (step, want) in [(0, 0.02), (80, 0.02), (90, 0.015), (100, 0.01)] {
            assert!((config.muon_lr(step) - want).abs() < 1e-12, "{step}: {}", config.muon_lr(step));
        }
    }

    #[test]
    fn text_is_taken_as_text() {
        let mut config = Config::default();
        for text in ["ข้อความ", "2024", "1.5", "true", "[a]", "a = b", "\"quoted\" twice"] {
            config.set(&format!("data_field={text}")).unwrap();
            assert_eq!(config.data_field, text);
        }
        config.set("data_field=\"in quotes\"").unwrap();
        assert_eq!(config.data_field, "in quotes");
        let error = config.set("tokenizer=1").unwrap_err().to_string();
        assert!(error.starts_with("tokenizer = 1: must be"), "{error}");
    }

    #[test]
    fn schedules_that_can_hardly_be_meant_are_doubted() {
        let doubts = |settings: &[&str]| Config::default().with(settings).unwrap().doubts();
        let (cosine, short) = ("lr_schedule=cosine", "max_iters=200");
        for settings in [&[][..], &[cosine, "min_lr=1e-4"], &[cosine, short, "lr_decay_iters=200", "warmup_iters=199"]]
        {
            assert_eq!(doubts(settings), [""; 0], "{settings:?}");
        }
        for (settings, message) in [
            (&[short, "warmup_iters=5000"][..], "never reaches 0.001; it ends at 3.999e-5"),
            (&[short, "warmup_iters=200", cosine], "warmup_iters = 200 is not below max_iters = 200"),
            (&["min_lr=1e-4"], "min_lr has no effect with lr_schedule = \"constant\""),
            (&[cosine, short, "lr_decay_iters=2000"], "lr_decay_iters = 2000 is above max_iters = 200"),
            (&[cosine, short, "lr_decay_iters=150"], "the learning rate is 0 in the last 50 updates"),
            (&["cooldown=0.5"], "cooldown has no effect"),
            (&["lr_schedule=wsd", "cooldown=1e-9"], "cooldown = 0.000000001 is less than one update"),
            (
                &["param_groups=[{params=[\"*\"],warmup_iters=9999}]"],
                "param_groups: [\"*\"]: warmup_iters = 9999 is not below",
            ),
        ] {
            let found = doubts(settings);
            assert!(found.len() == 1 && found[0].contains(message), "{settings:?}: {found:?}");
        }
        for Preset { name, .. } in PRESETS {
            assert_eq!(Config::preset(name).unwrap().doubts(), [""; 0], "{name}");
        }
        let error = Config::default().with(&[cosine, "lr_decay_iters=50", "warmup_iters=50"]).unwrap_err().to_string();
        assert!(error.starts_with("lr_decay_iters = 50: must be 0 or above warmup_iters = 50"), "{error}");
    }

    #[test]
    fn a_file_without_the_newer_keys_is_the_same_model_as_ever() {
        // Those of the first version.
        let newer = FIELDS.iter().map(|field| field.key).filter(|key| {
            let of_model =
                ["n_inner", "norm", "zero_init_proj", "logit_softcap", "position", "rope_theta", "n_kv_head"];
            of_model.contains(key)
                || [
                    "norm_eps",
                    "head_size",
                    "qk_norm",
                    "qkv_conv",
                    "res_conv",
                    "z_loss",
                    "optimizer",
                    "cooldown",
                    "param_groups",
                ]
                .contains(key)
                || key.starts_with("muon_")
        });
        let newer: Vec<_> = newer.collect();
        assert_eq!(newer.len(), 19);
        for name in ["big-0.2m", "big-2.7m", "shakespeare-char", "shakespeare-cpu", "gpt2"] {
            let config = Config::preset(name).unwrap();
            let written = config.to_toml();
            let old: Vec<_> =
                written.lines().filter(|line| !newer.iter().any(|key| line.starts_with(&format!("{key} =")))).collect();
            assert_eq!(old.len() + newer.len(), written.lines().count());
            assert_eq!(Config::from_toml(&old.join("\n")).unwrap(), config);
        }
    }

    #[test]
    fn the_mlp_has_the_hidden_channels_it_should() {
        for (n_embd, activation, n_inner, want) in [
            (64, Activation::Relu, 0, 256),
            (64, Activation::ReluSquared, 5, 5),
            (64, Activation::Swiglu, 0, 168),
            (192, Activation::Swiglu, 0, 512),
            (384, Activation::Swiglu, 0, 1024),
            (768, Activation::Swiglu, 0, 2048),
            (1, Activation::Swiglu, 0, 8),
            (64, Activation::Swiglu, 100, 100),
        ] {
            let config = Config { n_embd, activation, n_inner, ..Config::default() };
            assert_eq!(config.mlp_size(), want, "{n_embd} {activation:?} {n_inner}");
        }
    }

    #[test]
    fn schedules_start_turn_and_end_where_they_should() {
        let toml = "learning_rate = 1.0\nmin_lr = 0.1\nwarmup_iters = 9\nmax_iters = 109";
        for (schedule, half) in [("constant", 1.0), ("cosine", 0.55), ("linear", 0.55), ("wsd", 1.0)] {
            let mut config = Config::from_toml(toml).unwrap();
            config.set(&format!("lr_schedule={schedule}")).unwrap();
            let close = |step, want: f64| assert!((config.lr(step) - want).abs() < 1e-12, "{schedule} {step}");
            close(0, 0.1);
            close(8, 0.9);
            close(9, 1.0);
            close(59, half);
            close(109, if schedule == "constant" { 1.0 } else { 0.1 });
        }
    }
}
