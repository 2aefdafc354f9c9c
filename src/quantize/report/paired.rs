//! Two models on the same text: their losses, and how far apart their predictions are.

use crate::{data::Split, inference::Model};
use kinglet_core::{
    backend::{Cpu, Forward, IGNORE},
    batch::Batch,
    error::{Error, Result},
    model::Gpt,
    threads::current,
};
use rayon::prelude::*;
use serde::Serialize;
use std::{f64::consts::LN_2, ops::ControlFlow};

/// Logits of a model that are in memory at once for each thread.
const LOGITS: usize = 1 << 21;

/// The loss of a model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Loss {
    /// Mean loss in nats per token.
    pub loss: f64,
    /// Its standard error, treating the sequences as independent; `None` if there is only one.
    #[serde(rename = "loss_stderr")]
    pub stderr: Option<f64>,
    /// The same in bits per character.
    pub bits_per_char: f64,
    /// `e^loss`.
    pub perplexity: f64,
}

/// The difference of two losses on the same sequences.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// How much larger the second one is, in nats per token.
    pub loss: f64,
    /// The standard error of the difference, treating the sequences as independent; `None` if there is only one. It is far
    /// smaller than that of each loss, because what is hard for one model is hard for the other.
    #[serde(rename = "loss_stderr")]
    pub stderr: Option<f64>,
    /// The same in bits per character.
    pub bits_per_char: f64,
}

/// Losses by the number of tokens that were seen before, within the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ByPosition {
    /// The first position, counted from 0.
    pub from: usize,
    /// The last.
    pub to: usize,
    /// Tokens that were predicted there.
    pub tokens: u64,
    /// The mean loss of the first model.
    pub before: f64,
    /// Of the second one.
    pub after: f64,
    /// `e^before`.
    pub perplexity_before: f64,
    /// `e^after`.
    pub perplexity_after: f64,
}

/// What was found on a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Paired {
    /// Sequences that were measured.
    pub sequences: usize,
    /// Sequences of the text. Where there are more than were measured, these are spread evenly.
    pub of_sequences: usize,
    /// Tokens that were predicted.
    pub tokens: u64,
    /// The loss of the first model.
    pub before: Loss,
    /// Of the second one.
    pub after: Loss,
    /// Their difference.
    pub difference: Difference,
    /// The fraction of tokens where both think the same one most probable.
    pub same_top: f64,
    /// The mean of the Kullback-Leibler divergence of the second distribution from the first, in nats.
    pub kl_mean: f64,
    /// The largest one.
    pub kl_max: f64,
    /// Losses by position.
    pub by_position: Vec<ByPosition>,
}

/// What was found in a sequence.
#[derive(Default)]
pub(super) struct Sequence {
    /// Of each row that counts: its position, and its losses.
    rows: Vec<(usize, [f32; 2])>,
    same_top: u64,
    pub(super) kl_sum: f64,
    kl_max: f64,
}

impl Sequence {
    /// The sums of both losses, and of how many tokens.
    pub(super) fn losses(&self) -> ([f64; 2], u64) {
        let sum = |which: usize| self.rows.iter().map(|(_, losses)| f64::from(losses[which])).sum();
        ([sum(0), sum(1)], self.rows.len() as u64)
    }
}

/// Two models on the same text. Every token is predicted as in [`Model::eval`], so that the losses are those; `most` is the
/// most sequences that are measured. `progress` receives the sequences done and their number; if it breaks, the result is
/// `None`.
///
/// # Errors
/// If the text cannot be read or is too short.
pub(super) fn measure(
    models: [&Model; 2],
    split: &Split,
    most: usize,
    mut progress: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Option<Paired>> {
    let (windows, block) = (split.windows(), models[0].config().block_size);
    if windows == 0 {
        return Err(Error::Data("the text is too short to predict anything".to_owned()));
    }
    let chosen = spread(windows, most);
    let mut sums = Sums::new(block);
    let at_once = 4 * current();
    let mut batch = Batch::default();
    for (done, part) in chosen.chunks(at_once).enumerate() {
        batch.clear();
        part.iter().try_for_each(|&i| split.window(i, &mut batch))?;
        each(batch.len(), |i| sequence(models.map(Model::parts), &batch, i))
            .iter()
            .for_each(|sequence| sums.add(sequence));
        if progress(done * at_once + part.len(), chosen.len()).is_break() {
            return Ok(None);
        }
    }
    Ok(Some(sums.paired(split, windows)))
}

/// The results of `work` for 0 to `n`, in order, on the threads of the pool that the caller is in.
pub(super) fn each<T: Send>(n: usize, work: impl Fn(usize) -> T + Send + Sync) -> Vec<T> {
    match current() {
        1 => (0..n).map(work).collect(),
        _ => (0..n).into_par_iter().with_max_len(1).map(work).collect(),
    }
}

/// At most `most` of `n` things, spread evenly, beginning with the first.
pub(super) fn spread(n: usize, most: usize) -> Vec<usize> {
    let most = most.min(n);
    (0..most).map(|i| i * n / most).collect()
}

/// What computes a model, its architecture, and its parameters.
pub(super) type Parts<'a> = (&'a Cpu, &'a Gpt, &'a <Cpu as Forward>::Buf);

/// Passes a sequence through both models.
pub(super) fn sequence(models: [Parts; 2], batch: &Batch, i: usize) -> Sequence {
    let ((ids, targets), positions) = (batch.sequence(i), batch.positions(i));
    let mut passes = models.map(|(be, gpt, p)| {
        let mut inside = gpt.enter(be, p, ids, positions);
        (0..gpt.layout.h.len()).for_each(|_| gpt.pass_block(be, p, &mut inside));
        inside
    });
    let v = models[0].1.vocab_size;
    let mut found = Sequence::default();
    for first in (0..ids.len()).step_by(rows_at_once(v)) {
        let rows = first..ids.len().min(first + rows_at_once(v));
        let targets = &targets[rows.clone()];
        let [before, after] = std::array::from_fn(|which| {
            let ((be, gpt, p), inside) = (models[which], &mut passes[which]);
            let logits = gpt.read_off(be, p, inside, rows.clone());
            (logits, gpt.losses_of(be, inside, targets))
        });
        for row in (0..targets.len()).filter(|&row| targets[row] != IGNORE) {
            let position = positions.get(first + row).map_or(first + row, |&position| position as usize);
            let [p, q] = [&before.0, &after.0].map(|logits| &logits[row * v..][..v]);
            let kl = divergence(p, q);
            found.rows.push((position, [before.1[row], after.1[row]]));
            found.same_top += u64::from(top(p) == top(q));
            found.kl_sum += kl;
            found.kl_max = larger(found.kl_max, kl);
        }
    }
    found
}

/// Rows whose logits are in memory at once.
pub(super) fn rows_at_once(vocab_size: usize) -> usize {
    (LOGITS / vocab_size).max(1)
}

/// The token with the largest logit, of equal ones the first.
fn top(z: &[f32]) -> usize {
    (0..z.len()).rev().max_by(|&a, &b| z[a].total_cmp(&z[b])).unwrap_or(0)
}

/// The Kullback-Leibler divergence `sum_i p_i (ln p_i - ln q_i)` in nats of the distributions with these logits.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let normalizer = |z: &[f32]| {
        let largest = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = z.iter().map(|z| f64::from(z - largest).exp()).sum();
        f64::from(largest) + sum.ln()
    };
    let (of_p, of_q) = (normalizer(p), normalizer(q));
    let each = p.iter().zip(q).map(|(&p, &q)| {
        let (p, q) = (f64::from(p) - of_p, f64::from(q) - of_q);
        // What never comes may be as far away as it likes.
        if p.exp() == 0.0 { 0.0 } else { p.exp() * (p - q) }
    });
    let sum: f64 = each.sum();
    // Rounding may leave a little less than nothing. What is not a number stays so: it is the worst, not the best.
    if sum < 0.0 { 0.0 } else { sum }
}

/// The larger one; what is not a number, if there is one.
fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// What sequences add up to.
struct Sums {
    /// Of each sequence its losses, and how many targets it has.
    sequences: Vec<([f64; 2], u64)>,
    /// Of each position.
    positions: Vec<([f64; 2], u64)>,
    same_top: u64,
    kl_sum: f64,
    kl_max: f64,
}

impl Sums {
    fn new(block: usize) -> Sums {
        Sums { sequences: Vec::new(), positions: vec![([0.0; 2], 0); block], same_top: 0, kl_sum: 0.0, kl_max: 0.0 }
    }

    fn add(&mut self, found: &Sequence) {
        for &(position, losses) in &found.rows {
            let (sums, n) = &mut self.positions[position];
            sums.iter_mut().zip(losses).for_each(|(sum, loss)| *sum += f64::from(loss));
            *n += 1;
        }
        self.sequences.push(found.losses());
        self.same_top += found.same_top;
        self.kl_sum += found.kl_sum;
        self.kl_max = larger(self.kl_max, found.kl_max);
    }

    fn paired(&self, split: &Split, of_sequences: usize) -> Paired {
        let bits = |loss: f64| loss / LN_2 * split.tokens_per_byte_and_char().1;
        let loss = |which: usize| {
            let each: Vec<_> = self.sequences.iter().map(|&(sums, n)| (sums[which], n)).collect();
            let (loss, stderr) = mean(&each);
            Loss { loss, stderr, bits_per_char: bits(loss), perplexity: loss.exp() }
        };
        let (before, after) = (loss(0), loss(1));
        let differences: Vec<_> = self.sequences.iter().map(|&([before, after], n)| (after - before, n)).collect();
        let (difference, stderr) = mean(&differences);
        let tokens = self.sequences.iter().map(|sequence| sequence.1).sum::<u64>();
        Paired {
            sequences: self.sequences.len(),
            of_sequences,
            tokens,
            before,
            after,
            difference: Difference { loss: difference, stderr, bits_per_char: bits(difference) },
            same_top: self.same_top as f64 / tokens as f64,
            kl_mean: self.kl_sum / tokens as f64,
            kl_max: self.kl_max,
            by_position: self.by_position(),
        }
    }

    /// In ranges that double, since most of what context gives is given by its first tokens.
    fn by_position(&self) -> Vec<ByPosition> {
        let (mut found, mut from) = (Vec::new(), 0);
        while from < self.positions.len() {
            let end = (2 * from).max(from + 1).min(self.positions.len());
            let part = &self.positions[from..end];
            let tokens: u64 = part.iter().map(|sum| sum.1).sum();
            let [before, after] =
                [0, 1].map(|which| part.iter().map(|sum| sum.0[which]).sum::<f64>() / tokens.max(1) as f64);
            if tokens > 0 {
                let [perplexity_before, perplexity_after] = [before.exp(), after.exp()];
                let to = end - 1;
                found.push(ByPosition { from, to, tokens, before, after, perplexity_before, perplexity_after });
            }
            from = end;
        }
        found
    }
}

/// The ratio of the sums of values and of counts, and its standard error: each contributes its deviation from the ratio
/// times its count.
pub(super) fn mean(each: &[(f64, u64)]) -> (f64, Option<f64>) {
    let of = each.len() as f64;
    let count = each.iter().map(|one| one.1).sum::<u64>() as f64;
    let mean = each.iter().map(|one| one.0).sum::<f64>() / count;
    let squares: f64 = each.iter().map(|&(value, n)| (value - mean * n as f64).powi(2)).sum();
    (mean, (each.len() > 1).then(|| (squares * of / (of - 1.0)).sqrt() / count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_divergence_is_that_of_the_distributions() {
        let p = [1.0f32.ln(), 2.0f32.ln() + 0.0, 5.0f32.ln()];
        let q = [4.0f32.ln() + 3.0, 2.0f32.ln() + 3.0, 2.0f32.ln() + 3.0];
        let want = 0.125 * (0.125f64 / 0.5).ln() + 0.25 * (0.25f64 / 0.25).ln() + 0.625 * (0.625f64 / 0.25).ln();
        assert!((divergence(&p, &q) - want).abs() < 1e-6);
        assert_eq!(divergence(&p, &p), 0.0);
        assert_eq!((top(&[1.0, 3.0, 3.0]), top(&[f32::NEG_INFINITY, -1.0])), (1, 1));
    }

    #[test]
    fn what_is_no_number_is_not_taken_for_no_difference() {
        let (p, never) = ([0.5, 1.0, -1.0], [0.5, f32::NEG_INFINITY, 1.0]);
        for broken in [[f32::NAN; 3], [0.5, f32::NAN, 1.0], [f32::INFINITY; 3], [f32::NEG_INFINITY; 3]] {
            assert!(divergence(&p, &broken).is_nan() && divergence(&broken, &p).is_nan(), "{broken:?}");
        }
        assert_eq!(divergence(&p, &never), f64::INFINITY);
        assert_eq!(divergence(&never, &never), 0.0);
        // The rest is that of the others.
        let others = divergence(&[0.5, 1.0], &[1.0, -1.0]);
        assert!((divergence(&never, &[1.0, -60.0, -1.0]) - others).abs() < 1e-9);
        assert!(larger(f64::NAN, 1.0).is_nan() && larger(1.0, f64::NAN).is_nan());
        assert_eq!((larger(1.0, 2.0), larger(2.0, 1.0)), (2.0, 2.0));
        let mut sums = Sums::new(1);
        for kl_max in [1.0, f64::NAN, 2.0] {
            sums.add(&Sequence { kl_max, ..Sequence::default() });
        }
        assert!(sums.kl_max.is_nan());
    }

    #[test]
    fn what_is_measured_is_spread_over_all() {
        assert_eq!(spread(3, 10), [0, 1, 2]);
        assert_eq!(spread(100, 4), [0, 25, 50, 75]);
        assert_eq!(spread(5, 3), [0, 1, 3]);
    }

    #[test]
    fn a_mean_over_sequences_of_several_lengths_has_the_error_of_a_ratio() {
        let (mean, stderr) = mean(&[(2.0, 2), (6.0, 2), (8.0, 4)]);
        // Deviations are -2, 2 and 0.
        assert!(mean == 2.0 && (stderr.unwrap() - (8.0f64 * 1.5).sqrt() / 8.0).abs() < 1e-12);
        assert_eq!(super::mean(&[(3.0, 2)]), (1.5, None));
    }
}
