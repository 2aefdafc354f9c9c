//! One run: what it starts from, the loop, and what is measured of it.

mod base;
pub mod eval;
mod event;
pub mod finetune;
mod job;
mod r#loop;
mod memory;
pub mod plan;
pub mod trial;

pub use event::{Change, Event};
pub use job::{Job, prepare};
pub(crate) use job::{refuse_finetuning, settle};
pub use r#loop::run;
pub use memory::Memory;
