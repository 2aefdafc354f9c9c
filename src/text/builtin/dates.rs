//! A small instruction task: convert dates as people write them to ISO 8601. "March 7, 1984" -> "1984-03-07".
//!
//! 20,000 different dates of the 20th and 21st century, in a fixed random order. Each occurs once, in one of six forms,
//! so the dates held out for validation never occur in training. A prompt, a newline, the response and an end token are
//! at most 32 tokens, the context length of the smallest preset.

use kinglet_core::rng::{Purpose, Rng};
use serde::Serialize;

/// Number of pairs.
const PAIRS: usize = 20_000;
const YEARS: std::ops::RangeInclusive<u32> = 1901..=2100;
pub(crate) const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Their name on the command line.
pub const NAME: &str = "dates";

/// An instruction and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pair {
    /// A date as people write it; at most 20 ASCII characters.
    pub prompt: String,
    /// The same date as YYYY-MM-DD.
    pub response: String,
}

/// All pairs, in the order drawn. Prompts are distinct, and so are responses.
pub fn pairs() -> Vec<Pair> {
    let mut dates: Vec<(u32, u32, u32)> = Vec::new();
    for year in YEARS {
        for month in 1..=12 {
            dates.extend((1..=days(year, month)).map(|day| (year, month, day)));
        }
    }
    // The first `PAIRS` entries of a random permutation (Fisher-Yates shuffle).
    let mut rng = Rng::new(0, Purpose::Dates, 0, 0);
    for i in 0..PAIRS {
        let j = i + rng.below((dates.len() - i) as u64) as usize;
        dates.swap(i, j);
    }
    let pair = |&(year, month, day): &(u32, u32, u32)| Pair {
        prompt: prompt(year, month, day, rng.below(6)),
        response: format!("{year}-{month:02}-{day:02}"),
    };
    dates[..PAIRS].iter().map(pair).collect()
}

/// [`pairs`] as JSON lines: `{"prompt": ..., "response": ...}`.
pub fn json_lines() -> String {
    let line = |pair: &Pair| serde_json::to_string(pair).expect("two strings") + "\n";
    pairs().iter().map(line).collect()
}

fn prompt(year: u32, month: u32, day: u32, form: u64) -> String {
    let name = MONTHS[month as usize - 1];
    let short = &name[..3];
    match form {
        0 => format!("{name} {day}, {year}"),
        1 => format!("{day} {name} {year}"),
        2 => format!("{short} {day} {year}"),
        3 => format!("{day}.{month}.{year}"),
        4 => format!("{day}{} {name} {year}", ordinal(day)),
        _ => format!("{year}, {short} {day}"),
    }
}

/// The suffix of the day's number: 1st, 2nd, 3rd, 4th, 11th.
fn ordinal(day: u32) -> &'static str {
    match (day / 10, day % 10) {
        (1, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    }
}

/// Days of a month in the Gregorian calendar.
fn days(year: u32, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400) => 29,
        2 => 28,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};
    use std::collections::HashSet;

    #[test]
    fn the_pairs_are_the_same_on_every_machine() {
        let hash: String = Sha256::digest(json_lines()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash, "26167d7103e1e831e8fdbcecffad96fc7c1f3a65225fda24a45134c9a20e0b26");
    }

    #[test]
    fn prompts_and_dates_are_distinct_and_fit_a_context_of_32() {
        let pairs = pairs();
        let prompts: HashSet<_> = pairs.iter().map(|pair| &pair.prompt).collect();
        let responses: HashSet<_> = pairs.iter().map(|pair| &pair.response).collect();
        assert_eq!((prompts.len(), responses.len()), (PAIRS, PAIRS));
        for Pair { prompt, response } in &pairs {
            assert!(prompt.is_ascii() && prompt.len() <= 20 && response.len() == 10, "{prompt} {response}");
        }
    }

    /// Each prompt, read by other rules than those that wrote it, is its response's date.
    #[test]
    fn a_prompt_can_be_read_in_one_way() {
        let mut forms = [0; 6];
        for Pair { prompt, response } in pairs() {
            let is_sep = |c: char| " ,.".contains(c);
            let words: Vec<&str> = prompt.split(is_sep).filter(|word| !word.is_empty()).collect();
            let [a, b, c] = words[..] else { panic!("{prompt}") };
            let number = |word: &str| word.trim_end_matches(char::is_alphabetic).parse::<u32>().unwrap();
            let month = |word: &str| 1 + MONTHS.iter().position(|name| name.starts_with(word)).unwrap() as u32;
            let (form, year, month, day) = match () {
                () if prompt.contains('.') => (3, number(c), number(b), number(a)),
                () if a.len() == 4 && a.parse::<u32>().is_ok() => (5, number(a), month(b), number(c)),
                () if a.parse::<u32>().is_ok() => (1, number(c), month(b), number(a)),
                () if a.starts_with(char::is_numeric) => (4, number(c), month(b), number(a)),
                () if prompt.contains(',') => (0, number(c), month(a), number(b)),
                () => (2, number(c), month(a), number(b)),
            };
            forms[form] += 1;
            assert_eq!(response, format!("{year:04}-{month:02}-{day:02}"), "{prompt}");
            assert!((1..=days(year, month)).contains(&day), "{response}");
        }
        assert!(forms.iter().all(|&n| n > PAIRS / 7), "{forms:?}");
    }

    #[test]
    fn february_has_29_days_where_it_should() {
        for (year, last) in [(1900, 28), (1904, 29), (1983, 28), (2000, 29), (2024, 29), (2100, 28)] {
            assert_eq!(days(year, 2), last, "{year}");
        }
        assert_eq!((1..=12).map(|month| days(2023, month)).sum::<u32>(), 365);
        let pairs = pairs();
        let leap = |pair: &&Pair| pair.response.ends_with("-02-29");
        assert!(pairs.iter().filter(leap).all(|pair| pair.response[..4].parse::<u32>().unwrap().is_multiple_of(4)));
        assert!(pairs.iter().any(|pair| leap(&pair)));
    }

    #[test]
    fn a_line_is_an_object() {
        let pair = Pair { prompt: prompt(1984, 3, 7, 0), response: "1984-03-07".into() };
        assert_eq!(pair.prompt, "March 7, 1984");
        assert_eq!(prompt(2001, 12, 22, 4), "22nd December 2001");
        assert_eq!(prompt(2001, 12, 13, 4), "13th December 2001");
        let json = json_lines();
        let lines: Vec<&str> = json.lines().collect();
        assert_eq!(lines.len(), PAIRS);
        assert!(lines.iter().all(|line| line.starts_with("{\"prompt\":\"") && line.contains("\",\"response\":\"")));
    }
}
