//! Baseline losses that a model must beat to have learned anything: simple models, measured on the validation split.
//!
//! Uniform over the vocabulary, unigram, bigram and 5-gram, the last three as [`KneserNey`] models.

use crate::data::Dataset;
use kinglet_core::{
    error::{Error, Result},
    ngram::{KneserNey, MAX_ORDER},
};
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenizer::CharTokenizer;

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
