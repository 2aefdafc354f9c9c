//! What a tokenizer does not keep of a text.

use std::collections::HashMap;

/// The largest share of a text's characters that may be unknown or dropped: one of this many.
const ALLOWED: u64 = 10;

/// Characters that a note shows.
const SHOWN: usize = 5;

/// Characters of each text that an example shows.
const EXAMPLE: usize = 24;

/// What a tokenizer does not keep of some texts: found by comparing them with what their tokens are decoded to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loss {
    /// Characters of the texts.
    chars: u64,
    /// Tokens that stand for something unknown.
    unknown: u64,
    /// Characters that nothing takes the place of: unknown or dropped.
    gone: u64,
    /// Characters that others take the place of.
    changed: u64,
    /// White space that is dropped or that other white space takes the place of.
    blanks: u64,
    /// How often each character that is not white space is missing.
    missing: HashMap<char, u64>,
    /// Where a text first differs, and what it was decoded to there.
    example: Option<(String, String)>,
}

impl Loss {
    /// Compares a text with what its tokens are decoded to, without the `unknown` ones among them. Where characters are
    /// missing and others are there instead, they are changed; else they are gone.
    pub(super) fn of(text: &str, decoded: &str, unknown: u64) -> Loss {
        let chars = text.chars().count() as u64;
        if text == decoded {
            return Loss { chars, ..Loss::default() };
        }
        let mut balance: HashMap<char, i64> = HashMap::new();
        text.chars().for_each(|c| *balance.entry(c).or_default() += 1);
        decoded.chars().for_each(|c| *balance.entry(c).or_default() -= 1);
        let (blanks, others): (Vec<_>, Vec<_>) = balance.into_iter().partition(|(c, _)| c.is_whitespace());
        let sum =
            |counts: &[(char, i64)], sign: i64| -> u64 { counts.iter().map(|(_, n)| (sign * n).max(0) as u64).sum() };
        let (missing, added) = (sum(&others, 1), sum(&others, -1));
        let gone = missing.saturating_sub(added);
        Loss {
            chars,
            unknown,
            gone,
            changed: missing - gone,
            blanks: sum(&blanks, 1),
            missing: others.into_iter().filter(|(_, n)| *n > 0).map(|(c, n)| (c, n as u64)).collect(),
            example: Some(first_difference(text, decoded)),
        }
    }

    /// Adds what another text lost.
    pub fn add(&mut self, other: Loss) {
        self.chars += other.chars;
        self.unknown += other.unknown;
        self.gone += other.gone;
        self.changed += other.changed;
        self.blanks += other.blanks;
        for (c, n) in other.missing {
            *self.missing.entry(c).or_default() += n;
        }
        self.example = self.example.take().or(other.example);
    }

    /// What is lost, with shares and examples; `None` if nothing is.
    pub fn summary(&self) -> Option<String> {
        let (text, decoded) = self.example.as_ref()?;
        let of = self.chars;
        let share = |n: u64| format!("{n} of {of} characters ({:.1} %)", 100.0 * n as f64 / of.max(1) as f64);
        let mut parts = Vec::new();
        if self.gone > 0 {
            let tokens = match self.unknown {
                0 => String::new(),
                1 => ", 1 unknown token".to_owned(),
                n => format!(", {n} unknown tokens"),
            };
            parts.push(format!("{} are unknown to it or dropped{tokens}", share(self.gone)));
        }
        if self.changed > 0 {
            parts.push(format!("{} are changed", share(self.changed)));
        }
        if self.blanks > 0 {
            parts.push(format!("{} are white space that it drops or changes", share(self.blanks)));
        }
        let mut often: Vec<_> = self.missing.iter().map(|(&c, &n)| (std::cmp::Reverse(n), c)).collect();
        often.sort_unstable();
        if !often.is_empty() {
            let shown: Vec<_> = often.iter().take(SHOWN).map(|(_, c)| format!("{c:?}")).collect();
            parts.push(format!("most often {}", shown.join(", ")));
        }
        parts.push(format!("{text:?} comes back as {decoded:?}"));
        Some(parts.join("; "))
    }

    /// Whether nothing is left of a text that was encoded as `tokens` tokens: none of them is known, or all characters are
    /// gone but blanks.
    pub(super) fn is_everything(&self, text: &str, tokens: usize) -> bool {
        let visible = text.chars().filter(|c| !c.is_whitespace()).count() as u64;
        self.chars > 0 && (self.unknown == tokens as u64 || visible > 0 && self.gone >= visible)
    }

    /// Whether too many characters are unknown or dropped to learn anything from the rest.
    pub fn is_large(&self) -> bool {
        self.gone * ALLOWED > self.chars
    }
}

/// Where two texts first differ, with what is around it in each.
fn first_difference(a: &str, b: &str) -> (String, String) {
    let same = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    let from = same.saturating_sub(EXAMPLE / 3);
    let part = |text: &str| text.chars().skip(from).take(EXAMPLE).collect();
    (part(a), part(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_gone_or_changed() {
        for (text, decoded, numbers, summary) in [
            ("ab c", "ab c", (0, 0, 0), None),
            (
                "ABc d",
                "abc d",
                (0, 2, 0),
                Some("2 of 5 characters (40.0 %) are changed; most often 'A', 'B'; \"ABc d\" comes back as \"abc d\""),
            ),
            (
                "αβ, a",
                ", a",
                (2, 0, 0),
                Some(
                    "2 of 5 characters (40.0 %) are unknown to it or dropped, 1 unknown token; most often 'α', \
                     'β'; \"αβ, a\" comes back as \", a\"",
                ),
            ),
            (
                "a\nb",
                "a b",
                (0, 0, 1),
                Some(
                    "1 of 3 characters (33.3 %) are white space that it drops or changes; \"a\\nb\" comes back as \"a b\"",
                ),
            ),
            ("a,b", "a , b", (0, 0, 0), Some("\"a,b\" comes back as \"a , b\"")),
            ("Éx", "x", (1, 0, 0), None),
            ("éx", "e\u{301}x", (0, 1, 0), None),
        ] {
            let loss = Loss::of(text, decoded, u64::from(text.starts_with('α')));
            assert_eq!((loss.gone, loss.changed, loss.blanks), numbers, "{text}");
            if summary.is_some() || text == decoded {
                assert_eq!(loss.summary().as_deref(), summary);
            }
        }
    }

    #[test]
    fn shares_are_of_all_texts_together() {
        let mut loss = Loss::of("ααα", "", 1);
        assert!(loss.is_large());
        loss.add(Loss::of(&"a".repeat(27), &"a".repeat(27), 0));
        let summary = loss.summary().unwrap();
        assert!(!loss.is_large() && summary.starts_with("3 of 30 characters (10.0 %) are unknown"), "{summary}");
        loss.add(Loss::of("β", "", 1));
        let summary = loss.summary().unwrap();
        assert!(loss.is_large() && summary.contains("2 unknown tokens; most often 'α', 'β'"), "{summary}");
    }
}
