//! Stub for PyTorch's checkpoints when the feature `pytorch` is off.

use super::foreign::Foreign;
use kinglet_core::error::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// Always an error: the reader is not built in.
///
/// # Errors
/// Always.
pub(super) fn read(path: &Path) -> Result<Foreign<'static>> {
    Err(missing(path))
}

/// Always an error.
pub(super) fn read_values(path: &Path) -> Result<Value> {
    Err(missing(path))
}

fn missing(path: &Path) -> Error {
    Error::run(path, "this kinglet was built without the feature `pytorch`, which reads PyTorch's checkpoints")
}
