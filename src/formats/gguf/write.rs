//! Writes a GGUF of version 3.

use super::{
    blocks,
    read::{ALIGNMENT, ALIGNMENT_KEY, MAGIC, TYPES},
};
use crate::{
    formats::foreign::{Dtype, Foreign, Tensor},
    system::disk,
    text::many,
};
use kinglet_core::{
    config::Quantization,
    error::{Error, Result},
    quant::Rounded,
};
use std::{io, path::Path};

/// The version that is written.
const VERSION: u32 = 3;

/// Numbers that are encoded at a time: whole blocks.
const PIECE: usize = 1 << 16;

/// A value of a key.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kv {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
}

/// Keys and values in the order in which they are written.
pub(super) type Keys = Vec<(String, Kv)>;

/// What a model's file became.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Its size in bytes.
    pub bytes: u64,
    /// How many tensors it has.
    pub tensors: usize,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// How matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Types {
    /// Those of the blocks, and others that have few bits in the model.
    pub matrices: Dtype,
    /// Those of tokens.
    pub tokens: Dtype,
}

impl From<Dtype> for Types {
    /// All of them as llama.cpp's own files of this type: where matrices have 4 or 5 bits, those of tokens have 8, which they need
    /// more and are few.
    fn from(dtype: Dtype) -> Types {
        let tokens = if matches!(dtype, Dtype::Q4_0 | Dtype::Q5_0) { Dtype::Q8_0 } else { dtype };
        Types { matrices: dtype, tokens }
    }
}

/// How each tensor is stored; vectors and the table of positions in f32.
fn stored(name: &str, tensor: &Tensor, types: Types) -> Dtype {
    let of_tokens = ["token_embd.weight", "output.weight"].contains(&name);
    let dtype = if of_tokens && tensor.rounded.is_none() { types.tokens } else { types.matrices };
    match dtype {
        _ if tensor.shape.len() < 2 || name == "position_embd.weight" => Dtype::F32,
        Dtype::Q4_0 | Dtype::Q5_0 | Dtype::Q8_0 if blocks::bytes(dtype, &tensor.shape).is_none() => Dtype::F16,
        plain => plain,
    }
}

/// The integers that a tensor has, if its type has them too.
fn own<'a>(tensor: &'a Tensor, dtype: Dtype) -> Option<&'a Rounded> {
    tensor.rounded.as_ref().filter(|matrix| blocks::has(dtype, matrix.scheme()))
}

/// What llama.cpp calls a file of this type.
pub(super) fn file_type(dtype: Dtype) -> Result<u32> {
    match dtype {
        Dtype::F32 => Ok(0),
        Dtype::F16 => Ok(1),
        Dtype::Q4_0 => Ok(2),
        Dtype::Q8_0 => Ok(7),
        Dtype::Q5_0 => Ok(8),
        Dtype::Bf16 => Ok(32),
        other => {
            let name = other.name();
            Err(Error::Data(format!("a GGUF is written as f32, f16, bf16, q8_0, q5_0 or q4_0, not as {name}")))
        }
    }
}

/// Writes a file, whole or not at all.
pub(super) fn file(path: &Path, keys: &Keys, foreign: &Foreign, types: Types) -> Result<Written> {
    let mut written = Written { tensors: foreign.tensors.len(), ..Written::default() };
    let tensors: Vec<_> =
        foreign.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor, stored(name, tensor, types))).collect();
    let head = head(keys, &tensors);
    written.bytes = head.len() as u64;
    let mut failed = None;
    let result = disk::write_whole_by(path, |file| {
        file.write_all(&head)?;
        for (name, tensor, dtype) in &tensors {
            let bytes = numbers(file, tensor, *dtype).map_err(|error| match error {
                Failed::Io(error) => error,
                Failed::Data(error) => {
                    failed = Some(Error::Data(format!("the tensor {name}: {error}")));
                    io::ErrorKind::InvalidData.into()
                }
            })?;
            written.bytes += bytes;
        }
        Ok(())
    });
    if let Some(error) = failed {
        return Err(error);
    }
    result.map_err(Error::io("write", path))?;
    written.notes.extend(other_types(&tensors, types));
    written.notes.extend(own_integers(&tensors, types));
    written.notes.extend(not_blocks(&tensors, types.matrices));
    Ok(written)
}

/// Says which tensors have another type than was asked for, and why.
fn other_types(tensors: &[(&str, &Tensor, Dtype)], types: Types) -> Option<String> {
    let dtype = types.matrices;
    let count = |is: &dyn Fn(&Dtype) -> bool| tensors.iter().filter(|(.., stored)| is(stored)).count();
    let (exact, better) = (count(&|stored| *stored == Dtype::F32), count(&|stored| *stored == Dtype::Q8_0));
    if dtype == Dtype::F32 {
        return None;
    }
    let mut said = format!("{} tensors are {}", count(&|stored| *stored == dtype), dtype.name());
    if dtype != Dtype::Q8_0 && better > 0 {
        said += &format!(", the {better} of tokens (token_embd, output) q8_0");
    }
    let tokens = if types.tokens == Dtype::F32 { ", and what has to do with tokens" } else { "" };
    if exact > 0 {
        said += &format!(", {exact} f32: norms, biases and positions{tokens}");
    }
    Some(said)
}

/// Says what became of matrices that have few bits in the model.
fn own_integers(tensors: &[(&str, &Tensor, Dtype)], types: Types) -> Option<String> {
    if !matches!(types.matrices, Dtype::Q4_0 | Dtype::Q5_0 | Dtype::Q8_0) {
        return None;
    }
    let scheme = tensors.iter().find_map(|(_, tensor, _)| Some(tensor.rounded.as_ref()?.scheme()))?;
    let own = tensors.iter().filter(|(_, tensor, dtype)| own(tensor, *dtype).is_some()).count();
    let of = tensors.iter().filter(|(_, tensor, _)| tensor.rounded.is_some()).count();
    let (own, of) = (many(own as u64, "matrix has", "matrices have"), of - own);
    let name = types.matrices.name();
    let scales = if scheme == Quantization::W8 { ", with scales rounded to f16" } else { "" };
    let mut said = format!("{own} the model's own integers{scales}");
    if of > 0 {
        said += &format!("; {of} others are rounded again, or multiplied out, where {name} does not have theirs");
    }
    Some(said)
}

/// Says which matrices are not stored as asked.
fn not_blocks(tensors: &[(&str, &Tensor, Dtype)], dtype: Dtype) -> Option<String> {
    let quantized = matches!(dtype, Dtype::Q4_0 | Dtype::Q5_0 | Dtype::Q8_0);
    let mut whole = tensors.iter().filter(|(.., stored)| quantized && *stored == Dtype::F16).peekable();
    let (name, tensor, _) = *whole.peek()?;
    let (row, name_of) = (tensor.shape.last().copied().unwrap_or(0), dtype.name());
    let count = whole.count();
    Some(format!(
        "{count} matrices are f16 instead of {name_of}, such as {name}: their rows, here of {row} numbers, are not whole \
         blocks of {}",
        blocks::BLOCK
    ))
}

/// What stands before the numbers, padding included.
fn head(keys: &Keys, tensors: &[(&str, &Tensor, Dtype)]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    for (name, value) in keys {
        debug_assert_ne!(name, ALIGNMENT_KEY);
        text(&mut out, name);
        write_value(&mut out, value);
    }
    let mut offset = 0;
    for (name, tensor, dtype) in tensors {
        text(&mut out, name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|n| out.extend((*n as u64).to_le_bytes()));
        let number = TYPES.iter().find(|(_, known)| known == dtype).expect("a type of GGUF").0;
        out.extend(number.to_le_bytes());
        out.extend(u64::to_le_bytes(offset));
        offset += size(tensor, *dtype).next_multiple_of(ALIGNMENT);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
    out
}

fn size(tensor: &Tensor, dtype: Dtype) -> u64 {
    blocks::bytes(dtype, &tensor.shape).expect("a type that fits the rows was chosen")
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// The type of a list is written even if it is empty: llama.cpp takes an empty list of merges only if it is one of text.
fn write_value(out: &mut Vec<u8>, value: &Kv) {
    let kind = |out: &mut Vec<u8>, kind: u32| out.extend(kind.to_le_bytes());
    let list = |out: &mut Vec<u8>, of: u32, len: usize| {
        kind(out, 9);
        kind(out, of);
        out.extend((len as u64).to_le_bytes());
    };
    match value {
        Kv::U32(n) => {
            kind(out, 4);
            out.extend(n.to_le_bytes());
        }
        Kv::F32(x) => {
            kind(out, 6);
            out.extend(x.to_le_bytes());
        }
        Kv::Bool(yes) => {
            kind(out, 7);
            out.push(u8::from(*yes));
        }
        Kv::Text(value) => {
            kind(out, 8);
            text(out, value);
        }
        Kv::Texts(values) => {
            list(out, 8, values.len());
            values.iter().for_each(|value| text(out, value));
        }
        Kv::I32s(values) => {
            list(out, 5, values.len());
            values.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
    }
}

/// Why a tensor was not written.
enum Failed {
    Io(io::Error),
    Data(String),
}

/// Writes a tensor and its padding; returns how many bytes that is.
fn numbers(file: &mut dyn io::Write, tensor: &Tensor, dtype: Dtype) -> Result<u64, Failed> {
    let mut bytes = Vec::new();
    if let Some(matrix) = own(tensor, dtype) {
        blocks::encode_rounded(dtype, matrix, &mut bytes).map_err(Failed::Data)?;
        file.write_all(&bytes).map_err(Failed::Io)?;
    } else {
        let numbers = tensor.read().map_err(|error| Failed::Data(error.to_string()))?;
        for piece in numbers.chunks(PIECE) {
            bytes.clear();
            blocks::encode(dtype, piece, &mut bytes).map_err(Failed::Data)?;
            file.write_all(&bytes).map_err(Failed::Io)?;
        }
    }
    let (size, whole) = (size(tensor, dtype), size(tensor, dtype).next_multiple_of(ALIGNMENT));
    file.write_all(&[0; ALIGNMENT as usize][..(whole - size) as usize]).map_err(Failed::Io)?;
    Ok(whole)
}
