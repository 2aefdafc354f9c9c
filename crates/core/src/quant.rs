//! Weights in few bits: small integers, each times a scale that it shares with its neighbours.
//!
//! | | integers | scale | a weight takes |
//! |---|---|---|---|
//! | [`Quantization::W8`] | -127 to 127 | f32, for each row: the largest magnitude is 127 | 8 bits |
//! | [`Quantization::W4`] | -8 to 7 | f16, for each 32 neighbours in a row: the one with the least squared error | 4.5 bits |
//!
//! The scale of four bits may be negative, so that whichever sign the largest magnitude has, it can be 8 steps away from zero.
//! So these are numbers that llama.cpp's `q4_0` has too.

pub mod feedback;

use crate::{
    config::{Config, Quantization},
    error::{Error, Result},
    params::{Layout, Matrix, Param},
    threads::for_each,
};
use half::f16;
pub use kinglet_kernels::int8::GROUP;
use rayon::prelude::*;

/// A matrix `(rows, cols)` in few bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Rounded {
    scheme: Quantization,
    rows: usize,
    cols: usize,
    /// The integers `(rows, cols)`.
    codes: Vec<i8>,
    /// `(rows, groups)`, where a group is a row, or 32 neighbours in it.
    scales: Vec<f32>,
}

impl Rounded {
    /// The matrix `w (rows, cols)` in few bits. Without `importance`, this is how training rounds. With the mean squares of what
    /// each column is multiplied by, `importance (cols)`, the scales of four bits are looked for among more, so that the squared
    /// error of the product is the least.
    ///
    /// # Panics
    /// If the scheme is [`Quantization::None`], or the lengths do not fit.
    pub fn new(scheme: Quantization, w: &[f32], cols: usize, importance: Option<&[f32]>) -> Rounded {
        let rows = w.len() / cols.max(1);
        assert!(w.len() == rows * cols && importance.is_none_or(|x| x.len() == cols));
        let width = group(scheme, cols);
        let groups = cols.div_ceil(width);
        let (mut codes, mut scales) = (vec![0; w.len()], vec![0.0; rows * groups]);
        let each = codes.par_chunks_mut(cols).zip(scales.par_chunks_mut(groups)).zip(w.par_chunks(cols));
        for_each(each.with_min_len(ROWS), |((codes, scales), w)| {
            let parts = codes.chunks_mut(width).zip(w.chunks(width)).zip(scales);
            for (k, ((codes, w), scale)) in parts.enumerate() {
                *scale = match importance.filter(|_| scheme == Quantization::W4) {
                    None => plain_scale(scheme, w),
                    Some(importance) => fine_scale(w, &importance[k * width..][..w.len()]),
                };
                let (inverse, (least, most)) = (inverse(*scale), range(scheme));
                codes.iter_mut().zip(w).for_each(|(code, w)| *code = rounded(w * inverse, least, most) as i8);
            }
        });
        Rounded { scheme, rows, cols, codes, scales }
    }

    /// A matrix from its integers `(rows, cols)` and its scales `(rows, groups)`.
    ///
    /// # Errors
    /// If there are not as many as the scheme has, a code is out of range, or a scale is not finite or no f16.
    pub fn from_parts(scheme: Quantization, cols: usize, codes: Vec<i8>, scales: Vec<f32>) -> Result<Rounded> {
        let rows = codes.len() / cols.max(1);
        let refuse = |what: String| Err(Error::Data(what));
        let groups = groups(scheme, cols);
        if scheme == Quantization::None || rows * cols != codes.len() || scales.len() != rows * groups {
            return refuse(format!(
                "{} integers and {} scales are no matrix of {cols} columns",
                codes.len(),
                scales.len()
            ));
        }
        let (least, most) = range(scheme);
        if let Some(code) = codes.iter().find(|&&code| !(least..=most).contains(&f32::from(code))) {
            return refuse(format!("the integer {code} is not between {least} and {most}"));
        }
        let fits = |&&scale: &&f32| {
            scale.is_finite() && (scheme == Quantization::W8 || f16::from_f32(scale).to_f32() == scale)
        };
        if let Some(scale) = scales.iter().find(|scale| !fits(scale)) {
            return refuse(format!("{scale} is no scale"));
        }
        Ok(Rounded { scheme, rows, cols, codes, scales })
    }

    /// Checks that `w`, which it was made of, has numbers that can be rounded.
    ///
    /// # Errors
    /// If one of them is not finite, or there is no scale for some of them.
    pub fn check(&self, w: &[f32]) -> Result<()> {
        if let Some(x) = w.iter().find(|x| !x.is_finite()) {
            return Err(Error::Data(format!("{x} cannot be rounded")));
        }
        if self.scales.iter().all(|scale| scale.is_finite()) {
            return Ok(());
        }
        let x = largest(w);
        Err(Error::Data(format!("{x} is too large for the scales of its row, or so is what the text multiplies it by")))
    }

    /// How its weights are stored.
    pub fn scheme(&self) -> Quantization {
        self.scheme
    }

    /// `(rows, columns)`.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// The integers `(rows, cols)`.
    pub fn codes(&self) -> &[i8] {
        &self.codes
    }

    /// The scales `(rows, groups)`.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// The numbers that it stands for, in `w (rows, cols)`: each integer times its scale, rounded to f32.
    pub fn numbers(&self, w: &mut [f32]) {
        for row in 0..self.rows {
            self.row(row, &mut w[row * self.cols..][..self.cols]);
        }
    }

    /// The numbers of a row.
    pub fn row(&self, row: usize, w: &mut [f32]) {
        let (codes, groups) = (&self.codes[row * self.cols..][..self.cols], groups(self.scheme, self.cols));
        let parts = w.chunks_mut(group(self.scheme, self.cols)).zip(codes.chunks(group(self.scheme, self.cols)));
        for ((w, codes), scale) in parts.zip(&self.scales[row * groups..]) {
            w.iter_mut().zip(codes).for_each(|(w, code)| *w = f32::from(*code) * scale);
        }
    }

    /// Bytes that it takes in a file.
    pub fn bytes(&self) -> usize {
        bytes(self.scheme, self.rows, self.cols)
    }
}

/// Bytes of a matrix in a file.
pub fn bytes(scheme: Quantization, rows: usize, cols: usize) -> usize {
    match scheme {
        Quantization::None => 4 * rows * cols,
        Quantization::W8 => rows * (cols + 4),
        Quantization::W4 => rows * (cols.div_ceil(2) + 2 * groups(scheme, cols)),
    }
}

/// Bytes of a model's weights in a file, where those are in few bits that the configuration says are.
pub fn weight_bytes(config: &Config, layout: &Layout) -> usize {
    let few = matrices(config, layout);
    let of_few: usize = few.iter().map(|matrix| bytes(config.quantization, matrix.rows, matrix.cols)).sum();
    let numbers = layout.len() - few.iter().map(|matrix| matrix.span.len).sum::<usize>();
    of_few + size_of::<f32>() * numbers
}

/// Scales of each row.
pub fn groups(scheme: Quantization, cols: usize) -> usize {
    cols.div_ceil(group(scheme, cols))
}

/// Neighbours that share a scale.
fn group(scheme: Quantization, cols: usize) -> usize {
    if scheme == Quantization::W4 { GROUP } else { cols.max(1) }
}

/// The smallest and the largest integer.
fn range(scheme: Quantization) -> (f32, f32) {
    match scheme {
        Quantization::W4 => (-8.0, 7.0),
        _ => (-127.0, 127.0),
    }
}

/// Rows that a thread rounds at once, at least.
const ROWS: usize = 16;

/// The scale of a group that depends on its weights alone; if one of them is not finite, it is no number.
fn plain_scale(scheme: Quantization, w: &[f32]) -> f32 {
    match scheme {
        Quantization::W4 => quick_scale(w),
        _ => Some(largest(w).abs() / 127.0).filter(|scale| scale.is_finite()).unwrap_or(f32::NAN),
    }
}

/// The numbers that [`Rounded::new`] without importance stands for, in `to (rows, cols)`: what training computes with.
///
/// # Panics
/// If the scheme is [`Quantization::None`], or the lengths do not fit.
pub fn round(scheme: Quantization, w: &[f32], cols: usize, to: &mut [f32]) {
    assert!(scheme != Quantization::None && w.len() == to.len() && w.len().is_multiple_of(cols));
    let (width, (least, most)) = (group(scheme, cols), range(scheme));
    for_each(to.par_chunks_mut(cols).zip(w.par_chunks(cols)).with_min_len(ROWS), |(to, w)| {
        for (to, w) in to.chunks_mut(width).zip(w.chunks(width)) {
            let scale = plain_scale(scheme, w);
            let inverse = inverse(scale);
            to.iter_mut().zip(w).for_each(|(to, w)| *to = rounded(w * inverse, least, most) * scale);
        }
    });
}

/// The matrices that are rounded, in the order of the buffer.
pub fn matrices(config: &Config, layout: &Layout) -> Vec<Matrix> {
    if config.quantization == Quantization::None {
        return Vec::new();
    }
    let matrix = |w: Param, cols: usize| Matrix { span: w.span, rows: w.len / cols, cols };
    let (embedding, head) = (layout.embedding, layout.lm_head);
    let blocks = layout.h.iter().flat_map(|h| [h.c_attn, h.attn_proj, h.c_fc, h.mlp_proj]);
    let mut found: Vec<_> = blocks.map(|w| matrix(w.w, w.i)).collect();
    if config.quantize_embeddings {
        found.extend([Some(embedding.wte), embedding.wpe].into_iter().flatten().map(|w| matrix(w, embedding.c)));
    }
    if config.quantize_head {
        found.push(matrix(head.w, head.i));
    }
    found.sort_by_key(|matrix| matrix.span.start);
    // With tied weights, the head's are those of the embedding.
    found.dedup();
    found
}

/// The weights of a model, some of them in few bits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights {
    /// All parameters, in the layout's order; zeros, in memory that is not touched, where a matrix of few bits is.
    pub numbers: Vec<f32>,
    /// The matrices of few bits, and where each begins.
    pub rounded: Vec<(usize, Rounded)>,
}

impl From<Vec<f32>> for Weights {
    /// None of them in few bits.
    fn from(numbers: Vec<f32>) -> Weights {
        Weights { numbers, rounded: Vec::new() }
    }
}

impl Weights {
    /// These weights, where `config` has them rounded.
    ///
    /// # Errors
    /// If a weight that is to be rounded is not finite, or too large.
    pub fn rounded(config: &Config, layout: &Layout, numbers: Vec<f32>) -> Result<Weights> {
        let scheme = config.quantization;
        Weights::rounded_by(config, layout, numbers, |matrix, w| Rounded::new(scheme, w, matrix.cols, None))
    }

    /// The same, where `make(matrix, w)` rounds each.
    ///
    /// # Errors
    /// As [`Weights::rounded`].
    pub fn rounded_by(
        config: &Config,
        layout: &Layout,
        mut numbers: Vec<f32>,
        mut make: impl FnMut(&Matrix, &[f32]) -> Rounded,
    ) -> Result<Weights> {
        let mut rounded = Vec::new();
        for matrix in matrices(config, layout) {
            let w = &mut numbers[matrix.span.range()];
            let made = make(&matrix, w);
            made.check(w).map_err(|error| layout.named(matrix.span, error))?;
            w.fill(0.0);
            rounded.push((matrix.span.start, made));
        }
        Ok(Weights { numbers, rounded })
    }

    /// All numbers: those of matrices of few bits are multiplied out.
    pub fn into_numbers(self) -> Vec<f32> {
        let Weights { mut numbers, rounded } = self;
        for (start, matrix) in rounded {
            let (rows, cols) = matrix.shape();
            matrix.numbers(&mut numbers[start..][..rows * cols]);
        }
        numbers
    }
}

/// The element with the largest magnitude, the first of several; one that is not a number, if there is one.
fn largest(w: &[f32]) -> f32 {
    // As integers, magnitudes have the same order, with what is not a number after infinity. Their maximum is found several at once.
    let magnitude = |x: &f32| (x.to_bits() & 0x7FFF_FFFF) as i32;
    let most = w.iter().map(magnitude).max();
    w.iter().copied().find(|x| Some(magnitude(x)) == most).unwrap_or(0.0)
}

/// The factor that turns numbers into integers.
fn inverse(scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// The nearest integer, ties to even, as far as it is in range. Adding 1.5 * 2^23 rounds to an integer.
fn rounded(x: f32, least: f32, most: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    // Each comparison is one instruction; `clamp` would keep what is not a number.
    let x = if x > least { x } else { least };
    let x = if x < most { x } else { most };
    x + ROUND - ROUND
}

/// The nearest f16, ties to even: `f16::from_f32(x).to_f32()` without a call.
fn half(x: f32) -> f32 {
    /// From here on there is only infinity.
    const TOO_LARGE: f32 = 65_520.0;
    /// Below this the f16 are multiples of 2^-24, which are the numbers that can be added to 0.75.
    const SMALLEST_NORMAL: f32 = 1.0 / 16_384.0;
    // Of 23 bits after the point 10 are kept. All cases are computed, and one of them is chosen: that takes no branches.
    let bits = x.to_bits();
    let normal = f32::from_bits(bits.wrapping_add(0xFFF + (bits >> 13 & 1)) & !0x1FFF);
    let small = ((x.abs() + 0.75) - 0.75).copysign(x);
    let finite = if x.abs() < SMALLEST_NORMAL { small } else { normal };
    let number = if x.abs() >= TOO_LARGE { f32::INFINITY.copysign(x) } else { finite };
    if x.is_nan() { x } else { number }
}

/// How many steps away from zero training tries to put the largest magnitude, of a positive number: less than 8 are coarser than
/// they need be, more cut it off. With whole numbers, what was rounded before is rounded to itself.
const TRIED: [f32; 8] = [-8.0, 7.0, -7.0, 6.0, -6.0, -8.4, -9.0, -9.7];

/// The f16 scale of a group of four bits with the least squared error among those of [`TRIED`]: training looks for it in every step.
fn quick_scale(w: &[f32]) -> f32 {
    let largest = largest(w);
    best_scale(TRIED.map(|steps| largest / steps), w, |_| 1.0)
}

/// Scales of either sign that [`fine_scale`] tries.
const FINE: usize = 25;

/// The same among more scales, where the squared error of each element has a weight.
fn fine_scale(w: &[f32], weights: &[f32]) -> f32 {
    let largest = largest(w);
    // From 5.5 to 9.5 steps, a sixth apart.
    let steps = |i: usize| (33 + i) as f32 / 6.0;
    let scales: [f32; 2 * FINE] =
        std::array::from_fn(|i| if i < FINE { largest / -steps(i) } else { largest / steps(i - FINE) });
    best_scale(scales, w, |i| weights[i])
}

/// The one of these scales, rounded to f16, with the least squared error, where that of each element weighs `weight(i)`; NaN if
/// none is finite.
#[inline(always)]
fn best_scale<const N: usize>(scales: [f32; N], w: &[f32], weight: impl Fn(usize) -> f32) -> f32 {
    let scales = scales.map(half);
    let inverses = scales.map(inverse);
    // All of them at once, so that they are computed side by side.
    let mut errors = [0.0; N];
    for (i, &w) in w.iter().enumerate() {
        let weight = weight(i);
        for ((error, scale), inverse) in errors.iter_mut().zip(scales).zip(inverses) {
            let off = rounded(w * inverse, -8.0, 7.0) * scale - w;
            *error += weight * off * off;
        }
    }
    let (mut best, mut least) = (f32::NAN, f32::INFINITY);
    for (scale, error) in scales.into_iter().zip(errors) {
        if error < least {
            (best, least) = (scale, error);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_those_of_the_type() {
        let all = (0..=u16::MAX).map(f16::from_bits).filter(|x| !x.is_nan());
        for x in all.map(f16::to_f32) {
            // It, what is beside it, and the middles between it and the next.
            let near = [x, x.next_up(), x.next_down(), x * (1.0 + 1.0 / 2048.0), x * (1.0 - 1.0 / 2048.0)];
            let middle = x + f16::from_bits(1).to_f32() / 2.0;
            for x in near.into_iter().flat_map(|x| [x, x.next_up(), x.next_down()]).chain([middle]) {
                assert_eq!(half(x).to_bits(), f16::from_f32(x).to_f32().to_bits(), "{x:e}");
            }
        }
        assert!(half(f32::NAN).is_nan());
        assert_eq!(half(f32::MAX), f32::INFINITY);
    }

    #[test]
    fn what_was_rounded_is_rounded_to_itself() {
        for seed in 0..200 {
            let scale = f16::from_f32(0.01 + 0.003 * seed as f32).to_f32() * if seed % 2 == 0 { 1.0 } else { -1.0 };
            let code = |i: usize| ((i * 2_654_435_761 + seed * 40_503) >> 7) % 16;
            // Of a group, the largest magnitude is 6, 7 or 8.
            let most = 6 + seed % 3;
            let code = |i: usize| if i == 5 { -(most as f32) } else { (code(i) % (2 * most)) as f32 - most as f32 };
            let w: Vec<f32> = (0..32).map(|i| code(i).clamp(-8.0, 7.0) * scale).collect();
            for importance in [None, Some(&[1.0; 32][..])] {
                let mut again = vec![0.0; 32];
                Rounded::new(Quantization::W4, &w, 32, importance).numbers(&mut again);
                assert_eq!(again, w, "{seed} {importance:?}");
            }
        }
    }

    #[test]
    fn what_cannot_be_rounded_is_refused() {
        let refused = |scheme, x: f32, what: &str| {
            let mut w = vec![0.5; 64];
            w[40] = x;
            let error = Rounded::new(scheme, &w, 64, None).check(&w).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        };
        for scheme in [Quantization::W8, Quantization::W4] {
            refused(scheme, f32::NAN, "NaN cannot be rounded");
            refused(scheme, f32::NEG_INFINITY, "-inf cannot be rounded");
        }
        refused(Quantization::W4, 1e6, "1000000 is too large for the scales of its row");
        assert!(Rounded::new(Quantization::W8, &[1e30, 0.0], 2, None).check(&[1e30, 0.0]).is_ok());
    }

    /// What training computes with is what is stored, bit for bit.
    #[test]
    fn numbers_are_those_of_the_integers() {
        let random = |i: usize| f32::from_bits((i as u32).wrapping_mul(2_654_435_761) >> 9 | 0x3F80_0000) - 1.5;
        for (scheme, rows, cols) in [(Quantization::W8, 5, 40), (Quantization::W4, 33, 96), (Quantization::W4, 3, 71)] {
            let mut w: Vec<f32> = (0..rows * cols).map(|i| 0.1 * random(i)).collect();
            w[..32].fill(0.0);
            let (mut want, mut got) = (vec![1.0; w.len()], vec![2.0; w.len()]);
            Rounded::new(scheme, &w, cols, None).numbers(&mut want);
            round(scheme, &w, cols, &mut got);
            assert!(want.iter().map(|x| x.to_bits()).eq(got.iter().map(|x| x.to_bits())), "{scheme:?}");
            // What has no scale is no number, so that the loss is none either.
            for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                w[cols + 1] = broken;
                round(scheme, &w, cols, &mut got);
                assert!(got[cols + 1].is_nan(), "{scheme:?} {broken}");
            }
        }
    }
}
