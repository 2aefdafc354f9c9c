//! The guard against divergence: it looks at every step's loss and gradient before the weights change.

use crate::{
    config::{Config, OnDivergence},
    error::{Cause, Divergence},
    params::Layout,
};
use serde::{Deserialize, Serialize};

/// Number of losses that the guard must have seen before it calls one a spike.
const WARM_UP: u64 = 50;

/// Weight of the newest loss in the exponential mean, which covers about the last hundred losses.
const NEWEST: f64 = 0.02;

/// The guard gives up after this many skipped updates in a row, or this many rollbacks in a run.
pub const MOST_ATTEMPTS: u64 = 10;

/// What the guard has seen. It is part of a run's state, so that a resumed run decides like an uninterrupted one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    /// Exponential mean of the training loss.
    pub mean: f64,
    /// Exponential variance.
    pub variance: f64,
    /// Number of losses in mean and variance.
    pub seen: u64,
    /// Updates skipped since the last good one.
    pub skipped: u64,
    /// Rollbacks to a checkpoint in the whole run; each multiplies the learning rate by `rollback_lr`.
    pub rollbacks: u64,
}

impl Guard {
    /// The factor on the learning rate after the rollbacks so far.
    pub fn lr_scale(&self, config: &Config) -> f64 {
        config.rollback_lr.powi(self.rollbacks.min(1000) as i32)
    }

    /// How many standard deviations `loss` is above the mean, once enough losses have been seen.
    fn zscore(&self, loss: f64) -> Option<f64> {
        // The floor is for losses that are all the same (a tiny text, memorised): their deviation is 0.
        let deviation = self.variance.sqrt().max(1e-6 * self.mean.abs()).max(1e-12);
        (self.seen >= WARM_UP).then(|| (loss - self.mean) / deviation)
    }

    /// Judges a step before its update. `grad_norm` is the norm of its gradient; `gradient` is called only to report
    /// what is wrong. The loss of a good step becomes part of the mean.
    ///
    /// # Errors
    /// What is wrong with the step.
    pub fn judge(
        &mut self,
        config: &Config,
        layout: &Layout,
        at_step: u64,
        loss: f64,
        grad_norm: f64,
        gradient: impl FnOnce() -> Vec<f32>,
    ) -> Result<(), Divergence> {
        let zscore = self.zscore(loss);
        let cause = if !loss.is_finite() {
            Cause::Loss
        } else if !grad_norm.is_finite() {
            Cause::Gradient
        } else if config.spike_zscore > 0.0 && zscore.is_some_and(|z| z > config.spike_zscore) {
            Cause::Spike
        } else {
            self.skipped = 0;
            self.seen += 1;
            // A plain mean until there are enough losses for the exponential one.
            let share = NEWEST.max(1.0 / self.seen as f64);
            let distance = loss - self.mean;
            self.mean += share * distance;
            self.variance = (1.0 - share) * (self.variance + share * distance * distance);
            return Ok(());
        };
        let lr = self.lr_scale(config) * config.lr(at_step - 1);
        let tensor = culprit(layout, &gradient()).to_owned();
        Err(Divergence { at_step, cause, loss, zscore: zscore.filter(|z| z.is_finite()), grad_norm, tensor, lr })
    }

    /// What to do about a divergence: what the configuration says, until that has been tried too often.
    pub fn action(&self, config: &Config) -> OnDivergence {
        let tried = match config.on_divergence {
            OnDivergence::Stop => MOST_ATTEMPTS,
            OnDivergence::Skip => self.skipped,
            OnDivergence::Rollback => self.rollbacks,
        };
        if tried < MOST_ATTEMPTS { config.on_divergence } else { OnDivergence::Stop }
    }
}

/// The tensor to look at first.
fn culprit<'a>(layout: &'a Layout, gradient: &[f32]) -> &'a str {
    let norms = layout.tensors.iter().filter(|tensor| tensor.trainable).map(|tensor| {
        let norm: f64 = gradient[tensor.trains.range()].iter().map(|&g| f64::from(g).powi(2)).sum();
        (tensor, if norm.is_finite() { norm } else { f64::INFINITY })
    });
    // Ties go to the first: of several tensors that are not finite, the one nearest to the input.
    let longest = norms.reduce(|longest, other| if other.1 > longest.1 { other } else { longest });
    longest.map_or("", |(tensor, _)| &tensor.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting() -> (Config, Layout) {
        let mut config = Config::default();
        (config.vocab_size, config.n_layer, config.n_embd) = (3, 1, 8);
        let layout = Layout::new(&config).unwrap();
        (config, layout)
    }

    #[test]
    fn each_cause_is_named_with_its_tensor() {
        let (mut config, layout) = setting();
        config.spike_zscore = 6.0;
        let mut guard = Guard::default();
        let mut gradient = vec![1e-3; layout.len()];
        for step in 1..=100 {
            let loss = 2.0 + 0.1 * (step as f64).sin();
            guard.judge(&config, &layout, step, loss, 1.0, || gradient.clone()).unwrap();
        }
        assert!((guard.mean - 2.0).abs() < 0.05 && (guard.variance.sqrt() - 0.07).abs() < 0.02, "{guard:?}");
        let before = guard.clone();
        gradient[layout.h[0].c_fc.w.start + 3] = 5.0;
        let spike = guard.judge(&config, &layout, 101, 2.9, 5.0, || gradient.clone()).unwrap_err();
        assert!(spike.cause == Cause::Spike && spike.zscore.unwrap() > 6.0, "{spike:?}");
        assert_eq!(spike.tensor, "transformer.h.0.mlp.c_fc.weight");
        gradient[layout.ln_f.w.start] = f32::NAN;
        let nan = guard.judge(&config, &layout, 101, 2.0, f64::NAN, || gradient.clone()).unwrap_err();
        assert_eq!((nan.cause, nan.tensor.as_str()), (Cause::Gradient, "transformer.ln_f.weight"));
        let message = nan.to_string();
        assert!(message.starts_with("at step 101 the gradient became NaN (loss 2.0000)"), "{message}");
        let infinite = guard.judge(&config, &layout, 101, f64::INFINITY, 1.0, || gradient.clone()).unwrap_err();
        assert_eq!(infinite.cause, Cause::Loss);
        assert_eq!(guard, before, "what was refused is not part of the mean");
        guard.judge(&config, &layout, 101, 2.2, 1.0, || gradient.clone()).unwrap();
        config.spike_zscore = 0.0;
        guard.judge(&config, &layout, 102, 99.0, 1.0, || gradient.clone()).unwrap();
    }

    #[test]
    fn a_young_guard_calls_nothing_a_spike() {
        let (mut config, layout) = setting();
        config.spike_zscore = 1.0;
        let mut guard = Guard::default();
        for step in 1..=WARM_UP {
            guard.judge(&config, &layout, step, 1.0 + step as f64 % 2.0, 1.0, || vec![0.0; layout.len()]).unwrap();
        }
        guard.judge(&config, &layout, 51, 9.0, 1.0, || vec![0.0; layout.len()]).unwrap_err();
    }

    #[test]
    fn it_gives_up_after_as_many_attempts() {
        let (mut config, _) = setting();
        let tried = |skipped, rollbacks| Guard { skipped, rollbacks, ..Guard::default() };
        config.on_divergence = OnDivergence::Skip;
        assert_eq!(tried(9, 10).action(&config), OnDivergence::Skip);
        assert_eq!(tried(10, 0).action(&config), OnDivergence::Stop);
        config.on_divergence = OnDivergence::Rollback;
        assert_eq!(tried(10, 9).action(&config), OnDivergence::Rollback);
        assert_eq!(tried(0, 10).action(&config), OnDivergence::Stop);
        config.rollback_lr = 0.5;
        assert_eq!(tried(0, 2).lr_scale(&config), 0.25);
    }
}
