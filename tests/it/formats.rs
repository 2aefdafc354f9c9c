//! The table of formats: every file of tests/formats, which Python wrote (scripts/formats.py), read by the library and byte
//! for byte what Python meant; or refused with the reason.

use crate::common::cli::Cli;
use kinglet::{
    config::Config,
    text::{
        source::{Corpus, Piece},
        tokenizer::Cuts,
    },
};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    path::PathBuf,
};

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/formats"))
}

fn index() -> Value {
    serde_json::from_slice(&fs::read(folder().join("index.json")).unwrap()).unwrap()
}

/// What is read in a corpus: its texts or conversations, and the notes.
fn read(corpus: &Corpus) -> Result<(Value, Vec<String>), String> {
    let (mut found, mut text) = (Vec::new(), String::new());
    let notes = corpus.pieces(Cuts::AtLines, |piece| {
        match piece {
            Piece::Text { text: part, end } => {
                text += &part;
                if end {
                    found.push(std::mem::take(&mut text).into());
                }
            }
            Piece::Messages(messages) => {
                found.push(messages.iter().map(|m| json!([m.role, m.content, m.learned])).collect::<Value>());
            }
        }
        Ok(())
    });
    let notes = notes.map_err(|error| error.one_line())?;
    Ok((Value::Array(found), [&corpus.notes[..], &notes].concat()))
}

/// Compares what was read with an entry of the index.
#[track_caller]
fn compare(entry: &Value, shared: &Value, read: Result<(Value, Vec<String>), String>) {
    let name = &entry["file"];
    if let Some(reason) = entry["refused"].as_str() {
        let error = read.expect_err(&name.to_string());
        assert!(error.contains(reason), "{name}: {error}");
        assert!(!error.contains("\\u{"), "names are shown as they are: {error}");
        return;
    }
    let (found, notes) = read.unwrap_or_else(|error| panic!("{name}: {error}"));
    let want = entry.get("texts").or(entry.get("conversations")).unwrap();
    assert_eq!(&found, want.as_str().map_or(want, |name| &shared[name]), "{name}");
    for note in entry["notes"].as_array().into_iter().flatten() {
        let note = note.as_str().unwrap();
        assert_eq!(notes.iter().filter(|said| said.contains(note)).count(), 1, "{name}: {note:?} in {notes:?}");
    }
}

#[test]
fn every_file_of_the_table_is_read_as_it_was_meant_or_refused_with_the_reason() {
    let index = index();
    let entries = index["files"].as_array().unwrap();
    for entry in entries {
        let settings: Vec<_> =
            entry["settings"].as_array().into_iter().flatten().map(|s| s.as_str().unwrap()).collect();
        let mut config = Config::default().with(&settings).unwrap();
        let path = folder().join(entry["file"].as_str().unwrap());
        config.data = vec![path.display().to_string()];
        compare(entry, &index["shared"], read(&Corpus::open(&config).unwrap()));
        // Bytes in memory are read in the same way.
        let bytes = fs::read(&path).unwrap();
        let corpus = Corpus::from_bytes_as(entry["file"].as_str().unwrap(), &bytes, &config);
        compare(entry, &index["shared"], read(&corpus));
    }
    assert!(entries.len() > 120);
    let files: Vec<_> = fs::read_dir(folder()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).collect();
    assert_eq!(files.len(), entries.len() + 1, "every file is in the index");
    assert!(files.iter().sum::<u64>() < 80_000, "the table is small");
}

#[cfg(target_os = "linux")]
#[test]
fn standard_input_and_other_streams_are_read_as_files_are() {
    use std::{io::Write, os::fd::AsRawFd};
    let index = index();
    for entry in index["files"].as_array().unwrap().iter().filter(|entry| entry["stream"] == true) {
        let bytes = fs::read(folder().join(entry["file"].as_str().unwrap())).unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(&bytes).unwrap();
        drop(writer);
        let mut config = Config::default();
        config.data = vec![format!("/dev/fd/{}", reader.as_raw_fd())];
        compare(entry, &index["shared"], read(&Corpus::open(&config).unwrap()));
    }
    // The program's standard input.
    let cli = Cli::new();
    for (name, documents) in [("stream_zstd_lines", 12), ("stream_array", 12), ("stream_utf16_csv", 12)] {
        let args = ["data", "prepare", "-", "--out", name, "--json", "--tokenizer", "byte"];
        let mut command = cli.command(&args);
        let output = command.stdin(File::open(folder().join(name)).unwrap()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let about: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(about["documents"], documents, "{name}");
    }
}
