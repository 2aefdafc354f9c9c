//! The narrow waist between the model and the hardware: layer-level operations on flat buffers.
//!
//! It has two parts. [`Forward`] is all that inference needs; [`Backward`] adds gradients and updates. A backend that
//! only generates text or measures losses implements just the first.
//!
//! [`Reference`] defines, in f64 and plain loops, what each operation means; every other implementation must agree with
//! it (`tests/it/conformance.rs` checks this). Shapes use these letters: `b` sequences of `t` positions, `n = b * t` rows,
//! `c` channels (of attention, those of all heads together), `nh` heads of `hs` channels, `v` tokens in the vocabulary.
//! Buffers may be longer than an operation needs; it uses only their beginning.

mod cpu;
mod quantized;
mod reference;
mod timed;
mod waist;

pub use cpu::{Buf, Cpu};
pub use kinglet_kernels::{
    Isa,
    attention::{Heads, key_stride},
    loss::{IGNORE, Objective},
    optimizer::{AdamW, Muon},
};
pub use reference::Reference;
pub use timed::{Cost, Op, Timed};
pub use waist::{Activated, Attended, Backward, Cached, Forward, Gradients, KvCache, Normed, Pass, QkInput, Rows};
