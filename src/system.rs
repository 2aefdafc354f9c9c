//! What the operating system gives: files that are whole or absent, and what the machine has.

pub(crate) mod disk;
pub mod machine;
