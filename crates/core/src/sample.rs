//! Generating text: the model's distribution over the next token, narrowed by the usual knobs, then sampled.

mod stopper;

use crate::{
    backend::{Forward, IGNORE},
    error::{Error, Result},
    model::{Decoder, Gpt, Kv, Part},
    rng::{Purpose, Rng},
    threads::{self, for_each},
};
use rayon::prelude::*;
use std::collections::BTreeMap;

pub use stopper::Stopper;

/// Rows of a pass over several sequences, at most; a single sequence may have more. Small enough that a long prompt does not
/// make the others wait long.
const ROWS: usize = 1024;

/// Fewest rows of a pass for each thread where each takes sequences of its own through the model. The kernels reach their speed
/// with as many.
const ROWS_APART: usize = 4;

/// Most parameters of a model that each thread reads by itself: they are in a cache that the threads share.
const PARAMS_APART: usize = 1 << 22;

/// Logits to choose from that are worth a task of their own.
const CHOICES: usize = 16 * 1024;

/// How the next token is chosen. The default draws from the model's distribution as it is.
///
/// What is set works in this order, as in other programs; each step sees what the one before left, and divides its
/// probabilities by their sum, so that they are a distribution again. At least one token always stays.
///
/// | step | what stays |
/// |---|---|
/// | `repetition_penalty` r | each logit z of a token in the context becomes z / r if z > 0, else z r |
/// | `presence_penalty`, `frequency_penalty` | each logit of a token that was drawn n > 0 times gets less by presence + n frequency |
/// | `logit_bias` | is added to the logits of its tokens |
/// | `temperature` t | p_i = exp(z_i / t) / Σ_j exp(z_j / t) |
/// | `top_k` k | tokens with p_i at least the k-th largest; all that equal it |
/// | `top_p` P | from the most probable on, tokens while those before them have together less than P |
/// | `min_p` m | tokens with p_i ≥ m max_j p_j |
///
/// Of equally probable tokens, the smaller id comes first.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Sampling {
    /// Logits are divided by this; 0 always takes the most probable token.
    pub temperature: f64,
    /// Only the `k` most probable tokens, and those equal to the last of them; 0 is all.
    pub top_k: usize,
    /// Only the most probable tokens that together reach this probability; 1 is all (Holtzman et al. 2020).
    pub top_p: f64,
    /// Only tokens at least this fraction as probable as the most probable one; 0 is all.
    pub min_p: f64,
    /// Logits of tokens in the context are divided by this if positive, multiplied if negative; 1 leaves them
    /// (Keskar et al. 2019).
    pub repetition_penalty: f64,
    /// Taken from the logits of tokens that were drawn before; 0 leaves them.
    pub presence_penalty: f64,
    /// Taken from the logits of tokens once for each time that they were drawn before; 0 leaves them.
    pub frequency_penalty: f64,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 1337,
        }
    }
}

impl Sampling {
    /// Checks that each setting is in its range.
    ///
    /// # Errors
    /// If a setting is not; the error names it.
    pub fn check(&self) -> Result<()> {
        let settings = [
            ("temperature", self.temperature, self.temperature >= 0.0, "at least 0"),
            ("top_p", self.top_p, (0.0..=1.0).contains(&self.top_p), "0 to 1"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "0 to 1"),
            ("repetition_penalty", self.repetition_penalty, self.repetition_penalty as f32 > 0.0, "above 0"),
            ("presence_penalty", self.presence_penalty, true, "a number"),
            ("frequency_penalty", self.frequency_penalty, true, "a number"),
        ];
        let biases = self.logit_bias.iter().map(|(_, bias)| ("logit_bias", f64::from(*bias), true, "numbers"));
        for (key, value, allowed, range) in settings.into_iter().chain(biases) {
            if !(allowed && value.is_finite()) {
                return Err(Error::Config { key: key.into(), value: value.to_string(), allowed: range.into() });
            }
        }
        Ok(())
    }

    /// Draws a token from `logits (v)`, which are overwritten; the repetition penalty applies to the tokens of
    /// `context`, the two others to those that were `drawn` before, each so many times. A token whose logit is minus infinity
    /// is not drawn.
    pub fn choose(&self, logits: &mut [f32], context: &[u32], drawn: &BTreeMap<u32, u32>, rng: &mut Rng) -> u32 {
        self.penalise(logits, context);
        self.shift(logits, drawn);
        if self.temperature == 0.0 {
            return (0..logits.len() as u32).min_by(|a, b| by_logit(logits, *a, *b)).unwrap_or(0);
        }
        let (order, weights) = self.filter(logits);
        let mut left = rng.uniform() * weights.iter().sum::<f64>();
        let chosen = weights.iter().position(|w| {
            left -= w;
            left < 0.0
        });
        order[chosen.unwrap_or(weights.len() - 1)]
    }

    /// Makes the tokens of the context less probable.
    fn penalise(&self, logits: &mut [f32], context: &[u32]) {
        if self.repetition_penalty == 1.0 {
            return;
        }
        let mut seen: Vec<_> = context.to_vec();
        seen.sort_unstable();
        seen.dedup();
        for id in seen {
            let z = &mut logits[id as usize];
            let penalty = self.repetition_penalty as f32;
            *z = if *z > 0.0 { *z / penalty } else { *z * penalty };
        }
    }

    /// Whether it matters how often a token was drawn.
    fn counts(&self) -> bool {
        self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }

    /// Takes the penalties from the logits of tokens that were drawn, and adds the biases.
    fn shift(&self, logits: &mut [f32], drawn: &BTreeMap<u32, u32>) {
        if self.counts() {
            for (id, n) in drawn {
                logits[*id as usize] -= (self.presence_penalty + f64::from(*n) * self.frequency_penalty) as f32;
            }
        }
        for (id, bias) in &self.logit_bias {
            logits[*id as usize] += bias;
        }
    }

    /// The tokens that the filters leave, and their weights; if there are filters, the most probable come first.
    fn filter(&self, logits: &[f32]) -> (Vec<u32>, Vec<f64>) {
        let mut order: Vec<u32> =
            (0..logits.len() as u32).filter(|&id| logits[id as usize] != f32::NEG_INFINITY).collect();
        if order.is_empty() {
            order = (0..logits.len() as u32).collect();
        }
        if (1..order.len()).contains(&self.top_k) {
            // All that are as probable as the last of them stay.
            let (_, last, _) = order.select_nth_unstable_by(self.top_k - 1, |a, b| by_logit(logits, *a, *b));
            let last = logits[*last as usize];
            let kept: Vec<u32> = order.iter().copied().filter(|&id| logits[id as usize] >= last).collect();
            order = kept;
        }
        if self.top_k > 0 || self.top_p < 1.0 || self.min_p > 0.0 {
            order.sort_unstable_by(|a, b| by_logit(logits, *a, *b));
        }
        let top = order.iter().map(|&id| logits[id as usize]).fold(f32::NEG_INFINITY, f32::max);
        let weight = |&id: &u32| libm::exp(f64::from(logits[id as usize] - top) / self.temperature);
        let mut weights: Vec<f64> = order.iter().map(weight).collect();
        if self.top_p < 1.0 {
            let mut left = self.top_p * weights.iter().sum::<f64>();
            let enough = weights.iter().position(|w| {
                left -= w;
                left <= 0.0
            });
            weights.truncate(enough.map_or(weights.len(), |last| last + 1));
        }
        if self.min_p > 0.0 {
            // The first is the most probable, with weight 1.
            weights.truncate(weights.iter().take_while(|&&w| w >= self.min_p).count().max(1));
        }
        order.truncate(weights.len());
        (order, weights)
    }
}

/// The more probable token first; of equals the one with the smaller id.
fn by_logit(logits: &[f32], a: u32, b: u32) -> std::cmp::Ordering {
    logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b))
}

/// The `n` most probable tokens by `logits`, the most probable first.
fn most_probable(logits: &[f32], n: usize) -> Vec<u32> {
    if n == 0 {
        return Vec::new();
    }
    let mut order: Vec<u32> = (0..logits.len() as u32).filter(|&id| logits[id as usize] != f32::NEG_INFINITY).collect();
    if n < order.len() {
        order.select_nth_unstable_by(n - 1, |a, b| by_logit(logits, *a, *b));
    }
    order.truncate(n);
    order.sort_unstable_by(|a, b| by_logit(logits, *a, *b));
    order
}

/// A token that was drawn. Log-probabilities are in nats, under the model, before temperature and everything else that
/// [`Sampling`] changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Drawn {
    /// Its id.
    pub id: u32,
    /// Its log-probability.
    pub logprob: f64,
    /// The most probable tokens in its place, and their log-probabilities; as many as [`Sequence::top`] asked for.
    pub top: Vec<(u32, f64)>,
}

/// A prompt, then what a model generates. It holds all state that belongs to this text, so that any number of texts can share
/// a model, and a pass through it ([`draw`]).
pub struct Sequence<B: Forward> {
    kv: Kv<B>,
    tokens: Vec<u32>,
    /// How often each token was drawn, if that matters.
    drawn: BTreeMap<u32, u32>,
    sampling: Sampling,
    rng: Rng,
    /// Ids that are never drawn.
    barred: Vec<u32>,
    /// The token with which a new document begins, if the model keeps documents apart.
    parting: Option<u32>,
    /// Where the present document begins.
    start: usize,
    top: usize,
}

impl<B: Forward> Sequence<B> {
    /// A text of `model` that starts from `prompt`; those with the same seed differ by their `index`.
    ///
    /// # Errors
    /// If the prompt is empty, it or the bias has an id that the model does not have, or [`Sampling::check`] fails.
    pub fn new(be: &B, model: &Gpt, prompt: &[u32], sampling: Sampling, index: u64) -> Result<Sequence<B>> {
        sampling.check()?;
        if prompt.is_empty() {
            return Err(Error::Text("a prompt needs at least one token".to_owned()));
        }
        let biased = sampling.logit_bias.iter().map(|(id, _)| id);
        if let Some(id) = prompt.iter().chain(biased).find(|&&id| id as usize >= model.vocab_size) {
            return Err(Error::Text(format!(
                "the model has no token with id {id}; its vocabulary has {} tokens",
                model.vocab_size
            )));
        }
        let rng = Rng::new(sampling.seed, Purpose::Sample, 0, index);
        let (kv, tokens, barred) = (model.kv(be), prompt.to_vec(), Vec::new());
        let drawn = BTreeMap::new();
        Ok(Sequence { kv, tokens, drawn, sampling, rng, barred, parting: None, start: 0, top: 0 })
    }

    /// For a model that learned documents apart: with this token a new document begins, which sees nothing of what is
    /// before it.
    pub fn parting_at(mut self, token: Option<u32>) -> Sequence<B> {
        self.parting = token;
        self.start = self.tokens.iter().rposition(|&id| Some(id) == token).unwrap_or(0);
        self
    }

    /// Never draws these ids, such as those that the model knows and its tokenizer does not.
    pub fn barring(mut self, ids: &[u32]) -> Sequence<B> {
        self.barred = ids.to_vec();
        self
    }

    /// Each drawn token comes with the `n` most probable ones in its place.
    pub fn top(mut self, n: usize) -> Sequence<B> {
        self.top = n;
        self
    }

    /// The prompt and all that was drawn.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Whether what the model sees is to be computed anew: at first, or because learned positions shift with the window.
    fn begins(&self, model: &Gpt) -> bool {
        self.kv.is_empty() || self.tokens.len() - self.start > model.block_size && !model.slides()
    }

    /// How many positions the next token costs.
    fn cost(&self, model: &Gpt) -> usize {
        if self.begins(model) { seen(&self.tokens, self.start, model).len() } else { 1 }
    }

    /// The next part of a pass: what is not in the cache.
    fn part(&mut self, model: &Gpt) -> Part<'_, B> {
        let cost = self.cost(model);
        if self.begins(model) {
            self.kv.clear();
        }
        Part { ids: &self.tokens[self.tokens.len() - cost..], kv: &mut self.kv }
    }

    /// Chooses the next token, given its logits, which are overwritten. The log-probabilities still lack that of the chosen
    /// one.
    fn choose(&mut self, model: &Gpt, logits: &mut [f32]) -> Result<Drawn> {
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if logits.iter().any(|z| z.is_nan()) || !top.is_finite() {
            let what = "the model's logits are not finite: its training diverged, or its weights are damaged";
            return Err(Error::Data(what.to_owned()));
        }
        let Sequence { tokens, drawn, sampling, rng, barred, start, top, .. } = self;
        for &id in &*barred {
            if let Some(z) = logits.get_mut(id as usize) {
                *z = f32::NEG_INFINITY;
            }
        }
        let top: Vec<_> = most_probable(logits, *top).into_iter().map(|id| (id, logits[id as usize])).collect();
        let before = if top.is_empty() { Vec::new() } else { logits.to_vec() };
        let id = sampling.choose(logits, seen(tokens, *start, model), drawn, rng);
        let less = |(other, z)| (other, f64::from(z) - f64::from(before[id as usize]));
        Ok(Drawn { id, logprob: 0.0, top: top.into_iter().map(less).collect() })
    }

    /// Adds a token that was chosen, of this log-probability.
    fn add(&mut self, mut drawn: Drawn, logprob: f64) -> Drawn {
        drawn.logprob = logprob;
        drawn.top.iter_mut().for_each(|(_, of)| *of += logprob);
        self.tokens.push(drawn.id);
        if self.sampling.counts() {
            *self.drawn.entry(drawn.id).or_default() += 1;
        }
        if Some(drawn.id) == self.parting {
            self.start = self.tokens.len() - 1;
            self.kv.clear();
        }
        drawn
    }
}

/// The tokens that the model sees: of the document that begins at `start`, and of the last block.
fn seen<'a>(tokens: &'a [u32], start: usize, model: &Gpt) -> &'a [u32] {
    &tokens[start.max(tokens.len().saturating_sub(model.block_size))..]
}

/// Draws the next token of each sequence; every call must pass the same model. They go through the model together, which
/// costs far less than one after the other, and each gets what it would get alone, to the bit.
///
/// Within the first `block_size` tokens, each costs one position. After that, it still does with rotary positions, where the
/// window slides. Learned positions shift with the window, so the last `block_size` tokens are computed again for each token.
///
/// # Errors
/// Those of each sequence: if a logit is not finite, as after training that diverged. Nothing is drawn for it then.
pub fn draw<B: Forward>(
    be: &B,
    model: &Gpt,
    weights: &B::Buf,
    decoder: &mut Decoder<B>,
    sequences: &mut [&mut Sequence<B>],
) -> Vec<Result<Drawn>> {
    let (mut all, mut rest) = (Vec::with_capacity(sequences.len()), sequences);
    while !rest.is_empty() {
        let mut rows = 0;
        let mut fits = |sequence: &&mut Sequence<B>| {
            rows += sequence.cost(model);
            rows <= ROWS
        };
        let together = rest.iter().take_while(|sequence| fits(sequence)).count().max(1);
        let (now, later) = rest.split_at_mut(together);
        all.extend(draw_together(be, model, weights, decoder, now));
        rest = later;
    }
    all
}

/// [`draw`] of what fits into one pass. Where every thread gets rows enough, each takes sequences of its own through the model;
/// otherwise the threads divide each operation of one pass. The bits are the same.
fn draw_together<B: Forward>(
    be: &B,
    model: &Gpt,
    weights: &B::Buf,
    decoder: &mut Decoder<B>,
    sequences: &mut [&mut Sequence<B>],
) -> Vec<Result<Drawn>> {
    let costs: Vec<_> = sequences.iter().map(|sequence| sequence.cost(model)).collect();
    let shares = shares(&costs, model.layout.len(), threads::current());
    if shares.is_empty() {
        return draw_pass(be, model, weights, decoder, sequences);
    }
    let (mut rest, mut work) = (sequences, Vec::with_capacity(shares.len()));
    for (decoder, share) in decoder.apart(be, model, shares.len()).iter_mut().zip(shares) {
        let (mine, others) = rest.split_at_mut(share);
        rest = others;
        work.push((decoder, mine, Vec::new()));
    }
    threads::apart(work.par_iter_mut(), |(decoder, sequences, drawn)| {
        *drawn = draw_pass(be, model, weights, decoder, sequences);
    });
    work.into_iter().flat_map(|(.., drawn)| drawn).collect()
}

/// How many of the next sequences, which have so many rows each, each thread takes. None if that is not worth it: each thread
/// reads all weights, and waits for the one that has most rows.
fn shares(costs: &[usize], params: usize, threads: usize) -> Vec<usize> {
    let all: usize = costs.iter().sum();
    if threads < 2 || all < threads * ROWS_APART || params > PARAMS_APART {
        return Vec::new();
    }
    let (mut shares, mut rows, mut most) = (vec![0; threads], vec![0; threads], 0);
    let mut before = 0;
    for cost in costs {
        // By its middle.
        let at = (before + cost / 2) * threads / all;
        shares[at] += 1;
        rows[at] += cost;
        most = most.max(rows[at]);
        before += cost;
    }
    // At most a quarter more than if all had the same.
    if most * threads * 4 > all * 5 {
        return Vec::new();
    }
    shares.retain(|&share| share > 0);
    shares
}

/// [`draw`] in one pass.
fn draw_pass<B: Forward>(
    be: &B,
    model: &Gpt,
    weights: &B::Buf,
    decoder: &mut Decoder<B>,
    sequences: &mut [&mut Sequence<B>],
) -> Vec<Result<Drawn>> {
    let v = model.vocab_size;
    let mut logits = vec![0.0; sequences.len() * v];
    let mut parts: Vec<_> = sequences.iter_mut().map(|sequence| sequence.part(model)).collect();
    model.advance(be, weights, decoder, &mut parts, &mut logits);
    let mut chosen: Vec<_> = sequences.iter().map(|_| Ok(Drawn::default())).collect();
    let work = sequences.par_iter_mut().zip(logits.par_chunks_exact_mut(v)).zip(&mut chosen);
    for_each(work.with_min_len(CHOICES.div_ceil(v)), |((sequence, logits), chosen)| {
        *chosen = sequence.choose(model, logits);
    });
    let ids: Vec<u32> = chosen.iter().map(|drawn| drawn.as_ref().map_or(IGNORE, |drawn| drawn.id)).collect();
    let logprobs = model.logprobs(be, decoder, &ids);
    let added = sequences.iter_mut().zip(chosen).zip(logprobs);
    added.map(|((sequence, drawn), logprob)| drawn.map(|drawn| sequence.add(drawn, logprob))).collect()
}

/// One text, with room of its own to continue it.
pub struct Stream<B: Forward> {
    sequence: Sequence<B>,
    decoder: Decoder<B>,
}

impl<B: Forward> Stream<B> {
    /// A text of `model` that starts from `prompt`; those with the same seed differ by their `index`.
    ///
    /// # Errors
    /// As [`Sequence::new`].
    pub fn new(be: &B, model: &Gpt, prompt: &[u32], sampling: Sampling, index: u64) -> Result<Stream<B>> {
        Ok(Stream { sequence: Sequence::new(be, model, prompt, sampling, index)?, decoder: model.decoder(be) })
    }

    /// [`Sequence::parting_at`].
    pub fn parting_at(mut self, token: Option<u32>) -> Stream<B> {
        self.sequence = self.sequence.parting_at(token);
        self
    }

    /// [`Sequence::barring`].
    pub fn barring(mut self, ids: &[u32]) -> Stream<B> {
        self.sequence = self.sequence.barring(ids);
        self
    }

    /// The prompt and all that was drawn.
    pub fn tokens(&self) -> &[u32] {
        self.sequence.tokens()
    }

    /// [`draw`]s the next token; every call must pass the same model.
    ///
    /// # Errors
    /// As that has.
    pub fn draw(&mut self, be: &B, model: &Gpt, weights: &B::Buf) -> Result<Drawn> {
        draw(be, model, weights, &mut self.decoder, &mut [&mut self.sequence]).swap_remove(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each of five tokens is drawn, in percent.
    fn frequencies(sampling: &Sampling, context: &[u32]) -> [i32; 5] {
        let mut rng = Rng::new(3, Purpose::Sample, 0, 0);
        let mut counts = [0; 5];
        for _ in 0..50_000 {
            // Probabilities 0.4, 0.1, 0.3, 0.15, 0.05.
            let mut logits = [0.4f32, 0.1, 0.3, 0.15, 0.05].map(f32::ln);
            counts[sampling.choose(&mut logits, context, &BTreeMap::new(), &mut rng) as usize] += 1;
        }
        counts.map(|count| (f64::from(count) / 500.0).round() as i32)
    }

    fn close(got: [i32; 5], want: [i32; 5]) {
        assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() <= 1 && (w > 0 || *g == 0)), "{got:?}, want {want:?}");
    }

    #[test]
    fn each_knob_gives_its_distribution() {
        let plain = Sampling::default();
        close(frequencies(&plain, &[]), [40, 10, 30, 15, 5]);
        close(frequencies(&Sampling { temperature: 0.5, ..plain.clone() }, &[]), [56, 3, 31, 8, 1]);
        close(frequencies(&Sampling { temperature: 0.0, ..plain.clone() }, &[]), [100, 0, 0, 0, 0]);
        close(frequencies(&Sampling { top_k: 2, ..plain.clone() }, &[]), [57, 0, 43, 0, 0]);
        close(frequencies(&Sampling { top_p: 0.6, ..plain.clone() }, &[]), [57, 0, 43, 0, 0]);
        close(frequencies(&Sampling { top_p: 0.8, ..plain.clone() }, &[]), [47, 0, 35, 18, 0]);
        close(frequencies(&Sampling { min_p: 0.3, ..plain.clone() }, &[]), [47, 0, 35, 18, 0]);
        // ln 0.4 * 2 = ln 0.16: the first token falls from 0.4 to 0.16 of 0.76.
        close(frequencies(&Sampling { repetition_penalty: 2.0, ..plain }, &[0, 0]), [21, 13, 39, 20, 7]);
    }

    #[test]
    fn penalties_and_biases_shift_logits() {
        let shifted = |set: &dyn Fn(&mut Sampling), drawn: &[(u32, u32)]| {
            let (mut sampling, mut logits) = (Sampling::default(), [1.0, -2.0, 0.5]);
            set(&mut sampling);
            sampling.shift(&mut logits, &drawn.iter().copied().collect());
            logits
        };
        assert_eq!(shifted(&|_| (), &[(0, 2), (2, 1)]), [1.0, -2.0, 0.5]);
        assert_eq!(shifted(&|s| s.presence_penalty = 0.5, &[(1, 3)]), [1.0, -2.5, 0.5]);
        assert_eq!(shifted(&|s| s.frequency_penalty = 0.5, &[(1, 2), (2, 1)]), [1.0, -3.0, 0.0]);
        let both = |s: &mut Sampling| (s.presence_penalty, s.frequency_penalty) = (-1.0, 0.25);
        assert_eq!(shifted(&both, &[(0, 2)]), [1.5, -2.0, 0.5]);
        assert_eq!(shifted(&|s| s.logit_bias = vec![(2, 1.5), (0, -1.0)], &[]), [0.0, -2.0, 2.0]);
    }

    /// Probabilities of tokens; temperature, top-k, top-p and min-p; what is left of the probabilities.
    type Row = (&'static [f64], (f64, usize, f64, f64), &'static [f64]);
    const STEEP: &[f64] = &[0.4, 0.1, 0.3, 0.15, 0.05];
    const TIES: &[f64] = &[0.25, 0.125, 0.125, 0.25, 0.125, 0.125];

    /// Written by scripts/sampling.py.
    #[rustfmt::skip]
    const TRANSFORMERS: &[Row] = &[
        (STEEP, (1.0, 0, 0.8, 0.3), &[0.470588, 0.000000, 0.352941, 0.176471, 0.000000]),
        (STEEP, (1.0, 3, 0.0, 0.0), &[1.000000, 0.000000, 0.000000, 0.000000, 0.000000]),
        (STEEP, (1.0, 3, 0.75, 0.0), &[0.571429, 0.000000, 0.428571, 0.000000, 0.000000]),
        (STEEP, (1.0, 2, 0.8, 0.0), &[0.571429, 0.000000, 0.428571, 0.000000, 0.000000]),
        (STEEP, (1.0, 4, 0.9, 0.3), &[0.470588, 0.000000, 0.352941, 0.176471, 0.000000]),
        (STEEP, (2.0, 0, 0.8, 0.6), &[0.403486, 0.000000, 0.349430, 0.247084, 0.000000]),
        (STEEP, (2.0, 4, 0.7, 0.55), &[0.403486, 0.000000, 0.349430, 0.247084, 0.000000]),
        (STEEP, (0.5, 0, 0.9, 0.1), &[0.587156, 0.000000, 0.330275, 0.082569, 0.000000]),
        (STEEP, (0.5, 4, 0.98, 0.1), &[0.587156, 0.000000, 0.330275, 0.082569, 0.000000]),
        (STEEP, (0.7, 3, 0.6, 0.9), &[1.000000, 0.000000, 0.000000, 0.000000, 0.000000]),
        (STEEP, (1.5, 0, 1.0, 1.0), &[1.000000, 0.000000, 0.000000, 0.000000, 0.000000]),
        (STEEP, (1.0, 1, 0.01, 1.0), &[1.000000, 0.000000, 0.000000, 0.000000, 0.000000]),
        (STEEP, (3.0, 0, 0.95, 0.0), &[0.265983, 0.167558, 0.241661, 0.191807, 0.132991]),
        (STEEP, (1.0, 100, 0.99, 0.2), &[0.421053, 0.105263, 0.315789, 0.157895, 0.000000]),
        (TIES, (1.0, 1, 1.0, 0.0), &[0.500000, 0.000000, 0.000000, 0.500000, 0.000000, 0.000000]),
        (TIES, (1.0, 3, 1.0, 0.0), &[0.250000, 0.125000, 0.125000, 0.250000, 0.125000, 0.125000]),
        (TIES, (2.0, 2, 1.0, 0.5), &[0.500000, 0.000000, 0.000000, 0.500000, 0.000000, 0.000000]),
        (TIES, (1.0, 3, 1.0, 0.4), &[0.250000, 0.125000, 0.125000, 0.250000, 0.125000, 0.125000]),
        (TIES, (1.0, 0, 1.0, 0.6), &[0.500000, 0.000000, 0.000000, 0.500000, 0.000000, 0.000000]),
    ];

    #[test]
    fn filters_are_those_of_transformers() {
        for &(probabilities, (temperature, top_k, top_p, min_p), want) in TRANSFORMERS {
            let logits: Vec<f32> = probabilities.iter().map(|p| p.ln() as f32).collect();
            let sampling = Sampling { temperature, top_k, top_p, min_p, ..Sampling::default() };
            let (order, weights) = sampling.filter(&logits);
            let mut got = vec![0.0; logits.len()];
            let sum: f64 = weights.iter().sum();
            order.iter().zip(&weights).for_each(|(&id, w)| got[id as usize] = w / sum);
            assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-6), "{sampling:?}: {got:?}, want {want:?}");
        }
    }

    #[test]
    fn what_is_minus_infinity_is_never_drawn() {
        for narrowed in [Sampling::default(), Sampling { top_k: 9, min_p: 1e-9, ..Sampling::default() }] {
            for step in 0..2000 {
                let mut logits = [f32::NEG_INFINITY, -80.0, 0.0, f32::NEG_INFINITY];
                let id =
                    narrowed.choose(&mut logits, &[0, 3], &BTreeMap::new(), &mut Rng::new(1, Purpose::Sample, step, 0));
                assert!([1, 2].contains(&id));
            }
        }
        let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
        let mut rng = Rng::new(1, Purpose::Sample, 0, 0);
        assert_eq!(greedy.choose(&mut [f32::NEG_INFINITY, -1e30], &[], &BTreeMap::new(), &mut rng), 1);
    }

    #[test]
    fn threads_take_sequences_where_all_have_enough_to_do() {
        let few = PARAMS_APART;
        assert_eq!(shares(&[1; 32], few, 2), [16, 16]);
        assert_eq!(shares(&[1; 9], few, 2), [5, 4]);
        assert_eq!(shares(&[6, 1, 1, 1, 1, 1, 1], few, 2), [1, 6]);
        assert_eq!(shares(&[32; 6], few, 3), [2, 2, 2]);
        // Too few rows, too many parameters, a single thread, a prompt that the others would wait for.
        for (costs, params, threads) in
            [(&[1; 7][..], few, 2), (&[1; 32], few + 1, 2), (&[1; 32], few, 1), (&[300, 1, 1, 1, 1, 1, 1, 1], few, 2)]
        {
            assert_eq!(shares(costs, params, threads), [], "{costs:?} {params} {threads}");
        }
        for threads in 2..20 {
            for n in 1..200 {
                let shares = shares(&vec![1; n], few, threads);
                assert!(
                    shares.is_empty() || shares.iter().sum::<usize>() == n && shares.iter().all(|&share| share > 0)
                );
            }
        }
    }
}
