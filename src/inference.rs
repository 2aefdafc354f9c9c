//! Using a trained model: generating text, measuring its loss, and looking into it.

mod generate;
mod insight;
mod loaded;
mod model;
mod readout;
mod score;
mod token;
mod writer;

pub use generate::Generation;
pub use insight::{Attention, Expectation, Lens};
pub(crate) use model::dataset;
pub use model::{Evaluation, Model, Part};
pub use readout::{Readout, Tally, spelling};
pub use score::{Scoring, TokenScore, Windows};
pub use token::{IMPOSSIBLE, Spelt, Token, spelt, written};
pub(crate) use writer::{Desk, Writer};
pub use writer::{Finish, Piece};
