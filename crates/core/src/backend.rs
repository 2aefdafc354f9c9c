//! The narrow waist between the model and whoever computes: layer-level operations on flat buffers.
//!
//! It has two parts. [`Forward`] is all that inference needs; [`Backward`] adds gradients and updates. A backend that only
//! writes text or measures losses implements the first alone.
//!
//! [`Reference`] defines, in f64 and plain loops, what each operation means; every other implementation must agree with it
//! (`tests/it/conformance.rs`). Shapes use these letters: `b` sequences of `t` positions, `n = b * t` rows, `c` channels,
//! `nh` heads of `hs` channels, `v` tokens in the vocabulary. Buffers may be longer than the operation needs; it uses their
//! beginning.

mod cpu;
mod reference;
mod timed;
mod waist;

pub use cpu::{Buf, Cpu};
pub use kinglet_kernels::{
    Isa,
    attention::Heads,
    loss::{IGNORE, Objective},
    optimizer::{AdamW, Muon},
};
pub use reference::Reference;
pub use timed::{Cost, Op, Timed};
pub use waist::{Activated, Attended, Backward, Forward, Gradients, KvCache, NORM_EPS, Normed, Pass, QkInput, Rows};
