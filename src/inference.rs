//! Using a trained model: generating text, measuring its loss, and looking into it.

mod evaluation;
mod generate;
mod insight;
mod loaded;
mod model;
mod numbers;
mod readout;
mod score;
mod token;
mod writer;

pub(crate) use evaluation::dataset;
pub use evaluation::{Evaluation, Measurable, Part};
pub use generate::Generation;
pub use insight::{Attention, Expectation, Lens};
pub use model::Model;
pub use readout::{Readout, Tally, spelling};
pub use score::{Scoring, TokenScore, Windows};
pub use token::{IMPOSSIBLE, Spelt, Token, spelt, written};
pub(crate) use writer::{Desk, Writer};
pub use writer::{Finish, Piece};
