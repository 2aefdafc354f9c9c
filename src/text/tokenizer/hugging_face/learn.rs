//! Learns a byte pair encoding (Sennrich et al. 2016): the vocabulary is the one that Hugging Face's library learns from
//! the same text.
//!
//! The words of the text stand one after the other, and each pair of tokens knows its places. A merge looks at the places
//! of its pair only, so the time is linear in the text, however long its words are. The library goes over all of a word
//! for each merge in it: text without blanks, which is one word, takes it minutes for each megabyte.

use super::{
    gpt2_words::words,
    line::{Id, Line, Neighbours},
    pairs::{PairMap, key, pair},
};
use crate::text::tokenizer::json::{END_OF_TEXT, byte_char};
use rayon::prelude::*;
use std::{
    cmp::Ordering,
    collections::{BinaryHeap, HashMap, hash_map::Entry},
    mem::take,
};

/// Words of this many bytes and more are long. Of text without blanks, which is one word, a part is enough to learn from.
const LONG: usize = 1 << 13;

/// Bytes of long words that are learned from.
const MOST_LONG: usize = 1 << 22;

/// Bytes of different words that are learned from: learning takes some 15 times their memory.
const MOST: usize = 1 << 27;

/// How often each word of a text occurs.
#[derive(Clone, Debug, Default)]
pub(super) struct WordCounts {
    counts: HashMap<Box<str>, u64>,
    /// Bytes of the different words.
    bytes: usize,
    /// [`MOST`], or less in tests.
    most: Option<usize>,
    /// Occurrences of words that are not counted, as there are too many different ones.
    pub(super) left_out: u64,
    /// Bytes of long words that are learned from, and those that are not.
    long: usize,
    pub(super) cut: u64,
}

impl WordCounts {
    /// Counts the words of some texts, on all threads of the current pool.
    pub(super) fn add(&mut self, texts: &[String]) {
        let count = |text: &String| {
            let mut counts: HashMap<Box<str>, u64> = HashMap::new();
            for word in words(text) {
                match counts.get_mut(word) {
                    Some(count) => *count += 1,
                    None => _ = counts.insert(word.into(), 1),
                }
            }
            counts
        };
        let counted: Vec<_> = texts.par_iter().map(count).collect();
        for counts in counted {
            let mut counts: Vec<_> = counts.into_iter().collect();
            let (bytes, longest) =
                counts.iter().fold((0, 0), |(sum, most), (word, _)| (sum + word.len(), most.max(word.len())));
            // What is left out must not depend on the order of a map.
            if longest >= LONG || self.bytes + bytes > self.most.unwrap_or(MOST) {
                counts.sort_unstable();
            }
            counts.into_iter().for_each(|(word, count)| self.add_word(word, count));
        }
    }

    fn add_word(&mut self, mut word: Box<str>, count: u64) {
        if word.len() >= LONG {
            let room = word.len().min(MOST_LONG - self.long);
            let to = (0..=room).rev().find(|&at| word.is_char_boundary(at)).unwrap_or(0);
            self.cut += (word.len() - to) as u64 * count;
            self.long += to;
            if to < word.len() {
                word = word[..to].into();
            }
        }
        if !word.is_empty() {
            let (bytes, len) = (self.bytes, word.len());
            match self.counts.entry(word) {
                Entry::Occupied(mut found) => *found.get_mut() += count,
                Entry::Vacant(_) if bytes + len > self.most.unwrap_or(MOST) => self.left_out += count,
                Entry::Vacant(new) => {
                    new.insert(count);
                    self.bytes += len;
                }
            }
        }
    }

    /// Merges the most frequent pairs until there are `size` tokens, or no pairs. `progress` receives the number of
    /// tokens.
    pub(super) fn learn(self, size: usize, progress: impl FnMut(usize)) -> Learned {
        match u16::try_from(size) {
            Ok(u16::MAX) | Err(_) => self.learn_as::<u32>(size, progress),
            Ok(_) => self.learn_as::<u16>(size, progress),
        }
    }

    fn learn_as<T: Id>(self, size: usize, mut progress: impl FnMut(usize)) -> Learned {
        let mut learned = Learned::bytes();
        let mut text = Text::<T>::new(self.counts, &learned);
        let mut ids: HashMap<String, u32> = learned.tokens.iter().cloned().zip(0..).collect();
        while learned.tokens.len() < size
            && let Some((pair, places)) = text.most_frequent()
        {
            let token = [pair.0, pair.1].map(|id| learned.tokens[id as usize].as_str()).concat();
            let new = *ids.entry(token).or_insert_with_key(|token| {
                learned.tokens.push(token.clone());
                (learned.tokens.len() - 1) as u32
            });
            learned.merges.push(pair);
            text.merge(pair, new, &places);
            progress(learned.tokens.len());
        }
        learned
    }
}

/// A vocabulary and its merges, in order.
pub(super) struct Learned {
    pub(super) tokens: Vec<String>,
    pub(super) merges: Vec<(u32, u32)>,
}

impl Learned {
    /// The end-of-text token and the bytes, in the order of the characters that represent them.
    fn bytes() -> Learned {
        let mut bytes: Vec<char> = (0..=255).map(byte_char).collect();
        bytes.sort_unstable();
        let bytes = bytes.into_iter().map(String::from);
        Learned { tokens: std::iter::once(END_OF_TEXT.to_owned()).chain(bytes).collect(), merges: Vec::new() }
    }
}

/// The words of a text.
struct Text<T> {
    line: Line<T>,
    words: Words,
    /// How often each pair occurs. Its own merge does not lower it, as in the library.
    pairs: PairMap<i64>,
    queue: BinaryHeap<Candidate>,
    /// The neighbours of a pair that is being merged.
    left: Side,
    right: Side,
}

/// Which word is at a place, and how often it occurs.
#[derive(Default)]
struct Words {
    /// Where each word begins, and how often it occurs.
    words: Vec<(u32, u64)>,
    /// For each block of places, the word that its first place is in.
    blocks: Vec<u32>,
}

/// Places in a block. A table of all places would not fit into a processor's cache.
const BLOCK: u32 = 16;

impl Words {
    fn add(&mut self, first: u32, len: usize, count: u64) {
        let blocks = (first as usize + len).div_ceil(BLOCK as usize);
        self.blocks.resize(blocks.max(self.blocks.len()), self.words.len() as u32);
        self.words.push((first, count));
    }

    fn at(&self, place: u32) -> u32 {
        let mut word = self.blocks[(place / BLOCK) as usize];
        while self.words.get(word as usize + 1).is_some_and(|(first, _)| *first <= place) {
            word += 1;
        }
        word
    }

    fn count(&self, place: u32) -> u64 {
        self.words[self.at(place) as usize].1
    }
}

/// The tokens on one side of a pair: how often each is there, and where its pair with the new token begins.
#[derive(Default)]
struct Side {
    seen: Vec<(i64, Vec<u32>)>,
    /// The tokens that were seen.
    ids: Vec<u32>,
}

impl Side {
    fn make_room(&mut self, id: u32) {
        self.seen.resize_with(self.seen.len().max(id as usize + 1), Default::default);
    }

    fn see(&mut self, id: u32, count: i64, place: u32) {
        let (total, places) = &mut self.seen[id as usize];
        if places.is_empty() {
            self.ids.push(id);
        }
        *total += count;
        places.push(place);
    }

    fn take(&mut self) -> impl Iterator<Item = (u32, (i64, Vec<u32>))> {
        self.ids.drain(..).map(|id| (id, take(&mut self.seen[id as usize])))
    }
}

/// A pair that may be merged, ordered by its count and then by its tokens.
struct Candidate {
    count: i64,
    pair: (u32, u32),
    /// Where it begins, or began.
    places: Vec<u32>,
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Candidate) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}

impl Ord for Candidate {
    fn cmp(&self, other: &Candidate) -> Ordering {
        (self.count, other.pair).cmp(&(other.count, self.pair))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Candidate) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Id> Text<T> {
    fn new(words: HashMap<Box<str>, u64>, learned: &Learned) -> Text<T> {
        let mut ids = [0; 256];
        for byte in 0..=255u8 {
            let written = byte_char(byte).to_string();
            ids[usize::from(byte)] = learned.tokens.iter().position(|token| *token == written).expect("a byte") as u32;
        }
        let len = words.keys().map(|word| word.len()).sum();
        let mut text = Text {
            line: Line::new(len, words.len(), vec![1; learned.tokens.len()]),
            words: Words::default(),
            pairs: PairMap::default(),
            queue: BinaryHeap::new(),
            left: Side::default(),
            right: Side::default(),
        };
        // At first all tokens are bytes, so that a table holds all pairs.
        let mut pairs = vec![(0i64, Vec::new()); 1 << 16];
        for (word, count) in words {
            let bytes = word.as_bytes();
            let first = text.line.add(bytes.iter().map(|&byte| ids[usize::from(byte)]));
            text.words.add(first, bytes.len(), count);
            for (at, pair) in (first..).zip(bytes.windows(2)) {
                let (total, places) = &mut pairs[usize::from(pair[0]) << 8 | usize::from(pair[1])];
                *total += count as i64;
                places.push(at);
            }
        }
        for (at, (count, places)) in pairs.into_iter().enumerate().filter(|(_, (count, _))| *count > 0) {
            let pair = key((ids[at >> 8], ids[at & 0xff]));
            text.pairs.insert(pair, count);
            text.wait(pair, places);
        }
        text
    }

    /// Puts a pair with its places into the queue, if it occurs.
    fn wait(&mut self, key: u64, places: Vec<u32>) {
        let count = self.pairs[&key];
        if count > 0 {
            self.queue.push(Candidate { count, pair: pair(key), places });
        }
    }

    /// The most frequent pair, the first of them in the order of tokens, and where it may be found, in order.
    fn most_frequent(&mut self) -> Option<((u32, u32), Vec<u32>)> {
        loop {
            let mut top = self.queue.pop()?;
            let count = self.pairs[&key(top.pair)];
            if count != top.count {
                top.count = count;
                self.queue.push(top);
                continue;
            }
            if count < 1 {
                return None;
            }
            let Candidate { pair, mut places, .. } = top;
            if !places.is_sorted() {
                places.sort_unstable();
            }
            return Some((pair, places));
        }
    }

    /// Merges a pair wherever it still is at these places.
    fn merge(&mut self, (a, b): (u32, u32), new: u32, places: &[u32]) {
        self.line.set_len(new, self.line.len(a) + self.line.len(b));
        self.left.make_room(new);
        self.right.make_room(new);
        for &place in places {
            let Some(Neighbours { before, behind }) = self.line.merge(place, (a, b), new) else { continue };
            let count = self.words.count(place) as i64;
            if let Some((token, begin)) = before {
                self.left.see(token, count, begin);
            }
            if let Some(token) = behind {
                self.right.see(token, count, place);
            }
        }
        let mut made: PairMap<Vec<u32>> = PairMap::default();
        let left = self.left.take().map(|(id, seen)| ((id, a), (id, new), seen));
        let right = self.right.take().map(|(id, seen)| ((b, id), (new, id), seen));
        for (gone, pair, (count, places)) in left.chain(right) {
            *self.pairs.entry(key(gone)).or_default() -= count;
            *self.pairs.entry(key(pair)).or_default() += count;
            made.entry(key(pair)).or_default().extend(places);
        }
        made.into_iter().for_each(|(pair, places)| self.wait(pair, places));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenizer::Tokenizer;
    use proptest::prelude::*;
    use tokenizers::{
        AddedToken, DecoderWrapper, PreTokenizerWrapper,
        models::{
            TrainerWrapper,
            bpe::{BPE, BpeTrainer},
        },
        pre_tokenizers::byte_level::ByteLevel,
    };

    /// What the library learns from these texts.
    fn theirs(texts: &[String], size: usize) -> String {
        let byte_level = || ByteLevel::new(false, true, true);
        let mut tokenizer = tokenizers::Tokenizer::new(BPE::default());
        tokenizer
            .with_pre_tokenizer(Some(PreTokenizerWrapper::ByteLevel(byte_level())))
            .with_decoder(Some(DecoderWrapper::ByteLevel(byte_level())));
        let trainer = BpeTrainer::builder()
            .vocab_size(size)
            .show_progress(false)
            .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        tokenizer.train(&mut TrainerWrapper::BpeTrainer(trainer), texts.iter()).unwrap();
        tokenizer.to_string(true).unwrap()
    }

    fn ours(texts: &[String], size: usize) -> String {
        Tokenizer::train_bpe(texts.iter().cloned(), size).unwrap().to_json().to_owned()
    }

    #[test]
    fn a_text_gives_the_vocabulary_that_the_library_learns() {
        let text = include_str!("../../../../docs/DESIGN.md");
        for size in [257, 300, 1000, 5000, 100_000] {
            assert!(ours(&[text.to_owned()], size) == theirs(&[text.to_owned()], size), "{size}");
        }
        for text in ["語と語の間に空白はない。語と語".repeat(9), "aaaa aaa aaaaaaa aa ".repeat(3), String::new()]
        {
            assert_eq!(ours(std::slice::from_ref(&text), 400), theirs(&[text], 400));
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_the_vocabulary_that_the_library_learns(
            texts in proptest::collection::vec("([abc]{0,12}|[ab]{1,40}| |\n|\\PC|é語)*", 0..4),
            size in prop_oneof![257..400usize, Just(5000)],
        ) {
            prop_assert_eq!(ours(&texts, size), theirs(&texts, size));
        }
    }

    #[test]
    fn long_words_of_few_letters_give_the_vocabulary_that_the_library_learns() {
        // Few letters and long words: the same token is made of different parts.
        let mut x = 1u64;
        let mut letter = |letters: &[u8]| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(letters[(x >> 33) as usize % letters.len()])
        };
        for letters in [&b"ab"[..], b"abc", b"ACGT", b"aab "] {
            let text: String = (0..20_000).map(|_| letter(letters)).collect();
            let (ours, theirs) = (ours(std::slice::from_ref(&text), 700), theirs(&[text], 700));
            assert!(ours == theirs, "{letters:?}");
        }
    }

    #[test]
    fn of_very_long_words_a_part_is_learned_from() {
        let letter = |i: usize| ["a", "b", "\u{e9}"][i * i * 7 / 3 % 3];
        let long: String = (0..1 << 20).map(letter).collect();
        let mut counts = WordCounts::default();
        for i in 0..8 {
            counts.add(&[format!("{}{long}", char::from(b'p' + i)), "short words".to_owned()]);
        }
        let bytes: usize = counts.counts.keys().map(|word| word.len()).sum();
        assert_eq!(counts.long + counts.cut as usize, 8 * (long.len() + 1));
        assert!((MOST_LONG - 1..=MOST_LONG).contains(&counts.long), "{}", counts.long);
        assert!(bytes <= MOST_LONG + 64 && counts.counts.len() > 4, "{bytes}");
    }

    #[test]
    fn words_that_do_not_fit_into_memory_are_counted() {
        let mut counts = WordCounts { most: Some(8), ..WordCounts::default() };
        counts.add(&["one two one".to_owned(), " four one".to_owned()]);
        assert_eq!(counts.counts.len(), 2);
        counts.add(&[" two two two".to_owned()]);
        let counted: u64 = counts.counts.values().sum();
        assert_eq!((counts.left_out + counted, counts.bytes <= 8), (8, true));
        assert!(counts.left_out > 0);
    }
}
