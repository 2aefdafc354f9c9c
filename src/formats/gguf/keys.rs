//! What the keys of a GGUF say of a model: one table, read in both directions.

use super::write::{Keys, Kv};
use crate::formats::{
    dialect::{Convention, Dialect},
    foreign::Foreign,
};
use kinglet_core::{
    config::{AttentionScale, Config, NormKind, Position},
    error::{Error, Result},
};
use serde_json::Value;

/// A setting that a key has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ours {
    Context,
    Width,
    Blocks,
    Inner,
    Heads,
    KvHeads,
    HeadSize,
    Epsilon,
    Theta,
    /// Whether attention and MLP of a block are side by side, which they never are.
    Parallel,
}

/// Which architectures have a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    All,
    Norm(NormKind),
    Rotary,
    Only(&'static str),
}

/// The keys, behind the name of the architecture and a dot.
const KEYS: &[(&str, Ours, Of)] = &[
    ("context_length", Ours::Context, Of::All),
    ("embedding_length", Ours::Width, Of::All),
    ("block_count", Ours::Blocks, Of::All),
    ("feed_forward_length", Ours::Inner, Of::All),
    ("attention.head_count", Ours::Heads, Of::All),
    ("attention.head_count_kv", Ours::KvHeads, Of::All),
    ("attention.layer_norm_epsilon", Ours::Epsilon, Of::Norm(NormKind::LayerNorm)),
    ("attention.layer_norm_rms_epsilon", Ours::Epsilon, Of::Norm(NormKind::RmsNorm)),
    ("attention.key_length", Ours::HeadSize, Of::Rotary),
    ("attention.value_length", Ours::HeadSize, Of::Rotary),
    ("rope.dimension_count", Ours::HeadSize, Of::Rotary),
    ("rope.freq_base", Ours::Theta, Of::Rotary),
    ("use_parallel_residual", Ours::Parallel, Of::Only("gptneox")),
];

/// Keys that change nothing, whatever they say: what they say is in the tensors, or of no consequence.
const IDLE: &[&str] =
    &["vocab_size", "tensor_data_layout", "rope.scaling.finetuned", "rope.scaling.original_context_length"];

/// Keys that change nothing if they say this.
const NEUTRAL: &[(&str, f64)] = &[
    ("rope.scaling.factor", 1.0),
    ("rope.scale_linear", 1.0),
    ("rope.scaling.attn_factor", 1.0),
    ("logit_scale", 1.0),
    ("expert_count", 0.0),
    ("expert_used_count", 0.0),
    ("attention.sliding_window", 0.0),
    ("attention.max_alibi_bias", 0.0),
    ("attention.clamp_kqv", 0.0),
    ("attn_logit_softcapping", 0.0),
    ("final_logit_softcapping", 0.0),
    ("pooling_type", 0.0),
    ("leading_dense_block_count", 0.0),
];

/// The longest context that kinglet's configuration allows.
const LONGEST: u64 = 65536;

/// What the keys and the names of the tensors say of a model.
#[derive(Clone, Debug)]
pub struct Described {
    /// The architecture.
    pub dialect: &'static Dialect,
    /// The configuration, `vocab_size` included.
    pub config: Config,
    /// What the user should know.
    pub notes: Vec<String>,
}

fn has(dialect: &Dialect, of: Of) -> bool {
    match of {
        Of::All => true,
        Of::Norm(norm) => dialect.holds.norm == norm,
        Of::Rotary => dialect.holds.position == Position::Rotary,
        Of::Only(name) => dialect.name == name,
    }
}

/// Says in which setting a model is not one of this architecture; a chain of rewrites should have made it one.
fn refuse(config: &Config, dialect: &Dialect) -> Result<()> {
    let (name, holds) = (dialect.name, &dialect.holds);
    let scaled = config.attention_scale == holds.scale || config.head_size() == config.n_embd;
    let differs = [
        ("position", config.position != holds.position),
        ("norm", config.norm != holds.norm),
        ("activation", !holds.activations.contains(&config.activation)),
        ("attention_scale", holds.scale == AttentionScale::HeadSize && !scaled),
        ("qk_norm", config.qk_norm != holds.qk_norm),
        ("qkv_conv", config.qkv_conv > 0),
        ("res_conv", config.res_conv > 0),
        ("logit_softcap", config.logit_softcap > 0.0),
        ("n_kv_head", !holds.grouped && config.kv_heads() != config.n_head),
        ("head_size", !holds.head_size && config.head_size() * config.n_head != config.n_embd),
    ];
    match differs.iter().find(|(_, differs)| *differs) {
        Some((key, _)) => {
            let value = config.value(key);
            Err(Error::Data(format!("the architecture {name} cannot have {key} = {value}")))
        }
        None => Ok(()),
    }
}

/// The keys of a model.
///
/// # Errors
/// If the architecture cannot have one of its settings.
pub(super) fn write(config: &Config, dialect: &Dialect) -> Result<Keys> {
    refuse(config, dialect)?;
    let size = |n: usize| u32::try_from(n).map(Kv::U32).expect("settings are below 2^32");
    let rows = KEYS.iter().filter(|(.., of)| has(dialect, *of));
    Ok(rows
        .map(|(key, ours, _)| {
            let value = match ours {
                Ours::Context => size(config.block_size),
                Ours::Width => size(config.n_embd),
                Ours::Blocks => size(config.n_layer),
                Ours::Inner => size(config.mlp_size()),
                Ours::Heads => size(config.n_head),
                Ours::KvHeads => size(config.kv_heads()),
                Ours::HeadSize => size(config.head_size()),
                Ours::Epsilon => Kv::F32(config.norm_eps as f32),
                Ours::Theta => Kv::F32(config.rope_theta as f32),
                Ours::Parallel => Kv::Bool(false),
            };
            (format!("{}.{key}", dialect.name), value)
        })
        .collect())
}

/// What a file's keys, and the names of its tensors, say of the model.
///
/// # Errors
/// If a key is missing, or says what kinglet has no shape for.
pub fn describe(foreign: &Foreign) -> Result<Described> {
    let architecture = foreign.meta.get("general.architecture").and_then(Value::as_str);
    let architecture = architecture.ok_or_else(|| Error::Data("it does not say general.architecture".to_owned()))?;
    let Some(dialect) = Dialect::find(Convention::Gguf, architecture) else {
        let known = Dialect::all().iter().filter(|dialect| dialect.convention == Convention::Gguf);
        let known: Vec<_> = known.map(|dialect| dialect.name).collect();
        let known = known.join(", ");
        return Err(Error::Data(format!("general.architecture = \"{architecture}\": kinglet knows {known}")));
    };
    let keys = Known { foreign, dialect };
    keys.refuse_others()?;
    keys.refuse_scaled_rotations()?;
    let mut notes = Vec::new();
    let mut config = Config::default();
    let holds = &dialect.holds;
    (config.position, config.norm, config.activation) = (holds.position, holds.norm, holds.activations[0]);
    (config.qk_norm, config.attention_scale) = (holds.qk_norm, holds.scale);
    keys.sizes(&mut config, &mut notes)?;
    config.bias = dialect.biases(foreign);
    config.bias.norm &= holds.norm == NormKind::LayerNorm;
    config.tie_weights = dialect.tensor(foreign, "lm_head", ".weight").is_none();
    let embedding = dialect.tensor(foreign, "transformer.wte", ".weight");
    let embedding = embedding.ok_or_else(|| Error::Data("it has no token_embd.weight".to_owned()))?;
    config.set(&format!("vocab_size={}", embedding.shape[0]))?;
    config.check()?;
    Ok(Described { dialect, config, notes })
}

/// The keys of a file whose architecture is known.
struct Known<'a, 'f> {
    foreign: &'a Foreign<'f>,
    dialect: &'static Dialect,
}

impl Known<'_, '_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.dialect.name)
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.foreign.meta.get(self.name(key))
    }

    /// An error that names a key and its value.
    fn bad(&self, key: &str, what: &str) -> Error {
        let value = self.get(key).map_or_else(|| "nothing".to_owned(), shown);
        Error::Data(format!("{} = {value}: {what}", self.name(key)))
    }

    fn size(&self, key: &str) -> Result<u64> {
        match self.get(key) {
            None => Err(Error::Data(format!("it does not say {}", self.name(key)))),
            Some(value) => value.as_u64().ok_or_else(|| self.bad(key, "kinglet has one number for all blocks")),
        }
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        let number = |value: &Value| value.as_f64().ok_or_else(|| self.bad(key, "not a number"));
        self.get(key).map(number).transpose()
    }

    /// Refuses keys of the architecture that kinglet has nothing for.
    fn refuse_others(&self) -> Result<()> {
        let prefix = self.name("");
        let keys = self.foreign.meta.as_object().into_iter().flatten();
        for (name, value) in keys {
            let Some(key) = name.strip_prefix(&prefix) else { continue };
            let known = KEYS.iter().any(|(known, _, of)| *known == key && has(self.dialect, *of));
            let neutral = || NEUTRAL.iter().any(|(other, says)| *other == key && value.as_f64() == Some(*says));
            let harmless = match key {
                "rope.scaling.type" => value == "none",
                "attention.causal" => value == true,
                // A window that is as long as the context.
                "attention.sliding_window" if value.as_u64() >= Some(self.size("context_length")?) => true,
                // What is side by side has one norm: the other is missing then.
                "use_parallel_residual" => true,
                _ => IDLE.contains(&key) || neutral(),
            };
            if !known && !harmless {
                return Err(self.bad(key, "kinglet has no such setting"));
            }
        }
        Ok(())
    }

    /// A table of factors on the rotations' frequencies is Llama 3.1's way to a longer context.
    fn refuse_scaled_rotations(&self) -> Result<()> {
        const NAME: &str = "rope_freqs.weight";
        let Some(factors) = self.foreign.tensors.get(NAME) else { return Ok(()) };
        match factors.read()?.iter().find(|factor| **factor != 1.0) {
            Some(x) => Err(Error::Data(format!("{NAME} has {x}: kinglet does not scale the frequencies of rotations"))),
            None => Ok(()),
        }
    }

    fn sizes(&self, config: &mut Config, notes: &mut Vec<String>) -> Result<()> {
        let mut head_sizes = Vec::new();
        for (key, ours, _) in KEYS.iter().filter(|(.., of)| has(self.dialect, *of)) {
            match ours {
                Ours::Context => {
                    let length = self.size(key)?;
                    if length > LONGEST {
                        let name = self.name(key);
                        notes.push(format!("{name} = {length}: block_size is {LONGEST}, the longest that kinglet has"));
                    }
                    config.set(&format!("block_size={}", length.min(LONGEST)))?;
                }
                Ours::Width => config.set(&format!("n_embd={}", self.size(key)?))?,
                Ours::Blocks => config.set(&format!("n_layer={}", self.size(key)?))?,
                Ours::Inner => config.set(&format!("n_inner={}", self.size(key)?))?,
                Ours::Heads => config.set(&format!("n_head={}", self.size(key)?))?,
                Ours::KvHeads if self.get(key).is_none() => {}
                Ours::KvHeads => config.set(&format!("n_kv_head={}", self.size(key)?))?,
                Ours::HeadSize if self.get(key).is_none() => {}
                Ours::HeadSize => head_sizes.push((*key, self.size(key)?)),
                Ours::Epsilon => match self.number(key)? {
                    Some(epsilon) => config.set(&format!("norm_eps={epsilon}"))?,
                    None => return Err(Error::Data(format!("it does not say {}", self.name(key)))),
                },
                Ours::Theta => {
                    if let Some(theta) = self.number(key)? {
                        config.set(&format!("rope_theta={theta}"))?;
                    }
                }
                Ours::Parallel if self.get(key).is_some_and(|value| value == false) => {}
                Ours::Parallel => return Err(self.bad(key, "kinglet has blocks with the MLP behind attention only")),
            }
        }
        self.head_size(config, &head_sizes)?;
        // What is the default is written as that.
        if config.n_kv_head == config.n_head {
            config.n_kv_head = 0;
        }
        let inner = std::mem::take(&mut config.n_inner);
        if config.mlp_size() != inner {
            config.n_inner = inner;
        }
        Ok(())
    }

    /// Keys, values and rotations must be of one size.
    fn head_size(&self, config: &mut Config, sizes: &[(&'static str, u64)]) -> Result<()> {
        let usual = (config.n_embd / config.n_head) as u64;
        let of_keys = sizes.iter().find(|(key, _)| *key == "attention.key_length").map_or(usual, |(_, size)| *size);
        if let Some((key, _)) = sizes.iter().find(|(_, size)| *size != of_keys) {
            return Err(self
                .bad(key, &format!("kinglet has heads whose keys, values and rotations are of one size, {of_keys}")));
        }
        if of_keys * config.n_head as u64 != config.n_embd as u64 {
            config.set(&format!("head_size={of_keys}"))?;
        }
        Ok(())
    }
}

/// A value, not too long.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 { text } else { text.chars().take(60).chain(['…']).collect() }
}
