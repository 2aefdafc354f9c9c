//! Stub for PyTorch's checkpoints when the feature `pytorch` is off.

use super::foreign::Foreign;
use kinglet_core::error::{Error, Result};
use std::path::Path;

/// Always an error: the reader is not built in.
///
/// # Errors
/// Always.
pub fn read(path: &Path) -> Result<Foreign<'static>> {
    Err(Error::run(path, "this kinglet was built without the feature `pytorch`, which reads PyTorch's checkpoints"))
}
