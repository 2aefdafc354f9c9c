//! Byte pair encoding of long words.
//!
//! The library keeps all pairs of a word in one heap, which takes seconds and a gigabyte for a word of ten megabytes, as
//! text without blanks is. Here a long word is encoded part by part, and in a part the places of a pair wait in a list of
//! their own until their merge comes.
//!
//! The parts give the tokens of the whole. If every two neighbours among some tokens are what their bytes together are
//! encoded as, then so are all of the tokens: until a merge reaches over one of their borders, each token's bytes merge
//! as they would without the others, and the first merge that did would also do so with the two neighbours alone. Each part
//! begins in the one before it, at a border between two tokens, and must begin with the same token again; so all
//! neighbours are neighbours in some part, and what is of a part is encoded like this.

use super::{
    line::{Line, Neighbours},
    pairs::{PairMap, key},
};
use crate::text::tokenizer::json::byte_char;
use rayon::prelude::*;
use serde_json::Value;
use std::{cmp::Reverse, collections::BinaryHeap};
use tokenizers::models::bpe::BPE;

/// The merges of a byte pair encoding.
#[derive(Debug)]
pub(super) struct Merges {
    /// The token of each byte.
    bytes: [u32; 256],
    /// The rank of each pair.
    ranks: PairMap<u32>,
    /// The pair of each rank, and what it becomes.
    rules: Vec<((u32, u32), u32)>,
    /// How many bytes each token has, if it is a byte or comes about by a merge.
    lens: Vec<u32>,
}

/// Places of a pair, of which the first ones are done.
#[derive(Clone, Default)]
struct Places {
    all: Vec<u32>,
    done: usize,
    sorted: bool,
}

impl Places {
    fn is_done(&self) -> bool {
        self.done == self.all.len()
    }

    fn push(&mut self, place: u32) {
        self.all.push(place);
        self.sorted = false;
    }

    fn first(&mut self) -> Option<u32> {
        if !self.sorted {
            // They come in a few runs that are in order, which this sort merges.
            self.all.drain(..self.done);
            self.all.sort();
            (self.done, self.sorted) = (0, true);
        }
        let place = self.all.get(self.done).copied();
        self.done += usize::from(place.is_some());
        if place.is_none() {
            // Its memory is used again.
            self.all.clear();
            self.done = 0;
        }
        place
    }
}

/// The places of the pairs of each rank, and the ranks that have some.
struct Waiting {
    places: Vec<Places>,
    queue: BinaryHeap<Reverse<u32>>,
}

impl Waiting {
    fn add(&mut self, rank: Option<u32>, place: u32) {
        let Some(rank) = rank else { return };
        let places = &mut self.places[rank as usize];
        if places.is_done() {
            self.queue.push(Reverse(rank));
        }
        places.push(place);
    }
}

/// The ranks of pairs with one token in common, looked up once for each other token.
#[derive(Default)]
struct Ranks {
    /// For each token the number of the look-up that found its rank.
    found: Vec<(u32, Option<u32>)>,
    number: u32,
}

impl Ranks {
    /// Forgets what was looked up, as another token is in common now.
    fn clear(&mut self) {
        self.number += 1;
    }

    fn of(&mut self, id: u32, look_up: impl Fn() -> Option<u32>) -> Option<u32> {
        let at = id as usize;
        if at >= self.found.len() {
            self.found.resize(at + 1, (0, None));
        }
        if self.found[at].0 != self.number {
            self.found[at] = (self.number, look_up());
        }
        self.found[at].1
    }
}

/// What encoding a part works with.
struct Work<'a> {
    merges: &'a Merges,
    line: Line<u32>,
    waiting: Waiting,
    /// For each byte the ranks of its pairs with the bytes behind it.
    bytes: Vec<Ranks>,
    left: Ranks,
    right: Ranks,
}

/// Bytes of a word to encode at once: they and the places of their pairs fit into a processor's cache.
const PART: usize = 1 << 15;

/// The least share of a word that is worth a thread, and how far shares reach into the next one.
const SHARE: usize = 1 << 18;
const OVERLAP: usize = 1 << 12;

impl Merges {
    /// The merges of a model; `None` if it does anything but merge bytes.
    pub(super) fn of(bpe: &BPE) -> Option<Merges> {
        // The library does not show the merges otherwise.
        let model = serde_json::to_value(bpe).ok()?;
        let none = |key: &str| model.get(key).is_none_or(|value| value.is_null() || value == false);
        let others = ["dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"];
        if !others.into_iter().chain(["ignore_merges"]).all(none) {
            return None;
        }
        let id = |token: &str| model["vocab"].get(token).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        let mut bytes = [0; 256];
        for byte in 0..=255u8 {
            bytes[usize::from(byte)] = id(&byte_char(byte).to_string())?;
        }
        let largest = bytes.iter().copied().max()?.max(model["vocab"].as_object()?.len() as u32);
        let mut lens = vec![0; largest as usize + 1];
        bytes.iter().for_each(|&id| lens[id as usize] = 1);
        let mut rules = Vec::new();
        for merge in model["merges"].as_array()? {
            let (a, b) = (merge.get(0)?.as_str()?, merge.get(1)?.as_str()?);
            let new = [a, b].concat();
            for token in [a, b, &new] {
                // Every byte is written as a character.
                *lens.get_mut(id(token)? as usize)? = token.chars().count() as u32;
            }
            rules.push(((id(a)?, id(b)?), id(&new)?));
        }
        let ranks = rules.iter().zip(0..).map(|((pair, _), rank)| (key(*pair), rank)).collect();
        Some(Merges { bytes, ranks, rules, lens })
    }

    /// Appends the tokens of a word.
    pub(super) fn encode(&self, word: &[u8], ids: &mut Vec<u32>) {
        self.encode_in_shares(word, (word.len() / SHARE).min(rayon::current_num_threads()), OVERLAP, ids);
    }

    /// The same by several threads, each with a share of the word and a little more, in which it must come to agree with
    /// the next one.
    fn encode_in_shares(&self, word: &[u8], shares: usize, overlap: usize, ids: &mut Vec<u32>) {
        let share = word.len().div_ceil(shares.max(1)).max(1);
        let starts: Vec<usize> = (0..word.len()).step_by(share).collect();
        let encode = |&start: &usize| {
            let mut ids = Vec::new();
            self.encode_in_parts(&word[start..word.len().min(start + share + overlap)], PART, &mut ids);
            ids
        };
        let encoded: Vec<Vec<u32>> = starts.par_iter().map(encode).collect();
        let cuts: Option<Vec<_>> = encoded.windows(2).map(|two| self.agree(&two[0], &two[1], share)).collect();
        // Shares that reach beyond the next one may agree with it at a later place than it does with the one behind it.
        let in_order = |cuts: &Vec<(usize, usize)>| cuts.windows(2).all(|two| two[0].1 <= two[1].0);
        let Some(cuts) = cuts.filter(in_order) else { return self.encode_in_parts(word, PART, ids) };
        for (i, tokens) in encoded.iter().enumerate() {
            let from = if i == 0 { 0 } else { cuts[i - 1].1 };
            let to = cuts.get(i).map_or(tokens.len(), |cut| cut.0);
            ids.extend(&tokens[from..to]);
        }
    }

    /// Where the tokens of a share and those of the next one, which begins `share` bytes behind it, have the same border
    /// and the same token behind that.
    fn agree(&self, before: &[u32], behind: &[u32], share: usize) -> Option<(usize, usize)> {
        let (mut i, mut at, mut j, mut next_at) = (0, 0, 0, share);
        loop {
            let (a, b) = (*before.get(i)?, *behind.get(j)?);
            if at == next_at && a == b {
                return Some((i, j));
            }
            if at <= next_at {
                (i, at) = (i + 1, at + self.lens[a as usize] as usize);
            } else {
                (j, next_at) = (j + 1, next_at + self.lens[b as usize] as usize);
            }
        }
    }

    /// The same in parts of this many bytes, or more where a part would not begin as the one before it goes on.
    fn encode_in_parts(&self, word: &[u8], part: usize, ids: &mut Vec<u32>) {
        let mut work = Work::new(self);
        let (mut from, mut len) = (0, part);
        // For each part: where it began, its length, how many tokens came before it, and which one must come next.
        let mut parts: Vec<(usize, usize, usize, u32)> = Vec::new();
        loop {
            let tokens = work.encode(&word[from..word.len().min(from + len)]);
            if let Some(&(start, before, kept, next)) = parts.last()
                && tokens.first() != Some(&next)
            {
                ids.truncate(kept);
                (from, len) = (start, 2 * before);
                parts.pop();
                continue;
            }
            if from + len >= word.len() {
                return ids.extend(tokens);
            }
            // Near its end a part is not encoded as the whole is.
            let (mut border, mut n) = (from, 0);
            while n + 1 < tokens.len() && border - from < len / 2 {
                border += work.line.len(tokens[n]) as usize;
                n += 1;
            }
            if n == 0 {
                len *= 2;
                continue;
            }
            parts.push((from, len, ids.len(), tokens[n]));
            ids.extend(&tokens[..n]);
            (from, len) = (border, part);
        }
    }
}

impl<'a> Work<'a> {
    fn new(merges: &'a Merges) -> Work<'a> {
        let line = Line::new(0, 0, merges.lens.clone());
        let places = vec![Places::default(); merges.rules.len()];
        let bytes = (0..256).map(|_| Ranks { number: 1, ..Ranks::default() }).collect();
        Work {
            merges,
            line,
            waiting: Waiting { places, queue: BinaryHeap::new() },
            bytes,
            left: Ranks::default(),
            right: Ranks::default(),
        }
    }

    /// The tokens of a part.
    fn encode(&mut self, part: &[u8]) -> Vec<u32> {
        let Work { merges, line, waiting, bytes, left, right } = self;
        line.clear();
        let first = line.add(part.iter().map(|&byte| merges.bytes[usize::from(byte)]));
        let rank = |pair: (u32, u32)| merges.ranks.get(&key(pair)).copied();
        for (place, pair) in (first..).zip(part.windows(2)) {
            let (a, b) = (merges.bytes[usize::from(pair[0])], merges.bytes[usize::from(pair[1])]);
            waiting.add(bytes[usize::from(pair[0])].of(b, || rank((a, b))), place);
        }
        while let Some(Reverse(now)) = waiting.queue.pop() {
            let (pair, new) = merges.rules[now as usize];
            left.clear();
            right.clear();
            while let Some(place) = waiting.places[now as usize].first() {
                let Some(Neighbours { before, behind }) = line.merge(place, pair, new) else { continue };
                let mut earlier = false;
                if let Some((token, place)) = before {
                    let made = left.of(token, || rank((token, new)));
                    earlier |= made.is_some_and(|made| made < now);
                    waiting.add(made, place);
                }
                if let Some(token) = behind {
                    let made = right.of(token, || rank((new, token)));
                    earlier |= made.is_some_and(|made| made < now);
                    waiting.add(made, place);
                }
                if earlier {
                    // A pair that comes before this one came about: the rest waits.
                    waiting.queue.push(Reverse(now));
                    break;
                }
            }
        }
        line.tokens().collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::text::tokenizer::{Tokenizer, hugging_face::long_words::Merges};
    use proptest::prelude::*;
    use tokenizers::ModelWrapper;

    /// The tokens of a word, here and in the library.
    fn both(json: &str, word: &str) -> (Vec<u32>, Vec<u32>) {
        let library = tokenizers::Tokenizer::from_bytes(json).unwrap();
        let ModelWrapper::BPE(bpe) = library.get_model() else { panic!() };
        let merges = Merges::of(bpe).unwrap();
        let mut ids = Vec::new();
        merges.encode(word.as_bytes(), &mut ids);
        for part in [1, 2, 7, 20, 100] {
            let mut others = Vec::new();
            merges.encode_in_parts(word.as_bytes(), part, &mut others);
            assert_eq!(others, ids, "in parts of {part}");
            others.clear();
            merges.encode_in_shares(word.as_bytes(), 3, part, &mut others);
            assert_eq!(others, ids, "in shares that reach {part} into the next");
        }
        (ids, library.encode_fast(word, false).unwrap().get_ids().to_vec())
    }

    /// The `tokenizer.json` of bytes with these merges. Those of a file need not come in the order in which they can be learned.
    fn with_merges(merges: &[[String; 2]]) -> String {
        let bytes = Tokenizer::train_bpe(std::iter::empty(), 257).unwrap();
        let mut value: serde_json::Value = serde_json::from_str(bytes.to_json()).unwrap();
        for token in merges.iter().flat_map(|[a, b]| [a.clone(), b.clone(), [a.as_str(), b].concat()]) {
            let vocab = value["model"]["vocab"].as_object_mut().unwrap();
            let next = vocab.len();
            vocab.entry(token).or_insert(next.into());
        }
        value["model"]["merges"] = serde_json::json!(merges);
        value.to_string()
    }

    proptest! {
        #[test]
        fn a_word_has_the_tokens_that_the_library_gives_it(learned in "[abcé]{1,200}", word in "[abcdé語]{1,300}", size in 257..600usize) {
            let tokenizer = Tokenizer::train_bpe([learned].into_iter(), size).unwrap();
            let (ours, theirs) = both(tokenizer.to_json(), &word);
            prop_assert_eq!(ours, theirs);
        }

        #[test]
        fn merges_in_any_order_do_the_same(word in "[abc]{1,200}", merges in proptest::collection::vec("[abc]{2,4}", 0..12), cuts in proptest::collection::vec(1..4usize, 12)) {
            let cut = |(token, cut): (&String, usize)| {
                let (a, b) = token.split_at(cut.min(token.len() - 1));
                [a.to_owned(), b.to_owned()]
            };
            let merges: Vec<_> = merges.iter().zip(cuts).map(cut).collect();
            let (ours, theirs) = both(&with_merges(&merges), &word);
            prop_assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn a_share_may_reach_beyond_the_next_one() {
        let (ours, theirs) = both(&with_merges(&[["b".to_owned(), "b".to_owned()]]), "abbbba");
        assert_eq!(ours, theirs);
    }

    #[test]
    fn a_long_word_of_a_text_has_the_tokens_that_the_library_gives_it() {
        let text: String = (0..9_000u32).map(|i| char::from(b"ACGT"[(i.wrapping_mul(i) >> 3) as usize % 4])).collect();
        let tokenizer = Tokenizer::train_bpe([text.clone()].into_iter(), 500).unwrap();
        let text = format!("a {text} b{text}");
        let library = tokenizers::Tokenizer::from_bytes(tokenizer.to_json()).unwrap();
        assert_eq!(tokenizer.encode(&text).unwrap(), library.encode_fast(text.as_str(), false).unwrap().get_ids());
    }
}
