//! How a text or a scoring ends.

use crate::inference::Finish;

/// How a text or a scoring ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It is whole. A scoring has come to the end of its text: [`Finish::EndOfText`].
    Finished(Finish),
    /// It could not be computed: why.
    Failed(String),
    /// Its reader did not read.
    Stalled,
    /// The engine was closed.
    Closed,
}
