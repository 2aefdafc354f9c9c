//! Reads a GGUF: its keys at once, its tensors when they are wanted.
//!
//! ```text
//! "GGUF" version keys: tensors: keys (name, type, value)... tensors (name, dimensions, type, offset)... padding data
//! ```
//!
//! Nothing is allocated for what a file only claims: what is in memory was read from it.

use super::blocks;
use crate::{
    formats::foreign::{Dtype, Foreign, Tensor},
    system::disk::read_exact_at,
};
use kinglet_core::error::{Error, Result};
use serde_json::{Map, Value};
use std::{
    borrow::Cow,
    fs::File,
    io::{BufReader, Cursor, Read},
    path::Path,
    sync::Arc,
};

/// The first bytes of every file.
pub(super) const MAGIC: &[u8; 4] = b"GGUF";

/// Where tensors begin if the file does not say otherwise: at multiples of this.
pub(super) const ALIGNMENT: u64 = 32;

/// The key that says otherwise.
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";

/// The most that a file may hold beside its tensors: bytes of text, single values (a list has many), tensors, and the
/// bytes of a name.
const TEXT_LIMIT: u64 = 1 << 28;
const VALUE_LIMIT: u64 = 1 << 22;
const TENSOR_LIMIT: u64 = 1 << 16;
const NAME_LIMIT: u64 = 1 << 16;

/// Dimensions that ggml's tensors can have.
const DIMENSIONS: u32 = 4;

/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// The types of tensors by their numbers.
pub(super) const TYPES: [(u32, Dtype); 11] = [
    (0, Dtype::F32),
    (1, Dtype::F16),
    (2, Dtype::Q4_0),
    (6, Dtype::Q5_0),
    (8, Dtype::Q8_0),
    (24, Dtype::I8),
    (25, Dtype::I16),
    (26, Dtype::I32),
    (27, Dtype::I64),
    (28, Dtype::F64),
    (30, Dtype::Bf16),
];

/// Types that kinglet does not read.
const OTHERS: [(u32, &str); 21] = [
    (3, "Q4_1"),
    (7, "Q5_1"),
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (12, "Q4_K"),
    (13, "Q5_K"),
    (14, "Q6_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

/// Where the bytes come from.
#[derive(Clone, Debug)]
enum Source {
    File(Arc<File>),
    Memory(Arc<[u8]>),
}

impl Source {
    fn read(&self, bytes: &mut [u8], at: u64) -> std::io::Result<()> {
        match self {
            Source::File(file) => read_exact_at(file, bytes, at),
            Source::Memory(all) => {
                let mut cursor = Cursor::new(all);
                cursor.set_position(at);
                cursor.read_exact(bytes)
            }
        }
    }
}

/// Reads a file. Its keys become `meta`, an object of flat names such as `general.architecture`; its tensors stay in
/// the file until they are read.
///
/// # Errors
/// If it is not a GGUF, is damaged, or has tensors of a type that kinglet does not read.
pub fn read(path: &Path) -> Result<Foreign<'static>> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let len = file.metadata().map_err(Error::io("read", path))?.len();
    let source = Source::File(Arc::new(file.try_clone().map_err(Error::io("read", path))?));
    open(BufReader::with_capacity(1 << 16, file), len, &source).map_err(|what| Error::run(path, what))
}

/// The same for a file in memory.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(bytes: &[u8]) -> Result<Foreign<'static>> {
    let source = Source::Memory(bytes.into());
    open(bytes, bytes.len() as u64, &source).map_err(Error::Data)
}

fn open(input: impl Read, len: u64, source: &Source) -> Result<Foreign<'static>, String> {
    let head = Head::read(Input { input, at: 0, len, text: TEXT_LIMIT, values: VALUE_LIMIT, not_utf8: 0 })?;
    let mut foreign = Foreign::default();
    for Place { name, shape, dtype, at, .. } in head.places {
        let source = source.clone();
        let (len, label) = (shape.iter().product(), name.clone());
        let numbers = move || numbers(&source, dtype, len, at).map_err(|error| unreadable(&label, &error));
        foreign.tensors.insert(name, Tensor::new(shape, dtype, numbers));
    }
    if head.not_utf8 > 0 {
        foreign
            .notes
            .push(format!("{} strings of the file are not UTF-8: their bad bytes were replaced", head.not_utf8));
    }
    foreign.meta = Value::Object(head.keys);
    Ok(foreign)
}

fn unreadable(name: &str, error: &std::io::Error) -> Error {
    Error::Data(format!("cannot read the tensor {name}: {error}"))
}

/// The numbers of a tensor, decoded piece by piece, so that never both forms of it are in memory.
fn numbers(source: &Source, dtype: Dtype, len: usize, mut at: u64) -> std::io::Result<Cow<'static, [f32]>> {
    let (each, size) = blocks::unit(dtype);
    let mut numbers = Vec::with_capacity(len);
    let mut piece = vec![0; PIECE / size * size];
    while numbers.len() < len {
        let bytes = (len - numbers.len()) / each * size;
        let piece_len = piece.len().min(bytes);
        let piece = &mut piece[..piece_len];
        source.read(piece, at)?;
        numbers.extend(blocks::decode(dtype, piece));
        at += piece.len() as u64;
    }
    Ok(numbers.into())
}

/// A tensor's place in the file.
struct Place {
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
    at: u64,
    bytes: u64,
}

/// What stands before the numbers.
struct Head {
    keys: Map<String, Value>,
    places: Vec<Place>,
    not_utf8: u64,
}

impl Head {
    fn read<R: Read>(mut input: Input<R>) -> Result<Head, String> {
        if input.bytes::<4>().map_err(|_| "not a GGUF: it is too short")? != *MAGIC {
            return Err("not a GGUF: it does not begin with these letters".to_owned());
        }
        match input.u32()? {
            2 | 3 => {}
            1 => return Err("a GGUF of version 1, as of summer 2023; kinglet reads versions 2 and 3".to_owned()),
            // Read in the other order of bytes, a small number is a large one.
            version if version.swap_bytes() < 1 << 16 => {
                return Err("a GGUF for machines of the other byte order (big-endian)".to_owned());
            }
            version => return Err(format!("a GGUF of version {version}; kinglet reads versions 2 and 3")),
        }
        let (tensors, keys) = (input.u64()?, input.u64()?);
        if tensors > TENSOR_LIMIT {
            return Err(format!("damaged: it claims {tensors} tensors"));
        }
        let keys = input.keys(keys)?;
        let infos: Vec<Info> = (0..tensors).map(|_| input.info()).collect::<Result<_, String>>()?;
        let places = places(infos, alignment(&keys)?, input.at, input.len)?;
        Ok(Head { keys, places, not_utf8: input.not_utf8 })
    }
}

fn alignment(keys: &Map<String, Value>) -> Result<u64, String> {
    let Some(value) = keys.get(ALIGNMENT_KEY) else { return Ok(ALIGNMENT) };
    let alignment = value.as_u64().filter(|n| n.is_power_of_two() && *n <= 1 << 20);
    alignment.ok_or_else(|| format!("damaged: {ALIGNMENT_KEY} = {value} is not a power of two"))
}

/// A tensor as the file describes it; the offset is from the end of all descriptions.
struct Info {
    name: String,
    shape: Vec<usize>,
    kind: u32,
    offset: u64,
}

/// Where tensors are, if all that is claimed of them is possible.
fn places(infos: Vec<Info>, alignment: u64, end: u64, len: u64) -> Result<Vec<Place>, String> {
    refuse_others(&infos)?;
    let start = end.checked_next_multiple_of(alignment).ok_or("damaged: it ends nowhere")?;
    let place = |Info { name, shape, kind, offset }| {
        let dtype = TYPES.iter().find(|(number, _)| *number == kind).expect("others are refused").1;
        let bad = |what: String| format!("damaged: the tensor {name} {what}");
        let bytes = blocks::bytes(dtype, &shape)
            .ok_or_else(|| bad(format!("of shape {shape:?} cannot be stored as {}", dtype.name())))?;
        if !offset.is_multiple_of(alignment) {
            return Err(bad(format!("begins at {offset}, which is not a multiple of {alignment}")));
        }
        let last = start.checked_add(offset).and_then(|at| at.checked_add(bytes));
        match last.filter(|last| *last <= len) {
            Some(last) => Ok(Place { at: last - bytes, name, shape, dtype, bytes }),
            None => Err(bad(format!("of {bytes} bytes goes past the end of the file, which has {len}"))),
        }
    };
    let mut places: Vec<Place> = infos.into_iter().map(place).collect::<Result<_, String>>()?;
    places.sort_by_key(|place| place.at);
    if let Some((a, b)) = places.iter().zip(places.iter().skip(1)).find(|(a, b)| a.at + a.bytes > b.at) {
        return Err(format!("damaged: the tensors {} and {} overlap", a.name, b.name));
    }
    let mut names: Vec<&str> = places.iter().map(|place| place.name.as_str()).collect();
    names.sort_unstable();
    if let Some((name, _)) = names.iter().zip(names.iter().skip(1)).find(|(a, b)| a == b) {
        return Err(format!("damaged: there are two tensors {name}"));
    }
    Ok(places)
}

/// Names the type of a tensor that kinglet cannot read.
fn refuse_others(infos: &[Info]) -> Result<(), String> {
    let other = |info: &&Info| !TYPES.iter().any(|(number, _)| *number == info.kind);
    let Some(first) = infos.iter().find(other) else { return Ok(()) };
    let kind = OTHERS.iter().find(|(number, _)| *number == first.kind);
    let kind = kind.map_or_else(|| format!("type {}", first.kind), |(_, name)| (*name).to_owned());
    let count = infos.iter().filter(other).count();
    Err(format!(
        "the tensor {} is stored as {kind} ({count} of {} tensors are like that); kinglet reads f32, f16, bf16, q8_0, \
         q4_0 and q5_0. llama.cpp makes such a file: llama-quantize --allow-requantize FILE NEW q8_0",
        first.name,
        infos.len()
    ))
}

/// A file, read from front to back.
struct Input<R> {
    input: R,
    at: u64,
    len: u64,
    /// How much text, and how many values, may still come.
    text: u64,
    values: u64,
    /// Strings that were not UTF-8.
    not_utf8: u64,
}

impl<R: Read> Input<R> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), String> {
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                format!("damaged: it ends at byte {}, within its description", self.len)
            }
            _ => format!("cannot read: {error}"),
        })?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn string(&mut self) -> Result<String, String> {
        let len = self.u64()?;
        let left = self.len - self.at.min(self.len);
        if len > left {
            return Err(format!("damaged: at byte {} it claims {len} bytes of text, but has {left}", self.at));
        }
        self.text = self.text.checked_sub(len).ok_or_else(|| format!("it has more than {TEXT_LIMIT} bytes of text"))?;
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes)?;
        Ok(String::from_utf8(bytes).unwrap_or_else(|error| {
            self.not_utf8 += 1;
            String::from_utf8_lossy(error.as_bytes()).into_owned()
        }))
    }

    fn name(&mut self) -> Result<String, String> {
        let name = self.string()?;
        if name.is_empty() || name.len() as u64 > NAME_LIMIT {
            return Err(format!("damaged: at byte {} there is a name of {} bytes", self.at, name.len()));
        }
        Ok(name)
    }

    fn keys(&mut self, count: u64) -> Result<Map<String, Value>, String> {
        let mut keys = Map::new();
        for _ in 0..count {
            let name = self.name()?;
            let kind = self.u32()?;
            let value = self.value(kind)?;
            if keys.insert(name.clone(), value).is_some() {
                return Err(format!("damaged: there are two values of {name}"));
            }
        }
        Ok(keys)
    }

    fn value(&mut self, kind: u32) -> Result<Value, String> {
        self.values = self.values.checked_sub(1).ok_or_else(|| format!("it has more than {VALUE_LIMIT} values"))?;
        Ok(match kind {
            0 => self.bytes().map(u8::from_le_bytes)?.into(),
            1 => self.bytes().map(i8::from_le_bytes)?.into(),
            2 => self.bytes().map(u16::from_le_bytes)?.into(),
            3 => self.bytes().map(i16::from_le_bytes)?.into(),
            4 => self.u32()?.into(),
            5 => self.bytes().map(i32::from_le_bytes)?.into(),
            6 => shortest(self.bytes().map(f32::from_le_bytes)?),
            7 => match self.bytes()? {
                [0] => false.into(),
                [1] => true.into(),
                [other] => return Err(format!("damaged: {other} is neither true nor false")),
            },
            8 => self.string()?.into(),
            9 => self.list()?,
            10 => self.u64()?.into(),
            11 => self.bytes().map(i64::from_le_bytes)?.into(),
            12 => self.bytes().map(f64::from_le_bytes)?.into(),
            other => return Err(format!("damaged: at byte {} there is a value of type {other}", self.at)),
        })
    }

    fn list(&mut self) -> Result<Value, String> {
        let (kind, len) = (self.u32()?, self.u64()?);
        if kind == 9 {
            return Err("damaged: a list of lists".to_owned());
        }
        if len > self.values {
            return Err(format!("damaged: at byte {} it claims a list of {len} values", self.at));
        }
        (0..len).map(|_| self.value(kind)).collect::<Result<Vec<_>, _>>().map(Value::Array)
    }

    fn info(&mut self) -> Result<Info, String> {
        let name = self.name()?;
        let dimensions = self.u32()?;
        if !(1..=DIMENSIONS).contains(&dimensions) {
            return Err(format!("damaged: the tensor {name} has {dimensions} dimensions"));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            match usize::try_from(self.u64()?) {
                Ok(n) if n > 0 => shape.push(n),
                _ => return Err(format!("damaged: the tensor {name} has an impossible size")),
            }
        }
        // ggml names the fastest dimension first.
        shape.reverse();
        Ok(Info { name, shape, kind: self.u32()?, offset: self.u64()? })
    }
}

/// A number that was written as f32: 1e-5 is 1e-5, and not 9.999999747378752e-6. What is no number is null.
fn shortest(x: f32) -> Value {
    x.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}
