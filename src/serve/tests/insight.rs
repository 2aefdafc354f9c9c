//! Looks into models over HTTP: the same as in the library, and what is refused; and what of a text stands in the training text.

use super::*;
use crate::{
    data::{TokenizerChoice, read},
    inference::{Model, Windows},
    run::{RunDir, State},
};
use kinglet_core::{config::Config, params::Layout};
use std::path::Path;

const TEXT: &str = "abcabcaabbccabcabcaabbcc";
const TRAINED_ON: &str = "It was the best of times, it was the worst of times; abc ééé.";

/// A server of a run that was trained on a text.
fn server(temp: &Path, settings: &[&str]) -> Running {
    fs::write(temp.join("text.txt"), TRAINED_ON.repeat(4)).unwrap();
    let small = ["block_size=16", "n_layer=2", "n_head=2", "n_embd=8"];
    let mut config = Config::default().with(&[&small[..], settings].concat()).unwrap();
    config.data = vec![temp.join("text.txt").display().to_string()];
    let (tokenizer, data) = read(&config, TokenizerChoice::FromConfig).unwrap();
    (config.data_sha256, config.vocab_size) = (data.sha256, tokenizer.vocab_size());
    let (run, lock) = RunDir::create(&temp.join("runs/mine"), config, tokenizer, None).unwrap();
    drop(lock);
    let (layout, mut state) = (Layout::new(&run.config).unwrap(), State::default());
    let weights = layout.init(3);
    (state.step, state.best) = (7, Some((1.0, 7)));
    run.save_weights(&layout, &state, |span, out| out.copy_from_slice(&weights[span.range()])).unwrap();
    Running::of(vec![temp.join("runs").into()], |_| ())
}

/// The bytes that base64 stands for.
fn decoded(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let of_four = |four: &[u8]| {
        let digits: Vec<u32> = four.iter().filter(|c| **c != b'=').map(|c| u32::from(digit(*c))).collect();
        let bits = digits.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - digits.len()));
        bits.to_be_bytes()[1..digits.len()].to_vec()
    };
    text.as_bytes().chunks(4).flat_map(of_four).collect()
}

#[test]
fn a_look_is_the_librarys_and_of_a_long_text_its_end() {
    let temp = tempfile::tempdir().unwrap();
    let server = server(temp.path(), &[]);
    let model = Model::open(temp.path().join("runs/mine")).unwrap();
    let all = model.ids_of(TEXT).unwrap().0;
    let ids = all[all.len() - 16..].to_vec();
    for layer in [0, 1] {
        let body = json!({"model": "mine", "text": TEXT, "layer": layer}).to_string();
        let answer = server.client().post("/api/attention", "", &body).answer().json();
        let want = model.attention(ids.clone(), layer).unwrap();
        assert_eq!(
            (&answer["model"], &answer["layer"], &answer["n_layer"]),
            (&json!("mine"), &json!(layer), &json!(2))
        );
        assert_eq!(answer["n_head"], 2);
        let spelt: String = (0..16).map(|i| answer["tokens"][i]["text"].as_str().unwrap()).collect();
        assert_eq!((spelt.as_str(), answer["tokens"].as_array().unwrap().len()), (&TEXT[8..], 16));
        assert_eq!(answer["notes"], json!(["the first 8 of 24 tokens are left out: 16 are looked at at once"]));
        for (head, want) in answer["heads"].as_array().unwrap().iter().zip(want.heads()) {
            let bytes = decoded(head.as_str().unwrap());
            assert_eq!(bytes.len(), 2 * 16 * 17 / 2);
            for (found, want) in bytes.chunks_exact(2).zip(want) {
                let found = f32::from(u16::from_le_bytes([found[0], found[1]])) / 65535.0;
                assert!((found - want).abs() < 1e-5);
            }
        }
    }
    let body = json!({"ids": ids, "top": 3}).to_string();
    let answer = server.client().post("/api/lens", "", &body).answer().json();
    let names: Vec<_> = (0..3).map(|i| answer["layers"][i]["name"].as_str().unwrap()).collect();
    assert_eq!((names, &answer["notes"]), (vec!["embedding", "block 1", "block 2"], &json!([])));
    let lens = model.lens(ids.clone(), 3).unwrap();
    for (found, want) in answer["layers"].as_array().unwrap().iter().zip(lens.layers()) {
        for (found, want) in found["positions"].as_array().unwrap().iter().zip(want) {
            assert_eq!((&found["logprob"], &found["rank"]), (&json!(want.logprob), &json!(want.rank)));
            let top: Vec<_> = found["top"].as_array().unwrap().iter().map(|one| &one["id"]).collect();
            assert!(top.into_iter().eq(&want.top.iter().map(|top| json!(top.0)).collect::<Vec<_>>()));
        }
    }
    // The last layer is what scoring says.
    let body = json!({"ids": ids, "top": 0}).to_string();
    let scored = server.client().post("/api/score", "", &body).answer().json();
    for i in 0..15 {
        assert_eq!(answer["layers"][2]["positions"][i]["logprob"], scored["tokens"][i + 1]["logprob"]);
    }
    assert!(model.score(ids).windows(Windows::Half).check().is_ok());
    assert_eq!(server.metric("kinglet_engine_scoring"), 0.0);
    assert_eq!(server.metric("kinglet_engine_ended_total{how=\"scored\"}"), 4.0);
}

#[test]
fn what_cannot_be_looked_at_is_refused_by_name() {
    let temp = tempfile::tempdir().unwrap();
    let server = server(temp.path(), &[]);
    for (path, body, param, says) in [
        ("/api/attention", json!({}), "text", "nothing to look at"),
        ("/api/attention", json!({"text": ""}), "text", "no token"),
        ("/api/attention", json!({"text": "ab", "layer": 2}), "layer", "must be 0 to 1"),
        ("/api/attention", json!({"text": "ab", "layer": -1}), "layer", "must be 0 to 1"),
        ("/api/attention", json!({"text": "ab", "layer": "0"}), "layer", "whole number"),
        ("/api/attention", json!({"text": "#"}), "text", "#"),
        ("/api/lens", json!({"ids": [9999]}), "ids", "no token with id 9999"),
        ("/api/lens", json!({"text": "ab", "ids": [1]}), "ids", "beside text"),
        ("/api/lens", json!({"text": "ab", "top": 0}), "top", "must be 1 to 20"),
        ("/api/memorized", json!({}), "text", "text is missing"),
        ("/api/memorized", json!({"text": ""}), "text", "no text"),
        ("/api/memorized", json!({"text": "a".repeat(65537)}), "text", "at most 65536"),
    ] {
        let answer = server.client().post(path, "", &body.to_string()).answer();
        let error = answer.json()["error"].clone();
        assert_eq!((answer.status, error["param"].as_str()), (400, Some(param)), "{error}");
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    }
    for path in ["/api/attention", "/api/lens", "/api/memorized"] {
        let answer = server.client().post(path, "", "{\"text\": \"a\", \"model\": \"none\"}").answer();
        assert_eq!(answer.status, 404);
    }
}

#[test]
fn what_stands_in_the_training_part_is_told_and_a_text_that_changed_is_not_taken_for_it() {
    let temp = tempfile::tempdir().unwrap();
    let server = server(temp.path(), &["train_split=0.25"]);
    let ask = |text: &str| {
        let body = json!({"text": text}).to_string();
        server.client().post("/api/memorized", "", &body).answer()
    };
    let answer = ask("<b>best of times</b> it was the worst of it. abc éééé").json();
    let file = temp.path().join("text.txt").display().to_string();
    assert_eq!((&answer["model"], &answer["source"]), (&json!("mine"), &json!(file)));
    let spans = answer["spans"].as_array().unwrap();
    let told: Vec<_> =
        spans.iter().map(|span| (span["text"].as_str().unwrap(), &span["start"], &span["end"])).collect();
    assert_eq!(
        told,
        [
            (" it was the worst of ", &json!(20), &json!(41)),
            ("best of times", &json!(3), &json!(16)),
            (" abc ééé", &json!(44), &json!(52)),
        ]
    );
    // The training part is a quarter of it: each stands there once.
    assert!(spans.iter().all(|span| span["count"] == 1));
    assert_eq!((&spans[1]["found_at"], &spans[1]["before"]), (&json!(11), &json!("It was the ")));
    assert_eq!(spans[2]["after"], ".");
    assert_eq!((&answer["text_chars"], &answer["searched_bytes"]), (&json!(53), &json!(TRAINED_ON.len())));
    assert_eq!(answer["ngrams"][0]["n"], 2);
    soon("the search is over", || server.metric("kinglet_searches_running") == 0.0);

    for change in [Some("another text"), None] {
        match change {
            Some(text) => fs::write(&file, text).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        let answer = ask("best of times");
        let error = answer.json()["error"].clone();
        assert_eq!((answer.status, error["code"].as_str()), (404, Some("training_text_not_found")), "{error}");
        assert!(error["message"].as_str().unwrap().contains(&file), "{error}");
    }
}
