//! How numbers are stored in a GGUF, ggml's blocks of 32 included.
//!
//! A block has one scale d, in f16, and 32 small integers q:
//!
//! | | x | d | bytes of a block |
//! |---|---|---|---|
//! | q8_0 | d q | max \|x\| / 127 | d, then q, a signed byte each |
//! | q4_0 | d (q - 8) | m / -8 | d, then 16 bytes: q of the first half in the low four bits, of the second in the high |
//! | q5_0 | d (q - 16) | m / -16 | d, then the fifth bits of all q, then as q4_0 |
//!
//! where m is the x of the largest magnitude, with its sign. The bits are those of ggml's reference functions.

use crate::formats::foreign::Dtype;
use half::{bf16, f16};
use kinglet_core::{
    config::Quantization,
    quant::{Rounded, groups},
};

/// Numbers of a block.
pub(super) const BLOCK: usize = 32;

/// Numbers that are stored together, and their bytes.
pub(super) fn unit(dtype: Dtype) -> (usize, usize) {
    match dtype {
        Dtype::Q8_0 => (BLOCK, 34),
        Dtype::Q4_0 => (BLOCK, 18),
        Dtype::Q5_0 => (BLOCK, 22),
        plain => (1, plain.size().expect("all but blocks have a size")),
    }
}

/// Bytes of a tensor; none if its rows are no whole blocks, or it is larger than any file.
pub(super) fn bytes(dtype: Dtype, shape: &[usize]) -> Option<u64> {
    let (numbers, bytes) = unit(dtype);
    let row = shape.last().copied().unwrap_or(1);
    let len = shape.iter().try_fold(1u64, |len, &n| len.checked_mul(n as u64))?;
    row.is_multiple_of(numbers).then(|| (len / numbers as u64).checked_mul(bytes as u64)).flatten()
}

/// Appends numbers as they are stored; `numbers` are whole blocks.
///
/// # Errors
/// If one of them does not fit. Infinities and NaN are kept where there is a way to write them.
pub(super) fn encode(dtype: Dtype, numbers: &[f32], out: &mut Vec<u8>) -> Result<(), String> {
    let fits = |x: f32, stored: f32| match x.is_finite() && stored.is_infinite() {
        true => Err(format!("{x} does not fit into {}", dtype.name())),
        false => Ok(()),
    };
    match dtype {
        Dtype::F32 => numbers.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Dtype::F16 => {
            for &x in numbers {
                fits(x, f16::from_f32(x).to_f32())?;
                out.extend(f16::from_f32(x).to_le_bytes());
            }
        }
        Dtype::Bf16 => {
            for &x in numbers {
                fits(x, bf16::from_f32(x).to_f32())?;
                out.extend(bf16::from_f32(x).to_le_bytes());
            }
        }
        Dtype::Q8_0 | Dtype::Q4_0 | Dtype::Q5_0 => {
            for block in numbers.as_chunks::<BLOCK>().0 {
                if let Some(x) = block.iter().find(|x| !x.is_finite()) {
                    return Err(format!("{x} has no {}", dtype.name()));
                }
                let scale = scale(dtype, block);
                fits(scale, f16::from_f32(scale).to_f32())
                    .map_err(|_| format!("a scale of {scale} does not fit into {}", dtype.name()))?;
                encode_block(dtype, block, scale, out);
            }
        }
        other => return Err(format!("kinglet does not write {}", other.name())),
    }
    Ok(())
}

/// The scale of a block.
fn scale(dtype: Dtype, block: &[f32; BLOCK]) -> f32 {
    // The first of equal magnitudes, as in ggml.
    let largest = block.iter().fold(0.0f32, |largest, &x| if x.abs() > largest.abs() { x } else { largest });
    match dtype {
        Dtype::Q8_0 => largest.abs() / 127.0,
        Dtype::Q4_0 => largest / -8.0,
        _ => largest / -16.0,
    }
}

fn encode_block(dtype: Dtype, block: &[f32; BLOCK], scale: f32, out: &mut Vec<u8>) {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    out.extend(f16::from_f32(scale).to_le_bytes());
    // Conversions to integers saturate, so that a scale too small to have an inverse does no harm.
    let unsigned = |i: usize, zero: f32, most: i8| ((block[i] * inverse + zero) as i8).clamp(0, most) as u8;
    match dtype {
        Dtype::Q8_0 => out.extend(block.iter().map(|x| (x * inverse).round() as i8 as u8)),
        Dtype::Q4_0 => out.extend((0..16).map(|i| unsigned(i, 8.5, 15) | unsigned(i + 16, 8.5, 15) << 4)),
        _ => {
            let q: [u8; BLOCK] = std::array::from_fn(|i| unsigned(i, 16.5, 31));
            let fifth = (0..BLOCK).fold(0u32, |bits, i| bits | u32::from(q[i] >> 4) << i);
            out.extend(fifth.to_le_bytes());
            out.extend((0..16).map(|i| (q[i] & 15) | (q[i + 16] & 15) << 4));
        }
    }
}

/// Whether blocks of this type have the integers of such a matrix.
pub(super) fn has(dtype: Dtype, scheme: Quantization) -> bool {
    matches!((dtype, scheme), (Dtype::Q8_0, Quantization::W8 | Quantization::W4) | (Dtype::Q4_0, Quantization::W4))
}

/// Appends a matrix of which [`has`] is true and whose rows are whole blocks: its own integers, and its scales as f16, which
/// those of four bits are.
///
/// # Errors
/// If a scale is too large for f16.
pub(super) fn encode_rounded(dtype: Dtype, matrix: &Rounded, out: &mut Vec<u8>) -> Result<(), String> {
    let (_, cols) = matrix.shape();
    let groups = groups(matrix.scheme(), cols);
    for (at, codes) in matrix.codes().as_chunks::<BLOCK>().0.iter().enumerate() {
        let (row, group) = (at * BLOCK / cols, at * BLOCK % cols / BLOCK);
        let scale = matrix.scales()[row * groups + group.min(groups - 1)];
        if f16::from_f32(scale).is_infinite() {
            return Err(format!("a scale of {scale} does not fit into {}", dtype.name()));
        }
        out.extend(f16::from_f32(scale).to_le_bytes());
        match dtype {
            Dtype::Q4_0 => out.extend((0..16).map(|i| (codes[i] + 8) as u8 | ((codes[i + 16] + 8) as u8) << 4)),
            _ => out.extend(codes.iter().map(|code| code.cast_unsigned())),
        }
    }
    Ok(())
}

/// The numbers of whole blocks.
pub(super) fn decode(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::Q8_0 => bytes.as_chunks::<34>().0.iter().flat_map(q8_0).collect(),
        Dtype::Q4_0 => bytes.as_chunks::<18>().0.iter().flat_map(q4_0).collect(),
        Dtype::Q5_0 => bytes.as_chunks::<22>().0.iter().flat_map(q5_0).collect(),
        plain => plain.to_f32(bytes),
    }
}

fn scale_of(block: &[u8]) -> f32 {
    f16::from_le_bytes([block[0], block[1]]).to_f32()
}

fn q8_0(block: &[u8; 34]) -> [f32; BLOCK] {
    let d = scale_of(block);
    std::array::from_fn(|i| f32::from(block[2 + i] as i8) * d)
}

/// The four bits of number `i`.
fn nibble(q: &[u8], i: usize) -> i8 {
    (if i < 16 { q[i] & 15 } else { q[i - 16] >> 4 }) as i8
}

fn q4_0(block: &[u8; 18]) -> [f32; BLOCK] {
    let d = scale_of(block);
    std::array::from_fn(|i| f32::from(nibble(&block[2..], i) - 8) * d)
}

fn q5_0(block: &[u8; 22]) -> [f32; BLOCK] {
    let (d, fifth) = (scale_of(block), u32::from_le_bytes([block[2], block[3], block[4], block[5]]));
    std::array::from_fn(|i| f32::from(nibble(&block[6..], i) + 16 * (fifth >> i & 1) as i8 - 16) * d)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What PyPI's `gguf` makes of some blocks: `scripts/doors/blocks.py` writes it.
    const CASES: &[u8] = include_bytes!("../../../tests/fixtures/gguf-blocks.bin");

    /// The fixture: how many blocks, their numbers, and for each type its bytes and what these are read as.
    #[test]
    fn blocks_have_the_bits_of_ggml() {
        let (count, mut rest) = CASES.split_at(4);
        let count = u32::from_le_bytes(count.try_into().unwrap()) as usize;
        assert!(count >= 50);
        let mut take = |bytes: usize| {
            let (taken, others) = rest.split_at(bytes);
            rest = others;
            taken
        };
        let numbers = Dtype::F32.to_f32(take(count * BLOCK * 4));
        for dtype in [Dtype::Q8_0, Dtype::Q4_0, Dtype::Q5_0] {
            let (each, size) = unit(dtype);
            let stored = take(count * BLOCK / each * size);
            let mut ours = Vec::new();
            encode(dtype, &numbers, &mut ours).unwrap();
            let differ = |i: &usize| ours[i * size..][..size] != stored[i * size..][..size];
            let differ: Vec<usize> = (0..count * BLOCK / each).filter(differ).collect();
            assert!(differ.is_empty(), "{}: {differ:?}", dtype.name());
            let (read, theirs) = (decode(dtype, stored), Dtype::F32.to_f32(take(count * BLOCK * 4)));
            assert!(read.iter().zip(&theirs).all(|(a, b)| a == b), "{}", dtype.name());
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut out = Vec::new();
        for (dtype, x, message) in [
            (Dtype::F16, 7e4, "70000 does not fit into f16"),
            (Dtype::Bf16, f32::MAX, "does not fit into bf16"),
            (Dtype::Q8_0, 1e7, "a scale of"),
            (Dtype::Q4_0, f32::NAN, "NaN has no q4_0"),
            (Dtype::Q5_0, f32::INFINITY, "inf has no q5_0"),
            (Dtype::I8, 0.0, "does not write i8"),
        ] {
            let mut block = [0.5; BLOCK];
            block[7] = x;
            let error = encode(dtype, &block, &mut out).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
        out.clear();
        encode(Dtype::F16, &[f32::NEG_INFINITY], &mut out).unwrap();
        assert_eq!(decode(Dtype::F16, &out), [f32::NEG_INFINITY]);
    }

    /// Four bits are the same numbers in blocks of either type, eight but for the rounding of their scales.
    #[test]
    fn blocks_hold_the_integers_of_matrices_in_few_bits() {
        let w: Vec<f32> = (0..3 * 64).map(|i| ((i * 7919 % 1013) as f32 - 500.0) / 3000.0).collect();
        for (scheme, dtype) in
            [(Quantization::W4, Dtype::Q4_0), (Quantization::W4, Dtype::Q8_0), (Quantization::W8, Dtype::Q8_0)]
        {
            assert!(has(dtype, scheme));
            let matrix = Rounded::new(scheme, &w, 64, None);
            let (mut bytes, mut numbers) = (Vec::new(), vec![0.0; w.len()]);
            encode_rounded(dtype, &matrix, &mut bytes).unwrap();
            matrix.numbers(&mut numbers);
            let read = decode(dtype, &bytes);
            let near = |(a, b): (&f32, &f32)| match scheme {
                Quantization::W4 => a == b,
                _ => (a - b).abs() <= b.abs() / 2000.0,
            };
            assert!(read.len() == numbers.len() && read.iter().zip(&numbers).all(near), "{scheme:?} {dtype:?}");
        }
        assert!(!has(Dtype::Q4_0, Quantization::W8) && !has(Dtype::F16, Quantization::W8));
        let huge = Rounded::from_parts(Quantization::W8, 32, vec![1; 32], vec![1e6]).unwrap();
        assert!(encode_rounded(Dtype::Q8_0, &huge, &mut Vec::new()).unwrap_err().contains("does not fit into q8_0"));
    }

    #[test]
    fn rows_must_be_whole_blocks() {
        assert_eq!(bytes(Dtype::Q4_0, &[3, 64]), Some(3 * 36));
        assert_eq!(bytes(Dtype::Q4_0, &[64, 3]), None);
        assert_eq!(bytes(Dtype::F32, &[usize::MAX, 3]), None);
        assert_eq!(bytes(Dtype::F16, &[5]), Some(10));
    }
}
