//! Scores over HTTP: the same as in the library, whole and streamed, and what is refused.

use super::*;
use crate::{
    inference::{Model, Readout, Windows},
    run::{RunDir, State},
    text::tokenizer::CharTokenizer,
};
use kinglet_core::{config::Config, params::Layout};

const TEXT: &str = "abcabcaabbccabcabcaabbccabcabcaabbcc";

fn server(temp: &tempfile::TempDir) -> Running {
    let config =
        Config::default().with(&["vocab_size=4", "block_size=8", "n_layer=1", "n_head=1", "n_embd=8"]).unwrap();
    let path = temp.path().join("runs/mine");
    let (run, lock) = RunDir::create(&path, config, CharTokenizer::train("abc").into(), None).unwrap();
    drop(lock);
    let (layout, mut state) = (Layout::new(&run.config).unwrap(), State::default());
    let weights = layout.init(3);
    (state.step, state.best) = (7, Some((1.0, 7)));
    run.save_weights(&layout, &state, |span, out| out.copy_from_slice(&weights[span.range()])).unwrap();
    Running::of(vec![temp.path().join("runs").into()], |_| ())
}

#[test]
fn scores_are_those_of_the_library_whole_and_streamed() {
    let temp = tempfile::tempdir().unwrap();
    let server = server(&temp);
    let model = Model::open(temp.path().join("runs/mine")).unwrap();
    for (windows, name) in [(Windows::Half, "half"), (Windows::Eval, "eval")] {
        let scoring = model.score(model.ids_of(TEXT).unwrap().0).top(2).windows(windows);
        let mut readout = Readout::new(&model, &scoring, Some(TEXT));
        let tokens: Vec<Value> = scoring.flat_map(|scores| readout.tokens(&scores.unwrap())).collect();
        let body = |more: &str| format!("{{\"text\": \"{TEXT}\", \"top\": 2, \"windows\": \"{name}\"{more}}}");
        let whole = server.client().post("/api/score", "", &body("")).answer().json();
        assert_eq!((&whole["object"], &whole["model"], &whole["step"]), (&json!("score"), &json!("mine"), &json!(7)));
        assert_eq!((&whole["tokens"], &whole["summary"]), (&json!(tokens), &json!(readout.tally())));
        // As it is sent, in chunks.
        let stream = server.client().post("/api/score", "", &body(", \"stream\": true")).read_to("[DONE]\n\n");
        let events: Vec<&str> = stream.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        let (done, events) = events.split_last().unwrap();
        let events: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
        let streamed: Vec<&Value> = events.iter().flat_map(|event| event["tokens"].as_array().unwrap()).collect();
        assert!(*done == "[DONE]" && streamed.iter().copied().eq(&tokens));
        assert_eq!(events.last().unwrap()["summary"], whole["summary"]);
    }
    // Ids are scored as they are; the text is what they spell.
    let answer = server.client().post("/api/score", "", "{\"model\": \"mine\", \"ids\": [0, 1.0, 2]}").answer().json();
    let spelt: String =
        answer["tokens"].as_array().unwrap().iter().map(|token| token["text"].as_str().unwrap()).collect();
    assert_eq!(
        (&*spelt, &answer["tokens"][2]["offset"], &answer["summary"]["predicted_tokens"]),
        ("abc", &json!(2), &json!(2))
    );
}

#[test]
fn what_cannot_be_scored_is_refused_by_name() {
    let temp = tempfile::tempdir().unwrap();
    let server = server(&temp);
    let long = format!("{{\"text\": \"{}\", \"top\": 20}}", "a".repeat(30_000));
    for (body, param, says) in [
        ("{}", "text", "name a text, or ids"),
        ("{\"text\": \"a\", \"ids\": [1]}", "ids", "beside text"),
        ("{\"text\": \"\"}", "text", "nothing to score"),
        ("{\"text\": \"x\"}", "text", "x"),
        ("{\"ids\": [9]}", "ids", "no token with id 9"),
        ("{\"ids\": [-1]}", "ids", "has -1, which is no token id"),
        ("{\"ids\": 5}", "ids", "a list of token ids"),
        ("{\"text\": \"ab\", \"top\": 21}", "top", "must be 0 to 20"),
        ("{\"text\": \"ab\", \"windows\": \"all\"}", "windows", "must be half or eval"),
        (&long, "text", "set stream"),
    ] {
        let answer = server.client().post("/api/score", "", body).answer();
        let error = answer.json()["error"].clone();
        assert_eq!((answer.status, error["param"].as_str()), (400, Some(param)), "{error}");
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    }
    let answer = server.client().post("/api/score", "", "{\"text\": \"a\", \"model\": \"none\"}").answer();
    assert_eq!(answer.status, 404);
}
