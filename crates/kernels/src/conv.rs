//! Short causal convolutions along a sequence, each channel by itself (So et al. 2021, "Primer", who put them on queries, keys
//! and values).
//!
//! `y[i] = w[0] x[i] + w[1] x[i - 1] + ... + w[taps - 1] x[i - taps + 1]`, by channel. What would be before the beginning of a
//! document is 0.

use crate::isa::Isa;

/// The taps, and where documents begin.
#[derive(Clone, Copy, Debug)]
pub struct Conv<'a> {
    /// Weights `(taps, c)`: row `k` is for the input `k` positions before.
    pub w: &'a [f32],
    /// Channels.
    pub c: usize,
    /// Positions in a sequence.
    pub t: usize,
    /// The position of each row in its document, or empty where that is the row's place in its sequence.
    pub positions: &'a [u32],
}

impl Conv<'_> {
    /// How many rows before this one belong to it, of those that there are taps for.
    #[inline(always)]
    fn before(&self, row: usize) -> usize {
        let position = if self.positions.is_empty() { row % self.t } else { self.positions[row] as usize };
        position.min(self.w.len() / self.c - 1)
    }
}

/// Forward: `y (n, c)` from `x (n, c)`.
pub fn forward(isa: Isa, conv: Conv, y: &mut [f32], x: &[f32]) {
    let Conv { w, c, .. } = conv;
    assert_eq!(y.len(), x.len());
    isa.run(
        #[inline(always)]
        || {
            for (row, y) in y.chunks_exact_mut(c).enumerate() {
                let before = |k: usize| &x[(row - k) * c..][..c];
                sum_of_taps(y, conv.before(row), w, before);
            }
        },
    );
}

/// Forward of `x (n, c)`, the rows from position `pos` of a document on. Earlier rows of `x` are in `tail (taps - 1, c)`, a ring
/// in which row `i % (taps - 1)` is that of position `i`; those of `x` are stored there.
pub fn cached(isa: Isa, w: &[f32], c: usize, y: &mut [f32], x: &[f32], tail: &mut [f32], pos: usize) {
    let kept = w.len() / c - 1;
    isa.run(
        #[inline(always)]
        || {
            for (row, y) in y.chunks_exact_mut(c).enumerate() {
                let before = |k: usize| match row.checked_sub(k) {
                    Some(row) => &x[row * c..][..c],
                    None => &tail[(pos + row - k) % kept * c..][..c],
                };
                sum_of_taps(y, kept.min(pos + row), w, before);
            }
        },
    );
    for (row, x) in x.chunks_exact(c).enumerate().rev().take(kept) {
        tail[(pos + row) % kept * c..][..c].copy_from_slice(x);
    }
}

/// `y = w[0] x(0) + ... + w[most] x(most)`, in this order.
#[inline(always)]
fn sum_of_taps<'a>(y: &mut [f32], most: usize, w: &[f32], x: impl Fn(usize) -> &'a [f32]) {
    let c = y.len();
    let tap = |k: usize| &w[k * c..][..c];
    // The usual numbers of taps in one pass over the channels.
    match most {
        0 => {
            for ((y, w), x) in y.iter_mut().zip(tap(0)).zip(x(0)) {
                *y = w * x;
            }
        }
        1 => {
            for ((((y, w), x), w_1), x_1) in y.iter_mut().zip(tap(0)).zip(x(0)).zip(tap(1)).zip(x(1)) {
                *y = w * x + w_1 * x_1;
            }
        }
        _ => {
            let [x_0, x_1, x_2] = [x(0), x(1), x(2)];
            let [w_0, w_1, w_2] = [tap(0), tap(1), tap(2)];
            for (i, y) in y.iter_mut().enumerate() {
                *y = w_0[i] * x_0[i] + w_1[i] * x_1[i] + w_2[i] * x_2[i];
            }
            for k in 3..=most {
                for ((y, w), x) in y.iter_mut().zip(tap(k)).zip(x(k)) {
                    *y += w * x;
                }
            }
        }
    }
}

/// Backward, in place: on entry `d (n, c)` holds the gradients of [`forward`]'s results, on return those of `x (n, c)`. The
/// gradients of the weights are added to `dw (taps, c)`, if they are wanted.
pub fn backward(isa: Isa, conv: Conv, d: &mut [f32], mut dw: Option<&mut [f32]>, x: &[f32]) {
    let Conv { w, c, .. } = conv;
    assert_eq!(d.len(), x.len());
    let rows = d.len() / c;
    isa.run(
        #[inline(always)]
        || {
            for row in 0..rows {
                // Rows after this one still hold the gradients of results.
                let (this, after) = d[row * c..].split_at_mut(c);
                if let Some(dw) = &mut dw {
                    for k in 0..=conv.before(row) {
                        let x = &x[(row - k) * c..][..c];
                        for ((dw, d), x) in dw[k * c..][..c].iter_mut().zip(&*this).zip(x) {
                            *dw += d * x;
                        }
                    }
                }
                let is_seen_by = |k: &usize| row + k < rows && conv.before(row + k) >= *k;
                this.iter_mut().zip(&w[..c]).for_each(|(d, w)| *d *= w);
                for k in (1..w.len() / c).take_while(is_seen_by) {
                    for ((d, w), after) in this.iter_mut().zip(&w[k * c..][..c]).zip(&after[(k - 1) * c..][..c]) {
                        *d += w * after;
                    }
                }
            }
        },
    );
}
