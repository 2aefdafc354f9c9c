//! Words as tokens that are merged in place.

/// No token.
const NONE: u32 = u32::MAX;

/// Words one after the other, apart. A token of several bytes stands at the first and the last of its places, so that its
/// neighbours are found from both sides; a place is that of a byte.
pub(super) struct Line {
    tokens: Vec<u32>,
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

impl Line {
    /// A line without words, with room for so many bytes and words, and how many bytes each token has.
    pub(super) fn new(bytes: usize, words: usize, lens: Vec<u32>) -> Line {
        let mut tokens = Vec::with_capacity(bytes + words + 1);
        tokens.push(NONE);
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
        self.tokens.extend(word);
        self.tokens.push(NONE);
        first as u32
    }

    /// Merges a pair into a new token, if it begins at this place. Tokens only grow, so a place where one began is never
    /// the last place of another that is the same.
    pub(super) fn merge(&mut self, place: u32, (a, b): (u32, u32), new: u32) -> Option<Neighbours> {
        let at = place as usize;
        let second = at + self.lens[a as usize] as usize;
        if self.tokens[at] != a || self.tokens[second] != b {
            return None;
        }
        let end = second + self.lens[b as usize] as usize;
        self.tokens[second - 1] = NONE;
        self.tokens[second] = NONE;
        self.tokens[at] = new;
        self.tokens[end - 1] = new;
        let (before, behind) = (self.tokens[at - 1], self.tokens[end]);
        Some(Neighbours {
            before: (before != NONE).then(|| (before, place - self.lens[before as usize])),
            behind: (behind != NONE).then_some(behind),
        })
    }

    /// The tokens of all words.
    pub(super) fn tokens(&self) -> impl Iterator<Item = u32> {
        let mut at = 1;
        std::iter::from_fn(move || {
            while *self.tokens.get(at)? == NONE {
                at += 1;
            }
            let token = self.tokens[at];
            at += self.lens[token as usize] as usize;
            Some(token)
        })
    }
}
