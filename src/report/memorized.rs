//! How much of a text stands in the text that a model was trained on: the longest spans that do, and the share of its n-grams
//! that do not.

mod automaton;

use crate::data::TrainingText;
use automaton::{Automaton, Match};
use kinglet_core::error::{Error, Result};
use serde::Serialize;
use std::{cmp::Reverse, ops::ControlFlow};

/// The most bytes of a text that is asked about.
pub const LONGEST: usize = 1 << 16;
/// The most bytes of training text that are read for it.
pub const MOST_READ: u64 = 1 << 28;
/// The fewest characters of a span.
const SHORTEST: usize = 8;
/// The most spans.
const SPANS: usize = 20;
/// The n of the n-grams.
const NGRAMS: [usize; 5] = [2, 4, 8, 16, 32];
/// Characters of the training text that are shown before and behind a span.
const CONTEXT: usize = 40;

/// How much of a text stands in a training text.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Memorized {
    /// Bytes of training text that were searched.
    pub searched_bytes: u64,
    /// Characters of the text asked about.
    pub text_chars: usize,
    /// Notes for the user.
    pub notes: Vec<String>,
    /// The longest spans that stand in the training text, longest first; none is part of another.
    pub spans: Vec<Span>,
    /// How many n-grams of characters there are, and how many of them do not stand in the training text.
    pub ngrams: Vec<Ngrams>,
}

/// A part of a text that stands in the training text, and with no character more on either side.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Span {
    /// Its first character.
    pub start: usize,
    /// The character behind its last.
    pub end: usize,
    /// It.
    pub text: String,
    /// How often it stands in what was searched.
    pub count: u64,
    /// At which byte of the training text it stands first.
    pub found_at: u64,
    /// What stands before it there, in the same document.
    pub before: String,
    /// What stands behind it there.
    pub after: String,
}

/// The n-grams of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Ngrams {
    /// Characters of each.
    pub n: usize,
    /// How many places they have in the text.
    pub total: usize,
    /// At how many of these there is one that does not stand in the training text.
    pub unseen: usize,
}

/// A text that can be read again and again: calls back with its pieces, and whether a document ends behind each.
type Reread<'a> = dyn Fn(&mut dyn FnMut(&str, bool) -> ControlFlow<()>) -> Result<Vec<String>> + 'a;

/// Searches a training text for the parts of `text`. Asks `go_on` between two pieces whether to; `None` if not.
///
/// # Errors
/// If there is no text, or more than [`LONGEST`] bytes, or the training text cannot be read.
pub fn memorized(text: &str, training: &TrainingText, go_on: &dyn Fn() -> bool) -> Result<Option<Memorized>> {
    let mut found = search(text, &|each| training.read(each), MOST_READ, go_on)?;
    if let Some(found) = &mut found {
        found.notes.splice(0..0, training.notes.iter().cloned());
    }
    Ok(found)
}

/// Returns an error if a text cannot be searched for.
///
/// # Errors
/// If it is empty or too long.
pub fn check(text: &str) -> Result<()> {
    match text.len() {
        0 => Err(Error::Text("there is no text to look for".to_owned())),
        bytes if bytes > LONGEST => {
            Err(Error::Text(format!("the text has {bytes} bytes: at most {LONGEST} are looked for at once")))
        }
        _ => Ok(()),
    }
}

fn search(text: &str, read: &Reread, most: u64, go_on: &dyn Fn() -> bool) -> Result<Option<Memorized>> {
    check(text)?;
    let automaton = Automaton::new(text);
    let mut stream = automaton.stream();
    let (mut is_wanted, mut is_all) = (true, true);
    let mut notes = read(&mut |piece, end| {
        is_wanted = go_on();
        // What was read to the limit is not all only if something more comes.
        is_all = stream.bytes < most || piece.is_empty();
        if !is_wanted || !is_all {
            return ControlFlow::Break(());
        }
        let left = (most - stream.bytes).min(piece.len() as u64) as usize;
        let whole = boundary(piece, left);
        stream.push(&piece[..whole]);
        is_all = whole == piece.len();
        if end {
            stream.part();
        }
        if is_all { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    if !is_wanted {
        return Ok(None);
    }
    let searched_bytes = stream.bytes;
    if !is_all {
        notes.push(format!("only the first {:.0} MB of the training text were searched", most as f64 / 1e6));
    }
    let matches = stream.matches();
    let mut spans = spans(text, &matches);
    if !add_context(&mut spans, read, go_on)? {
        return Ok(None);
    }
    let text_chars = matches.len() - 1;
    Ok(Some(Memorized { searched_bytes, text_chars, notes, spans, ngrams: ngrams(&matches) }))
}

/// The largest place up to `at` where a character begins, or the text ends.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// The spans without their context.
fn spans(text: &str, matches: &[Match]) -> Vec<Span> {
    let at: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    // One that goes on is a part of the next.
    let is_whole = |end: usize| matches.get(end + 1).is_none_or(|next| next.len <= matches[end].len);
    let mut ends: Vec<usize> =
        (0..matches.len()).filter(|&end| matches[end].len >= SHORTEST && is_whole(end)).collect();
    ends.sort_by_key(|&end| (Reverse(matches[end].len), end));
    let span = |end: usize| {
        let Match { len, count, ends_at } = matches[end];
        let start = end - len;
        let text = text[at[start]..at[end]].to_owned();
        let found_at = ends_at - text.len() as u64;
        Span { start, end, text, count, found_at, ..Span::default() }
    };
    ends.into_iter().take(SPANS).map(span).collect()
}

fn ngrams(matches: &[Match]) -> Vec<Ngrams> {
    let of = |n: usize| {
        let places = matches.get(n..).unwrap_or_default();
        let unseen = places.iter().filter(|found| found.len < n).count();
        Ngrams { n, total: places.len(), unseen }
    };
    NGRAMS.into_iter().map(of).filter(|ngrams| ngrams.total > 0).collect()
}

/// Reads the training text again, as far as the last span, for what stands around the spans. Returns false if nobody wants it
/// any more.
fn add_context(spans: &mut [Span], read: &Reread, go_on: &dyn Fn() -> bool) -> Result<bool> {
    // A character has 4 bytes at most.
    const BYTES: u64 = 4 * CONTEXT as u64;
    let Some(last) = spans.iter().map(|span| span.found_at + span.text.len() as u64 + BYTES).max() else {
        return Ok(true);
    };
    let (mut begin, mut is_wanted, mut over) = (0, true, vec![false; spans.len()]);
    read(&mut |piece, end| {
        let behind = begin + piece.len() as u64;
        for (span, over) in spans.iter_mut().zip(&mut over) {
            let (first, last) = (span.found_at, span.found_at + span.text.len() as u64);
            let part = |from: u64, to: u64| {
                let [from, to] = [from, to].map(|at| at.clamp(begin, behind) - begin);
                &piece[boundary(piece, from as usize)..boundary(piece, to as usize)]
            };
            span.before += part(first.saturating_sub(BYTES), first);
            if !*over {
                span.after += part(last, last + BYTES);
            }
            if end && behind <= first {
                span.before.clear();
            }
            *over |= end && behind >= last;
        }
        begin = behind;
        is_wanted = go_on();
        if is_wanted && behind < last { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    for Span { before, after, .. } in spans {
        let skipped = before.chars().count().saturating_sub(CONTEXT);
        *before = before.chars().skip(skipped).collect();
        *after = after.chars().take(CONTEXT).collect();
    }
    Ok(is_wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Documents in pieces of so many characters.
    fn read(
        documents: &[String],
        size: usize,
        each: &mut dyn FnMut(&str, bool) -> ControlFlow<()>,
    ) -> Result<Vec<String>> {
        for document in documents {
            let chars: Vec<char> = document.chars().collect();
            for piece in chars.chunks(size) {
                if each(&piece.iter().collect::<String>(), false).is_break() {
                    return Ok(Vec::new());
                }
            }
            if each("", true).is_break() {
                break;
            }
        }
        Ok(Vec::new())
    }

    fn found(text: &str, documents: &[String], size: usize) -> Memorized {
        search(text, &|each| read(documents, size, each), MOST_READ, &|| true).unwrap().unwrap()
    }

    /// The same by looking at everything.
    fn by_force(text: &str, documents: &[String]) -> Memorized {
        let chars: Vec<char> = text.chars().collect();
        let string = |start: usize, end: usize| chars[start..end].iter().collect::<String>();
        let stands = |part: &str| documents.iter().any(|document| document.contains(part));
        let n = chars.len();
        let mut spans: Vec<Span> = Vec::new();
        for (start, end) in (0..n).flat_map(|start| (start + SHORTEST..=n).map(move |end| (start, end))) {
            let part = string(start, end);
            let longer = [(start.wrapping_sub(1), end), (start, end + 1)];
            let is_longer = |&(start, end): &(usize, usize)| start < n && end <= n && stands(&string(start, end));
            if !stands(&part) || longer.iter().any(is_longer) {
                continue;
            }
            let (mut before, mut places) = (0, Vec::new());
            for document in documents {
                let in_it = document.char_indices().filter(|&(at, _)| document[at..].starts_with(&part));
                places.extend(in_it.map(|(at, _)| (before, document, at)));
                before += document.len();
            }
            let (before, document, at) = places[0];
            let around: Vec<char> = document[..at].chars().collect();
            spans.push(Span {
                start,
                end,
                count: places.len() as u64,
                found_at: (before + at) as u64,
                before: around[around.len().saturating_sub(CONTEXT)..].iter().collect(),
                after: document[at + part.len()..].chars().take(CONTEXT).collect(),
                text: part,
            });
        }
        spans.sort_by_key(|span| (Reverse(span.end - span.start), span.end));
        spans.truncate(SPANS);
        let grams = |&size: &usize| {
            let unseen = (0..=n - size).filter(|&at| !stands(&string(at, at + size))).count();
            Ngrams { n: size, total: n - size + 1, unseen }
        };
        let ngrams = NGRAMS.iter().filter(|size| **size <= n).map(grams).collect();
        let searched_bytes = documents.iter().map(|document| document.len() as u64).sum();
        Memorized { searched_bytes, text_chars: n, notes: Vec::new(), spans, ngrams }
    }

    #[test]
    fn a_span_is_found_where_it_stands_first_with_what_is_around_it() {
        let documents = ["To be, or not to be, that is the question.".to_owned(), "é not to be, that was é".to_owned()];
        let found = found("I say: not to be, that is é", &documents, 7);
        let spans: Vec<_> =
            found.spans.iter().map(|span| (&*span.text, span.start, span.end, span.count, span.found_at)).collect();
        assert_eq!(spans, [(" not to be, that is ", 6, 26, 1, 9)]);
        assert_eq!((&*found.spans[0].before, &*found.spans[0].after), ("To be, or", "the question."));
        assert_eq!(found.ngrams[0], Ngrams { n: 2, total: 26, unseen: 6 });
        assert_eq!((found.text_chars, found.searched_bytes), (27, 67));
    }

    #[test]
    fn what_is_asked_is_bounded_and_what_is_read_too() {
        let documents = ["abcdefghijklmnop".to_owned()];
        let read_to = |most| search("efghijklmn", &|each| read(&documents, 5, each), most, &|| true).unwrap().unwrap();
        let all = read_to(16);
        assert_eq!((all.spans[0].text.as_str(), all.notes.len()), ("efghijklmn", 0));
        let part = read_to(13);
        assert_eq!((part.spans[0].text.as_str(), part.searched_bytes), ("efghijklm", 13));
        assert!(part.notes[0].contains("only the first"), "{:?}", part.notes);
        for most in [5, 10] {
            assert_eq!((read_to(most).searched_bytes, read_to(most).notes.len()), (most, 1));
        }
        assert!(search("a", &|each| read(&documents, 5, each), 99, &|| false).unwrap().is_none());
        for (text, says) in [("".to_owned(), "no text"), ("a".repeat(LONGEST + 1), "at most 65536")] {
            assert!(search(&text, &|_| Ok(Vec::new()), 9, &|| true).unwrap_err().to_string().contains(says));
        }
        let long = "é".repeat(LONGEST / 2);
        let found = found(&long, std::slice::from_ref(&long), 1000);
        assert_eq!((found.spans.len(), found.spans[0].end, found.ngrams[4].unseen), (1, LONGEST / 2, 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
        #[test]
        fn it_is_what_looking_at_everything_finds(
            text in "[abé🐦]{1,60}",
            documents in prop::collection::vec("[abcé🐦]{0,120}", 0..4),
            copied in prop::collection::vec((0usize..60, 1usize..60, 0usize..4), 0..4),
            size in 1usize..9,
        ) {
            // With parts of the text in it, so that there are long spans.
            let mut documents = documents;
            for (start, len, to) in copied {
                let part: String = text.chars().skip(start).take(len).collect();
                if let Some(document) = documents.get_mut(to) {
                    document.push_str(&part);
                }
            }
            let (found, wanted) = (found(&text, &documents, size), by_force(&text, &documents));
            prop_assert_eq!(&found.ngrams, &wanted.ngrams);
            prop_assert_eq!(&found, &wanted);
        }
    }
}
