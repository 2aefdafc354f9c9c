//! The settings of a sweep: what may vary, the values of a grid, a list of lines, and names for the runs.

use crate::{system::disk, tune::values_of};
use kinglet_core::{
    config::{Config, FIELDS, Field, unknown_key},
    error::{Error, Result},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    str::FromStr,
};
use toml::Value;

/// Keys and their values.
pub type Settings = BTreeMap<String, Value>;

/// A list of settings is a text of at most so many bytes.
const LIST_BYTES: u64 = 1 << 24;

/// The longest name that is made of settings, in bytes.
const NAME_BYTES: usize = 100;

/// A key of a grid, and its values. Written `key=a,b,c` or `key=[a, b, c]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// The configuration key.
    pub key: &'static str,
    /// Its values, all different.
    pub values: Vec<Value>,
}

/// Why a key cannot vary among the runs of a sweep; `None` if it can.
fn cannot_vary(field: &Field) -> Option<&'static str> {
    match field.key {
        "seed" => Some("--seeds N trains each of the settings with N seeds"),
        "shards" | "log_interval" | "sample_tokens" | "keep_last" => Some("it does not change what a model learns"),
        "vocab_size" => Some("the tokenizer decides it"),
        "tokenizer" | "replacement" | "within_documents" | "packing" => None,
        _ if field.section == "data" => Some("runs on other data cannot be compared"),
        _ if field.section == "finetuning" => Some("it applies only to kinglet finetune"),
        _ => None,
    }
}

/// The key of this name, if it can vary.
fn key_named(name: &str) -> Result<&'static str> {
    let field = FIELDS.iter().find(|field| field.key == name).ok_or_else(|| unknown_key(name))?;
    match cannot_vary(field) {
        None => Ok(field.key),
        Some(why) => Err(Error::BadConfig(format!("{name} cannot vary in a sweep: {why}"))),
    }
}

impl FromStr for Axis {
    type Err = Error;

    fn from_str(text: &str) -> Result<Axis> {
        let Some((key, values)) = text.split_once('=') else {
            // A key that is wrong by itself is worth more than the form.
            key_named(text.trim())?;
            return Err(Error::BadConfig(format!("{text:?} does not have the form KEY=A,B,C")));
        };
        let (key, values) = (key_named(key.trim())?, values.trim());
        let is_list = format!("x = {values}").parse::<toml::Table>().is_ok_and(|table| table["x"].is_array());
        let values = if is_list { values.to_owned() } else { format!("[{values}]") };
        Ok(Axis { key, values: values_of(key, &values)? })
    }
}

/// Reads a list of settings: on each line those of one run, as `learning_rate=1e-3 n_layer=2`. What follows a `#` is a comment.
///
/// # Errors
/// If it cannot be read, or a line has a key or a value that cannot be.
pub fn read_list(path: &Path) -> Result<Vec<Settings>> {
    let text = disk::read_text(path, LIST_BYTES)?;
    let mut lines = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let words = words(line);
        if words.is_empty() {
            continue;
        }
        let settings = settings_of(&words)
            .map_err(|error| Error::BadConfig(format!("{}, line {}: {error}", path.display(), i + 1)))?;
        lines.push(settings);
    }
    if lines.is_empty() {
        return Err(Error::BadConfig(format!("{}: there are no settings in this list", path.display())));
    }
    Ok(lines)
}

/// The words of a line: what is in quotes or brackets is of one word.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word) = (Vec::new(), String::new());
    let (mut quoted, mut depth) = (false, 0_usize);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            '[' | '{' if !quoted => depth += 1,
            ']' | '}' if !quoted => depth = depth.saturating_sub(1),
            '#' if !quoted && depth == 0 && word.is_empty() => break,
            _ => {}
        }
        if c.is_whitespace() && !quoted && depth == 0 {
            words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty()));
        } else {
            word.push(c);
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

fn settings_of(words: &[String]) -> Result<Settings> {
    let mut settings = Settings::new();
    for word in words {
        let Some((name, _)) = word.split_once('=') else {
            return Err(Error::BadConfig(format!("{word:?} does not have the form KEY=VALUE")));
        };
        let key = key_named(name)?;
        let mut config = Config::default();
        config.set(word)?;
        if settings.insert(key.to_owned(), config.value(key)).is_some() {
            return Err(Error::BadConfig(format!("{key} is set twice")));
        }
    }
    Ok(settings)
}

/// Every line of a list with every combination of a grid; without a list, every combination.
///
/// # Errors
/// If a key is there twice.
pub fn points(grid: &[Axis], list: &[Settings]) -> Result<Vec<Settings>> {
    let mut points = if list.is_empty() { vec![Settings::new()] } else { list.to_vec() };
    for (i, Axis { key, values }) in grid.iter().enumerate() {
        if grid[..i].iter().any(|other| other.key == *key) {
            return Err(Error::BadConfig(format!("{key} is in the grid twice")));
        }
        if list.iter().any(|line| line.contains_key(*key)) {
            return Err(Error::BadConfig(format!("{key} is both in the grid and in the list")));
        }
        let with = |point: &Settings, value: &Value| {
            let mut point = point.clone();
            point.insert((*key).to_owned(), value.clone());
            point
        };
        points = points.iter().flat_map(|point| values.iter().map(move |value| with(point, value))).collect();
    }
    Ok(points)
}

/// All keys that some of the points set.
pub(super) fn keys(points: &[Settings]) -> BTreeSet<&str> {
    points.iter().flat_map(|point| point.keys().map(String::as_str)).collect()
}

/// A value as a person writes it.
pub fn written(value: &Value) -> String {
    match value {
        Value::Float(x) if *x != 0.0 && x.abs() < 1e-3 => format!("{x:e}"),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

/// Settings as a person writes them: `KEY=VALUE, ...`.
pub fn written_all(settings: &Settings) -> String {
    settings.iter().map(|(key, value)| format!("{key}={}", written(value))).collect::<Vec<_>>().join(", ")
}

/// Names of the folders of runs: what a run sets, and its seed if there are several. No two are the same.
pub(super) fn names<'a>(runs: impl Iterator<Item = (&'a Settings, u64)>, seeds: bool) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let mut names = Vec::new();
    for (settings, seed) in runs {
        let mut parts: Vec<_> =
            settings.iter().map(|(key, value)| format!("{key}={}", clean(&written(value)))).collect();
        if seeds || parts.is_empty() {
            parts.push(format!("seed={seed}"));
        }
        let mut name = parts.join(",");
        while name.len() > NAME_BYTES {
            name.pop();
        }
        let base = name.clone();
        // Not all file systems tell small letters from capitals.
        for n in 2.. {
            if taken.insert(name.to_lowercase()) {
                break;
            }
            name = format!("{base}-{n}");
        }
        names.push(name);
    }
    names
}

/// A value without what a folder's name cannot have, or a shell would need quotes for.
fn clean(value: &str) -> String {
    let kept = |c: char| if c.is_alphanumeric() || "._+-".contains(c) { c } else { '-' };
    let text: String = value.chars().map(kept).collect();
    let parts: Vec<_> = text.split('-').filter(|part| !part.is_empty()).collect();
    parts.join("-").trim_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(text: &str) -> Axis {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_grid_is_read_as_it_is_meant() {
        for (text, key, values) in [
            ("learning_rate=1e-3,3e-3", "learning_rate", "[0.001, 0.003]"),
            ("n_layer = 2, 4", "n_layer", "[2, 4]"),
            ("n_layer=[2, 4]", "n_layer", "[2, 4]"),
            ("n_layer=2", "n_layer", "[2]"),
            ("beta2=0,0.0,0.99", "beta2", "[0.0, 0.99]"),
            ("activation=relu,gelu", "activation", "[\"relu\", \"gelu\"]"),
            ("tokenizer=char,bpe:300", "tokenizer", "[\"char\", \"bpe:300\"]"),
            ("tie_weights=true,false", "tie_weights", "[true, false]"),
            ("bias=false,[\"qkv\", \"norm\"]", "bias", "[[], [\"qkv\", \"norm\"]]"),
            ("max_iters=100,200", "max_iters", "[100, 200]"),
        ] {
            let Axis { key: found, values: list } = axis(text);
            assert_eq!((found, Value::Array(list).to_string().as_str()), (key, values), "{text}");
        }
        for (text, message) in [
            ("learning_rat=1,2", "there is no configuration key \"learning_rat\"; did you mean learning_rate?"),
            ("n_layer", "\"n_layer\" does not have the form KEY=A,B,C"),
            ("layers", "there is no configuration key \"layers\"; did you mean n_layer?"),
            ("n_layer=", "this list is empty"),
            ("n_layer=[]", "this list is empty"),
            ("n_layer=2,0", "n_layer = 0: must be 1 to 256"),
            ("n_layer=2,x", "n_layer = \"x\": must be 1 to 256"),
            ("seed=1,2", "seed cannot vary in a sweep: --seeds N trains each of the settings with N seeds"),
            ("shards=1,2", "it does not change what a model learns"),
            ("train_split=0.5,0.9", "train_split cannot vary in a sweep: runs on other data cannot be compared"),
            ("lora_rank=2,4", "it applies only to kinglet finetune"),
            ("vocab_size=100,200", "the tokenizer decides it"),
        ] {
            let error = text.parse::<Axis>().expect_err(text).to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn a_list_has_the_settings_of_a_run_on_each_line() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("list.txt");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_list(&path)
        };
        let lines =
            read("# small\nlearning_rate=1e-3 n_layer=2\n\n  n_layer=4  # deep\nbias=[\"qkv\", \"norm\"]\n").unwrap();
        let written: Vec<_> = lines.iter().map(written_all).collect();
        assert_eq!(written, ["learning_rate=0.001, n_layer=2", "n_layer=4", "bias=[\"qkv\", \"norm\"]"]);
        for (text, message) in [
            ("", "there are no settings in this list"),
            ("# nothing\n", "there are no settings in this list"),
            ("n_layer=2\nn_layers=2", "line 2: there is no configuration key \"n_layers\"; did you mean n_layer?"),
            ("n_layer=0", "line 1: n_layer = 0: must be 1 to 256"),
            ("n_layer", "line 1: \"n_layer\" does not have the form KEY=VALUE"),
            ("n_layer=2 n_layer=3", "line 1: n_layer is set twice"),
            ("seed=3", "line 1: seed cannot vary in a sweep: --seeds N"),
            ("{\"n_layer\": 2}", "does not have the form KEY=VALUE"),
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(error.contains(message) && error.contains("list.txt"), "{text}: {error}");
        }
    }

    #[test]
    fn a_list_and_a_grid_are_combined() {
        let list: Vec<_> =
            ["n_layer=2 n_embd=32", "n_layer=4"].iter().map(|line| settings_of(&words(line)).unwrap()).collect();
        let grid = [axis("learning_rate=1e-4,1e-3"), axis("activation=relu,gelu")];
        let all = points(&grid, &list).unwrap();
        assert_eq!(all.len(), 8);
        assert_eq!(written_all(&all[1]), "activation=gelu, learning_rate=1e-4, n_embd=32, n_layer=2");
        assert_eq!(points(&[], &[]).unwrap(), [Settings::new()]);
        assert_eq!(keys(&all).into_iter().collect::<Vec<_>>(), ["activation", "learning_rate", "n_embd", "n_layer"]);
        let error = |grid: &[Axis]| points(grid, &list).unwrap_err().to_string();
        assert_eq!(error(&[axis("n_layer=2")]), "n_layer is both in the grid and in the list");
        assert_eq!(error(&[axis("dropout=0"), axis("dropout=0.1")]), "dropout is in the grid twice");
    }

    #[test]
    fn names_say_the_settings_and_are_all_different() {
        let of = |lines: &[&str], seeds| {
            let all: Vec<_> = lines.iter().map(|line| settings_of(&words(line)).unwrap()).collect();
            names(all.iter().map(|settings| (settings, 7)), seeds)
        };
        assert_eq!(of(&["learning_rate=3e-4 n_layer=2"], false), ["learning_rate=3e-4,n_layer=2"]);
        assert_eq!(of(&["tokenizer=bpe:300"], true), ["tokenizer=bpe-300,seed=7"]);
        assert_eq!(
            of(&["tokenizer=a/b.json", "tokenizer=a:b.json"], false),
            ["tokenizer=a-b.json", "tokenizer=a-b.json-2"]
        );
        assert_eq!(names([(&Settings::new(), 3)].into_iter(), false), ["seed=3"]);
        let long = format!("tokenizer={}.json", "é".repeat(200));
        let names = of(&[&long, &format!("{long} n_layer=2")], false);
        assert!(names[0].len() <= NAME_BYTES && names[0] != names[1] && names.iter().all(|name| !name.contains('/')));
    }
}
