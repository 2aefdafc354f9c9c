//! Tensors of safetensors files: of one, or of several that an index lists.

use super::{
    bytes::Source,
    foreign::{Dtype, Foreign, Tensor},
};
use crate::system::disk;
use kinglet_core::error::{Error, Result};
use safetensors::{
    Dtype as Theirs,
    tensor::{Metadata, TensorInfo},
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    path::{Component, Path},
    sync::Arc,
};

/// Largest accepted header, in bytes.
const LONGEST_HEADER: u64 = 1 << 26;

/// Most files of one model.
const MOST_SHARDS: usize = 10_000;

/// Whether a file begins as safetensors do: the length of a header, and its brace.
pub(super) fn is(start: &[u8], len: u64) -> bool {
    let size = start.first_chunk().map(|size| u64::from_le_bytes(*size));
    size.is_some_and(|size| size <= len) && start.get(8) == Some(&b'{')
}

/// Reads one file.
///
/// # Errors
/// If it is not a safetensors file, or is damaged.
pub(super) fn read(path: &Path) -> Result<Foreign<'static>> {
    let mut foreign = Foreign::default();
    add(path, &mut foreign)?;
    Ok(foreign)
}

/// Reads the files that a `*.safetensors.index.json` lists.
///
/// # Errors
/// If one of them is missing, damaged, or elsewhere.
pub(super) fn read_shards(index: &Path) -> Result<Foreign<'static>> {
    let (mut foreign, weights) = (Foreign::default(), shards(index)?);
    let files: BTreeSet<&str> = weights.iter().map(|(_, file)| file.as_str()).collect();
    for file in &files {
        add(&index.with_file_name(file), &mut foreign)?;
    }
    refuse_missing(index, &weights, &foreign)?;
    Ok(foreign)
}

/// Refuses an index that names tensors which its files do not have.
pub(super) fn refuse_missing(index: &Path, weights: &[(String, String)], foreign: &Foreign) -> Result<()> {
    match weights.iter().find(|(name, _)| !foreign.tensors.contains_key(name)) {
        Some((name, file)) => Err(Error::damaged(index, format!("{name} should be in {file}, but is not"))),
        None => Ok(()),
    }
}

/// The tensors that an index lists, and in which file each is.
pub(super) fn shards(index: &Path) -> Result<Vec<(String, String)>> {
    let bad = |what: String| Error::damaged(index, what);
    let text = disk::read_text(index, LONGEST_HEADER)?;
    let text: Value = serde_json::from_str(&text).map_err(|error| bad(format!("not an index: {error}")))?;
    let map = text.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| bad("not an index of shards: it has no weight_map".to_owned()))?;
    let mut weights = Vec::with_capacity(map.len());
    for (name, file) in map {
        let file = file.as_str().unwrap_or_default();
        // A name and nothing else, so that no file outside the folder is read.
        let mut parts = Path::new(file).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(bad(format!("{name} is in {file:?}, which is no file of this folder")));
        }
        weights.push((name.clone(), file.to_owned()));
    }
    let files: BTreeSet<&String> = weights.iter().map(|(_, file)| file).collect();
    if files.len() > MOST_SHARDS {
        return Err(bad(format!("it lists {} files", files.len())));
    }
    Ok(weights)
}

/// Adds the tensors of a file.
fn add(path: &Path, foreign: &mut Foreign<'static>) -> Result<()> {
    let source = Source::open(path)?;
    let size = match source.bytes(0, 8) {
        Ok(size) => u64::from_le_bytes(size.try_into().expect("eight bytes")),
        Err(_) => return Err(source.damaged("it is too short for a safetensors file")),
    };
    if size > LONGEST_HEADER || size > source.len() - 8 {
        return Err(source.damaged(format!("not a safetensors file: its header would have {size} bytes")));
    }
    let header = source.bytes(8, size as usize)?;
    let header: Metadata =
        serde_json::from_slice(&header).map_err(|error| source.damaged(format!("not a safetensors file: {error}")))?;
    for (name, info) in header.tensors() {
        let tensor = tensor(&source, &name, info, 8 + size)?;
        if foreign.tensors.insert(name.clone(), tensor).is_some() {
            return Err(source.damaged(format!("{name} is there twice")));
        }
    }
    Ok(())
}

/// A tensor of a file whose data begin at byte `data`.
fn tensor(source: &Arc<Source>, name: &str, info: &TensorInfo, data: u64) -> Result<Tensor<'static>> {
    let at = data.checked_add(info.data_offsets.0 as u64);
    let at = at.ok_or_else(|| source.damaged(format!("{name} would be outside of it")))?;
    let dtype = match info.dtype {
        Theirs::F64 => Dtype::F64,
        Theirs::F32 => Dtype::F32,
        Theirs::F16 => Dtype::F16,
        Theirs::BF16 => Dtype::Bf16,
        Theirs::I64 => Dtype::I64,
        Theirs::I32 => Dtype::I32,
        Theirs::I16 => Dtype::I16,
        Theirs::I8 => Dtype::I8,
        Theirs::U8 => Dtype::U8,
        Theirs::BOOL => Dtype::Bool,
        // It may be one that nobody wants; reading it is an error.
        other => {
            let what = format!("{}: {name} is of type {other:?}, which kinglet does not read", source.path().display());
            return Ok(Tensor::new(info.shape.clone(), Dtype::F32, move || Err(Error::Data(what.clone()))));
        }
    };
    source.tensor(info.shape.clone(), dtype, at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A file with this header and these data.
    fn file(header: &str, data: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("model.safetensors");
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat();
        fs::write(&path, bytes).unwrap();
        (temp, path)
    }

    #[test]
    fn every_type_of_float_and_integer_is_read() {
        let half = |x: f32| half::f16::from_f32(x).to_le_bytes();
        let brain = |x: f32| half::bf16::from_f32(x).to_le_bytes();
        let each: [(&str, usize, Vec<u8>, f32); 10] = [
            ("F64", 8, (-1.5f64).to_le_bytes().to_vec(), -1.5),
            ("F32", 4, 0.1f32.to_le_bytes().to_vec(), 0.1),
            ("F16", 2, half(6e-8).to_vec(), 5.9604645e-8),
            ("BF16", 2, brain(-3.0).to_vec(), -3.0),
            ("I64", 8, (-7i64).to_le_bytes().to_vec(), -7.0),
            ("I32", 4, 65_536i32.to_le_bytes().to_vec(), 65_536.0),
            ("I16", 2, (-300i16).to_le_bytes().to_vec(), -300.0),
            ("I8", 1, vec![0x80], -128.0),
            ("U8", 1, vec![200], 200.0),
            ("BOOL", 1, vec![1], 1.0),
        ];
        for (name, size, bytes, want) in each {
            let header = format!(r#"{{"x":{{"dtype":"{name}","shape":[1],"data_offsets":[0,{size}]}}}}"#);
            let (_temp, path) = file(&header, &bytes);
            let foreign = read(&path).unwrap();
            assert_eq!(*foreign.tensors["x"].read().unwrap(), [want], "{name}");
        }
    }

    #[test]
    fn what_a_file_only_claims_is_refused_without_memory_for_it() {
        let of = |shape: &str, from: u64, to: u64| {
            format!(r#"{{"x":{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}}}"#)
        };
        for (header, message) in [
            (of("[1000000000000]", 0, 4_000_000_000_000), "it is cut off"),
            (of("[3]", 0, 12), "it is cut off"),
            (of("[1]", 0, 8), "not a safetensors file"),
            (of("[4611686018427387904, 4611686018427387904]", 0, 0), "not a safetensors file"),
            ("{".to_owned(), "not a safetensors file"),
        ] {
            let (_temp, path) = file(&header, &[0; 8]);
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(message), "{header}: {error}");
        }
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x");
        for (bytes, message) in [(&[][..], "too short"), (&[0xff; 16][..], "its header would have")] {
            fs::write(&path, bytes).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn shards_are_one_model_and_stay_in_their_folder() {
        let (temp, path) = file(r#"{"x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#, &[1, 2]);
        let folder = temp.path();
        fs::copy(&path, folder.join("a.safetensors")).unwrap();
        let index = folder.join("model.safetensors.index.json");
        for (map, message) in [
            (r#"{"weight_map": {"x": "a.safetensors"}}"#, ""),
            (r#"{"weight_map": {"x": "../a.safetensors"}}"#, "which is no file of this folder"),
            (r#"{"weight_map": {"x": "/a.safetensors"}}"#, "which is no file of this folder"),
            (r#"{"weight_map": {"x": ""}}"#, "which is no file of this folder"),
            (r#"{"weight_map": {"x": "b.safetensors"}}"#, "cannot open"),
            (r#"{"weight_map": {"x": "a.safetensors", "y": "a.safetensors"}}"#, "y should be in a.safetensors"),
            (r#"{"weight_map": {"x": "a.safetensors", "y": "model.safetensors"}}"#, "x is there twice"),
            ("{}", "it has no weight_map"),
            ("x", "not an index"),
        ] {
            fs::write(&index, map).unwrap();
            match read_shards(&index) {
                Ok(foreign) => assert!(message.is_empty() && foreign.tensors.len() == 1, "{map}"),
                Err(error) => assert!(!message.is_empty() && error.to_string().contains(message), "{map}: {error}"),
            }
        }
    }
}
