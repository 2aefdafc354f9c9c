//! Byte pair encoding of long words.
//!
//! The library keeps all pairs of a word in one heap, which takes seconds and a gigabyte for a word of ten megabytes, as
//! text without blanks is. Here the places of a pair wait in a list of their own until their merge comes.

use super::pairs::{PairMap, key};
use crate::text::tokenizer::json::byte_char;
use serde_json::Value;
use std::{cmp::Reverse, collections::BinaryHeap};
use tokenizers::models::bpe::BPE;

/// The merges of a byte pair encoding.
#[derive(Debug)]
pub(super) struct Merges {
    /// The token of each byte.
    bytes: [u32; 256],
    /// For each pair its rank and what it becomes.
    pairs: PairMap<(u32, u32)>,
}

/// No token, and no place.
const NONE: u32 = u32::MAX;

/// The places of a pair: some in order, the last one first, and some that came later.
#[derive(Clone, Default)]
struct Places {
    sorted: Vec<u32>,
    new: Vec<u32>,
}

impl Places {
    fn first(&mut self) -> Option<u32> {
        if !self.new.is_empty() {
            self.sorted.append(&mut self.new);
            self.sorted.sort_unstable_by_key(|&place| Reverse(place));
        }
        self.sorted.pop()
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
        let mut pairs = PairMap::default();
        for (merge, rank) in model["merges"].as_array()?.iter().zip(0..) {
            let (a, b) = (merge.get(0)?.as_str()?, merge.get(1)?.as_str()?);
            pairs.insert(key((id(a)?, id(b)?)), (rank, id(&[a, b].concat())?));
        }
        Some(Merges { bytes, pairs })
    }

    /// Appends the tokens of a word.
    pub(super) fn encode(&self, word: &[u8], ids: &mut Vec<u32>) {
        let mut tokens: Vec<u32> = word.iter().map(|&byte| self.bytes[usize::from(byte)]).collect();
        let len = tokens.len() as u32;
        let mut before: Vec<u32> = (0..len).map(|at| at.wrapping_sub(1)).collect();
        let mut behind: Vec<u32> = (1..len).chain([NONE]).collect();
        let mut waiting = vec![Places::default(); self.pairs.len()];
        let mut ranks = BinaryHeap::new();
        let wait = |waiting: &mut [Places], ranks: &mut BinaryHeap<_>, pair: (u32, u32), place: u32| {
            let &(rank, _) = self.pairs.get(&key(pair))?;
            let places = &mut waiting[rank as usize];
            if places.sorted.is_empty() && places.new.is_empty() {
                ranks.push(Reverse(rank));
            }
            places.new.push(place);
            Some(rank)
        };
        for (at, pair) in (0..).zip(tokens.windows(2)) {
            wait(&mut waiting, &mut ranks, (pair[0], pair[1]), at);
        }
        while let Some(Reverse(rank)) = ranks.pop() {
            while let Some(place) = waiting[rank as usize].first() {
                let at = place as usize;
                let second = behind[at];
                if tokens[at] == NONE || second == NONE {
                    continue;
                }
                let found = self.pairs.get(&key((tokens[at], tokens[second as usize])));
                let Some(&(_, new)) = found.filter(|(found, _)| *found == rank) else { continue };
                let last = behind[second as usize];
                (tokens[at], tokens[second as usize]) = (new, NONE);
                behind[at] = last;
                let mut earlier = false;
                if before[at] != NONE {
                    let pair = (tokens[before[at] as usize], new);
                    earlier |= wait(&mut waiting, &mut ranks, pair, before[at]).is_some_and(|other| other < rank);
                }
                if last != NONE {
                    before[last as usize] = place;
                    let pair = (new, tokens[last as usize]);
                    earlier |= wait(&mut waiting, &mut ranks, pair, place).is_some_and(|other| other < rank);
                }
                if earlier {
                    // A pair that comes before this one came about: the rest waits.
                    ranks.push(Reverse(rank));
                    break;
                }
            }
        }
        ids.extend(tokens.into_iter().filter(|&id| id != NONE));
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
