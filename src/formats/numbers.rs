//! Numbers as bytes, and the file of safetensors, written tensor by tensor.

use super::foreign::{Dtype, Foreign, Tensor};
use half::{bf16, f16};
use kinglet_core::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::{
    borrow::Cow,
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

/// Numbers that are converted at a time.
const PIECE: usize = 1 << 16;

/// Little-endian numbers of this type: f32, f16, bf16 or int8.
fn bytes(numbers: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F16 => numbers.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        Dtype::Bf16 => numbers.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
        Dtype::I8 => numbers.iter().map(|&x| (x as i8).cast_unsigned()).collect(),
        _ => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

/// Passes a tensor's numbers to `take`, as bytes.
///
/// # Errors
/// If it cannot be read, a number is too large for the type, or `take` fails.
pub(super) fn each(
    name: &str,
    tensor: &Tensor,
    dtype: Dtype,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let numbers = tensor.read().map_err(io::Error::other)?;
    for piece in numbers.chunks(PIECE) {
        if let Some(x) = piece.iter().find(|x| dtype == Dtype::F16 && f16::from_f32(**x).is_infinite()) {
            let what = format!("{name} has {x}, which is too large for f16: use another --dtype, such as bf16");
            return Err(io::Error::other(Error::Data(what)));
        }
        take(&bytes(piece, dtype))?;
    }
    Ok(())
}

/// The numbers as files of this type have them: f32, f16 or bf16.
pub(super) fn round(numbers: &mut [f32], dtype: Dtype) {
    match dtype {
        Dtype::F16 => numbers.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32()),
        Dtype::Bf16 => numbers.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32()),
        _ => {}
    }
}

/// The same of tensors, each when it is read.
pub(super) fn rounded<'a>(foreign: &'a Foreign, dtype: Dtype) -> Foreign<'a> {
    let mut rounded = Foreign { meta: foreign.meta.clone(), ..Foreign::default() };
    for (name, tensor) in &foreign.tensors {
        let read = move || {
            let mut numbers = tensor.read()?.into_owned();
            round(&mut numbers, dtype);
            Ok(Cow::Owned(numbers))
        };
        rounded.tensors.insert(name.clone(), Tensor::new(tensor.shape.clone(), Dtype::F32, read));
    }
    rounded
}

/// Refuses a type that only GGUF has.
///
/// # Errors
/// If it is one.
pub(super) fn check(dtype: Dtype, format: &str) -> Result<()> {
    match dtype {
        Dtype::F32 | Dtype::F16 | Dtype::Bf16 => Ok(()),
        other => {
            let name = other.name();
            Err(Error::BadConfig(format!("--dtype {name}: {format} has f32, f16 or bf16; gguf has {name} too")))
        }
    }
}

/// Writes tensors as safetensors do: the length of a header, the header, the numbers.
///
/// # Errors
/// As [`each`].
pub(super) fn safetensors(path: &Path, foreign: &Foreign, dtype: Dtype) -> io::Result<()> {
    // Integers stay what they are; beside them, all is f32.
    let of = |tensor: &Tensor| match (tensor.dtype, dtype) {
        (Dtype::I8, _) => (Dtype::I8, "I8"),
        (_, Dtype::F16) => (dtype, "F16"),
        (_, Dtype::Bf16) => (dtype, "BF16"),
        _ => (Dtype::F32, "F32"),
    };
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut at = 0;
    for (tensor_name, tensor) in &foreign.tensors {
        let (dtype, name) = of(tensor);
        let end = at + tensor.len() * dtype.size().expect("whole numbers");
        header.insert(tensor_name.clone(), json!({"dtype": name, "shape": tensor.shape, "data_offsets": [at, end]}));
        at = end;
    }
    let mut header = Value::Object(header).to_string();
    // Numbers begin where any of their types may.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut out = BufWriter::new(File::create(path)?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    for (name, tensor) in &foreign.tensors {
        each(name, tensor, of(tensor).0, |bytes| out.write_all(bytes))?;
    }
    out.flush()
}
