//! What the template puts around an answer, and the text of the tokens between.

use super::segment::{Segment, Special, Written};
use crate::text::tokenizer::{StreamDecoder, Tokenizer};
use kinglet_core::sample::Stopper;

/// What ends an answer: tokens, or a text where the template puts no special token behind an answer. And what stands
/// before it, if the model says that as well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// The tokens that end it.
    pub tokens: Vec<u32>,
    /// The texts that end it.
    pub texts: Vec<String>,
    /// Texts that the template puts between an answer and such a token; they are not part of the answer.
    pub before: Vec<String>,
    /// The text that the template puts between the prompt and an answer; it is not part of the answer either.
    pub head: String,
}

impl Ending {
    /// The end-of-text token, which always ends a text.
    pub fn of_text(tokenizer: &Tokenizer) -> Ending {
        Ending { tokens: tokenizer.end_of_text().into_iter().collect(), ..Ending::default() }
    }

    /// Adds what becomes of these texts where a tokenizer does not give back what it is given: a blank before each text,
    /// no white space beside some tokens.
    pub(super) fn as_decoded(&mut self, tokenizer: &Tokenizer) {
        let again = |text: &str| tokenizer.encode(text).ok().map(|ids| tokenizer.decode(&ids));
        let texts: Vec<_> = self.texts.iter().filter_map(|tail| again(&format!("a{tail}"))).collect();
        for text in texts {
            let behind = text.split_once('a').map(|(_, behind)| behind);
            // A blank alone would end an answer at its first word.
            if let Some(behind) = behind.filter(|behind| !behind.trim().is_empty()) {
                add(&mut self.texts, behind.to_owned());
            }
        }
        if let Some((before, _)) = again("a").as_deref().and_then(|text| text.split_once('a')) {
            self.head.insert_str(0, before);
        }
    }

    /// Adds what a template puts behind an answer.
    pub(super) fn add(&mut self, tail: &str, special: &Special) {
        let segment = Segment::of_marked(tail, None, true, None);
        let written = special.divide(&segment);
        let (list, text) = match written[..] {
            [Written::Token(id), ..] => return add(&mut self.tokens, id),
            [Written::Text(text), Written::Token(id), ..] => {
                add(&mut self.tokens, id);
                (&mut self.before, text)
            }
            [Written::Text(text)] => (&mut self.texts, text),
            _ => return,
        };
        add(list, text.to_owned());
    }
}

fn add<T: PartialEq>(list: &mut Vec<T>, new: T) {
    if !list.contains(&new) {
        list.push(new);
    }
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// One of the caller's stop strings.
    Stop,
    /// Its [`Ending`].
    Ending,
}

/// Takes the [`Ending::head`] off a text that comes in pieces.
#[derive(Clone, Debug)]
pub struct Head(Option<String>);

impl Default for Head {
    fn default() -> Head {
        Head(Some(String::new()))
    }
}

impl Head {
    /// Whether the text so far may be the head, or the beginning of it.
    pub fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// The next piece of the text without the head; nothing yet while it may still be the beginning of that.
    pub fn take_off(&mut self, head: &str, piece: String) -> String {
        let Some(mut begun) = self.0.take() else { return piece };
        begun += &piece;
        if begun.len() < head.len() && head.starts_with(&begun) {
            self.0 = Some(begun);
            return String::new();
        }
        begun.strip_prefix(head).map(str::to_owned).unwrap_or(begun)
    }

    /// What was held back, when nothing more follows.
    pub fn finish(&mut self) -> String {
        self.0.take().unwrap_or_default()
    }
}

/// Turns tokens into text as they are drawn, until something ends it. Text that may belong to an end is held back.
pub struct Reader {
    ending: Ending,
    decoder: StreamDecoder,
    head: Head,
    stopper: Stopper,
    /// How many of the stop strings are the caller's.
    stops: usize,
    /// The end of the text so far, where it may be what comes before a token that ends it.
    held: String,
}

impl Reader {
    /// Reads until `ending`, or one of these stop strings.
    pub fn new(ending: Ending, stops: &[String]) -> Reader {
        let stopper = Stopper::new(stops.iter().chain(&ending.texts).cloned());
        let (decoder, head, stops, held) = (StreamDecoder::default(), Head::default(), stops.len(), String::new());
        Reader { ending, decoder, head, stopper, stops, held }
    }

    /// Adds a token; returns the text that is now certain, and whether the text has ended.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> (String, Option<End>) {
        if !self.ending.tokens.contains(&id) {
            let text = self.decoder.push(tokenizer, id);
            let text = self.head.take_off(&self.ending.head, text);
            return self.stop(&text);
        }
        let (mut text, end) = self.finish(tokenizer);
        if end.is_none() {
            let before = self.ending.before.iter().filter(|before| text.ends_with(before.as_str()));
            let before = before.map(String::len).max().unwrap_or(0);
            text.truncate(text.len() - before);
        }
        (text, end.or(Some(End::Ending)))
    }

    /// The text that was held back, when no more tokens follow; a stop string may be in it.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> (String, Option<End>) {
        let rest = self.decoder.finish(tokenizer);
        let rest = self.head.take_off(&self.ending.head, rest) + &self.head.finish();
        let (mut text, end) = self.stop(&rest);
        if end.is_none() {
            text = text + &std::mem::take(&mut self.held) + &self.stopper.finish();
        }
        (text, end)
    }

    fn stop(&mut self, text: &str) -> (String, Option<End>) {
        let (text, stopped) = self.stopper.push(text);
        self.held += &text;
        if let Some(which) = stopped {
            let end = if which < self.stops { End::Stop } else { End::Ending };
            return (std::mem::take(&mut self.held), Some(end));
        }
        let may_end = |at: &usize| self.ending.before.iter().any(|before| before.starts_with(&self.held[*at..]));
        let keep = self.held.char_indices().map(|(at, _)| at).find(may_end).unwrap_or(self.held.len());
        let rest = self.held.split_off(keep);
        (std::mem::replace(&mut self.held, rest), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of an answer written in bytes, where `#` stands for the token 256; how it ended; how many were read.
    fn read(ending: &Ending, stops: &[&str], written: &str) -> (String, Option<End>, usize) {
        let stops: Vec<String> = stops.iter().map(|&stop| stop.to_owned()).collect();
        let (mut reader, mut out, byte) = (Reader::new(ending.clone(), &stops), String::new(), Tokenizer::byte());
        for (i, b) in written.bytes().enumerate() {
            let (text, end) = reader.push(&byte, if b == b'#' { 256 } else { u32::from(b) });
            out += &text;
            if end.is_some() {
                return (out, end, i + 1);
            }
        }
        let (text, end) = reader.finish(&byte);
        (out + &text, end, written.len())
    }

    #[test]
    fn an_answer_is_what_comes_before_its_end() {
        let special = Special::of(&Tokenizer::byte());
        let ending = |tails: &[&str]| {
            let mut ending = Ending::of_text(&Tokenizer::byte());
            tails.iter().for_each(|tail| ending.add(tail, &special));
            ending
        };
        let all = |text: &str, end| (text.to_owned(), end, text.len());
        let token = ending(&["<|endoftext|>\n"]);
        assert_eq!(token, Ending::of_text(&Tokenizer::byte()), "a token that is known already");
        assert_eq!(read(&token, &[], "a\n#b"), ("a\n".into(), Some(End::Ending), 3));
        assert_eq!(read(&token, &["\n"], "a\n#b"), ("a".into(), Some(End::Stop), 2));
        // A text that ends an answer, and the token all the same.
        let text = ending(&["\nUser:"]);
        assert_eq!(read(&text, &[], "a\nb\nUser: c"), ("a\nb".into(), Some(End::Ending), 9));
        assert_eq!(read(&text, &[], "a\nUs#"), ("a\nUs".into(), Some(End::Ending), 5));
        assert_eq!(read(&text, &[], "a\nUse"), all("a\nUse", None));
        // Blanks between an answer and the token are the template's, and not where no token follows.
        let blank = ending(&["  <|endoftext|>", " <|endoftext|>"]);
        assert_eq!(blank.before, ["  ", " "]);
        assert_eq!(read(&blank, &[], "a b   #"), ("a b ".into(), Some(End::Ending), 7));
        assert_eq!(read(&blank, &[], "a b#"), ("a b".into(), Some(End::Ending), 4));
        assert_eq!(read(&blank, &[], "a  "), all("a  ", None));
        assert_eq!(read(&blank, &["b"], "a  b"), ("a  ".into(), Some(End::Stop), 4));
        assert_eq!(ending(&[""]).tokens, [256], "nothing behind an answer");
        // What stands before an answer is taken off once.
        let head = Ending { head: "> ".into(), ..token.clone() };
        assert_eq!(read(&head, &[], "> > a#"), ("> a".into(), Some(End::Ending), 6));
        assert_eq!(read(&head, &[">"], "> a>#"), ("a".into(), Some(End::Stop), 4));
        assert_eq!(read(&head, &[], ">#"), (">".into(), Some(End::Ending), 2));
        assert_eq!(read(&head, &[], ">"), all(">", None));
        assert_eq!(read(&head, &[], ">a"), all(">a", None));
        assert_eq!(
            read(&Ending { before: vec![" ".into()], ..head }, &[], ">  #"),
            (String::new(), Some(End::Ending), 4)
        );
    }
}
