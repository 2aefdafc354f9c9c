//! What the operating system provides: atomic file writes, information about the machine, and a line on its terminal.

pub(crate) mod disk;
pub mod machine;
pub(crate) mod progress;
