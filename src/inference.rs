//! Using a trained model: generating text, measuring its loss, and looking into it.

mod generate;
mod insight;
mod loaded;
mod model;
mod readout;
mod score;
mod writer;

pub use generate::Generation;
pub use insight::{Attention, Expectation, Lens};
pub use model::{Evaluation, Model, Part};
pub use readout::{IMPOSSIBLE, Readout, Tally, spelling, spelt, written};
pub use score::{Scoring, TokenScore, Windows};
pub(crate) use writer::{Desk, Writer};
pub use writer::{Finish, Piece};
