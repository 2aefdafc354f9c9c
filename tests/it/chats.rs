//! Conversations that people have: from a file as other programs write it to a model that talks, with one command; what is
//! said of their length; and `kinglet chat` on a terminal.

use crate::common::cli::{Cli, SMALL};
use serde_json::{Value, json};
use std::{fs, io::Write, process::Stdio};

/// The run of these tests.
const OUT: &[&str] = &["--out", "run"];

/// Prompts and their answers.
fn pairs(n: usize) -> Vec<(String, String)> {
    (0..n).map(|i| (format!("what is {i}?"), format!("it is {i}"))).collect()
}

/// Files of each kind with the same conversations.
fn write_chats(cli: &Cli) -> [&'static str; 4] {
    let write = |name: &str, text: String| fs::write(cli.path(name), text).unwrap();
    let share = |(a, b): (String, String)| {
        json!({"conversations": [{"from": "human", "value": a}, {"from": "gpt", "value": b}]}).to_string() + "\n"
    };
    write("sharegpt.jsonl", pairs(40).into_iter().map(share).collect());
    let alpaca = pairs(40).into_iter().map(|(a, b)| json!({"instruction": a, "input": "", "output": b}));
    write("alpaca.json", alpaca.collect::<Value>().to_string());
    let node = |role: &str, text: &str, parent: &str| {
        let content = json!({"content_type": "text", "parts": [text]});
        json!({"message": {"author": {"role": role}, "content": content, "recipient": "all"}, "parent": parent})
    };
    let export = pairs(40).into_iter().map(|(a, b)| {
        let root = json!({"message": null, "parent": null});
        let mapping = json!({"r": root, "a": node("user", &a, "r"), "x": node("assistant", "no", "a"), "b": node("assistant", &b, "a")});
        json!({"title": a, "mapping": mapping, "current_node": "b"})
    });
    write("conversations.json", export.collect::<Value>().to_string());
    write(
        "questions.csv",
        pairs(40).iter().fold("question,answer\n".to_owned(), |all, (a, b)| all + &format!("{a},{b}\n")),
    );
    ["sharegpt.jsonl", "alpaca.json", "conversations.json", "questions.csv"]
}

/// What a command that must succeed says on standard error.
#[track_caller]
fn said(cli: &Cli, args: &[&str]) -> String {
    let output = cli.run(args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{args:?}: {said}");
    said
}

/// Standard output and standard error of `kinglet chat run` with these lines as its input.
fn chat(cli: &Cli, args: &[&str], lines: &str) -> (String, String) {
    let mut command = cli.command(&[&["chat", "run"], args].concat());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{errors}");
    (String::from_utf8(output.stdout).unwrap(), errors)
}

#[test]
fn one_command_makes_a_model_that_talks_of_each_kind_of_file() {
    let cli = Cli::new();
    let mut losses = Vec::new();
    for name in write_chats(&cli) {
        let notes = said(&cli, &[&["train", name], OUT, SMALL].concat());
        assert!(notes.contains("note: these are conversations, so the preset is chat instead of big-0.2m"), "{notes}");
        assert_eq!(notes.contains("40 messages on abandoned branches"), name == "conversations.json", "{notes}");
        let about: Value = serde_json::from_str(&cli.ok(&["info", "run", "--json"])).unwrap();
        let config = about["config"].to_string();
        assert!(config.contains("256") && config.contains("bpe:"), "{config}");
        let measured: Value = serde_json::from_str(&cli.ok(&["eval", "run", "--json"])).unwrap();
        losses.push(measured["loss"].as_f64().unwrap());
        let (answers, _) = chat(&cli, &["--tokens", "5"], "what is 3?\n\nwhat is 4?\n");
        assert_eq!(answers.lines().count(), 2, "{answers}");
        fs::remove_dir_all(cli.path("run")).unwrap();
    }
    assert!(losses.windows(2).all(|pair| pair[0] == pair[1]), "the same conversations: {losses:?}");
    // A text, or a preset that is named, is as before.
    fs::write(cli.path("text.txt"), "Once upon a time. ".repeat(100)).unwrap();
    for args in [&["text.txt"][..], &["alpaca.json", "--preset", "big-0.2m"]] {
        let notes = said(&cli, &[&["plan", "--seconds", "0"], args].concat());
        assert!(!notes.contains("so the preset is"), "{notes}");
    }
}

#[test]
fn how_many_conversations_fit_is_said_beforehand() {
    let cli = Cli::new();
    let line = |n: usize| json!({"prompt": "a".repeat(n), "response": "b"}).to_string() + "\n";
    // Of n + 3 tokens each: the letters, a line end, the answer and its end.
    let lines: String = (0..100).map(|i| line(if i % 10 == 9 { 397 } else { 47 })).collect();
    fs::write(cli.path("chats.jsonl"), lines).unwrap();
    let bytes = ["chats.jsonl", "--tokenizer", "byte"];
    let stats = cli.ok(&[&["data", "stats"], &bytes[..]].concat());
    for row in [
        "messages                             200  assistant 100, user 100",
        "tokens of the median conversation     50",
        "tokens of the longest conversation   400",
        "fit into block_size = 64              90  90.0 %",
        "fit into block_size = 512            100  100.0 %",
        "The smallest block_size that holds 99 % of them: 416",
    ] {
        assert!(stats.contains(row), "{row}\n{stats}");
    }
    let stats: Value = serde_json::from_str(&cli.ok(&[&["data", "stats", "--json"], &bytes[..]].concat())).unwrap();
    let chats = &stats["conversations"];
    assert_eq!((&chats["conversations"], &chats["block_size"]), (&json!(100), &json!(416)));
    assert_eq!(chats["fits"][0], json!({"block_size": 64, "conversations": 90, "share": 0.9}));
    let note = "10 of 100 conversations are longer than block_size + 1 = 257 tokens (the longest has 400) and are skipped; --set \
                block_size=416 holds 99 % of them";
    for args in
        [&["plan", "--seconds", "0"][..], &["train", "--out", "run", "--set", "max_iters=1", "--set", "eval_iters=1"]]
    {
        let notes = said(&cli, &[args, &bytes[..]].concat());
        assert!(notes.contains(note), "{notes}");
    }
    let notes = said(&cli, &[&["plan", "--seconds", "0", "--set", "block_size=416"], &bytes[..]].concat());
    assert!(!notes.contains("longer than"), "{notes}");
    // A fine-tuning cannot change it, and says what can be done.
    let base =
        ["train", "--out", "base model", "--set", "max_iters=1", "--set", "eval_iters=1", "--set", "block_size=128"];
    cli.ok(&[&base[..], &["--tokenizer", "byte"]].concat());
    let notes = said(&cli, &["finetune", "base model", "chats.jsonl", "--out", "tuned", "--set", "max_iters=1"]);
    assert!(notes.contains("a block_size of 416 would hold 99 % of them"), "{notes}");
    let commands = "kinglet train builtin --preset chat --set block_size=416 --out 'base model-416' && kinglet finetune 'base \
                    model-416' chats.jsonl";
    assert!(notes.contains("base model has 128. ") && notes.contains(commands), "{notes}");
    let larger = ["finetune", "base model", "chats.jsonl", "--out", "x", "--set", "block_size=416"];
    cli.fails(&larger, 2, "block_size cannot change: base model has 128; train a run with a larger block_size");
}

#[test]
fn a_model_of_single_exchanges_is_known_as_such() {
    let cli = Cli::new();
    let name = write_chats(&cli)[1];
    let train = |data: &str| cli.ok(&[&["train", data], OUT, SMALL].concat());
    train(name);
    let told = "this model was trained on single exchanges (one message, one answer)";
    let (_, notes) = chat(&cli, &["--tokens", "3"], "a\n\nb\n");
    assert!(!notes.contains(told), "{notes}");
    let (_, notes) = chat(&cli, &["--tokens", "3"], "a\nb\nc\n");
    assert_eq!(notes.matches(told).count(), 1, "{notes}");
    let (answers, _) = chat(&cli, &["--tokens", "3", "--json"], "a\nb\n");
    let last: Value = serde_json::from_str(answers.lines().last().unwrap()).unwrap();
    assert!(last["notes"].to_string().contains(told), "{last}");
    let (_, notes) = chat(&cli, &["--tokens", "3", "--single"], "a\nb\n");
    assert!(!notes.contains(told), "{notes}");
    // One conversation of two exchanges, and the model is not of single ones.
    fs::remove_dir_all(cli.path("run")).unwrap();
    let longer = r#"{"history": [["a", "b"]], "instruction": "c", "output": "d"}"#;
    let lines = format!("{longer}\n{}", "{\"instruction\": \"a\", \"output\": \"b\"}\n".repeat(30));
    fs::write(cli.path("longer.jsonl"), lines).unwrap();
    train("longer.jsonl");
    let (_, notes) = chat(&cli, &["--tokens", "3"], "a\nb\n");
    assert!(!notes.contains(told), "{notes}");
}

#[test]
fn a_model_of_text_says_what_it_is_good_for() {
    let cli = Cli::new();
    // Characters alone: nothing could end an answer.
    cli.ok(&[&["train"], OUT, SMALL].concat());
    let advice = "To continue a text: kinglet sample run. To teach it to answer, fine-tune it on your own conversations: \
                  kinglet finetune run chats.jsonl";
    cli.fails(&["chat", "run"], 1, advice);
    fs::remove_dir_all(cli.path("run")).unwrap();
    cli.ok(&[&["train", "--tokenizer", "byte"], OUT, SMALL].concat());
    let (_, notes) = chat(&cli, &["--tokens", "3"], "Hi\n");
    assert!(notes.contains(advice), "{notes}");
}

#[test]
fn ids_are_decoded() {
    let cli = Cli::new();
    assert_eq!(cli.ok(&["data", "decode", "byte", "72", "105,33"]), "Hi!\n");
    assert_eq!(cli.ok(&["data", "decode", "byte", "72", "--json"]), "{\"ids\":[72],\"text\":\"H\"}\n");
    let encoded = cli.ok(&["data", "encode", "byte", "Hé", "--json"]);
    let mut command = cli.command(&["data", "decode", "byte"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{encoded}72 105\n").as_bytes()).unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, "Hé\nHi\n".as_bytes());
}

#[cfg(target_os = "linux")]
mod terminal {
    use super::*;
    use std::{
        io::Read,
        process::{Child, Command},
        sync::{Arc, Mutex},
        thread,
        time::{Duration, Instant},
    };

    /// The program on a terminal of its own, which `script` makes.
    struct Terminal {
        child: Child,
        shown: Arc<Mutex<String>>,
        seen: usize,
    }

    impl Terminal {
        fn chat(cli: &Cli, args: &str) -> Terminal {
            // `exec`: a shell that stays would get the Ctrl-C too, and `sh` then ends as if it were interrupted itself.
            let command = format!("exec '{}' chat run {args}", env!("CARGO_BIN_EXE_kinglet"));
            let mut child = Command::new("script")
                .args(["-qec", &command, "/dev/null"])
                .current_dir(cli.temp.path())
                .env("HOME", cli.temp.path())
                .env("TERM", "xterm")
                .env_remove("XDG_DATA_HOME")
                .env_remove("KINGLET_NO_HISTORY")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let (mut output, shown) = (child.stdout.take().unwrap(), Arc::new(Mutex::new(String::new())));
            let all = shown.clone();
            thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(n @ 1..) = output.read(&mut bytes) {
                    all.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..n]));
                }
            });
            let mut terminal = Terminal { child, shown, seen: 0 };
            terminal.sees("run> ");
            terminal
        }

        /// Waits until this is shown, behind what was seen before.
        #[track_caller]
        fn sees(&mut self, text: &str) {
            let clock = Instant::now();
            loop {
                let shown = self.shown.lock().unwrap().clone();
                if let Some(at) = shown[self.seen..].find(text) {
                    self.seen += at + text.len();
                    return;
                }
                assert!(clock.elapsed().as_secs() < 60, "no {text:?} in {:?}", &shown[self.seen..]);
                thread::sleep(Duration::from_millis(10));
            }
        }

        fn types(&mut self, keys: &str) {
            self.child.stdin.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
        }

        /// Types a line, and waits for this and for the next prompt.
        #[track_caller]
        fn asks(&mut self, line: &str, answer: &str) {
            self.types(&format!("{line}\r"));
            self.sees(answer);
            self.sees("run> ");
        }

        #[track_caller]
        fn ends(mut self, keys: &str) {
            self.types(keys);
            // `wait` closes standard input. `script` then types an end of file of its own, and may hang up.
            let stdin = self.child.stdin.take();
            let status = self.child.wait().unwrap();
            drop(stdin);
            let shown = self.shown.lock().unwrap().clone();
            assert!(status.success(), "{status} after {:?}", &shown[self.seen..]);
        }
    }

    /// A run that answers "aaaa" without end to whatever it is told.
    fn endless() -> Cli {
        let cli = Cli::new();
        let line = json!({"prompt": "q", "response": "a".repeat(200)}).to_string() + "\n";
        fs::write(cli.path("chats.jsonl"), line.repeat(40)).unwrap();
        let settings = ["block_size=16384", "batch_size=2", "eval_iters=1", "max_iters=60", "n_layer=1", "n_embd=16"];
        let settings = settings.iter().flat_map(|setting| ["--set", setting]);
        let args = ["train", "chats.jsonl", "--out", "run", "--tokenizer", "byte"];
        cli.ok(&args.into_iter().chain(settings).collect::<Vec<_>>());
        cli
    }

    #[test]
    fn a_person_talks_edits_and_leaves() {
        let cli = endless();
        let mut terminal = Terminal::chat(&cli, "-n 5 --temperature 0");
        let shown = terminal.shown.lock().unwrap().clone();
        let first = "Type a message and press Enter. An empty line starts a new conversation. Ctrl-D quits.";
        assert!(shown.contains(first), "{shown}");
        // A letter is forgotten, and put in with the arrow keys.
        terminal.asks("hllo\x1b[D\x1b[D\x1b[De", "aaaaa");
        terminal.asks("/help", "/system TEXT");
        terminal.asks("", "(new conversation)");
        terminal.asks("/retry", "there is no message to answer again");
        terminal.asks(
            "/nope",
            "unknown command /nope: /help lists the commands; to send this as a message, \
             type //nope",
        );
        terminal.asks("//nope", "aaaaa");
        terminal.asks("/set tokens 3", "seed 1337, tokens 3");
        terminal.asks("/retry", "cut off after 3 tokens");
        terminal.asks("/system Be brief.", "the system message is set");
        terminal.types("\"\"\"two\r");
        terminal.sees("... ");
        terminal.asks("lines\"\"\"", "aaa");
        // The arrow up shows the line before.
        terminal.asks("/set seed 7", "seed 7");
        terminal.asks("\x1b[A", "seed 7");
        terminal.ends("\x04");
        let history = fs::read_to_string(cli.path(".local/share/kinglet/chat-history")).unwrap();
        assert!(history.contains("hello") && history.contains("two\\nlines"), "{history}");
        // The next time it is there, unless it is not wanted.
        let mut terminal = Terminal::chat(&cli, "");
        terminal.asks("\x1b[A", "seed 7");
        terminal.ends("/quit\r");
        fs::remove_file(cli.path(".local/share/kinglet/chat-history")).unwrap();
        let mut terminal = Terminal::chat(&cli, "--no-history -n 2");
        terminal.asks("secret", "aa");
        terminal.ends("\x04");
        assert!(!cli.path(".local/share/kinglet/chat-history").exists());
    }

    #[test]
    fn ctrl_c_stops_an_answer_and_not_the_program() {
        let cli = endless();
        let mut terminal = Terminal::chat(&cli, "-n 16000 --temperature 0 --no-history");
        terminal.types("go on\r");
        terminal.sees("aaaaaaaaaa");
        terminal.types("\x03");
        terminal.sees("note: the answer was stopped");
        terminal.sees("run> ");
        // At the prompt it gives up the line.
        terminal.types("half a line\x03");
        terminal.sees("Ctrl-D quits.");
        terminal.sees("run> ");
        terminal.asks("/set tokens 2", "tokens 2");
        terminal.asks("more", "cut off after 2 tokens");
        terminal.ends("\x04");
    }
}
