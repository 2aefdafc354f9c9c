//! Using a trained model: generating text and measuring its loss.

mod generate;
mod loaded;
mod model;
mod readout;
mod score;
mod writer;

pub use generate::Generation;
pub use model::{Evaluation, Model, Part};
pub use readout::{IMPOSSIBLE, Readout, Tally, spelling, written};
pub use score::{Scoring, TokenScore, Windows};
pub(crate) use writer::{Desk, Writer};
pub use writer::{Finish, Piece};
