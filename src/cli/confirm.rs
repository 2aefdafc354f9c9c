//! Asking before something is removed, and how sizes and times are said.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, SystemTime},
};

/// Asks on the terminal; `None` if there is nobody to ask.
pub(super) fn ask(question: &str) -> io::Result<Option<bool>> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(None);
    }
    // Standard output may be a file.
    let mut stderr = io::stderr().lock();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    if io::stdin().read_line(&mut answer)? == 0 {
        writeln!(stderr)?;
    }
    Ok(Some(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")))
}

/// A size in its largest unit.
pub(super) fn bytes(n: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let (mut size, mut unit) = (n as f64 / 1024.0, 0);
    while size >= 999.5 && unit + 1 < units.len() {
        (size, unit) = (size / 1024.0, unit + 1);
    }
    if size < 10.0 { format!("{size:.1} {}", units[unit]) } else { format!("{size:.0} {}", units[unit]) }
}

/// How long ago something was.
pub(super) fn ago(then: SystemTime, now: SystemTime) -> String {
    let seconds = now.duration_since(then).map_or(0, |since| since.as_secs());
    let of = |unit: u64, one: &str, many: &str| {
        let n = seconds / unit;
        format!("{n} {} ago", if n == 1 { one } else { many })
    };
    match seconds {
        0..60 => "just now".to_owned(),
        60..3600 => of(60, "min", "min"),
        3600..86_400 => of(3600, "h", "h"),
        86_400..5_184_000 => of(86_400, "day", "days"),
        _ => date(then)[..10].to_owned(),
    }
}

/// A time as ISO 8601 has it, in UTC.
pub(super) fn date(time: SystemTime) -> String {
    // Files may have any date; this format has the years 1970 to 9999.
    let latest = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_seconds(time.clamp(SystemTime::UNIX_EPOCH, latest)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_short() {
        let sizes =
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5_000_000, "4.8 MiB"), (1_073_000_000, "1.0 GiB")];
        for (n, text) in sizes {
            assert_eq!(bytes(n), text);
        }
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for (seconds, text) in
            [(5, "just now"), (60, "1 min ago"), (7300, "2 h ago"), (90_000, "1 day ago"), (864_000, "10 days ago")]
        {
            assert_eq!(ago(now - Duration::from_secs(seconds), now), text);
        }
        assert_eq!(ago(now - Duration::from_secs(100 * 86_400), now), "2001-06-01");
        assert_eq!(ago(now + Duration::from_secs(5), now), "just now");
        assert_eq!(date(now), "2001-09-09T01:46:40Z");
        assert_eq!(date(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00Z");
        assert_eq!(date(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40)), "9999-12-31T23:59:59Z");
    }
}
