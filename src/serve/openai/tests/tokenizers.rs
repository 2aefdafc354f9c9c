//! What harnesses ask of the tokenizer.

use super::*;
use crate::serve::openai::tokens::{detokenize, info, tokenize};

fn ask(bench: &Bench, request: Value) -> Result<Value, Failure> {
    tokenize(&bench.served, &Fields::of(&map(request)))
}

#[test]
fn texts_become_tokens_and_tokens_text() {
    let bench = Bench::of(model(Tokenizer::byte(), &["bos_token=\"<|endoftext|>\""]));
    let tokens = |request| ask(&bench, request).unwrap();
    assert_eq!(
        tokens(json!({"prompt": "aé"})),
        json!({"count": 4, "max_model_len": 32, "tokens": [256, 97, 195, 169], "token_strs": null, "kinglet": {"notes": []}})
    );
    assert_eq!(tokens(json!({"prompt": "a", "add_special_tokens": false}))["tokens"], json!([97]));
    // As harnesses find the id of the token that ends a text.
    let end = info(bench.model())["eos_token"].clone();
    assert_eq!(tokens(json!({"prompt": end, "add_special_tokens": false}))["tokens"], json!([256]));
    let named = tokens(json!({"prompt": "ab", "return_token_strs": true}));
    assert_eq!(named["token_strs"], json!(["<|endoftext|>", "a", "b"]));
    let text = |request| detokenize(bench.model(), &Fields::of(&map(request)));
    assert_eq!(text(json!({"tokens": [97, 195, 169]})), Ok(json!({"prompt": "aé"})));
    assert_eq!(text(json!({"tokens": []})), Ok(json!({"prompt": ""})));
    for (tokens, code) in [
        (json!(null), "missing_required_parameter"),
        (json!("a"), "invalid_type"),
        (json!(["a"]), "invalid_type"),
        (json!([0.5]), "invalid_type"),
        (json!([257]), "invalid_value"),
        (json!([-1]), "invalid_value"),
    ] {
        let failure = text(json!({"tokens": tokens})).unwrap_err();
        assert_eq!((failure.status, failure.code, failure.param.as_deref()), (400, Some(code), Some("tokens")));
    }
    let about = info(bench.model());
    assert_eq!((&about["bos_token"], &about["eos_token"]), (&json!("<|endoftext|>"), &json!("<|endoftext|>")));
    assert_eq!(
        (&about["chat_template"], &about["vocab_size"], &about["model_max_length"]),
        (&Value::Null, &json!(257), &json!(32))
    );
}

#[test]
fn a_conversation_has_the_tokens_of_its_prompt() {
    let bench = chats();
    let messages = json!([{"role": "user", "content": "Hi"}]);
    let answer = ask(&bench, json!({"messages": messages})).unwrap();
    let used = bench.asked(json!({"messages": messages, "max_tokens": 1}));
    assert_eq!(answer["count"], used["usage"]["prompt_tokens"]);
    assert!(info(bench.model())["chat_template"].as_str().unwrap().contains("messages"));
    for (request, code, param) in [
        (json!({}), "missing_required_parameter", "prompt"),
        (json!({"prompt": 1}), "invalid_type", "prompt"),
        (json!({"prompt": "a", "messages": []}), "invalid_value", "messages"),
        (json!({"prompt": "a", "add_special_tokens": "no"}), "invalid_type", "add_special_tokens"),
        (
            json!({"messages": messages, "add_generation_prompt": false}),
            "unsupported_parameter",
            "add_generation_prompt",
        ),
    ] {
        let failure = ask(&bench, request).unwrap_err();
        assert_eq!((failure.status, failure.code, failure.param.as_deref()), (400, Some(code), Some(param)));
    }
    let letters = letters();
    let failure = ask(&letters, json!({"messages": messages})).unwrap_err();
    assert_eq!(failure.code, Some("model_has_no_chat_template"));
    let failure = ask(&letters, json!({"prompt": "X"})).unwrap_err();
    assert_eq!((failure.code, failure.param.as_deref()), (Some("unknown_characters"), Some("prompt")));
}
