//! Conversations from end to end: what a model learned to put behind an answer ends it, in `eval`, `chat`, the library and
//! the sample alike, and all of the context is used.

use crate::common::{cli::Cli, runs::of_logits};
use kinglet::{
    Model,
    config::Config,
    data::{Survey, TokenizerChoice, read},
    inference::{Finish, Part},
    text::{chat::Message, source::Corpus, tokenizer::Tokenizer},
};
use serde_json::{Value, json};
use std::{fs, io::Write, process::Stdio};

const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
     {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
/// No special token, and nothing but an empty line behind an answer.
const LINES: &str = "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }}\nA:{% else %} {{ m.content }}\n\n{% endif %}{% endfor %}";

const COLOURS: [&str; 6] = ["red", "blue", "green", "black", "white", "grey"];

/// A tokenizer of bytes, and the special tokens of ChatML besides.
fn chatml_tokenizer() -> String {
    let mut file: Value = serde_json::from_str(Tokenizer::byte().to_json()).unwrap();
    for (name, id) in [("<|im_start|>", 257), ("<|im_end|>", 258)] {
        let mut token = file["added_tokens"][0].clone();
        (token["id"], token["content"]) = (json!(id), json!(name));
        file["added_tokens"].as_array_mut().unwrap().push(token);
        file["model"]["vocab"][name] = json!(id);
    }
    file.to_string()
}

fn first_message(colour: &str) -> String {
    format!("my colour is {colour}; keep it")
}

/// A run in the folder `run` that learned conversations whose last answer is in the first message.
fn trained(template: &str, tokenizer: &str) -> Cli {
    let cli = Cli::new();
    fs::write(cli.path("chatml.json"), chatml_tokenizer()).unwrap();
    let talk = |i: usize| {
        let colour = COLOURS[i * 7 % COLOURS.len()];
        let said = [
            ("user", first_message(colour).as_str()),
            ("assistant", "ok"),
            ("user", "what is it?"),
            ("assistant", colour),
        ]
        .map(|(role, content)| json!({"role": role, "content": content}));
        json!({"messages": said}).to_string() + "\n"
    };
    fs::write(cli.path("talks.jsonl"), (0..240).map(talk).collect::<String>()).unwrap();
    let template = format!("chat_template={template}");
    let settings = [
        "block_size=96",
        "n_layer=2",
        "n_embd=32",
        "n_head=2",
        "batch_size=8",
        "max_iters=400",
        "eval_interval=200",
        "eval_iters=2",
        "learning_rate=1e-2",
        "vocab_size=264",
        &template,
    ];
    let settings = settings.iter().flat_map(|setting| ["--set", setting]);
    let args = ["train", "talks.jsonl", "--preset", "big-0.2m", "--out", "run", "--tokenizer", tokenizer];
    cli.ok(&args.into_iter().chain(settings).collect::<Vec<_>>());
    cli
}

/// Answers of `kinglet chat`, and what it says besides.
fn ask(cli: &Cli, args: &[&str], lines: &str) -> (String, String) {
    let mut child = cli
        .command(&[&["chat", "run", "--temperature", "0"], args].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{errors}");
    (String::from_utf8(output.stdout).unwrap(), errors)
}

/// Every answer ends by itself, and `eval`, `chat` and the sample say the same.
fn answers_end_by_themselves(template: &str, tokenizer: &str) {
    let cli = trained(template, tokenizer);
    let measured: Value = serde_json::from_str(&cli.ok(&["eval", "run", "--json"])).unwrap();
    assert_eq!((&measured["answers"]["exact"], &measured["answers"]["of"]), (&json!(48), &json!(48)), "{measured}");
    for colour in COLOURS {
        let lines = format!("{}\nwhat is it?\n", first_message(colour));
        let (answers, notes) = ask(&cli, &[], &lines);
        // Which checkpoint it is, and nothing else.
        assert!(notes.starts_with("note: run: step ") && notes.lines().count() == 1, "{notes}");
        assert_eq!(answers, format!("ok\n{colour}\n"));
        let (answers, _) = ask(&cli, &["--json"], &lines);
        for line in answers.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!(
                (&line["finish"], &line["step"], &line["notes"]),
                (&json!("end"), &json!(400), &json!([])),
                "{line}"
            );
        }
    }
    // A stop string ends an answer before that.
    let (answers, _) = ask(&cli, &["--json", "--stop", "zz", "--stop", "k"], &first_message("red"));
    let answer: Value = serde_json::from_str(&answers).unwrap();
    assert_eq!((&answer["response"], &answer["finish"]), (&json!("o"), &json!("stop")));
    let (answers, notes) = ask(&cli, &["--tokens", "1"], &first_message("red"));
    assert!(["o\n", "\n"].contains(&answers.as_str()), "a letter, or the template's blank before it: {answers}");
    assert!(notes.contains("the answer was cut off after 1 token; --tokens raises the limit"), "{notes}");
    // The sample at the end of training: prompts, and answers without what is behind them.
    let sample = fs::read_to_string(cli.path("run/sample.txt")).unwrap();
    assert_eq!(sample.matches("keep it").count(), 5, "{sample}");
    assert!(
        sample.lines().filter(|line| line.ends_with("ok")).count() == 5 && !sample.contains("ok<|im_end|>"),
        "{sample}"
    );
    // More than fits: the oldest exchange goes, and it is said which.
    let lines = format!("{}\nwhat is it?\n{}\nwhat is it?\n", first_message("red"), first_message("blue"));
    let (answers, notes) = ask(&cli, &[], &lines);
    assert!(answers.starts_with("ok\nred\n"), "{answers}");
    assert!(
        notes.contains("earlier messages are forgotten: the first begins \"my colour is red; keep it\""),
        "{notes}"
    );
    // JSON has it too.
    let json_of = |args: &[&str], lines: &str| -> Value {
        let (answers, _) = ask(&cli, &[&["--json"], args].concat(), lines);
        serde_json::from_str(answers.lines().last().unwrap()).unwrap()
    };
    let last = json_of(&[], &lines);
    assert!(last["notes"][0].as_str().unwrap().contains("earlier messages are forgotten"), "{last}");
    let cut = json_of(&["--tokens", "1"], &first_message("red"));
    assert_eq!((&cut["finish"], &cut["tokens"]), (&json!("length"), &json!(1)));
    assert_eq!(cut["notes"], json!(["the answer was cut off after 1 token; --tokens raises the limit"]));
    // The library says the same, and how it ended.
    let model = Model::open(cli.path("run")).unwrap();
    let messages = [Message::new("user", &first_message("green"))];
    let mut answer = model.answer(&messages).unwrap().temperature(0.0);
    assert_eq!((answer.text().unwrap().as_str(), answer.finish()), ("ok", Some(Finish::EndOfText)));
}

#[test]
fn a_special_token_of_the_template_ends_an_answer() {
    answers_end_by_themselves(CHATML, "chatml.json");
}

#[test]
fn a_text_of_the_template_ends_an_answer() {
    answers_end_by_themselves(LINES, "byte");
}

#[test]
fn a_template_that_ends_no_answer_is_warned_about() {
    let cli = Cli::new();
    fs::write(cli.path("talks.jsonl"), "{\"prompt\": \"a\", \"response\": \"b\"}\n".repeat(40)).unwrap();
    let args = ["train", "talks.jsonl", "--out", "run", "--set", "max_iters=1", "--set", "eval_iters=1", "--set"];
    let output = cli.run(&[&args[..], &["chat_template={% for m in messages %}{{ m.content }} {% endfor %}"]].concat());
    let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success() && !told.contains("chat_template adds nothing"), "a blank is something: {told}");
    let template = "chat_template={% for m in messages %}{{ m.role[0] }}{{ m.content }}{% endfor %}";
    let args =
        ["train", "talks.jsonl", "--out", "other", "--set", "max_iters=1", "--set", "eval_iters=1", "--set", template];
    let output = cli.run(&args);
    let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(told.contains("chat_template adds nothing learnable after 40 of 40 answers"), "{told}");
}

#[test]
fn an_answer_ends_where_the_context_is_full() {
    let model = of_logits(&[(97, 0.0)], &[]);
    for length in 1..15 {
        // The message and its line end; 16 tokens are seen, and one more drawn from what they are.
        let mut answer = model.answer(&[Message::new("user", &"u".repeat(length))]).unwrap();
        assert_eq!((answer.text().unwrap().len(), answer.finish()), (16 - length, Some(Finish::Context)));
    }
    assert!(model.answer(&[Message::new("user", &"u".repeat(15))]).is_err());
    let mut short = model.answer(&[Message::new("user", "u")]).unwrap().max_tokens(3);
    assert_eq!((short.text().unwrap().as_str(), short.finish()), ("aaa", Some(Finish::Length)));
    // A text that is no answer goes on.
    let mut text = model.generate("u").max_tokens(50);
    assert_eq!((text.text().unwrap().len(), text.finish()), (50, Some(Finish::Length)));
}

#[test]
fn only_what_does_not_fit_is_forgotten() {
    let model = of_logits(&[(97, 0.0)], &[]);
    let talk = |texts: &[&str]| -> Vec<Message> {
        let role = |i: usize| if i.is_multiple_of(2) { "user" } else { "assistant" };
        texts.iter().enumerate().map(|(i, text)| Message::new(role(i), text)).collect()
    };
    // Messages of n letters are n + 1 tokens.
    let fit = |keep: Option<&str>, texts: &[&str]| {
        let system: Vec<_> = keep.iter().map(|text| Message::new("system", text)).collect();
        let mut messages = [system.clone(), talk(texts)].concat();
        let gone = model.fit(&mut messages, system.len()).unwrap();
        assert_eq!(
            [system, gone.clone(), messages[usize::from(keep.is_some())..].to_vec()].concat().len(),
            texts.len() + usize::from(keep.is_some())
        );
        gone.into_iter().map(|message| message.content).collect::<Vec<_>>()
    };
    assert!(fit(None, &["aaaa", "bbbb", "cccc"]).is_empty(), "15 tokens and one more");
    assert_eq!(fit(None, &["aaaa", "bbbb", "ccccc"]), ["aaaa", "bbbb"]);
    assert_eq!(fit(None, &["a", "b", "c", "d", "eeeeeeeee"]), ["a", "b"]);
    assert_eq!(fit(Some("s"), &["a", "b", "c", "d", "eeeeeeeee"]), ["a", "b", "c", "d"]);
    assert!(fit(Some("s"), &["eeeeeeeeeeeeeeeeeeeee"]).is_empty(), "the last one stays");
}

#[test]
fn ids_that_no_token_has_are_not_drawn() {
    // The tokenizer has 257 tokens; the model likes the rest best.
    let model = of_logits(&[(97, 0.0), (98, -1.0), (257, 30.0), (260, 30.0), (263, 30.0)], &[]);
    let letters = |text: String| text.chars().all(|c| "ab".contains(c));
    for i in 0..20 {
        assert!(letters(model.generate("x").max_tokens(40).index(i).text().unwrap()));
        assert!(letters(model.answer(&[Message::new("user", "x")]).unwrap().index(i).text().unwrap()));
    }
    assert_eq!(model.generate("x").max_tokens(3).temperature(0.0).text().unwrap(), "aaa");
}

/// Special tokens in messages count as what they are: text, in the vocabulary, in bytes and in characters.
#[test]
fn what_is_measured_is_the_text_that_is_learned() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name).display().to_string();
    fs::write(path("chatml.json"), chatml_tokenizer()).unwrap();
    let answer = "<|im_end|> \u{e9} <|endoftext|>";
    let talk = json!({"prompt": "q<|endoftext|>", "response": answer}).to_string() + "\n";
    fs::write(path("talks.jsonl"), talk.repeat(20)).unwrap();
    let chatml = path("chatml.json");
    for (tokenizer, template, ends, behind) in
        [("char", "", 1, 0), ("byte", "", 1, 0), (chatml.as_str(), CHATML, 1, 1), (chatml.as_str(), "", 1, 0)]
    {
        let settings = [format!("tokenizer={tokenizer}"), format!("chat_template={template}"), "block_size=128".into()];
        let mut config = Config::default().with(&settings.each_ref().map(String::as_str)).unwrap();
        config.data = vec![path("talks.jsonl")];
        let survey = Survey::of(&Corpus::open(&config).unwrap(), &config).unwrap();
        assert!("q<|endofxt>im_\u{e9}".chars().all(|c| survey.alphabet().any(|known| known == c)));
        let (known, data) = read(&config, TokenizerChoice::FromConfig).unwrap();
        let (chars, bytes) = (answer.chars().count() + behind, answer.len() + behind);
        let tokens = if tokenizer == "char" { chars } else { bytes } + ends;
        let per = data.train.tokens_per_byte_and_char();
        let want = (tokens as f64 / bytes as f64, tokens as f64 / chars as f64);
        assert!(
            (per.0 - want.0).abs() < 1e-12 && (per.1 - want.1).abs() < 1e-12,
            "{tokenizer}: {per:?}, want {want:?}"
        );
        let ids = data.train.first_ids(data.train.tokens()).unwrap();
        let special = known.special_tokens();
        let found = ids.iter().filter(|id| special.iter().any(|(_, special)| special == *id)).count();
        assert_eq!(found, 18 * if template.is_empty() { 1 } else { 4 }, "{tokenizer}: the template's");
    }
}

#[test]
fn exact_match_looks_at_what_is_generated() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("talks.jsonl").display().to_string();
    let talk = |answer: &str| json!({"prompt": "q", "response": answer}).to_string() + "\n";
    fs::write(&path, talk("").repeat(15) + &talk("x").repeat(5)).unwrap();
    // It ends every answer at once. What the template has behind the end it does not say, and ids without a token, which
    // it likes best, are not said either.
    let template = "chat_template={% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ end_of_text }}{% endif %}\n\
         {% endfor %}";
    let model = of_logits(&[(256, 5.0), (10, 4.0), (260, 9.0)], &[template]);
    let data = model.dataset(Some(&[path]), Part::All).unwrap();
    let answers = model.eval(data, Part::All, 1, |_, _| ()).unwrap().answers.unwrap();
    assert_eq!((answers.exact, answers.of), (15, 20));
    let mut answer = model.answer(&[Message::new("user", "q")]).unwrap().temperature(0.0);
    assert_eq!((answer.text().unwrap().as_str(), answer.finish()), ("", Some(Finish::EndOfText)));
}

#[test]
fn a_message_that_cannot_be_answered_does_not_end_a_conversation() {
    let cli = Cli::new();
    fs::write(cli.path("talks.jsonl"), "{\"prompt\": \"a\", \"response\": \"b\"}\n".repeat(40)).unwrap();
    let template = "chat_template={% for m in messages %}{{ raise_exception('no questions') if '?' in m.content else \
        m.content }}{{ eos_token if m.role == 'assistant' }}{% endfor %}";
    let args = ["train", "talks.jsonl", "--out", "run", "--tokenizer", "byte", "--set", "max_iters=1", "--set"];
    cli.ok(&[&args[..], &["eval_iters=1", "--set", template]].concat());
    let args = ["chat", "run", "--json", "--tokens", "3", "--single"];
    let mut child = cli.command(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"\xef\xbb\xbfa\r\nwhy?\n\xff\nb\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let said: Vec<Value> =
        output.stdout.split(|b| *b == b'\n').filter_map(|l| serde_json::from_slice(l).ok()).collect();
    let prompts: Vec<_> = said.iter().map(|line| line["prompt"].as_str()).collect();
    assert_eq!(prompts, [Some("a"), Some("why?"), None, Some("b")], "{said:?}");
    assert!(said[1]["error"].as_str().unwrap().contains("no questions"));
    assert_eq!(said[2]["error"], "this line is not UTF-8 text");
    assert!(said[0]["error"].is_null() && said[3]["error"].is_null());
}

#[test]
fn conversations_of_many_messages_take_no_longer_than_their_text() {
    let line = |turns: usize| {
        let turn = "{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}";
        format!("{{\"messages\": [{}]}}\n", vec![turn; turns].join(", "))
    };
    let lines = line(1).repeat(40) + &line(20_000);
    let corpus = Corpus::from_bytes("long.jsonl", lines.as_bytes());
    let config = Config::default().with(&["block_size=32"]).unwrap();
    let clock = std::time::Instant::now();
    let (_, data) = kinglet::data::read_corpus(&corpus, &config, TokenizerChoice::FromConfig).unwrap();
    assert!(data.notes.iter().any(|note| note.contains("(the longest has 40000 or more)")), "{:?}", data.notes);
    assert!(clock.elapsed().as_secs() < 20, "rendering each beginning of it would take minutes");
}
