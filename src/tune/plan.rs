//! The schedule of successive halving (Jamieson and Talwalkar 2016): how many settings are trained, and for how long.

use serde::{Deserialize, Serialize};

/// One in `ETA` settings advances to the next rung.
const ETA: usize = 3;

/// Fewer updates than this say nothing about a longer run.
const FEWEST_STEPS: u64 = 20;

/// Final trials with other seeds, for each of the two configurations compared.
pub(super) const CHECKS: u64 = 2;

/// Fraction of the available time to plan for, because actual speed differs from the measured one.
pub(super) const PLANNED: f64 = 0.9;

/// One round of successive halving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rung {
    /// Settings to train.
    pub trials: usize,
    /// Updates to train each for, as a complete run whose schedule ends there.
    pub steps: u64,
}

/// How long trials take.
#[derive(Clone, Copy, Debug)]
pub(super) struct TrialSpeed {
    /// Seconds per update.
    pub(super) step_s: f64,
    /// Seconds per trial besides its updates: estimates, checkpoints and the exact loss.
    pub(super) rest_s: f64,
}

impl TrialSpeed {
    /// Total seconds for all rungs, including the trials with other seeds, if so many are in training at a time.
    fn total_s(self, rungs: &[Rung], at_a_time: usize) -> f64 {
        let all =
            |trials: usize, steps: u64| trials.div_ceil(at_a_time) as f64 * (steps as f64 * self.step_s + self.rest_s);
        let checks = rungs.last().map_or(0.0, |rung| all(2 * CHECKS as usize, rung.steps));
        rungs.iter().map(|rung| all(rung.trials, rung.steps)).sum::<f64>() + checks
    }
}

/// The rungs for `trials` settings: a third of each rung advances to three times the steps, until two to five reach
/// `steps`.
fn rungs(trials: usize, steps: u64) -> Vec<Rung> {
    let mut counts = vec![trials];
    while let Some(&last) = counts.last()
        && last >= 2 * ETA
    {
        counts.push((last + ETA / 2) / ETA);
    }
    let rounds = counts.len() as u32;
    let horizon =
        |rung: u32| (steps as f64 / f64::from(ETA as u32).powi((rounds - 1 - rung) as i32)).round().max(1.0) as u64;
    (0..rounds).zip(counts).map(|(rung, trials)| Rung { trials, steps: horizon(rung) }).collect()
}

/// The rungs that fit into `seconds` if `at_a_time` trials are in training at a time. If `fewer` is set, they may try a third or a
/// ninth of the `trials` settings. The last rung trains for `max_iters` updates, or for as many as time allows.
///
/// # Errors
/// The seconds that the smallest plan takes.
pub(super) fn plan(
    (trials, fewer): (usize, bool),
    max_iters: u64,
    seconds: f64,
    speed: TrialSpeed,
    at_a_time: usize,
) -> Result<Vec<Rung>, f64> {
    let (mut trials, least) = (trials, if fewer { ETA } else { trials });
    loop {
        let fits = |steps: u64| speed.total_s(&rungs(trials, steps), at_a_time) <= PLANNED * seconds;
        let enough = |steps: u64| steps == max_iters || rungs(trials, steps)[0].steps >= FEWEST_STEPS;
        // Binary search for the most updates that fit: `low` fits (or is 0), `high` does not.
        let (mut low, mut high) = (0, max_iters + 1);
        while high - low > 1 {
            let middle = low.midpoint(high);
            if fits(middle) { low = middle } else { high = middle }
        }
        if low > 0 && enough(low) {
            return Ok(rungs(trials, low));
        }
        if trials <= least {
            let steps = (1..=max_iters).find(|&steps| enough(steps)).unwrap_or(max_iters);
            return Err(speed.total_s(&rungs(trials, steps), at_a_time) / PLANNED);
        }
        trials = (trials / ETA).max(least);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEED: TrialSpeed = TrialSpeed { step_s: 0.01, rest_s: 0.5 };

    fn pairs(rungs: &[Rung]) -> Vec<(usize, u64)> {
        rungs.iter().map(|rung| (rung.trials, rung.steps)).collect()
    }

    #[test]
    fn a_third_goes_on_to_three_times_the_steps() {
        for (trials, want) in [
            (2, vec![(2, 900)]),
            (5, vec![(5, 900)]),
            (6, vec![(6, 300), (2, 900)]),
            (9, vec![(9, 300), (3, 900)]),
            (10, vec![(10, 300), (3, 900)]),
            (27, vec![(27, 100), (9, 300), (3, 900)]),
        ] {
            assert_eq!(pairs(&rungs(trials, 900)), want);
        }
        assert_eq!(pairs(&rungs(27, 1)), [(27, 1), (9, 1), (3, 1)]);
    }

    #[test]
    fn time_gives_steps_then_trials() {
        let plan = |trials, fewer, seconds| plan((trials, fewer), 900, seconds, SPEED, 1).map(|rungs| pairs(&rungs));
        assert_eq!(plan(9, true, 1e9).unwrap(), [(9, 300), (3, 900)]);
        let some = plan(9, true, 60.0).unwrap();
        assert!(some[0].0 == 9 && (300..900).contains(&some[1].1), "{some:?}");
        let few = plan(27, true, 16.0).unwrap();
        assert!(few[0].0 == 9 && few[0].1 >= FEWEST_STEPS, "{few:?}");
        let need = plan(9, true, 1.0).unwrap_err();
        assert!((5.0..7.0).contains(&need), "{need}");
        assert_eq!(pairs(&super::plan((9, true), 900, need * 1.001, SPEED, 1).unwrap()), [(3, 20)]);
        assert!(plan(9, false, need).is_err(), "nine were asked for");
    }

    #[test]
    fn what_is_in_training_at_a_time_takes_no_time_of_its_own() {
        let total = |at_a_time| SPEED.total_s(&rungs(9, 900), at_a_time);
        // Nine of 3.5 s, three of 9.5 s, and four of 9.5 s.
        assert!((total(1) - (9.0 * 3.5 + 7.0 * 9.5)).abs() < 1e-9);
        assert!((total(2) - (5.0 * 3.5 + 4.0 * 9.5)).abs() < 1e-9);
        assert!((total(100) - (3.5 + 2.0 * 9.5)).abs() < 1e-9);
    }

    #[test]
    fn what_is_planned_fits_and_a_step_more_does_not() {
        for seconds in [20.0, 50.0, 80.0, 120.0] {
            for at_a_time in [1, 2, 4] {
                let planned = plan((9, false), 50_000, seconds, SPEED, at_a_time).unwrap();
                let steps = planned.last().unwrap().steps;
                assert!(SPEED.total_s(&planned, at_a_time) <= PLANNED * seconds);
                assert!(SPEED.total_s(&rungs(9, steps + 3), at_a_time) > PLANNED * seconds);
            }
        }
    }
}
