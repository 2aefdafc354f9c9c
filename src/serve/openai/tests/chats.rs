//! Conversations.

use super::*;
use crate::text::chat::Message;

fn user(content: &str) -> Value {
    json!({"role": "user", "content": content})
}

#[test]
fn an_answer_is_the_one_that_the_library_writes() {
    let bench = chats();
    let request =
        json!({"messages": [{"role": "system", "content": "Be."}, user("Hi")], "seed": 9, "n": 2, "max_tokens": 12});
    let answer = bench.asked(request.clone());
    let events = bench.events(request);
    let messages = [Message::new("system", "Be."), Message::new("user", "Hi")];
    for index in 0..2 {
        let text = bench.model().answer(&messages).unwrap().max_tokens(12).seed(9).index(index as u64).text().unwrap();
        let choice = &answer["choices"][index];
        assert_eq!(choice["message"], json!({"role": "assistant", "content": text, "refusal": null}));
        assert_eq!((&choice["index"], &choice["logprobs"]), (&json!(index), &Value::Null));
        let (streamed, _, reason) = joined(&events, index);
        assert_eq!((streamed, json!(reason)), (text, choice["finish_reason"].clone()));
    }
    assert_eq!((&answer["object"], &answer["model"]), (&json!("chat.completion"), &json!("mine")));
    let prompt = bench.model().ids_of_messages(&messages).unwrap().len();
    assert_eq!(answer["usage"]["prompt_tokens"], prompt);
    let sum = prompt as u64 + answer["usage"]["completion_tokens"].as_u64().unwrap();
    assert_eq!(answer["usage"]["total_tokens"], sum);
}

#[test]
fn a_stream_begins_with_who_speaks_and_ends_with_why() {
    let bench = chats();
    let events = bench.events(
        json!({"messages": [user("Hi")], "seed": 1, "max_tokens": 5, "stream_options": {"include_usage": true}}),
    );
    assert!(events.iter().all(|event| event["id"] == events[0]["id"] && event["object"] == "chat.completion.chunk"));
    assert!(events[0]["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(
        events[0]["choices"],
        json!([{"index": 0, "delta": {"role": "assistant", "content": "", "refusal": null}, "logprobs": null, "finish_reason": null}])
    );
    let [middle @ .., last, usage] = &events[1..] else { panic!("{events:?}") };
    for event in middle {
        let choice = &event["choices"][0];
        assert!(choice["delta"]["content"].is_string() && choice["delta"].get("role").is_none());
        assert!(choice["finish_reason"].is_null());
    }
    assert_eq!(last["choices"], json!([{"index": 0, "delta": {}, "logprobs": null, "finish_reason": "length"}]));
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(5)));
    // Who speaks is said before anything is written.
    let order = bench.order(json!({"messages": [user("Hi")], "stream": true, "n": 2})).unwrap();
    let Answer::Stream(mut work) = order.start(&bench.engine).unwrap() else { panic!() };
    let first = work.events().unwrap();
    assert!(first.len() >= 2 && first[0]["choices"][0]["delta"]["role"] == "assistant");
}

#[test]
fn tokens_are_shown_in_the_newer_shape() {
    let bench = chats();
    let request = json!({"messages": [user("Hi")], "seed": 6, "max_tokens": 20, "logprobs": true, "top_logprobs": 3});
    let choice = bench.asked(request.clone())["choices"][0].clone();
    let content = choice["logprobs"]["content"].as_array().unwrap();
    let messages = [Message::new("user", "Hi")];
    let drawn: Vec<_> = bench
        .model()
        .answer(&messages)
        .unwrap()
        .max_tokens(20)
        .seed(6)
        .top(3)
        .flat_map(|piece| piece.unwrap().tokens)
        .collect();
    let ended = usize::from(choice["finish_reason"] == "stop");
    assert_eq!(content.len(), drawn.len() - ended, "the token that ends an answer is not part of it");
    for (entry, token) in content.iter().zip(&drawn) {
        assert_eq!((&entry["logprob"], &entry["bytes"]), (&json!(token.logprob), &json!([token.id])));
        let top: Vec<_> =
            entry["top_logprobs"].as_array().unwrap().iter().map(|top| top["logprob"].as_f64().unwrap()).collect();
        assert_eq!(top, token.top.iter().map(|(_, logprob)| *logprob).collect::<Vec<_>>());
    }
    let (_, shown, _) = joined(&bench.events(request), 0);
    assert_eq!(shown, *content);
    let none = bench.asked(json!({"messages": [user("Hi")], "max_tokens": 2, "logprobs": true}))["choices"][0].clone();
    assert_eq!(none["logprobs"]["content"][0]["top_logprobs"], json!([]));
    for (value, param) in [
        (json!({"logprobs": 1}), "logprobs"),
        (json!({"top_logprobs": 2}), "top_logprobs"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_completion_tokens": -1}), "max_completion_tokens"),
        (json!({"n": 0}), "n"),
        (json!({"tools": [{}]}), "tools"),
        (json!({"response_format": {"type": "json_object"}}), "response_format"),
    ] {
        let mut request = value;
        request["messages"] = json!([user("Hi")]);
        assert_eq!(bench.refusal(request).2, param);
    }
}

#[test]
fn the_newer_name_of_the_most_tokens_counts() {
    let bench = chats();
    let drawn = |more: Value| {
        let mut request = json!({"messages": [user("Hi")], "seed": 2, "logit_bias": {"256": -100}});
        request.as_object_mut().unwrap().extend(map(more));
        let answer = bench.asked(request);
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
        answer["usage"]["completion_tokens"].as_u64().unwrap() as usize
    };
    assert_eq!(drawn(json!({"max_tokens": 3})), 3);
    assert_eq!(drawn(json!({"max_completion_tokens": 4, "max_tokens": 3})), 4);
    let prompt = bench.model().ids_of_messages(&[Message::new("user", "Hi")]).unwrap().len();
    assert_eq!(drawn(json!({})), 64 - prompt + 1, "as many as there is room for: the last needs none");
}

#[test]
fn messages_may_have_parts_and_other_names() {
    let bench = chats();
    let text = |messages: Value| {
        bench.asked(json!({"messages": messages, "seed": 3, "max_tokens": 9}))["choices"][0]["message"].to_string()
    };
    let plain = text(json!([{"role": "system", "content": "ab"}, user("cd")]));
    let parts = json!([{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]);
    assert_eq!(
        text(json!([{"role": "developer", "content": "ab"}, {"role": "user", "content": parts, "tool_calls": []}])),
        plain
    );
    let named = bench.asked(json!({"messages": [{"role": "user", "content": "a", "name": "Ann"}], "max_tokens": 1}));
    assert_eq!(named["kinglet"]["notes"], json!(["the template knows no names of speakers: 1 of 1 messages have one"]));
}

#[test]
fn invalid_messages_are_refused() {
    let bench = chats();
    for (messages, code, param) in [
        (json!(null), "missing_required_parameter", "messages"),
        (json!("string"), "invalid_type", "messages"),
        (json!([]), "invalid_value", "messages"),
        (json!([123]), "invalid_type", "messages[0]"),
        (json!([{}]), "missing_required_parameter", "messages[0].role"),
        (json!([{"role": 123, "content": "a"}]), "invalid_type", "messages[0].role"),
        (json!([{"role": "user"}]), "missing_required_parameter", "messages[0].content"),
        (json!([{"role": "system", "content": 123}]), "invalid_type", "messages[0].content"),
        (json!([{"role": "system", "content": "test"}, {}]), "missing_required_parameter", "messages[1].role"),
        (json!([{"content": "hello"}]), "missing_required_parameter", "messages[0].role"),
        (json!([{"role": "wizard", "content": "a"}]), "invalid_value", "messages[0].role"),
        (json!([{"role": "tool", "content": "a"}]), "unsupported_parameter", "messages[0].role"),
        (
            json!([user("a"), {"role": "assistant", "tool_calls": [{}]}]),
            "unsupported_parameter",
            "messages[1].tool_calls",
        ),
        (
            json!([{"role": "user", "content": [{"type": "image_url"}]}]),
            "unsupported_parameter",
            "messages[0].content[0].type",
        ),
        (
            json!([{"role": "user", "content": [{"type": "text"}]}]),
            "missing_required_parameter",
            "messages[0].content[0].text",
        ),
        (json!([{"role": "user", "content": ["a"]}]), "invalid_type", "messages[0].content[0]"),
        (json!([{"role": "user", "content": "a", "name": 1}]), "invalid_type", "messages[0].name"),
    ] {
        assert_eq!(bench.refusal(json!({"messages": messages})), (400, code, param.to_owned()));
    }
}

#[test]
fn a_long_conversation_forgets_its_oldest_exchanges() {
    let bench = chats();
    let said = |role: &str, content: &str| json!({"role": role, "content": content});
    let mut messages = vec![said("system", "S")];
    for i in 0..9 {
        messages.extend([user(&format!("question {i}")), said("assistant", &format!("answer {i}"))]);
    }
    messages.push(user("last"));
    let answer = bench.asked(json!({"messages": messages, "seed": 4, "max_tokens": 3}));
    let notes = answer["kinglet"]["notes"].as_array().unwrap();
    let mut same: Vec<Message> =
        messages.iter().map(|m| Message::new(m["role"].as_str().unwrap(), m["content"].as_str().unwrap())).collect();
    let dropped = bench.model().fit(&mut same, 1).unwrap().len();
    assert!(dropped > 10 && same[0].content == "S");
    assert_eq!(
        notes[..],
        [json!(format!("the model sees only 64 tokens: the oldest messages were forgotten, {dropped} of them"))]
    );
    let want = bench.model().answer(&same).unwrap().max_tokens(3).seed(4).text().unwrap();
    assert_eq!(answer["choices"][0]["message"]["content"], want);
    assert_eq!(answer["usage"]["prompt_tokens"], bench.model().ids_of_messages(&same).unwrap().len());
    let long = json!({"messages": [user(&"a".repeat(64))]});
    assert_eq!(bench.refusal(long.clone()), (400, "context_length_exceeded", "messages".to_owned()));
    let message = |request| bench.ask(request).unwrap_err().message;
    assert!(message(long).starts_with("the message has "));
    // Who is to blame is who could be shorter.
    let system = json!({"messages": [{"role": "system", "content": "a".repeat(64)}, user("b")]});
    assert!(message(system.clone()).starts_with("the system message has "), "{}", message(system));
    let both = json!({"messages": [{"role": "system", "content": "a".repeat(64)}, user(&"b".repeat(64))]});
    assert!(message(both.clone()).starts_with("the message has "), "{}", message(both));
    // A message must have a role, and a part a type.
    for refused in [
        json!({"messages": [{"role": "tool", "content": "a"}]}),
        json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}]}),
    ] {
        let said = message(refused);
        assert!(said.contains("not supported by this server") && !said.contains("leave it out"), "{said}");
    }
}

#[test]
fn a_model_without_a_template_is_no_chat() {
    let message = json!({"messages": [{"role": "user", "content": "a"}]});
    let refused = (400, "model_has_no_chat_template", "model".to_owned());
    assert_eq!(letters().refusal(message.clone()), refused);
    // What an imported model learned is not known, but it has a template.
    let template = "chat_template=\"{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}\"";
    let imported = Bench::of(model(Tokenizer::byte(), &[template]));
    assert_eq!(imported.asked(json!({"messages": [user("a")], "max_tokens": 1}))["usage"]["completion_tokens"], 1);
    assert_eq!(Bench::of(model(Tokenizer::byte(), &[])).refusal(message), refused);
}

#[test]
fn unknown_characters_of_a_message_are_named() {
    let mut alphabet = ALPHABET.to_owned();
    alphabet.push_str(crate::text::tokenizer::END_OF_TEXT);
    let tokenizer = Tokenizer::from(crate::text::tokenizer::CharTokenizer::train(ALPHABET)).extended([], true);
    let bench = Bench::of(model(tokenizer, &["data_kind=\"conversations\""]));
    let failure = bench.ask(json!({"messages": [user("aX")]})).unwrap_err();
    assert_eq!(
        (failure.status, failure.code, failure.param.as_deref()),
        (400, Some("unknown_characters"), Some("messages"))
    );
    assert!(failure.message.contains('X'), "{}", failure.message);
}

#[test]
fn as_few_exchanges_are_forgotten_as_must_be() {
    let bench = chats();
    let model = bench.model();
    let fits = |messages: &[Message]| model.ids_of_messages(messages).unwrap().len() < model.config().block_size;
    for n in 1..40 {
        // Now and then a role speaks twice.
        let role = |i: usize| if i.is_multiple_of(2) || i.is_multiple_of(7) { "user" } else { "assistant" };
        let all: Vec<_> = (0..n).map(|i| Message::new(role(i), &"ab"[..i % 3])).collect();
        for keep in 0..n.min(2) {
            let (mut rest, mut want) = (all.clone(), all.clone());
            let gone = model.fit(&mut rest, keep).unwrap();
            // One exchange after the other.
            while want.len() > keep + 1 && !fits(&want) {
                let role = want[keep].role.clone();
                let more = want[keep + 1..want.len() - 1].iter().take_while(|message| message.role != role).count();
                want.drain(keep..=keep + more);
            }
            assert_eq!((&rest, gone.len()), (&want, n - want.len()), "{n} messages, of which {keep} are kept");
        }
    }
}
