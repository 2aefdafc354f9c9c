//! The learning-rate range test (Smith 2015): one short run whose learning rate rises at each step. Rates at which the
//! loss falls are useful, rates at which it rises again are too high. The sweep covers the range in between.

use crate::{data::Split, train::trial::Trial};
use kinglet_core::{
    backend::Backward,
    config::{Config, LrSchedule},
    error::Result,
};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// First and last learning rate of the test.
const RATES: (f64, f64) = (1e-5, 1.0);

/// Weight of the newest batch in the smoothed loss for the shortest test; half as much for twice as many steps.
const NEWEST: f64 = 0.1;

/// Steps of the shortest test that shows anything, and of the longest one worth its time.
pub(super) const STEPS: (u64, u64) = (60, 240);

/// The result of a range test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RangeTest {
    /// (learning rate, smoothed training loss) of each step.
    pub points: Vec<(f64, f64)>,
    /// The learning rate at which the loss fell most.
    pub steepest: f64,
    /// The learning rate beyond which the loss rose.
    pub lowest: f64,
    /// The lower and upper limit of the range to sweep.
    pub bracket: (f64, f64),
}

impl RangeTest {
    /// Trains for `steps` updates without the configured schedule. All learning rates in `config` are scaled by a
    /// common factor, so that `learning_rate` rises from 1e-5 to 1. `progress` receives the step, the learning rate and
    /// the smoothed loss; the result is `None` if it breaks.
    ///
    /// # Errors
    /// If the text cannot be read.
    pub(super) fn run<B: Backward>(
        be: B,
        config: &Config,
        split: &Split,
        steps: u64,
        mut progress: impl FnMut(u64, f64, f64) -> ControlFlow<()>,
    ) -> Result<Option<RangeTest>> {
        let mut plain = config.clone();
        (plain.lr_schedule, plain.warmup_iters) = (LrSchedule::Constant, 0);
        let mut trial = Trial::new(be, &plain, split)?;
        let newest = NEWEST * STEPS.0 as f64 / steps as f64;
        let (mut points, mut sum, mut weight) = (Vec::new(), 0.0, 0.0);
        let mut first = None;
        for step in 0..steps {
            let rate = RATES.0 * libm::pow(RATES.1 / RATES.0, step as f64 / (steps - 1) as f64);
            let loss = trial.step_at(rate / config.learning_rate)?;
            let first = *first.get_or_insert(loss);
            sum = (1.0 - newest) * sum + newest * loss;
            weight = (1.0 - newest) * weight + newest;
            // The smoothed loss is clearly worse than at the start and will not recover.
            if !loss.is_finite() || sum / weight > 1.2 * first {
                break;
            }
            points.push((rate, sum / weight));
            if progress(step + 1, rate, sum / weight).is_break() {
                return Ok(None);
            }
        }
        Ok(Some(RangeTest::of(points, config.learning_rate)))
    }

    /// Reads the range off the curve; uses a range around the `configured` learning rate if the curve shows nothing.
    fn of(points: Vec<(f64, f64)>, configured: f64) -> RangeTest {
        let at = |i: usize| points[i].0;
        let first = points.first().map_or(f64::NAN, |point| point.1);
        let lowest = (0..points.len()).min_by(|&a, &b| points[a].1.total_cmp(&points[b].1));
        // A fall of less than 1% is within the noise between batches.
        let Some(lowest) = lowest.filter(|&i| points[i].1 < 0.99 * first) else {
            let bracket = (configured / 10.0, (configured * 10.0).min(10.0));
            return RangeTest { points, steepest: configured, lowest: configured, bracket };
        };
        // Measure the fall over a tenth of the curve, because single steps are noisy.
        let span = (points.len() / 10).max(1);
        let fall = |i: usize| points[i].1 - points[(i + span).min(lowest)].1;
        let steepest = (0..lowest).max_by(|&a, &b| fall(a).total_cmp(&fall(b)));
        let steepest = steepest.map_or(lowest, |i| (i + span / 2).min(lowest));
        let (steepest, lowest) = (at(steepest), at(lowest));
        // Long runs need lower rates than a short test shows, and the rate at the lowest loss of a rising schedule is
        // too high for a constant one.
        RangeTest { points, steepest, lowest, bracket: (steepest / 10.0, lowest / 2.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loss that falls around 1e-3 and rises from 1e-1 on.
    fn curve(low: f64) -> Vec<(f64, f64)> {
        let loss = |x: f64| low + (4.0 - low) / (1.0 + ((x + 3.0) * 4.0).exp()) + (x + 1.0).max(0.0);
        (0..100).map(|i| -5.0 + f64::from(i) / 20.0).map(|x| (10f64.powf(x), loss(x))).collect()
    }

    #[test]
    fn the_bracket_is_where_the_loss_falls() {
        let found = RangeTest::of(curve(2.0), 1e-3);
        assert!((5e-4..2e-3).contains(&found.steepest), "{}", found.steepest);
        assert!((2e-2..2e-1).contains(&found.lowest), "{}", found.lowest);
        assert_eq!(found.bracket, (found.steepest / 10.0, found.lowest / 2.0));
    }

    #[test]
    fn a_curve_that_shows_nothing_leaves_the_range_around_what_is_configured() {
        for points in [vec![], vec![(1e-5, 4.0)], curve(4.0)] {
            assert_eq!(RangeTest::of(points, 1e-3).bracket, (1e-4, 1e-2));
        }
    }
}
