//! From `config.json` to a configuration.

use super::{
    architecture::Architecture,
    line::{ACTIVATIONS, Line, flag},
    table::{ARCHITECTURES, find},
};
use crate::{formats::dialect::Dialect, system::disk};
use kinglet_core::{
    config::{Activation, Config, Init, Position},
    error::{Error, Result},
};
use serde_json::Value;
use std::{collections::BTreeSet, path::Path};

/// Settings of a `config.json` that say nothing about what the model computes.
const BESIDE: [&str; 48] = [
    "_name_or_path",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "architectures",
    "attn_implementation",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "do_sample",
    "dtype",
    "eos_token_id",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "keys_to_ignore_at_inference",
    "label2id",
    "max_length",
    "max_window_layers",
    "model_type",
    "n_ctx",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "reorder_and_upcast_attn",
    "return_dict",
    "sep_token_id",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "task_specific_params",
    "torch_dtype",
    "transformers_version",
    "use_cache",
];

/// What of a setting is the same as its absence: 0, 1 as a factor, off.
const NEUTRAL: [(&str, &str); 27] = [
    ("add_cross_attention", "false"),
    ("alibi", "false"),
    ("attention_multiplier", "null"),
    ("attention_logit_cap", "null"),
    ("attn_logit_softcapping", "null"),
    ("cross_attention_hidden_size", "null"),
    ("embedding_multiplier", "1.0"),
    ("final_logit_softcapping", "null"),
    ("is_encoder_decoder", "false"),
    ("layer_types", "null"),
    ("logit_scale", "1.0"),
    ("logits_scaling", "1.0"),
    ("mlp_only_layers", "[]"),
    ("moe_intermediate_size", "null"),
    ("n_routed_experts", "null"),
    ("num_experts", "null"),
    ("num_experts_per_tok", "null"),
    ("num_local_experts", "null"),
    ("num_nextn_predict_layers", "0"),
    ("pruned_heads", "{}"),
    ("quantization_config", "null"),
    ("query_pre_attn_scalar", "null"),
    ("residual_multiplier", "1.0"),
    ("rope_interleaved", "false"),
    ("scale_embedding", "false"),
    ("tie_encoder_decoder", "false"),
    ("use_mrope", "false"),
];

/// What [`read`] makes of a `config.json`.
#[derive(Debug)]
pub struct Described {
    /// The configuration.
    pub config: Config,
    /// The names of its tensors.
    pub dialect: &'static Dialect,
    /// What is left out of it, or taken for granted.
    pub notes: Vec<String>,
}

/// Whether an object is a `config.json` of transformers.
pub(in crate::formats) fn is(value: &Value) -> bool {
    value.get("model_type").is_some_and(Value::is_string)
}

/// Reads a JSON file of a folder of transformers; none if it is not there.
///
/// # Errors
/// If it cannot be read, or is not JSON.
pub(in crate::formats) fn read_json(path: &Path) -> Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = disk::read_text(path, 1 << 24)?;
    let value = serde_json::from_str(&text).map_err(|error| Error::damaged(path, format!("not JSON: {error}")))?;
    Ok(Some(value))
}

/// Reads a `config.json`. `block_size` is the context that is wanted, if not all of it.
///
/// # Errors
/// If kinglet has no shape for something in it: by the name and the value of the setting.
pub fn read(json: &Value, block_size: Option<usize>) -> Result<Described> {
    let model_type = json.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let Some(architecture) = find(model_type) else {
        let known: Vec<_> = ARCHITECTURES.iter().map(|known| known.model_type).collect();
        let what = format!("model_type = \"{model_type}\" is an architecture that kinglet has no shape for; it has: ");
        return Err(Error::Data(what + &known.join(", ")));
    };
    let dialect = architecture.dialect();
    let (mut config, mut reader) = (Config::default(), Reader { json, seen: BTreeSet::new(), notes: Vec::new() });
    let holds = dialect.holds;
    (config.position, config.norm, config.qk_norm) = (holds.position, holds.norm, holds.qk_norm);
    config.init = Init::Gpt2;
    for line in architecture.lines {
        reader.take(line, &mut config)?;
    }
    if let Some(block_size) = block_size {
        if holds.position == Position::Learned && block_size != config.block_size {
            let has = config.block_size;
            let what = format!("block_size = {block_size}: the model has learned {has} positions, so it must be {has}");
            return Err(Error::BadConfig(what));
        }
        config.block_size = block_size;
    }
    reader.rest(&mut config)?;
    config
        .check()
        .map_err(|error| Error::Data(format!("config.json describes what kinglet has no shape for: {error}")))?;
    Ok(Described { config, dialect, notes: reader.notes })
}

/// A `config.json` that is being read.
struct Reader<'a> {
    json: &'a Value,
    seen: BTreeSet<&'static str>,
    notes: Vec<String>,
}

fn refused(name: &str, value: &Value, why: &str) -> Error {
    Error::Data(format!("{name} = {value}: {why}"))
}

/// The largest block_size.
const LONGEST: u64 = 65_536;

const NO_SHAPE: &str = "kinglet has no shape for this";

pub(super) fn parsed(json: &str) -> Value {
    serde_json::from_str(json).expect("the tables have JSON")
}

/// Whether two values are the same, whichever way their numbers are written.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

impl<'a> Reader<'a> {
    /// A setting, if it is there and not null.
    fn get(&mut self, name: &'static str) -> Option<&'a Value> {
        self.seen.insert(name);
        self.json.get(name).filter(|value| !value.is_null())
    }

    fn size(&mut self, name: &'static str) -> Result<Option<usize>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let size = value.as_u64().and_then(|n| usize::try_from(n).ok());
        size.map(Some).ok_or_else(|| refused(name, value, "must be a size"))
    }

    fn flag(&mut self, name: &'static str, missing: bool) -> Result<bool> {
        let Some(value) = self.get(name) else { return Ok(missing) };
        value.as_bool().ok_or_else(|| refused(name, value, "must be true or false"))
    }

    /// Takes a line of the table into the configuration.
    fn take(&mut self, line: &Line, config: &mut Config) -> Result<()> {
        match *line {
            Line::Same { theirs, ours, missing } => self.number(theirs, ours, missing, config)?,
            Line::Activation { theirs, missing } => config.activation = self.activation(theirs, missing)?,
            Line::KvHeads { missing } => {
                let heads = match self.size("num_key_value_heads")? {
                    Some(heads) => heads,
                    // Null means as many as heads; only a missing key means the default.
                    None if self.json.get("num_key_value_heads").is_some() => config.n_head,
                    None => missing.unwrap_or(config.n_head),
                };
                config.n_kv_head = if heads == config.n_head { 0 } else { heads };
            }
            Line::HeadSize { missing } => {
                let usual = if config.n_embd.is_multiple_of(config.n_head) { config.n_embd / config.n_head } else { 0 };
                let size = match self.size("head_dim")? {
                    Some(size) => size,
                    None if self.json.get("head_dim").is_some() => usual,
                    None => missing.unwrap_or(usual),
                };
                config.head_size = if size == usual { 0 } else { size };
            }
            Line::Bias { theirs, layers, missing } => {
                let has = self.flag(theirs, missing)?;
                layers.iter().for_each(|layer| *flag(&mut config.bias, layer) |= has);
            }
            Line::Biased(layers) => layers.iter().for_each(|layer| *flag(&mut config.bias, layer) = true),
            Line::Rotary { base, share, missing_share } => {
                config.rope_theta = self.rotary(base, share, missing_share)?
            }
            Line::Window { .. } => {}
            Line::Only { theirs, value, missing } => {
                let has = self.get(theirs).cloned().unwrap_or_else(|| parsed(missing));
                if !same(&has, &parsed(value)) {
                    return Err(refused(theirs, &has, &format!("{NO_SHAPE}; it has only {value}")));
                }
            }
            Line::Training { theirs, .. } => {
                // Dropout like kinglet's, which is on attention too, is not lost.
                let is_lost = |value: &&Value| value.as_f64() != Some(0.0) && value.as_f64() != Some(config.dropout);
                if let Some(value) = self.get(theirs).filter(is_lost) {
                    self.notes.push(format!("{theirs} = {value} is left out: it matters only in training"));
                }
            }
        }
        Ok(())
    }

    fn number(
        &mut self,
        theirs: &'static [&'static str],
        ours: &str,
        missing: Option<&str>,
        config: &mut Config,
    ) -> Result<()> {
        let mut found: Vec<_> = theirs.iter().filter_map(|name| Some((*name, self.get(name)?.clone()))).collect();
        found.dedup_by(|a, b| same(&a.1, &b.1));
        let (name, value) = match (&found[..], missing) {
            ([(name, value)], _) => (*name, value.clone()),
            ([], Some(missing)) => (theirs[0], parsed(missing)),
            ([], None) => return Err(Error::Data(format!("config.json does not say {}", theirs[0]))),
            ([a, b, ..], _) => {
                return Err(Error::Data(format!("{} = {} and {} = {} contradict each other", a.0, a.1, b.0, b.1)));
            }
        };
        if value.is_null() {
            return Ok(());
        }
        let longest = self.architecture().dialect().holds.position == Position::Rotary
            && ours == "block_size"
            && value.as_u64().is_some_and(|n| n > LONGEST);
        if longest {
            self.notes.push(format!("{name} = {value}: block_size is {LONGEST}, the longest that kinglet has"));
            return config.set(&format!("block_size={LONGEST}"));
        }
        config.set(&format!("{ours}={value}")).map_err(|error| refused(name, &value, &format!("{NO_SHAPE} ({error})")))
    }

    fn activation(&mut self, theirs: &'static str, missing: &str) -> Result<Activation> {
        let missing = Value::from(missing);
        let value = self.get(theirs).unwrap_or(&missing);
        let found = ACTIVATIONS.iter().find(|(name, _)| value == name).map(|(_, activation)| *activation);
        let held = self.architecture().dialect().holds.activations;
        let fits = |activation: &Activation| {
            held.contains(activation) || *activation != Activation::Swiglu && held != [Activation::Swiglu]
        };
        found.filter(fits).ok_or_else(|| {
            let names = ACTIVATIONS.iter().filter(|(_, activation)| fits(activation)).map(|(name, _)| *name);
            refused(theirs, value, &format!("{NO_SHAPE}; here it has {}", names.collect::<Vec<_>>().join(", ")))
        })
    }

    fn architecture(&self) -> &'static Architecture {
        let model_type = self.json.get("model_type").and_then(Value::as_str).unwrap_or_default();
        find(model_type).expect("it was found before")
    }

    /// The base of the rotations. transformers 5 has it in `rope_parameters`, earlier versions beside `rope_scaling`.
    fn rotary(&mut self, base: &'static str, share: &'static str, missing_share: f64) -> Result<f64> {
        let mut theta = self.get(base).map(|value| (base, value.clone()));
        let mut part = self.get(share).map(|value| (share, value.clone()));
        for name in ["rope_scaling", "rope_parameters"] {
            let Some(value) = self.get(name) else { continue };
            let Some(inside) = value.as_object() else { return Err(refused(name, value, NO_SHAPE)) };
            for (key, inner) in inside.iter().filter(|(_, inner)| !inner.is_null()) {
                match key.as_str() {
                    "rope_type" | "type" if inner == "default" => {}
                    "rope_theta" => theta = Some((base, inner.clone())),
                    "partial_rotary_factor" => part = Some((share, inner.clone())),
                    _ => return Err(refused(name, value, NO_SHAPE)),
                }
            }
        }
        let (share, part) = part.unwrap_or((share, missing_share.into()));
        if part.as_f64() != Some(1.0) {
            return Err(refused(share, &part, "kinglet rotates all channels of a head, or none"));
        }
        let (base, theta) = theta.unwrap_or((base, 10000.0.into()));
        theta.as_f64().ok_or_else(|| refused(base, &theta, "must be a number"))
    }

    /// A window over the last tokens is the same as none if the context is not longer. Returns it, if there is one.
    fn window(
        &mut self,
        unless_off: Option<&'static str>,
        missing: Option<usize>,
        config: &Config,
    ) -> Result<Option<usize>> {
        let on = match unless_off {
            Some(switch) => self.flag(switch, false)?,
            None => true,
        };
        let window = match self.size("sliding_window")? {
            None if self.json.get("sliding_window").is_some() => None,
            None => missing,
            window => window,
        };
        match window.filter(|_| on) {
            Some(window) if window < config.block_size => {
                let why = format!(
                    "kinglet attends to all of its context, which is {} here; --set block_size={window} makes it the same",
                    config.block_size
                );
                Err(refused("sliding_window", &window.into(), &why))
            }
            window => Ok(window),
        }
    }

    /// What no line of the table is about.
    fn rest(&mut self, config: &mut Config) -> Result<()> {
        let mut window = None;
        for line in self.architecture().lines {
            if let Line::Window { unless_off, missing } = *line {
                window = self.window(unless_off, missing, config)?;
            }
        }
        if !self.seen.contains("head_dim")
            && let Some(size) = self.size("head_dim")?
            && size != config.head_size()
        {
            return Err(refused("head_dim", &size.into(), NO_SHAPE));
        }
        let Some(all) = self.json.as_object() else { return Ok(()) };
        let mut unknown = Vec::new();
        for (name, value) in all.iter().filter(|(name, value)| !value.is_null() && !self.seen.contains(name.as_str())) {
            // A window that is as long as the context is the same as none.
            let is_full = |kind: &Value| kind == "full_attention" || kind == "sliding_attention" && window.is_some();
            let full = |value: &Value| value.as_array().is_some_and(|types| types.iter().all(is_full));
            match NEUTRAL.iter().find(|(neutral, _)| neutral == name) {
                Some((_, neutral)) if same(value, &parsed(neutral)) => {}
                Some(_) if name == "layer_types" && full(value) => {}
                Some(_) => return Err(refused(name, value, NO_SHAPE)),
                None if BESIDE.contains(&name.as_str()) => {}
                None => unknown.push(format!("{name} = {value}")),
            }
        }
        if !unknown.is_empty() {
            self.notes.push(format!("kinglet does not know these settings of config.json: {}", unknown.join(", ")));
        }
        Ok(())
    }
}
