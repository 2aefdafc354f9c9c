//! The binary files of llm.c (GPT-2) and of llama2.c (Llama): a header, then all tensors of one kind, block after block.

use super::{
    bytes::Source,
    foreign::{Dtype, Foreign, Tensor},
};
use kinglet_core::error::{Error, Result};
use serde_json::json;
use std::{borrow::Cow, path::Path, sync::Arc};

/// First number of a model of llm.c.
const GPT2: i32 = 20_240_326;

/// First numbers of other files of llm.c, and what they are.
const OTHERS: [(i32, &str); 4] = [
    (20_240_327, "a state that its tests compare with"),
    (20_240_328, "a tokenizer without its merges"),
    (20_240_520, "tokens to train on"),
    (20_240_803, "a model of Llama 3, which kinglet does not read"),
];

/// First number of a file of llama2.c since it has one: "ak42".
const AK42: i32 = 0x616b_3432;

/// Numbers of a header of llm.c, and bytes of one of llama2.c.
const HEADER: usize = 256;

/// Which of the two programs wrote a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    /// llm.c.
    Llm,
    /// llama2.c.
    Llama2,
}

/// Which program wrote a file that begins like this, if it was one of them. The oldest files of llama2.c begin with
/// sizes, so only their length tells.
pub(super) fn is(start: &[u8], len: u64) -> Option<Program> {
    let numbers = integers(start);
    match *numbers.first()? {
        GPT2 => Some(Program::Llm),
        first if OTHERS.iter().any(|(other, _)| *other == first) => Some(Program::Llm),
        AK42 => Some(Program::Llama2),
        _ => Sizes::of(numbers.get(..7)?).filter(|sizes| sizes.legacy_len() == Some(len)).map(|_| Program::Llama2),
    }
}

fn integers(bytes: &[u8]) -> Vec<i32> {
    bytes.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect()
}

/// Takes tensors one after the other.
struct Cursor {
    source: Arc<Source>,
    at: u64,
    dtype: Dtype,
    foreign: Foreign<'static>,
}

impl Cursor {
    fn new(source: Arc<Source>, at: usize, dtype: Dtype) -> Cursor {
        Cursor { source, at: at as u64, dtype, foreign: Foreign::default() }
    }

    /// Takes one tensor; `rows` are how many rows of it are kept.
    fn take(&mut self, name: String, shape: &[usize], rows: usize) -> Result<()> {
        let mut kept = shape.to_vec();
        kept[0] = rows;
        let tensor = self.source.tensor(kept, self.dtype, self.at)?;
        self.foreign.tensors.insert(name, tensor);
        self.skip(
            shape.iter().map(|&n| n as u64).product::<u64>().saturating_mul(self.dtype.size().unwrap_or(4) as u64),
        )
    }

    /// Takes one tensor of each of `n` blocks; `{l}` in the name is the block.
    fn each(&mut self, n: usize, name: &str, shape: &[usize]) -> Result<()> {
        (0..n).try_for_each(|l| self.take(name.replace("{l}", &l.to_string()), shape, shape[0]))
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        self.at = self.at.checked_add(bytes).ok_or_else(|| self.source.damaged("its sizes are too large"))?;
        Ok(())
    }

    /// All tensors. The file must end here.
    fn end(self) -> Result<Foreign<'static>> {
        if self.at != self.source.len() {
            let (at, len) = (self.at, self.source.len());
            return Err(self.source.damaged(format!("its tensors end at byte {at}, but it has {len}")));
        }
        Ok(self.foreign)
    }
}

/// Sizes in a header must be positive, and small enough that no product of a few of them overflows.
fn sizes<const N: usize>(source: &Source, names: [&str; N], numbers: &[i32]) -> Result<[usize; N]> {
    let mut out = [0; N];
    for ((out, name), &number) in out.iter_mut().zip(names).zip(numbers) {
        *out = usize::try_from(number)
            .ok()
            .filter(|n| (1..1 << 20).contains(n))
            .ok_or_else(|| source.damaged(format!("{name} = {number} in its header cannot be")))?;
    }
    Ok(out)
}

/// Reads a model of llm.c. The rows with which it pads its vocabulary are left out.
///
/// # Errors
/// If it is none, or not as long as its header says.
pub(super) fn read_llm_c(path: &Path) -> Result<Foreign<'static>> {
    let source = Source::open(path)?;
    let header = integers(&source.bytes(0, 4 * HEADER)?);
    if let Some((_, what)) = OTHERS.iter().find(|(other, _)| *other == header[0]) {
        return Err(Error::run(path, format!("this file of llm.c is {what}; a model begins with {GPT2}")));
    }
    let dtype = match (header[0], header[1]) {
        (GPT2, 1 | 3) => Dtype::F32,
        (GPT2, 5) => Dtype::Bf16,
        (GPT2, version) => {
            return Err(source.damaged(format!("version {version} of llm.c's files: kinglet reads 1, 3 and 5")));
        }
        _ => return Err(source.damaged("not a model of llm.c")),
    };
    let names = ["max_seq_len", "vocab_size", "num_layers", "num_heads", "channels"];
    let [t, v, l, heads, c] = sizes(&source, names, &header[2..7])?;
    // The first version had no padding.
    let [padded] = if header[1] == 1 { [v] } else { sizes(&source, ["padded_vocab_size"], &header[7..8])? };
    if padded < v {
        return Err(source.damaged(format!("padded_vocab_size = {padded} is less than vocab_size = {v}")));
    }
    let mut at = Cursor::new(source, 4 * HEADER, dtype);
    at.take("transformer.wte.weight".into(), &[padded, c], v)?;
    at.take("transformer.wpe.weight".into(), &[t, c], t)?;
    for (name, shape) in [
        ("ln_1.weight", &[c][..]),
        ("ln_1.bias", &[c]),
        ("attn.c_attn.weight", &[3 * c, c]),
        ("attn.c_attn.bias", &[3 * c]),
        ("attn.c_proj.weight", &[c, c]),
        ("attn.c_proj.bias", &[c]),
        ("ln_2.weight", &[c]),
        ("ln_2.bias", &[c]),
        ("mlp.c_fc.weight", &[4 * c, c]),
        ("mlp.c_fc.bias", &[4 * c]),
        ("mlp.c_proj.weight", &[c, 4 * c]),
        ("mlp.c_proj.bias", &[c]),
    ] {
        at.each(l, &format!("transformer.h.{{l}}.{name}"), shape)?;
    }
    at.take("transformer.ln_f.weight".into(), &[c], c)?;
    at.take("transformer.ln_f.bias".into(), &[c], c)?;
    let mut foreign = at.end()?;
    foreign.meta =
        json!({"vocab_size": v, "block_size": t, "n_layer": l, "n_head": heads, "n_embd": c, "program": "llm.c"});
    if padded > v {
        foreign.notes.push(format!("{} rows that only pad the vocabulary are left out", padded - v));
    }
    Ok(foreign)
}

/// The sizes of a model of llama2.c.
#[derive(Clone, Copy)]
struct Sizes {
    c: usize,
    inner: usize,
    l: usize,
    heads: usize,
    kv_heads: usize,
    v: usize,
    t: usize,
    /// Whether the head's weight is the token embedding.
    tied: bool,
}

impl Sizes {
    /// The sizes in a header, if they can be. In the oldest files the vocabulary is negative where weights are not tied.
    fn of(numbers: &[i32]) -> Option<Sizes> {
        let size = |i: usize| usize::try_from(numbers[i].unsigned_abs()).ok().filter(|n| (1..1 << 20).contains(n));
        let is_negative = |i: usize| numbers[i] < 0;
        if (0..7).any(|i| i != 5 && is_negative(i)) {
            return None;
        }
        let (c, inner, l, heads) = (size(0)?, size(1)?, size(2)?, size(3)?);
        let (kv_heads, v, t, tied) = (size(4)?, size(5)?, size(6)?, !is_negative(5));
        let whole = c.is_multiple_of(heads) && heads.is_multiple_of(kv_heads) && (c / heads).is_multiple_of(2);
        (whole && l <= 256).then_some(Sizes { c, inner, l, heads, kv_heads, v, t, tied })
    }

    fn head_size(&self) -> usize {
        self.c / self.heads
    }

    fn kv(&self) -> usize {
        self.head_size() * self.kv_heads
    }

    /// The size of a file without a magic number.
    fn legacy_len(&self) -> Option<u64> {
        let of = |n: usize| n as u128;
        let (c, kv, v) = (of(self.c), of(self.kv()), of(self.v));
        let block = 2 * c + 2 * c * c + 2 * kv * c + 3 * of(self.inner) * c;
        let head = if self.tied { 0 } else { v * c };
        let numbers = v * c + of(self.l) * block + c + of(self.t) * of(self.head_size()) + head;
        u64::try_from(28 + 4 * numbers).ok()
    }

    /// What the reader of these files takes for granted, and what the header says.
    fn meta(&self) -> serde_json::Value {
        let Sizes { c, inner, l, heads, kv_heads, v, t, tied } = *self;
        json!({
            "vocab_size": v, "block_size": t, "n_layer": l, "n_head": heads, "n_kv_head": kv_heads, "n_embd": c,
            "n_inner": inner, "tie_weights": tied, "norm_eps": 1e-5, "rope_theta": 10000.0,
        })
    }
}

/// The matrices of a block under GGUF's names, whose order of rotated channels llama2.c has too.
fn matrices(sizes: &Sizes) -> [(&'static str, [usize; 2]); 7] {
    let (c, kv, inner) = (sizes.c, sizes.kv(), sizes.inner);
    [
        ("blk.{l}.attn_q.weight", [c, c]),
        ("blk.{l}.attn_k.weight", [kv, c]),
        ("blk.{l}.attn_v.weight", [kv, c]),
        ("blk.{l}.attn_output.weight", [c, c]),
        ("blk.{l}.ffn_gate.weight", [inner, c]),
        ("blk.{l}.ffn_down.weight", [c, inner]),
        ("blk.{l}.ffn_up.weight", [inner, c]),
    ]
}

const EMBEDDING: &str = "token_embd.weight";
const ATTENTION_NORM: &str = "blk.{l}.attn_norm.weight";
const MLP_NORM: &str = "blk.{l}.ffn_norm.weight";
const LAST_NORM: &str = "output_norm.weight";
const HEAD: &str = "output.weight";

/// Reads a model of llama2.c: of the oldest format, or of version 1 (f32) or 2 (int8) of the one that begins with
/// "ak42".
///
/// # Errors
/// If it is none, or not as long as its header says.
pub(super) fn read_llama2_c(path: &Path) -> Result<Foreign<'static>> {
    let source = Source::open(path)?;
    let start = source.bytes(0, source.len().min(HEADER as u64) as usize)?;
    let numbers = integers(&start);
    let bad = || source.damaged("not a model of llama2.c");
    if numbers.len() < 7 {
        return Err(bad());
    }
    if numbers[0] != AK42 {
        let sizes =
            Sizes::of(&numbers[..7]).filter(|sizes| sizes.legacy_len() == Some(source.len())).ok_or_else(bad)?;
        return legacy(source, &sizes);
    }
    if numbers.len() < HEADER / 4 {
        return Err(bad());
    }
    let tied = start[36] != 0;
    let sizes = Sizes::of(&numbers[2..9]).filter(|sizes| sizes.tied);
    let sizes = Sizes { tied, ..sizes.ok_or_else(|| source.damaged("the sizes in its header cannot be"))? };
    match numbers[1] {
        1 => version_1(source, &sizes),
        2 => {
            let group = i32::from_le_bytes(start[37..41].try_into().expect("four bytes"));
            let group = usize::try_from(group).ok().filter(|n| (1..1 << 20).contains(n));
            version_2(&source, &sizes, group.ok_or_else(|| source.damaged("its group size cannot be"))?)
        }
        version => Err(source.damaged(format!("version {version} of llama2.c's files: kinglet reads 1 and 2"))),
    }
}

fn legacy(source: Arc<Source>, sizes: &Sizes) -> Result<Foreign<'static>> {
    let &Sizes { c, l, v, t, tied, .. } = sizes;
    let [query, key, value, projection, gate, down, up] = matrices(sizes);
    let mut at = Cursor::new(source, 28, Dtype::F32);
    at.take(EMBEDDING.into(), &[v, c], v)?;
    at.each(l, ATTENTION_NORM, &[c])?;
    for (name, shape) in [query, key, value, projection] {
        at.each(l, name, &shape)?;
    }
    at.each(l, MLP_NORM, &[c])?;
    for (name, shape) in [gate, down, up] {
        at.each(l, name, &shape)?;
    }
    at.take(LAST_NORM.into(), &[c], c)?;
    // Tables of the rotations.
    at.skip(4 * t as u64 * sizes.head_size() as u64)?;
    if !tied {
        at.take(HEAD.into(), &[v, c], v)?;
    }
    let mut foreign = at.end()?;
    foreign.meta = sizes.meta();
    Ok(foreign)
}

fn version_1(source: Arc<Source>, sizes: &Sizes) -> Result<Foreign<'static>> {
    let &Sizes { c, l, v, tied, .. } = sizes;
    let mut at = Cursor::new(source, HEADER, Dtype::F32);
    at.each(l, ATTENTION_NORM, &[c])?;
    at.each(l, MLP_NORM, &[c])?;
    at.take(LAST_NORM.into(), &[c], c)?;
    at.take(EMBEDDING.into(), &[v, c], v)?;
    for (name, shape) in matrices(sizes) {
        at.each(l, name, &shape)?;
    }
    if !tied {
        at.take(HEAD.into(), &[v, c], v)?;
    }
    let mut foreign = at.end()?;
    foreign.meta = sizes.meta();
    Ok(foreign)
}

/// Version 2 has matrices as signed bytes, with one scale for each group of them.
fn version_2(source: &Arc<Source>, sizes: &Sizes, group: usize) -> Result<Foreign<'static>> {
    let &Sizes { c, l, v, tied, .. } = sizes;
    let mut at = Cursor::new(source.clone(), HEADER, Dtype::F32);
    at.each(l, ATTENTION_NORM, &[c])?;
    at.each(l, MLP_NORM, &[c])?;
    at.take(LAST_NORM.into(), &[c], c)?;
    let mut quantized = |name: String, shape: [usize; 2]| {
        let n = shape[0] * shape[1];
        if !n.is_multiple_of(group) {
            return Err(source.damaged(format!("{name} has {n} numbers, which are no groups of {group}")));
        }
        let from = at.at;
        // Places are checked as those of other tensors are.
        source.tensor(vec![n], Dtype::I8, from)?;
        source.tensor(vec![n / group], Dtype::F32, from + n as u64)?;
        let file = source.clone();
        let read = move || {
            let mut numbers = file.numbers(from, n, Dtype::I8)?;
            let scales = file.numbers(from + n as u64, n / group, Dtype::F32)?;
            numbers
                .chunks_exact_mut(group)
                .zip(&scales)
                .for_each(|(group, scale)| group.iter_mut().for_each(|x| *x *= scale));
            Ok(Cow::Owned(numbers))
        };
        at.foreign.tensors.insert(name, Tensor::new(shape.to_vec(), Dtype::F32, read));
        at.skip((n + n / group * 4) as u64)
    };
    quantized(EMBEDDING.into(), [v, c])?;
    for (name, shape) in matrices(sizes) {
        for block in 0..l {
            quantized(name.replace("{l}", &block.to_string()), shape)?;
        }
    }
    if !tied {
        quantized(HEAD.into(), [v, c])?;
    }
    let mut foreign = at.end()?;
    foreign.meta = sizes.meta();
    foreign.notes.push(format!("its matrices are int8 with a scale for each {group} numbers: they are multiplied out"));
    Ok(foreign)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn lying_headers_are_refused_without_memory_for_what_they_claim() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("model.bin");
        let file = |numbers: &[i32], len: usize| {
            let mut bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
            bytes.resize(len, 0);
            fs::write(&path, bytes).unwrap();
        };
        for (numbers, len, message) in [
            (&[GPT2, 3, 1024, 50257, 12, 12, 768, 50304][..], 2000, "it is cut off"),
            (&[GPT2, 3, 1024, 50257, 1 << 19, 12, 1 << 19, 50304], 2000, "it is cut off"),
            (&[GPT2, 3, -1, 50257, 12, 12, 768, 50304], 2000, "max_seq_len = -1 in its header cannot be"),
            (&[GPT2, 3, 1024, 50257, 12, 12, 768, 50000], 2000, "padded_vocab_size = 50000 is less than"),
            (&[GPT2, 4, 1024, 50257, 12, 12, 768, 50304], 2000, "version 4 of llm.c's files"),
            (&[20_240_803, 3], 2000, "a model of Llama 3"),
            (&[20_240_328, 2], 2000, "a tokenizer without its merges"),
            (&[GPT2, 3], 100, "it is cut off"),
            (&[1, 2, 3], 2000, "not a model of llm.c"),
        ] {
            file(numbers, len);
            let error = read_llm_c(&path).unwrap_err().to_string();
            assert!(error.contains(message), "{numbers:?}: {error}");
        }
        for (numbers, len, message) in [
            (&[AK42, 1, 64, 172, 5, 8, 4, 512, 512][..], 2000, "it is cut off"),
            (&[AK42, 1, 64, 172, 5, 7, 4, 512, 512], 2000, "the sizes in its header cannot be"),
            (&[AK42, 1, 64, 172, 5, 8, 4, -512, 512], 2000, "the sizes in its header cannot be"),
            (&[AK42, 3, 64, 172, 5, 8, 4, 512, 512], 2000, "version 3 of llama2.c's files"),
            (&[AK42, 2, 64, 172, 5, 8, 4, 512, 512], 2000, "its group size cannot be"),
            (&[AK42, 1, 64, 172, 5, 8, 4, 512, 512], 200, "not a model of llama2.c"),
            (&[64, 172, 5, 8, 4, 512, 512], 2000, "not a model of llama2.c"),
            (&[64], 4, "not a model of llama2.c"),
        ] {
            file(numbers, len);
            let error = read_llama2_c(&path).unwrap_err().to_string();
            assert!(error.contains(message), "{numbers:?}: {error}");
        }
    }

    #[test]
    fn a_file_is_recognised_by_its_first_numbers_and_its_length() {
        let start = |numbers: &[i32]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>();
        assert_eq!(is(&start(&[GPT2, 3]), 99), Some(Program::Llm));
        assert_eq!(is(&start(&[AK42, 1]), 99), Some(Program::Llama2));
        let sizes = [8, 24, 1, 2, 2, 10, 4];
        let len = Sizes::of(&sizes).unwrap().legacy_len().unwrap();
        assert_eq!(len, 28 + 4 * (80 + 16 + 4 * 64 + 3 * 24 * 8 + 8 + 4 * 4));
        assert_eq!(is(&start(&sizes), len), Some(Program::Llama2));
        assert_eq!(is(&start(&sizes), len + 1), None);
        let untied = [8, 24, 1, 2, 2, -10, 4];
        assert_eq!(is(&start(&untied), len + 4 * 80), Some(Program::Llama2));
        assert_eq!(is(b"PK", 2), None);
    }
}
