//! What `--json` prints, held against `docs/reference/json-schema.json`: every printed key is described there, and
//! everything that is described there is printed by a command below. `docs/reference/json.md` is written from it.

use crate::common::{
    cli::{Cli, SMALL},
    needs,
};
use serde_json::{Value, json};
use std::{
    cell::RefCell,
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Write as _},
    path::Path,
    process::Stdio,
};

/// Settings of a fine-tuning that takes a moment.
const TEN: &str = "--set max_iters=20 --set eval_interval=10 --set eval_iters=2";

/// Settings with which the weights overflow.
const OVERFLOW: &str = "--set learning_rate=10 --set weight_decay=10 --set on_divergence=skip";

/// The part of JSON Schema (draft 2020-12) that the file uses. A complete implementation would be a hundred crates more.
struct Schema {
    root: Value,
    /// Pointers to the properties that a checked value had.
    seen: RefCell<BTreeSet<String>>,
}

type Checked = Result<BTreeSet<String>, String>;

impl Schema {
    fn open() -> Schema {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/json-schema.json");
        Schema { root: serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap(), seen: RefCell::default() }
    }

    /// Checks the lines that a command printed.
    #[track_caller]
    fn lines(&self, command: &str, printed: &str) {
        assert!(!printed.is_empty(), "{command} prints something");
        for line in printed.lines() {
            let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{command}: {error}: {line}"));
            let found = self.check(&format!("/$defs/{command}"), &value);
            let found = found.unwrap_or_else(|error| panic!("{command}: {error}\n{line}"));
            self.seen.borrow_mut().extend(found);
        }
    }

    /// Checks a value against the schema at a JSON pointer; returns the properties it has.
    fn check(&self, at: &str, value: &Value) -> Checked {
        let schema = self.root.pointer(at).ok_or_else(|| format!("no schema {at}"))?;
        let fail = |what: &str| Err(format!("{at}: {what}: {value}"));
        if let Some(to) = schema["$ref"].as_str() {
            return self.check(to.strip_prefix('#').ok_or("a reference into another file")?, value);
        }
        if let Some(any) = schema["anyOf"].as_array() {
            return self.any(at, any, value);
        }
        if schema.get("const").is_some_and(|only| only != value) {
            return fail("another constant");
        }
        if schema["enum"].as_array().is_some_and(|list| !list.contains(value)) {
            return fail("not in the list");
        }
        let types: Vec<_> = match &schema["type"] {
            Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
            one => one.as_str().into_iter().collect(),
        };
        if !types.is_empty() && !types.iter().any(|name| is(value, name)) {
            return fail(&format!("not of type {types:?}"));
        }
        let mut found = BTreeSet::new();
        if let Some(fields) = value.as_object() {
            for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                if !fields.contains_key(key) {
                    return fail(&format!("no {key}"));
                }
            }
            for (key, value) in fields {
                let below = format!("{at}/properties/{key}");
                if self.root.pointer(&below).is_some() {
                    found.extend(self.check(&below, value)?);
                    found.insert(below);
                } else if schema["additionalProperties"].is_object() {
                    found.extend(self.check(&format!("{at}/additionalProperties"), value)?);
                } else if schema["additionalProperties"] != json!(true) {
                    return Err(format!("{at}: the key {key} is not described"));
                }
            }
        }
        for value in value.as_array().into_iter().flatten() {
            if schema.get("items").is_some() {
                found.extend(self.check(&format!("{at}/items"), value)?);
            }
        }
        Ok(found)
    }

    /// One of several: of events, the one of that name, so that its error is the one that is shown.
    fn any(&self, at: &str, any: &[Value], value: &Value) -> Checked {
        let mut errors = Vec::new();
        for i in 0..any.len() {
            match self.check(&format!("{at}/anyOf/{i}"), value) {
                Ok(found) => return Ok(found),
                Err(error) => errors.push(error),
            }
        }
        let event = errors.iter().position(|error| !error.contains("/event: another constant"));
        Err(errors.swap_remove(event.unwrap_or(0)))
    }

    /// Pointers to all properties of all commands.
    fn described(&self) -> BTreeSet<String> {
        fn below(at: &str, schema: &Value, found: &mut BTreeSet<String>) {
            match schema {
                Value::Object(fields) => {
                    for (key, value) in fields {
                        let to = format!("{at}/{key}");
                        if at.ends_with("/properties") {
                            found.insert(to.clone());
                        }
                        below(&to, value, found);
                    }
                }
                Value::Array(all) => {
                    all.iter().enumerate().for_each(|(i, value)| below(&format!("{at}/{i}"), value, found));
                }
                _ => {}
            }
        }
        let mut found = BTreeSet::new();
        below("", &self.root, &mut found);
        found
    }
}

fn is(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        _ => panic!("no type {name}"),
    }
}

#[test]
fn the_checker_notices_what_is_wrong() {
    let root = json!({"$defs": {
        "a": {"anyOf": [{"$ref": "#/$defs/b"}, {"type": "null"}]},
        "b": {
            "type": "object",
            "required": ["event", "n"],
            "properties": {
                "event": {"const": "b"},
                "n": {"type": "integer"},
                "list": {"type": "array", "items": {"enum": ["x", "y"]}},
                "map": {"type": "object", "additionalProperties": {"type": "number"}},
            },
        },
    }});
    let schema = Schema { root, seen: RefCell::default() };
    let check = |value| schema.check("/$defs/a", &value).map(|found| found.len()).map_err(|_| ());
    assert_eq!(check(json!({"event": "b", "n": 1, "list": ["x"], "map": {"q": 1.5}})), Ok(4));
    assert_eq!(check(json!(null)), Ok(0));
    for wrong in [
        json!({"event": "b"}),
        json!({"event": "c", "n": 1}),
        json!({"event": "b", "n": 1.5}),
        json!({"event": "b", "n": 1, "more": 1}),
        json!({"event": "b", "n": 1, "list": ["z"]}),
        json!({"event": "b", "n": 1, "list": "x"}),
        json!({"event": "b", "n": 1, "map": {"q": "1"}}),
        json!([]),
    ] {
        assert_eq!(check(wrong.clone()), Err(()), "{wrong}");
    }
    let described: Vec<_> = schema.described().into_iter().collect();
    assert_eq!(described.len(), 4);
    assert!(described.contains(&"/$defs/b/properties/map".to_owned()));
}

/// The page `docs/reference/json.md`, written from the schema.
fn page(root: &Value) -> String {
    let mut text = format!("# {}\n\n{}\n", root["title"].as_str().unwrap(), root["description"].as_str().unwrap());
    for (name, schema) in root["$defs"].as_object().unwrap() {
        let title = schema["title"].as_str().unwrap_or(name);
        write!(text, "\n## {title}\n\n{}\n", schema["description"].as_str().unwrap_or_else(|| panic!("{name}")))
            .unwrap();
        match schema["anyOf"].as_array() {
            None if schema["$ref"].is_string() => writeln!(text, "\nSee {}.", kind(root, schema)).unwrap(),
            None => text += &table(root, schema),
            Some(lines) => {
                for line in lines {
                    if let Some(event) = line["properties"]["event"]["const"].as_str() {
                        write!(text, "\n**`\"event\": \"{event}\"`**: ").unwrap();
                    } else {
                        text += "\n";
                    }
                    match line["$ref"].as_str() {
                        Some(_) => writeln!(text, "The lines of {}.", kind(root, line)).unwrap(),
                        None => {
                            writeln!(text, "{}", line["description"].as_str().unwrap()).unwrap();
                            text += &table(root, line);
                        }
                    }
                }
            }
        }
    }
    text
}

/// The keys of an object, those of objects inside of it with a dot.
fn table(root: &Value, schema: &Value) -> String {
    let mut text = String::from("\n| key | type | meaning |\n|---|---|---|\n");
    rows(root, schema, "", &mut text);
    text
}

fn rows(root: &Value, schema: &Value, before: &str, text: &mut String) {
    let required = |key: &String| schema["required"].as_array().is_some_and(|all| all.contains(&json!(key)));
    for (key, value) in schema["properties"].as_object().into_iter().flatten() {
        if key == "event" {
            continue;
        }
        let optional = if required(key) { "" } else { ", optional" };
        let meaning = value["description"].as_str().unwrap_or_else(|| panic!("{before}{key} has no description"));
        writeln!(text, "| `{before}{key}` | {}{optional} | {meaning} |", kind(root, value)).unwrap();
        let inside = if value["items"].is_object() { &value["items"] } else { value };
        if inside["properties"].is_object() {
            rows(root, inside, &format!("{before}{key}."), text);
        }
    }
}

/// A type in words.
fn kind(root: &Value, schema: &Value) -> String {
    if let Some(to) = schema["$ref"].as_str() {
        return link(root, to);
    }
    if let Some(only) = schema.get("const") {
        return format!("`{only}`");
    }
    let or = |all: Vec<String>| all.join(" or ");
    if let Some(list) = schema["enum"].as_array() {
        return or(list.iter().map(|value| format!("`{value}`")).collect());
    }
    if let Some(any) = schema["anyOf"].as_array() {
        return or(any.iter().map(|schema| kind(root, schema)).collect());
    }
    let one = |name: &Value| match name.as_str().unwrap_or("any") {
        "array" if schema["items"].is_object() => format!("list: {}", kind(root, &schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("map to {}", kind(root, &schema["additionalProperties"]))
        }
        name => name.to_owned(),
    };
    match &schema["type"] {
        Value::Array(all) => or(all.iter().map(one).collect()),
        name => one(name),
    }
}

/// A link to the heading of a definition.
fn link(root: &Value, to: &str) -> String {
    let title = root.pointer(to.trim_start_matches('#')).and_then(|schema| schema["title"].as_str()).unwrap();
    format!("[{title}](#{})", title.replace(' ', "-"))
}

/// A run with a text, and another with conversations, in a folder; what each command prints there.
#[test]
fn what_is_printed_is_what_the_schema_says() {
    let (cli, schema) = (Cli::new(), Schema::open());
    let chat = |i: usize| {
        json!({"messages": [
            {"role": "user", "content": format!("say {i}")}, {"role": "assistant", "content": format!("{i} is said")},
            {"role": "user", "content": "and?"}, {"role": "assistant", "content": "no"},
        ]})
    };
    let chats: String = (0..60).map(|i| format!("{}\n", chat(i))).collect();
    fs::write(cli.path("chats.jsonl"), chats).unwrap();
    fs::write(cli.path("text.txt"), "Once upon a time there was a kinglet. ".repeat(200)).unwrap();
    let documents: String = (0..60).map(|i| format!("{{\"text\": \"document {i}\"}}\n")).collect();
    fs::write(cli.path("documents.jsonl"), documents).unwrap();
    fs::write(cli.path("halves.txt"), ["abcd".repeat(100), "dcba".repeat(100)].concat()).unwrap();
    let failing = |command: &str, line: &str| {
        let args: Vec<_> = line.split_whitespace().chain(["--json"]).collect();
        let output = cli.run(&args);
        let printed = String::from_utf8(output.stdout).unwrap();
        let (last, before) =
            printed.trim_end().rsplit_once('\n').map_or((&*printed, ""), |(before, last)| (last, before));
        schema.lines("error", last);
        if !before.is_empty() {
            schema.lines(command, before);
        }
    };
    let check = |command: &str, line: &str| {
        let args: Vec<_> = line.split_whitespace().chain(["--json"]).collect();
        let output = cli.run(&args);
        let errors = String::from_utf8_lossy(&output.stderr);
        // A difference that was found is told by the exit status.
        assert!(output.status.success() || line.starts_with("compare"), "{line}: {errors}");
        schema.lines(command, &String::from_utf8(output.stdout).unwrap());
    };
    let small = SMALL.join(" ");
    for (command, line) in [
        ("train", format!("train --out a {small}")),
        ("train", format!("train --out few-bits {small} --set quantization=w4")),
        ("train", "train --out slow --set max_iters=700 --set eval_interval=200 --set eval_iters=40".into()),
        (
            "train",
            "train halves.txt --out halves --set max_iters=400 --set eval_interval=5 --set block_size=8 --set patience=3 \
             --set train_split=0.5"
                .into(),
        ),
        ("train", format!("train chats.jsonl --out c {small} --set block_size=64 --tokenizer char")),
        ("plan", format!("train --plan {small}")),
        ("plan", "plan chats.jsonl --preset chat --seconds 0 --ranks 3 --network 1G".into()),
        ("finetune", format!("finetune a dates --out b {TEN}")),
        ("finetune", format!("finetune a logbook --out l --lora 4 {TEN}")),
        ("plan", "finetune a logbook --plan --set max_iters=20".into()),
        ("eval", "eval a".into()),
        ("eval", "eval c".into()),
        ("eval", "eval a text.txt".into()),
        ("eval", "eval a --all-checkpoints".into()),
        ("score", "score a text.txt --top 2".into()),
        ("score", "score a --text T".into()),
        ("sample", "sample a -n 5 --num 2 --prompt The".into()),
        ("info", "info a".into()),
        ("info", "info few-bits".into()),
        ("info", "info l".into()),
        ("info", "info big-2.7m".into()),
        ("info", "info big-0.2m --set teacher=a".into()),
        ("compare", "compare a b l text.txt".into()),
        ("compare", "compare a".into()),
        ("compare_bits", "compare a a --bits".into()),
        ("compare_bits", "compare a slow --bits".into()),
        ("data_stats", "data stats".into()),
        ("data_stats", "data stats chats.jsonl".into()),
        ("data_prepare", "data prepare text.txt --tokenizer byte --out ids".into()),
        ("data_prepare", "data prepare documents.jsonl --tokenizer byte --set bos_token=^ --out begun".into()),
        ("data_encode", "data encode byte hi".into()),
        ("data_decode", "data decode byte 104 105".into()),
        ("merge", "merge l --out m".into()),
        ("quantize", "quantize a --scheme w8 -o w8".into()),
        ("quantize", "quantize a --scheme w4 --head --embeddings -o w4".into()),
        ("quantize", "quantize l --scheme w8 --no-report -o unmeasured".into()),
        ("export", "export a --format gguf --dtype f16 -o gguf --max-difference 1".into()),
        ("export", "export a --format c -o c_file".into()),
        ("export", "export a --format pth -o pth".into()),
        ("import", "import pth/model.pth --tokenizer pth/meta.pkl --data text.txt --out i".into()),
        ("bench", "bench --quick --seconds 0.1".into()),
        ("bench", "bench --profile --seconds 0.1".into()),
        ("tune", format!("tune text.txt --budget 20s --trials 4 --out t {small}")),
        ("sweep", format!("sweep text.txt --grid dropout=0,0.1 --seeds 2 --out s {small}")),
        ("sweep", "sweep text.txt --grid dropout=0,0.1 --plan".into()),
        ("tag", "tag a good".into()),
        ("list", "list .".into()),
        ("prune", "prune a".into()),
        ("rm", "rm m -y".into()),
        ("presets", "presets".into()),
        ("presets", "presets big-0.2m".into()),
        ("keys", "keys".into()),
        ("init", "init -o my.toml".into()),
    ] {
        check(command, &line);
    }
    failing("train", &format!("train --out d {small} --set max_iters=60 {OVERFLOW}"));
    failing("eval", "eval nothing");
    failing("train", "train --set n_layer=0");
    let chat = |messages: &str| {
        let mut child = cli
            .command(&["chat", "c", "-n", "5", "--json"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(messages.as_bytes()).unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    };
    schema.lines("chat", &chat("say 1\nand?\nZürich\n"));
    let mut server = cli.command(&["serve", "a", "--port", "0", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    schema.lines("serve", &line);
    let data = needs::data_folder();
    if let Some(folder) = &data {
        let mut command = cli.command(&["reproduce", "--quick", "--preset", "big-0.2m", "--out", "r", "--json"]);
        let output = command.env("KINGLET_DATA_DIR", folder).output().unwrap();
        schema.lines("reproduce", &String::from_utf8(output.stdout).unwrap());
        let tiny =
            "--set n_layer=1 --set n_head=2 --set n_embd=16 --set max_iters=2 --set warmup_iters=1 --set eval_iters=1";
        let line = format!("speedrun --track 10s --seeds 1 --out sp --json {tiny}");
        let mut command = cli.command(&line.split_whitespace().collect::<Vec<_>>());
        let output = command.env("KINGLET_DATA_DIR", folder).output().unwrap();
        schema.lines("speedrun", &String::from_utf8(output.stdout).unwrap());
    }
    // Nothing is described that is never printed; another test interrupts a training.
    let seen = schema.seen.borrow();
    let interrupted = |at: &String| {
        let line = at.rsplit_once("/properties").map(|(line, _)| schema.root.pointer(line));
        line.flatten().is_some_and(|line| line["properties"]["event"]["const"] == "interrupted")
    };
    let unseen: Vec<_> = schema.described().into_iter().filter(|at| !seen.contains(at) && !interrupted(at)).collect();
    let of_shakespeare =
        |at: &String| ["reproduce", "speedrun"].iter().any(|name| at.starts_with(&format!("/$defs/{name}/")));
    assert!(unseen.iter().all(|at| data.is_none() && of_shakespeare(at)), "described and never printed: {unseen:#?}");
}

#[test]
fn the_page_is_written_from_the_schema() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/json.md");
    let text = page(&Schema::open().root);
    if std::env::var_os("KINGLET_UPDATE_DOCS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    assert!(
        fs::read_to_string(&path).is_ok_and(|page| page == text),
        "docs/reference/json.md is not what the schema says; KINGLET_UPDATE_DOCS=1 writes it anew"
    );
}
