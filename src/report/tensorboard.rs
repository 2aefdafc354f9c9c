//! The curves of a run as an event file of TensorBoard's, which other trackers import too.
//!
//! A file is a row of records: the length of the data (8 bytes), the masked CRC-32C of these, the data, and its masked
//! CRC-32C. Each record's data is an `Event`, a message of protocol buffers.

use super::long::LeftOut;
use crate::{
    run::{EstimateRecord, Record, RunDir, StepRecord},
    system::disk::{create_folder, write_whole_by},
};
use kinglet_core::error::{Error, Result};
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

/// The file of a run. TensorBoard reads files with `tfevents` in their names.
const FILE: &str = "events.out.tfevents.0000000000.kinglet";

/// What the first record says about who wrote the file.
const WRITER: &str = "kinglet";

/// What was written of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The file.
    pub path: PathBuf,
    /// Points of all curves.
    pub points: u64,
    /// What is in no curve.
    pub left_out: LeftOut,
    /// Whether seconds of training are not recorded, so that all points have the same time.
    pub timeless: bool,
}

/// Writes the curves of a run into a folder of its own, in place of what was written there before. Numbers become `f32`,
/// since the format has no other. A point's time is when the run began, as far as its files tell, and the seconds of training
/// until then.
///
/// # Errors
/// If metrics cannot be read, the folder holds anything else, or the file cannot be written.
pub fn write(run: &RunDir, folder: &Path) -> Result<Written> {
    refuse_other(folder)?;
    let began = began(run);
    let mut events = Events { began, ..Events::default() };
    let mut written = Written { path: folder.join(FILE), ..Written::default() };
    written.left_out.damaged = run.records(|record| match record {
        Record::Step(at) => events.waiting.push(at),
        Record::Estimate(at) => events.estimate(at),
        _ => written.left_out.events += 1,
    })?;
    events.release(None);
    (written.points, written.timeless) = (events.points, !events.timed);
    create_folder(folder)?;
    let write = |file: &mut dyn Write| {
        record(file, &header(began))?;
        file.write_all(&events.bytes)
    };
    write_whole_by(&written.path, write).map_err(Error::io("write", &written.path))?;
    Ok(written)
}

/// Refuses a folder with anything that is not from here: TensorBoard would show its curves as the run's.
fn refuse_other(folder: &Path) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::io("read", folder))?,
    };
    for entry in entries {
        let entry = entry.map_err(Error::io("read", folder))?;
        // Runs may be in each other's folders.
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let is_ours = || entry.file_name() == FILE && is_written_here(&entry.path());
        if !is_folder && !is_ours() {
            let name = entry.file_name();
            let what = format!("{} is not from kinglet's --tensorboard: choose another folder", name.display());
            return Err(Error::run(folder, what));
        }
    }
    Ok(())
}

/// How many event files are in a folder and the folders in it besides these: TensorBoard shows their curves as well.
pub fn others(folder: &Path, written: &[PathBuf]) -> u64 {
    let files = walkdir::WalkDir::new(folder).into_iter().flatten().filter(|entry| entry.file_type().is_file());
    let events = files.filter(|entry| entry.file_name().to_string_lossy().contains("tfevents"));
    events.filter(|entry| !written.iter().any(|path| path == entry.path())).count() as u64
}

fn is_written_here(path: &Path) -> bool {
    let mut start = [0; 64];
    let begins = fs::File::open(path).and_then(|mut file| io::Read::read(&mut file, &mut start));
    begins.is_ok_and(|n| start[..n].windows(WRITER.len()).any(|word| word == WRITER.as_bytes()))
}

/// Seconds since 1970 until the run began: the oldest of its files.
fn began(run: &RunDir) -> f64 {
    let changed = |entry: fs::DirEntry| entry.metadata().ok().filter(fs::Metadata::is_file)?.modified().ok();
    let files = fs::read_dir(run.path()).into_iter().flatten().flatten();
    let first = files.filter_map(changed).min().and_then(|first| first.duration_since(UNIX_EPOCH).ok());
    first.map_or(0.0, |since| since.as_secs_f64())
}

/// The records of a file, in order.
#[derive(Default)]
struct Events {
    bytes: Vec<u8>,
    began: f64,
    /// Updates since the last estimate: only estimates know the time.
    waiting: Vec<StepRecord>,
    /// Step and seconds of the last estimate, and the seconds of an update before it.
    last: (u64, f64, f64),
    timed: bool,
    points: u64,
}

impl Events {
    fn estimate(&mut self, at: EstimateRecord) {
        self.release(Some(&at));
        let (step, before, pace) = self.last;
        let train_s = at.train_s.unwrap_or(before);
        self.timed |= at.train_s.is_some_and(|train_s| train_s > 0.0);
        let steps = at.step.saturating_sub(step);
        let pace = if steps > 0 { (train_s - before) / steps as f64 } else { pace };
        self.last = (at.step, train_s, pace);
        let values = [
            ("train/loss", Some(at.train_loss)),
            ("val/loss", Some(at.val_loss)),
            ("val/bits_per_byte", at.bits_per_byte),
            ("old_val/loss", at.old_val_loss),
            ("tokens", at.tokens),
        ];
        self.add(at.step, train_s, &values);
    }

    /// Adds the updates that waited, between the last estimate and the next one; after the last, at the pace before it.
    fn release(&mut self, next: Option<&EstimateRecord>) {
        let (step, before, pace) = self.last;
        let paced = next.and_then(|next| Some((next.train_s? - before) / next.step.checked_sub(step)?.max(1) as f64));
        let pace = paced.unwrap_or(pace);
        for at in std::mem::take(&mut self.waiting) {
            let values = [
                ("train/batch_loss", Some(at.loss)),
                ("lr", Some(at.lr)),
                ("grad_norm", Some(at.grad_norm)),
                ("tokens_per_s", at.tokens_per_s),
            ];
            self.add(at.step, before + pace * at.step.saturating_sub(step) as f64, &values);
        }
    }

    fn add(&mut self, step: u64, train_s: f64, values: &[(&str, Option<f64>)]) {
        let values = values.iter().filter_map(|(tag, value)| Some((*tag, (*value)?)));
        let summary: Vec<u8> = values
            .flat_map(|(tag, value)| {
                self.points += 1;
                let mut one = message(1, tag.as_bytes());
                one.extend(key(2, FIXED_32));
                one.extend((value as f32).to_le_bytes());
                message(1, &one)
            })
            .collect();
        let mut event = wall_time(self.began + train_s);
        event.extend(key(2, VARINT));
        event.extend(varint(step));
        event.extend(message(5, &summary));
        record(&mut self.bytes, &event).expect("memory can be written");
    }
}

/// The first event: the version of the format, and who wrote the file.
fn header(began: f64) -> Vec<u8> {
    [wall_time(began), message(3, b"brain.Event:2"), message(10, &message(1, WRITER.as_bytes()))].concat()
}

fn wall_time(seconds: f64) -> Vec<u8> {
    [key(1, FIXED_64), seconds.to_le_bytes().to_vec()].concat()
}

/// How a field of a message is written.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const BYTES: u64 = 2;
const FIXED_32: u64 = 5;

fn key(field: u64, kind: u64) -> Vec<u8> {
    varint(field << 3 | kind)
}

/// A field that holds bytes: a text, or a message.
fn message(field: u64, bytes: &[u8]) -> Vec<u8> {
    [&key(field, BYTES)[..], &varint(bytes.len() as u64), bytes].concat()
}

/// Seven bits a byte, the lowest first; all but the last byte have the highest bit set.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn record(out: &mut (impl Write + ?Sized), data: &[u8]) -> io::Result<()> {
    let length = (data.len() as u64).to_le_bytes();
    out.write_all(&length)?;
    out.write_all(&masked_crc(&length).to_le_bytes())?;
    out.write_all(data)?;
    out.write_all(&masked_crc(data).to_le_bytes())
}

/// The CRC-32C (Castagnoli), turned and shifted, so that a checksum of bytes with checksums in them stays one.
fn masked_crc(bytes: &[u8]) -> u32 {
    let turned = |mut crc: u32| {
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
        crc
    };
    let crc = !bytes.iter().fold(!0, |crc, &byte| turned(crc ^ u32::from(byte)));
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_format() {
        // From the tests of TensorBoard, and the check value of CRC-32C.
        assert_eq!(masked_crc(b"\x1a\x11CRC test, one two"), 0x5794_d08a);
        assert_eq!(masked_crc(b"123456789"), 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn numbers_have_seven_bits_a_byte() {
        for (value, want) in [(0, &[0][..]), (127, &[127]), (128, &[128, 1]), (300, &[0xac, 2])] {
            assert_eq!(varint(value), want);
        }
        assert_eq!(varint(u64::MAX).len(), 10);
    }
}
