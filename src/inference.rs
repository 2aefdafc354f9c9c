//! A trained model at work.

mod model;

pub use model::{Evaluation, Part, Session};
