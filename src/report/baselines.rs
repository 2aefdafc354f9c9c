//! Baseline losses that a model must beat to have learned anything: simple models, measured on the validation split.
//!
//! Uniform over the vocabulary, unigram, bigram and 5-gram, the last three as interpolated modified Kneser-Ney models
//! (Chen and Goodman 1998, "An empirical study of smoothing techniques for language modeling", section 3.6). With h a
//! context, h' the same without its oldest token, and c the count of an n-gram (for n-grams shorter than the longest,
//! the number of distinct tokens that precede it),
//!
//! ```text
//! P(w | h) = (max(c(h w) - D(c(h w)), 0) + sum_v min(D(c(h v)), c(h v)) P(w | h')) / sum_v c(h v)
//! D(1) = 1 - 2 Y n2 / n1,  D(2) = 2 - 3 Y n3 / n2,  D(3+) = 3 - 4 Y n4 / n3,  Y = n1 / (n1 + 2 n2)
//! ```
//!
//! where n_i is the number of n-grams with count i. The unigram is interpolated with the uniform distribution, so
//! nothing has probability zero. N-grams are packed into sorted integers: no hash tables, about 50 bytes per token.

use crate::data::Dataset;
use kinglet_core::error::{Error, Result};
use serde::Serialize;

/// Maximum tokens to train n-grams on, the last of the training split; this bounds memory (about 0.5 GB).
pub const TRAIN_TOKENS: usize = 10_000_000;
/// Maximum tokens to measure losses on, the first of the validation split.
pub const VAL_TOKENS: usize = 2_000_000;

/// Trains the baselines on the training split and returns the best one on the validation split; `None` for
/// conversations.
///
/// # Errors
/// If files cannot be read, or ids are not below `vocab_size`.
pub fn best(data: &Dataset, vocab_size: usize) -> Result<Option<Baseline>> {
    if data.val.is_conversations() {
        return Ok(None);
    }
    let (train, val) = (data.train.last_ids(TRAIN_TOKENS)?, data.val.first_ids(VAL_TOKENS)?);
    Ok(Some(*Baselines::measure(&train, &val, vocab_size)?.best()))
}

/// What is said where the baseline could not be measured: nothing else depends on it.
pub fn missing(error: &Error) -> String {
    format!("the n-gram baseline could not be computed: {}", error.one_line())
}

/// The losses of simple models on one validation split.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Baselines {
    /// Tokens that n-grams were trained on: the last of the training split, at most [`TRAIN_TOKENS`].
    pub train_tokens: usize,
    /// Tokens that losses are averaged over: the first of the validation split, at most [`VAL_TOKENS`].
    pub val_tokens: usize,
    /// Ordered from the simplest to the one with the longest context.
    pub models: Vec<Baseline>,
}

/// The loss of a simple model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Baseline {
    /// `uniform`, `unigram`, `bigram`, `5-gram`.
    pub name: &'static str,
    /// Mean loss on the validation split, in nats per token.
    pub nats_per_token: f64,
}

impl Baselines {
    /// Measures uniform, unigram, bigram and 5-gram. Contexts continue from `train` into `val`; nothing is learned from
    /// `val`.
    ///
    /// # Errors
    /// If `val` is empty, or an id is not below `vocab_size`.
    pub fn measure(train: &[u32], val: &[u32], vocab_size: usize) -> Result<Baselines> {
        if val.is_empty() {
            return Err(Error::Data("the validation part is empty: there is nothing to predict".into()));
        }
        if let Some(id) = train.iter().chain(val).find(|&&id| id as usize >= vocab_size) {
            return Err(Error::Data(format!("token {id} is not in a vocabulary of {vocab_size}")));
        }
        let train = &train[train.len().saturating_sub(TRAIN_TOKENS)..];
        let val = &val[..val.len().min(VAL_TOKENS)];
        let mut models = vec![Baseline { name: "uniform", nats_per_token: (vocab_size as f64).ln() }];
        for (name, order) in [("unigram", 1), ("bigram", 2), ("5-gram", MAX_ORDER)] {
            let nats_per_token = KneserNey::train(train, order, vocab_size).loss(train, val);
            models.push(Baseline { name, nats_per_token });
        }
        Ok(Baselines { train_tokens: train.len(), val_tokens: val.len(), models })
    }

    /// The one with the lowest loss.
    pub fn best(&self) -> &Baseline {
        let by_loss = |a: &&Baseline, b: &&Baseline| a.nats_per_token.total_cmp(&b.nats_per_token);
        self.models.iter().min_by(by_loss).expect("uniform is always there")
    }
}

/// Length of the longest n-grams. A token takes at most 25 bits, so an n-gram fits into 128.
const MAX_ORDER: usize = 5;

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
    use crate::text::tokenizer::CharTokenizer;
    use kinglet_core::rng::{Purpose, Rng};

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

    #[test]
    fn what_is_certain_costs_zero() {
        for model in &Baselines::measure(&[0; 100], &[0; 10], 1).unwrap().models {
            assert_eq!(model.nats_per_token.to_bits(), 0, "{}", model.name);
        }
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        let error = |train: &[u32], val: &[u32]| Baselines::measure(train, val, 2).unwrap_err().to_string();
        assert!(error(&[0, 1], &[]).contains("the validation part is empty"));
        assert!(error(&[0, 2], &[1]).contains("token 2 is not in a vocabulary of 2"));
        assert!(error(&[0, 1], &[3]).contains("token 3"));
        let uniform = Baselines::measure(&[], &[0, 1, 0], 2).unwrap();
        assert!(uniform.models.iter().all(|model| (model.nats_per_token - 2f64.ln()).abs() < 1e-12), "{uniform:?}");
    }

    #[test]
    fn of_a_long_text_the_last_tokens_are_learned_and_the_first_measured() {
        let train = [vec![1; 5], vec![0; TRAIN_TOKENS]].concat();
        let val = [vec![1; VAL_TOKENS], vec![0]].concat();
        let baselines = Baselines::measure(&train, &val, 2).unwrap();
        assert_eq!((baselines.train_tokens, baselines.val_tokens), (TRAIN_TOKENS, VAL_TOKENS));
        // Had the five been seen, a unigram would give them 5 in 10 million instead of 0.75.
        let unigram = baselines.models[1].nats_per_token;
        assert!((unigram - (TRAIN_TOKENS as f64 / 0.75).ln()).abs() < 1e-9, "{unigram}");
    }

    /// Measured once and kept: a change of the counting, the discounts or the contexts moves them.
    #[test]
    fn tiny_shakespeare() {
        if std::env::var_os("KINGLET_DATA_DIR").is_none() {
            eprintln!("skipped: set KINGLET_DATA_DIR to a folder with tinyshakespeare.txt");
            return;
        }
        let folder = std::env::var_os("KINGLET_DATA_DIR").unwrap();
        let text = std::fs::read_to_string(std::path::Path::new(&folder).join("tinyshakespeare.txt")).unwrap();
        let tokenizer = CharTokenizer::train(&text);
        let ids = tokenizer.encode(&text).unwrap();
        let (train, val) = ids.split_at(ids.len() / 10 * 9);
        let start = std::time::Instant::now();
        let baselines = Baselines::measure(train, val, tokenizer.vocab_size()).unwrap();
        eprintln!("{:?} {baselines:?}", start.elapsed());
        for (model, want) in baselines.models.iter().zip([4.1744, 3.3473, 2.4835, 1.5611]) {
            assert!((model.nats_per_token - want).abs() < 1e-3, "{baselines:?}");
        }
        assert_eq!(baselines.best().name, "5-gram");
    }
}
