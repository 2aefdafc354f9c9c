//! How long the runs will take, measured on this machine before they begin.

use super::track::{Goal, Track};
use crate::{
    backend::{Cpu, Forward},
    cli::{
        report::{duration, optional},
        terminal::{self, count},
    },
    config::Config,
    threads::with_threads,
    train::{
        plan::{Plan, Shape},
        resolve,
    },
};
use anyhow::Context;
use serde_json::json;

/// Seconds that the step of a recipe is measured for.
const MEASURE_S: f64 = 1.0;

/// A step is measured to about a tenth: only what is above the budget by more is likely to miss it.
const DOUBT: f64 = 1.1;

/// The runs of one track.
struct OfTrack {
    track: &'static Track,
    left: usize,
    /// Seconds of training, and of all, of one run.
    train_s: f64,
    run_s: f64,
}

/// The runs that are left.
#[derive(Default)]
pub(super) struct Forecast {
    each: Vec<OfTrack>,
}

impl Forecast {
    /// Measures a recipe, of which `left` runs are left.
    ///
    /// # Errors
    /// If it cannot be trained.
    pub(super) fn measure(
        &mut self,
        track: &'static Track,
        config: &Config,
        left: usize,
        threads: usize,
    ) -> anyhow::Result<()> {
        let (config, tokenizer, data) = resolve(config.clone())?;
        let be = Cpu::new()?.with_precision(config.precision);
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        let plan =
            with_threads(threads, || Plan::measure(&config, &tokenizer, (&data, None), be, folder.path(), MEASURE_S))??;
        let time = plan.time.context("nothing was measured")?;
        let shape = Shape::new(&config, &data, None);
        let work = shape.left(0, true);
        let train_s = work.steps * time.ms_per_step / 1e3;
        // The runs have no sample and no n-gram baseline, which the plan includes.
        let sequence_s = time.ms_per_estimate / 1e3 / shape.estimate;
        let run_s = train_s + work.sequences * sequence_s + work.checkpoints * time.ms_per_checkpoint / 1e3;
        self.each.push(OfTrack { track, left, train_s, run_s });
        Ok(())
    }

    /// Seconds that all runs take, of which so many are trained at a time.
    fn seconds(&self, at_a_time: usize) -> f64 {
        let all: f64 = self.each.iter().map(|of| of.left as f64 * of.run_s).sum();
        let runs: usize = self.each.iter().map(|of| of.left).sum();
        // The last runs are not all there at a time.
        let longest = self.each.iter().map(|of| of.run_s).fold(0.0, f64::max);
        (all / at_a_time.min(runs).max(1) as f64).max(longest)
    }

    /// Prints it, and warns of budgets that are likely to be missed.
    ///
    /// # Errors
    /// If standard output cannot be written.
    pub(super) fn show(&self, json: bool, at_a_time: usize) -> anyhow::Result<()> {
        let seconds = self.seconds(at_a_time);
        if json {
            let each = self
                .each
                .iter()
                .map(|of| json!({"track": of.track.name, "runs": of.left, "train_s": of.train_s, "wall_s": of.run_s}));
            terminal::print_json(
                &json!({"event": "forecast", "tracks": each.collect::<Vec<_>>(), "seconds": seconds}),
            )?;
        } else if !terminal::is_quiet() && !self.each.is_empty() {
            let of_track = |of: &OfTrack| {
                let (name, runs) = (of.track.name, count(of.left as u64, "run"));
                format!(
                    "{name}: {runs}, about {} of training each, {} with measuring\n",
                    duration(of.train_s),
                    duration(of.run_s)
                )
            };
            let total =
                optional((self.each.len() > 1).then_some(seconds), |all| format!("about {} in all\n", duration(all)));
            terminal::print(&(self.each.iter().map(of_track).collect::<String>() + &total))?;
        }
        let late = self.each.iter().filter_map(|of| match of.track.goal {
            Goal::Seconds(budget) if of.train_s > DOUBT * budget => Some(format!(
                "{}: on this machine the recipe trains for about {:.1} s, and the budget is {budget} s: it will probably miss",
                of.track.name, of.train_s
            )),
            _ => None,
        });
        terminal::warn(&late.collect::<Vec<_>>());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::track::TRACKS;
    use super::*;

    #[test]
    fn runs_at_a_time_take_at_least_as_long_as_the_longest() {
        let of = |i: usize, left, run_s| OfTrack { track: &TRACKS[i], left, train_s: run_s, run_s };
        let forecast = Forecast { each: vec![of(0, 3, 10.0), of(1, 1, 30.0)] };
        assert_eq!([1, 2, 9].map(|n| forecast.seconds(n)), [60.0, 30.0, 30.0]);
        assert_eq!(Forecast::default().seconds(1), 0.0);
    }
}
