//! Where the tokenizer of an imported model is from.

use super::options::ImportOptions;
use crate::{
    data::Survey,
    formats::{
        gguf,
        opened::{Format, Opened},
        pytorch,
    },
    text::{
        source::Corpus,
        tokenizer::{CharTokenizer, Tokenizer},
    },
};
use kinglet_core::{
    config::Config,
    error::{Error, Result},
};
use serde_json::Value;
use std::path::Path;

const TOKENIZER: &str = "tokenizer.json";
const META: &str = "meta.pkl";

/// The tokenizer, and where it is from.
pub(super) fn tokenizer(
    opened: &Opened,
    config: &Config,
    options: &ImportOptions,
    notes: &mut Vec<String>,
) -> Result<(Tokenizer, String)> {
    let (tokenizer, source) = find(opened, config, options)?;
    let (tokens, wanted) = (tokenizer.vocab_size(), config.vocab_size);
    if tokens > wanted || tokenizer.chars().is_some() && tokens != wanted {
        let what = format!("{source} has {tokens} tokens, but the model has {wanted}: it is not the model's");
        return Err(Error::Data(what));
    }
    if tokens < wanted {
        notes.push(format!("the tokenizer has {tokens} of the model's {wanted} tokens; the others are never drawn"));
    }
    Ok((tokenizer, source))
}

fn find(opened: &Opened, config: &Config, options: &ImportOptions) -> Result<(Tokenizer, String)> {
    if let Some(path) = &options.tokenizer {
        return Ok((from_file(path)?, path.display().to_string()));
    }
    if opened.format == Format::Gguf
        && let Some(tokenizer) = gguf::tokenizer(&opened.foreign)?
    {
        return Ok((tokenizer, "the vocabulary in the file".to_owned()));
    }
    for name in [TOKENIZER, META] {
        let path = opened.folder.join(name);
        if path.is_file() {
            return Ok((from_file(&path)?, path.display().to_string()));
        }
    }
    if !options.data.is_empty() {
        let names = options.data.join(", ");
        return Ok((of_characters(config, &options.data)?, format!("the characters of {names}")));
    }
    Err(unknown(opened, config))
}

/// A `tokenizer.json`, or nanoGPT's `meta.pkl`.
fn from_file(path: &Path) -> Result<Tokenizer> {
    if !path.exists() {
        return Err(Error::not_found(path, "there is no such file"));
    }
    if path.extension().is_some_and(|ending| ending == "pkl") {
        return of_meta(path, &pytorch::read_values(path)?);
    }
    if path.extension().is_some_and(|ending| ending == "model") {
        let what = "a model of SentencePiece is not read: transformers' save_pretrained makes a tokenizer.json of it";
        return Err(Error::run(path, what));
    }
    Tokenizer::from_file(path)
}

/// nanoGPT's `meta.pkl`: `itos` has the character of each id.
fn of_meta(path: &Path, meta: &Value) -> Result<Tokenizer> {
    let bad = |what: &str| Error::damaged(path, format!("not nanoGPT's meta.pkl: {what}"));
    let itos = meta.get("itos").and_then(Value::as_object).ok_or_else(|| bad("it has no itos"))?;
    let mut chars = vec![None; itos.len()];
    for (id, text) in itos {
        let mut one = text.as_str().unwrap_or_default().chars();
        let (Some(c), None) = (one.next(), one.next()) else { return Err(bad(&format!("{text} is not a character"))) };
        let place = id.parse().ok().and_then(|id: usize| chars.get_mut(id));
        *place.ok_or_else(|| bad(&format!("there is an id {id} of {} characters", itos.len())))? = Some(c);
    }
    let chars: Option<Vec<char>> = chars.into_iter().collect();
    let tokenizer = chars.and_then(CharTokenizer::of).ok_or_else(|| bad("two ids are the same character"))?;
    Ok(tokenizer.into())
}

/// The characters of a text in the order of their code points, as the lecture and nanoGPT number them.
fn of_characters(config: &Config, names: &[String]) -> Result<Tokenizer> {
    let survey = Survey::of(&Corpus::named(names, config)?, config)?;
    let chars: Vec<char> = survey.alphabet().collect();
    let (has, wants) = (chars.len(), config.vocab_size);
    if has != wants {
        let what = format!(
            "{} has {has} different characters, but the model has {wants} tokens: it is not the text \
             whose characters are the model's tokens",
            names.join(", ")
        );
        return Err(Error::Data(what));
    }
    Ok(CharTokenizer::of(chars).expect("an alphabet has each once").into())
}

/// What to do where there is no tokenizer.
fn unknown(opened: &Opened, config: &Config) -> Error {
    let v = config.vocab_size;
    let dataset = opened.foreign.meta.get("config").and_then(|config| config.get("dataset")).and_then(Value::as_str);
    let hint = match dataset {
        Some(dataset) => format!(" (it was trained on {dataset}: nanoGPT's data/{dataset}/meta.pkl, if there is one)"),
        None if (50257..=50432).contains(&v) => " (it is probably GPT-2's)".to_owned(),
        None => String::new(),
    };
    Error::Data(format!(
        "the tokenizer for its {v} tokens is not in it{hint}: --tokenizer FILE names a tokenizer.json or a meta.pkl of \
         nanoGPT; --data TEXT makes one of the characters of a text, as the lecture does"
    ))
}
