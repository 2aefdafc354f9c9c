//! The run directory: the only thing passed between commands.

mod checkpoint;
mod cleanup;
mod dir;
mod files;
mod history;
mod home;
mod metrics;
mod name;
mod outcome;
mod removal;
mod summary;
mod tags;

pub use crate::system::disk::Lock;
pub use checkpoint::{Buffer, Checkpoint, State, read_tensors};
pub(crate) use checkpoint::{CONFIG, Stored};
pub(crate) use checkpoint::{packed, parse_weights};
pub use cleanup::{Cleanup, Item, What, abandoned, remove_abandoned};
pub use dir::{Base, RunDir, Which, read_config};
pub(crate) use files::NewRun;
pub use files::steps;
pub use history::{
    Added, Cursor, Estimates, Finish, Latest, Mark, MarkKind, Most, Samples, Since, Span, Spans, Steps, Tail,
};
pub use home::{
    Group, HOME, Kind, all_runs, all_runs_and_tunings, contents, data_name, first_free, names_in, run_name,
};
pub use metrics::{DoneRecord, EstimateRecord, MetricLine, MetricLines, Metrics, Record, StepRecord, parse_metrics};
pub use name::{Chosen, RunName, check_name, folder_named, nearest, run_named};
pub use outcome::{Beaten, Outcome};
pub use removal::Removal;
#[cfg(feature = "serve")]
pub(crate) use summary::Facts;
pub use summary::{Condition, Summary, last_trained, size, val_loss_at};
pub use tags::{change_tags, check_tag, tags};
