//! Matrices of few bits in a file: `NAME.q`, the integers, and `NAME.scale`.
//!
//! | | integers | scales |
//! |---|---|---|
//! | w8 | I8 (rows, cols) | F32 (rows) |
//! | w4 | U8 (rows, cols / 2): 8 more than each, the first of two in the low half | F16 (rows, cols / 32) |

use half::f16;
use kinglet_core::{
    config::Quantization,
    error::Result,
    params::Tensor,
    quant::{Rounded, Weights, groups},
};
use safetensors::{Dtype, View};
use std::borrow::Cow;

pub(super) fn codes_name(name: &str) -> String {
    format!("{name}.q")
}

pub(super) fn scales_name(name: &str) -> String {
    format!("{name}.scale")
}

/// The scheme whose integers have this type.
pub(super) fn scheme(dtype: Dtype) -> Option<Quantization> {
    match dtype {
        Dtype::I8 => Some(Quantization::W8),
        Dtype::U8 => Some(Quantization::W4),
        _ => None,
    }
}

/// Types and shapes of the integers and scales of a matrix.
pub(super) fn shapes(scheme: Quantization, shape: &[usize]) -> Option<[(Dtype, Vec<usize>); 2]> {
    let &[rows, cols] = shape else { return None };
    Some(match scheme {
        Quantization::W4 => [(Dtype::U8, vec![rows, cols.div_ceil(2)]), (Dtype::F16, vec![rows, groups(scheme, cols)])],
        _ => [(Dtype::I8, vec![rows, cols]), (Dtype::F32, vec![rows])],
    })
}

/// The matrix that these bytes are.
///
/// # Errors
/// If one of its numbers cannot be.
pub(super) fn read(scheme: Quantization, shape: &[usize], codes: &[u8], scales: &[u8]) -> Result<Rounded> {
    let cols = shape[1];
    let (codes, scales) = match scheme {
        Quantization::W4 => {
            let both = |byte: &u8| [byte & 15, byte >> 4].map(|code| code as i8 - 8);
            let row = |row: &[u8]| row.iter().flat_map(both).take(cols).collect::<Vec<_>>();
            let codes = codes.chunks(cols.div_ceil(2).max(1)).flat_map(row).collect();
            (codes, scales.as_chunks().0.iter().map(|&x| f16::from_le_bytes(x).to_f32()).collect())
        }
        _ => {
            let codes = codes.iter().map(|&byte| byte as i8).collect();
            (codes, scales.as_chunks().0.iter().map(|&x| f32::from_le_bytes(x)).collect())
        }
    };
    Rounded::from_parts(scheme, cols, codes, scales)
}

/// Codes two to a byte, the first of two in the low half, each `zero` more than it is; a row begins with a byte of its own.
pub(crate) fn packed(codes: &[i8], cols: usize, zero: i8) -> Vec<u8> {
    let nibble = |code: i8| (code + zero).cast_unsigned() & 15;
    let byte = |pair: &[i8]| nibble(pair[0]) | nibble(pair.get(1).copied().unwrap_or(0)) << 4;
    codes.chunks(cols.max(1)).flat_map(|row| row.chunks(2).map(byte)).collect()
}

/// A part of a file.
pub(super) enum Part<'a> {
    Numbers(&'a Tensor, &'a [f32]),
    Codes(&'a Rounded, Dtype, Vec<usize>),
    Scales(&'a Rounded, Dtype, Vec<usize>),
}

/// What is stored of a tensor, by name.
pub(super) fn stored<'a>(tensor: &'a Tensor, weights: &'a Weights) -> Vec<(String, Part<'a>)> {
    match weights.rounded.iter().find(|(start, _)| *start == tensor.span.start) {
        Some((_, matrix)) => {
            let [codes, scales] = shapes(matrix.scheme(), &tensor.shape).expect("a matrix");
            vec![
                (codes_name(&tensor.name), Part::Codes(matrix, codes.0, codes.1)),
                (scales_name(&tensor.name), Part::Scales(matrix, scales.0, scales.1)),
            ]
        }
        None => vec![(tensor.name.clone(), Part::Numbers(tensor, &weights.numbers[tensor.span.range()]))],
    }
}

impl View for Part<'_> {
    fn dtype(&self) -> Dtype {
        match self {
            Part::Numbers(..) => Dtype::F32,
            Part::Codes(_, dtype, _) | Part::Scales(_, dtype, _) => *dtype,
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Part::Numbers(tensor, _) => &tensor.shape,
            Part::Codes(_, _, shape) | Part::Scales(_, _, shape) => shape,
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(match self {
            Part::Numbers(_, numbers) => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Part::Codes(matrix, Dtype::U8, _) => packed(matrix.codes(), matrix.shape().1, 8),
            Part::Codes(matrix, ..) => matrix.codes().iter().map(|&code| code as u8).collect(),
            Part::Scales(matrix, Dtype::F16, _) => {
                matrix.scales().iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect()
            }
            Part::Scales(matrix, ..) => matrix.scales().iter().flat_map(|x| x.to_le_bytes()).collect(),
        })
    }

    fn data_len(&self) -> usize {
        self.shape().iter().product::<usize>() * self.dtype().bitsize() / 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_codes_are_a_byte_and_rows_begin_with_their_own() {
        assert_eq!(packed(&[-8, 7, 0, 1, 2, -1], 3, 8), [0xf0, 0x88, 0xa9, 0x87]);
        assert_eq!(packed(&[-8, 7, 0, 1], 4, 0), [0x78, 0x10]);
    }
}
