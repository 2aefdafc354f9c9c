//! From a file to a model, and from a model to a run.

use super::{decide, ends, options::ImportOptions, words};
use crate::{
    formats::{
        dialect::{Dialect, Placed},
        foreign::{Dtype, Foreign},
        gguf,
        guess::{self, Description, Guess, Open},
        hugging_face, int8,
        opened::{self, Format, OWN, Opened},
        portable::Portable,
    },
    run::{RunDir, State},
    text::many,
};
use kinglet_core::{
    config::{Config, TokenizerKind},
    error::{Error, Result},
    params::Layout,
};
use serde::{Serialize, Serializer};
use std::{collections::BTreeMap, path::Path};

/// What an import found out.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ImportReport {
    /// Its format.
    #[serde(serialize_with = "name")]
    pub format: Format,
    /// Whose model it is, for people.
    pub origin: String,
    /// The architecture whose names its tensors have.
    pub architecture: &'static str,
    /// Parameters.
    pub params: usize,
    /// Updates that were made before.
    pub step: u64,
    /// Where the tokenizer is from.
    pub tokenizer: String,
    /// What was guessed.
    pub guesses: Vec<Guess>,
    /// How many tensors were left out, because they hold nothing that was learned.
    pub buffers_left_out: usize,
    /// What else there is to tell.
    pub notes: Vec<String>,
}

fn name<S: Serializer>(format: &Format, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_str(format.name())
}

/// An imported model.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Imported {
    /// The model.
    pub portable: Portable,
    /// What was found out about it.
    pub report: ImportReport,
}

/// Reads a model of another program.
///
/// # Errors
/// If it cannot be read, is damaged, or has what kinglet has no shape for; if something that it does not say is not told
/// by the options either.
pub fn import(path: &Path, options: &ImportOptions) -> Result<Imported> {
    let mut opened = opened::open(path, options.format)?;
    let at = |error: Error| match error {
        Error::Data(what) => Error::run(path, what),
        other => other,
    };
    let Description { origin, dialect, mut config, open, mut notes, step } =
        describe(&mut opened, options).map_err(at)?;
    notes.splice(0..0, std::mem::take(&mut opened.foreign.notes));
    let (open, told) = settle(&mut config, open, options)?;
    let (tokenizer, source) = words::tokenizer(&opened, &config, options, &mut notes).map_err(at)?;
    let tokenizer = ends::add(&opened, &mut config, tokenizer, options, &mut notes).map_err(at)?;
    let placed = place(dialect, &opened.foreign, &config, &mut notes).map_err(at)?;
    let asks = if opened.own.is_some() { Some(OWN) } else { opened.config.as_ref().map(|_| "config.json") };
    if let (Some(name), Some(asks)) = (placed.zeros.first(), asks) {
        return Err(at(Error::Data(format!("it has no tensor {name}, which {asks} asks for"))));
    }
    config.tokenizer = match tokenizer.chars() {
        Some(_) => TokenizerKind::Char,
        None if tokenizer.unit() == "bytes" => TokenizerKind::Byte,
        None => TokenizerKind::File("tokenizer.json".to_owned()),
    };
    config.max_iters = config.max_iters.max(step).max(1);
    let mut portable = Portable::new(config, placed.weights, tokenizer).map_err(at)?;
    let guesses = decide::decide(&mut portable, &open, &told, &options.data, &mut notes)?;
    let params = portable.weights.len();
    let (format, architecture, buffers_left_out) = (opened.format, dialect.name, placed.buffers.len());
    let report = ImportReport {
        format,
        origin,
        architecture,
        params,
        step,
        tokenizer: source,
        guesses,
        buffers_left_out,
        notes,
    };
    Ok(Imported { portable, report })
}

/// What is known of the model.
fn describe(opened: &mut Opened, options: &ImportOptions) -> Result<Description> {
    if opened.format == Format::Gguf {
        let gguf::Described { dialect, config, notes } = gguf::describe(&opened.foreign)?;
        refuse_heads(options, &config, "the file")?;
        let origin = format!("{} of llama.cpp", dialect.name);
        return Ok(Description { origin, dialect, config, open: Vec::new(), notes, step: 0 });
    }
    if let Some(config) = opened.own.clone() {
        refuse_heads(options, &config, OWN)?;
        int8::join(&mut opened.foreign)?;
        let (origin, dialect) = ("kinglet's export of tensors".to_owned(), Dialect::own());
        return Ok(Description { origin, dialect, config, open: Vec::new(), notes: Vec::new(), step: 0 });
    }
    let Some(json) = &opened.config else { return guess::describe(&mut opened.foreign, options.n_head) };
    guess::unwrap_names(&mut opened.foreign)?;
    let mut wanted =
        options.set.iter().filter_map(|setting| setting.split_once('=')).filter(|(key, _)| key.trim() == "block_size");
    let block_size = wanted.next_back().and_then(|(_, value)| value.trim().parse().ok());
    let hugging_face::Described { mut config, dialect, mut notes } = hugging_face::read(json, block_size)?;
    refuse_heads(options, &config, "config.json")?;
    tie(&mut config, dialect, &opened.foreign, &mut notes)?;
    let model_type = json.get("model_type").and_then(|name| name.as_str()).unwrap_or_default();
    let origin = format!("{model_type} of transformers");
    Ok(Description { origin, dialect, config, open: Vec::new(), notes, step: 0 })
}

/// Refuses a number of heads that is not what the model says of itself.
fn refuse_heads(options: &ImportOptions, config: &Config, source: &str) -> Result<()> {
    match options.n_head {
        Some(n) if n != config.n_head => {
            Err(Error::BadConfig(format!("--n-head {n}: {source} says {}", config.n_head)))
        }
        _ => Ok(()),
    }
}

/// A head beside tied weights is not used by transformers 4, but by transformers 5; it is told if it differs.
fn tie(config: &mut Config, dialect: &Dialect, foreign: &Foreign, notes: &mut Vec<String>) -> Result<()> {
    if config.tie_weights && !dialect.is_tied(foreign)? {
        let what = "config.json ties the head to the token embedding, but the file has a head of other weights: they are \
                    left out, as transformers 4 does; transformers 5 uses them, as kinglet does with \
                    tie_word_embeddings = false in config.json";
        notes.push(what.to_owned());
    }
    Ok(())
}

/// Applies what the options say. Returns what they leave open, and what they settle that the file leaves open.
fn settle(config: &mut Config, open: Vec<Open>, options: &ImportOptions) -> Result<(Vec<Open>, Vec<Open>)> {
    for key in ["vocab_size", "n_layer", "n_embd", "bias", "tie_weights"] {
        let is_set = |setting: &&String| setting.split_once('=').is_some_and(|(name, _)| name.trim() == key);
        if let Some(setting) = options.set.iter().find(is_set) {
            let what = format!("--set {setting}: the tensors in the file say what {key} is");
            return Err(Error::BadConfig(what));
        }
    }
    options.set.iter().try_for_each(|setting| config.set(setting))?;
    let mut known: Vec<String> =
        options.set.iter().filter_map(|setting| Some(setting.split_once('=')?.0.trim().to_owned())).collect();
    if let Some(scale) = options.attention_scale {
        config.attention_scale = scale;
        known.push("attention_scale".to_owned());
    }
    known.extend(options.n_head.map(|_| "n_head".to_owned()));
    config.check()?;
    refuse_few_bits(config)?;
    Ok(open.into_iter().partition(|open| !known.iter().any(|key| key == open.key)))
}

/// Refuses to round what is imported: the model is to be the one of the file.
fn refuse_few_bits(config: &Config) -> Result<()> {
    if config.quantization.is_none() {
        return Ok(());
    }
    let name = config.quantization.name();
    Err(Error::BadConfig(format!(
        "quantization = \"{name}\": an import has the numbers of the file, and none is rounded. Import it with --set \
         quantization=none; kinglet quantize RUN --scheme {name} makes a model in few bits of it afterwards"
    )))
}

/// The weights, and notes on what was left out of the file or was not in it.
fn place(dialect: &Dialect, foreign: &Foreign, config: &Config, notes: &mut Vec<String>) -> Result<Placed> {
    let placed = dialect.read(foreign, config)?;
    refuse_holes(&placed.zeros, config.n_layer)?;
    if !placed.zeros.is_empty() {
        let n = many(placed.zeros.len() as u64, "bias is", "biases are");
        notes.push(format!("{n} not in the file and therefore zero, such as {}", placed.zeros[0]));
    }
    let mut rounded: BTreeMap<&str, u64> = BTreeMap::new();
    for tensor in foreign.tensors.values().filter(|tensor| tensor.dtype == Dtype::F64) {
        *rounded.entry(tensor.dtype.name()).or_default() += 1;
    }
    notes.extend(rounded.iter().map(|(dtype, n)| {
        let (n, are) = (many(*n, "tensor", "tensors"), if *n == 1 { "is" } else { "are" });
        format!("{n} of {dtype} {are} rounded to f32")
    }));
    if let Some(bad) = placed.weights.iter().find(|x| !x.is_finite()) {
        let layout = Layout::new(config)?;
        let at = placed.weights.iter().position(|x| !x.is_finite()).unwrap_or_default();
        let tensor = layout.tensors.iter().find(|tensor| tensor.span.range().contains(&at));
        let name = tensor.map_or("", |tensor| tensor.name.as_str());
        return Err(Error::Data(format!("the weights are not all finite: {bad} in what becomes {name}")));
    }
    Ok(placed)
}

/// Biases that no block has are zero; those that only some blocks or norms lack are missing from a damaged file.
fn refuse_holes(zeros: &[String], n_layer: usize) -> Result<()> {
    let kind = |name: &str| {
        let parts = name.split('.').map(|part| if part.bytes().all(|b| b.is_ascii_digit()) { "N" } else { part });
        parts.collect::<Vec<_>>().join(".")
    };
    let mut kinds: BTreeMap<String, (usize, &String)> = BTreeMap::new();
    zeros.iter().for_each(|name| kinds.entry(kind(name)).or_insert((0, name)).0 += 1);
    let is_norm = |kind: &str| kind.contains("norm") || kind.contains("ln");
    match kinds.iter().find(|(kind, (n, _))| is_norm(kind) || kind.contains(".N.") && !n.is_multiple_of(n_layer)) {
        Some((_, (_, name))) => {
            Err(Error::Data(format!("it has no tensor {name}, though others of its kind are there")))
        }
        None => Ok(()),
    }
}

impl Imported {
    /// Writes the model as a run in a new folder: weights without the optimizer's state, so that it can be used and
    /// fine-tuned, but not resumed. The folder is there whole or not at all.
    ///
    /// # Errors
    /// If the folder is unusable.
    pub fn save(&self, out: &Path) -> Result<RunDir> {
        let Portable { config, weights, tokenizer, .. } = &self.portable;
        let layout = Layout::new(config)?;
        let state = State { step: self.report.step, ..State::default() };
        RunDir::create_whole(out, config.clone(), tokenizer.clone(), None, |run| {
            run.save_weights(&layout, &state, |span, out| out.copy_from_slice(&weights[span.range()]))?;
            run.prune(&state)
        })
    }
}
