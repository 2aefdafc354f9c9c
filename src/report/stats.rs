//! Statistics of a text: its length, its characters and tokens, and how much of its validation split also occurs in its
//! training split. Repeated text can be memorized, so the loss on it says little.
//!
//! Each figure takes one pass. Windows are compared by a 64-bit rolling hash, `sum_i c_i B^(w - 1 - i) mod 2^64`; only
//! those of the validation split are kept in memory.

use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

/// How many of the most frequent and of the rarest items are listed.
pub const LISTED: usize = 10;
/// Lines shorter than this are not looked up in the training split.
pub const LINE_CHARS: usize = 20;
/// Length of the windows that are looked up in the training split.
pub const WINDOW_CHARS: usize = 50;
/// The factor B of the rolling hash, odd, from the bits of the golden ratio.
const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
/// How many characters of the longest line and word are shown.
const SHOWN_CHARS: usize = 60;

/// One split of a text, and its tokens.
#[derive(Clone, Copy, Debug)]
pub struct TextAndIds<'a> {
    /// The text.
    pub text: &'a str,
    /// The same text as token ids.
    pub ids: &'a [u32],
}

/// Statistics of a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stats {
    /// The training split.
    pub train: PartStats,
    /// The validation split.
    pub val: PartStats,
    /// Distinct characters in both splits together.
    pub distinct_chars: usize,
    /// Distinct tokens in both splits together.
    pub distinct_tokens: usize,
    /// Distinct characters that only the validation split has, which no model can have learned.
    pub distinct_chars_only_in_val: usize,
    /// The most frequent characters of both splits together.
    pub frequent_chars: Vec<Count<char>>,
    /// The rarest characters, rarest first.
    pub rare_chars: Vec<Count<char>>,
    /// The most frequent tokens of both splits together, by id.
    pub frequent_tokens: Vec<Count<u32>>,
    /// The rarest tokens that occur, rarest first.
    pub rare_tokens: Vec<Count<u32>>,
    /// How much of the validation split is in the training split.
    pub overlap: Overlap,
}

/// Sizes of one split.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartStats {
    /// Bytes of UTF-8.
    pub bytes: usize,
    /// Characters: Unicode scalar values.
    pub chars: usize,
    /// Lines, including a last one without a line end.
    pub lines: usize,
    /// Words: runs of characters between white space.
    pub words: usize,
    /// Tokens.
    pub tokens: usize,
    /// Distinct characters.
    pub distinct_chars: usize,
    /// Distinct tokens.
    pub distinct_tokens: usize,
    /// The first of the longest lines.
    pub longest_line: Longest,
    /// The first of the longest words.
    pub longest_word: Longest,
}

/// The longest line or word.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Longest {
    /// Its length.
    pub chars: usize,
    /// Its first 60 characters.
    pub beginning: String,
}

/// How often something occurs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Count<T> {
    /// The item.
    pub what: T,
    /// How often it occurs.
    pub count: usize,
}

/// How much of the validation split occurs verbatim in the training split.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Overlap {
    /// Lines of the validation split with at least [`LINE_CHARS`] characters.
    pub val_lines: usize,
    /// The fraction of them that are also lines of the training split; `None` if there are no such lines.
    pub val_lines_in_train_fraction: Option<f64>,
    /// Windows of [`WINDOW_CHARS`] characters of the validation split, one starting at each character.
    pub val_windows: usize,
    /// The fraction of them found anywhere in the training split; `None` if there are no such windows.
    pub val_windows_in_train_fraction: Option<f64>,
}

impl Stats {
    /// Measures a text in two splits.
    pub fn measure(train: TextAndIds, val: TextAndIds) -> Stats {
        let (train_chars, val_chars) = (counts(train.text.chars()), counts(val.text.chars()));
        let (train_tokens, val_tokens) = (counts(train.ids.iter().copied()), counts(val.ids.iter().copied()));
        let distinct_chars_only_in_val = val_chars.keys().filter(|c| !train_chars.contains_key(c)).count();
        let train_part = PartStats::measure(train, train_chars.len(), train_tokens.len());
        let val_part = PartStats::measure(val, val_chars.len(), val_tokens.len());
        let (chars, tokens) = (by_frequency(train_chars, val_chars), by_frequency(train_tokens, val_tokens));
        Stats {
            overlap: Overlap::measure(train.text, val.text),
            train: train_part,
            val: val_part,
            distinct_chars: chars.len(),
            distinct_tokens: tokens.len(),
            distinct_chars_only_in_val,
            frequent_chars: chars.iter().take(LISTED).copied().collect(),
            rare_chars: chars.iter().rev().take(LISTED).copied().collect(),
            frequent_tokens: tokens.iter().take(LISTED).copied().collect(),
            rare_tokens: tokens.iter().rev().take(LISTED).copied().collect(),
        }
    }
}

impl PartStats {
    fn measure(part: TextAndIds, distinct_chars: usize, distinct_tokens: usize) -> PartStats {
        let TextAndIds { text, ids } = part;
        PartStats {
            bytes: text.len(),
            chars: text.chars().count(),
            lines: text.lines().count(),
            words: text.split_whitespace().count(),
            tokens: ids.len(),
            distinct_chars,
            distinct_tokens,
            longest_line: Longest::of(text.lines()),
            longest_word: Longest::of(text.split_whitespace()),
        }
    }
}

impl Longest {
    fn of<'a>(pieces: impl Iterator<Item = &'a str>) -> Longest {
        let (mut chars, mut longest) = (0, "");
        for piece in pieces {
            let n = piece.chars().count();
            if n > chars {
                (chars, longest) = (n, piece);
            }
        }
        Longest { chars, beginning: longest.chars().take(SHOWN_CHARS).collect() }
    }
}

fn counts<T: Ord>(all: impl Iterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    all.for_each(|what| *counts.entry(what).or_default() += 1);
    counts
}

/// Adds two sets of counts and sorts them, the most frequent first; equally frequent items in ascending order.
fn by_frequency<T: Ord + Copy>(mut a: BTreeMap<T, usize>, b: BTreeMap<T, usize>) -> Vec<Count<T>> {
    b.into_iter().for_each(|(what, count)| *a.entry(what).or_default() += count);
    let mut counts: Vec<_> = a.into_iter().map(|(what, count)| Count { what, count }).collect();
    counts.sort_by_key(|c| std::cmp::Reverse(c.count));
    counts
}

impl Overlap {
    fn measure(train: &str, val: &str) -> Overlap {
        let long = |line: &&str| line.chars().nth(LINE_CHARS - 1).is_some();
        let lines = val.lines().filter(long).collect::<Vec<_>>();
        let windows = windows(val).collect::<Vec<_>>();
        Overlap {
            val_lines: lines.len(),
            val_lines_in_train_fraction: fraction(train.lines(), lines),
            val_windows: windows.len(),
            val_windows_in_train_fraction: fraction(self::windows(train), windows),
        }
    }
}

/// The fraction of `val` that is in `train`. Only `val`, usually the smaller split, is kept in memory.
fn fraction<T: Hash + Eq>(train: impl Iterator<Item = T>, val: Vec<T>) -> Option<f64> {
    let of = val.len();
    let mut missing: HashMap<T, usize> = HashMap::with_capacity(of);
    val.into_iter().for_each(|piece| *missing.entry(piece).or_default() += 1);
    let found: usize = train.filter_map(|piece| missing.remove(&piece)).sum();
    (of > 0).then(|| found as f64 / of as f64)
}

/// The hash of each full window of a text, one starting at each character.
fn windows(text: &str) -> impl Iterator<Item = u64> {
    let outgoing_weight = FACTOR.wrapping_pow(WINDOW_CHARS as u32);
    let mut hash = 0u64;
    // The character that leaves the window; 0 until the window is full.
    let outgoing = std::iter::repeat_n(0, WINDOW_CHARS).chain(text.chars().map(u64::from));
    let hashes = text.chars().zip(outgoing).map(move |(c, out)| {
        hash = hash.wrapping_mul(FACTOR).wrapping_add(u64::from(c)).wrapping_sub(out.wrapping_mul(outgoing_weight));
        hash
    });
    hashes.skip(WINDOW_CHARS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::builtin::Builtin;
    use std::collections::HashSet;

    fn ids(text: &str) -> Vec<u32> {
        text.chars().map(u32::from).collect()
    }

    fn stats(train: &str, val: &str) -> Stats {
        let (a, b) = (ids(train), ids(val));
        Stats::measure(TextAndIds { text: train, ids: &a }, TextAndIds { text: val, ids: &b })
    }

    #[test]
    fn parts_are_counted() {
        let Stats { train, val, distinct_chars, distinct_chars_only_in_val, frequent_chars, rare_chars, .. } =
            stats("a bird\n\nthe löngest line here\r\n", "zz a");
        assert_eq!((train.bytes, train.chars, train.lines, train.words), (32, 31, 3, 6));
        assert_eq!(train.longest_line, Longest { chars: 21, beginning: "the löngest line here".into() });
        assert_eq!(train.longest_word, Longest { chars: 7, beginning: "löngest".into() });
        assert_eq!((val.bytes, val.lines, val.words, val.tokens, val.distinct_tokens), (4, 1, 2, 4, 3));
        assert_eq!((distinct_chars, train.distinct_chars, distinct_chars_only_in_val), (17, 16, 1));
        assert_eq!(frequent_chars[..2], [' ', 'e'].map(|what| Count { what, count: 5 }));
        assert_eq!(rare_chars[0], Count { what: 'ö', count: 1 });
    }

    #[test]
    fn tokens_are_counted_apart_from_characters() {
        let stats = Stats::measure(TextAndIds { text: "abab", ids: &[7, 7] }, TextAndIds { text: "b", ids: &[3] });
        assert_eq!(stats.frequent_tokens, [Count { what: 7, count: 2 }, Count { what: 3, count: 1 }]);
        assert_eq!(stats.rare_tokens, [Count { what: 3, count: 1 }, Count { what: 7, count: 2 }]);
        assert_eq!((stats.train.tokens, stats.distinct_tokens, stats.distinct_chars), (2, 2, 2));
    }

    #[test]
    fn repeated_lines_are_found_and_short_ones_left_out() {
        let train = "a line of twenty chars\nshort\nanother line of enough chars\n";
        let val =
            "a line of twenty chars\nshort\na line of twenty chars\na line of twenty chars!\nnineteen characters\n";
        let overlap = stats(train, val).overlap;
        assert_eq!((overlap.val_lines, overlap.val_lines_in_train_fraction), (3, Some(2.0 / 3.0)));
        let none = stats("", "").overlap;
        assert_eq!((none.val_lines_in_train_fraction, none.val_windows_in_train_fraction), (None, None));
        assert_eq!(stats("", "a line of twenty chars").overlap.val_lines_in_train_fraction, Some(0.0));
    }

    /// Against a plain search for every window.
    #[test]
    fn windows_are_found_where_they_are() {
        let text = Builtin::Play.text();
        let (train, val) = (&text[..60_000], text[60_000..66_000].to_owned() + &text[1000..1200] + "é" + &text[7..70]);
        let chars: Vec<char> = val.chars().collect();
        let all: Vec<String> = chars.windows(WINDOW_CHARS).map(|window| window.iter().collect()).collect();
        let there: HashSet<&str> = (0..=train.len() - WINDOW_CHARS).map(|i| &train[i..i + WINDOW_CHARS]).collect();
        let found = all.iter().filter(|window| there.contains(window.as_str())).count();
        let overlap = stats(train, &val).overlap;
        assert!(found > 160, "{found}");
        assert_eq!(overlap.val_windows, all.len());
        assert_eq!(overlap.val_windows_in_train_fraction, Some(found as f64 / all.len() as f64));
        let short = stats(train, &train[..WINDOW_CHARS - 1]).overlap;
        assert_eq!((short.val_windows, short.val_windows_in_train_fraction), (0, None));
    }
}
