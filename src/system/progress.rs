//! Progress of what may take long, on a terminal.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

/// How often a line is written at most, and how long nothing is.
const INTERVAL: Duration = Duration::from_millis(250);

/// One line on standard error that is written anew, if that is a terminal; it is gone at the end.
pub(crate) struct Progress {
    last: Option<Instant>,
    shown: bool,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        Progress { last: io::stderr().is_terminal().then(Instant::now), shown: false }
    }

    /// Shows a line, unless another was shown a moment ago.
    pub(crate) fn show(&mut self, line: impl FnOnce() -> String) {
        if let Some(last) = &mut self.last
            && last.elapsed() >= INTERVAL
        {
            *last = Instant::now();
            self.shown = true;
            // A terminal that is gone is no reason to stop.
            let _ = write!(io::stderr().lock(), "\r\x1b[K{}", line());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}
