//! The run directory: the only thing passed between commands.

mod checkpoint;
mod dir;
mod files;
mod metrics;

pub use crate::system::disk::Lock;
pub use checkpoint::{Buffer, Checkpoint, State, read_tensors};
pub(crate) use checkpoint::{CONFIG, Stored};
pub use dir::{Base, RunDir, Which, read_config};
pub(crate) use files::NewRun;
pub use metrics::{DoneRecord, EstimateRecord, MetricLine, MetricLines, Metrics, Record, StepRecord, parse_metrics};
