//! Models of other programs: read into kinglet's form, and written from it.
//!
//! The form in the middle is a kinglet model ([`Portable`]). Import reads a file's tensors ([`Foreign`]), gives each its
//! place by the table of its architecture ([`dialect`]), and ends in a run. Export makes a model that the other side
//! can express, and reads the same table in the other direction.

pub mod c;
pub mod dialect;
mod foreign;
pub mod onnx;
mod portable;
mod shape;
mod w8;
mod written;

pub use foreign::{Dtype, Foreign, Tensor};
pub use portable::Portable;
pub use written::Written;
