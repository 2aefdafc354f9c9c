//! The CPU kernels behind kinglet: slices in, slices out, one thread, no allocation once warm.
//!
//! Every kernel is written once and compiled for each instruction set in [`Isa`]; the caller passes the set
//! it detected. What a kernel computes is defined, slowly and in f64, by `Reference` in the `kinglet-core` crate, and
//! each kernel is tested against it.
//!
//! Dimensions have one letter everywhere: `n` rows (positions, `b * t` of them), `c` channels (`n_embd`),
//! `nh` heads of `hs` channels, `t` positions in a sequence, `v` tokens in the vocabulary.
//!
//! | file | equation |
//! |---|---|
//! | [`gemm()`] | `C = A B`, `C += A B` or `C = A B + bias`, any strides |
//! | [`int8`] | the same with weights of eight or four bits, in integers |
//! | [`norm`] | LayerNorm, `y = (x - mean) / sqrt(var + eps) * w + b`, and RMSNorm |
//! | [`activation`] | ReLU, its square, GELU, GELU (tanh), SwiGLU |
//! | [`attention`] | `softmax(scale * Q K^T + causal mask) V`, one head at a time |
//! | [`qk`] | RMSNorm and rotation of queries and keys, by head |
//! | [`conv`] | short causal convolutions, each channel by itself |
//! | [`loss`] | softmax and cross-entropy in one pass, the soft cap of logits |
//! | [`dropout`] | `x * keep / (1 - rate)`, the mask a function of a key |
//! | [`optimizer`] | AdamW, Muon |
//! | [`peak`] | the peak throughput of a core |
//! | [`rng`] | the counter-based generator behind every random number |

#[cfg(not(target_pointer_width = "64"))]
compile_error!(
    "kinglet needs a 64-bit target: sizes of models and data are not checked against a smaller address space"
);

pub mod activation;
pub mod attention;
pub mod conv;
pub mod dropout;
mod floats;
mod gemm;
mod isa;
mod lanes;
pub mod loss;
mod math;
pub mod norm;
pub mod optimizer;
pub mod peak;
pub mod qk;
pub mod rng;

pub use floats::{Floats, together};
pub use gemm::{Epilogue, Init, Mat, MatMut, Panels, Precision, Rhs, Strip, gemm, gemm_with, int8};
pub use isa::Isa;
pub use math::{add, sum_rows};
