//! What people look at: plots, comparisons, and what a loss is compared with.

pub mod baselines;
pub mod compare;
pub mod overlay;
pub mod plot;
pub mod stats;
