//! Ctrl-C stops an answer, not the program.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Whether an answer is being written, and whether it is to stop.
#[derive(Clone, Default)]
pub(super) struct Interrupt {
    answering: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Interrupt {
    /// Lets Ctrl-C stop answers from now on. A second one, or one between answers, ends the program.
    pub(super) fn install(&self) -> anyhow::Result<()> {
        let Interrupt { answering, stop } = self.clone();
        ctrlc::set_handler(move || {
            if !answering.load(Ordering::Relaxed) || stop.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
        })?;
        Ok(())
    }

    /// An answer begins.
    pub(super) fn begin(&self) {
        self.stop.store(false, Ordering::Relaxed);
        self.answering.store(true, Ordering::Relaxed);
    }

    /// The answer is over.
    pub(super) fn end(&self) {
        self.answering.store(false, Ordering::Relaxed);
    }

    /// Whether the answer is to stop.
    pub(super) fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
