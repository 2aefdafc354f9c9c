//! The character tokenizer: one token for each distinct character, in code point order, as published. Characters and
//! the end-of-text token added later come after those.

use super::{
    json::{END_OF_TEXT, file, join_at_end_of_text},
    plain::plain,
};
use kinglet_core::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt::Write as _,
};

/// One token for each distinct character of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CharTokenizer {
    /// What each id stands for: a character, or `None` for the end-of-text token.
    tokens: Vec<Option<char>>,
    ids: HashMap<char, u32>,
    /// The ids of ASCII characters in a table, because most text is ASCII.
    ascii: Box<[u32; 128]>,
    end_of_text: Option<u32>,
}

/// Marks a character that is not in the vocabulary; no real id is this large.
const UNKNOWN: u32 = u32::MAX;

/// The regex in the file that makes every character a token.
const EVERY_CHARACTER: &str = "[\\s\\S]";

impl CharTokenizer {
    /// The tokenizer whose vocabulary is the characters of `text`.
    pub fn train(text: &str) -> CharTokenizer {
        let mut chars = Alphabet::default();
        chars.add(text, 0);
        chars.into()
    }

    /// The tokenizer whose ids are the places of these characters; none if one of them is there twice.
    pub fn of(chars: Vec<char>) -> Option<CharTokenizer> {
        let mut seen = HashSet::new();
        let once = chars.iter().all(|c| seen.insert(*c));
        once.then(|| CharTokenizer::new(chars.into_iter().map(Some).collect()))
    }

    /// The tokenizer whose tokens these are, in the order of their ids; `None` is the end-of-text token. None if there is
    /// no token, or one twice.
    pub fn from_tokens(tokens: Vec<Option<char>>) -> Option<CharTokenizer> {
        let distinct: HashSet<Option<char>> = tokens.iter().copied().collect();
        (!tokens.is_empty() && distinct.len() == tokens.len()).then(|| CharTokenizer::new(tokens))
    }

    /// What each id stands for: a character, or the end-of-text token, which is none.
    pub fn tokens(&self) -> &[Option<char>] {
        &self.tokens
    }

    fn new(tokens: Vec<Option<char>>) -> CharTokenizer {
        let ids: HashMap<char, u32> = tokens.iter().zip(0..).filter_map(|(token, id)| Some(((*token)?, id))).collect();
        let ascii = Box::new(std::array::from_fn(|c| *ids.get(&char::from(c as u8)).unwrap_or(&UNKNOWN)));
        let end_of_text = tokens.iter().position(Option::is_none).map(|id| id as u32);
        CharTokenizer { tokens, ids, ascii, end_of_text }
    }

    /// See [`super::Tokenizer::extended`].
    pub(super) fn extended(&self, text: impl IntoIterator<Item = char>, end_of_text: bool) -> CharTokenizer {
        let new: BTreeSet<char> = text.into_iter().filter(|c| !self.ids.contains_key(c)).collect();
        let end = (end_of_text && self.end_of_text().is_none()).then_some(None);
        CharTokenizer::new(self.tokens.iter().copied().chain(new.into_iter().map(Some)).chain(end).collect())
    }

    /// See [`super::Tokenizer::extends`].
    pub(super) fn extends(&self, other: &CharTokenizer) -> bool {
        self.tokens.starts_with(&other.tokens)
    }

    /// Tokens in the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.tokens.len()
    }

    /// The characters of the vocabulary, in the order of the ids.
    pub fn chars(&self) -> impl Iterator<Item = char> {
        self.tokens.iter().filter_map(|token| *token)
    }

    /// The id of the token that is this one character.
    pub(super) fn id_of(&self, text: &str) -> Option<u32> {
        let mut chars = text.chars();
        let one = chars.next().filter(|_| chars.next().is_none())?;
        self.ids.get(&one).copied()
    }

    /// The id of the end-of-text token, if the vocabulary has it.
    pub fn end_of_text(&self) -> Option<u32> {
        self.end_of_text
    }

    /// Encodes text as ids.
    ///
    /// # Errors
    /// Names the characters that are not in the vocabulary, each with a similar known one if there is one.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encode = |part: &str, ids: &mut Vec<u32>| ids.extend(part.chars().map(|c| self.id(c)));
        let ids = match self.end_of_text() {
            Some(end) => join_at_end_of_text(text, end, encode),
            None => {
                let mut ids = Vec::with_capacity(text.len());
                encode(text, &mut ids);
                ids
            }
        };
        if !ids.contains(&UNKNOWN) {
            return Ok(ids);
        }
        // The characters of a written-out end-of-text token need not be known.
        let rest = if self.end_of_text.is_some() { text.replace(END_OF_TEXT, "") } else { text.to_owned() };
        let mut seen = HashSet::new();
        Err(self.unknown(rest.chars().filter(|c| !self.ids.contains_key(c) && seen.insert(*c)).collect()))
    }

    /// See [`super::Tokenizer::encode_text`].
    pub(super) fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        let ids: Vec<u32> = text.chars().map(|c| self.id(c)).collect();
        if !ids.contains(&UNKNOWN) {
            return Ok(ids);
        }
        let mut seen = HashSet::new();
        Err(self.unknown(text.chars().filter(|c| !self.ids.contains_key(c) && seen.insert(*c)).collect()))
    }

    fn id(&self, c: char) -> u32 {
        match self.ascii.get(c as usize) {
            Some(id) => *id,
            None => *self.ids.get(&c).unwrap_or(&UNKNOWN),
        }
    }

    /// Decodes ids to text; ids beyond the vocabulary (a model may have more tokens than its tokenizer) become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut text = String::with_capacity(ids.len());
        for &id in ids {
            match self.tokens.get(id as usize) {
                Some(Some(c)) => text.push(*c),
                Some(None) => text.push_str(END_OF_TEXT),
                None => text.push(char::REPLACEMENT_CHARACTER),
            }
        }
        text
    }

    fn unknown(&self, characters: Vec<char>) -> Error {
        let mut what = String::from("not in the vocabulary of this model:");
        for &c in characters.iter().take(8) {
            let _ = write!(what, " {c:?} (U+{:04X})", c as u32);
            if let Some(other) = self.resembling(c) {
                let _ = write!(what, ", try {other:?}");
            }
            what.push(';');
        }
        if characters.len() > 8 {
            let _ = write!(what, " and {} more;", characters.len() - 8);
        }
        let _ = write!(what, " it knows: {}", self.shown());
        Error::UnknownCharacters { characters, what }
    }

    /// The vocabulary as people can read it: white space by its name, and the first hundred others.
    fn shown(&self) -> String {
        let unseen = [(' ', "space"), ('\n', "newline"), ('\t', "tab"), ('\r', "carriage return")];
        let named = unseen.iter().filter(|(c, _)| self.ids.contains_key(c)).map(|(_, name)| (*name).to_owned());
        let mut seen = self.chars().filter(|c| !c.is_control() && !c.is_whitespace());
        let mut shown: String = seen.by_ref().take(100).collect();
        if seen.next().is_some() {
            shown.push('…');
        }
        named.chain([shown].into_iter().filter(|shown| !shown.is_empty())).collect::<Vec<_>>().join(", ")
    }

    /// A similar known spelling: the other case, or plain ASCII.
    fn resembling(&self, c: char) -> Option<String> {
        let cases = [c.to_lowercase().to_string(), c.to_uppercase().to_string()];
        let knows = |text: &String| *text != c.to_string() && text.chars().all(|c| self.ids.contains_key(&c));
        cases.into_iter().chain(plain(c)).find(knows)
    }

    /// The tokenizer as a Hugging Face `tokenizer.json`.
    pub fn to_json(&self) -> String {
        let written = |token: &Option<char>| token.map_or(END_OF_TEXT.to_owned(), |c| c.to_string());
        let vocab: Map<_, _> = self.tokens.iter().enumerate().map(|(id, token)| (written(token), json!(id))).collect();
        let special: Vec<_> = self.end_of_text().map(|id| (id, END_OF_TEXT)).into_iter().collect();
        let split =
            json!({"type": "Split", "pattern": {"Regex": EVERY_CHARACTER}, "behavior": "Isolated", "invert": false});
        file(
            &special,
            &split,
            &json!({"type": "Fuse"}),
            &json!({"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}),
        )
    }

    /// Whether a `tokenizer.json` is a character tokenizer.
    pub(super) fn is(file: &Value) -> bool {
        file.pointer("/pre_tokenizer/pattern/Regex").is_some_and(|regex| regex == EVERY_CHARACTER)
            && file.pointer("/model/type").is_some_and(|model| model == "WordLevel")
    }

    /// Reads what [`CharTokenizer::to_json`] wrote.
    pub(super) fn from_json(file: &Value) -> Result<CharTokenizer> {
        let bad = |what: String| Error::Data(format!("not a character tokenizer: {what}"));
        let vocab = file.pointer("/model/vocab").and_then(Value::as_object);
        let vocab = vocab.ok_or_else(|| bad("it has no vocabulary".into()))?;
        let mut tokens = Vec::with_capacity(vocab.len());
        for (i, (token, id)) in vocab.iter().enumerate() {
            let mut chars = token.chars();
            let parsed = match (chars.next(), chars.next()) {
                (Some(c), None) => Some(c),
                _ if token == END_OF_TEXT => None,
                _ => return Err(bad(format!("token {i} is not one character"))),
            };
            if id.as_u64() != Some(i as u64) {
                return Err(bad(format!("token {i} is out of order")));
            }
            tokens.push(parsed);
        }
        if tokens.is_empty() { Err(bad("its vocabulary is empty".into())) } else { Ok(CharTokenizer::new(tokens)) }
    }
}

/// The distinct characters of a text, collected piece by piece, and where each occurs first.
#[derive(Clone, Debug)]
pub struct Alphabet {
    /// A table for common code points; the map holds the others.
    common: Box<[u64; 0x3000]>,
    rare: BTreeMap<char, u64>,
}

/// The first place of a character that has not occurred.
const NOWHERE: u64 = u64::MAX;

impl Default for Alphabet {
    fn default() -> Alphabet {
        Alphabet { common: Box::new([NOWHERE; 0x3000]), rare: BTreeMap::new() }
    }
}

impl Alphabet {
    /// Adds the characters of a piece whose first character is the one of index `first`, and returns how many they are.
    pub fn add(&mut self, text: &str, first: u64) -> u64 {
        let mut place = first;
        for c in text.chars() {
            self.see(c, place);
            place += 1;
        }
        place - first
    }

    /// Adds the characters of a piece that count as occurring all at one place, and returns how many they are.
    pub fn add_at(&mut self, text: &str, place: u64) -> u64 {
        text.chars().map(|c| self.see(c, place)).count() as u64
    }

    fn see(&mut self, c: char, place: u64) {
        match self.common.get_mut(c as usize) {
            Some(first) => *first = place.min(*first),
            None => _ = self.rare.entry(c).or_insert(place),
        }
    }

    /// The characters in code point order.
    pub fn chars(&self) -> impl Iterator<Item = char> {
        self.chars_from(0)
    }

    /// The characters that occur only at `place` and behind it, in code point order.
    pub fn chars_from(&self, place: u64) -> impl Iterator<Item = char> {
        let first = |c: u32| self.common[c as usize];
        let common = (0..0x3000u32).filter(move |&c| (place..NOWHERE).contains(&first(c))).filter_map(char::from_u32);
        common.chain(self.rare.iter().filter(move |(_, first)| **first >= place).map(|(&c, _)| c))
    }
}

impl From<Alphabet> for CharTokenizer {
    fn from(alphabet: Alphabet) -> CharTokenizer {
        CharTokenizer::new(alphabet.chars().map(Some).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_follow_code_points() {
        let tokenizer = CharTokenizer::train("hello\nWörld 🐦");
        assert_eq!(tokenizer.chars().collect::<String>(), "\n Wdehlorö🐦");
        assert_eq!(tokenizer.encode("\n W🐦").unwrap(), [0, 1, 2, 10]);
        assert_eq!(tokenizer.decode(&[0, 1, 2, 10, 11]), "\n W🐦\u{fffd}");
    }

    #[test]
    fn unknown_characters_are_named_and_replacements_suggested() {
        let error = CharTokenizer::train("abe\"").encode("éaB“Zé").unwrap_err();
        assert!(matches!(&error, Error::UnknownCharacters { characters, .. } if characters == &['é', 'B', '“', 'Z']));
        assert_eq!(
            error.to_string(),
            "not in the vocabulary of this model: 'é' (U+00E9), try \"e\"; 'B' (U+0042), try \"b\"; \
             '“' (U+201C), try \"\\\"\"; 'Z' (U+005A); it knows: \"abe"
        );
    }

    #[test]
    fn an_alphabet_knows_where_its_characters_begin() {
        let mut alphabet = Alphabet::default();
        assert_eq!((alphabet.add("ab語a", 0), alphabet.add("b🐦c語", 4), alphabet.add_at("d🐦e", 9)), (4, 4, 3));
        let from = |place| alphabet.chars_from(place).collect::<String>();
        assert_eq!(
            (from(0), from(2), from(5), from(6), from(9)),
            ("abcde語🐦".into(), "cde語🐦".into(), "cde🐦".into(), "cde".into(), "de".into())
        );
        assert_eq!(alphabet.chars().collect::<String>(), from(0));
    }

    #[test]
    fn the_end_of_a_text_is_not_unknown_characters() {
        let ended = CharTokenizer::train("ab").extended([], true);
        let message = ended.encode("a<|endoftext|>Q").unwrap_err().to_string();
        assert_eq!(message.matches("U+").count(), 1, "{message}");
        let message = CharTokenizer::train("ab").encode("a<|endoftext|>").unwrap_err().to_string();
        assert!(message.contains("'<' (U+003C"), "{message}");
    }

    #[test]
    fn damaged_files_are_refused() {
        let good = CharTokenizer::train("abc").to_json();
        for (from, to, message) in [
            ("\"a\": 0", "\"a\": 5", "out of order"),
            ("\"a\"", "\"ab\"", "not one character"),
            ("\"vocab\"", "\"words\"", "no vocabulary"),
        ] {
            let file = serde_json::from_str(&good.replacen(from, to, 1)).unwrap();
            let error = CharTokenizer::from_json(&file).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn what_is_added_leaves_the_ids_that_were_there() {
        let old = CharTokenizer::train("bdf");
        let new = old.extended("abcdef".chars(), true);
        assert_eq!(new.chars().collect::<String>(), "bdface");
        assert_eq!((new.end_of_text(), new.vocab_size()), (Some(6), 7));
        assert_eq!(new.extended("bad".chars(), true), new);
        assert_eq!(new.decode(&new.encode("face<|endoftext|>").unwrap()), "face<|endoftext|>");
        let file = serde_json::from_str(&new.to_json()).unwrap();
        assert_eq!(CharTokenizer::from_json(&file).unwrap(), new);
    }

    proptest! {
        #[test]
        fn any_text_goes_round(text in "\\PC*", more in proptest::collection::vec(any::<char>(), 1..50)) {
            let text = text + &more.into_iter().collect::<String>();
            let tokenizer = CharTokenizer::train(&text);
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids), text);
            let file = serde_json::from_str(&tokenizer.to_json()).unwrap();
            prop_assert_eq!(CharTokenizer::from_json(&file).unwrap(), tokenizer);
        }
    }
}
