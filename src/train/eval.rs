//! Measuring the loss: the estimate over random batches, as published, and the exact mean over a whole split.

use crate::{
    data::Split,
    system::progress::Progress,
    text::{
        chat::{Ending, Reader},
        many,
        tokenizer::Tokenizer,
    },
};
use kinglet_core::{
    backend::{Forward, IGNORE, Pass, Rows},
    batch::Batch,
    config::Config,
    error::{Error, Result},
    model::Gpt,
    rng::Purpose,
    shards::{Measured, Shards},
};
use serde::Serialize;
use std::{f64::consts::LN_2, ops::ControlFlow};

/// The exact loss over every position of a split.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Exact {
    /// Mean loss in nats per token.
    pub loss: f64,
    /// Its standard error, treating the sequences as independent; `None` if there is only one.
    pub stderr: Option<f64>,
    /// The same in bits per character of text, independent of the tokenizer.
    pub bits_per_char: f64,
    /// The same in bits per byte of UTF-8.
    pub bits_per_byte: f64,
    /// `e^loss`.
    pub perplexity: f64,
    /// Tokens predicted.
    pub tokens: u64,
}

/// Everything needed to measure a loss: a model, its weights, a backend and workers.
pub struct Evaluator<'a, B: Forward> {
    /// The backend.
    pub be: &'a B,
    /// The architecture.
    pub model: &'a Gpt,
    /// The workers that compute in parallel.
    pub shards: &'a mut Shards<B>,
    /// The parameters.
    pub p: &'a B::Buf,
}

impl<B: Forward> Evaluator<'_, B> {
    /// The estimate, as published: the mean over `eval_iters` random batches, without dropout.
    ///
    /// `progress` receives the number of sequences done and the total; if it breaks, the result is `None`.
    ///
    /// # Errors
    /// If the text cannot be read.
    pub fn estimate(
        &mut self,
        split: &Split,
        purpose: Purpose,
        config: &Config,
        step: u64,
        progress: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Option<f64>> {
        let sequences = config.eval_iters as usize * config.batch_size;
        let load = |i, batch: &mut _| split.sample(config.seed, purpose, step, i, batch);
        let measured = self.shards.losses(self.be, self.model, self.p, sequences, load, progress)?;
        Ok(measured.map(|measured| mean(&measured).0))
    }

    /// The exact loss: every token except the first is predicted once, in consecutive sequences of `block_size`, so
    /// context lengths are distributed as in the estimate. Where documents are kept apart, sequences begin at documents;
    /// of conversations, each answer is predicted once. `progress` as in [`Evaluator::estimate`].
    ///
    /// # Errors
    /// If the text cannot be read, or is too short to predict anything.
    pub fn exact(
        &mut self,
        split: &Split,
        progress: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Option<Exact>> {
        let windows = split.windows();
        if windows == 0 {
            return Err(Error::Data(format!(
                "the text has {}, but evaluation needs at least 2",
                many(split.tokens() as u64, "token", "tokens")
            )));
        }
        let load = |i, batch: &mut _| split.window(i, batch);
        let measured = self.shards.losses(self.be, self.model, self.p, windows, load, progress)?;
        let Some(measured) = measured else { return Ok(None) };
        let (loss, tokens) = mean(&measured);
        // The standard error of a ratio of sums: each window contributes its deviation from the mean loss times its
        // target count.
        let squares: f64 = measured.iter().map(|m| (m.loss - loss * m.targets as f64).powi(2)).sum();
        let of = windows as f64;
        let stderr = (windows > 1).then(|| (squares * of / (of - 1.0)).sqrt() / tokens as f64);
        let (per_byte, per_char) = split.tokens_per_byte_and_char();
        Ok(Some(Exact {
            loss,
            stderr,
            bits_per_char: loss / LN_2 * per_char,
            bits_per_byte: loss / LN_2 * per_byte,
            perplexity: loss.exp(),
            tokens,
        }))
    }
}

/// How many answers are exactly right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Answers {
    /// Answers that greedy decoding reproduces exactly.
    pub exact: u64,
    /// All answers.
    pub of: u64,
}

/// How answers are generated.
#[derive(Clone, Copy, Debug)]
pub struct Answering<'a> {
    /// The tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// What ends an answer.
    pub ending: &'a Ending,
    /// Ids that are never generated.
    pub barred: &'a [u32],
}

impl Answering<'_> {
    /// The number of tokens of an answer up to and with what ends it; `None` if generating would not end there: because
    /// nothing does, or because it ends before.
    fn length(&self, tokens: &[u32]) -> Option<usize> {
        let end = |tokens: &[u32]| {
            let mut reader = Reader::new(self.ending.clone(), &[]);
            tokens.iter().position(|&id| reader.push(self.tokenizer, id).1.is_some()).map(|last| last + 1)
        };
        let first = end(tokens)?;
        end(&tokens[first..]).is_none().then_some(first)
    }
}

/// Counts the answers in conversations that a model reproduces exactly with greedy decoding. Up to the first wrong
/// token, the generated text equals the reference, so it suffices to check the prediction of each token up to the end of
/// an answer. An answer that generating would not end where it ends is not reproduced. Each row of `split` must be one
/// conversation.
///
/// # Errors
/// If the text cannot be read.
pub fn answers<B: Forward>(be: &B, model: &Gpt, p: &B::Buf, split: &Split, how: Answering) -> Result<Answers> {
    let (mut acts, mut logits) = (model.acts(be, 1, false), vec![0.0; model.block_size * model.vocab_size]);
    let mut found = Answers { exact: 0, of: 0 };
    let mut batch = Batch::default();
    let mut progress = Progress::new();
    for i in 0..split.windows() {
        progress.show(|| format!("checking answers: {i} of {} conversations", split.windows()));
        batch.clear();
        split.window(i, &mut batch)?;
        let (ids, targets) = batch.sequence(0);
        let rows = Rows::new(1, ids.len());
        model.forward(be, Pass { p, rows, dropout: None }, &mut acts, ids);
        be.download(acts.logits(), 0, &mut logits[..rows.t * model.vocab_size]);
        for z in logits[..rows.t * model.vocab_size].chunks_exact_mut(model.vocab_size) {
            how.barred.iter().for_each(|&id| z[id as usize] = f32::NEG_INFINITY);
        }
        // Of equal ones the first, as in generating.
        let best = |z: &[f32]| (0..z.len()).rev().max_by(|&a, &b| z[a].total_cmp(&z[b])).map(|id| id as u32);
        let tokens: Vec<_> = targets.iter().zip(logits.chunks_exact(model.vocab_size)).collect();
        // An answer is a consecutive run of tokens that count in the loss.
        for answer in tokens.chunk_by(|a, b| (*a.0 == IGNORE) == (*b.0 == IGNORE)).filter(|run| *run[0].0 != IGNORE) {
            let ends = |(target, _): &(&u32, &[f32])| how.ending.tokens.contains(*target);
            let mut rest = answer;
            // Answers in a row are told apart by the tokens that end them.
            while !rest.is_empty() {
                let over = rest.iter().position(ends).map_or(rest.len(), |last| last + 1);
                let last = !rest[over..].iter().any(ends);
                let (one, others) = rest.split_at(if last { rest.len() } else { over });
                let tokens: Vec<u32> = one.iter().map(|(target, _)| **target).collect();
                let right = |length: usize| one[..length].iter().all(|(target, z)| best(z) == Some(**target));
                found.of += 1;
                found.exact += u64::from(how.length(&tokens).is_some_and(right));
                rest = others;
            }
        }
    }
    Ok(found)
}

/// The mean loss, and the number of tokens.
fn mean(measured: &[Measured]) -> (f64, u64) {
    let tokens: usize = measured.iter().map(|m| m.targets).sum();
    (measured.iter().map(|m| m.loss).sum::<f64>() / tokens as f64, tokens as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_as_far_as_generating_would_go() {
        let tokenizer = Tokenizer::byte();
        let of = |texts: &[&str]| Ending {
            texts: texts.iter().map(|text| (*text).to_owned()).collect(),
            ..Ending::of_text(&tokenizer)
        };
        // `#` is the end of a text.
        for (texts, written, want) in [
            (&["\n"][..], "ab\n", Some(3)),
            (&["\n"], "a\nb\n", None),
            (&["\n"], "ab", None),
            (&[], "ab#\n", Some(3)),
            (&[], "ab", None),
            (&["--"], "a-b--", Some(5)),
        ] {
            let ids: Vec<u32> = written.bytes().map(|b| if b == b'#' { 256 } else { b.into() }).collect();
            let how = Answering { tokenizer: &tokenizer, ending: &of(texts), barred: &[] };
            assert_eq!(how.length(&ids), want, "{written:?}");
        }
    }
}
