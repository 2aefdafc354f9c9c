//! What the test programs share.
#![allow(dead_code, unused_imports, reason = "each test program uses a part of it")]

pub(crate) mod cli;
#[path = "../../crates/core/tests/it/close.rs"]
pub(crate) mod close;
pub(crate) mod damage;
pub(crate) mod foreign;
pub(crate) mod needs;
pub(crate) mod parsers;
pub(crate) mod runs;
