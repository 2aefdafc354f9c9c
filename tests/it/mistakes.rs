//! Every row of the tables in docs/MISTAKES.md.

use crate::common::cli::Cli;
use kinglet::config::{Config, FIELDS};
use std::{fs, net::TcpListener};

/// The rows of the table under a heading, as cells.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/MISTAKES.md")).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with(heading)).unwrap();
    let lines = section.lines().filter(|line| line.starts_with('|')).skip(2);
    lines.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

#[test]
fn every_key_at_below_and_above_its_limits() {
    let rows = rows("Configuration keys");
    let keys: Vec<_> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(keys, FIELDS.iter().map(|field| field.key).collect::<Vec<_>>());
    let mut tried = 0;
    for (row, field) in rows.iter().zip(FIELDS) {
        let [key, accepted, refused] = &row[..] else { panic!("{row:?}") };
        for value in accepted.split("; ") {
            let mut config = Config::default();
            config.set(&format!("{key}={value}")).unwrap_or_else(|error| panic!("{error}"));
            // In a file, words stand in quotes.
            let plain = format!("{key} = {value}");
            let is_toml = plain.parse::<toml::Table>().is_ok();
            let quoted = if is_toml { plain } else { format!("{key} = \"{value}\"") };
            match Config::from_toml(&quoted) {
                Ok(from_file) => assert_eq!(from_file, config, "{quoted}"),
                // What concerns two keys is refused there for the other's sake.
                Err(error) => {
                    let other = if key.starts_with("quantize_") { "quantization" } else { "n_head" };
                    assert!(error.to_string().contains(other), "{quoted}: {error}");
                }
            }
            tried += 1;
        }
        for value in refused.split("; ").filter(|value| !value.is_empty()) {
            let before = Config::default();
            let mut config = before.clone();
            let message = config.set(&format!("{key}={value}")).expect_err(value).to_string();
            assert!(message.starts_with(&format!("{key} = ")), "{message}");
            assert!(message.ends_with(&format!(": must be {}", field.allowed)), "{message}");
            assert_eq!(config, before, "a refused value changes nothing");
            tried += 1;
        }
    }
    eprintln!("{} keys, {tried} values", rows.len());
}

/// Models of other programs with something in the way.
fn foreign_files(cli: &Cli) {
    let lecture = include_bytes!("../../fuzz/corpus/pytorch/lecture");
    let gguf = include_bytes!("../../fuzz/corpus/gguf/llama");
    let llama = include_bytes!("../../fuzz/corpus/safetensors/llama");
    let config = include_str!("../../fuzz/corpus/hugging_face/llama").replace("\"default\"", "\"yarn\"");
    for folder in ["yarn", "adapter", "dora", "qv"] {
        fs::create_dir(cli.path(folder)).unwrap();
    }
    let at = gguf.windows(5).position(|word| word == b"llama").unwrap();
    let mamba = [&gguf[..at], b"mamba", &gguf[at + 5..]].concat();
    let adapter = include_str!("../../fuzz/corpus/peft/lora");
    let dora = adapter.replace("{", "{\"use_dora\": true, ");
    let both = include_bytes!("../../fuzz/corpus/peft/both");
    let at = both.iter().position(|byte| *byte == 0).unwrap();
    let at_name = llama.windows(6).position(|word| word == b"o_proj").unwrap();
    let mut renamed = llama.to_vec();
    renamed[at_name] = b'O';
    let files: [(&str, &[u8]); 12] = [
        ("lecture.pth", &lecture[..]),
        ("cut.pth", &lecture[..5000]),
        ("system.pth", b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R."),
        ("cut.gguf", &gguf[..gguf.len() - 100]),
        ("mamba.gguf", &mamba),
        ("yarn/config.json", config.as_bytes()),
        ("yarn/model.safetensors", llama),
        ("adapter/adapter_config.json", adapter.as_bytes()),
        ("dora/adapter_config.json", dora.as_bytes()),
        ("qv/adapter_config.json", adapter.as_bytes()),
        ("qv/adapter_model.safetensors", &both[at + 1..]),
        ("renamed.safetensors", &renamed),
    ];
    for (name, bytes) in files {
        fs::write(cli.path(name), bytes).unwrap();
    }
}

#[test]
fn every_command_says_what_is_wrong() {
    let cli = Cli::trained();
    let write = |name: &str, bytes: &[u8]| fs::write(cli.path(name), bytes).unwrap();
    write("good.txt", "Once upon a time there was a kinglet. ".repeat(100).as_bytes());
    write("empty.txt", b"");
    write("binary.dat", &(0..=255).collect::<Vec<u8>>());
    write("latin1.txt", &b"caf\xe9 ".repeat(100));
    write("utf16.txt", b"\xff\xfea\0\x3d\xd8b\0");
    write("utf32.txt", b"\xff\xfe\0\0a\0\0\0");
    write("bare.txt", &b"a\0b\0".repeat(100));
    write("book.pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n");
    write("sheet.csv", b"PK\x03\x04\x14\0\x06\0");
    write("letter.docx", b"PK\x03\x04\x14\0\x06\0");
    write("speaker.jsonl", b"{\"conversations\": [{\"from\": \"narrator\", \"value\": \"a\"}]}");
    write("export.json", b"[{\"title\": \"a\", \"mapping\": {\"a\": {}}, \"current_node\": \"b\"}]");
    write("open.csv", b"id,text\n1,a\n2,\"b\n3,c\n");
    write("behind.csv", b"id,text\n1,\"a\" b\n");
    write("short.csv", b"id,text\n1,a\n2\n");
    write("twice.csv", b"text,text\na,b\n");
    write("quoted.tsv", b"id\ttext\n1\t\"a \"\"b\"\"\"\n");
    write("both.jsonl", b"{\"instruction\": \"a\", \"prompt\": \"b\", \"response\": \"c\"}");
    write("image.jsonl", b"{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image_url\"}]}]}");
    write("weight.jsonl", b"{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\", \"weight\": 2}]}");
    write("calls.jsonl", b"{\"messages\": [{\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{}]}]}");
    write("nothing.jsonl", b"{\"text\": null}\n{");
    write("behind.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x03\0\0\0\0\0\0\0\0\0more");
    write("one.txt", b"a");
    write("same.txt", "a".repeat(5000).as_bytes());
    write("short.txt", b"too short for this");
    foreign_files(&cli);
    write("half.txt", "a".repeat(200).as_bytes());
    fs::File::create(cli.path("huge.txt")).unwrap().set_len(1 << 40).unwrap();
    fs::create_dir(cli.path("folder")).unwrap();
    write("folder/notes.txt", b"mine");
    fs::create_dir(cli.path("pictures")).unwrap();
    write("pictures/a.png", b"\x89PNG\0");
    write("bad.jsonl", b"{\"text\": \"x\"}\n{\"tex");
    write("fields.jsonl", b"{\"body\": \"x\"}");
    write("table.csv", b"id,body\n1,x\n");
    write("object.json", b"{}");
    write("notes.gz", b"not compressed");
    write("notes.zst", b"not compressed");
    write("mixed.jsonl", b"{\"text\": \"x\"}\n{\"prompt\": \"a\", \"response\": \"b\"}");
    write("chat.jsonl", b"{\"prompt\": \"a\", \"response\": \"b\"}\n".repeat(20).as_slice());
    write(
        "long-chat.jsonl",
        format!("{{\"prompt\": \"{}\", \"response\": \"b\"}}\n", "a".repeat(99)).repeat(9).as_bytes(),
    );
    write("ids.bin", &[1, 0, 2, 0].repeat(500));
    write("odd.bin", b"sevenhh");
    write("bad.json", b"{}");
    let model = "\"model\": {\"type\": \"WordLevel\", \"vocab\": {\"[UNK]\": 0}, \"unk_token\": \"[UNK]\"}";
    let words = "\"added_tokens\": [], \"pre_tokenizer\": {\"type\": \"WhitespaceSplit\"}";
    write("words.json", format!("{{\"version\": \"1.0\", {words}, {model}}}").as_bytes());
    write("new.toml", b"format_version = 99\nn_layer = 1");
    write("unknown.toml", b"n_layers = 1");
    write("twice.toml", b"n_layer = 1\n[model]\nn_layer = 2");
    write("same-twice.toml", b"n_layer = 1\nn_layer = 2");
    write("value.toml", b"n_layer = \"many\"");
    write("syntax.toml", b"n_layer = ");
    write("random.token", &[0x9f, 0xfe, 0x80].repeat(16));
    write("spaced.token", b"sixteen characters with spaces");
    write("short.token", b"abc\n");
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().port().to_string();
    let names = || {
        let mut names: Vec<_> = cli.temp.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    let rows = rows("Commands");
    for row in &rows {
        let [command, status, says] = &row[..] else { panic!("{row:?}") };
        let command = command.replace("TAKEN", &taken);
        let args: Vec<&str> = command.trim_matches('`').split_whitespace().collect();
        match status.parse().unwrap() {
            0 => assert!(cli.ok(&args).contains(says), "{command}"),
            status => {
                cli.fails(&args, status, says);
                assert_eq!(names(), before, "{command} leaves nothing");
            }
        }
    }
    assert_eq!(fs::read(cli.path("folder/notes.txt")).unwrap(), b"mine");
    eprintln!("{} commands", rows.len());
}
