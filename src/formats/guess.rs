//! What tensors without a `config.json` are: whose code wrote them, what their shapes say, and what has to be guessed.

use super::{
    dialect::{Convention, Dialect, Nearest},
    foreign::{Foreign, Tensor},
    int8,
};
use crate::text::many;
use kinglet_core::{
    config::{Activation, AttentionScale, Config, Init},
    error::{Error, Result},
};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// How sure something is that a file does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Certainty {
    /// A text decided it.
    Measured,
    /// It is so in the code that writes such files.
    Likely,
    /// It may well be otherwise.
    Unsure,
}

impl std::fmt::Display for Certainty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Certainty::Measured => "measured",
            Certainty::Likely => "likely",
            Certainty::Unsure => "unsure",
        })
    }
}

/// What was guessed, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Guess {
    /// kinglet's key.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// Why.
    pub reason: String,
    /// How sure that is.
    pub certainty: Certainty,
}

/// What a file leaves open: a key and the values that it may have, the usual one first.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Open {
    pub(super) key: &'static str,
    pub(super) values: Vec<String>,
    /// Why the first is the usual one; none if there is no usual one.
    pub(super) usual: Option<(String, Certainty)>,
}

/// What is known of the model in a file.
#[derive(Debug)]
pub(super) struct Description {
    /// Whose it is, for people.
    pub(super) origin: String,
    pub(super) dialect: &'static Dialect,
    pub(super) config: Config,
    pub(super) open: Vec<Open>,
    pub(super) notes: Vec<String>,
    /// Updates that were made.
    pub(super) step: u64,
}

/// Components of names that wrappers of a module add, wherever they are.
const WRAPPERS: [&str; 4] = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"];

/// Removes what `torch.compile` and wrappers for several devices add to names.
pub(super) fn unwrap_names(foreign: &mut Foreign<'_>) -> Result<()> {
    let mut changed = 0u64;
    let mut tensors = BTreeMap::new();
    for (name, tensor) in std::mem::take(&mut foreign.tensors) {
        let parts = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect::<Vec<_>>();
        let parts = match &parts[..] {
            ["module", rest @ ..] => rest,
            parts => parts,
        };
        let plain = parts.join(".");
        changed += u64::from(plain != name);
        if tensors.insert(plain.clone(), tensor).is_some() {
            return Err(Error::Data(format!("it has {plain} twice, with and without what wrappers add to names")));
        }
    }
    foreign.tensors = tensors;
    if changed > 0 {
        let n = many(changed, "name has", "names have");
        foreign.notes.push(format!("{n} a prefix of torch.compile or of a wrapper, which is left out"));
    }
    Ok(())
}

/// Names of Meta's code and of llama2.c, and GGUF's, which are of the same tensors in the same order of channels.
const META: [(&str, &str); 9] = [
    ("attention.wq.", "attn_q."),
    ("attention.wk.", "attn_k."),
    ("attention.wv.", "attn_v."),
    ("attention.wo.", "attn_output."),
    ("attention_norm.", "attn_norm."),
    ("feed_forward.w1.", "ffn_gate."),
    ("feed_forward.w2.", "ffn_down."),
    ("feed_forward.w3.", "ffn_up."),
    ("ffn_norm.", "ffn_norm."),
];

/// A name of Meta's as GGUF's.
fn of_meta(name: &str) -> Option<String> {
    match name {
        "tok_embeddings.weight" => return Some("token_embd.weight".to_owned()),
        "norm.weight" => return Some("output_norm.weight".to_owned()),
        "output.weight" => return Some(name.to_owned()),
        _ => {}
    }
    let (block, rest) = name.strip_prefix("layers.")?.split_once('.')?;
    let (theirs, ours) = META.iter().find(|(theirs, _)| rest.starts_with(theirs))?;
    Some(format!("blk.{block}.{ours}{}", &rest[theirs.len()..]))
}

/// The dialect of the tensors, whose names may be changed so that it fits.
fn dialect(foreign: &mut Foreign<'_>) -> Result<&'static Dialect> {
    if foreign.tensors.contains_key("tok_embeddings.weight") {
        let renamed = std::mem::take(&mut foreign.tensors).into_iter();
        // Tables of the rotations are buffers.
        let kept = renamed.filter(|(name, _)| !name.starts_with("freqs_") && !name.ends_with("rope.freqs"));
        foreign.tensors = kept.map(|(name, tensor)| (of_meta(&name).unwrap_or(name), tensor)).collect();
    }
    for _ in 0..3 {
        if let Some(found) = Dialect::detect(foreign, None) {
            return Ok(found);
        }
        let Some(prefix) = shared_prefix(foreign) else { break };
        let tensors = std::mem::take(&mut foreign.tensors).into_iter();
        foreign.tensors = tensors.map(|(name, tensor)| (name[prefix.len()..].to_owned(), tensor)).collect();
        foreign.notes.push(format!("all names begin with {prefix}, which is left out"));
    }
    let names: Vec<_> = foreign.tensors.keys().take(4).map(String::as_str).collect();
    let what = match foreign.tensors.len() {
        0 => "it has no tensors".to_owned(),
        1 => format!("its only tensor, {}, is of no architecture that kinglet knows", names[0]),
        n => format!("its {n} tensors are of no architecture that kinglet knows; they begin with {}", names.join(", ")),
    };
    let nearest = Dialect::nearest(foreign).map_or_else(String::new, |nearest| near(&nearest));
    Err(Error::Data(what + &nearest))
}

/// What keeps tensors from being of the architecture that they are nearest to.
fn near(Nearest { name, missing, strange }: &Nearest) -> String {
    let list = |names: &[String]| {
        let more = if names.len() > 3 { format!(" and {} more", names.len() - 3) } else { String::new() };
        names.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ") + &more
    };
    let mut what = format!(". The nearest is {name}");
    if !missing.is_empty() {
        what += &format!("; it lacks {}", list(missing));
    }
    if !strange.is_empty() {
        what += &format!("; {name} has no place for {}", list(strange));
    }
    what
}

/// The first component, if all names have it: what a module in a module adds.
fn shared_prefix(foreign: &Foreign) -> Option<String> {
    let first = foreign.tensors.keys().next()?;
    let prefix = format!("{}.", first.split_once('.')?.0);
    foreign.tensors.keys().all(|name| name.starts_with(&prefix)).then_some(prefix)
}

/// What a file says beside its tensors, wherever it says it.
struct Stated<'a>(Vec<&'a serde_json::Map<String, Value>>);

impl<'a> Stated<'a> {
    fn new(meta: &'a Value) -> Stated<'a> {
        let places = ["model_args", "config", "model_config", "args", "hparams", "hyper_parameters"];
        let inside = places.iter().filter_map(|place| meta.get(*place)?.as_object());
        Stated(inside.chain(meta.as_object()).collect())
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.iter().find_map(|object| object.get(name)).filter(|value| !value.is_null())
    }

    fn size(&self, name: &str) -> Option<usize> {
        self.get(name)?.as_u64().and_then(|n| usize::try_from(n).ok())
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.get(name)?.as_f64()
    }
}

/// Describes tensors by their names and shapes, and by what stands beside them in the file.
///
/// # Errors
/// If nobody's code that is known writes such names.
pub(super) fn describe(foreign: &mut Foreign<'_>, n_head: Option<usize>) -> Result<Description> {
    unwrap_names(foreign)?;
    int8::join(foreign)?;
    let dialect = dialect(foreign)?;
    let stated = Stated::new(&foreign.meta);
    let mut config = sizes(dialect, foreign, &stated)?;
    config.tie_weights = match stated.get("tie_weights").and_then(Value::as_bool) {
        Some(tied) => tied,
        None => dialect.is_tied(foreign)?,
    };
    let mut found = Description {
        origin: String::new(),
        dialect,
        config,
        open: Vec::new(),
        notes: Vec::new(),
        step: stated.size("iter_num").or(stated.size("step")).unwrap_or(0) as u64,
    };
    match dialect.convention {
        Convention::Lecture => lecture(&mut found),
        Convention::NanoGpt => nanogpt(&mut found, foreign, &stated),
        Convention::Gguf if dialect.name == "llama" => llama(&mut found, &stated)?,
        Convention::HuggingFace if dialect.name == "gpt2" => {
            found.origin = "GPT-2 of transformers, without its config.json".to_owned();
            found.config.activation = Activation::GeluTanh;
            found.open.push(Open {
                key: "activation",
                values: activations("gelu_tanh"),
                usual: Some(("GPT-2 has the approximation of GELU".into(), Certainty::Likely)),
            });
        }
        Convention::HuggingFace | Convention::Gguf => {
            let what = format!(
                "these are the tensors of a {} model, and its config.json, which says how many heads it has and how they \
                 are rotated, is not beside the file",
                dialect.name
            );
            return Err(Error::Data(what));
        }
    }
    heads(&mut found, foreign, &stated, n_head)?;
    Ok(found)
}

/// What names and shapes say.
fn sizes(dialect: &Dialect, foreign: &Foreign, stated: &Stated) -> Result<Config> {
    let mut config = Config::default();
    config.init = Init::Gpt2;
    let holds = dialect.holds;
    (config.position, config.norm, config.qk_norm) = (holds.position, holds.norm, holds.qk_norm);
    (config.attention_scale, config.activation) = (holds.scale, holds.activations[0]);
    let matrix = |ours: &str| -> Result<[usize; 2]> {
        let tensor = dialect.tensor(foreign, ours, ".weight");
        match tensor.map(|tensor| &tensor.shape[..]) {
            Some(&[rows, cols]) => Ok([rows, cols]),
            shape => Err(Error::Data(format!("{ours} is not a matrix there: {shape:?}"))),
        }
    };
    [config.vocab_size, config.n_embd] = matrix("transformer.wte")?;
    // A layer more in what is said than there is of tensors is a file of which a part is missing.
    config.n_layer = stated.size("n_layer").or(stated.size("n_layers")).unwrap_or_else(|| dialect.layers(foreign));
    config.block_size = match dialect.tensor(foreign, "transformer.wpe", ".weight") {
        Some(Tensor { shape, .. }) => shape.first().copied().unwrap_or_default(),
        None => stated.size("block_size").or(stated.size("max_seq_len")).unwrap_or_default(),
    };
    let [a, b] = matrix("transformer.h.{l}.mlp.c_fc")?;
    let inner = if a == config.n_embd { b } else { a };
    config.n_inner = 0;
    let usual = config.mlp_size();
    config.n_inner = if inner == usual { 0 } else { inner };
    config.bias = dialect.biases(foreign);
    config.dropout = stated.number("dropout").unwrap_or(0.0);
    config.embd_dropout = config.dropout;
    config.max_iters = stated.size("max_iters").unwrap_or(1) as u64;
    if let Some(rate) = stated.number("learning_rate").filter(|rate| *rate > 0.0 && *rate <= 10.0) {
        config.learning_rate = rate;
    }
    Ok(config)
}

fn choices(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

/// The activation functions of one argument, the usual one first.
fn activations(usual: &str) -> Vec<String> {
    let mut all = choices(&["gelu", "gelu_tanh", "relu", "relu_squared"]);
    // The others keep their order.
    all.sort_by_key(|name| name != usual);
    all
}

/// The lecture's code, which scales by the number of channels in the video and by the size of a head in later versions.
fn lecture(found: &mut Description) {
    found.origin = "the lecture's code (token_embedding_table, a module for each head)".to_owned();
    found.config.attention_scale = AttentionScale::NEmbd;
    found.config.init = Init::Pytorch;
    found.open.push(Open {
        key: "attention_scale",
        values: choices(&["n_embd", "head_size"]),
        usual: Some((
            "the lecture divides by the square root of n_embd; later versions of its code use head_size".into(),
            Certainty::Likely,
        )),
    });
    found.open.push(Open {
        key: "activation",
        values: activations("relu"),
        usual: Some(("the lecture has ReLU".into(), Certainty::Likely)),
    });
}

/// nanoGPT, or one of its relatives with the same names.
fn nanogpt(found: &mut Description, foreign: &Foreign, stated: &Stated) {
    let has_mask = foreign.tensors.keys().any(|name| name.ends_with(".attn.bias"));
    let (origin, usual, reason) = if foreign.meta.get("model_args").is_some() {
        ("nanoGPT's checkpoint", Activation::Gelu, "nanoGPT has the exact GELU since 2023")
    } else if stated.get("program") == Some(&"llm.c".into()) {
        ("llm.c's GPT-2", Activation::GeluTanh, "")
    } else if has_mask && !found.config.tie_weights {
        ("minGPT", Activation::GeluTanh, "minGPT has GPT-2's approximation of GELU")
    } else {
        (
            "nanoGPT or a relative of it",
            Activation::Gelu,
            "nanoGPT has the exact GELU; its relatives have GPT-2's approximation",
        )
    };
    found.origin = origin.to_owned();
    found.config.activation = usual;
    if reason.is_empty() {
        return;
    }
    let values = activations(if usual == Activation::Gelu { "gelu" } else { "gelu_tanh" });
    let certainty = if origin == "nanoGPT or a relative of it" { Certainty::Unsure } else { Certainty::Likely };
    found.open.push(Open { key: "activation", values, usual: Some((reason.into(), certainty)) });
    if foreign.meta.get("model_args").is_none() {
        let usual =
            Some(("nanoGPT and its relatives divide by the square root of head_size".into(), Certainty::Likely));
        let values = choices(&["head_size", "n_embd"]);
        found.open.push(Open { key: "attention_scale", values, usual });
    }
}

/// Llama as Meta's code and llama2.c have it.
fn llama(found: &mut Description, stated: &Stated) -> Result<()> {
    found.origin = "Llama, as llama2.c and Meta's code have it".to_owned();
    let config = &mut found.config;
    config.norm_eps = stated.number("norm_eps").unwrap_or(1e-5);
    config.rope_theta = stated.number("rope_theta").unwrap_or(10000.0);
    config.n_kv_head = stated.size("n_kv_head").or(stated.size("n_kv_heads")).unwrap_or(0);
    if config.block_size == 0 {
        let what = "the file does not say how many tokens the model sees at once: --set block_size=N";
        return Err(Error::BadConfig(what.to_owned()));
    }
    Ok(())
}

/// How many heads there are: by name, by what is said, by flag, or a guess.
fn heads(found: &mut Description, foreign: &Foreign, stated: &Stated, given: Option<usize>) -> Result<()> {
    let said = stated.size("n_head").or(stated.size("n_heads"));
    let counted = found.dialect.heads(foreign);
    let c = found.config.n_embd;
    if let (Some(given), Some(known)) = (given, counted.or(said).filter(|known| Some(*known) != given)) {
        return Err(Error::BadConfig(format!("--n-head {given}: the file has {known} heads")));
    }
    let known = counted.or(said);
    if let Some(n) = known.or(given) {
        if n == 0 || !c.is_multiple_of(n) {
            return Err(Error::Data(format!("n_head = {n} is no divisor of n_embd = {c}")));
        }
        found.config.n_head = n;
        if found.config.n_kv_head == n {
            found.config.n_kv_head = 0;
        }
        if known.is_some() {
            return Ok(());
        }
    }
    // GPT-2's four sizes all have heads of 64 channels.
    let is_gpt2 = [768, 1024, 1280, 1600].contains(&c);
    let mut sizes: Vec<usize> = [64, 32, 16, 128, 8].into_iter().filter(|size| c.is_multiple_of(*size)).collect();
    sizes.sort_by_key(|size| *size != 64 || !is_gpt2);
    let Some(first) = sizes.first() else {
        return if given.is_some() { Ok(()) } else { Err(no_heads(c)) };
    };
    found.config.n_head = given.unwrap_or(c / first);
    let usual = is_gpt2.then(|| (format!("GPT-2 of {c} channels has heads of 64"), Certainty::Likely));
    let values = sizes.iter().map(|size| (c / size).to_string()).collect();
    found.open.push(Open { key: "n_head", values, usual });
    Ok(())
}

/// The error where the number of heads is unknown.
pub(super) fn no_heads(c: usize) -> Error {
    let what = "the file does not say how many heads the model has, and its shapes are the same for any number";
    Error::BadConfig(format!("{what}: --n-head N (a divisor of {c}), or --data TEXT to try them on"))
}
