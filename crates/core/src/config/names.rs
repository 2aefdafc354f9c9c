//! The key that is meant by a name that is none: a typing mistake, or what other tools call it.

use crate::error::Error;

/// What other tools call a key.
const OTHERS: &[(&str, &str)] = &[
    ("accumulation_steps", "gradient_accumulation_steps"),
    ("act", "activation"),
    ("activation_function", "activation"),
    ("adam_beta1", "beta1"),
    ("adam_beta2", "beta2"),
    ("adam_epsilon", "eps"),
    ("alpha", "lora_alpha"),
    ("b1", "beta1"),
    ("b2", "beta2"),
    ("batch", "batch_size"),
    ("biases", "bias"),
    ("block", "block_size"),
    ("blocks", "n_layer"),
    ("bos", "bos_token"),
    ("bos_token_id", "bos_token"),
    ("bs", "batch_size"),
    ("channels", "n_embd"),
    ("clip", "grad_clip"),
    ("clip_grad", "grad_clip"),
    ("clip_grad_norm", "grad_clip"),
    ("context", "block_size"),
    ("context_len", "block_size"),
    ("context_length", "block_size"),
    ("context_size", "block_size"),
    ("ctx", "block_size"),
    ("ctx_len", "block_size"),
    ("d_ff", "n_inner"),
    ("d_head", "head_size"),
    ("d_k", "head_size"),
    ("d_model", "n_embd"),
    ("dataset", "data"),
    ("decay_steps", "lr_decay_iters"),
    ("depth", "n_layer"),
    ("dim", "n_embd"),
    ("drop", "dropout"),
    ("dtype", "precision"),
    ("early_stopping", "patience"),
    ("embd", "n_embd"),
    ("embd_dim", "n_embd"),
    ("embedding_dim", "n_embd"),
    ("embedding_size", "n_embd"),
    ("end_token", "eos_token"),
    ("eos", "eos_token"),
    ("eos_token_id", "eos_token"),
    ("epsilon", "eps"),
    ("eval_every", "eval_interval"),
    ("eval_steps", "eval_interval"),
    ("ffn_dim", "n_inner"),
    ("grad_accum", "gradient_accumulation_steps"),
    ("grad_accum_steps", "gradient_accumulation_steps"),
    ("gradient_accumulation", "gradient_accumulation_steps"),
    ("gradient_clip", "grad_clip"),
    ("gradient_clip_val", "grad_clip"),
    ("gradient_clipping", "grad_clip"),
    ("head_dim", "head_size"),
    ("heads", "n_head"),
    ("hidden", "n_embd"),
    ("hidden_dim", "n_embd"),
    ("hidden_size", "n_embd"),
    ("intermediate_size", "n_inner"),
    ("iterations", "max_iters"),
    ("iters", "max_iters"),
    ("kv_channels", "head_size"),
    ("kv_heads", "n_kv_head"),
    ("layer_norm_eps", "norm_eps"),
    ("layer_norm_epsilon", "norm_eps"),
    ("layer_norm_rms_epsilon", "norm_eps"),
    ("layernorm_epsilon", "norm_eps"),
    ("layers", "n_layer"),
    ("ln_eps", "norm_eps"),
    ("log_every", "log_interval"),
    ("logging_steps", "log_interval"),
    ("lr", "learning_rate"),
    ("lr_scheduler", "lr_schedule"),
    ("lr_scheduler_type", "lr_schedule"),
    ("max_grad_norm", "grad_clip"),
    ("max_length", "block_size"),
    ("max_lr", "learning_rate"),
    ("max_seq_len", "block_size"),
    ("max_seq_length", "block_size"),
    ("max_steps", "max_iters"),
    ("micro_batch_size", "batch_size"),
    ("min_learning_rate", "min_lr"),
    ("mlp_dim", "n_inner"),
    ("momentum", "muon_momentum"),
    ("n_batch", "batch_size"),
    ("n_ctx", "block_size"),
    ("n_heads", "n_head"),
    ("n_iters", "max_iters"),
    ("n_kv_heads", "n_kv_head"),
    ("n_layers", "n_layer"),
    ("n_positions", "block_size"),
    ("norm_epsilon", "norm_eps"),
    ("normalization", "norm"),
    ("num_attention_heads", "n_head"),
    ("num_heads", "n_head"),
    ("num_hidden_layers", "n_layer"),
    ("num_iters", "max_iters"),
    ("num_iterations", "max_iters"),
    ("num_key_value_heads", "n_kv_head"),
    ("num_layers", "n_layer"),
    ("num_steps", "max_iters"),
    ("opt", "optimizer"),
    ("optim", "optimizer"),
    ("pos", "position"),
    ("position_embedding", "position"),
    ("positional_encoding", "position"),
    ("pos_emb", "position"),
    ("r", "lora_rank"),
    ("random_seed", "seed"),
    ("rank", "lora_rank"),
    ("rms_norm_eps", "norm_eps"),
    ("rmsnorm_eps", "norm_eps"),
    ("rope", "position"),
    ("schedule", "lr_schedule"),
    ("scheduler", "lr_schedule"),
    ("seq_len", "block_size"),
    ("seq_length", "block_size"),
    ("sequence_length", "block_size"),
    ("softcap", "logit_softcap"),
    ("steps", "max_iters"),
    ("target_modules", "lora_targets"),
    ("tie_word_embeddings", "tie_weights"),
    ("total_steps", "max_iters"),
    ("train_batch_size", "batch_size"),
    ("train_steps", "max_iters"),
    ("training_steps", "max_iters"),
    ("tied", "tie_weights"),
    ("vocab", "vocab_size"),
    ("warmup", "warmup_iters"),
    ("warmup_steps", "warmup_iters"),
    ("wd", "weight_decay"),
    ("weight_tying", "tie_weights"),
    ("width", "n_embd"),
];

/// What other tools have a key for and this program has not, and what does that here.
const ELSEWHERE: &[(&[&str], &str)] = &[
    (
        &["epochs", "epoch", "n_epochs", "num_epochs", "num_train_epochs", "max_epochs"],
        "a run is as long as max_iters says, in updates; `kinglet plan` says how many epochs that is",
    ),
    (&["warmup_ratio", "warmup_fraction", "warmup_percent"], "set warmup_iters, the number of updates of the warm-up"),
    (
        &["val_split", "test_split", "val_fraction", "validation_split", "val_size", "test_size"],
        "set train_split, the fraction that is trained on; the rest is for validation",
    ),
    (
        &["device", "gpu", "cuda", "compile", "backend", "num_workers", "n_threads", "threads", "num_threads"],
        "everything is computed on the CPU, with as many threads as the option --threads says",
    ),
    (
        &["out_dir", "output_dir", "out", "output", "save_dir", "log_dir", "run_name", "name"],
        "where a run is written is said by the options --name and --out",
    ),
    (
        &["temperature", "top_k", "top_p", "max_new_tokens", "num_samples"],
        "that is an option of `kinglet sample` and `kinglet chat`, not part of a configuration",
    ),
    (&["decay_lr", "use_scheduler"], "set lr_schedule: \"constant\" is none"),
    (&["fp16", "bf16", "amp", "mixed_precision", "half"], "set precision, to \"f32\" or \"bf16\""),
    (
        &[
            "save_interval",
            "save_steps",
            "save_every",
            "checkpoint_interval",
            "save_total_limit",
            "always_save_checkpoint",
        ],
        "a checkpoint is written with each estimate of the loss, so eval_interval says how often; keep_last says how many stay",
    ),
    (
        &["init_from", "resume", "checkpoint"],
        "`kinglet train --resume` goes on with a run, and `kinglet finetune` begins with one",
    ),
];

/// A name as keys are written.
fn plain(name: &str) -> String {
    name.trim().trim_start_matches('-').replace(['-', ' ', '.'], "_").to_lowercase()
}

/// Of `keys`, the one that a name means which has `-` for `_`, or is what other tools call it.
pub(super) fn key_like(name: &str, keys: &[&'static str]) -> Option<&'static str> {
    let name = plain(name);
    let name = OTHERS.iter().find(|(other, _)| *other == name).map_or(name.as_str(), |(_, key)| key);
    keys.iter().copied().find(|key| *key == name)
}

/// What does here what a key of other tools does, for which there is none.
pub fn key_elsewhere(name: &str) -> Option<&'static str> {
    let name = plain(name);
    ELSEWHERE.iter().find(|(names, _)| names.contains(&name.as_str())).map(|(_, what)| *what)
}

/// Of `keys`, the one that a name is probably a typing mistake of.
fn nearest(name: &str, keys: &[&'static str]) -> Option<&'static str> {
    let name = plain(name);
    let keys = || keys.iter().copied();
    let distance = |key: &str| strsim::damerau_levenshtein(&name, key);
    // A quarter of the letters may be wrong, or one in a name of three. Of two keys at the same distance, that which has
    // more of the same letter pairs.
    let likeness = |key: &str| strsim::sorensen_dice(&name, key);
    let typed = keys()
        .filter(|key| distance(key) <= (name.chars().count().max(key.len()) / 4).max(1) && name.chars().count() > 2)
        .min_by(|a, b| distance(a).cmp(&distance(b)).then(likeness(b).total_cmp(&likeness(a))));
    // Words left out or added, as in `accumulation_steps` or `muon_learning_rate`.
    typed.or_else(|| keys().max_by(|a, b| likeness(a).total_cmp(&likeness(b))).filter(|key| likeness(key) >= 0.6))
}

/// The error about a key that is none of `keys`; it says which one is probably meant.
pub(super) fn unknown_key(key: &str, keys: &[&'static str]) -> Error {
    let typed = || if key_elsewhere(key).is_some() { None } else { nearest(key, keys) };
    let hint = match key_like(key, keys).or_else(typed) {
        Some(meant) => format!("did you mean {meant}?"),
        None => key_elsewhere(key).unwrap_or("`kinglet keys` lists them").to_owned(),
    };
    Error::BadConfig(format!("there is no configuration key \"{key}\"; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{FIELDS, key_like, unknown_key};

    #[test]
    fn names_of_other_tools_lead_to_keys_and_are_none_themselves() {
        let is_key = |name: &str| FIELDS.iter().any(|field| field.key == name);
        for (other, key) in OTHERS {
            assert!(is_key(key) && !is_key(other) && plain(other) == *other, "{other}: {key}");
            assert_eq!(key_like(other), Some(*key));
        }
        for (names, what) in ELSEWHERE {
            assert!(names.iter().all(|name| !is_key(name) && key_like(name).is_none()), "{names:?}: {what}");
        }
    }

    #[test]
    fn a_name_that_is_no_key_gets_the_one_that_is_meant() {
        for (typed, meant) in [
            ("lr", "learning_rate"),
            ("LR", "learning_rate"),
            ("learning-rate", "learning_rate"),
            ("learing_rate", "learning_rate"),
            ("learningrate", "learning_rate"),
            ("steps", "max_iters"),
            ("max_iter", "max_iters"),
            ("max-iters", "max_iters"),
            ("batch", "batch_size"),
            ("bs", "batch_size"),
            ("ctx", "block_size"),
            ("blok_size", "block_size"),
            ("layers", "n_layer"),
            ("n_layers", "n_layer"),
            ("n_layr", "n_layer"),
            ("nlayer", "n_layer"),
            ("d_model", "n_embd"),
            ("n_embed", "n_embd"),
            ("wd", "weight_decay"),
            ("weigth_decay", "weight_decay"),
            ("clip", "grad_clip"),
            ("rope", "position"),
            ("head_dim", "head_size"),
            ("rms_norm_eps", "norm_eps"),
            ("layer-norm-epsilon", "norm_eps"),
            ("tokeniser", "tokenizer"),
            ("beta3", "beta1"),
            ("droput", "dropout"),
            ("optimiser", "optimizer"),
            ("eval_itervals", "eval_interval"),
        ] {
            let error = unknown_key(typed).to_string();
            assert_eq!(error, format!("there is no configuration key \"{typed}\"; did you mean {meant}?"));
        }
        for (typed, says) in [
            ("epochs", "max_iters"),
            ("num-epochs", "max_iters"),
            ("warmup_ratio", "warmup_iters"),
            ("device", "--threads"),
            ("out_dir", "--name"),
            ("temperature", "kinglet sample"),
            ("zebra", "`kinglet keys` lists them"),
            ("x", "`kinglet keys` lists them"),
        ] {
            let error = unknown_key(typed).to_string();
            assert!(error.contains(says) && !error.contains("did you mean") && error.len() < 250, "{error}");
        }
    }
}
