//! The tracks, and who is on time.

use crate::cli::seeded::spread;
use serde_json::Value;

/// What a track asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Goal {
    /// A mean loss of at most this, in nats per character, in as few seconds of training as possible.
    Loss(f64),
    /// As low a loss as possible in at most so many seconds of training.
    Seconds(f64),
}

/// A track.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) name: &'static str,
    pub(super) goal: Goal,
    /// The preset that it is run with.
    pub(super) recipe: &'static str,
    /// What its goal is known from.
    pub(super) about: &'static str,
}

/// All tracks. The numbers of a recipe are in its preset only.
pub(super) const TRACKS: [Track; 6] = [
    Track {
        name: "1.7088",
        goal: Goal::Loss(1.7088),
        recipe: "speedrun-1.7088",
        about: "the published model with 2.7 million parameters",
    },
    Track { name: "1.5611", goal: Goal::Loss(1.5611), recipe: "speedrun-1.5611", about: "a 5-gram model" },
    Track {
        name: "1.4697",
        goal: Goal::Loss(1.4697),
        recipe: "speedrun-1.4697",
        about: "nanoGPT with 10.65 million parameters",
    },
    Track { name: "10s", goal: Goal::Seconds(10.0), recipe: "speedrun-10s", about: "a budget of time" },
    Track { name: "60s", goal: Goal::Seconds(60.0), recipe: "speedrun-60s", about: "a budget of time" },
    Track { name: "300s", goal: Goal::Seconds(300.0), recipe: "speedrun-300s", about: "a budget of time" },
];

/// What the runs of a track came to: means over the seeds, in nats per character and seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Score {
    pub(super) loss: f64,
    pub(super) loss_sd: f64,
    pub(super) train_s: f64,
    /// Of the run that trained longest.
    pub(super) longest_s: f64,
    /// The whole time of a run, with measuring and saving.
    pub(super) wall_s: f64,
    /// By how much the goal was missed, in its unit; `None` if it was reached.
    pub(super) missed_by: Option<f64>,
}

impl Goal {
    /// Judges the `done` events of a track's runs.
    pub(super) fn score(self, done: &[&Value]) -> Score {
        let all = |key: &str| -> Vec<f64> { done.iter().map(|done| done[key].as_f64().unwrap_or(f64::NAN)).collect() };
        let mean = |key: &str| spread(all(key).into_iter());
        let ((loss, loss_sd), longest_s) = (mean("val_loss_exact"), all("train_s").into_iter().fold(0.0, f64::max));
        let over = match self {
            Goal::Loss(most) => loss - most,
            Goal::Seconds(most) => longest_s - most,
        };
        // A loss that is no number reaches no goal, and is at no distance of it.
        let over = if loss.is_finite() { over } else { f64::NAN };
        let missed_by = (over > 0.0 || over.is_nan()).then_some(over);
        Score { loss, loss_sd, train_s: mean("train_s").0, longest_s, wall_s: mean("wall_s").0, missed_by }
    }

    /// What the rules call the goal.
    pub(super) fn text(self) -> String {
        match self {
            Goal::Loss(loss) => format!("a mean loss of at most {loss}, in the fewest seconds of training"),
            Goal::Seconds(seconds) => format!("the lowest mean loss in at most {seconds} s of training"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn done(loss: f64, train_s: f64) -> Value {
        json!({"val_loss_exact": loss, "train_s": train_s, "wall_s": train_s + 1.0})
    }

    #[test]
    fn a_target_is_for_the_mean_and_a_budget_for_every_run() {
        let runs = [done(1.70, 8.0), done(1.72, 10.0), done(1.71, 12.0)];
        let runs: Vec<_> = runs.iter().collect();
        let near = |a: Option<f64>, b: f64| a.is_some_and(|a| (a - b).abs() < 1e-9);
        let score = Goal::Loss(1.7101).score(&runs);
        assert_eq!(score.missed_by, None);
        assert!((score.loss - 1.71).abs() < 1e-12 && (score.loss_sd - 0.01).abs() < 1e-12, "{score:?}");
        assert_eq!((score.train_s, score.longest_s, score.wall_s), (10.0, 12.0, 11.0));
        assert!(near(Goal::Loss(1.7088).score(&runs).missed_by, 0.0012));
        assert_eq!(Goal::Seconds(12.0).score(&runs).missed_by, None);
        assert!(near(Goal::Seconds(11.0).score(&runs).missed_by, 1.0), "the slowest run counts, not the mean");
        assert!(Goal::Seconds(99.0).score(&[&done(f64::NAN, 1.0)]).missed_by.is_some());
    }

    #[test]
    fn names_say_the_goal() {
        for Track { name, goal, recipe, .. } in TRACKS {
            let said = match goal {
                Goal::Loss(loss) => loss.to_string(),
                Goal::Seconds(seconds) => format!("{seconds}s"),
            };
            assert_eq!((name, recipe), (&*said, &*format!("speedrun-{said}")));
        }
    }
}
