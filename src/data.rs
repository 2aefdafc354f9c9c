//! Token ids to batches: a corpus surveyed, encoded, and divided into a part to learn from and a part to be tested on.

mod dataset;
mod encode;
mod open;
pub mod prepared;
mod split;
mod survey;
mod token_file;

pub use dataset::Dataset;
pub(crate) use open::same_text;
pub use open::{TokenizerChoice, read, read_corpus, tokenizer};
pub use split::Split;
pub use survey::{Survey, template_of};
pub use token_file::Header;
