//! Curves as event files of TensorBoard's, read back by a reader that shares nothing with what writes them. The script
//! `scripts/event_files.py` reads them with TensorBoard itself.

use crate::common::cli::{Cli, SMALL};
use serde_json::Value;
use std::{fs, path::Path};

/// Step, seconds since 1970, and the values of tags.
type Event = (u64, f64, Vec<(String, f32)>);

/// The events of a file of TensorBoard's: step, seconds since 1970, and the values of tags; checksums are checked by a table,
/// not as they are written.
fn events(path: &Path) -> Vec<Event> {
    let table: Vec<u32> = (0..256u32)
        .map(|byte| (0..8).fold(byte, |crc, _| if crc % 2 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }))
        .collect();
    let sum = |bytes: &[u8]| {
        let crc = !bytes.iter().fold(u32::MAX, |crc, byte| table[(crc as u8 ^ byte) as usize] ^ crc >> 8);
        crc.rotate_right(15).wrapping_add(0xa282_ead8)
    };
    /// The fields of a message: numbers as their bits.
    fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, &[u8])> {
        fn varint(bytes: &mut &[u8]) -> u64 {
            let (mut value, mut shift) = (0, 0);
            loop {
                let byte = bytes[0];
                *bytes = &bytes[1..];
                value |= u64::from(byte & 127) << shift;
                shift += 7;
                if byte < 128 {
                    return value;
                }
            }
        }
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let (number, inside) = match key % 8 {
                0 => (varint(&mut bytes), &[][..]),
                kind => {
                    let n = match kind {
                        1 => 8,
                        2 => varint(&mut bytes) as usize,
                        5 => 4,
                        _ => panic!("no kind {kind}"),
                    };
                    let (inside, rest) = bytes.split_at(n);
                    bytes = rest;
                    let mut number = [0; 8];
                    number[..n.min(8)].copy_from_slice(&inside[..n.min(8)]);
                    (u64::from_le_bytes(number), inside)
                }
            };
            found.push((key / 8, number, inside));
        }
        found
    }
    let bytes = fs::read(path).unwrap();
    let (mut rest, mut found) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        let n = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        let crc = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
        assert_eq!((crc(8), crc(12 + n)), (sum(&rest[..8]), sum(&rest[12..12 + n])));
        let event = fields(&rest[12..12 + n]);
        let of = |field: u64| event.iter().find(|(number, ..)| *number == field);
        if found.is_empty() {
            assert_eq!(of(3).unwrap().2, b"brain.Event:2");
        }
        let values = of(5).map(|summary| {
            let one = |value: (u64, u64, &[u8])| {
                let parts = fields(value.2);
                let tag = String::from_utf8(parts[0].2.to_vec()).unwrap();
                (tag, f32::from_bits(parts[1].1 as u32))
            };
            fields(summary.2).into_iter().map(one).collect()
        });
        let step = of(2).map_or(0, |step| step.1);
        found.push((step, f64::from_bits(of(1).unwrap().1), values.unwrap_or_default()));
        rest = &rest[16 + n..];
    }
    found
}

#[test]
fn curves_are_written_for_tensorboard() {
    let cli = Cli::trained();
    cli.ok(&[&["train", "--out", "other/second", "--set", "seed=2"], SMALL].concat());
    let args = ["compare", "run", "other/second", "--tensorboard", "tb", "-q"];
    cli.ok(&args);
    let files = ["tb/run", "tb/second"].map(|folder| {
        let all: Vec<_> = fs::read_dir(cli.path(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(all.len() == 1 && all[0].to_str().unwrap().contains("tfevents"), "{all:?}");
        all[0].clone()
    });
    let metrics = fs::read_to_string(cli.path("run/metrics.jsonl")).unwrap();
    let lines: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let read = events(&files[0]);
    let mut points = 0;
    for line in lines {
        let tags: &[(&str, &str)] = match line["event"].as_str().unwrap() {
            "estimate" => &[("train_loss", "train/loss"), ("val_loss", "val/loss"), ("tokens", "tokens")],
            "step" => &[
                ("loss", "train/batch_loss"),
                ("lr", "lr"),
                ("grad_norm", "grad_norm"),
                ("tokens_per_s", "tokens_per_s"),
            ],
            _ => continue,
        };
        for (key, tag) in tags {
            let has = |(step, _, values): &&(u64, f64, Vec<(String, f32)>)| {
                *step == line["step"].as_u64().unwrap() && values.iter().any(|(name, _)| name == tag)
            };
            let (_, _, values) = read.iter().find(has).unwrap_or_else(|| panic!("{tag} of {line}"));
            let value = values.iter().find(|(name, _)| name == tag).unwrap().1;
            assert_eq!(value, line[key].as_f64().unwrap() as f32, "{tag} of {line}");
            points += 1;
        }
    }
    assert_eq!(points, 3 * 3 + 2 * 4);
    // Time goes on as training did, from when the run began.
    assert!(read.is_sorted_by(|a, b| a.1 <= b.1) && read[0].1 > 1.7e9 && read.last().unwrap().1 > read[0].1);
    // The same again takes its own place; what another program wrote stays.
    let before = fs::read(&files[1]).unwrap();
    cli.ok(&args);
    assert_eq!(fs::read(&files[1]).unwrap(), before);
    // What is there of an earlier call would be shown beside it.
    let told = |args: &[&str]| String::from_utf8_lossy(&cli.run(args).stderr).into_owned();
    assert!(!told(&args[..5]).contains("TensorBoard shows"));
    let one = told(&["compare", "run", "--tensorboard", "tb"]);
    assert!(one.contains("note: tb has 1 event file of earlier calls or other programs"), "{one}");
    let theirs = files[0].with_file_name("events.out.tfevents.1.host");
    fs::write(&theirs, "theirs").unwrap();
    cli.fails(&args, 1, "events.out.tfevents.1.host is not from kinglet's --tensorboard: choose another folder");
    fs::rename(&theirs, &files[0]).unwrap();
    cli.fails(&args, 1, "is not from kinglet's --tensorboard");
    cli.fails(&["compare", "run", "--tensorboard", "."], 1, "is not from kinglet's --tensorboard");
    let table = cli.run(&["compare", "run", "--csv", "all.csv"]);
    assert!(
        String::from_utf8_lossy(&table.stderr)
            .contains("note: --csv leaves out 3 events other than estimates and updates"),
        "{table:?}"
    );
}
