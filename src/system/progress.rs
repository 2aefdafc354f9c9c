//! Progress of what may take long, on a terminal or in a log.

use std::{
    io::{self, IsTerminal, Write},
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant},
};

/// How often a line is written anew on a terminal at most, and how long nothing is.
const INTERVAL: Duration = Duration::from_millis(250);

/// Where progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Shown {
    /// On standard error if that is a terminal, in one line that is gone at the end: the default.
    OnTerminal,
    /// There too, and elsewhere a line every half a minute, for logs.
    InLogs,
    /// Nowhere.
    Nowhere,
}

static SHOWN: AtomicU8 = AtomicU8::new(Shown::OnTerminal as u8);

/// Decides where this process shows progress.
pub fn show(shown: Shown) {
    SHOWN.store(shown as u8, Ordering::Relaxed);
}

/// When a line is due in a log: every ten seconds at first, then every half a minute.
#[derive(Debug)]
pub struct Lines {
    last: Instant,
    written: u32,
}

impl Default for Lines {
    fn default() -> Lines {
        Lines { last: Instant::now(), written: 0 }
    }
}

impl Lines {
    /// Lines that come early.
    const EARLY: u32 = 6;

    /// Whether a line is due now.
    pub fn due(&mut self) -> bool {
        let due = self.last.elapsed() >= Lines::pause(self.written);
        if due {
            (self.last, self.written) = (Instant::now(), self.written + 1);
        }
        due
    }

    /// The time before a line, after so many others.
    fn pause(written: u32) -> Duration {
        Duration::from_secs(if written < Lines::EARLY { 10 } else { 30 })
    }
}

/// A line about something that takes long.
pub(crate) struct Progress {
    last: Instant,
    lines: Lines,
    terminal: bool,
    shown: bool,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        let terminal = io::stderr().is_terminal();
        Progress { last: Instant::now(), lines: Lines::default(), terminal, shown: false }
    }

    /// Shows a line, unless another was shown a moment ago.
    pub(crate) fn show(&mut self, line: impl FnOnce() -> String) {
        let mode = SHOWN.load(Ordering::Relaxed);
        if mode == Shown::Nowhere as u8 {
            return;
        }
        // A terminal that is gone is no reason to stop.
        if self.terminal && self.last.elapsed() >= INTERVAL {
            self.last = Instant::now();
            self.shown = true;
            let _ = write!(io::stderr().lock(), "\r\x1b[K{}", line());
        } else if !self.terminal && mode == Shown::InLogs as u8 && self.lines.due() {
            let _ = writeln!(io::stderr().lock(), "{}", line());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_every_ten_seconds_and_then_every_half_minute() {
        let mut lines = Lines::default();
        assert!(!lines.due());
        let mut seconds = Vec::new();
        for _ in 0..8 {
            let pause = Lines::pause(lines.written);
            lines.last = Instant::now().checked_sub(pause).unwrap();
            assert!(lines.due() && !lines.due());
            seconds.push(pause.as_secs());
        }
        assert_eq!(seconds, [10, 10, 10, 10, 10, 10, 30, 30]);
    }
}
