//! Dates and times as Python's `strftime` writes them in the C locale, in UTC.

use crate::text::builtin::dates::MONTHS;
use std::fmt::Write as _;

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A moment in UTC.
struct Moment {
    year: u64,
    /// 0 to 11.
    month: usize,
    /// 1 to 31.
    day: u64,
    /// Days since Sunday.
    weekday: usize,
    /// Days since the first of January.
    yearday: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

impl Moment {
    /// A moment in seconds since 1970.
    fn of(seconds: u64) -> Moment {
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        // Whole periods of 400 years first, so that the loop is short.
        let (mut year, mut left) = (1970 + days / 146_097 * 400, days % 146_097);
        while left >= 365 + u64::from(is_leap(year)) {
            left -= 365 + u64::from(is_leap(year));
            year += 1;
        }
        let (yearday, mut month) = (left, 0);
        let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        while left >= lengths[month] {
            left -= lengths[month];
            month += 1;
        }
        Moment {
            year,
            month,
            day: left + 1,
            weekday: ((days + 4) % 7) as usize,
            yearday,
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
        }
    }
}

/// The seconds since 1970 in a format of Python's `strftime`.
///
/// # Errors
/// The code in the format that is not known.
pub(super) fn strftime(seconds: u64, format: &str) -> Result<String, String> {
    let at = Moment::of(seconds);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        // A hyphen takes the filling away.
        let mut code = chars.next().unwrap_or('%');
        let bare = code == '-';
        if bare {
            code = chars.next().unwrap_or('-');
        }
        let twelve = (at.hour + 11) % 12 + 1;
        let half = if at.hour < 12 { "AM" } else { "PM" };
        let mut number = |value: u64, width: usize, fill: char| {
            let digits = value.to_string();
            let missing = if bare { 0 } else { width.saturating_sub(digits.len()) };
            out.extend(std::iter::repeat_n(fill, missing));
            out += &digits;
        };
        match code {
            'Y' => number(at.year, 1, '0'),
            'C' => number(at.year / 100, 2, '0'),
            'y' => number(at.year % 100, 2, '0'),
            'm' => number(at.month as u64 + 1, 2, '0'),
            'd' => number(at.day, 2, '0'),
            'e' => number(at.day, 2, ' '),
            'j' => number(at.yearday + 1, 3, '0'),
            'H' => number(at.hour, 2, '0'),
            'I' => number(twelve, 2, '0'),
            'k' => number(at.hour, 2, ' '),
            'l' => number(twelve, 2, ' '),
            'M' => number(at.minute, 2, '0'),
            'S' => number(at.second, 2, '0'),
            'f' => number(0, 6, '0'),
            's' => number(seconds, 1, '0'),
            'w' => number(at.weekday as u64, 1, '0'),
            'u' => number((at.weekday as u64 + 6) % 7 + 1, 1, '0'),
            'U' => number((at.yearday + 7 - at.weekday as u64) / 7, 2, '0'),
            'W' => number((at.yearday + 7 - (at.weekday as u64 + 6) % 7) / 7, 2, '0'),
            'a' => out += &DAYS[at.weekday][..3],
            'A' => out += DAYS[at.weekday],
            'b' | 'h' => out += &MONTHS[at.month][..3],
            'B' => out += MONTHS[at.month],
            'p' => out += half,
            'P' => out += &half.to_lowercase(),
            'Z' => out += "UTC",
            'z' => out += "+0000",
            'n' => out.push('\n'),
            't' => out.push('\t'),
            '%' => out.push('%'),
            'c' => out += &strftime(seconds, "%a %b %e %H:%M:%S %Y")?,
            'x' | 'D' => out += &strftime(seconds, "%m/%d/%y")?,
            'X' | 'T' => out += &strftime(seconds, "%H:%M:%S")?,
            'r' => out += &strftime(seconds, "%I:%M:%S %p")?,
            'R' => out += &strftime(seconds, "%H:%M")?,
            'F' => out += &strftime(seconds, "%Y-%m-%d")?,
            other => {
                let mut code = String::from("%");
                let _ = write!(code, "{}{other}", if bare { "-" } else { "" });
                return Err(code);
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_python() {
        // What datetime.fromtimestamp(SECONDS, timezone.utc).strftime(FORMAT) gives.
        let long =
            "%Y-%m-%d %H:%M:%S|%a %A %b %B %h|%d %e %-d %j %-j|%I %-I %p %y %C %w %u %U %W|%F %T %D %R %r|%c %x %X";
        for (seconds, want) in PYTHON {
            assert_eq!(strftime(*seconds, long).unwrap(), *want);
        }
        assert_eq!(strftime(0, "100%% %Z %z%n").unwrap(), "100% UTC +0000\n");
        assert_eq!(strftime(0, "%Q"), Err("%Q".into()));
        assert_eq!(strftime(0, "%-Q"), Err("%-Q".into()));
    }

    #[rustfmt::skip]
    const PYTHON: &[(u64, &str)] = &[
        (0, "1970-01-01 00:00:00|Thu Thursday Jan January Jan|01  1 1 001 1|12 12 AM 70 19 4 4 00 00|1970-01-01 00:00:00 01/01/70 00:00 12:00:00 AM|Thu Jan  1 00:00:00 1970 01/01/70 00:00:00"),
        (951782399, "2000-02-28 23:59:59|Mon Monday Feb February Feb|28 28 28 059 59|11 11 PM 00 20 1 1 09 09|2000-02-28 23:59:59 02/28/00 23:59 11:59:59 PM|Mon Feb 28 23:59:59 2000 02/28/00 23:59:59"),
        (951782400, "2000-02-29 00:00:00|Tue Tuesday Feb February Feb|29 29 29 060 60|12 12 AM 00 20 2 2 09 09|2000-02-29 00:00:00 02/29/00 00:00 12:00:00 AM|Tue Feb 29 00:00:00 2000 02/29/00 00:00:00"),
        (1709164800, "2024-02-29 00:00:00|Thu Thursday Feb February Feb|29 29 29 060 60|12 12 AM 24 20 4 4 08 09|2024-02-29 00:00:00 02/29/24 00:00 12:00:00 AM|Thu Feb 29 00:00:00 2024 02/29/24 00:00:00"),
        (1735689599, "2024-12-31 23:59:59|Tue Tuesday Dec December Dec|31 31 31 366 366|11 11 PM 24 20 2 2 52 53|2024-12-31 23:59:59 12/31/24 23:59 11:59:59 PM|Tue Dec 31 23:59:59 2024 12/31/24 23:59:59"),
        (1735689600, "2025-01-01 00:00:00|Wed Wednesday Jan January Jan|01  1 1 001 1|12 12 AM 25 20 3 3 00 00|2025-01-01 00:00:00 01/01/25 00:00 12:00:00 AM|Wed Jan  1 00:00:00 2025 01/01/25 00:00:00"),
        (1784000000, "2026-07-14 03:33:20|Tue Tuesday Jul July Jul|14 14 14 195 195|03 3 AM 26 20 2 2 28 28|2026-07-14 03:33:20 07/14/26 03:33 03:33:20 AM|Tue Jul 14 03:33:20 2026 07/14/26 03:33:20"),
        (4102444799, "2099-12-31 23:59:59|Thu Thursday Dec December Dec|31 31 31 365 365|11 11 PM 99 20 4 4 52 52|2099-12-31 23:59:59 12/31/99 23:59 11:59:59 PM|Thu Dec 31 23:59:59 2099 12/31/99 23:59:59"),
        (4107542400, "2100-03-01 00:00:00|Mon Monday Mar March Mar|01  1 1 060 60|12 12 AM 00 21 1 1 09 09|2100-03-01 00:00:00 03/01/00 00:00 12:00:00 AM|Mon Mar  1 00:00:00 2100 03/01/00 00:00:00"),
        (13574563200, "2400-02-29 00:00:00|Tue Tuesday Feb February Feb|29 29 29 060 60|12 12 AM 00 24 2 2 09 09|2400-02-29 00:00:00 02/29/00 00:00 12:00:00 AM|Tue Feb 29 00:00:00 2400 02/29/00 00:00:00"),
        (1767484800, "2026-01-04 00:00:00|Sun Sunday Jan January Jan|04  4 4 004 4|12 12 AM 26 20 0 7 01 00|2026-01-04 00:00:00 01/04/26 00:00 12:00:00 AM|Sun Jan  4 00:00:00 2026 01/04/26 00:00:00"),
        (1700049600, "2023-11-15 12:00:00|Wed Wednesday Nov November Nov|15 15 15 319 319|12 12 PM 23 20 3 3 46 46|2023-11-15 12:00:00 11/15/23 12:00 12:00:00 PM|Wed Nov 15 12:00:00 2023 11/15/23 12:00:00"),
    ];
}
