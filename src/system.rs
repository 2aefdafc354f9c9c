//! What the operating system provides: atomic file writes, and information about the machine.

pub(crate) mod disk;
pub mod machine;
