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

    #[test]
    fn rows_must_be_whole_blocks() {
        assert_eq!(bytes(Dtype::Q4_0, &[3, 64]), Some(3 * 36));
        assert_eq!(bytes(Dtype::Q4_0, &[64, 3]), None);
        assert_eq!(bytes(Dtype::F32, &[usize::MAX, 3]), None);
        assert_eq!(bytes(Dtype::F16, &[5]), Some(10));
    }
}
