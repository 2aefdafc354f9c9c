//! What is told of the scores of a text: which part of it each token is, and what all of them come to.

use super::{
    model::Model,
    score::{Scoring, TokenScore},
    token::{Token, spelt},
};
use crate::text::tokenizer::{StreamDecoder, Tokenizer};
use kinglet_core::backend::{Cpu, Forward};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use std::f64::consts::LN_2;

/// A mean as it is written in JSON: an infinite one as the largest number, for null is for a text of which nothing is predicted.
fn mean<S: Serializer>(mean: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    mean.map(|mean| mean.min(f64::MAX)).serialize(serializer)
}

/// The figures of a text that was scored; none of those that are means if no token was predicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Tally {
    /// Mean loss in nats per token that was predicted.
    #[serde(serialize_with = "mean")]
    pub loss: Option<f64>,
    /// The loss in bits per character of the text, as [`Evaluation`](super::Evaluation) has it.
    #[serde(serialize_with = "mean")]
    pub bits_per_char: Option<f64>,
    /// The same per byte of UTF-8.
    #[serde(serialize_with = "mean")]
    pub bits_per_byte: Option<f64>,
    /// `e^loss`.
    #[serde(serialize_with = "mean")]
    pub perplexity: Option<f64>,
    /// Tokens that were predicted.
    pub predicted_tokens: u64,
    /// How many of them were what the model found most probable.
    pub first_choices: u64,
    /// Tokens of the text, with those that are given and never predicted.
    pub tokens: u64,
}

/// The scores of a text as they come, with the text that each token is.
pub struct Readout<B: Forward = Cpu> {
    model: Model<B>,
    ids: Vec<u32>,
    /// Where each token begins in the text, and where the last one ends; none if the text is not what its tokens spell.
    offsets: Option<Vec<usize>>,
    bytes: usize,
    chars: usize,
    tally: Tally,
    nats: f64,
    /// Tokens told so far, and their text as far as it is open.
    told: usize,
    decoder: StreamDecoder,
}

impl<B: Forward> Readout<B> {
    /// For the scores of these tokens, and the text that they are; without one, the text that they spell.
    pub fn new(model: &Model<B>, scoring: &Scoring<B>, text: Option<&str>) -> Readout<B> {
        let (tokenizer, ids) = (model.tokenizer(), scoring.ids().to_vec());
        let (mut ends, mut all) = (vec![0], Vec::new());
        for (at, token) in spelt(tokenizer, &ids).enumerate() {
            // A token that was put before the text is no part of it.
            let was_put = at == 0
                && tokenizer.begin_of_text() == Some(token.id)
                && !text.is_some_and(|text| text.as_bytes().starts_with(&token.bytes));
            all.extend(if was_put { Vec::new() } else { token.bytes });
            ends.push(all.len());
        }
        let is_whole = text.is_none_or(|text| text.as_bytes() == all);
        let text = text.map_or_else(|| String::from_utf8_lossy(&all), Into::into);
        let (bytes, chars) = (text.len(), text.chars().count());
        let offsets = is_whole.then_some(ends);
        let (tally, decoder) = Default::default();
        Readout { model: model.clone(), ids, offsets, bytes, chars, tally, nats: 0.0, told: 0, decoder }
    }

    /// Where token number `index` is in the text, in bytes; none if the tokenizer does not keep the text as it is.
    pub fn offset(&self, index: usize) -> Option<usize> {
        self.offsets.as_ref().and_then(|ends| ends.get(index).copied())
    }

    /// Counts the next scores.
    pub fn add(&mut self, scores: &[TokenScore]) {
        self.told += scores.len();
        for score in scores {
            self.decoder.push(self.model.tokenizer(), score.id);
            if let Some(logprob) = score.logprob {
                self.nats -= logprob;
                self.tally.predicted_tokens += 1;
                self.tally.first_choices += u64::from(score.rank == Some(1));
            }
        }
    }

    /// Counts the next scores, and tells each as JSON.
    pub fn tokens(&mut self, scores: &[TokenScore]) -> Vec<Value> {
        let first = self.told;
        let token = |(index, score): (usize, &TokenScore)| {
            let token = Token::after(&self.decoder, self.model.tokenizer(), (score.id, score.logprob), &score.top);
            let more =
                [("offset", json!(self.offset(index))), ("rank", json!(score.rank)), ("entropy", json!(score.entropy))];
            self.add(std::slice::from_ref(score));
            token.json(index, &more)
        };
        (first..).zip(scores).map(token).collect()
    }

    /// The figures so far; of bits per character and byte, once all scores were told.
    pub fn tally(&self) -> Tally {
        let loss = (self.tally.predicted_tokens > 0).then(|| self.nats / self.tally.predicted_tokens as f64);
        let given = self.model.tokenizer().given();
        // As many tokens a unit as the text has, the first one included, as evaluation counts.
        let of_text = self.ids.iter().filter(|id| Some(**id) != given).count() as f64;
        let bits = |units: usize| loss.filter(|_| units > 0).map(|loss| loss / LN_2 * (of_text / units as f64));
        Tally {
            loss,
            bits_per_char: bits(self.chars),
            bits_per_byte: bits(self.bytes),
            perplexity: loss.map(f64::exp),
            tokens: self.ids.len() as u64,
            ..self.tally
        }
    }
}

/// The bytes of a token, as far as they are the same wherever it stands.
pub fn spelling(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    tokenizer.bytes_of(id).unwrap_or_else(|| tokenizer.decode(&[id]).into_bytes())
}
