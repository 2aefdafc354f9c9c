//! Numbers of a file, read when they are wanted.

use super::foreign::{Dtype, Tensor};
use kinglet_core::error::{Error, Result};
use std::{
    borrow::Cow,
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// A file whose tensors are read one by one.
pub(super) struct Source {
    path: PathBuf,
    file: Mutex<File>,
    len: u64,
}

/// Refuses a pipe, a device and whatever else would keep its reader waiting, or has no size.
pub(super) fn regular(path: &Path) -> Result<()> {
    let about = fs::metadata(path).map_err(Error::io("open", path))?;
    if about.is_file() || about.is_dir() {
        return Ok(());
    }
    Err(Error::run(path, "neither a file nor a folder, but a pipe, a device or the like: save the model as a file"))
}

impl Source {
    /// Opens a file.
    pub(super) fn open(path: &Path) -> Result<Arc<Source>> {
        regular(path)?;
        let file = File::open(path).map_err(Error::io("open", path))?;
        let len = file.metadata().map_err(Error::io("read", path))?.len();
        Ok(Arc::new(Source { path: path.to_owned(), file: Mutex::new(file), len }))
    }

    /// The file's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file's size.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// An error about what is in the file.
    pub(super) fn damaged(&self, what: impl Into<String>) -> Error {
        Error::damaged(&self.path, what)
    }

    /// Fills `out` with what is at a place in the file.
    fn fill(&self, at: u64, out: &mut [u8]) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(out)).map_err(Error::io("read", &self.path))
    }

    /// `len` bytes from a place that must be inside the file.
    pub(super) fn bytes(&self, at: u64, len: usize) -> Result<Vec<u8>> {
        self.check(at, len as u64)?;
        let mut bytes = vec![0; len];
        self.fill(at, &mut bytes)?;
        Ok(bytes)
    }

    /// Refuses a place that is not inside the file: nothing is allocated for what a file only claims.
    fn check(&self, at: u64, len: u64) -> Result<()> {
        if at.checked_add(len).is_none_or(|end| end > self.len) {
            let has = self.len;
            return Err(
                self.damaged(format!("it is cut off: {len} bytes at byte {at} are asked for, and it has {has}"))
            );
        }
        Ok(())
    }

    /// `n` numbers from a place that must be inside the file.
    pub(super) fn numbers(&self, at: u64, n: usize, dtype: Dtype) -> Result<Vec<f32>> {
        let size = dtype.size().expect("blocks are read where their format is");
        let len = n.checked_mul(size).ok_or_else(|| self.damaged(format!("{n} numbers are too many")))?;
        self.check(at, len as u64)?;
        if dtype != Dtype::F32 {
            return Ok(dtype.to_f32(&self.bytes(at, len)?));
        }
        // Most files: no second copy.
        let mut numbers = vec![0.0f32; n];
        self.fill(at, bytemuck::cast_slice_mut(&mut numbers))?;
        numbers.iter_mut().for_each(|x| *x = f32::from_bits(u32::from_le(x.to_bits())));
        Ok(numbers)
    }

    /// A tensor whose numbers stand at a place in the file, one after the other.
    pub(super) fn tensor(self: &Arc<Source>, shape: Vec<usize>, dtype: Dtype, at: u64) -> Result<Tensor<'static>> {
        let size = dtype.size().expect("blocks are read where their format is");
        let n = count(&shape).filter(|n| n.checked_mul(size).is_some());
        let n = n.ok_or_else(|| self.damaged(format!("a tensor of shape {shape:?} is too large")))?;
        self.check(at, (n * size) as u64)?;
        let source = self.clone();
        Ok(Tensor::new(shape, dtype, move || source.numbers(at, n, dtype).map(Cow::Owned)))
    }
}

/// How many numbers a shape has, if that can be counted.
pub(super) fn count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &of| n.checked_mul(of))
}
