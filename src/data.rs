//! From corpus to batches: a corpus is surveyed, encoded, and divided into a training split and a validation split.

mod chats;
mod dataset;
mod encode;
mod ids;
mod open;
mod origin;
pub mod prepared;
mod split;
mod survey;
mod token_file;
mod training;

pub use chats::Chats;
pub use dataset::{Dataset, Made};
pub(crate) use open::same_text;
pub use open::{TokenizerChoice, read, read_corpus, tokenizer};
pub use origin::Origin;
pub use split::Split;
pub(crate) use split::parting;
pub(crate) use survey::found;
pub use survey::{Survey, template_of};
pub use token_file::Header;
pub use training::TrainingText;
