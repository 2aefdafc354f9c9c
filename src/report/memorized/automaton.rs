//! A suffix automaton (Blumer et al. 1985) of a text: a text of any length is streamed through it, and it knows at each place
//! the longest string that ends there and stands in its own text. Its memory is that of its own text.

use std::collections::{BTreeMap, HashMap};

/// No symbol.
const NONE: u32 = u32::MAX;

/// A suffix automaton of characters.
pub(super) struct Automaton {
    /// The characters of the text, numbered; those of ASCII first, because they are the usual ones.
    ascii: [u32; 128],
    others: HashMap<char, u32>,
    /// Where the transitions of each state begin in `edges`, and where those of the last end.
    starts: Vec<u32>,
    /// Symbol and next state, by symbol within a state.
    edges: Vec<(u32, u32)>,
    states: Vec<State>,
    /// The state of each of the text's beginnings, the empty one first.
    prefixes: Vec<u32>,
}

/// What states stand for: the strings that end at the same places of the text, each a suffix of the longest.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Characters of the longest string.
    len: u32,
    /// The state of the longest suffix that ends at more places.
    link: u32,
}

/// What was seen of the strings of a state in the text that was streamed.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// How often one of them ended.
    visits: u64,
    /// Behind which byte that was first.
    first: u64,
    /// Characters of the longest one that ended.
    best: u32,
    /// How often that one ended.
    count: u64,
    /// Behind which byte that was first.
    at: u64,
}

/// The longest string that ends at a place of the automaton's own text and stood in the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Match {
    /// Characters; 0 if not even the last one stood there.
    pub(super) len: usize,
    /// How often it stood there.
    pub(super) count: u64,
    /// Behind which byte it first ended.
    pub(super) ends_at: u64,
}

/// A text on its way through an automaton.
pub(super) struct Stream<'a> {
    automaton: &'a Automaton,
    state: u32,
    length: u32,
    /// Bytes so far.
    pub(super) bytes: u64,
    seen: Vec<Seen>,
}

impl Automaton {
    /// Of this text.
    pub(super) fn new(text: &str) -> Automaton {
        let (mut ascii, mut others) = ([NONE; 128], HashMap::new());
        let mut next: Vec<BTreeMap<u32, u32>> = vec![BTreeMap::new()];
        let (mut states, mut prefixes, mut symbols) = (vec![State::default()], vec![0], 0);
        for c in text.chars() {
            let symbol = match ascii.get_mut(c as usize) {
                Some(symbol) => symbol,
                None => others.entry(c).or_insert(NONE),
            };
            if *symbol == NONE {
                *symbol = symbols;
                symbols += 1;
            }
            let last = prefixes[prefixes.len() - 1];
            prefixes.push(grow(&mut states, &mut next, last, *symbol));
        }
        let (mut starts, mut edges) = (Vec::with_capacity(next.len() + 1), Vec::new());
        for next in next {
            starts.push(edges.len() as u32);
            edges.extend(next);
        }
        starts.push(edges.len() as u32);
        Automaton { ascii, others, starts, edges, states, prefixes }
    }

    fn symbol(&self, c: char) -> u32 {
        self.ascii.get(c as usize).copied().unwrap_or_else(|| self.others.get(&c).copied().unwrap_or(NONE))
    }

    fn next(&self, state: u32, symbol: u32) -> Option<u32> {
        let range = self.starts[state as usize] as usize..self.starts[state as usize + 1] as usize;
        let edges = &self.edges[range];
        // Most states have one.
        if let [(only, to)] = edges {
            return (*only == symbol).then_some(*to);
        }
        edges.binary_search_by_key(&symbol, |edge| edge.0).ok().map(|at| edges[at].1)
    }

    /// A text that is to be streamed through it.
    pub(super) fn stream(&self) -> Stream<'_> {
        Stream { automaton: self, state: 0, length: 0, bytes: 0, seen: vec![Seen::default(); self.states.len()] }
    }
}

/// Adds a character behind the whole text so far, whose state is `last`; returns the state of the whole text then.
fn grow(states: &mut Vec<State>, next: &mut Vec<BTreeMap<u32, u32>>, last: u32, symbol: u32) -> u32 {
    let whole = states.len() as u32;
    states.push(State { len: states[last as usize].len + 1, link: 0 });
    next.push(BTreeMap::new());
    let mut at = Some(last);
    let up = |states: &[State], at: u32| (at != 0).then(|| states[at as usize].link);
    while let Some(state) = at.filter(|&state| !next[state as usize].contains_key(&symbol)) {
        next[state as usize].insert(symbol, whole);
        at = up(states, state);
    }
    let Some(state) = at else { return whole };
    let (to, len) = (next[state as usize][&symbol], states[state as usize].len + 1);
    if states[to as usize].len == len {
        states[whole as usize].link = to;
        return whole;
    }
    // Of the strings of `to`, the shorter ones end here too, the longer ones do not.
    let shorter = states.len() as u32;
    states.push(State { len, link: states[to as usize].link });
    next.push(next[to as usize].clone());
    let mut at = Some(state);
    while let Some(state) = at.filter(|&state| next[state as usize].get(&symbol) == Some(&to)) {
        next[state as usize].insert(symbol, shorter);
        at = up(states, state);
    }
    states[to as usize].link = shorter;
    states[whole as usize].link = shorter;
    whole
}

impl Stream<'_> {
    /// Reads on.
    pub(super) fn push(&mut self, text: &str) {
        let automaton = self.automaton;
        for c in text.chars() {
            self.bytes += c.len_utf8() as u64;
            let symbol = automaton.symbol(c);
            if symbol == NONE {
                self.part();
                continue;
            }
            loop {
                if let Some(to) = automaton.next(self.state, symbol) {
                    (self.state, self.length) = (to, self.length + 1);
                    break;
                }
                if self.state == 0 {
                    break;
                }
                self.state = automaton.states[self.state as usize].link;
                self.length = automaton.states[self.state as usize].len;
            }
            let seen = &mut self.seen[self.state as usize];
            seen.visits += 1;
            if seen.visits == 1 {
                seen.first = self.bytes;
            }
            if self.length > seen.best {
                (seen.best, seen.count, seen.at) = (self.length, 0, self.bytes);
            }
            seen.count += u64::from(self.length == seen.best);
        }
    }

    /// Nothing that follows goes on from what was before.
    pub(super) fn part(&mut self) {
        (self.state, self.length) = (0, 0);
    }

    /// The longest match at each place of the automaton's own text, before its first character, behind it, and so on.
    pub(super) fn matches(self) -> Vec<Match> {
        let (mut seen, states) = (self.seen, &self.automaton.states);
        let mut order: Vec<u32> = (1..states.len() as u32).collect();
        order.sort_unstable_by_key(|&state| states[state as usize].len);
        // Where a string ended, all its suffixes did.
        for &state in order.iter().rev() {
            let (Seen { visits, first, .. }, link) = (seen[state as usize], states[state as usize].link);
            if visits == 0 || link == 0 {
                continue;
            }
            let (above, len) = (&mut seen[link as usize], states[link as usize].len);
            if above.visits == 0 || first < above.first {
                above.first = first;
            }
            above.visits += visits;
            if above.best < len {
                (above.best, above.count, above.at) = (len, 0, first);
            }
            (above.count, above.at) = (above.count + visits, above.at.min(first));
        }
        // The nearest state, by its links, of which something was seen.
        let mut nearest: Vec<u32> = (0..states.len() as u32).collect();
        for &state in &order {
            if seen[state as usize].visits == 0 {
                nearest[state as usize] = nearest[states[state as usize].link as usize];
            }
        }
        let found = |&prefix: &u32| match nearest[prefix as usize] {
            0 => Match::default(),
            state => {
                let Seen { best, count, at, .. } = seen[state as usize];
                Match { len: best as usize, count, ends_at: at }
            }
        };
        self.automaton.prefixes.iter().map(found).collect()
    }
}
