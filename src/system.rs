//! What the operating system provides: atomic file writes, information about the machine, progress
//! on its terminal, and words for its shell.

pub(crate) mod disk;
pub mod machine;
pub mod progress;
pub(crate) mod sealed;
pub mod shell;

pub use disk::remove_unfinished;
