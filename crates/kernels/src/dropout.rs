//! Dropout: `y[i] = x[i] * keep(i) / (1 - rate)`. The mask is recomputed from its key wherever it is needed
//! (forward, backward, any thread), so it takes no memory and depends on nothing but the key.

use crate::{isa::Isa, rng};

/// The dropout mask of one sequence at one place of the network in one step.
#[derive(Clone, Copy, Debug)]
pub struct Mask {
    key: u64,
    /// Elements whose 16 random bits are below this are dropped.
    threshold: u16,
    scale: f32,
}

impl Mask {
    /// A mask that drops each element with probability `rate`, rounded to a multiple of 2^-16.
    ///
    /// # Panics
    /// Unless `0 <= rate < 1` after rounding.
    pub fn new(key: u64, rate: f32) -> Self {
        let dropped = (f64::from(rate) * 65536.0).round();
        assert!((0.0..65536.0).contains(&dropped), "dropout rate {rate} is not in [0, 1)");
        Mask { key, threshold: dropped as u16, scale: (65536.0 / (65536.0 - dropped)) as f32 }
    }

    /// The mask of attention within the document that begins at position `start` of the sequence.
    pub fn of_document(self, start: usize) -> Mask {
        // No element has an index this large.
        if start == 0 { self } else { Mask { key: rng::word(self.key, u64::MAX - start as u64), ..self } }
    }

    /// The factor on element `index`: 0 or `1 / (1 - rate)`.
    #[inline(always)]
    pub fn factor(&self, index: usize) -> f32 {
        let bits = rng::word(self.key, index as u64 / 4) >> (16 * (index % 4));
        if bits as u16 >= self.threshold { self.scale } else { 0.0 }
    }

    /// The factors of `N` consecutive elements from `start`, both multiples of 4.
    #[inline(always)]
    pub(crate) fn factors<const N: usize>(&self, start: usize) -> [f32; N] {
        debug_assert!(start.is_multiple_of(4) && N.is_multiple_of(4));
        let mut factors = [0.0f32; N];
        for (i, four) in factors.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let word = rng::word(self.key, (start / 4 + i) as u64);
            for (lane, factor) in four.iter_mut().enumerate() {
                *factor = if (word >> (16 * lane)) as u16 >= self.threshold { self.scale } else { 0.0 };
            }
        }
        factors
    }
}

/// `y = x * mask` (n elements); the first element has index `start`, a multiple of 4.
pub fn dropout(isa: Isa, y: &mut [f32], x: &[f32], mask: &Mask, start: usize) {
    assert_eq!(y.len(), x.len());
    isa.run(
        #[inline(always)]
        || {
            for (i, (y, x)) in y.chunks_mut(PIECE).zip(x.chunks(PIECE)).enumerate() {
                let keep = mask.factors::<PIECE>(start + PIECE * i);
                y.iter_mut().zip(x).zip(keep).for_each(|((y, x), keep)| *y = x * keep);
            }
        },
    );
}

/// `y *= mask` (n elements); the first element has index `start`, a multiple of 4.
pub fn dropout_in_place(isa: Isa, y: &mut [f32], mask: &Mask, start: usize) {
    isa.run(
        #[inline(always)]
        || {
            for (i, y) in y.chunks_mut(PIECE).enumerate() {
                let keep = mask.factors::<PIECE>(start + PIECE * i);
                y.iter_mut().zip(keep).for_each(|(y, keep)| *y *= keep);
            }
        },
    );
}

/// Number of factors computed at once.
const PIECE: usize = 64;
