//! Ranks: processes that compute one run together, each a part of the shards.
//!
//! [`Ranks`] only carries bytes. What is sent, in which order sums are formed, and so which bits come out, is decided here and in
//! [`crate::shards`]: never by the library that carries them.

mod alone;
mod carrier;
mod chain;
mod command;
mod team;
mod threads;

pub use alone::Alone;
pub use carrier::Ranks;
pub(crate) use chain::{Chunks, Part, sum};
pub use chain::{Traffic, Wire};
pub(crate) use command::Command;
pub use team::Team;
pub use threads::threads;
