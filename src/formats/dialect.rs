//! What other programs call the parameters of a GPT, and how they lay them out: one table for each architecture, read in
//! both directions.
//!
//! A line of a table names a module of kinglet's, the part of its rows that the other side keeps as a module of its own,
//! the name there, and what is different about the numbers. `{l}` is the block and `{m}` the head.

mod form;
mod nearest;
mod place;
mod tables;

pub use form::{Convention, Dialect, Holds, Tied};
pub use nearest::Nearest;
pub use place::{Placed, Rows};
