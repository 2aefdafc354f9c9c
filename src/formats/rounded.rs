//! Matrices in few bits on their way to another program: the same integers, wherever their rows go.
//!
//! A rewrite moves rows, copies them, puts zeros behind them or multiplies them by a number. None of that changes an integer, so
//! a file that has integers gets those of the run, and none is rounded a second time.

use super::portable::Portable;
use half::f16;
use kinglet_core::{
    config::Quantization,
    quant::{Rounded, groups},
};

/// How much numbers may differ that a multiplication made of the same integers: two roundings to f32.
const ROUNDING: f64 = 3e-7;

/// The matrix whose rows are these of another, in this order.
pub(super) fn rows(matrix: &Rounded, rows: impl Iterator<Item = usize>) -> Rounded {
    let (_, cols) = matrix.shape();
    let groups = groups(matrix.scheme(), cols);
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    for row in rows {
        codes.extend(&matrix.codes()[row * cols..][..cols]);
        scales.extend(&matrix.scales()[row * groups..][..groups]);
    }
    Rounded::from_parts(matrix.scheme(), cols, codes, scales).expect("rows of a matrix are one")
}

/// What became of the integers of a model that was rewritten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// Matrices that have none any more, because their numbers are others.
    pub lost: usize,
    /// Matrices that have theirs, with scales that were multiplied and then rounded to f16.
    pub rescaled: usize,
}

/// Gives a rewritten model the integers of the one that it was, where rewriting left them what they are.
pub(super) fn follow(model: &mut Portable) -> Followed {
    let (layout, before) = (model.layout(), std::mem::take(&mut model.rounded));
    let mut all = Followed::default();
    let mut give = |name: &str, matrix: &Rounded| {
        let tensor =
            layout.tensors.iter().find(|tensor| tensor.name == name).expect("rewrites leave names as they are");
        match followed(matrix, &model.weights[tensor.span.range()], tensor.shape[1]) {
            Some((matrix, rescaled)) => {
                all.rescaled += usize::from(rescaled);
                model.rounded.insert(name.to_owned(), matrix);
            }
            None => all.lost += 1,
        }
    };
    before.iter().for_each(|(name, matrix)| give(name, matrix));
    // A head that was the embedding's matrix has a copy of its own.
    let (head, embedding) = ("lm_head.weight", "transformer.wte.weight");
    let has_head = !model.config.tie_weights && layout.tensors.iter().any(|tensor| tensor.name == head);
    if let (true, Some(matrix), false) = (has_head, before.get(embedding), before.contains_key(head)) {
        give(head, matrix);
    }
    all
}

/// The integers of a matrix for numbers that are its rows, some of them moved, copied or multiplied, with zeros behind them and
/// between them; none if they are anything else, or have no scales. Also whether scales were rounded.
fn followed(matrix: &Rounded, numbers: &[f32], cols: usize) -> Option<(Rounded, bool)> {
    let (scheme, (known, old)) = (matrix.scheme(), matrix.shape());
    let (of, to) = (groups(scheme, old), groups(scheme, cols));
    let mut before = vec![0.0; known * old];
    matrix.numbers(&mut before);
    let mut codes = vec![0; numbers.len()];
    let mut scales = vec![0.0; numbers.len() / cols.max(1) * to];
    // The row that stands behind the one that was found last is likely to be the next.
    let (mut next, mut rescaled) = (0, false);
    for (row, numbers) in numbers.chunks_exact(cols.max(1)).enumerate() {
        if cols < old || numbers[old..].iter().any(|x| *x != 0.0) {
            return None;
        }
        if numbers.iter().all(|x| *x == 0.0) {
            continue;
        }
        let is = |from: usize| Some((from, factor(&before[from * old..][..old], &numbers[..old])?));
        let likely = [row, next].into_iter().filter(|from| *from < known);
        let (from, factor) = likely.chain(0..known).find_map(is)?;
        codes[row * cols..][..old].copy_from_slice(&matrix.codes()[from * old..][..old]);
        for (to, from) in scales[row * to..][..of].iter_mut().zip(&matrix.scales()[from * of..]) {
            let exact = f64::from(*from) * factor;
            *to = scale(scheme, exact)?;
            // The factor is a quotient of numbers that were rounded to f32.
            rescaled |= scheme == Quantization::W4 && (f64::from(*to) - exact).abs() > ROUNDING * exact.abs();
        }
        next = from + 1;
    }
    Some((Rounded::from_parts(scheme, cols, codes, scales).ok()?, rescaled))
}

/// The scale nearest to a number; none if it is a hundredth away. Where f16 has fewer digits, the weights move together by less than
/// rounding them again would move each.
fn scale(scheme: Quantization, exact: f64) -> Option<f32> {
    if scheme != Quantization::W4 {
        return Some(exact as f32);
    }
    let scale = f16::from_f64(exact).to_f32();
    ((f64::from(scale) - exact).abs() <= exact.abs() / 128.0).then_some(scale)
}

/// What a row was multiplied by, if that is all that happened to it.
fn factor(before: &[f32], after: &[f32]) -> Option<f64> {
    let largest = (0..before.len()).max_by(|i, j| before[*i].abs().total_cmp(&before[*j].abs()))?;
    let factor = f64::from(after[largest]) / f64::from(before[largest]);
    let near = |(before, after): (&f32, &f32)| {
        let (before, after) = (f64::from(*before) * factor, f64::from(*after));
        (before - after).abs() <= ROUNDING * after.abs()
    };
    (factor.is_finite() && before.iter().zip(after).all(near)).then_some(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(scheme: Quantization, rows: usize, cols: usize) -> Rounded {
        let w: Vec<f32> = (0..rows * cols).map(|i| ((i * 7919 % 1013) as f32 - 506.0) / 700.0).collect();
        Rounded::new(scheme, &w, cols, None)
    }

    fn numbers(matrix: &Rounded) -> Vec<f32> {
        let (rows, cols) = matrix.shape();
        let mut numbers = vec![0.0; rows * cols];
        matrix.numbers(&mut numbers);
        numbers
    }

    #[test]
    fn integers_follow_rows_that_are_moved_copied_multiplied_and_padded() {
        for scheme in [Quantization::W8, Quantization::W4] {
            let before = matrix(scheme, 5, 40);
            let old = numbers(&before);
            // Rows 3, 3, 0, zeros, 4 and 1, times these, with zeros up to 64 behind each.
            let order = [(3, 1.0), (3, 0.25), (0, -4.0), (0, 0.0), (4, 256.0), (1, 2.5)];
            let row = |&(row, factor): &(usize, f32)| {
                old[row * 40..][..40].iter().map(move |x| x * factor).chain([0.0; 24]).collect::<Vec<_>>()
            };
            let after: Vec<f32> = order.iter().flat_map(row).collect();
            let (found, rescaled) = followed(&before, &after, 64).unwrap();
            assert_eq!(rescaled, scheme == Quantization::W4, "2.5 times an f16 may be none");
            assert_eq!(found.shape(), (6, 64));
            for (to, (from, factor)) in order.iter().enumerate() {
                let codes = &found.codes()[to * 64..][..64];
                let want = if *factor == 0.0 { &[0; 40][..] } else { &before.codes()[from * 40..][..40] };
                assert_eq!((&codes[..40], &codes[40..]), (want, &[0; 24][..]), "row {to}");
            }
            // All but the last are powers of two, so their numbers have the same bits.
            assert_eq!(numbers(&found)[..5 * 64], after[..5 * 64]);
        }
    }

    #[test]
    fn integers_do_not_follow_numbers_that_are_something_else() {
        let before = matrix(Quantization::W8, 4, 32);
        let same = numbers(&before);
        assert_eq!(followed(&before, &same, 32), Some((before.clone(), false)));
        for change in [1.0001, 0.0, -1.0, f32::NAN] {
            let mut other = same.clone();
            other[70] *= change;
            assert_ne!(same[70], other[70]);
            assert_eq!(followed(&before, &other, 32), None, "{change}");
        }
        assert_eq!(followed(&before, &same, 16), None);
        // Scales that no f16 is near to.
        let before = matrix(Quantization::W4, 4, 32);
        for factor in [1e6, 1.1e-6, 1e-9] {
            let other: Vec<f32> = numbers(&before).iter().map(|x| x * factor).collect();
            assert_eq!(followed(&before, &other, 32), None, "{factor}");
        }
    }
}
