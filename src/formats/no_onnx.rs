//! Stub for ONNX files when the feature `onnx` is off.

use super::options::Options;
use crate::formats::portable::Portable;
use std::{io, marker::PhantomData, path::Path};

/// A model's graph, which cannot be written.
pub(super) struct File<'a>(PhantomData<&'a Portable>);

impl<'a> File<'a> {
    /// A file that every writing of refuses.
    pub(super) fn new(_: &'a Portable, _: &'a Options) -> File<'a> {
        File(PhantomData)
    }

    /// Never.
    pub(super) fn is_external(&self) -> bool {
        false
    }

    /// Always an error: ONNX is not built in.
    pub(super) fn write(&self, _: &Path, _: &str) -> io::Result<()> {
        Err(io::Error::other("this kinglet was built without the feature `onnx`"))
    }

    /// Always an error.
    pub(super) fn write_numbers(&self, path: &Path) -> io::Result<()> {
        self.write(path, "")
    }
}
