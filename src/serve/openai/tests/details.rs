//! All tokens of a text beside it, as `"details"` asks for them.

use super::*;
use crate::{inference::Readout, text::tokenizer::StreamDecoder};

/// The details of the text with this index, in one list.
fn details(answers: &[Value], index: usize) -> Vec<Value> {
    let choices = answers.iter().flat_map(|answer| answer["choices"].as_array().unwrap());
    let of_it = choices.filter(|choice| choice["index"] == index);
    of_it.flat_map(|choice| choice["tokens"].as_array().expect("each choice has a list").clone()).collect()
}

fn ids(tokens: &[Value]) -> Vec<u32> {
    tokens.iter().map(|token| token["id"].as_u64().unwrap() as u32).collect()
}

fn bytes(token: &Value) -> Vec<u8> {
    match token["bytes"].as_array() {
        Some(bytes) => bytes.iter().map(|byte| byte.as_u64().unwrap() as u8).collect(),
        None => token["text"].as_str().unwrap().as_bytes().to_vec(),
    }
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn details_are_what_scores_say_of_the_whole_text() {
    let bench = letters();
    // All of it is within the block, as positions of one window.
    let request = json!({"prompt": "abc", "max_tokens": 20, "seed": 4, "n": 3, "details": 4, "logprobs": 2});
    let whole = bench.asked(request.clone());
    let streamed = bench.events(request.clone());
    let prompt = ids(whole["prompt_tokens"].as_array().unwrap());
    assert_eq!(prompt, bench.model().tokenizer().encode("abc").unwrap());
    assert_eq!(whole["prompt_tokens"][2], json!({"id": prompt[2], "text": "c", "bytes": null}));
    assert_eq!(streamed[0]["prompt_tokens"], whole["prompt_tokens"]);
    assert!(streamed[1..].iter().all(|event| event.get("prompt_tokens").is_none()));
    for index in 0..3 {
        let tokens = details(std::slice::from_ref(&whole), index);
        assert_eq!(tokens, details(&streamed, index));
        let choice = &whole["choices"][index];
        let text: String = tokens.iter().map(|token| token["text"].as_str().unwrap()).collect();
        assert_eq!((choice["text"].as_str().unwrap(), tokens.len()), (&*text, 20));
        // As many alternatives as each asks for.
        let top = choice["logprobs"]["top_logprobs"].as_array().unwrap();
        assert!(top.iter().all(|top| (2..4).contains(&top.as_object().unwrap().len())));
        let all = [&prompt[..], &ids(&tokens)].concat();
        let scoring = bench.model().score(all).top(4);
        let mut readout = Readout::new(bench.model(), &scoring, None);
        let scores: Vec<Value> = scoring.flat_map(|scores| readout.tokens(&scores.unwrap())).collect();
        for (i, (token, score)) in tokens.iter().zip(&scores[3..]).enumerate() {
            assert_eq!(keys(token), ["index", "id", "text", "bytes", "logprob", "top"]);
            assert_eq!(token["index"], i);
            assert!(keys(token).iter().skip(1).all(|key| score.get(key).is_some()), "{score}");
            let near = |a: &Value, b: &Value| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-6;
            assert!(near(&token["logprob"], &score["logprob"]), "{token} {score}");
            assert_eq!(keys(&token["top"][0]), keys(&score["top"][0]));
            for (a, b) in token["top"].as_array().unwrap().iter().zip(score["top"].as_array().unwrap()) {
                assert!(a["id"] == b["id"] && near(&a["logprob"], &b["logprob"]), "{a} {b}");
            }
            assert_eq!(token["top"].as_array().unwrap().len(), 4);
        }
    }
    // These ids are the prompt.
    let mut again = request.clone();
    again["prompt"] = json!(prompt);
    assert_eq!(bench.asked(again)["choices"], whole["choices"]);
    // Nothing of it is there where it was not asked for.
    let plain = bench.asked(json!({"prompt": "abc", "max_tokens": 3}));
    assert!(plain.get("prompt_tokens").is_none() && plain["choices"][0].get("tokens").is_none());
}

#[test]
fn details_have_all_tokens_that_were_drawn() {
    let sum = |answers: &[Value], n: usize| (0..n).map(|index| details(answers, index).len()).sum::<usize>();
    let check = |bench: &Bench, mut request: Value, n: usize| {
        (request["n"], request["details"]) = (json!(n), json!(1));
        let whole = bench.asked(request.clone());
        let used = whole["usage"]["completion_tokens"].as_u64().unwrap() as usize;
        assert_eq!(sum(std::slice::from_ref(&whole), n), used);
        for interval in [0, 20] {
            request["stream_interval_ms"] = json!(interval);
            let streamed = bench.events(request.clone());
            (0..n).for_each(|i| assert_eq!(details(&streamed, i), details(std::slice::from_ref(&whole), i)));
        }
        whole
    };
    // A stop string, whose tokens were drawn, too.
    let bench = letters();
    let request = |stop: &str| json!({"prompt": "abc", "max_tokens": 80, "seed": 5, "stop": stop});
    let text = check(&bench, request(""), 1)["choices"][0]["text"].as_str().unwrap().to_owned();
    let at = (20..70).find(|&at| text.find(&text[at..at + 2]) == Some(at)).unwrap();
    let stopped = check(&bench, request(&text[at..at + 2]), 1);
    assert_eq!(stopped["choices"][0]["text"], text[..at]);
    assert_eq!(details(&[stopped], 0).len(), at + 2);
    // Halves of characters, the end of a text, and answers with what ends them.
    let halves = Bench::of(of_logits(&[(0xc3, 0.0), (0xa9, 0.0), (101, 0.0)], &["data_kind=\"conversations\""]));
    let whole = check(&halves, json!({"prompt": "e", "max_tokens": 40, "seed": 3}), 2);
    for (index, choice) in whole["choices"].as_array().unwrap().iter().enumerate() {
        let all: Vec<u8> = details(std::slice::from_ref(&whole), index).iter().flat_map(bytes).collect();
        let (mut decoder, tokenizer) = (StreamDecoder::default(), halves.model().tokenizer());
        let text: String = all.iter().map(|&byte| decoder.push(tokenizer, byte.into())).collect();
        assert_eq!(choice["text"], text + &decoder.finish(tokenizer));
    }
    let ends = Bench::of(of_logits(&[(97, 1.0), (256, 0.0)], &["data_kind=\"conversations\""]));
    let whole = check(&ends, json!({"prompt": "e", "max_tokens": 40, "seed": 3}), 1);
    let tokens = details(std::slice::from_ref(&whole), 0);
    assert_eq!((&whole["choices"][0]["finish_reason"], &tokens.last().unwrap()["id"]), (&json!("stop"), &json!(256)));
    let chat =
        check(&chats(), json!({"messages": [{"role": "user", "content": "ab"}], "max_tokens": 30, "seed": 2}), 2);
    assert_eq!(chat["prompt_tokens"].as_array().unwrap().len(), chat["usage"]["prompt_tokens"]);
    // Byte pair encoding, of characters that have several tokens.
    let bpe = Tokenizer::train_bpe(["ab 🐦é ".repeat(20)].into_iter(), 270).unwrap();
    let whole = check(&Bench::of(model(bpe, &[])), json!({"prompt": "é", "max_tokens": 60, "seed": 1}), 3);
    for (index, choice) in whole["choices"].as_array().unwrap().iter().enumerate() {
        let all: Vec<u8> = details(std::slice::from_ref(&whole), index).iter().flat_map(bytes).collect();
        assert_eq!(choice["text"], *String::from_utf8_lossy(&all));
    }
}

#[test]
fn details_count_as_what_an_answer_may_hold() {
    let bench = letters();
    let request = |details: i64| json!({"prompt": "abc", "max_tokens": 65_536, "n": 4, "details": details});
    for (request, fits) in
        [(request(0), true), (request(1), false), (json!({"prompt": "abc", "max_tokens": 65_536, "n": 4}), true)]
    {
        assert_eq!(bench.order(request.clone()).unwrap().start(&bench.engine).is_ok(), fits, "{request}");
    }
    let mut streamed = request(20);
    streamed["stream"] = json!(true);
    assert!(bench.order(streamed).unwrap().start(&bench.engine).is_ok());
    let long = json!({"prompt": "abc".repeat(200_000), "max_tokens": 1, "details": 0, "stream": true});
    assert_eq!(bench.order(long).unwrap().start(&bench.engine).err().unwrap().code, Some("too_long"));
}
