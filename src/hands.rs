//! Many whole runs: one after another in this process, or handed to ranks.
//!
//! Rank 0 has the folders of all runs. It gives each rank that has nothing to do the files of a run; that rank trains it in a
//! temporary folder, on the text that it finds under the same name (its SHA-256 shows that it is the same), and sends all files back.
//! Rank 0 trains runs as well, and so do all at a time as many as there are ranks. A run is a function of its configuration and its
//! text, so it does not matter who trains it. Of a rank that is lost only the time since the last checkpoint here is lost: its run
//! is given to another.

mod crew;
mod folder;
mod how;
mod many;
mod serve;
mod task;
mod texts;
mod wire;

pub use crew::Crew;
pub use many::Hands;
pub use serve::serve;
pub use task::{Ended, Event, Tasks, end_of};
pub(crate) use texts::Texts;
