//! Tokens beside their text, with their log-probabilities.

use super::*;
use crate::inference::TokenScore;

fn strings(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn numbers(list: &Value) -> Vec<Option<f64>> {
    list.as_array().unwrap().iter().map(Value::as_f64).collect()
}

#[test]
fn a_texts_tokens_are_shown_in_the_older_shape() {
    let bench = letters();
    let request = json!({"prompt": "abc", "max_tokens": 20, "seed": 4, "logprobs": 3});
    let choice = bench.asked(request.clone())["choices"][0].clone();
    let logprobs = &choice["logprobs"];
    let text = choice["text"].as_str().unwrap();
    let tokens = strings(&logprobs["tokens"]);
    assert_eq!((tokens.concat(), tokens.len()), (text.to_owned(), 20));
    assert_eq!(logprobs["text_offset"], json!((0..20).collect::<Vec<_>>()));
    let drawn: Vec<_> =
        bench.model().generate("abc").max_tokens(20).seed(4).top(3).flat_map(|piece| piece.unwrap().tokens).collect();
    let own: Vec<_> = drawn.iter().map(|token| Some(token.logprob)).collect();
    assert_eq!(numbers(&logprobs["token_logprobs"]), own);
    for (i, token) in drawn.iter().enumerate() {
        let top = logprobs["top_logprobs"][i].as_object().unwrap();
        let named = |id| bench.model().tokenizer().decode(&[id]);
        assert!(token.top.iter().all(|&(id, logprob)| top[&named(id)] == logprob));
        assert_eq!(top[&named(token.id)], token.logprob, "the token itself is always there");
        let is_in = token.top.iter().any(|&(id, _)| id == token.id);
        assert_eq!(top.len(), if is_in { 3 } else { 4 });
    }
    let (streamed, shown, _) = joined(&bench.events(request), 0);
    assert_eq!((&*streamed, shown), (text, tokens.iter().map(|token| json!(token)).collect()));
    let none = bench.asked(json!({"prompt": "abc", "max_tokens": 4, "logprobs": 0}))["choices"][0]["logprobs"].clone();
    assert!(none["top_logprobs"].as_array().unwrap().iter().all(|top| top.as_object().unwrap().len() == 1));
}

#[test]
fn tokens_of_a_stop_string_are_left_out() {
    let bench = letters();
    let request = |stop: &str| json!({"prompt": "abc", "max_tokens": 80, "seed": 5, "logprobs": 1, "stop": stop});
    let text = bench.asked(request(""))["choices"][0]["text"].as_str().unwrap().to_owned();
    let at = (20..70).find(|&at| text.find(&text[at..at + 2]) == Some(at)).unwrap();
    let stop = &text[at..at + 2];
    let choice = bench.asked(request(stop))["choices"][0].clone();
    assert_eq!(choice["text"], text[..at]);
    assert_eq!(strings(&choice["logprobs"]["tokens"]).concat(), text[..at]);
    // In a stream no token comes before its text, though it was drawn before it was certain.
    let mut seen = (String::new(), String::new());
    let mut piecewise = request(stop);
    piecewise["stream_interval_ms"] = json!(0);
    for event in bench.events(piecewise) {
        seen.0 += event["choices"][0]["text"].as_str().unwrap();
        let shown = event["choices"][0]["logprobs"]["tokens"].as_array();
        shown.into_iter().flatten().for_each(|token| seen.1 += token.as_str().unwrap());
        assert!(seen.0.starts_with(&seen.1));
    }
    assert_eq!(seen, (text[..at].to_owned(), text[..at].to_owned()));
}

#[test]
fn a_prompts_tokens_are_scored() {
    let bench = letters();
    let prompt = "abcdefghij".repeat(9);
    let ids = bench.model().tokenizer().encode(&prompt).unwrap();
    let scores: Vec<TokenScore> = bench.model().score(ids.clone()).top(1).flat_map(Result::unwrap).collect();
    let want: Vec<_> = scores.iter().map(|score| score.logprob).collect();
    assert!(want[0].is_none() && want[1..].iter().all(Option::is_some) && want.len() == 90);
    for max_tokens in [0, 1] {
        // As an evaluation harness asks.
        let request = json!({"prompt": [ids, ids[..9]], "max_tokens": max_tokens, "echo": true, "logprobs": 1, "temperature": 0, "seed": 1});
        let answer = bench.asked(request.clone());
        for (i, n) in [90, 9].into_iter().enumerate() {
            let choice = &answer["choices"][i];
            let all = numbers(&choice["logprobs"]["token_logprobs"]);
            assert_eq!(all.len(), n + max_tokens);
            assert_eq!(all[..9], want[..9]);
            assert!(i == 1 || all[..90] == want);
            assert!(choice["logprobs"]["top_logprobs"][0].is_null());
            let best = |top: &Value| {
                top.as_object().unwrap().values().map(|p| p.as_f64().unwrap()).fold(f64::NEG_INFINITY, f64::max)
            };
            for j in 1..n {
                let greedy = all[j].unwrap() == best(&choice["logprobs"]["top_logprobs"][j]);
                assert_eq!(greedy, scores[j].rank == Some(1), "the {j}th");
            }
            assert_eq!(strings(&choice["logprobs"]["tokens"]).concat(), choice["text"].as_str().unwrap());
            assert_eq!(choice["logprobs"]["text_offset"], json!((0..n + max_tokens).collect::<Vec<_>>()));
            let (text, tokens, _) = joined(&bench.events(request.clone()), i);
            assert_eq!((json!(text), json!(tokens)), (choice["text"].clone(), choice["logprobs"]["tokens"].clone()));
        }
    }
    // A token that was put before the prompt is there, so that the numbers are as many as `/tokenize` counts.
    let bench = Bench::of(model(Tokenizer::byte(), &["bos_token=\"<|endoftext|>\""]));
    let choice =
        bench.asked(json!({"prompt": "ab", "max_tokens": 0, "echo": true, "logprobs": 0}))["choices"][0].clone();
    assert_eq!(
        (choice["text"].clone(), strings(&choice["logprobs"]["tokens"])),
        (json!("ab"), ["", "a", "b"].map(str::to_owned).to_vec())
    );
    assert_eq!(choice["logprobs"]["text_offset"], json!([0, 0, 1]));
    let numbers = numbers(&choice["logprobs"]["token_logprobs"]);
    assert_eq!(numbers.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, true]);
}

#[test]
fn characters_over_two_tokens_are_shown_by_their_bytes() {
    // é and e, and now and then half of é.
    let bench = Bench::of(of_logits(&[(0xc3, 0.0), (0xa9, 0.0), (101, 0.0)], &["data_kind=\"conversations\""]));
    let request = json!({"prompt": "e", "max_tokens": 40, "seed": 3, "logprobs": 2});
    let choice = bench.asked(request.clone())["choices"][0].clone();
    let text = choice["text"].as_str().unwrap();
    assert!(text.contains('é') && text.contains('\u{fffd}') && text.contains('e'), "{text}");
    let tokens = strings(&choice["logprobs"]["tokens"]);
    let known = ["bytes:\\xc3", "bytes:\\xa9", "e"];
    assert!(tokens.len() == 40 && tokens.iter().all(|token| known.contains(&&**token)), "{tokens:?}");
    for top in choice["logprobs"]["top_logprobs"].as_array().unwrap() {
        assert!(top.as_object().unwrap().keys().all(|token| known.contains(&&**token)), "{top}");
    }
    let (streamed, shown, _) = joined(&bench.events(request), 0);
    assert_eq!((&*streamed, json!(shown)), (text, choice["logprobs"]["tokens"].clone()));

    // In the newer shape the bytes are there, and make the text.
    let request = json!({"messages": [{"role": "user", "content": "é"}], "max_tokens": 40, "seed": 3, "logprobs": true, "top_logprobs": 2});
    let choice = bench.asked(request)["choices"][0].clone();
    let entries = choice["logprobs"]["content"].as_array().unwrap();
    let bytes = |entry: &Value| {
        entry["bytes"].as_array().unwrap().iter().map(|byte| byte.as_u64().unwrap() as u8).collect::<Vec<_>>()
    };
    let all: Vec<u8> = entries.iter().flat_map(bytes).collect();
    assert_eq!(
        bench.model().tokenizer().decode(&all.iter().map(|&b| u32::from(b)).collect::<Vec<_>>()),
        choice["message"]["content"]
    );
    assert!(all.contains(&0xc3) && entries.iter().all(|entry| entry["top_logprobs"].as_array().unwrap().len() == 2));
    // A prompt that ends within a character.
    let echo = bench.asked(json!({"prompt": [0x65, 0xc3], "max_tokens": 0, "echo": true, "logprobs": 0}))["choices"][0]
        .clone();
    assert_eq!(echo["text"], "e\u{fffd}");
    assert_eq!(strings(&echo["logprobs"]["tokens"]), ["e", "bytes:\\xc3"]);
    assert_eq!(echo["logprobs"]["text_offset"], json!([0, 1]));
}

#[test]
fn what_is_impossible_is_a_number_in_json() {
    let bench = Bench::of(of_logits(&[(97, 0.0), (98, f32::NEG_INFINITY)], &[]));
    let ids = [97, 98, 97];
    let choice = bench.ask(json!({"prompt": ids, "max_tokens": 0, "echo": true, "logprobs": 1}));
    let text = choice.unwrap()["choices"][0]["logprobs"].to_string();
    assert!(text.contains("-9999.0") && text.matches("null").count() == 2, "{text}");
    // Scores say it in the same way.
    let scoring = bench.model().score(ids.to_vec()).top(257);
    let mut readout = crate::inference::Readout::new(bench.model(), &scoring, None);
    let tokens: Vec<Value> = scoring.flat_map(|scores| readout.tokens(&scores.unwrap())).collect();
    assert_eq!((&tokens[0]["logprob"], &tokens[1]["logprob"]), (&json!(null), &json!(-9999.0)));
    assert!(tokens[1]["top"].as_array().unwrap().iter().all(|top| top["logprob"].is_f64()));
    let summary = json!(readout.tally());
    assert_eq!((&summary["loss"], &summary["perplexity"]), (&json!(f64::MAX), &json!(f64::MAX)));
}
