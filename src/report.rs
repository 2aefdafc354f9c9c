//! Output for people: plots, run comparisons, and baseline losses.

pub mod baselines;
pub mod compare;
pub mod overlay;
pub mod plot;
pub mod stats;
