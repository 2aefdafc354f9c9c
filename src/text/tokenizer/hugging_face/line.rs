//! Words as tokens that are merged in place.

/// A token's id in as many bits as the vocabulary needs, so that more of them fit into a processor's cache.
pub(super) trait Id: Copy + PartialEq {
    /// No token.
    const NONE: Self;
    fn of(id: u32) -> Self;
    fn id(self) -> u32;
}

impl Id for u16 {
    const NONE: u16 = u16::MAX;

    fn of(id: u32) -> u16 {
        id as u16
    }

    fn id(self) -> u32 {
        u32::from(self)
    }
}

impl Id for u32 {
    const NONE: u32 = u32::MAX;

    fn of(id: u32) -> u32 {
        id
    }

    fn id(self) -> u32 {
        self
    }
}

/// Words one after the other, apart. A token of several bytes stands at the first and the last of its places, so that its
/// neighbours are found from both sides; a place is that of a byte.
pub(super) struct Line<T> {
    tokens: Vec<T>,
    /// For each token how many bytes it has.
    lens: Vec<u32>,
}

/// The neighbours in the word of a token that was just merged.
pub(super) struct Neighbours {
    /// The token before it, and where that begins.
    pub(super) before: Option<(u32, u32)>,
    /// The token behind it.
    pub(super) behind: Option<u32>,
}

impl<T: Id> Line<T> {
    /// A line without words, with room for so many bytes and words, and how many bytes each token has.
    pub(super) fn new(bytes: usize, words: usize, lens: Vec<u32>) -> Line<T> {
        let mut tokens = Vec::with_capacity(bytes + words + 1);
        tokens.push(T::NONE);
        Line { tokens, lens }
    }

    /// Takes all words away.
    pub(super) fn clear(&mut self) {
        self.tokens.truncate(1);
    }

    /// Says how many bytes a token has.
    pub(super) fn set_len(&mut self, token: u32, len: u32) {
        let at = token as usize;
        self.lens.resize(self.lens.len().max(at + 1), 0);
        self.lens[at] = len;
    }

    pub(super) fn len(&self, token: u32) -> u32 {
        self.lens[token as usize]
    }

    /// Adds a word, given the tokens of its bytes, and returns where it begins.
    pub(super) fn add(&mut self, word: impl Iterator<Item = u32>) -> u32 {
        let first = self.tokens.len();
        self.tokens.extend(word.map(T::of));
        self.tokens.push(T::NONE);
        first as u32
    }

    /// Merges a pair into a new token, if it begins at this place. Tokens only grow, so a place where one began is never
    /// the last place of another that is the same.
    pub(super) fn merge(&mut self, place: u32, (a, b): (u32, u32), new: u32) -> Option<Neighbours> {
        let at = place as usize;
        let second = at + self.lens[a as usize] as usize;
        if self.tokens[at] != T::of(a) || self.tokens[second] != T::of(b) {
            return None;
        }
        let end = second + self.lens[b as usize] as usize;
        self.tokens[second - 1] = T::NONE;
        self.tokens[second] = T::NONE;
        self.tokens[at] = T::of(new);
        self.tokens[end - 1] = T::of(new);
        let (before, behind) = (self.tokens[at - 1], self.tokens[end]);
        Some(Neighbours {
            before: (before != T::NONE).then(|| (before.id(), place - self.len(before.id()))),
            behind: (behind != T::NONE).then(|| behind.id()),
        })
    }

    /// The tokens of all words.
    pub(super) fn tokens(&self) -> impl Iterator<Item = u32> {
        let mut at = 1;
        std::iter::from_fn(move || {
            while *self.tokens.get(at)? == T::NONE {
                at += 1;
            }
            let token = self.tokens[at].id();
            at += self.lens[token as usize] as usize;
            Some(token)
        })
    }
}
