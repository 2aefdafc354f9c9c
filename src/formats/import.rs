//! A model of another program becomes a run.

mod decide;
mod ends;
mod model;
mod options;
mod words;

pub use model::{ImportReport, Imported, import};
pub use options::ImportOptions;
