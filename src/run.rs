//! The run directory: the only hand-over between commands.

mod checkpoint;
mod dir;
mod metrics;

pub use crate::system::disk::Lock;
pub(crate) use checkpoint::CONFIG;
pub use checkpoint::{Checkpoint, State, read_tensors};
pub use dir::{Base, RunDir, Which, read_config};
pub use metrics::{MetricLine, Metrics, parse_metrics};
