//! Byte pair encoding of long words.
//!
//! The library keeps all pairs of a word in one heap, which takes seconds and a gigabyte for a word of ten megabytes, as
//! text without blanks is. Here the places of a pair wait in a list of their own until their merge comes.

use super::{
    line::{Line, Neighbours},
    pairs::{PairMap, key},
};
use crate::text::tokenizer::json::byte_char;
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
    /// How many bytes each token has that is a byte or comes about by a merge.
    lens: Vec<(u32, u32)>,
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
            *self = Places::default();
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
        let mut lens: Vec<_> = bytes.iter().map(|&id| (id, 1)).collect();
        let mut rules = Vec::new();
        for merge in model["merges"].as_array()? {
            let (a, b) = (merge.get(0)?.as_str()?, merge.get(1)?.as_str()?);
            let new = [a, b].concat();
            for token in [a, b, &new] {
                lens.push((id(token)?, token.chars().count() as u32));
            }
            rules.push(((id(a)?, id(b)?), id(&new)?));
        }
        let ranks = rules.iter().zip(0..).map(|((pair, _), rank)| (key(*pair), rank)).collect();
        Some(Merges { bytes, ranks, rules, lens })
    }

    /// Appends the tokens of a word.
    pub(super) fn encode(&self, word: &[u8], ids: &mut Vec<u32>) {
        let mut line = Line::new(word.len(), 1);
        self.lens.iter().for_each(|&(id, len)| line.set_len(id, len));
        let first = line.add(word.iter().map(|&byte| self.bytes[usize::from(byte)]));
        let rank = |pair: (u32, u32)| self.ranks.get(&key(pair)).copied();
        let mut waiting = Waiting { places: vec![Places::default(); self.rules.len()], queue: BinaryHeap::new() };
        let mut bytes: Vec<Ranks> = (0..256).map(|_| Ranks { number: 1, ..Ranks::default() }).collect();
        for (place, pair) in (first..).zip(word.windows(2)) {
            let [a, b] = [pair[0], pair[1]].map(|byte| self.bytes[usize::from(byte)]);
            waiting.add(bytes[usize::from(pair[0])].of(b, || rank((a, b))), place);
        }
        let (mut left, mut right) = (Ranks::default(), Ranks::default());
        while let Some(Reverse(now)) = waiting.queue.pop() {
            let (pair, new) = self.rules[now as usize];
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
        ids.extend(line.tokens());
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
        let mut ids = Vec::new();
        Merges::of(bpe).unwrap().encode(word.as_bytes(), &mut ids);
        (ids, library.encode_fast(word, false).unwrap().get_ids().to_vec())
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
            // Merges of a file need not come in the order in which they can be learned.
            let mut value: serde_json::Value = serde_json::from_str(Tokenizer::train_bpe(std::iter::empty(), 257).unwrap().to_json()).unwrap();
            let mut pairs: Vec<[String; 2]> = Vec::new();
            for (token, cut) in merges.iter().zip(cuts) {
                let (a, b) = token.split_at(cut.min(token.len() - 1));
                pairs.push([a.to_owned(), b.to_owned()]);
            }
            for token in pairs.iter().flat_map(|[a, b]| [a.clone(), b.clone(), [a.as_str(), b].concat()]) {
                let vocab = value["model"]["vocab"].as_object_mut().unwrap();
                let next = vocab.len();
                vocab.entry(token).or_insert(next.into());
            }
            value["model"]["merges"] = serde_json::json!(pairs);
            let (ours, theirs) = both(&value.to_string(), &word);
            prop_assert_eq!(ours, theirs);
        }
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
