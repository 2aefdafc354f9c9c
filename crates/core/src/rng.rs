//! Every random number: a function of (seed, purpose, step, sequence) and an index, never of what was drawn before.
//!
//! So a resumed run needs no generator state, and what one sequence sees does not depend on which thread, shard or
//! machine computes it. The words come from SplitMix64 used as a counter-based generator
//! ([`kinglet_kernels::rng`]).

use kinglet_kernels::{dropout::Mask, rng};

/// What a stream of random numbers is for; streams of different purposes have nothing in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Initial weights; `sequence` is the tensor's index.
    Init = 1,
    /// Offsets of training sequences.
    Batch,
    /// Offsets of the sequences that estimate the loss of the training split.
    EstimateTrain,
    /// The same for the validation split.
    EstimateVal,
    /// Dropout masks.
    Dropout,
    /// Sampled tokens; `sequence` is the sample's index.
    Sample,
    /// The built-in corpora; `step` is the corpus, `sequence` the piece's index.
    Corpus,
    /// Which dates the built-in instructions are about, and how they are written.
    Dates,
    /// The order of an epoch's windows; `step` is the epoch, or `u64::MAX` for the order of the offsets at which epochs
    /// cut the text.
    Epoch,
    /// The settings that a tuning run tries.
    Tune = 11,
}

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Rng {
    key: u64,
    index: u64,
}

impl Rng {
    /// The stream for one purpose, step and sequence of a run.
    pub fn new(seed: u64, purpose: Purpose, step: u64, sequence: u64) -> Rng {
        Rng { key: key(seed, purpose, step, sequence), index: 0 }
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.index += 1;
        rng::word(self.key, self.index - 1)
    }

    /// A uniform integer in `0..n`; `n` must be positive. (The bias of the multiplication is below `n / 2^64`.)
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    /// A uniform number in `[0, 1)` with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A standard normal number (Box and Muller 1958); `libm` gives the same bits on every platform.
    pub fn normal(&mut self) -> f64 {
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - self.uniform()));
        radius * libm::cos(std::f64::consts::TAU * self.uniform())
    }
}

fn key(seed: u64, purpose: Purpose, step: u64, sequence: u64) -> u64 {
    [purpose as u64, step, sequence].iter().fold(rng::mix(seed), |key, &part| rng::word(key, part))
}

/// The place of `index` in the random permutation of `0..n` that belongs to one epoch of a run. It is a Feistel network
/// over just enough bits for `n`, applied again until the result is below `n` (cycle walking, Black and Rogaway 2002),
/// so that no permutation is ever stored.
pub fn permute(seed: u64, epoch: u64, index: u64, n: u64) -> u64 {
    let half = (64 - n.saturating_sub(1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1u64 << half) - 1;
    let key = key(seed, Purpose::Epoch, epoch, 0);
    let mut at = index;
    loop {
        let (mut left, mut right) = (at >> half, at & mask);
        for round in 0..4 {
            (left, right) = (right, left ^ (rng::word(rng::word(key, round), right) & mask));
        }
        at = left << half | right;
        if at < n {
            return at;
        }
    }
}

/// The dropout masks of one step for consecutive sequences of the batch, at one site of the network.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// Probability that an element is dropped.
    pub rate: f32,
    /// Where in the network: each site of each layer has its own masks.
    pub site: u64,
    /// Which step of which run, and which part of its batch.
    pub key: DropoutKey,
}

/// What all dropout masks of one forward pass have in common.
#[derive(Clone, Copy, Debug)]
pub struct DropoutKey {
    /// The run's seed.
    pub seed: u64,
    /// The training step.
    pub step: u64,
    /// Index, within the whole batch of that step, of the first sequence of this pass.
    pub first_sequence: u64,
}

impl Dropout {
    /// The mask of the `s`-th sequence of this pass.
    pub fn mask(&self, s: usize) -> Mask {
        let DropoutKey { seed, step, first_sequence } = self.key;
        let sequence = key(seed, Purpose::Dropout, step, first_sequence + s as u64);
        Mask::new(rng::word(sequence, self.site), self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_in_every_part_of_their_key() {
        let first = |seed, purpose, step, sequence| Rng::new(seed, purpose, step, sequence).bits();
        let base = first(1, Purpose::Batch, 2, 3);
        for other in [
            first(2, Purpose::Batch, 2, 3),
            first(1, Purpose::Init, 2, 3),
            first(1, Purpose::Batch, 3, 3),
            first(1, Purpose::Batch, 2, 4),
            first(1, Purpose::Batch, 3, 2),
        ] {
            assert_ne!(base, other);
        }
        assert_eq!(base, first(1, Purpose::Batch, 2, 3));
    }

    #[test]
    fn moments_are_right() {
        let mut rng = Rng::new(7, Purpose::Init, 0, 0);
        let n = 200_000;
        let normal: Vec<f64> = (0..n).map(|_| rng.normal()).collect();
        let mean = normal.iter().sum::<f64>() / f64::from(n);
        let var = normal.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / f64::from(n);
        let kurtosis = normal.iter().map(|x| (x - mean).powi(4)).sum::<f64>() / f64::from(n) / var.powi(2);
        assert!(mean.abs() < 0.01 && (var - 1.0).abs() < 0.02 && (kurtosis - 3.0).abs() < 0.1);
        let mut counts = [0; 7];
        (0..70_000).for_each(|_| counts[rng.below(7) as usize] += 1);
        assert!(counts.iter().all(|&count: &i32| (count - 10_000).abs() < 500), "{counts:?}");
    }

    #[test]
    fn dropout_keeps_the_mean_and_repeats_itself() {
        let key = DropoutKey { seed: 1, step: 2, first_sequence: 3 };
        let mask = Dropout { rate: 0.1, site: 5, key }.mask(1);
        let factors: Vec<f32> = (0..200_000).map(|i| mask.factor(i)).collect();
        let dropped = factors.iter().filter(|&&f| f == 0.0).count() as f64 / 2e5;
        let mean = factors.iter().map(|&f| f64::from(f)).sum::<f64>() / 2e5;
        assert!((dropped - 0.1).abs() < 0.003 && (mean - 1.0).abs() < 0.003, "{dropped} {mean}");
        let later = DropoutKey { first_sequence: 4, ..key };
        let same = Dropout { rate: 0.1, site: 5, key: later }.mask(0);
        assert!((0..1000).all(|i| same.factor(i) == mask.factor(i)), "the same sequence from another shard");
        let other = Dropout { rate: 0.1, site: 6, key }.mask(1);
        assert!((0..1000).any(|i| other.factor(i) != mask.factor(i)));
    }

    #[test]
    fn an_order_has_every_index_once() {
        for n in [1, 2, 64, 1000] {
            let order = |epoch| (0..n).map(|i| permute(5, epoch, i, n)).collect::<Vec<_>>();
            let mut seen = order(0);
            assert!(n < 3 || seen != order(1));
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..n));
        }
    }
}
