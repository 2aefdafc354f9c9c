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

/// The scales of a matrix in eight bits, or of each column of groups of one in four.
pub(super) fn scales_by_group(matrix: &Rounded) -> Vec<f32> {
    let (rows, cols) = matrix.shape();
    let groups = groups(matrix.scheme(), cols);
    (0..groups).flat_map(|group| (0..rows).map(move |row| matrix.scales()[row * groups + group])).collect()
}

/// Gives a rewritten model the integers of the one that it was, where rewriting left them what they are. Returns how many
/// matrices have none any more.
pub(super) fn follow(model: &mut Portable) -> usize {
    let (layout, before) = (model.layout(), std::mem::take(&mut model.rounded));
    let mut lost = 0;
    for (name, matrix) in &before {
        let tensor =
            layout.tensors.iter().find(|tensor| &tensor.name == name).expect("rewrites leave names as they are");
        match followed(matrix, &model.weights[tensor.span.range()], tensor.shape[1]) {
            Some(matrix) => _ = model.rounded.insert(name.clone(), matrix),
            None => lost += 1,
        }
    }
    // A head that was the embedding's matrix has a copy of its own.
    let (head, embedding) = ("lm_head.weight", "transformer.wte.weight");
    let tensor = layout.tensors.iter().find(|tensor| tensor.name == head);
    if let (Some(tensor), Some(matrix), false) = (tensor, before.get(embedding), before.contains_key(head)) {
        match followed(matrix, &model.weights[tensor.span.range()], tensor.shape[1]) {
            Some(matrix) if !model.config.tie_weights => _ = model.rounded.insert(head.to_owned(), matrix),
            Some(_) => {}
            None => lost += 1,
        }
    }
    lost
}

/// The integers of a matrix for numbers that are its rows, some of them moved, copied or multiplied, with zeros behind them and
/// between them; none if they are anything else.
fn followed(matrix: &Rounded, numbers: &[f32], cols: usize) -> Option<Rounded> {
    let (scheme, (known, old)) = (matrix.scheme(), matrix.shape());
    let (of, to) = (groups(scheme, old), groups(scheme, cols));
    let mut before = vec![0.0; known * old];
    matrix.numbers(&mut before);
    let mut codes = vec![0; numbers.len()];
    let mut scales = vec![0.0; numbers.len() / cols.max(1) * to];
    // The row that stands behind the one that was found last is likely to be the next.
    let mut next = 0;
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
        let scale = |scale: &f32| match (f64::from(*scale) * factor, scheme) {
            (scale, Quantization::W4) => f16::from_f64(scale).to_f32(),
            (scale, _) => scale as f32,
        };
        let from_scales = &matrix.scales()[from * of..][..of];
        scales[row * to..][..of].iter_mut().zip(from_scales).for_each(|(to, from)| *to = scale(from));
        next = from + 1;
    }
    Rounded::from_parts(scheme, cols, codes, scales).ok()
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
            let found = followed(&before, &after, 64).unwrap();
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
        assert_eq!(followed(&before, &same, 32).as_ref(), Some(&before));
        for change in [1.0001, 0.0, -1.0, f32::NAN] {
            let mut other = same.clone();
            other[70] *= change;
            assert_ne!(same[70], other[70]);
            assert_eq!(followed(&before, &other, 32), None, "{change}");
        }
        assert_eq!(followed(&before, &same, 16), None);
        // A scale that no f16 is.
        let before = matrix(Quantization::W4, 4, 32);
        let huge: Vec<f32> = numbers(&before).iter().map(|x| x * 1e6).collect();
        assert_eq!(followed(&before, &huge, 32), None);
    }
}
