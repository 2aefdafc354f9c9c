//! From a configuration to `config.json`.

use super::{
    architecture::Architecture,
    line::{ACTIVATIONS, Line, flag},
    reader::{parsed, read, same},
};
use kinglet_core::{
    config::{Config, FIELDS, NormKind, Position},
    error::{Error, Result},
};
use serde_json::{Map, Value, json};

/// The `config.json` of a model, without its tokens and what only transformers wants to know.
///
/// # Errors
/// If the architecture does not express this model: by the name and the value of the key.
pub fn write(config: &Config, architecture: &Architecture) -> Result<Map<String, Value>> {
    let mut out = Map::new();
    out.insert("architectures".into(), json!([architecture.class]));
    out.insert("model_type".into(), architecture.model_type.into());
    for line in architecture.lines {
        put(line, config, &mut out);
    }
    let back = read(&Value::Object(out.clone()), None)?.config;
    match difference(config, &back) {
        Some((key, has, would_be)) => {
            let class = architecture.class;
            Err(Error::Data(format!("{key} = {has}: {class} has no place for it, it would be {would_be} there")))
        }
        None => Ok(out),
    }
}

/// Writes a line of the table.
fn put(line: &Line, config: &Config, out: &mut Map<String, Value>) {
    let mut set = |name: &str, value: Value| _ = out.insert(name.to_owned(), value);
    match *line {
        Line::Same { theirs, ours, .. } => set(theirs[0], effective(config, ours)),
        Line::Activation { theirs, .. } => {
            let named = ACTIVATIONS.iter().find(|(_, activation)| *activation == config.activation);
            // Every activation function of kinglet's has a name.
            set(theirs, named.map_or(Value::Null, |(name, _)| (*name).into()));
        }
        Line::KvHeads { .. } => set("num_key_value_heads", config.kv_heads().into()),
        Line::HeadSize { .. } => set("head_dim", config.head_size().into()),
        Line::Bias { theirs, layers, .. } => {
            let mut bias = config.bias;
            set(theirs, layers.iter().any(|layer| *flag(&mut bias, layer)).into());
        }
        Line::Biased(_) => {}
        Line::Rotary { base, share, .. } => {
            let theta = Value::from(config.rope_theta);
            set(base, theta.clone());
            set(share, 1.0.into());
            set("rope_scaling", Value::Null);
            // Where transformers 5 looks for them.
            set("rope_parameters", json!({"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": 1.0}));
        }
        Line::Window { unless_off, .. } => {
            set("sliding_window", Value::Null);
            unless_off.into_iter().for_each(|switch| set(switch, false.into()));
        }
        Line::Only { theirs, value, .. } => set(theirs, parsed(value)),
        Line::Training { theirs, written } => set(theirs, parsed(written)),
    }
}

/// The value of one of kinglet's keys, as it is in effect.
fn effective(config: &Config, key: &str) -> Value {
    if key == "n_inner" {
        return config.mlp_size().into();
    }
    serde_json::to_value(config.value(key)).expect("TOML's values are JSON's")
}

/// The first key of the model that is not in effect the same: its name and both values.
fn difference(a: &Config, b: &Config) -> Option<(&'static str, Value, Value)> {
    let of = |config: &Config, key: &str| match key {
        "n_kv_head" => config.kv_heads().into(),
        "head_size" => config.head_size().into(),
        // RMSNorm has none.
        "bias" => {
            let mut bias = config.bias;
            bias.norm &= config.norm == NormKind::LayerNorm;
            serde_json::to_value(bias).expect("plain")
        }
        "rope_theta" if config.position == Position::Learned => Value::Null,
        key => effective(config, key),
    };
    let keys = FIELDS.iter().filter(|field| {
        let of_model = field.section == "model";
        of_model && !["init", "zero_init_proj", "dropout", "embd_dropout"].contains(&field.key)
    });
    keys.map(|field| (field.key, of(a, field.key), of(b, field.key))).find(|(_, a, b)| !same(a, b))
}
