//! Text through tokenizers: what is written is what was drawn, what is lost is said, and what is learned is of the
//! training part.

use crate::common::cli::{Cli, SMALL};
use kinglet::{
    Model,
    backend::Cpu,
    config::Config,
    inference::{Generation, Piece},
    train::{self, Job, Options},
};
use serde_json::{Map, Value, json};
use std::{fs, time::Instant};

/// Words of a script.
const SCRIPTS: [(&str, &[&str]); 6] = [
    ("latin", &["naïve", "café", "the", "kinglet", "façade", "über", "coin"]),
    ("greek", &["τὸ", "ὄρνεον", "μικρόν", "ἐστιν", "καὶ", "ἐλαφρόν"]),
    ("chinese", &["戴菊", "是一种", "很小的", "鸟", "冬天", "吃", "昆虫"]),
    ("arabic", &["الطائر", "الصغير", "في", "الشتاء", "يأكل", "الحشرات"]),
    ("thai", &["นก", "ตัวเล็ก", "ที่สุด", "ใน", "ฤดูหนาว", "กิน", "แมลง"]),
    ("emoji", &["🙀", "🚀", "👀", "🖀", "😀", "🍀"]),
];

/// A text of these words in an order that repeats itself only roughly.
fn text(words: &[&str], blank: &str, lines: usize) -> String {
    let mut x = 1u64;
    let mut word = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        words[(x >> 33) as usize % words.len()]
    };
    let mut line = || (0..9).map(|_| word()).collect::<Vec<_>>().join(blank) + "\n";
    (0..lines).map(|_| line()).collect()
}

#[test]
fn what_is_written_in_six_scripts_is_what_was_drawn() {
    let temp = tempfile::tempdir().unwrap();
    let settings = [
        "tokenizer=bpe:262",
        "n_layer=1",
        "n_embd=32",
        "n_head=2",
        "block_size=32",
        "batch_size=8",
        "max_iters=120",
        "eval_iters=2",
        "eval_interval=120",
        "learning_rate=1e-2",
    ];
    for (name, words) in SCRIPTS {
        let text = text(words, if name == "emoji" || name == "chinese" { "" } else { " " }, 300);
        let out = temp.path().join(name);
        let job = Job::start_on_text(&text, Config::default().with(&settings).unwrap(), &out).unwrap();
        train::run(job, Cpu::new().unwrap(), &Options::default().threads(1), |_| ()).unwrap();
        let model = Model::open(&out).unwrap();
        for temperature in [0.0, 1.5] {
            let text = model.generate(words[0]).max_tokens(300).temperature(temperature);
            let pieces: Vec<Piece> = text.map(Result::unwrap).collect();
            let ids: Vec<u32> = pieces.iter().flat_map(Piece::ids).collect();
            let written: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
            assert_eq!(ids.len(), 300);
            assert_eq!(written, model.tokenizer().decode(&ids), "{name} at {temperature}");
            assert!(pieces.len() > 50, "{name}: it comes in pieces");
        }
    }
}

/// A tokenizer of whole words between blanks; others are unknown.
fn word_level(words: &[&str], normalizer: &Value) -> String {
    let special = ["[UNK]", "<|endoftext|>"];
    let vocab: Map<_, _> = special.iter().chain(words).zip(0..).map(|(w, id)| ((*w).to_owned(), json!(id))).collect();
    let added = special.iter().zip(0..).map(|(content, id)| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": normalizer, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"},
    })
    .to_string()
}

const ENGLISH: &[&str] = &["the", "kinglet", "weighs", "no", "more", "than", "a", "coin"];

#[test]
fn a_tokenizer_of_another_language_is_refused() {
    let cli = Cli::new();
    fs::write(cli.path("greek.txt"), text(SCRIPTS[1].1, " ", 200)).unwrap();
    fs::write(cli.path("words.json"), word_level(ENGLISH, &Value::Null)).unwrap();
    let message = "the tokenizer does not suit greek.txt: ";
    cli.fails(&[&["train", "greek.txt", "--tokenizer", "words.json"], SMALL].concat(), 1, message);
    let prepare = ["data", "prepare", "greek.txt", "--tokenizer", "words.json", "--out", "ids"];
    cli.fails(&prepare, 1, ") are unknown to it or dropped, 1800 unknown tokens");
    assert!(!cli.path("ids").exists() && !cli.path("runs").exists());
}

#[test]
fn what_a_tokenizer_loses_is_said_for_the_text_and_for_prompts() {
    let cli = Cli::new();
    let mut english = text(ENGLISH, " ", 200);
    english += "zwölf The kinglet\n";
    fs::write(cli.path("text.txt"), &english).unwrap();
    let lower = json!({"type": "Lowercase"});
    fs::write(cli.path("words.json"), word_level(ENGLISH, &lower)).unwrap();
    let prepared = cli.run(&["data", "prepare", "text.txt", "--tokenizer", "words.json", "--out", "ids", "--json"]);
    let stderr = String::from_utf8(prepared.stderr).unwrap();
    let note = "note: the tokenizer loses part of the text: ";
    assert!(prepared.status.success() && stderr.contains(note), "{stderr}");
    for part in ["1 unknown token", " are changed", "white space", "cannot be compared"] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    let about: Value = serde_json::from_slice(&prepared.stdout).unwrap();
    let bytes = about["train"]["bytes"].as_u64().unwrap() + about["val"]["bytes"].as_u64().unwrap();
    assert_eq!(bytes as usize, english.len(), "bytes are of the text as it was read");
    let train = cli.run(&[&["train", "text.txt", "--tokenizer", "words.json", "--out", "run"], SMALL].concat());
    let stderr = String::from_utf8(train.stderr).unwrap();
    assert!(train.status.success() && stderr.contains("loses part of the text: "), "{stderr}");
    let sample = |prompt: &str| {
        let notes = String::from_utf8(cli.run(&["sample", "run", "--prompt", prompt, "--tokens", "3"]).stderr).unwrap();
        // The first says which checkpoint it is.
        let (first, rest) = notes.split_once('\n').unwrap();
        assert!(first.starts_with("note: run: step 20, "), "{notes}");
        rest.to_owned()
    };
    assert_eq!(sample("the kinglet"), "");
    let changed = sample("The zwölf kinglet");
    assert!(changed.starts_with("note: the tokenizer loses part of this text: "), "{changed}");
    assert!(changed.contains("1 unknown token; "), "{changed}");
    assert!(changed.contains("; most often 'T', 'f', 'l', 'w', 'z'; "), "{changed}");
    for prompt in ["zwölf elf", "  \n "] {
        cli.fails(&["sample", "run", "--prompt", prompt], 1, "the tokenizer of this model cannot encode this text");
    }
    let model = Model::open(cli.path("run")).unwrap();
    assert!(model.generate("zwölf").text().is_err() && model.generate("a").max_tokens(2).text().is_ok());
}

#[test]
fn a_vocabulary_is_learned_from_the_training_part() {
    let cli = Cli::new();
    let mut text = text(ENGLISH, " ", 300);
    let val = text.len() / 10;
    text.truncate(text.len() - val);
    text += &"Zaunkönigin ".repeat(val / 13 - 5);
    fs::write(cli.path("text.txt"), &text).unwrap();
    let prepared = cli.run(&["data", "prepare", "text.txt", "--tokenizer", "bpe:50000", "--out", "ids"]);
    let tokenizer = fs::read_to_string(cli.path("ids/tokenizer.json")).unwrap();
    assert!(prepared.status.success() && tokenizer.contains("kinglet") && !tokenizer.contains("aun"), "{tokenizer}");
    // It has few different words, and says how many tokens that makes.
    let about: Value = serde_json::from_slice(&fs::read(cli.path("ids/prepared.json")).unwrap()).unwrap();
    let found = about["vocab_size"].as_u64().unwrap();
    let stderr = String::from_utf8(prepared.stderr).unwrap();
    assert!(found < 400 && about["tokenizer"] == format!("bpe:{found}"), "{about}");
    assert!(stderr.contains(&format!("the vocabulary has only {found} tokens instead of 50000")), "{stderr}");
    cli.ok(&[&["train", "text.txt", "--tokenizer", "bpe:50000", "--out", "run"], SMALL].concat());
    let config = fs::read_to_string(cli.path("run/config.toml")).unwrap();
    assert!(config.contains(&format!("tokenizer = \"bpe:{found}\"")), "{config}");
    // Characters are all those of the text, as published.
    let train = cli.run(&[&["train", "text.txt", "--out", "chars"], SMALL].concat());
    let stderr = String::from_utf8(train.stderr).unwrap();
    let note = "3 characters occur only in the validation part, so the model cannot learn them: 'Z', 'u', 'ö'";
    assert!(train.status.success() && stderr.contains(note), "{stderr}");
}

#[test]
fn conversations_of_the_validation_part_are_not_learned_from() {
    let cli = Cli::new();
    let line = |answer: &str| format!("{{\"prompt\": \"what is it?\", \"response\": \"{answer}\"}}\n");
    fs::write(cli.path("chat.jsonl"), line("kinglet").repeat(90) + &line("wren wren").repeat(10)).unwrap();
    let settings = ["--tokenizer", "bpe:300", "--out", "run", "--set", "block_size=32"];
    cli.ok(&[&["train", "chat.jsonl"], &settings[..], SMALL].concat());
    let tokenizer = fs::read_to_string(cli.path("run/tokenizer.json")).unwrap();
    assert!(tokenizer.contains("\"kinglet\"") && !tokenizer.contains("\"wren\""), "{tokenizer}");
}

#[test]
fn the_end_of_a_single_document_is_no_token() {
    let cli = Cli::new();
    fs::write(cli.path("one.txt"), "a".repeat(1000)).unwrap();
    fs::write(cli.path("two.txt"), "b".repeat(500)).unwrap();
    let tokens = |names: &[&str], out: &str| {
        let prepared =
            cli.ok(&[&["data", "prepare"], names, &["--tokenizer", "byte", "--out", out, "--json"]].concat());
        let prepared: Value = serde_json::from_str(&prepared).unwrap();
        [&prepared["train"]["tokens"], &prepared["val"]["tokens"]].map(|n| n.as_u64().unwrap())
    };
    assert_eq!(tokens(&["one.txt"], "one"), [900, 100]);
    assert_eq!(tokens(&["one.txt", "two.txt"], "both"), [1351, 151]);
}

#[test]
fn text_without_blanks_takes_about_as_long_as_other_text() {
    let cli = Cli::new();
    let mut x = 1u64;
    let mut letter = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b"ACGT"[(x >> 62) as usize])
    };
    fs::write(cli.path("dna.txt"), (0..1 << 20).map(|_| letter()).collect::<String>()).unwrap();
    let ordinary = include_str!("../../docs/DESIGN.md").repeat(1 + (1 << 20) / 20_000);
    fs::write(cli.path("ordinary.txt"), &ordinary[..ordinary.floor_char_boundary(1 << 20)]).unwrap();
    let seconds = |name: &str| {
        let clock = Instant::now();
        cli.ok(&["data", "prepare", name, "--tokenizer", "bpe:1000", "--out", &format!("{name}.ids")]);
        clock.elapsed().as_secs_f64()
    };
    let (ordinary, dna) = (seconds("ordinary.txt"), seconds("dna.txt"));
    // A hundred times as long before; without optimisation, and on a machine that does other things, it is not exact.
    assert!(dna < 15.0 * ordinary + 2.0, "{dna} s, and {ordinary} s for other text");
}

#[test]
fn a_run_remembers_the_tokens_that_its_texts_begin_and_end_with() {
    let cli = Cli::new();
    let lines = |n: usize| (0..n).map(|i| format!("{{\"text\": \"document number {i}\"}}\n")).collect::<String>();
    fs::write(cli.path("docs.jsonl"), lines(200)).unwrap();
    let ends = ["--tokenizer", "byte", "--set", "bos_token=^", "--set", "eos_token=$"];
    let object = |args: &[&str]| -> Value {
        let line = cli.ok(&[args, &["--json"]].concat());
        serde_json::from_str(line.lines().last().unwrap()).unwrap()
    };
    let train = |args: &[&str]| object(&[&["train"], args, SMALL].concat());
    let done = train(&[&["docs.jsonl", "--out", "run"], &ends[..]].concat());
    let config = Config::from_toml(&fs::read_to_string(cli.path("run/config.toml")).unwrap()).unwrap();
    assert_eq!((config.bos_token.as_str(), config.eos_token.as_str()), ("^", "$"));
    // They are not predicted: what is measured are the documents and their ends.
    let eval = object(&["eval", "run"]);
    assert_eq!(eval["loss"], done["val_loss_exact"]);
    fs::write(cli.path("two.jsonl"), "{\"text\": \"abc\"}\n{\"text\": \"de\"}\n").unwrap();
    assert_eq!(object(&["eval", "run", "two.jsonl"])["predicted_tokens"], 7);
    // A prompt begins with one of them and a text ends at the other, which the library sees as well.
    let model = Model::open(cli.path("run")).unwrap();
    let [begin, end] = [b'^', b'$'].map(u32::from);
    assert_eq!((model.tokenizer().given(), model.tokenizer().end_of_text()), (Some(begin), Some(end)));
    let same = |a: Generation, b: Generation| {
        let text = |text: Generation| text.temperature(0.0).max_tokens(9).text().unwrap();
        assert_eq!(text(a), text(b));
    };
    same(model.generate("doc"), model.generate_after(&[begin, 100, 111, 99]));
    let sampled = object(&["sample", "run", "--prompt", "doc", "-n", "40", "--temperature", "0"]);
    assert!(!sampled["text"].as_str().unwrap().contains(['^', '$']), "{sampled}");
    cli.ok(&["train", "--resume", "run", "--set", "max_iters=22"]);
    cli.fails(
        &["train", "--resume", "run", "--set", "bos_token=x"],
        2,
        "bos_token = \"x\": must be \"^\", as at the start",
    );
    let tuned = object(&["finetune", "run", "docs.jsonl", "--out", "tuned", "--set", "max_iters=1"]);
    assert!(tuned["val_loss"].is_number(), "{tuned}");
    assert_eq!(Model::open(cli.path("tuned")).unwrap().tokenizer().given(), Some(begin));
    // From ids that were prepared it is the same run; other ends than those are refused.
    let about = object(&[&["data", "prepare", "docs.jsonl", "--out", "ids"], &ends[..]].concat());
    let given = |part: &str| about[part]["given"].as_u64().unwrap();
    assert!(given("train") + given("val") == 200 && given("val") > 10, "{about}");
    let again = train(&["ids", "--out", "from-ids"]);
    assert_eq!(again["val_loss_exact"], done["val_loss_exact"]);
    assert_eq!(Model::open(cli.path("from-ids")).unwrap().tokenizer().given(), Some(begin));
    cli.fails(
        &["train", "ids", "--set", "bos_token=x"],
        2,
        "bos_token = \"x\": must be \"^\", the value that these token",
    );
    train(&["docs.jsonl", "--out", "plain", "--tokenizer", "byte"]);
    let message = "was prepared with bos_token = \"^\" and eos_token = \"$\", but this run has bos_token = \"\" and";
    cli.fails(&["eval", "plain", "ids"], 1, message);
    let message =
        "bos_token = \"<s>\": must be \"\" or a token of the tokenizer, whose special tokens are \"<|endoftext|>\"";
    cli.fails(&["train", "docs.jsonl", "--tokenizer", "byte", "--set", "bos_token=<s>"], 2, message);
}
