//! What the files of a tuning say of it, while it runs and afterwards.

use super::{
    plan::Rung,
    space::Sweep,
    stored::{FILE, TRIALS, read},
};
use kinglet_core::error::Result;
use std::path::{Path, PathBuf};

/// What a tuning was asked to do, and has planned.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Plan {
    /// The keys that are varied.
    pub keys: Vec<&'static str>,
    /// The rungs; empty until they are planned.
    pub rungs: Vec<Rung>,
    /// The seconds it may take.
    pub budget_s: f64,
    /// The seconds it has taken, as of its last save.
    pub spent_s: f64,
}

impl Plan {
    /// Of the tuning in this folder.
    ///
    /// # Errors
    /// If its file cannot be read, or is damaged.
    pub fn of(tuning: &Path) -> Result<Plan> {
        let stored = read(&tuning.join(FILE))?;
        let sweeps = stored.sweeps.iter().map(|text| text.parse()).collect::<Result<Vec<Sweep>>>()?;
        let keys = sweeps.iter().map(|sweep| sweep.key).collect();
        Ok(Plan { keys, rungs: stored.rungs, budget_s: stored.budget_s, spent_s: stored.spent_s })
    }

    /// The file that says so.
    pub fn file(tuning: &Path) -> PathBuf {
        tuning.join(FILE)
    }

    /// Whether the tuning has found what is best.
    pub fn is_done(tuning: &Path) -> bool {
        tuning.join("best.toml").is_file()
    }
}

/// A trial's place in its tuning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Planned {
    /// Index of the settings.
    pub trial: usize,
    /// The rung, counted from 1; none of a trial with another seed.
    pub rung: Option<usize>,
}

/// The place of the trial in a folder of this tuning, if it is one.
pub fn trial_of(tuning: &Path, run: &Path) -> Option<Planned> {
    let inside = run.strip_prefix(tuning).ok()?.strip_prefix(TRIALS).ok()?;
    let (trial, of) = inside.to_str()?.split_once('-')?;
    let trial = trial.parse().ok()?;
    match (of.strip_prefix("rung"), of.strip_prefix("seed")) {
        (Some(rung), _) => Some(Planned { trial, rung: Some(rung.parse().ok()?) }),
        (_, Some(_)) => Some(Planned { trial, rung: None }),
        _ => None,
    }
}

/// Of trials with a rung, a number and a loss each: the one with the lowest loss in the last rung that has a finite one.
pub fn best_trial<T>(trials: impl IntoIterator<Item = T>, of: impl Fn(&T) -> (usize, usize, f64)) -> Option<T> {
    let finite = trials.into_iter().filter(|trial| of(trial).2.is_finite());
    finite.min_by(|a, b| {
        let ((rung, trial, loss), (other_rung, other, other_loss)) = (of(a), of(b));
        other_rung.cmp(&rung).then(loss.total_cmp(&other_loss)).then(trial.cmp(&other))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trials_are_known_by_their_folders() {
        let of = |name: &str| trial_of(Path::new("t"), &Path::new("t/trials").join(name));
        assert_eq!(of("003-rung2"), Some(Planned { trial: 3, rung: Some(2) }));
        assert_eq!(of("1003-rung12"), Some(Planned { trial: 1003, rung: Some(12) }));
        assert_eq!(of("003-seed1338"), Some(Planned { trial: 3, rung: None }));
        for name in ["", "003", "x-rung1", "003-rung", "003-rungx", "003-other", "a/003-rung1"] {
            assert_eq!(of(name), None, "{name}");
        }
        assert_eq!(trial_of(Path::new("u"), Path::new("t/trials/003-rung2")), None);
    }
}
