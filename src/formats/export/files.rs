//! The files of an export.

use crate::{formats::written::Written, system::disk::FolderWriter};
use kinglet_core::error::Result;
use std::{fs, io, path::Path};

/// The files of an export, being written.
pub(super) struct Files {
    pub(super) writer: FolderWriter,
    sizes: Vec<(String, u64)>,
}

impl Files {
    pub(super) fn new(out: &Path) -> Result<Files> {
        Ok(Files { writer: FolderWriter::beside(out)?, sizes: Vec::new() })
    }

    /// Adds a file, and folders for it.
    pub(super) fn add(&mut self, name: &str, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
        let mut size = 0;
        self.writer.add(name, |path| {
            fs::create_dir_all(path.parent().unwrap_or(path))?;
            write(path)?;
            size = path.metadata()?.len();
            Ok(())
        })?;
        self.sizes.push((name.to_owned(), size));
        Ok(())
    }

    pub(super) fn finish(self, usage: Vec<String>) -> Result<Written> {
        let notes = self.writer.notes.clone();
        self.writer.finish()?;
        Ok(Written { files: self.sizes, notes, usage, ..Written::default() })
    }
}
