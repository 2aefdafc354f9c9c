//! What wakes the engine.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The lock, even if a thread panicked that held it: what these locks guard is whole at any time.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A bell that stays rung until it is heard.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    /// Tells that there is something to look at.
    pub(super) fn ring(&self) {
        *lock(&self.rung) = true;
        self.heard.notify_one();
    }

    /// Sleeps until it is rung, or has been since the last time; at most for `within`, if that is given.
    pub(super) fn wait(&self, within: Option<Duration>) {
        let rung = lock(&self.rung);
        let mut rung = match within {
            None => self.heard.wait_while(rung, |rung| !*rung).unwrap_or_else(PoisonError::into_inner),
            Some(within) => {
                let heard = self.heard.wait_timeout_while(rung, within, |rung| !*rung);
                heard.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        *rung = false;
    }
}
