//! What `config.json` of Hugging Face's transformers says, as a kinglet configuration and back: one table for each
//! architecture, read in both directions.

mod architecture;
mod line;
mod reader;
mod table;
mod writer;

pub use architecture::Architecture;
pub use reader::{Described, read};
pub(super) use reader::{is, read_json};
pub use table::{ARCHITECTURES, find};
pub use writer::write;

#[cfg(test)]
mod tests;
