//! Progress of a command: a bar on a terminal, and in a log a line every so often.

use super::terminal;
use crate::system::progress::Lines;
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io,
    time::{Duration, Instant},
};
use unicode_width::UnicodeWidthStr;

/// The narrowest bar that is drawn.
const NARROWEST: usize = 10;

/// How often a bar is drawn anew at most.
const INTERVAL: Duration = Duration::from_millis(60);

/// What stands beside a bar: texts in their order, and how soon each is left out where there is no room for all; 0 is
/// never.
pub(super) type Parts = Vec<(u8, String)>;

/// A bar, or lines.
pub(super) struct Watch {
    bar: ProgressBar,
    drawn: Option<Instant>,
    lines: Lines,
}

impl Watch {
    /// A bar that is empty; with `--quiet` and where `shown` is false there is none.
    pub(super) fn new(shown: bool) -> Watch {
        let bar = if shown && !terminal::is_quiet() { ProgressBar::new(0) } else { ProgressBar::hidden() };
        // Until something is known, nothing is shown: without this it would be a full bar.
        let bar = bar.with_style(ProgressStyle::with_template("{msg}").expect("a valid template"));
        Watch { bar, drawn: None, lines: Lines::default() }
    }

    /// Shows that `done` of `of` is done; on a terminal with `parts` beside the bar, in a log by `line`.
    pub(super) fn at(&mut self, done: u64, of: u64, parts: impl FnOnce() -> Parts, line: impl FnOnce() -> String) {
        match terminal::columns_err() {
            Some(width) if self.drawn.is_none_or(|drawn| drawn.elapsed() >= INTERVAL) => {
                self.drawn = Some(Instant::now());
                let (text, room) = fitting(parts(), width);
                let template = if room { "{wide_bar:.cyan/dim} {msg}" } else { "{msg}" };
                let style = ProgressStyle::with_template(template).expect("a valid template");
                self.bar.set_style(style.progress_chars("━╸─"));
                self.bar.set_length(of);
                self.bar.set_message(text);
                self.bar.set_position(done);
                self.bar.tick();
            }
            Some(_) => {}
            None if !terminal::is_quiet() && self.lines.due() => terminal::tell(&line()),
            None => {}
        }
    }

    /// Shows progress of something whose pace is even.
    pub(super) fn even(&mut self, what: &str, done: u64, of: u64, began: Instant) {
        let share = done as f64 / of.max(1) as f64;
        let seconds = began.elapsed().as_secs_f64();
        let rest =
            (done > 0 && (share > 0.01 || seconds > 1.0)).then(|| left(seconds * (1.0 - share) / share.max(1e-9)));
        let (percent, rest) = (format!("{:.0} %", 100.0 * share), rest.unwrap_or_default());
        let parts = || vec![(2, what.to_owned()), (0, percent.clone()), (1, rest.clone())];
        self.at(done, of, parts, || format!("{what}: {percent}{}{rest}", if rest.is_empty() { "" } else { ", " }));
    }

    /// Prints to standard output, above the bar.
    pub(super) fn say(&self, text: &str) -> io::Result<()> {
        self.bar.suspend(|| terminal::print(text))
    }

    /// Prints a line to standard error, above the bar.
    pub(super) fn tell(&self, text: &str) {
        self.bar.suspend(|| terminal::tell(text));
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}

/// The parts that fit on a line of this width, and whether there is room for a bar.
fn fitting(mut parts: Parts, width: usize) -> (String, bool) {
    parts.retain(|(_, text)| !text.is_empty());
    // The last column stays free: some terminals begin a new line with it.
    let room = width.saturating_sub(1);
    loop {
        let text = parts.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("  ");
        let first = parts.iter().map(|part| part.0).max().unwrap_or(0);
        if text.width() <= room || first == 0 {
            let bar = text.width() + 1 + NARROWEST <= room;
            return (text, bar);
        }
        parts.retain(|part| part.0 < first);
    }
}

/// The time left, in the two largest units.
pub(super) fn left(seconds: f64) -> String {
    // Whole seconds would be far off near the end.
    if (0.05..9.95).contains(&seconds) {
        return format!("{seconds:.1} s left");
    }
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{whole} s left"),
        60..3600 => format!("{} min {:02} s left", whole / 60, whole % 60),
        3600..172_800 => format!("{} h {:02} min left", whole / 3600, whole % 3600 / 60),
        _ => format!("{} days {} h left", whole / 86_400, whole % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_has_two_units() {
        let texts = [
            (0.2, "0.2 s left"),
            (9.9, "9.9 s left"),
            (9.97, "10 s left"),
            (59.4, "59 s left"),
            (59.6, "1 min 00 s left"),
            (3599.0, "59 min 59 s left"),
        ];
        let longer = [(7380.0, "2 h 03 min left"), (200_000.0, "2 days 7 h left"), (-1.0, "0 s left")];
        for (seconds, text) in texts.into_iter().chain(longer) {
            assert_eq!(left(seconds), text);
        }
    }

    #[test]
    fn what_does_not_fit_beside_the_bar_is_left_out() {
        let parts = || {
            vec![
                (0, "step 3 of 9".to_owned()),
                (2, "loss 1.5".to_owned()),
                (3, "lr 1e-3".to_owned()),
                (1, "9 s left".to_owned()),
            ]
        };
        let fit = |width| fitting(parts(), width);
        assert_eq!(fit(80), ("step 3 of 9  loss 1.5  lr 1e-3  9 s left".into(), true));
        assert_eq!(fit(45), ("step 3 of 9  loss 1.5  lr 1e-3  9 s left".into(), false));
        assert_eq!(fit(40), ("step 3 of 9  loss 1.5  9 s left".into(), false));
        assert_eq!(fit(25), ("step 3 of 9  9 s left".into(), false));
        assert_eq!(fit(5), ("step 3 of 9".into(), false));
    }
}
