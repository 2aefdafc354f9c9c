//! One run: its starting point, the training loop, and evaluation.

mod base;
mod calibrate;
pub mod eval;
mod event;
pub mod finetune;
mod job;
mod r#loop;
mod measure;
mod memory;
pub mod plan;
pub mod trial;

pub use event::{Change, Event};
pub use job::{Changes, Job, resolve};
pub(crate) use job::{fix_time, refuse_finetuning, resolve_rest, settle};
pub use r#loop::{Options, run};
pub use memory::Memory;
