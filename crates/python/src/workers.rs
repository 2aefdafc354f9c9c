//! Threads that a model computes with.

use crate::error::raised;
use kinglet::threads::Pool;
use pyo3::prelude::*;
use std::{
    process,
    sync::{Mutex, PoisonError},
};

/// A pool of threads, started when it is first needed, and again in a process that was forked: the threads are the parent's.
pub(crate) struct Workers {
    threads: usize,
    /// The pool, and the process that it is of.
    pool: Mutex<Option<(u32, Pool)>>,
}

impl Workers {
    /// As many threads as this; 0 is one for each core.
    pub(crate) fn new(threads: usize) -> Workers {
        Workers { threads, pool: Mutex::new(None) }
    }

    /// How many threads were asked for.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// The pool of this process.
    pub(crate) fn pool(&self, py: Python) -> PyResult<Pool> {
        // The interpreter's lock is held here, and by whoever forks: no child finds this one taken.
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let process = process::id();
        if let Some((of, pool)) = &*pool
            && *of == process
        {
            return Ok(pool.clone());
        }
        let new = Pool::new(self.threads).map_err(|error| raised(py, &error))?;
        // The parent's pool would wait for threads that are not here.
        std::mem::forget(pool.replace((process, new.clone())));
        Ok(new)
    }
}
