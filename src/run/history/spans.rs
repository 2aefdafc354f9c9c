//! Many updates as few: equal spans of steps, each with the mean, the least and the greatest.

use super::columns::Steps;
use std::ops::Range;

/// A span of updates. What is not known is NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Span {
    /// Its last step.
    pub step: u64,
    /// The mean of the losses that are numbers.
    pub loss: f64,
    /// The least.
    pub loss_min: f64,
    /// The greatest.
    pub loss_max: f64,
    /// The last learning rate.
    pub lr: f32,
    /// The mean.
    pub grad_norm: f32,
    /// The greatest.
    pub grad_norm_max: f32,
    /// The mean.
    pub tokens_per_s: f32,
}

/// Spans of updates, in order.
pub type Spans = Vec<Span>;

impl Steps {
    /// The updates at these places: each for itself, if they are at most `most`; otherwise in so many spans, which have as many
    /// steps each. A span in which nothing was recorded is left out.
    pub fn spans(&self, places: Range<usize>, most: usize) -> Spans {
        if places.len() <= most {
            return places.map(|at| self.span(at..at + 1)).collect();
        }
        let (first, last) = (self.step[places.start], self.step[places.end - 1]);
        let (all, n) = (u128::from(last - first) + 1, most.max(1) as u128);
        // The end of a span: the first step that is not in it.
        let end = |span: u128| u128::from(first) + (all * (span + 1)).div_ceil(n);
        let (mut spans, mut from) = (Vec::new(), places.start);
        for span in 0..n {
            let to = from + self.step[from..places.end].partition_point(|&step| u128::from(step) < end(span));
            if from < to {
                spans.push(self.span(from..to));
            }
            from = to;
        }
        spans
    }

    /// The places of the steps from one to another, both included.
    pub fn places(&self, within: Range<usize>, from: Option<u64>, to: Option<u64>) -> Range<usize> {
        let steps = &self.step[within.clone()];
        let first = from.map_or(0, |from| steps.partition_point(|&step| step < from));
        let end = to.map_or(steps.len(), |to| steps.partition_point(|&step| step <= to));
        within.start + first..within.start + end.max(first)
    }

    fn span(&self, at: Range<usize>) -> Span {
        let losses = || self.loss[at.clone()].iter().copied().filter(|loss| loss.is_finite());
        let norms = || self.grad_norm[at.clone()].iter().copied();
        let last = at.end - 1;
        Span {
            step: self.step[last],
            loss: mean(losses()),
            loss_min: losses().fold(f64::NAN, f64::min),
            loss_max: losses().fold(f64::NAN, f64::max),
            lr: self.lr[last],
            grad_norm: mean(norms().map(f64::from)) as f32,
            grad_norm_max: norms().filter(|norm| norm.is_finite()).fold(f32::NAN, f32::max),
            tokens_per_s: mean(self.tokens_per_s[at.clone()].iter().copied().map(f64::from)) as f32,
        }
    }
}

/// The mean of those that are finite; NaN if none is. That of one is itself, to the bit.
fn mean(of: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = of.filter(|x| x.is_finite()).fold((0.0, 0u32), |(sum, n), x| (sum + x, n + 1));
    if n == 0 { f64::NAN } else { sum / f64::from(n) }
}
