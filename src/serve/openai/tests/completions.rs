//! Texts that are continued.

use super::*;
use crate::inference::Finish;

#[test]
fn a_text_is_the_one_of_its_seed() {
    let bench = letters();
    let request = json!({
        "prompt": "abc", "max_tokens": 60, "seed": 7, "n": 3, "temperature": 1.2, "top_k": 9, "top_p": 0.95, "min_p": 0.01,
        "repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": -0.5, "logit_bias": {"3": 1.5},
    });
    let answer = bench.asked(request.clone());
    let mut sampling = kinglet_core::sample::Sampling::default();
    (sampling.seed, sampling.temperature, sampling.top_k) = (7, 1.2, 9);
    (sampling.top_p, sampling.min_p, sampling.repetition_penalty) = (0.95, 0.01, 1.1);
    (sampling.presence_penalty, sampling.frequency_penalty) = (0.5, -0.5);
    sampling.logit_bias = vec![(3, 1.5)];
    let text =
        |index| bench.model().generate("abc").max_tokens(60).sampling(sampling.clone()).index(index).text().unwrap();
    let events = bench.events(request.clone());
    let mut piecewise = request;
    piecewise["stream_interval_ms"] = json!(0);
    let pieces = bench.events(piecewise);
    assert!(pieces.len() > events.len() && pieces.len() > 3 * 60, "an event for each piece");
    for index in 0..3 {
        let choice = &answer["choices"][index];
        assert_eq!(
            choice,
            &json!({"index": index, "text": text(index as u64), "logprobs": null, "finish_reason": "length"})
        );
        let want = (text(index as u64), Vec::new(), Some("length".to_owned()));
        assert_eq!(joined(&events, index), want);
        assert_eq!(joined(&pieces, index), want);
    }
    assert!(text(0) != text(1) && text(1) != text(2));
    assert_eq!(answer["usage"], json!({"prompt_tokens": 3, "completion_tokens": 180, "total_tokens": 183}));
}

#[test]
fn an_answer_has_all_of_its_fields() {
    let bench = letters();
    let answer = bench.asked(json!({"prompt": "a", "unknown": {"field": 1}}));
    let keys: Vec<_> = answer.as_object().unwrap().keys().cloned().collect();
    let common = ["id", "object", "created", "model", "system_fingerprint", "choices"];
    assert_eq!(keys, [&common[..], &["usage", "kinglet"]].concat());
    assert_eq!((&answer["object"], &answer["model"]), (&json!("text_completion"), &json!("mine")));
    assert_eq!(answer["system_fingerprint"], "fp_0123456789abcdef");
    assert!(answer["id"].as_str().unwrap().starts_with("cmpl-") && answer["created"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(answer["usage"]["completion_tokens"], 16, "OpenAI's default");

    // Without a seed there is one, which is told and gives the text again.
    let again = bench.asked(json!({"prompt": "a", "seed": answer["kinglet"]["seed"]}));
    assert_eq!(again["choices"], answer["choices"]);
    let texts: Vec<_> = (0..4).map(|_| bench.asked(json!({"prompt": "a"}))["choices"][0]["text"].to_string()).collect();
    assert!(texts.iter().any(|text| *text != texts[0]), "each request draws by itself");
}

#[test]
fn a_stream_has_one_name_and_says_its_usage_when_asked() {
    let bench = letters();
    let request = json!({"prompt": ["a", "b"], "max_tokens": 9, "seed": 1, "n": 2});
    let plain = bench.events(request.clone());
    assert!(plain.iter().all(|event| event["id"] == plain[0]["id"] && event.get("usage").is_none()));
    assert_eq!(plain[0]["kinglet"], json!({"seed": 1, "notes": []}));
    assert!(plain[1..].iter().all(|event| event.get("kinglet").is_none()));
    let last = plain.last().unwrap()["choices"][0].clone();
    assert_eq!((&last["text"], &last["finish_reason"]), (&json!(""), &json!("length")));
    let mut with_usage = request;
    with_usage["stream_options"] = json!({"include_usage": true});
    let events = bench.events(with_usage);
    let (usage, others) = events.split_last().unwrap();
    assert!(others.iter().all(|event| event["usage"].is_null() && event.as_object().unwrap().contains_key("usage")));
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"], json!({"prompt_tokens": 2, "completion_tokens": 36, "total_tokens": 38}));
}

#[test]
fn prompts_are_texts_ids_or_lists_of_them() {
    let bench = letters();
    let ids = |text: &str| bench.model().tokenizer().encode(text).unwrap();
    let texts = |prompt: Value| -> Vec<(Value, String)> {
        let answer = bench.asked(json!({"prompt": prompt, "max_tokens": 12, "seed": 3, "n": 2}));
        let choices = answer["choices"].as_array().unwrap().clone();
        choices.into_iter().map(|choice| (choice["index"].clone(), choice["text"].to_string())).collect()
    };
    let one = texts(json!("abc"));
    assert_eq!(texts(json!(["abc"])), one);
    assert_eq!(texts(json!(ids("abc"))), one);
    assert_eq!(texts(json!([ids("abc")])), one);
    let both = texts(json!(["abc", ids("de"), "f"]));
    assert_eq!(both[..2], one);
    let indices: Vec<_> = both.iter().map(|(index, _)| index.clone()).collect();
    assert_eq!(indices, (0..6).map(|i| json!(i)).collect::<Vec<_>>());
    let alone = texts(json!("de"));
    assert_eq!([&both[2].1, &both[3].1], [&alone[0].1, &alone[1].1], "by index within its prompt");
    assert_eq!(
        texts(json!(""))[0].1,
        json!(bench.model().generate("").max_tokens(12).seed(3).text().unwrap()).to_string()
    );
    // More than the engine is given at a time, and than it lets wait.
    let many: Vec<String> = (0..200).map(|i| "abcdefghij"[i % 10..].to_owned()).collect();
    let answer = bench.asked(json!({"prompt": many, "max_tokens": 2, "seed": 3}));
    for (i, choice) in answer["choices"].as_array().unwrap().iter().enumerate() {
        let want = bench.model().generate(&many[i]).max_tokens(2).seed(3).text().unwrap();
        assert_eq!((&choice["index"], &choice["text"]), (&json!(i), &json!(want)));
    }
    assert_eq!(answer["choices"].as_array().unwrap().len(), 200);
}

#[test]
fn prompts_that_cannot_be_continued_are_refused() {
    let bench = letters();
    for (prompt, code) in [
        (json!(null), "missing_required_parameter"),
        (json!(1), "invalid_type"),
        (json!({}), "invalid_type"),
        (json!([]), "invalid_value"),
        (json!([[]]), "invalid_value"),
        (json!(["a", null]), "invalid_type"),
        (json!([0.5]), "invalid_type"),
        (json!([1, "a"]), "invalid_type"),
        (json!([1, [1]]), "invalid_type"),
        (json!([13]), "invalid_value"),
        (json!([-1]), "invalid_value"),
        (json!([1e30]), "invalid_value"),
        (json!([[1], [99]]), "invalid_value"),
        (json!("aXbYc"), "unknown_characters"),
        (json!(["a", "\u{0}"]), "unknown_characters"),
        (json!(vec!["a"; 2049]), "invalid_value"),
    ] {
        assert_eq!(bench.refusal(json!({"prompt": prompt})), (400, code, "prompt".to_owned()));
    }
    let unknown = bench.ask(json!({"prompt": "aXbYc"})).unwrap_err().message;
    assert!(unknown.contains('X') && unknown.contains('Y'), "{unknown}");
    assert_eq!(bench.refusal(json!({"prompt": vec!["a"; 200], "n": 16})), (400, "invalid_value", "n".to_owned()));
    for (key, value) in [("max_tokens", json!(-1)), ("max_tokens", json!(65_537)), ("logprobs", json!(21))] {
        assert_eq!(bench.refusal(json!({"prompt": "a", key: value})), (400, "invalid_value", key.to_owned()));
    }
    for (key, value) in
        [("max_tokens", json!("1")), ("logprobs", json!(true)), ("echo", json!(1)), ("suffix", json!("x"))]
    {
        let code = if key == "suffix" { "unsupported_parameter" } else { "invalid_type" };
        assert_eq!(bench.refusal(json!({"prompt": "a", key: value})), (400, code, key.to_owned()));
    }
}

#[test]
fn a_text_ends_before_a_stop_string() {
    let bench = letters();
    let request = |stop: Value| json!({"prompt": "abc", "max_tokens": 80, "seed": 5, "stop": stop});
    let text = bench.asked(request(json!(null)))["choices"][0]["text"].as_str().unwrap().to_owned();
    // Two tokens that follow each other in the middle, and come there for the first time.
    let at = (20..70).find(|&at| text.find(&text[at..at + 2]) == Some(at)).unwrap();
    let stop = &text[at..at + 2];
    for stop in [json!(stop), json!([stop]), json!(["zzz", "", stop, "yyy"])] {
        let answer = bench.asked(request(stop.clone()));
        let choice = &answer["choices"][0];
        assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!(text[..at]), &json!("stop")));
        assert_eq!(answer["usage"]["completion_tokens"], at + 2, "what was drawn");
        let events = bench.events(request(stop));
        assert_eq!(joined(&events, 0), (text[..at].to_owned(), Vec::new(), Some("stop".to_owned())));
    }
}

#[test]
fn a_model_with_ends_of_texts_ends_there() {
    // Byte 256 ends a text, and is given where a begin-of-text token is.
    let letters = [(97, 0.0), (98, 0.0), (256, -1.0)];
    for settings in [&["data_kind=\"conversations\""][..], &["bos_token=\"a\""]] {
        let bench = Bench::of(of_logits(&letters, settings));
        let ends: Vec<_> = (0..20)
            .map(|seed| {
                let answer = bench.asked(json!({"prompt": "b", "max_tokens": 30, "seed": seed, "logprobs": 0}));
                let mut same = bench.model().generate("b").until_end_of_text().max_tokens(30).seed(seed);
                let choice = &answer["choices"][0];
                assert_eq!(choice["text"], same.text().unwrap());
                let tokens = choice["logprobs"]["tokens"].as_array().unwrap();
                let drawn = answer["usage"]["completion_tokens"].as_u64().unwrap();
                assert_eq!(tokens.len() as u64, drawn, "the token that ends the text is listed");
                let ended = same.finish() == Some(Finish::EndOfText);
                assert_eq!((tokens.last().unwrap() == "", &choice["finish_reason"] == "stop"), (ended, ended));
                ended
            })
            .collect();
        assert!(ends.contains(&true));
    }
}

#[test]
fn the_prompt_is_shown_where_that_is_asked() {
    let bench = letters();
    let request = json!({"prompt": ["abc", [3, 4]], "max_tokens": 5, "seed": 2, "echo": true});
    let answer = bench.asked(request.clone());
    let plain = bench.asked(json!({"prompt": ["abc", [3, 4]], "max_tokens": 5, "seed": 2}));
    let events = bench.events(request);
    for (i, prompt) in ["abc", &bench.model().tokenizer().decode(&[3, 4])].into_iter().enumerate() {
        let want = format!("{prompt}{}", plain["choices"][i]["text"].as_str().unwrap());
        assert_eq!(answer["choices"][i]["text"], want);
        assert_eq!(joined(&events, i).0, want);
    }
    assert_eq!(answer["usage"], plain["usage"]);
    let nothing = bench.asked(json!({"prompt": "abc", "max_tokens": 0, "echo": true}));
    assert_eq!(nothing["choices"][0], json!({"index": 0, "text": "abc", "logprobs": null, "finish_reason": "length"}));
    assert_eq!(nothing["usage"], json!({"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3}));
    assert_eq!(bench.asked(json!({"prompt": "abc", "max_tokens": 0}))["choices"][0]["text"], "");
}

#[test]
fn a_full_engine_refuses_and_one_that_closes_says_so() {
    let options = Options { parallel: 1, queue: 1, ..Options::default() };
    let bench = Bench { engine: Engine::start(options).unwrap(), ..letters() };
    let long = |tokens| json!({"prompt": "a", "max_tokens": tokens, "stream": true});
    let first = bench.order(long(60_000)).unwrap().start(&bench.engine).unwrap();
    let second = bench.order(long(60_000)).unwrap().start(&bench.engine).unwrap();
    let full = bench.ask(json!({"prompt": "a"})).unwrap_err();
    assert_eq!((full.status, full.code, full.retry_after), (429, Some("server_busy"), Some(1)));
    drop(second);
    // A list goes through a narrow place one after the other.
    while bench.engine.figures().waiting > 0 {
        std::thread::yield_now();
    }
    drop(first);
    let list = bench.asked(json!({"prompt": vec!["a"; 20], "max_tokens": 3, "n": 2}));
    assert_eq!(list["choices"].as_array().unwrap().len(), 40);

    let stream = bench.order(long(60_000)).unwrap().start(&bench.engine).unwrap();
    bench.engine.close(std::time::Duration::ZERO);
    let (_, failure) = events(stream);
    let failure = failure.unwrap();
    assert_eq!((failure.status, failure.code, failure.kind), (503, Some("server_closing"), "server_error"));
    assert_eq!(bench.refusal(json!({"prompt": "a"})).0, 503);
}

#[test]
fn an_answer_that_is_not_streamed_is_bounded() {
    let bench = letters();
    let long = json!({"prompt": "a", "max_tokens": 60_000, "n": 9});
    assert_eq!(bench.refusal(long.clone()), (400, "too_long", String::new()));
    assert!(bench.ask(long.clone()).unwrap_err().message.contains("540000 figures"));
    let rich = json!({"prompt": "a", "max_tokens": 30_000, "logprobs": 20});
    assert_eq!(bench.refusal(rich.clone()).1, "too_long");
    for mut request in [long, rich] {
        request["stream"] = json!(true);
        assert!(matches!(bench.order(request).unwrap().start(&bench.engine), Ok(Answer::Stream(_))));
    }
    // The tokens of a prompt are sent at once even in a stream.
    let echo =
        json!({"prompt": "a".repeat(5000), "max_tokens": 0, "echo": true, "logprobs": 20, "n": 5, "stream": true});
    let failure = bench.order(echo).unwrap().start(&bench.engine).err().unwrap();
    assert_eq!((failure.status, failure.code), (400, Some("too_long")));
    // An answer in a conversation is no longer than the context, whatever may be asked for.
    let chat = json!({"messages": [{"role": "user", "content": "a"}], "n": 16, "max_tokens": 65_536, "logprobs": true, "top_logprobs": 20});
    assert_eq!(chats().asked(chat)["choices"].as_array().unwrap().len(), 16);
}

#[test]
fn what_was_written_is_kept_when_others_take_the_places() {
    let engine = Engine::start(Options { parallel: 1, queue: 1, ..Options::default() }).unwrap();
    let bench = Bench { engine, ..letters() };
    let long =
        || bench.order(json!({"prompt": "a", "max_tokens": 60_000, "stream": true})).unwrap().start(&bench.engine);
    let first = long().unwrap();
    let list = json!({"prompt": ["a", "b"], "max_tokens": 3, "seed": 1});
    let Answer::Pending(mut work) = bench.order(list.clone()).unwrap().start(&bench.engine).unwrap() else { panic!() };
    // The first of the list is written, and its place goes to another before anyone looks.
    drop(first);
    while bench.engine.figures().open() > 0 {
        std::thread::yield_now();
    }
    let others = [long().unwrap(), long().unwrap()];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let answer = runtime.block_on(async {
        let pending = poll_fn(|cx| std::task::Poll::Ready(work.poll(cx).is_pending())).await;
        assert!(pending && !work.is_done(), "it waits for a place");
        drop(others);
        poll_fn(|cx| work.poll(cx)).await;
        work.whole().unwrap()
    });
    assert_eq!(answer["choices"], bench.asked(list)["choices"]);
}

#[test]
fn a_prompt_that_is_too_long_to_be_seen_is_said_to_be() {
    let bench = letters();
    let notes = |prompt: Value, max_tokens: usize| {
        bench.asked(json!({"prompt": prompt, "max_tokens": max_tokens}))["kinglet"]["notes"].clone()
    };
    let text = |n| "a".repeat(n);
    assert_eq!(notes(json!(text(32)), 1), json!([]));
    let one = "the model sees only 32 tokens: the beginning of the prompt was left out, 8 tokens";
    assert_eq!(notes(json!(text(40)), 1), json!([one]));
    let some = "the model sees only 32 tokens: the beginning of 2 of 3 prompts was left out, 3 tokens";
    assert_eq!(notes(json!([text(33), text(5), text(34)]), 1), json!([some]));
    assert_eq!(notes(json!(text(40)), 0), json!([]), "nothing is written");
}
