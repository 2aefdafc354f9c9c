//! How probable a model finds each token of a text, as an iterator.

use super::loaded::Loaded;
use crate::data::Split;
use kinglet_core::{
    backend::{Cpu, Forward, IGNORE, Pass, Rows},
    batch::{Batch, Padded},
    error::{Error, Result},
    model::Acts,
    shards::EVAL_ROWS,
    threads::current,
};
use rayon::prelude::*;
use serde::Serialize;
use std::{cmp::Ordering, ops::Range, sync::Arc};

/// Logits that are looked at together.
const LOGITS: usize = 1 << 20;

/// How a text that is longer than the block is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Windows {
    /// Into windows of the block's length that overlap by half. Each token is scored in the first window that has it, where
    /// most is before it: at least half a block, or all of the text so far. What comes after a token changes nothing.
    #[default]
    Half,
    /// Into consecutive windows, as [`Model::eval`](super::Model::eval) cuts a text: the mean is the loss that it measures.
    Eval,
}

/// What a model says about a token of a text. Figures are missing where it says nothing: nothing comes before the token, or
/// it only begins texts and is never predicted.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TokenScore {
    /// The token.
    pub id: u32,
    /// Its log-probability in nats, after what is before it.
    pub logprob: Option<f64>,
    /// How many tokens are at least as probable, with itself: 1 for the most probable one. Of equals, that with the smaller id
    /// comes first.
    pub rank: Option<usize>,
    /// The entropy, in nats, of the distribution that the model expected here.
    pub entropy: Option<f64>,
    /// The most probable tokens in its place and their log-probabilities, most probable first.
    pub top: Vec<(u32, f64)>,
}

/// A text being scored: first configured, then iterated over. A piece is a bounded amount of work, and has the scores of the
/// tokens that follow those of the piece before. Like [`Generation`](super::Generation), it computes on the thread that asks.
///
/// ```no_run
/// # fn main() -> kinglet::error::Result<()> {
/// let model = kinglet::Model::open("runs/first")?;
/// let (ids, _) = model.ids_of("The end.")?;
/// for piece in model.score(ids).top(3) {
///     for token in piece? {
///         println!("{} {:?} {:?}", token.id, token.logprob, token.top);
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Scoring<B: Forward = Cpu> {
    model: Arc<Loaded<B>>,
    ids: Vec<u32>,
    top: usize,
    windows: Windows,
    walk: Option<Walk>,
    done: bool,
}

/// The way through a text.
struct Walk {
    text: Split,
    plan: Plan,
    /// Windows that are computed together.
    at_once: usize,
    /// The next window.
    window: usize,
    /// The next token.
    token: usize,
}

/// Which windows there are.
enum Plan {
    /// Those of [`Split::window`].
    Eval,
    /// These.
    Half(Vec<Window>),
}

/// A window: what the model reads, and how much of that another window has scored.
#[derive(Clone, Debug, PartialEq)]
struct Window {
    inputs: Range<usize>,
    known: usize,
}

impl<B: Forward> Scoring<B> {
    pub(super) fn new(model: Arc<Loaded<B>>, ids: Vec<u32>) -> Scoring<B> {
        Scoring { model, ids, top: 0, windows: Windows::default(), walk: None, done: false }
    }

    /// Also names the `n` most probable tokens in each place.
    pub fn top(mut self, n: usize) -> Self {
        self.top = n;
        self
    }

    /// How a text that is longer than the block is cut.
    pub fn windows(mut self, windows: Windows) -> Self {
        self.windows = windows;
        self
    }

    /// The tokens of the text.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Whether the text can be scored; iterating begins with this.
    ///
    /// # Errors
    /// If there is no token, or an id that the model does not know.
    pub fn check(&self) -> Result<()> {
        let vocab_size = self.model.gpt.vocab_size;
        if self.ids.is_empty() {
            return Err(Error::Text("there is nothing to score: the text has no token".to_owned()));
        }
        match self.ids.iter().find(|&&id| id as usize >= vocab_size) {
            Some(id) => {
                Err(Error::Text(format!("the model has no token with id {id}; its vocabulary has {vocab_size} tokens")))
            }
            None => Ok(()),
        }
    }

    /// Plans the windows.
    fn begin(&self) -> Result<Walk> {
        self.check()?;
        let Loaded { config, tokenizer, gpt, .. } = &*self.model;
        let text = Split::of_ids(self.ids.clone(), tokenizer, config)?;
        let plan = match self.windows {
            Windows::Eval => Plan::Eval,
            Windows::Half => Plan::Half(half(&text.documents(), gpt.block_size)),
        };
        let at_once = (EVAL_ROWS / gpt.block_size).clamp(1, plan.count(&text).max(1));
        Ok(Walk { text, plan, at_once, window: 0, token: 0 })
    }

    /// The scores of the next piece; `None` at the end.
    fn advance(&mut self) -> Result<Option<Vec<TokenScore>>> {
        let mut walk = self.walk.take().map_or_else(|| self.begin(), Ok)?;
        let mut scores = Vec::new();
        if walk.token == 0 {
            scores.push(TokenScore::default());
        }
        let windows = walk.window..walk.plan.count(&walk.text).min(walk.window + walk.at_once);
        if !windows.is_empty() {
            walk.window = windows.end;
            scores.extend(self.measure(&mut walk, windows)?);
        }
        let ids = &self.ids[walk.token..];
        walk.token += scores.len();
        for (score, &id) in scores.iter_mut().zip(ids) {
            score.id = id;
        }
        self.walk = Some(walk);
        Ok((!scores.is_empty()).then_some(scores))
    }

    /// Scores the tokens that these windows predict and none before them did; without their ids.
    fn measure(&self, walk: &mut Walk, windows: Range<usize>) -> Result<Vec<TokenScore>> {
        let Loaded { be, gpt, weights: p, .. } = &*self.model;
        let (mut batch, mut padded) = (Batch::default(), Padded::default());
        let known = windows.map(|i| walk.plan.push(i, &walk.text, &mut batch)).collect::<Result<Vec<_>>>()?;
        padded.load(&batch, 0..batch.len());
        let Padded { t, ids, targets, positions } = &padded;
        let rows = Rows { positions, ..Rows::new(batch.len(), *t) };
        // Only for this piece: a text whose reader pauses keeps no scratch space meanwhile.
        let mut acts = gpt.acts(be, walk.at_once, false);
        gpt.forward(be, Pass { p, rows, dropout: None }, &mut acts, ids);
        let new = |(i, known)| i * t + known..i * t + batch.sequence(i).0.len();
        let new: Vec<usize> = known.into_iter().enumerate().flat_map(new).collect();
        // What needs all logits comes before the losses, which may overwrite them.
        let mut scores = self.expected(&acts, &new, targets)?;
        gpt.losses(be, &mut acts, targets);
        let mut losses = vec![0.0; rows.n()];
        be.download(acts.losses(), 0, &mut losses);
        for (score, row) in scores.iter_mut().zip(new).filter(|(_, row)| targets[*row] != IGNORE) {
            // The number that evaluation and generation report too, to the bit.
            let logprob = 0.0 - f64::from(losses[row]);
            score.logprob = Some(logprob);
            score.top.iter_mut().filter(|(id, _)| *id == targets[row]).for_each(|own| own.1 = logprob);
        }
        Ok(scores)
    }

    /// What was expected in these rows: all of their scores but the log-probability of what came.
    fn expected(&self, acts: &Acts<B>, rows: &[usize], targets: &[u32]) -> Result<Vec<TokenScore>> {
        let (be, v) = (&self.model.be, self.model.gpt.vocab_size);
        let (mut scores, mut logits) = (Vec::with_capacity(rows.len()), Vec::new());
        for rows in rows.chunks((LOGITS / v).max(1)) {
            let (first, last) = (rows[0], rows[rows.len() - 1]);
            logits.resize((last + 1 - first) * v, 0.0);
            be.download(acts.logits(), first * v, &mut logits);
            let one = |&row: &usize| match targets[row] {
                IGNORE => Ok(TokenScore::default()),
                target => Expected::new(&logits[(row - first) * v..][..v]).map(|expected| TokenScore {
                    rank: Some(expected.rank(target)),
                    entropy: Some(expected.entropy()),
                    top: expected.top(self.top, &self.model.barred),
                    ..TokenScore::default()
                }),
            };
            // In a pool on its threads, otherwise on this one.
            match current() {
                1 => rows.iter().map(one).try_for_each(|score| score.map(|score| scores.push(score)))?,
                _ => scores.extend(rows.par_iter().map(one).collect::<Result<Vec<_>>>()?),
            }
        }
        Ok(scores)
    }
}

impl<B: Forward> Iterator for Scoring<B> {
    type Item = Result<Vec<TokenScore>>;

    fn next(&mut self) -> Option<Result<Vec<TokenScore>>> {
        if self.done {
            return None;
        }
        let advanced = self.advance();
        self.done = !matches!(advanced, Ok(Some(_)));
        if self.done {
            self.walk = None;
        }
        advanced.transpose()
    }
}

impl Plan {
    fn count(&self, text: &Split) -> usize {
        match self {
            Plan::Eval => text.windows(),
            Plan::Half(windows) => windows.len(),
        }
    }

    /// Appends window `i` to a batch; returns how many of its tokens an earlier window has scored.
    fn push(&self, i: usize, text: &Split, batch: &mut Batch) -> Result<usize> {
        match self {
            Plan::Eval => text.window(i, batch).map(|()| 0),
            Plan::Half(windows) => text.stretch(windows[i].inputs.clone(), batch).map(|()| windows[i].known),
        }
    }
}

/// Windows that overlap by half, within each document; documents that are short share one. `documents` says where each
/// begins and where the last one ends.
fn half(documents: &[usize], block_size: usize) -> Vec<Window> {
    let mut windows: Vec<Window> = Vec::new();
    for document in documents.windows(2) {
        let (mut start, end) = (document[0], document[1]);
        match windows.last_mut().filter(|last| end - last.inputs.start <= block_size) {
            Some(last) => last.inputs.end = end,
            None => {
                let mut known = start;
                while known < end {
                    let to = end.min(start + block_size);
                    windows.push(Window { inputs: start..to, known: known - start });
                    (start, known) = (start + block_size.div_ceil(2), to);
                }
            }
        }
    }
    windows
}

/// The distribution of the next token.
pub(super) struct Expected<'a> {
    logits: &'a [f32],
    top: f32,
    /// The sum of `e^(z - top)`.
    sum: f64,
    /// The sum of `e^(z - top) (z - top)`.
    weighted: f64,
}

impl Expected<'_> {
    pub(super) fn new(logits: &[f32]) -> Result<Expected<'_>> {
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if !top.is_finite() || logits.iter().any(|z| z.is_nan()) {
            let what = "the model's logits are not finite: its training diverged, or its weights are damaged";
            return Err(Error::Data(what.to_owned()));
        }
        let below = |z: f32| f64::from(z) - f64::from(top);
        let (mut sum, mut weighted) = (0.0, 0.0);
        for z in logits.iter().map(|&z| below(z)).filter(|z| z.is_finite()) {
            let weight = libm::exp(z);
            sum += weight;
            weighted += weight * z;
        }
        Ok(Expected { logits, top, sum, weighted })
    }

    /// In nats.
    pub(super) fn entropy(&self) -> f64 {
        (self.sum.ln() - self.weighted / self.sum).max(0.0)
    }

    /// How many tokens are at least as probable as this one.
    pub(super) fn rank(&self, id: u32) -> usize {
        let before = |&other: &u32| self.by_logit(other, id) == Ordering::Less;
        1 + (0..self.logits.len() as u32).filter(before).count()
    }

    /// The most probable tokens, but none of those `barred`, which are in order.
    pub(super) fn top(&self, n: usize, barred: &[u32]) -> Vec<(u32, f64)> {
        if n == 0 {
            return Vec::new();
        }
        let is_token = |id: &u32| barred.is_empty() || barred.binary_search(id).is_err();
        let mut ids: Vec<u32> = (0..self.logits.len() as u32).filter(is_token).collect();
        if n < ids.len() {
            ids.select_nth_unstable_by(n, |a, b| self.by_logit(*a, *b));
            ids.truncate(n);
        }
        ids.sort_unstable_by(|a, b| self.by_logit(*a, *b));
        let logprob = |id: u32| f64::from(self.logits[id as usize]) - f64::from(self.top) - self.sum.ln();
        ids.into_iter().map(|id| (id, logprob(id))).collect()
    }

    /// The more probable token first; of equals the one with the smaller id.
    fn by_logit(&self, a: u32, b: u32) -> Ordering {
        let z = |id: u32| self.logits[id as usize];
        z(b).total_cmp(&z(a)).then(a.cmp(&b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::LN_2;

    #[test]
    fn windows_overlap_by_half_and_have_every_token_once() {
        let window = |inputs: Range<usize>, known| Window { inputs, known };
        assert_eq!(half(&[0, 10], 4), [window(0..4, 0), window(2..6, 2), window(4..8, 2), window(6..10, 2)]);
        assert_eq!(half(&[0, 9], 4).last(), Some(&window(6..9, 2)));
        assert_eq!(half(&[0, 3], 1), [window(0..1, 0), window(1..2, 0), window(2..3, 0)]);
        assert_eq!(half(&[0, 8], 5), [window(0..5, 0), window(3..8, 2)]);
        assert_eq!(half(&[0, 0], 4), [], "of one token nothing is predicted");
        // Short documents share a window; what follows a long one may share its last.
        assert_eq!(half(&[0, 2, 4, 6], 4), [window(0..4, 0), window(4..6, 0)]);
        assert_eq!(half(&[0, 5, 6], 4), [window(0..4, 0), window(2..6, 2)]);
        for (n, block_size) in [(1, 1), (7, 2), (100, 7), (64, 64), (65, 64)] {
            let mut next = 0;
            for Window { inputs, known } in half(&[0, n], block_size) {
                assert!(inputs.len() <= block_size && inputs.start + known == next);
                // Half a block at least, or everything.
                assert!(known >= block_size / 2 || inputs.start == 0);
                next = inputs.end;
            }
            assert_eq!(next, n);
        }
    }

    #[test]
    fn a_distribution_has_ranks_and_an_entropy() {
        let p = [0.5f32, 0.125, 0.125, 0.25];
        let logits = p.map(|p| p.ln() + 3.0);
        let expected = Expected::new(&logits).unwrap();
        assert_eq!([0, 1, 2, 3].map(|id| expected.rank(id)), [1, 3, 4, 2]);
        assert!((expected.entropy() - 1.75 * LN_2).abs() < 1e-6);
        let top = expected.top(3, &[3]);
        assert_eq!(top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [0, 1, 2]);
        assert!((top[1].1 - 0.125f64.ln()).abs() < 1e-6);
        assert_eq!((expected.top(9, &[]).len(), expected.top(0, &[]).len()), (4, 0));
        let sum: f64 = expected.top(4, &[]).iter().map(|(_, logprob)| logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-12);
        let certain = Expected::new(&[f32::NEG_INFINITY, 5.0]).unwrap();
        assert_eq!((certain.entropy(), certain.rank(1)), (0.0, 1));
        assert!(Expected::new(&[0.0, f32::NAN]).is_err() && Expected::new(&[f32::INFINITY]).is_err());
    }
}
