//! Weights in eight bits: a signed byte for each, and a scale for each row of a matrix.
//!
//! `w[o][i]` is stored as `q = round(w / scale[o])` with `scale[o] = max_i |w[o][i]| / 127`. The matrices inside the blocks are
//! stored so; embeddings, head, norms and biases stay f32.

use super::portable::Portable;
use kinglet_core::params::Linear;

/// A matrix in eight bits.
pub(super) struct Rows<'a> {
    w: &'a [f32],
    cols: usize,
    /// One for each row.
    pub(super) scales: Vec<f32>,
}

impl<'a> Rows<'a> {
    /// The matrix `w`, in rows of `cols` numbers.
    pub(super) fn new(w: &'a [f32], cols: usize) -> Rows<'a> {
        let largest = |row: &[f32]| row.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        // A row of zeros has any scale.
        let scale = |row| if largest(row) == 0.0 { 1.0 } else { largest(row) / 127.0 };
        Rows { w, cols, scales: w.chunks_exact(cols).map(scale).collect() }
    }

    /// Element `i` of row `o`.
    pub(super) fn at(&self, o: usize, i: usize) -> i8 {
        (self.w[o * self.cols + i] / self.scales[o]).round_ties_even().clamp(-127.0, 127.0) as i8
    }

    /// The numbers that the bytes stand for.
    pub(super) fn rounded(&self) -> Vec<f32> {
        let rows = (0..self.scales.len()).flat_map(|o| (0..self.cols).map(move |i| (o, i)));
        rows.map(|(o, i)| f32::from(self.at(o, i)) * self.scales[o]).collect()
    }
}

/// Makes the weights of a model those that files with such matrices have.
pub(super) fn round(model: &mut Portable) {
    let layout = model.layout();
    let matrices = layout.h.iter().flat_map(|block| [block.c_attn, block.attn_proj, block.c_fc, block.mlp_proj]);
    for Linear { w, i, .. } in matrices {
        let numbers = &mut model.weights[w.range()];
        let rounded = Rows::new(numbers, i).rounded();
        numbers.copy_from_slice(&rounded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_within_half_a_step() {
        let w = [0.0, 0.0, 0.0, -1.27, 0.004, 0.0149, 1e-30, -2e-30, 5e-31];
        let rows = Rows::new(&w, 3);
        assert_eq!((rows.at(1, 0), rows.at(1, 2), rows.at(2, 1)), (-127, 1, -127));
        let near = |(i, (a, b)): (usize, (&f32, &f32))| (a - b).abs() <= 0.501 * rows.scales[i / 3];
        assert!(w.iter().zip(&rows.rounded()).enumerate().all(near));
    }
}
