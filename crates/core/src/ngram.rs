//! n-gram models, which a GPT must beat to have learned anything: interpolated modified Kneser-Ney models
//! (Chen and Goodman 1998, "An empirical study of smoothing techniques for language modeling", section 3.6).
//!
//! With h a context, h' the same without its oldest token, and c the count of an n-gram (for n-grams shorter than the longest,
//! the number of distinct tokens that precede it),
//!
//! ```text
//! P(w | h) = (max(c(h w) - D(c(h w)), 0) + sum_v min(D(c(h v)), c(h v)) P(w | h')) / sum_v c(h v)
//! D(1) = 1 - 2 Y n2 / n1,  D(2) = 2 - 3 Y n3 / n2,  D(3+) = 3 - 4 Y n4 / n3,  Y = n1 / (n1 + 2 n2)
//! ```
//!
//! where n_i is the number of n-grams with count i. The unigram is interpolated with the uniform distribution, so
//! nothing has probability zero. N-grams are packed into sorted integers: no hash tables, about 50 bytes per token.

/// Length of the longest n-grams. A token takes at most 25 bits, so an n-gram fits into 128.
pub const MAX_ORDER: usize = 5;

/// An interpolated modified Kneser-Ney model.
#[derive(Clone, Debug)]
pub struct KneserNey {
    vocab_size: usize,
    /// Bits of a token in a packed n-gram, whose last token is in the lowest bits.
    bits: u32,
    /// `levels[k]` holds the n-grams of `k + 1` tokens.
    levels: Vec<Level>,
}

/// The n-grams of one length, grouped by context.
#[derive(Clone, Debug, Default)]
struct Level {
    /// Sorted by `tokens`.
    contexts: Vec<Context>,
    /// The last token of each n-gram and its count.
    grams: Vec<(u32, u32)>,
    /// `D(1), D(2), D(3+)`.
    discounts: [f64; 3],
}

#[derive(Clone, Copy, Debug)]
struct Context {
    /// The context's tokens, packed.
    tokens: u128,
    /// Where its n-grams begin in [`Level::grams`]; they end where the next context's begin.
    start: u32,
    /// The sum of their counts.
    total: u32,
    /// The sum of their discounts: the mass given to the shorter context's distribution.
    discounted: f64,
}

impl KneserNey {
    /// Counts the n-grams of 1 to `order` (at most 5) tokens in `tokens`. With fewer than `order` tokens, the model is
    /// the uniform distribution.
    ///
    /// # Panics
    /// If an id is not below `vocab_size`, `vocab_size` is above 2^25, or `order` is not 1 to 5.
    pub fn train(tokens: &[u32], order: usize, vocab_size: usize) -> KneserNey {
        assert!((1..=MAX_ORDER).contains(&order) && vocab_size <= 1 << 25, "{order} {vocab_size}");
        assert!(tokens.iter().all(|&token| (token as usize) < vocab_size), "a token beyond the vocabulary");
        let bits = usize::BITS - vocab_size.leading_zeros();
        let pack = |tokens: &[u32]| pack(tokens, bits);
        let mut grams: Vec<u128> = tokens.windows(order).map(pack).collect();
        let mut levels = Vec::with_capacity(order);
        for length in (1..=order).rev() {
            grams.sort_unstable();
            levels.push(Level::new(&grams, bits));
            // At the next level, an n-gram counts once for each distinct token before it.
            grams.dedup();
            let shorter = (1u128 << (bits * (length as u32 - 1))) - 1;
            grams.iter_mut().for_each(|gram| *gram &= shorter);
        }
        levels.reverse();
        KneserNey { vocab_size, bits, levels }
    }

    /// The probability of `token` after `context`, of which the last `order - 1` tokens matter.
    pub fn probability(&self, context: &[u32], token: u32) -> f64 {
        let mut p = 1.0 / self.vocab_size as f64;
        for (length, level) in self.levels.iter().enumerate().take(context.len() + 1) {
            let tokens = pack(&context[context.len() - length..], self.bits);
            // If a context was never seen, longer ones were not either.
            let Ok(i) = level.contexts.binary_search_by_key(&tokens, |context| context.tokens) else { break };
            let Context { start, total, discounted, .. } = level.contexts[i];
            let end = level.contexts.get(i + 1).map_or(level.grams.len(), |next| next.start as usize);
            let grams = &level.grams[start as usize..end];
            let count = grams.binary_search_by_key(&token, |gram| gram.0).map_or(0, |i| grams[i].1);
            p = (f64::from(count) - level.discount(count) + discounted * p) / f64::from(total);
        }
        p
    }

    /// The mean loss on `val`, which continues `train`, in nats per token.
    pub fn loss(&self, train: &[u32], val: &[u32]) -> f64 {
        let before = self.levels.len() - 1;
        let history = &train[train.len().saturating_sub(before)..];
        let text = [history, val].concat();
        let nats = (history.len()..text.len()).map(|i| {
            let context = &text[i.saturating_sub(before)..i];
            // Not `-ln`: what is certain costs 0, not -0, which would be shown with its sign.
            0.0 - self.probability(context, text[i]).ln()
        });
        nats.sum::<f64>() / val.len() as f64
    }
}

fn pack(tokens: &[u32], bits: u32) -> u128 {
    tokens.iter().fold(0, |packed, &token| packed << bits | u128::from(token))
}

impl Level {
    /// Builds a level from the sorted n-grams of one length, each repeated as often as it counts.
    fn new(sorted: &[u128], bits: u32) -> Level {
        let mut level = Level::default();
        let mut counts = [0.0; 4];
        for run in sorted.chunk_by(|a, b| a == b) {
            if let Some(n) = counts.get_mut(run.len() - 1) {
                *n += 1.0;
            }
        }
        level.discounts = discounts(counts);
        for run in sorted.chunk_by(|a, b| a == b) {
            let tokens = run[0] >> bits;
            let count = run.len() as u32;
            if level.contexts.last().is_none_or(|context| context.tokens != tokens) {
                let start = level.grams.len() as u32;
                level.contexts.push(Context { tokens, start, total: 0, discounted: 0.0 });
            }
            level.grams.push(((run[0] & ((1 << bits) - 1)) as u32, count));
            let discount = level.discount(count);
            let context = level.contexts.last_mut().expect("just pushed");
            context.total += count;
            context.discounted += discount;
        }
        level
    }

    /// The discount of a count.
    fn discount(&self, count: u32) -> f64 {
        match count {
            0 => 0.0,
            n => self.discounts[n.min(3) as usize - 1],
        }
    }
}

/// Discounts, from the numbers of n-grams with counts 1, 2, 3 and 4.
///
/// If some count is missing, or the counts are unlike natural text, the formula is meaningless and the discounts are
/// 0.5, 1 and 1.5.
fn discounts(n: [f64; 4]) -> [f64; 3] {
    let y = n[0] / (n[0] + 2.0 * n[1]);
    let estimated = [1, 2, 3].map(|i: usize| i as f64 - (i + 1) as f64 * y * n[i] / n[i - 1]);
    let sound = (1..=3).zip(estimated).all(|(i, d)| d > 0.0 && d <= f64::from(i));
    if sound { estimated } else { [0.5, 1.0, 1.5] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Rng};

    /// Tokens of a random walk: some contexts are frequent, some never seen.
    fn walk(seed: u64, n: usize, vocab_size: u64) -> Vec<u32> {
        let mut rng = Rng::new(seed, Purpose::Batch, 0, 0);
        let mut at = 0;
        let step = |_| {
            at = (at * 3 + rng.below(4) * rng.below(3)) % (vocab_size - 1);
            at as u32
        };
        (0..n).map(step).collect()
    }

    #[test]
    fn probabilities_sum_to_one_in_every_context() {
        for (n, vocab_size) in [(0, 7), (3, 7), (12, 7), (400, 30), (5000, 30)] {
            let train = walk(1, n, vocab_size);
            for order in 1..=5 {
                let model = KneserNey::train(&train, order, vocab_size as usize);
                let last = vocab_size as u32 - 1;
                // Seen ones, one that begins with a token never seen, one that ends with it, and short ones.
                let mut contexts: Vec<Vec<u32>> = train.windows(4).step_by(37).map(<[u32]>::to_vec).collect();
                contexts.extend([vec![], vec![0], vec![last], vec![last, 1, 2, 3], vec![1, 2, 3, last]]);
                for context in contexts {
                    let p: Vec<f64> = (0..vocab_size as u32).map(|token| model.probability(&context, token)).collect();
                    assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{order} {context:?} {p:?}");
                    assert!(p.iter().all(|&p| p > 0.0), "{order} {context:?} {p:?}");
                }
            }
        }
    }

    #[test]
    fn a_small_bigram_by_hand() {
        // Text a b a c a b, with D = 0.5, 1, 1.5 (no n-gram has count 3 or 4). Continuations: a after b and c, b after
        // a, c after a: counts 2, 1, 1 of 4, discounts 1, 0.5, 0.5.
        let model = KneserNey::train(&[0, 1, 0, 2, 0, 1], 2, 4);
        let lower = |count: f64, discount: f64| (count - discount + 2.0 * 0.25) / 4.0;
        let near = |p: f64, want: f64| assert!((p - want).abs() < 1e-12, "{p} {want}");
        near(model.probability(&[], 0), lower(2.0, 1.0));
        near(model.probability(&[], 3), lower(0.0, 0.0));
        // After a: b twice, c once.
        near(model.probability(&[0], 1), (2.0 - 1.0 + 1.5 * lower(1.0, 0.5)) / 3.0);
        near(model.probability(&[0], 2), (1.0 - 0.5 + 1.5 * lower(1.0, 0.5)) / 3.0);
        near(model.probability(&[0], 0), 1.5 * lower(2.0, 1.0) / 3.0);
        // Nothing follows d.
        near(model.probability(&[3], 0), lower(2.0, 1.0));
    }

    #[test]
    fn discounts_are_chen_and_goodmans() {
        let y = 100.0 / (100.0 + 2.0 * 40.0);
        let want = [1.0 - 2.0 * y * 40.0 / 100.0, 2.0 - 3.0 * y * 20.0 / 40.0, 3.0 - 4.0 * y * 12.0 / 20.0];
        assert_eq!(discounts([100.0, 40.0, 20.0, 12.0]), want);
        for n in [[0.0; 4], [5.0, 0.0, 0.0, 0.0], [0.0, 5.0, 1.0, 1.0], [1.0, 5.0, 50.0, 1.0], [9.0, 3.0, 0.0, 2.0]] {
            assert_eq!(discounts(n), [0.5, 1.0, 1.5], "{n:?}");
        }
    }

    #[test]
    fn contexts_run_on_from_the_training_part_and_what_is_predictable_costs_little() {
        let text: Vec<u32> = (0..3000).map(|i| [0, 1, 0, 2][i % 4]).collect();
        let loss = |order| KneserNey::train(&text[..2001], order, 3).loss(&text[..2001], &text[2001..2002]);
        assert!(loss(5) < 0.01 && loss(2) < 0.8, "{} {}", loss(5), loss(2));
        // 2001 tokens end with 0; what comes then is 1 as often as 2 unless what came before is known.
        assert!(loss(2) > 0.6, "{}", loss(2));
    }
}
