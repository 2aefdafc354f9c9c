//! One run: its starting point, the training loop, and evaluation.

mod base;
mod calibrate;
pub mod eval;
mod event;
pub mod finetune;
mod imagined;
mod job;
mod r#loop;
mod measure;
mod memory;
mod merged;
pub mod plan;
mod scaling;
mod teacher;
pub mod trial;

pub use event::{Change, Event};
pub use job::{Changes, Job, resolve, resolve_on};
pub(crate) use job::{fix_time, refuse_finetuning, resolve_rest, settle};
pub use r#loop::{Options, run};
pub use measure::Machines;
pub use memory::Memory;
pub use scaling::{Network, Row, Scaling};
