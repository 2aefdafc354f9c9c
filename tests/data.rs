//! `kinglet data` as a user meets it.

#[path = "common/cli.rs"]
mod cli;

use cli::Cli;
use serde_json::Value;
use std::fs;

#[test]
fn stats_of_the_built_in_corpus() {
    let cli = Cli::new();
    let text = cli.ok(&["data", "stats"]);
    let row = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line[20..].split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let stats: Value = serde_json::from_str(&cli.ok(&["data", "stats", "--json"])).unwrap();
    assert_eq!(row("characters"), [stats["train"]["chars"].to_string(), stats["val"]["chars"].to_string()]);
    let models = stats["baselines"]["models"].as_array().unwrap();
    let names: Vec<_> = models.iter().map(|model| model["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["uniform", "unigram", "bigram", "5-gram", "zstd -22"]);
    let losses: Vec<f64> = models.iter().map(|model| model["nats_per_token"].as_f64().unwrap()).collect();
    assert!(losses[..4].is_sorted_by(|a, b| a > b), "{losses:?}");
    assert!(losses.iter().all(|&loss| loss > stats["entropy_floor"].as_f64().unwrap()), "{losses:?}");
    for model in models {
        let bits = model["nats_per_token"].as_f64().unwrap() / std::f64::consts::LN_2;
        assert!((model["bits_per_char"].as_f64().unwrap() - bits).abs() < 1e-12, "a character is a token: {model}");
        let shown = row(model["name"].as_str().unwrap());
        assert_eq!(shown[1], format!("{bits:.4}"));
        assert_eq!(shown.last().unwrap() == "best", model["best"] == true, "{shown:?}");
    }
}

#[test]
fn stats_of_a_small_file_with_another_split() {
    let cli = Cli::new();
    fs::write(cli.path("a.txt"), "Ein schöner Satz.\n".repeat(5)).unwrap();
    let stats = cli.ok(&["data", "stats", "a.txt", "--tokenizer", "char", "--set", "train_split=0.8", "--json"]);
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert_eq!((&stats["train"]["chars"], &stats["train"]["bytes"]), (&72.into(), &76.into()));
    assert_eq!((&stats["val"]["lines"], &stats["val"]["words"]), (&1.into(), &3.into()));
    assert_eq!(stats["overlap"]["val_windows_in_train_fraction"], Value::Null);
    assert_eq!((&stats["data"][0], &stats["entropy_floor"]), (&"a.txt".into(), &Value::Null));
    let text = cli.ok(&["data", "stats", "a.txt", "--set", "train_split=0.8"]);
    assert!(text.contains("none of 0 validation lines"), "{text}");
    assert!(text.contains("\"Ein schöner Satz.\""), "{text}");
}
