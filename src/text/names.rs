//! How names from outside are shown, and how what was read without an error is told.

/// The most names that a message lists.
const MOST: usize = 12;

/// The most characters of a name that a message shows.
const WIDE: usize = 60;

/// A name in quotes, as it is in any script; only what would spoil a line is escaped.
pub(super) fn quoted(name: &str) -> String {
    let mut shown = String::from("\"");
    for (i, c) in name.chars().enumerate() {
        if i == WIDE {
            shown.push('…');
            break;
        }
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown + "\""
}

/// A list of names in quotes; a column without a name is shown as such.
pub(super) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let all: Vec<_> =
        names.into_iter().map(|name| if name.is_empty() { "(unnamed)".to_owned() } else { quoted(name) }).collect();
    let more = all.len().saturating_sub(MOST);
    let shown = all[..all.len() - more].join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// How often something was found, and where first.
#[derive(Clone, Debug, Default)]
pub(super) struct Count {
    pub(super) times: u64,
    pub(super) first: String,
}

impl Count {
    /// Counts one more; `place` is asked only for the first.
    pub(super) fn add(&mut self, place: impl FnOnce() -> String) {
        self.add_times(1, place);
    }

    /// Counts `times` more.
    pub(super) fn add_times(&mut self, times: u64, place: impl FnOnce() -> String) {
        if self.times == 0 && times > 0 {
            self.first = place();
        }
        self.times += times;
    }

    /// A note, if anything was counted.
    pub(super) fn note(&self, words: impl FnOnce(u64, &str) -> String) -> Option<String> {
        (self.times > 0).then(|| words(self.times, &self.first))
    }
}

/// `n` of something, in words.
pub(crate) fn many(n: u64, one: &str, several: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {several}") }
}

/// Different names in the order in which they were met.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    names: Vec<String>,
    /// How often a name was met that found no place.
    more: bool,
}

impl Names {
    /// Objects used as dictionaries have names without end; so many are kept.
    const KEPT: usize = 64;

    pub(super) fn has(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    pub(super) fn add(&mut self, name: &str) {
        if self.has(name) {
        } else if self.names.len() < Names::KEPT {
            self.names.push(name.to_owned());
        } else {
            self.more = true;
        }
    }

    /// The names that `others` does not have, as a list; nothing if there are none.
    pub(super) fn without(&self, others: &Names) -> Option<String> {
        let left: Vec<_> = self.names.iter().map(String::as_str).filter(|name| !others.has(name)).collect();
        let ending = if self.more { ", …" } else { "" };
        (!left.is_empty()).then(|| listed(left) + ending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_as_they_are_and_do_not_fill_the_screen() {
        assert_eq!(listed(["ข้อความ", "نص", "a\"b", "", "x\ny"]), "\"ข้อความ\", \"نص\", \"a\"b\", (unnamed), \"x\\ny\"");
        assert_eq!(quoted(&"é".repeat(99)), format!("\"{}…\"", "é".repeat(WIDE)));
        let many: Vec<_> = (0..20).map(|i| i.to_string()).collect();
        assert!(listed(many.iter().map(String::as_str)).ends_with("\"11\" and 8 more"));
        let (mut names, mut others) = (Names::default(), Names::default());
        (0..99).for_each(|i| names.add(&format!("{}", i % 90)));
        others.add("0");
        assert!(names.without(&others).unwrap().starts_with("\"1\", ") && names.more);
        assert_eq!(others.without(&names), None);
    }
}
