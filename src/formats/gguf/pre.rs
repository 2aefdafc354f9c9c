//! How text is split into words before byte pair encoding, and what llama.cpp calls it: a table, since a GGUF has only
//! the name.

use kinglet_core::error::{Error, Result};
use serde_json::{Value, json};

/// A step of a `pre_tokenizer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Every match of this is a word.
    Split(&'static str),
    /// Every digit is a word.
    Digits,
    /// GPT-2's words.
    Gpt2,
}

/// A way to split text.
#[derive(Debug)]
pub(super) struct Pre {
    /// llama.cpp's name.
    pub(super) name: &'static str,
    /// Other names for the same.
    others: &'static [&'static str],
    steps: &'static [Step],
    /// Whether a word that is a token is that token, whatever the merges make of it.
    pub(super) ignore_merges: bool,
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

static TABLE: &[Pre] = &[
    Pre {
        name: "gpt-2",
        others: &["phi-2", "mpt", "olmo", "jais", "trillion", "roberta-bpe", "exaone4"],
        steps: &[Step::Gpt2],
        ignore_merges: false,
    },
    Pre {
        name: "smollm",
        others: &["starcoder", "refact", "command-r", "codeshell"],
        steps: &[Step::Digits, Step::Gpt2],
        ignore_merges: false,
    },
    Pre { name: "llama-bpe", others: &["llama3", "llama-v3"], steps: &[Step::Split(LLAMA3)], ignore_merges: true },
    Pre { name: "dbrx", others: &["smaug-bpe"], steps: &[Step::Split(LLAMA3)], ignore_merges: false },
    Pre { name: "qwen2", others: &["stablelm2"], steps: &[Step::Split(QWEN2)], ignore_merges: false },
];

impl Pre {
    /// GPT-2's.
    pub(super) const GPT2: &'static Pre = &TABLE[0];

    /// That of a `tokenizer.json`.
    pub(super) fn of(json: &Value) -> Result<&'static Pre, String> {
        let ignore_merges = json["model"]["ignore_merges"] == true;
        let pre_tokenizer = &json["pre_tokenizer"];
        let one = std::slice::from_ref(pre_tokenizer);
        let steps = match pre_tokenizer["pretokenizers"].as_array() {
            Some(steps) if pre_tokenizer["type"] == "Sequence" => steps,
            _ => one,
        };
        let same = |pre: &&Pre| pre.ignore_merges == ignore_merges && are(pre.steps, steps);
        TABLE.iter().find(same).ok_or_else(|| {
            let merges = if ignore_merges { " with ignore_merges" } else { "" };
            format!("text is split into words by{merges} {pre_tokenizer}")
        })
    }

    /// The one with a name of llama.cpp's.
    pub(super) fn named(name: Option<&str>) -> Result<&'static Pre> {
        let Some(name) = name else {
            return Err(Error::Data(
                "it does not say tokenizer.ggml.pre: how text is split into words; give the model's tokenizer.json \
                 instead"
                    .to_owned(),
            ));
        };
        let known = |pre: &&Pre| pre.name == name || pre.others.contains(&name);
        TABLE.iter().find(known).ok_or_else(|| {
            let known: Vec<_> = TABLE.iter().map(|pre| pre.name).collect();
            let known = known.join(", ");
            Error::Data(format!(
                "tokenizer.ggml.pre = \"{name}\": kinglet knows {known}; give the model's tokenizer.json instead"
            ))
        })
    }

    /// As a `pre_tokenizer`.
    pub(super) fn to_json(&self) -> Value {
        let level = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
        let mut steps: Vec<Value> = self
            .steps
            .iter()
            .map(|step| match step {
                Step::Split(regex) => {
                    json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
                }
                Step::Digits => json!({"type": "Digits", "individual_digits": true}),
                Step::Gpt2 => level(true),
            })
            .collect();
        if !self.steps.contains(&Step::Gpt2) {
            steps.push(level(false));
        }
        match &steps[..] {
            [step] => step.clone(),
            _ => json!({"type": "Sequence", "pretokenizers": steps}),
        }
    }
}

/// Whether steps of a file are these. The last one makes letters of bytes, with or without splitting.
fn are(steps: &[Step], theirs: &[Value]) -> bool {
    let is = |step: &Step, theirs: &Value| match step {
        Step::Split(regex) => {
            let matches_stay = theirs["behavior"] == "Isolated" && theirs["invert"] != true
                || theirs["behavior"] == "Removed" && theirs["invert"] == true;
            theirs["type"] == "Split" && theirs["pattern"]["Regex"] == **regex && matches_stay
        }
        Step::Digits => theirs["type"] == "Digits" && theirs["individual_digits"] == true,
        Step::Gpt2 => is_level(theirs, true),
    };
    let Some((last, before)) = theirs.split_last() else { return false };
    let (own, splits) = match steps.split_last() {
        Some((Step::Gpt2, before)) => (before, true),
        _ => (steps, false),
    };
    is_level(last, splits) && own.len() == before.len() && own.iter().zip(before).all(|(step, theirs)| is(step, theirs))
}

/// Whether a step makes letters of bytes, and whether it splits text into GPT-2's words.
fn is_level(step: &Value, splits: bool) -> bool {
    // Files of before the choice split.
    let regex = step.get("use_regex").and_then(Value::as_bool).unwrap_or(true);
    step["type"] == "ByteLevel" && step["add_prefix_space"] == false && regex == splits
}
