//! The built-in corpora: texts generated from small probabilistic grammars, identical on every machine, so that neither
//! a first run nor fine-tuning it needs a network or a file. [`Builtin::Play`] (`corpus/play.grammar`) is a million
//! characters of an invented play, [`Builtin::Logbook`] (`corpus/logbook.grammar`) 300,000 of a lighthouse keeper's
//! log; [`dates`] has instructions with answers.
//!
//! The grammars are unambiguous: each text has one derivation, so its probability is the product of the probabilities
//! of its choices. The negative logarithm of that, per character, is the loss of a perfect model: the entropy floor.

pub mod dates;

use kinglet_core::rng::{Purpose, Rng};
use std::{collections::HashMap, ops::Range};

/// A corpus that comes with the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Builtin {
    /// A million characters of an invented play; the default training data.
    Play,
    /// 300,000 characters of an invented logbook, for fine-tuning a model of the play: similar words and sentences,
    /// plus digits, in another layout.
    Logbook,
}

impl Builtin {
    /// All of them.
    pub const ALL: [Builtin; 2] = [Builtin::Play, Builtin::Logbook];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Builtin::Play => "builtin",
            Builtin::Logbook => "logbook",
        }
    }

    /// The corpus with this name, if there is one.
    pub fn named(name: &str) -> Option<Builtin> {
        Builtin::ALL.into_iter().find(|corpus| corpus.name() == name)
    }

    /// The text, all ASCII.
    pub fn text(self) -> String {
        let mut text = String::with_capacity(self.chars() + 16 * 1024);
        self.write(&mut text, |_, _| ());
        text
    }

    /// The entropy floor of a part of the text, in nats per character: the loss of a model that knows the grammar and
    /// has seen all preceding text. Choices whose first character lies before the part count as known.
    pub fn floor(self, part: Range<usize>) -> f64 {
        let mut nats = 0.0;
        self.write(&mut String::with_capacity(self.chars() + 16 * 1024), |at, cost| {
            if part.contains(&at) {
                nats += cost;
            }
        });
        nats / part.len() as f64
    }

    fn grammar(self) -> Grammar {
        Grammar::parse(match self {
            Builtin::Play => include_str!("builtin/play.grammar"),
            Builtin::Logbook => include_str!("builtin/logbook.grammar"),
        })
    }

    /// Derivations are added until the text has at least this many characters.
    fn chars(self) -> usize {
        match self {
            Builtin::Play => 1_000_000,
            Builtin::Logbook => 300_000,
        }
    }

    /// The random numbers of one derivation: a scene of the play, a week of the log.
    fn rng(self, derivation: u64) -> Rng {
        Rng::new(0, Purpose::Corpus, self as u64, derivation)
    }

    /// Appends complete derivations until the text is long enough; calls `choice(position, cost in nats)` for each
    /// choice.
    fn write(self, text: &mut String, mut choice: impl FnMut(usize, f64)) {
        let grammar = self.grammar();
        for derivation in 0.. {
            if text.len() >= self.chars() {
                break;
            }
            grammar.derive(0, &mut self.rng(derivation), text, &mut choice);
        }
    }
}

/// A weighted context-free grammar; derivations start at rule 0.
struct Grammar {
    rules: Vec<Vec<Alternative>>,
}

struct Alternative {
    weight: u64,
    symbols: Vec<Symbol>,
}

enum Symbol {
    Text(String),
    Rule(usize),
}

impl Grammar {
    /// Parses the notation explained at the top of `play.grammar`.
    ///
    /// # Panics
    /// On a syntax error: the grammars are part of the program and parsed in tests.
    fn parse(source: &str) -> Grammar {
        let lines = || source.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        let headers = lines().filter(|line| !line.starts_with(' '));
        let names = headers.map(|line| line.split(':').next().unwrap_or(line));
        let index: HashMap<&str, usize> = names.enumerate().map(|(i, name)| (name, i)).collect();
        let mut rules: Vec<Vec<Alternative>> = Vec::with_capacity(index.len());
        let mut words = false;
        for line in lines() {
            let Some(body) = line.strip_prefix("  ") else {
                words = line.ends_with(": words");
                rules.push(Vec::new());
                continue;
            };
            let rule = rules.last_mut().expect("a rule's name comes first");
            if words {
                for word in body.split_whitespace() {
                    let weight = 1_000_000 / (rule.len() as u64 + 4);
                    rule.push(Alternative { weight, symbols: vec![Symbol::Text(word.to_owned())] });
                }
            } else {
                let (weight, items) = body.split_once(' ').expect("a weight and symbols");
                let weight = weight.parse().expect("a weight");
                // Splitting at quotes alternates between outside and inside of them.
                let symbols = items.split('"').enumerate().flat_map(|(i, piece)| -> Vec<Symbol> {
                    if i % 2 == 1 {
                        vec![Symbol::Text(piece.replace("\\n", "\n"))]
                    } else {
                        piece.split_whitespace().map(|name| Symbol::Rule(index[name])).collect()
                    }
                });
                rule.push(Alternative { weight, symbols: symbols.collect() });
            }
        }
        Grammar { rules }
    }

    fn derive(&self, rule: usize, rng: &mut Rng, text: &mut String, choice: &mut impl FnMut(usize, f64)) {
        let alternatives = &self.rules[rule];
        let total: u64 = alternatives.iter().map(|a| a.weight).sum();
        let mut pick = rng.below(total);
        let chosen = alternatives.iter().find(|a| {
            let here = pick < a.weight;
            pick = pick.wrapping_sub(a.weight);
            here
        });
        let chosen = chosen.expect("pick is below the total");
        choice(text.len(), -(chosen.weight as f64 / total as f64).ln());
        for symbol in &chosen.symbols {
            match symbol {
                Symbol::Text(piece) => text.push_str(piece),
                Symbol::Rule(rule) => self.derive(*rule, rng, text, choice),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenizer::CharTokenizer;
    use sha2::{Digest, Sha256};
    use std::collections::HashSet;

    #[test]
    fn the_texts_are_the_same_on_every_machine() {
        for (corpus, hash) in [
            (Builtin::Play, "e8a1965cfbbe8e20e3b1345cf550617672c98754411d25aaadc15c44afff4581"),
            (Builtin::Logbook, "318d9849d525c5104d7bee7feae3c4aa2e41e42693f1e2652983b7b338d6fe2b"),
        ] {
            let text = corpus.text();
            let of_text: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(of_text, hash, "{corpus:?}");
            assert!((corpus.chars()..corpus.chars() + 10_000).contains(&text.len()) && text.is_ascii());
        }
    }

    #[test]
    fn the_play_has_as_many_characters_as_tiny_shakespeare_and_the_logbook_has_others() {
        let [play, logbook] = Builtin::ALL.map(|corpus| CharTokenizer::train(&corpus.text()));
        assert_eq!(play.vocab_size(), 65);
        let others: String = logbook.chars().filter(|&c| !play.chars().any(|known| known == c)).collect();
        assert_eq!(others, "+/0123456789=[]");
    }

    #[test]
    fn most_words_of_the_logbook_stand_in_the_play() {
        let words = |text: &str| {
            let words = text.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty());
            words.map(str::to_owned).collect::<Vec<_>>()
        };
        let play: HashSet<String> = words(&Builtin::Play.text()).into_iter().collect();
        let logbook = words(&Builtin::Logbook.text());
        let shared = logbook.iter().filter(|&word| play.contains(word)).count() as f64 / logbook.len() as f64;
        assert!(shared > 0.4, "{shared}");
    }

    #[test]
    fn names_lead_to_corpora() {
        assert!(Builtin::ALL.iter().all(|&corpus| Builtin::named(corpus.name()) == Some(corpus)));
        assert_eq!(Builtin::named("play"), None);
    }

    /// For each rule and position: where derivations end, how many there are, and the sum of their probabilities.
    type Memo = HashMap<(usize, usize), Vec<(usize, u64, f64)>>;

    /// All derivations of prefixes of `text[at..]` from `rule`: where each ends, how many there are, and the sum of
    /// their probabilities.
    fn parse(g: &Grammar, text: &[u8], rule: usize, at: usize, memo: &mut Memo) -> Vec<(usize, u64, f64)> {
        if let Some(known) = memo.get(&(rule, at)) {
            return known.clone();
        }
        let total: u64 = g.rules[rule].iter().map(|a| a.weight).sum();
        let mut ends: Vec<(usize, u64, f64)> = Vec::new();
        for alternative in &g.rules[rule] {
            let mut partial = vec![(at, 1, alternative.weight as f64 / total as f64)];
            for symbol in &alternative.symbols {
                let mut next = Vec::new();
                for (at, count, p) in partial {
                    match symbol {
                        Symbol::Text(piece) if text[at..].starts_with(piece.as_bytes()) => {
                            next.push((at + piece.len(), count, p));
                        }
                        Symbol::Text(_) => {}
                        Symbol::Rule(rule) => {
                            next.extend(parse(g, text, *rule, at, memo).iter().map(|e| (e.0, count * e.1, p * e.2)));
                        }
                    }
                }
                partial = next;
            }
            for (end, count, p) in partial {
                match ends.iter_mut().find(|e| e.0 == end) {
                    Some(e) => *e = (end, e.1 + count, e.2 + p),
                    None => ends.push((end, count, p)),
                }
            }
        }
        memo.insert((rule, at), ends.clone());
        ends
    }

    #[test]
    fn every_piece_has_one_derivation_whose_probability_is_the_sum_of_the_choices() {
        for corpus in Builtin::ALL {
            let g = corpus.grammar();
            for i in 0..60 {
                let (mut text, mut cost) = (String::new(), 0.0);
                g.derive(0, &mut corpus.rng(i), &mut text, &mut |_, nats| cost += nats);
                // A long piece is improbable beyond f64's range; its length says nothing about ambiguity.
                let whole = parse(&g, text.as_bytes(), 0, 0, &mut HashMap::new());
                let (_, count, p) = whole.into_iter().find(|e| e.0 == text.len()).unwrap();
                assert_eq!(count, 1, "{corpus:?} {i} has {count} derivations:\n{text}");
                if cost < 600.0 {
                    assert!(
                        (-p.ln() - cost).abs() < 1e-6 * cost,
                        "{corpus:?} {i}: {} nats, {cost} by choices",
                        -p.ln()
                    );
                }
            }
        }
    }

    #[test]
    fn an_ambiguous_grammar_would_be_noticed() {
        let g = Grammar::parse("s:\n  1 a \"x\"\n  1 \"yx\"\na:\n  1 \"y\"\n  1 \"z\"");
        assert_eq!(parse(&g, b"yx", 0, 0, &mut HashMap::new()), [(2, 2, 0.75)]);
    }

    #[test]
    fn floors_of_parts_add_up() {
        for corpus in Builtin::ALL {
            let (n, cut) = (corpus.text().len(), corpus.chars() / 10 * 7);
            let (all, first, second) = (corpus.floor(0..n), corpus.floor(0..cut), corpus.floor(cut..n));
            let sum = first * cut as f64 + second * (n - cut) as f64;
            assert!((sum / n as f64 - all).abs() < 1e-9 && all > 0.25 && all < 1.5, "{corpus:?} {all}");
        }
    }
}
