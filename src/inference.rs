//! A trained model at work: it writes text, and its loss is measured.

mod generate;
mod loaded;
mod model;

pub use generate::{Finish, Generation, Piece};
pub use model::{Evaluation, Model, Part};
