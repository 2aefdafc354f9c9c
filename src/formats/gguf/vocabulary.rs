//! Tokenizers inside a GGUF.
//!
//! | kinglet | there |
//! |---|---|
//! | byte | `gpt2`: the letters of the bytes, and no merges |
//! | byte pair encoding of bytes | `gpt2`, with the name that llama.cpp has for the way text is split into words |
//! | characters, all of them ASCII | `rwkv`: the longest token that fits |
//! | other characters | `gpt2`: the letters of a character's bytes, and merges that join them |
//!
//! With `rwkv`, a text of unknown characters is refused. But it never comes to an end where a text begins as a token does
//! and none fits, as a byte of an unknown character may be one of a known character. With `gpt2`, unknown characters are
//! left out without a word, and token 11 is the end where a file names none: in Shakespeare's vocabulary that is the
//! semicolon. With `llama`, an unknown character ends the process.

use super::{
    pre::Pre,
    write::{Keys, Kv},
};
use crate::{
    formats::foreign::Foreign,
    text::tokenizer::{CharTokenizer, END_OF_TEXT, Tokenizer, byte_char, file},
};
use kinglet_core::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};

/// What all keys begin with.
const PREFIX: &str = "tokenizer.ggml.";

/// Kinds of tokens.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// A vocabulary as a GGUF has it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Vocabulary {
    model: String,
    pre: Option<String>,
    tokens: Vec<String>,
    types: Vec<i32>,
    /// None where the model has no merges, which is not the same as an empty list.
    merges: Option<Vec<String>>,
}

/// The keys of a tokenizer, for a model of `size` tokens, and what the user should know. `last` is the name of the model's
/// last token if that ends a text, though the tokenizer need not have it.
///
/// # Errors
/// If llama.cpp would split text differently.
pub(super) fn write(tokenizer: &Tokenizer, size: usize, last: Option<&str>) -> Result<(Keys, Vec<String>)> {
    let (mut vocabulary, mut notes) = of(tokenizer)?;
    let last = last.filter(|_| vocabulary.tokens.len() < size);
    if let Some(name) = last {
        vocabulary.pad(size - 1);
        let name = if vocabulary.model == "rwkv" { vocabulary.name_of_end(name) } else { Some(name.to_owned()) };
        let name =
            name.ok_or_else(|| Error::Data("there is no name for the token at the end of the block".to_owned()))?;
        vocabulary.add(name, CONTROL);
    }
    let (begin, end) = (tokenizer.begin_of_text(), tokenizer.end_of_text());
    if vocabulary.model == "gpt2" && end.is_none() {
        return Err(Error::Data(
            "llama.cpp takes token 11 for the end of a text where a file names none, and this tokenizer has no \
             end-of-text token: train with a token of its own (--set eos_token=\"\\n\" ends texts at lines), or use another \
             format, such as hf or onnx"
                .to_owned(),
        ));
    }
    let holes = vocabulary.pad(size);
    if holes > 0 {
        notes.push(format!(
            "{holes} of the {size} tokens of the model are none of the tokenizer's: they are unused there"
        ));
    }
    vocabulary.check()?;
    if let Some(name) = tokenizer.begin_of_text_name().filter(|_| vocabulary.model == "rwkv") {
        notes.push(format!("llama.cpp puts no {name:?} before a prompt of characters: it has to be written there"));
    }
    let mut keys = vocabulary.keys();
    let mut key = |name: &str, value| keys.push((format!("{PREFIX}{name}"), value));
    // Without a begin of its own a gpt2 vocabulary has token 11 for it.
    if let Some(begin) = begin.or(end) {
        key("bos_token_id", Kv::U32(begin));
    }
    if let Some(end) = end {
        key("eos_token_id", Kv::U32(end));
    }
    if last.is_some() {
        key("eot_token_id", Kv::U32(size as u32 - 1));
    }
    key("add_bos_token", Kv::Bool(begin.is_some()));
    Ok((keys, notes))
}

fn of(tokenizer: &Tokenizer) -> Result<(Vocabulary, Vec<String>)> {
    let Some(chars) = tokenizer.chars() else { return of_pairs(tokenizer) };
    if let Some(vocabulary) = longest_match(chars) {
        return Ok((vocabulary, Vec::new()));
    }
    Ok((joined(chars), Vec::new()))
}

/// Whether llama.cpp leaves out characters that it does not know, where kinglet refuses them.
pub fn leaves_out(tokenizer: &Tokenizer) -> bool {
    tokenizer.chars().is_some_and(|chars| longest_match(chars).is_none())
}

/// Whether llama.cpp would take some token for the end of a text, because the tokenizer has none.
pub fn needs_end(tokenizer: &Tokenizer) -> bool {
    tokenizer.end_of_text().is_none() && (tokenizer.chars().is_none() || leaves_out(tokenizer))
}

/// The letters of a text's bytes.
fn letters(text: &str) -> String {
    text.bytes().map(byte_char).collect()
}

/// The text whose bytes have these letters.
fn text_of(letters: &str) -> Option<String> {
    let byte = |letter: char| (0..=255).find(|&byte| byte_char(byte) == letter);
    String::from_utf8(letters.chars().map(byte).collect::<Option<_>>()?).ok()
}

/// Each character in the letters of its bytes, which merges join from the first on.
fn joined(chars: &CharTokenizer) -> Vocabulary {
    let mut vocabulary = Vocabulary { model: "gpt2".to_owned(), pre: Some("gpt-2".to_owned()), ..Default::default() };
    let (mut merges, mut seen) = (Vec::new(), HashSet::new());
    for token in chars.tokens() {
        let Some(c) = token else {
            vocabulary.add(END_OF_TEXT.to_owned(), CONTROL);
            continue;
        };
        let written = letters(&c.to_string());
        for (at, letter) in written.char_indices().skip(1) {
            let merge = format!("{} {letter}", &written[..at]);
            if seen.insert(merge.clone()) {
                merges.push(merge);
            }
        }
        vocabulary.add(written, NORMAL);
    }
    vocabulary.merges = Some(merges);
    vocabulary
}

/// Each character as it is, but for those that the file's reader takes for something else. None if a text could begin
/// as a token does and have none that fits.
fn longest_match(chars: &CharTokenizer) -> Option<Vocabulary> {
    let mut vocabulary = Vocabulary { model: "rwkv".to_owned(), ..Default::default() };
    for token in chars.tokens() {
        match token {
            Some(c) if c.is_ascii() => vocabulary.add(escaped(*c), NORMAL),
            Some(_) => return None,
            // Named when all others are known.
            None => vocabulary.add(String::new(), CONTROL),
        }
    }
    if let Some(end) = chars.end_of_text() {
        vocabulary.tokens[end as usize] = vocabulary.name_of_end(END_OF_TEXT)?;
    }
    Some(vocabulary)
}

/// A character as a token of `rwkv`.
fn escaped(c: char) -> String {
    match c {
        '\n' => "\\n".to_owned(),
        '\t' => "\\t".to_owned(),
        '\r' => "\\r".to_owned(),
        '\\' => "\\\\".to_owned(),
        c if c.is_ascii_control() => format!("\\x{:02x}", c as u32),
        c => c.to_string(),
    }
}

fn unescaped(token: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), token.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next()? {
                b'n' => b'\n',
                b't' => b'\t',
                b'r' => b'\r',
                b'x' => {
                    let digits = [rest.next()?, rest.next()?];
                    u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
                }
                other => other,
            },
            plain => plain,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Byte pair encoding of bytes.
fn of_pairs(tokenizer: &Tokenizer) -> Result<(Vocabulary, Vec<String>)> {
    let bad = |what: String| Error::Data(format!("llama.cpp has no such tokenizer: {what}"));
    let json: Value = serde_json::from_str(tokenizer.to_json()).map_err(|error| bad(error.to_string()))?;
    let model = &json["model"];
    refuse_parts(&json).map_err(bad)?;
    let merges = merges(model).map_err(bad)?;
    // Without merges every byte is a token, however text is split into words.
    let pre = if merges.is_empty() { Ok(Pre::GPT2) } else { Pre::of(&json) }.map_err(bad)?;
    let mut vocabulary = Vocabulary {
        model: "gpt2".to_owned(),
        pre: Some(pre.name.to_owned()),
        tokens: vec![String::new(); tokenizer.vocab_size()],
        types: vec![UNUSED; tokenizer.vocab_size()],
        merges: Some(merges),
    };
    let mut place = |id: &Value, token: &str, kind| {
        let id = id.as_u64().and_then(|id| usize::try_from(id).ok()).filter(|id| *id < vocabulary.tokens.len());
        let Some(id) = id else { return };
        token.clone_into(&mut vocabulary.tokens[id]);
        vocabulary.types[id] = kind;
    };
    for (token, id) in model["vocab"].as_object().into_iter().flatten() {
        place(id, token, NORMAL);
    }
    let mut notes = Vec::new();
    let added = json["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
    for token in added {
        let content = token["content"].as_str().unwrap_or_default();
        // The library goes by the vocabulary where both name a token.
        let id = model["vocab"].get(content).unwrap_or(&token["id"]);
        place(id, content, if token["special"] == true { CONTROL } else { USER_DEFINED });
    }
    let strips = |token: &&Value| token["lstrip"] == true || token["rstrip"] == true || token["single_word"] == true;
    let stripping = added.iter().filter(strips).count();
    if stripping > 0 {
        notes.push(format!("{stripping} special tokens take in white space around them; in llama.cpp they do not"));
    }
    if json["normalizer"]["type"] == "NFC" {
        notes.push("llama.cpp does not compose characters (NFC), as this tokenizer does".to_owned());
    }
    Ok((vocabulary, notes))
}

/// Names the part of a `tokenizer.json` that llama.cpp would not do.
fn refuse_parts(json: &Value) -> Result<(), String> {
    let model = &json["model"];
    let empty = |value: &Value| value.is_null() || value == "" || value == false || value == 0.0;
    if model["type"] != "BPE" {
        return Err(format!("model {}", model["type"]));
    }
    for key in ["continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "dropout"] {
        if !empty(&model[key]) {
            return Err(format!("{key} = {}", model[key]));
        }
    }
    match &json["normalizer"] {
        Value::Null => {}
        normalizer if normalizer["type"] == "NFC" => {}
        normalizer => return Err(format!("normalizer {normalizer}")),
    }
    match &json["decoder"] {
        decoder if decoder["type"] == "ByteLevel" => Ok(()),
        decoder => Err(format!("decoder {}", decoder["type"])),
    }
}

/// Merges as a GGUF has them: two tokens and a blank between.
fn merges(model: &Value) -> Result<Vec<String>, String> {
    let pair = |merge: &Value| match merge {
        Value::String(merge) => Some(merge.clone()),
        Value::Array(pair) => match &pair[..] {
            [Value::String(a), Value::String(b)] if !a.contains(' ') && !b.contains(' ') => Some(format!("{a} {b}")),
            _ => None,
        },
        _ => None,
    };
    let merges = model["merges"].as_array().map_or(&[][..], Vec::as_slice);
    merges.iter().map(|merge| pair(merge).ok_or_else(|| format!("the merge {merge}"))).collect()
}

impl Vocabulary {
    fn add(&mut self, token: String, kind: i32) {
        self.tokens.push(token);
        self.types.push(kind);
    }

    /// The name of a token at which a text ends, for `rwkv`: `usual` if its first character is a token, or else one byte
    /// that no text has.
    fn name_of_end(&self, usual: &str) -> Option<String> {
        let taken = |token: &str| self.tokens.iter().any(|other| other == token);
        let first = usual.chars().next()?;
        if taken(&escaped(first)) && !taken(usual) {
            return Some(usual.to_owned());
        }
        ('\x01'..' ').map(escaped).find(|name| !taken(name))
    }

    /// Gives tokens without a text, and those that only the model has, one that no other token has. Returns how many.
    fn pad(&mut self, size: usize) -> usize {
        self.tokens.resize(size.max(self.tokens.len()), String::new());
        self.types.resize(self.tokens.len(), UNUSED);
        let taken: HashSet<String> = self.tokens.iter().cloned().collect();
        let mut holes = 0;
        for (id, token) in self.tokens.iter_mut().enumerate().filter(|(_, token)| token.is_empty()) {
            let names = std::iter::successors(Some(format!("[unused_{id}]")), |name| Some(format!("[{name}]")));
            *token = names.into_iter().find(|name| !taken.contains(name)).expect("there are endless names");
            self.types[id] = UNUSED;
            holes += 1;
        }
        holes
    }

    /// llama.cpp ends the process if two tokens have one text.
    fn check(&self) -> Result<()> {
        let mut seen = HashMap::new();
        for (id, token) in self.tokens.iter().enumerate() {
            if let Some(other) = seen.insert(token, id) {
                return Err(Error::Data(format!("the tokens {other} and {id} are both written {token:?}")));
            }
        }
        Ok(())
    }

    fn keys(self) -> Keys {
        let mut keys = vec![
            ("model", Some(Kv::Text(self.model))),
            ("pre", self.pre.map(Kv::Text)),
            ("tokens", Some(Kv::Texts(self.tokens))),
            ("token_type", Some(Kv::I32s(self.types))),
            ("merges", self.merges.map(Kv::Texts)),
        ];
        keys.retain(|(_, value)| value.is_some());
        keys.into_iter().filter_map(|(key, value)| Some((format!("{PREFIX}{key}"), value?))).collect()
    }

    /// What a file says; none if it has no vocabulary.
    fn read(meta: &Value) -> Result<Option<Vocabulary>> {
        let get = |key: &str| meta.get(format!("{PREFIX}{key}"));
        let bad = |key: &str, what: &str| Error::Data(format!("{PREFIX}{key}: {what}"));
        let texts = |key: &str| -> Result<Option<Vec<String>>> {
            let Some(value) = get(key) else { return Ok(None) };
            let texts = value.as_array().and_then(|list| list.iter().map(|v| Some(v.as_str()?.to_owned())).collect());
            texts.map(Some).ok_or_else(|| bad(key, "not a list of text"))
        };
        let (Some(model), Some(tokens)) = (get("model"), texts("tokens")?) else { return Ok(None) };
        let model = model.as_str().ok_or_else(|| bad("model", "not text"))?.to_owned();
        let types = match get("token_type") {
            None => vec![NORMAL; tokens.len()],
            Some(value) => {
                let kind = |kind: &Value| i32::try_from(kind.as_i64()?).ok();
                let types = value.as_array().and_then(|list| list.iter().map(kind).collect());
                types.ok_or_else(|| bad("token_type", "not a list of numbers"))?
            }
        };
        if types.len() != tokens.len() {
            return Err(bad("token_type", &format!("{} kinds of {} tokens", types.len(), tokens.len())));
        }
        let pre = get("pre").and_then(Value::as_str).map(str::to_owned);
        Ok(Some(Vocabulary { model, pre, tokens, types, merges: texts("merges")? }))
    }

    /// Takes off what [`Vocabulary::pad`] puts on behind the last token.
    fn trim(&mut self) {
        let used = self.types.iter().rposition(|kind| *kind != UNUSED).map_or(0, |last| last + 1);
        self.tokens.truncate(used);
        self.types.truncate(used);
    }
}

/// The tokenizer of a file; none if it has no vocabulary.
///
/// # Errors
/// If it is of a kind that kinglet does not have.
pub fn tokenizer(foreign: &Foreign) -> Result<Option<Tokenizer>> {
    let Some(mut vocabulary) = Vocabulary::read(&foreign.meta)? else { return Ok(None) };
    vocabulary.trim();
    if foreign.meta.get(format!("{PREFIX}add_space_prefix")).is_some_and(|add| add == true) {
        return Err(Error::Data(format!("{PREFIX}add_space_prefix = true: kinglet puts no blank before a text")));
    }
    // What kinglet writes for a tokenizer of its own is that tokenizer again.
    if let Some(tokenizer) = own(&vocabulary) {
        return Ok(Some(tokenizer));
    }
    // The end of the block is none of the tokenizer's.
    let last = vocabulary.tokens.len().wrapping_sub(1);
    if foreign.meta.get(format!("{PREFIX}eot_token_id")).is_some_and(|id| id.as_u64() == Some(last as u64)) {
        let mut shorter = vocabulary.clone();
        (_, _) = (shorter.tokens.pop(), shorter.types.pop());
        shorter.trim();
        if let Some(tokenizer) = own(&shorter) {
            return Ok(Some(tokenizer));
        }
    }
    match vocabulary.model.as_str() {
        "gpt2" => pairs_of(vocabulary).map(Some),
        other => Err(Error::Data(format!(
            "{PREFIX}model = \"{other}\": kinglet knows gpt2, and rwkv with tokens of one character; give the model's \
             tokenizer.json instead"
        ))),
    }
}

/// The tokenizer of kinglet's own that is written like this, if there is one.
fn own(vocabulary: &Vocabulary) -> Option<Tokenizer> {
    let own = [chars_of(vocabulary).map(Tokenizer::from), Some(Tokenizer::byte())];
    own.into_iter().flatten().find(|tokenizer| of(tokenizer).is_ok_and(|(written, _)| written == *vocabulary))
}

/// What a configuration has to say of the ends of texts (`bos_token`, `eos_token`): the token that llama.cpp puts before
/// a prompt, and the one that ends a text if it is not the tokenizer's own.
///
/// # Errors
/// If the file names a token that there is not.
pub fn ends(foreign: &Foreign, tokenizer: &Tokenizer) -> Result<(String, String)> {
    let get = |key: &str| foreign.meta.get(format!("{PREFIX}{key}"));
    let token = |key: &str| -> Result<Option<(u32, String)>> {
        let Some(value) = get(key) else { return Ok(None) };
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|id| tokenizer.is_token(*id));
        let id = id.ok_or_else(|| Error::Data(format!("{PREFIX}{key} = {value} is none of the tokens")))?;
        Ok(Some((id, tokenizer.name_of(id).unwrap_or_default())))
    };
    let pre = get("pre").and_then(Value::as_str).unwrap_or_default();
    let model = get("model").and_then(Value::as_str).unwrap_or_default();
    // What llama.cpp does where a file does not say.
    let usual = model == "llama" || ["llama-bpe", "llama3", "llama-v3"].contains(&pre);
    let adds = get("add_bos_token").map_or(usual, |add| add == true) && model != "rwkv";
    let begin = if adds { token("bos_token_id")?.map(|(_, name)| name) } else { None };
    let end = token("eos_token_id")?.filter(|(id, _)| tokenizer.end_of_text() != Some(*id)).map(|(_, name)| name);
    Ok((begin.unwrap_or_default(), end.unwrap_or_default()))
}

/// The character tokenizer with these tokens, if each of them is one character.
fn chars_of(vocabulary: &Vocabulary) -> Option<CharTokenizer> {
    let token = |(token, kind): (&String, &i32)| {
        if *kind == CONTROL {
            return Some(None);
        }
        let text = if vocabulary.model == "rwkv" { unescaped(token) } else { text_of(token) }?;
        let mut chars = text.chars();
        let first = chars.next()?;
        chars.next().is_none().then_some(Some(first))
    };
    CharTokenizer::from_tokens(vocabulary.tokens.iter().zip(&vocabulary.types).map(token).collect::<Option<_>>()?)
}

/// Byte pair encoding as a `tokenizer.json`.
fn pairs_of(vocabulary: Vocabulary) -> Result<Tokenizer> {
    let Vocabulary { pre, tokens, types, merges, .. } = vocabulary;
    let pre = Pre::named(pre.as_deref())?;
    let merges = merges.ok_or_else(|| Error::Data(format!("it has no {PREFIX}merges")))?;
    let pair = |merge: &String| {
        // As in llama.cpp: a blank at the beginning is part of the first token.
        let at = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
        at.map(|at| json!([merge[..at], merge[at + 1..]]))
    };
    let pairs: Option<Vec<Value>> = merges.iter().map(pair).collect();
    let pairs = pairs.ok_or_else(|| Error::Data(format!("{PREFIX}merges: not all are two tokens")))?;
    let ids = || tokens.iter().zip(&types).zip(0u32..);
    let vocab: Map<String, Value> =
        ids().filter(|((_, kind), _)| **kind != UNUSED).map(|((token, _), id)| (token.clone(), json!(id))).collect();
    let mut json: Value = {
        let model = json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": pre.ignore_merges,
            "vocab": vocab, "merges": pairs,
        });
        let special = ids().filter(|((_, kind), _)| [CONTROL, USER_DEFINED].contains(kind));
        let special: Vec<(u32, &str)> = special.map(|((token, _), id)| (id, token.as_str())).collect();
        let decoder = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        serde_json::from_str(&file(&special, &pre.to_json(), &decoder, &model)).expect("it was written as JSON")
    };
    for token in json["added_tokens"].as_array_mut().into_iter().flatten() {
        let id = token["id"].as_u64().expect("it was written") as usize;
        token["special"] = json!(types[id] == CONTROL);
    }
    Tokenizer::from_json(&serde_json::to_string_pretty(&json).expect("a JSON value"))
}
