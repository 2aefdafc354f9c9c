//! Output for people: plots, run comparisons, baseline losses, and what a text has in common with the training text.

pub mod baselines;
pub mod compare;
pub mod long;
pub mod memorized;
pub mod overlay;
pub mod plot;
pub mod stats;
pub mod tensorboard;

/// A loss in nats with its standard error, where that is known.
pub fn with_error(loss: f64, stderr: Option<f64>) -> String {
    let error = stderr.map_or_else(String::new, |stderr| format!(" ± {stderr:.4}"));
    format!("{loss:.4}{error}")
}
