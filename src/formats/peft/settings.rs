//! What `adapter_config.json` says.

use kinglet_core::error::{Error, Result};
use serde_json::Value;
use std::collections::BTreeMap;

/// The settings of a LoRA of PEFT's, as far as they say what it computes.
#[derive(Clone, Debug, Default)]
pub(in crate::formats) struct Settings {
    /// The model that it was trained on, as PEFT was told.
    pub(in crate::formats) base: Option<String>,
    pub(super) rank: u64,
    pub(super) alpha: f64,
    /// Dropout on what goes into the adapters.
    pub(super) dropout: f64,
    /// Whether the factor is `alpha / sqrt(r)`.
    pub(super) by_root: bool,
    /// Whether a saved embedding is the head too.
    pub(super) stays_tied: bool,
    ranks: Vec<(Pattern, u64)>,
    alphas: Vec<(Pattern, f64)>,
    targets: Targets,
    excluded: Targets,
    /// Modules that were trained as a whole.
    pub(super) saved: Vec<String>,
    /// Blocks that have adapters, if not all have.
    layers: Option<Vec<u64>>,
    pub(in crate::formats) notes: Vec<String>,
}

/// Which modules are meant.
#[derive(Clone, Debug, Default)]
enum Targets {
    /// A regular expression, or what PEFT decides.
    #[default]
    Unknown,
    /// All linear layers but the head.
    AllLinear,
    /// The modules of these names, or whose names end so.
    Names(Vec<String>),
}

/// A key of `rank_pattern` and `alpha_pattern`.
#[derive(Clone, Debug)]
struct Pattern {
    name: String,
    /// Whether it is all of a module's name, and not its end.
    whole: bool,
}

impl Pattern {
    /// These are regular expressions there; those that are names are read.
    fn new(setting: &str, key: &str) -> Result<Pattern> {
        let (whole, name) = key.strip_prefix('^').map_or((false, key), |rest| (true, rest));
        let name = name.strip_suffix('$').unwrap_or(name).replace("\\.", ".");
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if name.is_empty() || !name.chars().all(plain) {
            return Err(refused(setting, key, "kinglet reads names of modules there, and no regular expressions"));
        }
        Ok(Pattern { name, whole })
    }

    fn matches(&self, module: &str) -> bool {
        if self.whole { module == self.name } else { ends(module, &self.name) }
    }
}

/// Whether a module has this name, or its name ends so.
fn ends(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

fn refused(key: &str, value: impl std::fmt::Display, why: &str) -> Error {
    Error::Data(format!("{key} = {value}: {why}"))
}

/// Settings that say nothing about what an adapter computes.
const IDLE: [&str; 18] = [
    "arrow_config",
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    // Only how the weights of a merged layer are turned; GPT-2's are (in, out), and A and B are the same for it.
    "fan_in_fan_out",
    "eva_config",
    "inference_mode",
    "layers_pattern",
    "loftq_config",
    "lora_ga_config",
    "megatron_core",
    "modules_to_save",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
    "bias",
];

/// Settings that are read.
const READ: [&str; 14] = [
    "peft_type",
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "init_lora_weights",
    "ensure_weight_tying",
    "base_model_name_or_path",
    "bias",
];

/// Settings for which kinglet has no form, whatever they say beyond nothing.
const NO_FORM: [(&str, &str); 12] = [
    ("use_dora", "kinglet's adapters have no magnitudes (DoRA); merge_and_unload() there, and import the whole model"),
    ("use_qalora", "kinglet's adapters do not pool their input"),
    ("use_bdlora", "kinglet's adapters have no blocks on several devices"),
    ("lora_bias", "kinglet's adapters have no biases of their own"),
    ("layer_replication", "kinglet's base has each block once"),
    (
        "trainable_token_indices",
        "kinglet's adapters are of linear layers; merge_and_unload() there, and import the whole model",
    ),
    ("target_parameters", "kinglet's adapters are of linear layers"),
    ("alora_invocation_tokens", "kinglet's adapters act on all tokens"),
    ("megatron_config", "kinglet has no layers of Megatron's"),
    ("velora_config", "kinglet has no shape for this"),
    ("monteclora_config", "kinglet has no shape for this"),
    ("kasa_config", "kinglet has no shape for this"),
];

/// Beginnings that change the base's weights, so that the adapter belongs to other weights than the base has.
const CHANGES_BASE: [&str; 6] = ["pissa", "olora", "corda", "loftq", "lora_ga", "mica"];

/// Whether a value is as good as none.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::String(text) => text.is_empty(),
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
        Value::Number(_) => false,
    }
}

impl Settings {
    /// Reads an `adapter_config.json`.
    ///
    /// # Errors
    /// If kinglet has no form for something in it: by the name and the value of the setting.
    pub(in crate::formats) fn read(json: &Value) -> Result<Settings> {
        let object = json.as_object().ok_or_else(|| Error::Data("adapter_config.json is no object".to_owned()))?;
        let text = |key: &str| json.get(key).and_then(Value::as_str);
        let kind = text("peft_type").unwrap_or_default();
        if kind != "LORA" {
            let what =
                "kinglet's adapters are LoRA; merge_and_unload() there, where it has one, and import the whole model";
            return Err(refused("peft_type", json.get("peft_type").unwrap_or(&Value::Null), what));
        }
        let mut notes = Vec::new();
        for (key, value) in object.iter().filter(|(_, value)| !is_nothing(value)) {
            if let Some((_, why)) = NO_FORM.iter().find(|(name, _)| name == key) {
                return Err(refused(key, value, why));
            }
            if IDLE.contains(&key.as_str()) || READ.contains(&key.as_str()) {
                continue;
            }
            if value.is_boolean() {
                return Err(refused(key, value, "kinglet does not know this setting"));
            }
            notes.push(format!(
                "{key} = {value} in adapter_config.json is left out: kinglet does not know this setting"
            ));
        }
        if let Some(init) = text("init_lora_weights")
            && CHANGES_BASE.iter().any(|name| init.to_ascii_lowercase().starts_with(name))
        {
            let why = "this beginning changes the base's weights; PEFT's path_initial_model_for_weight_conversion saves \
                       an adapter for the base as it was";
            return Err(refused("init_lora_weights", init, why));
        }
        let number = |key: &str, value: &Value| {
            value.as_f64().filter(|x| x.is_finite()).ok_or_else(|| refused(key, value, "must be a number"))
        };
        let rank = |key: &str, value: &Value| value.as_u64().ok_or_else(|| refused(key, value, "must be a rank"));
        let of = |key: &str| json.get(key).filter(|value| !value.is_null());
        Ok(Settings {
            base: text("base_model_name_or_path").filter(|name| !name.is_empty()).map(str::to_owned),
            // What PEFT takes where nothing is said.
            rank: of("r").map_or(Ok(8), |value| rank("r", value))?,
            alpha: of("lora_alpha").map_or(Ok(8.0), |value| number("lora_alpha", value))?,
            dropout: of("lora_dropout").map_or(Ok(0.0), |value| number("lora_dropout", value))?,
            by_root: json.get("use_rslora").and_then(Value::as_bool).unwrap_or(false),
            stays_tied: json.get("ensure_weight_tying").and_then(Value::as_bool).unwrap_or(false),
            ranks: patterns(json, "rank_pattern", rank)?,
            alphas: patterns(json, "alpha_pattern", number)?,
            targets: Targets::read(json.get("target_modules")),
            excluded: match json.get("exclude_modules") {
                None | Some(Value::Null) => Targets::Names(Vec::new()),
                some => Targets::read(some),
            },
            saved: match json.get("modules_to_save") {
                Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
                _ => Vec::new(),
            },
            layers: match of("layers_to_transform") {
                None => None,
                // As in PEFT, none at all are all of them.
                Some(Value::Array(all)) if all.is_empty() => None,
                Some(Value::Array(all)) => Some(all.iter().filter_map(Value::as_u64).collect()),
                Some(one) => Some(one.as_u64().into_iter().collect()),
            },
            notes,
        })
    }

    /// The rank of a module's adapter.
    pub(super) fn rank(&self, module: &str) -> u64 {
        self.ranks.iter().find(|(pattern, _)| pattern.matches(module)).map_or(self.rank, |(_, rank)| *rank)
    }

    /// The factor on the output of a module's adapter.
    pub(super) fn scale(&self, module: &str, rank: usize) -> f64 {
        let alpha = self.alphas.iter().find(|(pattern, _)| pattern.matches(module)).map_or(self.alpha, |(_, x)| *x);
        alpha / if self.by_root { (rank as f64).sqrt() } else { rank as f64 }
    }

    /// Whether all factors are `lora_alpha / r` of this rank.
    pub(super) fn is_plain(&self, rank: usize) -> bool {
        self.alphas.is_empty() && !self.by_root && self.rank == rank as u64
    }

    /// Whether a module has an adapter there; none if that is not known. `is_head` is whether it is the model's head.
    pub(super) fn expects(&self, module: &str, is_head: bool) -> Option<bool> {
        let block = module.split('.').find_map(|part| part.parse::<u64>().ok());
        let in_layers = self.layers.as_ref().is_none_or(|layers| block.is_some_and(|block| layers.contains(&block)));
        let meant = |targets: &Targets| match targets {
            Targets::Unknown => None,
            Targets::AllLinear => Some(!is_head),
            Targets::Names(names) => Some(names.iter().any(|name| ends(module, name))),
        };
        Some(meant(&self.targets)? && in_layers && !meant(&self.excluded)?)
    }
}

impl Targets {
    fn read(value: Option<&Value>) -> Targets {
        match value {
            Some(Value::Array(names)) => {
                Targets::Names(names.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            }
            Some(Value::String(name)) if name == "all-linear" => Targets::AllLinear,
            _ => Targets::Unknown,
        }
    }
}

/// `rank_pattern` or `alpha_pattern`. As in PEFT, the first that matches counts; it writes them in the order of their names.
fn patterns<T>(json: &Value, setting: &str, read: impl Fn(&str, &Value) -> Result<T>) -> Result<Vec<(Pattern, T)>> {
    let all = json.get(setting).and_then(Value::as_object).into_iter().flatten();
    // In the order of their names, whatever the order of the file.
    let sorted: BTreeMap<_, _> = all.collect();
    sorted.into_iter().map(|(key, value)| Ok((Pattern::new(setting, key)?, read(setting, value)?))).collect()
}
