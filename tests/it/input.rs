//! Text, tables and records as users have them: what is read is right, and what is not read is said once, with a count.

use crate::common::cli::{Cli, SMALL};
use kinglet::{
    config::Config,
    data::{self, TokenizerChoice},
    text::{
        source::{self, Corpus, Piece},
        tokenizer::Cuts,
    },
};
use serde_json::json;
use std::{fs, io::Write};

/// What a corpus of these names gives, messages as `role: content`, and the notes.
fn read(cli: &Cli, names: &[&str], settings: &[&str]) -> Result<(Vec<String>, Vec<String>), String> {
    let mut config = Config::default().with(settings).unwrap();
    config.data = names.iter().map(|name| cli.path(name).display().to_string()).collect();
    let mut found = Vec::new();
    let corpus = Corpus::open(&config).map_err(|error| error.one_line())?;
    let notes = corpus.pieces(Cuts::Whole, |piece| {
        found.push(match piece {
            Piece::Text { text, .. } => text,
            Piece::Messages(said) => {
                said.iter().map(|m| format!("{}: {}", m.role, m.content)).collect::<Vec<_>>().join("; ")
            }
        });
        Ok(())
    });
    let notes = notes.map_err(|error| error.one_line())?;
    Ok((found, [&corpus.notes[..], &notes].concat()))
}

/// Sentences of made-up words.
fn sentences(n: usize) -> Vec<String> {
    const WORDS: [&str; 8] = ["river", "stone", "lamp", "winter", "copper", "bread", "window", "quiet"];
    (0..n).map(|i| (0..6).map(|j| WORDS[(i * 31 + j * j * 7 + i / 8) % 8]).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn a_quote_at_the_start_of_a_field_takes_no_rows() {
    let cli = Cli::new();
    let mut texts = sentences(221);
    texts[20] = format!("\"{}", texts[20]);
    let rows: String = texts.iter().enumerate().map(|(i, text)| format!("{i}\t{text}\n")).collect();
    fs::write(cli.path("quote.tsv"), format!("id\ttext\n{rows}")).unwrap();
    let (found, notes) = read(&cli, &["quote.tsv"], &[]).unwrap();
    assert!(found == texts);
    assert!(notes.len() == 1 && notes[0].ends_with("reads \"text\"; not read: \"id\""), "{notes:?}");
    // The same in CSV is no table at all, wherever the quote is closed.
    fs::write(cli.path("quote.csv"), format!("id,text\n{}", rows.replace('\t', ","))).unwrap();
    let error = read(&cli, &["quote.csv"], &[]).unwrap_err();
    assert!(error.contains("quote.csv, line 22: the quote that opens a field here is never closed"), "{error}");
}

#[test]
fn a_number_is_its_text_and_what_cannot_be_meant_is_refused() {
    let cli = Cli::new();
    let records =
        |record: &dyn Fn(i32) -> serde_json::Value| -> String { (0..40).map(|i| format!("{}\n", record(i))).collect() };
    let numbers = records(&|i| json!({"instruction": "Reverse", "input": 3000 + i, "output": i.to_string()}));
    fs::write(cli.path("num.jsonl"), numbers).unwrap();
    let (found, _) = read(&cli, &["num.jsonl"], &[]).unwrap();
    assert_eq!(found[7], "user: Reverse\n3007; assistant: 7");
    fs::write(
        cli.path("both.jsonl"),
        records(&|i| json!({"instruction": "Double it.", "prompt": i, "response": 2 * i})),
    )
    .unwrap();
    let error = read(&cli, &["both.jsonl"], &[]).unwrap_err();
    assert!(error.contains("both.jsonl, line 1: it has both \"prompt\" and \"instruction\""), "{error}");
}

#[test]
fn records_and_tables_are_known_by_all_their_usual_names() {
    let cli = Cli::new();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(b"{\"text\": \"a\"}\n{\"text\": \"b\"}\n").unwrap();
    for (name, bytes) in [
        ("a.jl", &b"{\"text\": \"a\"}\n{\"text\": \"b\"}\n"[..]),
        ("a.jsonlines", b"{\"text\": \"a\"}\n{\"text\": \"b\"}\n"),
        ("a.tab", b"text\na\nb\n"),
        ("a.psv", b"text|id\na|1\nb|2\n"),
        ("a.jsonl.gzip", &gzip.finish().unwrap()),
    ] {
        fs::write(cli.path(name), bytes).unwrap();
        let (found, notes) = read(&cli, &[name], &[]).unwrap();
        assert_eq!(found, ["a", "b"], "{name}");
        assert!(notes.iter().all(|note| note.contains("not read: \"id\"")), "{name}: {notes:?}");
    }
    // Another name means a text, which is said where that is not what it looks like.
    let long = format!("{{\"text\": \"{}\"}}", "a ".repeat(1 << 15));
    for (text, said) in [
        ("{\"text\": \"a\"}\n{\"text\": \"b\"}\n", true),
        (&long, true),
        ("{braces} in a text\n", false),
        ("{\n\"text\": 1}\n", false),
        ("a text\n{\"text\": \"a\"}\n", false),
    ] {
        fs::write(cli.path("a.txt"), text).unwrap();
        let (found, notes) = read(&cli, &["a.txt"], &[]).unwrap();
        assert_eq!(found, [text]);
        let is = notes.iter().any(|note| note.contains("to read it as records, give it a name that ends in .jsonl"));
        assert_eq!(is, said, "{notes:?}");
    }
}

#[test]
fn a_carriage_return_splits_no_row_even_where_bad_records_are_left_out() {
    let cli = Cli::new();
    fs::write(cli.path("a.csv"), "text\nx\ny\rz\n").unwrap();
    for settings in [&[][..], &["skip_bad=true"]] {
        let error = read(&cli, &["a.csv"], settings).unwrap_err();
        assert!(error.contains("a.csv, line 3: a carriage return inside a value that is not in quotes"), "{error}");
    }
    // Where no name says that it is a table, it is a text, which is said.
    let error_or_note = |text: &str| {
        fs::write(cli.path("nameless"), text).unwrap();
        read(&cli, &["nameless"], &[]).map_or_else(|error| error, |(_, notes)| notes.join("\n"))
    };
    for text in ["id,text\n1,x\n2,y\rz\n", "id,text\n1,\"x\" y\n"] {
        let said = error_or_note(text);
        assert!(said.contains("its first line looks like the header of a table"), "{said}");
    }
    fs::write(cli.path("old.csv"), "text\rx\ry\r").unwrap();
    assert_eq!(read(&cli, &["old.csv"], &[]).unwrap().0, ["x", "y"]);
}

#[test]
fn a_table_with_one_column_and_quotes_over_lines_is_refused_as_others_are() {
    let cli = Cli::new();
    fs::write(cli.path("a.tsv"), "text\nx\n\"a\nb\"\n").unwrap();
    let error = read(&cli, &["a.tsv"], &[]).unwrap_err();
    assert!(error.contains("a.tsv, line 3: a field is quoted as in CSV"), "{error}");
    fs::write(cli.path("a.tsv"), "text\n\"a\nhe said \"b\"\n").unwrap();
    assert_eq!(read(&cli, &["a.tsv"], &[]).unwrap().0, ["\"a", "he said \"b\""]);
}

#[test]
fn roles_in_other_words_are_told_of_once() {
    let cli = Cli::new();
    let said =
        |role: &str| json!({"messages": [{"role": role, "content": "a"}, {"role": "ASSISTANT ", "content": "b"}]});
    let lines: String = ["Human", "critic", "critic"].iter().map(|role| format!("{}\n", said(role))).collect();
    fs::write(cli.path("roles.jsonl"), lines).unwrap();
    let (found, notes) = read(&cli, &["roles.jsonl"], &[]).unwrap();
    assert_eq!(found, ["user: a; assistant: b", "critic: a; assistant: b", "critic: a; assistant: b"]);
    assert!(notes.len() == 1 && notes[0].ends_with("unchanged: \"critic\""), "{notes:?}");
}

#[test]
fn a_row_with_a_text_alone_is_no_empty_conversation() {
    let cli = Cli::new();
    fs::write(cli.path("mixed.csv"), "text,prompt,response\n,a,b\nx,,\n,,\n").unwrap();
    let error = read(&cli, &["mixed.csv"], &["base=run"]).unwrap_err();
    assert!(error.contains("mixed.csv, line 3: it has a \"text\" but no prompt and no response"), "{error}");
    let (found, notes) = read(&cli, &["mixed.csv"], &["base=run", "skip_bad=true"]).unwrap();
    assert_eq!(found, ["user: a; assistant: b"]);
    let all = notes.join("\n");
    assert!(all.contains("skipped 1 empty text: ") && all.contains("skipped 1 bad record: "), "{all}");
}

#[test]
fn a_zero_in_a_record_is_refused_however_it_is_written() {
    let cli = Cli::new();
    for record in [r#"{"text": "a\u0000b"}"#, r#"{"prompt": "a", "response": "b\u0000"}"#] {
        fs::write(cli.path("zero.jsonl"), format!("{{\"text\": \"a\"}}\n{record}\n")).unwrap();
        let error = read(&cli, &["zero.jsonl"], &[]).unwrap_err();
        assert!(error.contains("zero.jsonl, line 2: it contains a zero character (\\u0000)"), "{error}");
        assert_eq!(read(&cli, &["zero.jsonl"], &["skip_bad=true"]).unwrap().0, ["a"]);
    }
    // What is not read may be anything.
    fs::write(cli.path("zero.jsonl"), r#"{"text": "a", "id": "\u0000"}"#).unwrap();
    assert_eq!(read(&cli, &["zero.jsonl"], &[]).unwrap().0, ["a"]);
}

#[cfg(unix)]
#[test]
fn a_file_that_several_names_mean_is_told_of_once() {
    let cli = Cli::new();
    fs::create_dir(cli.path("d")).unwrap();
    for name in ["d/a.txt", "d/b.txt", "c.txt"] {
        fs::write(cli.path(name), name).unwrap();
    }
    std::os::unix::fs::symlink("c.txt", cli.path("link.txt")).unwrap();
    for (names, told) in [
        (&["d", "c.txt"][..], None),
        (&["d"], None),
        (&["d", "d/"], Some("2 files are included more than once, such as ")),
        (&["d", "d/a.txt", "c.txt"], Some("1 file is included more than once: ")),
        (&["c.txt", "link.txt"], Some("1 file is included more than once: ")),
        (&["d/*", "d/a*", "d/a.txt"], Some("1 file is included more than once: ")),
    ] {
        let (_, notes) = read(&cli, names, &[]).unwrap();
        let told_of: Vec<_> = notes.iter().filter(|note| note.contains("more than once")).collect();
        assert_eq!(told_of.len(), usize::from(told.is_some()), "{names:?}: {notes:?}");
        assert!(told.is_none_or(|told| told_of[0].starts_with(told)), "{names:?}: {notes:?}");
    }
}

#[test]
fn a_prompt_in_a_file_is_read_as_a_text_is() {
    let cli = Cli::new();
    let text = "{\"text\": \"é\"}";
    let utf16: Vec<u8> = format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(text.as_bytes()).unwrap();
    for (name, bytes, want, notes) in [
        ("bom.txt", format!("\u{feff}{text}").into_bytes(), text, 1),
        ("utf16.txt", utf16, text, 1),
        ("a.jsonl.gz", gzip.finish().unwrap(), text, 0),
        ("a.csv", text.into(), text, 0),
        ("empty.txt", Vec::new(), "", 0),
    ] {
        fs::write(cli.path(name), bytes).unwrap();
        let (found, said) = source::text_of_file(&cli.path(name)).unwrap();
        assert_eq!((&*found, said.len()), (want, notes), "{name}: {said:?}");
    }
    cli.ok(&[&["train", "--out", "run", "--set", "tokenizer=byte"], SMALL].concat());
    let sampled = cli.run(&["sample", "run", "--prompt-file", "utf16.txt", "--tokens", "1"]);
    assert!(String::from_utf8_lossy(&sampled.stdout).starts_with(text));
    assert!(String::from_utf8_lossy(&sampled.stderr).contains("utf16.txt: read as UTF-16"));
    fs::write(cli.path("zero.txt"), "ab\0").unwrap();
    fs::write(cli.path("latin.txt"), b"ab\xe9 c").unwrap();
    for (name, message) in [("zero.txt", "zero byte at offset 2 (line 1)"), ("latin.txt", "byte 0xe9 at offset 2")] {
        for args in [["sample", "run", "--prompt-file", name].as_slice(), &["score", "run", name]] {
            cli.fails(args, 1, message);
            // Neither of them takes settings.
            assert!(!String::from_utf8_lossy(&cli.run(args).stderr).contains("invalid_utf8"));
        }
    }
}

#[test]
fn fine_tuning_takes_the_conversation_beside_a_text_and_training_the_text() {
    let cli = Cli::new();
    let record = |i: usize| {
        let (question, answer) = (format!("Add {i} and 1"), (i + 1).to_string());
        json!({"instruction": question, "input": "", "output": answer, "text": format!("### {question}\n{answer}")})
    };
    let lines: String = (0..90).map(|i| format!("{}\n", record(i))).collect();
    fs::write(cli.path("alpaca_text.jsonl"), lines).unwrap();
    let settings = [SMALL, &["--set", "block_size=24"]].concat();
    let said = |args: &[&str]| {
        let output = cli.run(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{stderr}");
        stderr
    };
    let trained = said(&[&["train", "alpaca_text.jsonl", "--out", "run"], &settings[..]].concat());
    let note = "reads \"text\"; not read: \"instruction\", \"input\", \"output\"";
    assert_eq!(trained.matches(note).count(), 1, "once, though it is read several times: {trained}");
    let tuned = said(&["finetune", "run", "alpaca_text.jsonl", "--out", "tuned", "--set", "max_iters=2"]);
    let note = "reads \"instruction\", \"input\", \"output\"; not read: \"text\"";
    assert_eq!(tuned.matches(note).count(), 1, "{tuned}");
    let sample = fs::read_to_string(cli.path("tuned/sample.txt")).unwrap();
    assert!(sample.contains("Add"), "answers to prompts: {sample}");
    // A field that is named is meant.
    let named = said(&[
        "finetune",
        "run",
        "alpaca_text.jsonl",
        "--out",
        "named",
        "--set",
        "max_iters=2",
        "--set",
        "data_field=output",
    ]);
    assert!(named.contains("reads \"output\"; not read: \"instruction\", \"input\", \"text\""), "{named}");
}

#[test]
fn a_column_in_any_script_is_shown_as_it_is() {
    let cli = Cli::new();
    fs::write(cli.path("thai.csv"), "ลำดับ,ข้อความ\n0,a\n1,b\n").unwrap();
    cli.fails(
        &["train", "thai.csv"],
        1,
        "thai.csv has no column \"text\"; choose a column with --field: \"ลำดับ\", \"ข้อความ\"",
    );
    let error = read(&cli, &["thai.csv"], &["data_field=ไม่มี"]).unwrap_err();
    assert!(error.contains("has no column \"ไม่มี\""), "{error}");
    assert_eq!(read(&cli, &["thai.csv"], &["data_field=ข้อความ"]).unwrap().0, ["a", "b"]);
}

#[test]
fn zeros_behind_gzip_are_padding_and_utf_16_is_text() {
    let cli = Cli::new();
    let text = sentences(300).join("\n");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(text.as_bytes()).unwrap();
    fs::write(cli.path("pad.txt.gz"), [gzip.finish().unwrap(), vec![0; 4096]].concat()).unwrap();
    let units: Vec<u8> = format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(cli.path("utf16.txt"), units).unwrap();
    fs::write(cli.path("bom.txt"), format!("\u{feff}{text}")).unwrap();
    fs::write(cli.path("plain.txt"), &text).unwrap();
    for name in ["pad.txt.gz", "utf16.txt", "bom.txt", "plain.txt"] {
        assert!(read(&cli, &[name], &[]).unwrap().0 == [text.as_str()], "{name}");
    }
    // The same text in any encoding has the same hash.
    let hash = |name: &str| {
        let mut config = Config::default();
        config.data = vec![cli.path(name).display().to_string()];
        data::read(&config, TokenizerChoice::FromConfig).unwrap().1.sha256
    };
    assert!(["pad.txt.gz", "utf16.txt", "bom.txt"].map(hash).iter().all(|sha256| *sha256 == hash("plain.txt")));
}

#[cfg(unix)]
#[test]
fn what_is_no_text_in_a_folder_is_left_out_and_said() {
    use std::os::unix::fs::symlink;
    let cli = Cli::new();
    fs::create_dir_all(cli.path("folder/sub")).unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(cli.path("folder").join(name), bytes).unwrap();
    write("a.txt", b"a text");
    write("b.csv", b"id,text\n1,of a table\n");
    write("c.json", b"[{\"text\": \"of an array\"}]");
    write("long.txt", "word ".repeat(9999).as_bytes());
    write("package.json", b"{\"name\": \"x\", \"version\": \"1.0\"}\n");
    write("other.csv", b"x,y\n1,2\n");
    write("sub/other.jsonl", b"{\"body\": \"x\"}\n");
    write("picture.png", b"\x89PNG\r\n\x1a\n\0");
    write("empty.txt", b"");
    symlink("nowhere.txt", cli.path("folder/gone.txt")).unwrap();
    symlink("..", cli.path("folder/sub/up")).unwrap();
    symlink("self", cli.path("folder/self")).unwrap();
    let (found, notes) = read(&cli, &["folder"], &[]).unwrap();
    assert_eq!(found[..3], ["a text", "of a table", "of an array"]);
    assert_eq!((found.len(), found[3].len()), (4, 49995));
    let all = notes.join("\n");
    for note in [
        "skipped 3 unreadable entries, such as",
        "folder/gone.txt (a broken link)",
        "skipped 5 without readable text, such as:",
        "folder/empty.txt is empty",
        "b.csv: reads \"text\"; not read: \"id\"",
    ] {
        assert_eq!(all.matches(note).count(), 1, "{note}: {all}");
    }
    // Named, each is an error.
    for (name, message) in [
        ("folder/package.json", "not a JSON array of objects: it is an object"),
        ("folder/other.csv", "has no column \"text\""),
        ("folder/picture.png", "a picture (PNG)"),
        ("folder/gone.txt", "there is no file"),
        ("folder/empty.txt", "is empty"),
    ] {
        let error = read(&cli, &[name], &[]).unwrap_err();
        assert!(error.contains(message), "{error}");
    }
    // What a pattern matches and is no file is said too.
    let (_, notes) = read(&cli, &["folder/[a-c]*", "folder/su*/../a.*"], &[]).unwrap();
    assert!(!notes.iter().any(|note| note.contains("skipped")), "{notes:?}");
    let (_, notes) = read(&cli, &["folder/[ags]*"], &[]).unwrap();
    let all = notes.join("\n");
    assert!(all.contains("skipped 2 unreadable entries") && all.contains("skipped 1 special file"), "{all}");
}

#[test]
fn bad_records_are_left_out_where_that_is_asked_for_and_counted_once() {
    let cli = Cli::new();
    let mut lines: Vec<String> = sentences(120).iter().map(|text| format!("{}\n", json!({"text": text}))).collect();
    lines[3] = "{\"text\": \"broken\n".to_owned();
    lines[5] = "{\"body\": \"x\"}\n".to_owned();
    lines[9] = "{\"text\": \"\"}\n".to_owned();
    lines.push("7\n".to_owned());
    let mut bytes = lines.concat().into_bytes();
    bytes.extend(b"{\"text\": \"\xff\"}\n");
    fs::write(cli.path("bad.jsonl"), bytes).unwrap();
    let rows: String = sentences(120).iter().enumerate().map(|(i, text)| format!("{i},{text}\n")).collect();
    fs::write(cli.path("bad.csv"), format!("id,text\n{rows}x\ny,z,w\n")).unwrap();
    cli.fails(&["train", "bad.jsonl"], 1, "bad.jsonl, line 4: not JSON");
    cli.fails(&["train", "bad.csv"], 1, "bad.csv, line 122: 1 field, but the header has 2");
    cli.ok(&[&["train", "--out", "run"], SMALL].concat());
    for (command, name, bad) in [
        (&["train", "--out", "a"][..], "bad.jsonl", 4),
        (&["plan", "--seconds", "0.1"], "bad.jsonl", 4),
        (&["data", "stats"], "bad.jsonl", 4),
        (&["data", "prepare", "--out", "ids"], "bad.jsonl", 4),
        (&["train", "--out", "b"], "bad.csv", 2),
        (&["finetune", "run", "--out", "c"], "bad.jsonl", 4),
        (&["tune", "--out", "d", "--trials", "2", "--budget", "30s"], "bad.jsonl", 4),
    ] {
        let settings = match command[0] {
            "plan" | "data" => &[],
            "finetune" => &SMALL[..6],
            _ => SMALL,
        };
        let args = [command, &[name, "--skip-bad"], settings].concat();
        let output = cli.run(&args);
        let said = String::from_utf8(output.stderr).unwrap() + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{args:?}: {said}");
        let note = format!("skipped {bad} bad records, the first: ");
        assert_eq!(said.matches(&note).count(), 1, "{args:?}: {said}");
    }
    let (found, notes) = read(&cli, &["bad.jsonl"], &["skip_bad=true"]).unwrap();
    assert_eq!(found.len(), 117);
    assert!(notes.iter().any(|note| note.contains("skipped 1 empty text: ") && note.contains("line 10")), "{notes:?}");
    assert_eq!(read(&cli, &["bad.csv"], &["skip_bad=true"]).unwrap().0.len(), 120);
    // It is a setting of the run, which goes on with it.
    assert!(fs::read_to_string(cli.path("a/config.toml")).unwrap().contains("skip_bad = true"));
    cli.ok(&["train", "--resume", "--out", "a", "--set", "max_iters=30"]);
}

#[test]
fn many_small_files_and_documents_are_told_of_in_a_few_words() {
    let cli = Cli::new();
    fs::create_dir(cli.path("many")).unwrap();
    for i in 0..300 {
        fs::write(cli.path(&format!("many/{i}.jsonl")), format!("{{\"text\": \"t{i}\", \"id\": {i}}}\n")).unwrap();
    }
    let (found, notes) = read(&cli, &["many"], &[]).unwrap();
    assert_eq!(found.len(), 300);
    assert!(
        notes.len() == 1 && notes[0].ends_with("and 299 more files: reads \"text\"; not read: \"id\""),
        "{notes:?}"
    );
    // An object used as a dictionary does not fill the screen either.
    let keys: String = (0..500).map(|i| format!(", \"k{i}\": {i}")).collect();
    fs::write(cli.path("keys.jsonl"), format!("{{\"text\": \"a\"{keys}}}\n")).unwrap();
    let (_, notes) = read(&cli, &["keys.jsonl"], &[]).unwrap();
    assert!(notes[0].len() < 300, "{notes:?}");
}
