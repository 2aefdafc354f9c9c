//! Using a trained model: generating text and measuring its loss.

mod generate;
mod loaded;
mod model;

pub use generate::{Finish, Generation, Piece};
pub use model::{Evaluation, Model, Part};
