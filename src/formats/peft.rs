//! Adapters as PEFT has them, for the model that transformers loads: read and written by the same table.
//!
//! kinglet's adapter of a layer is `B A`, as PEFT's is. Where a layer here is several there (queries, keys and values; gate and
//! up), each gets all of A and its rows of B on the way out. On the way in, those with the same A are one again; others stand
//! beside each other in the rank.

mod adapters;
mod fuse;
mod parts;
mod rows;
mod settings;

pub use adapters::{Adapters, Factors};
pub(super) use fuse::{Fused, fuse};
pub(super) use parts::Parts;
pub(super) use settings::Settings;
