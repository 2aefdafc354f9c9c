//! One reading of a source: hands its documents on, leaves out what is to be left out, and remembers what to tell.

use super::{
    export::Left,
    input::{Bytes, Rules},
    piece::Piece,
};
use crate::text::names::{Count, Names, listed, many};
use kinglet_core::error::{Error, Result};

/// What a reading of all sources found, to be told once.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) bytes: Bytes,
    bad: Count,
    empty: Count,
    unanswered: Count,
    /// What is left out of ChatGPT exports.
    left: Left,
    /// What holds for a whole source, such as which columns were read, and of how many sources: so much of it as is told.
    said: Vec<(String, Count)>,
    /// How often anything else was to be said.
    unsaid: u64,
}

/// The most different things that are said of sources.
const SAID: usize = 8;

impl Found {
    /// Remembers something about a source.
    pub(super) fn say(&mut self, what: String, source: &str) {
        if let Some((_, of)) = self.said.iter_mut().find(|(said, _)| *said == what) {
            of.add(|| source.to_owned());
        } else if self.said.len() < SAID {
            self.said.push((what, Count { times: 1, first: source.to_owned() }));
        } else {
            self.unsaid += 1;
        }
    }

    /// The notes for the user.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes: Vec<_> = self.said.iter().map(|(what, of)| said(of, what)).collect();
        let unsaid = many(self.unsaid, "more file", "more files");
        notes.extend((self.unsaid > 0).then(|| format!("{unsaid} have yet other fields")));
        notes.extend(self.bytes.notes());
        let places = |n: u64, one: &str, several: &str, first: &str| {
            format!("skipped {}{}: {first}", many(n, one, several), if n == 1 { "" } else { ", the first" })
        };
        notes.extend(self.empty.note(|n, first| places(n, "empty text", "empty texts", first)));
        notes.extend(self.unanswered.note(|n, first| {
            let what = many(n, "conversation ends", "conversations end");
            format!("{what} with a message without an answer, which is not learned; the first: {first}")
        }));
        notes.extend(self.left.notes());
        notes.extend(self.bad.note(|n, first| places(n, "bad record", "bad records", first)));
        notes
    }
}

fn said(of: &Count, what: &str) -> String {
    match of.times {
        1 => format!("{}: {what}", of.first),
        n => format!("{} and {}: {what}", of.first, many(n - 1, "more file", "more files")),
    }
}

/// Which fields or columns of a source are read, and which are there besides.
#[derive(Debug, Default)]
pub(super) struct Columns {
    pub(super) read: Names,
    pub(super) unread: Names,
    /// What the messages of conversations have that is not read.
    pub(super) of_messages: Names,
    /// Roles that go to the template as they are.
    pub(super) roles: Names,
    /// What is left out of ChatGPT exports.
    pub(super) left: Left,
}

impl Columns {
    fn note(&self) -> Option<String> {
        let unread = self.unread.without(&self.read);
        let of_messages = self.of_messages.without(&Names::default()).map(|names| format!("of messages {names}"));
        let left: Vec<_> = unread.into_iter().chain(of_messages).collect();
        let read = self.read.without(&Names::default())?;
        (!left.is_empty()).then(|| format!("reads {read}; not read: {}", left.join(" and ")))
    }

    fn roles_note(&self) -> Option<String> {
        let roles = self.roles.without(&Names::default())?;
        Some(format!("unusual roles are passed to the chat template unchanged: {roles}"))
    }
}

/// A reading of one source.
pub(super) struct Reading<'a> {
    pub(super) rules: &'a Rules,
    /// The source's name.
    pub(super) name: &'a str,
    pub(super) found: &'a mut Found,
    pub(super) columns: Columns,
    each: &'a mut dyn FnMut(Piece) -> Result<()>,
    /// Whether there was any text.
    some: bool,
    /// The first record that was left out.
    first_bad: Option<Error>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(
        rules: &'a Rules,
        name: &'a str,
        found: &'a mut Found,
        each: &'a mut dyn FnMut(Piece) -> Result<()>,
    ) -> Reading<'a> {
        Reading { rules, name, found, columns: Columns::default(), each, some: false, first_bad: None }
    }

    /// Hands on a part of a text.
    pub(super) fn part(&mut self, text: String, end: bool) -> Result<()> {
        self.some |= !text.is_empty();
        (self.each)(Piece::Text { text, end })
    }

    /// Hands on what was made of a record at a place of the source, such as "line 3".
    pub(super) fn record(&mut self, place: impl Fn() -> String, made: Result<Piece, String>) -> Result<()> {
        let at = |name: &str| format!("{name}, {}", place());
        match made {
            Err(what) => self.bad(Error::Data(format!("{}: {what}", at(self.name)))),
            Ok(piece) if piece.has_zero() => self.bad(Error::Data(format!(
                "{}: it contains a zero character (\\u0000), as in a binary file",
                at(self.name)
            ))),
            // Left out, and counted where it was.
            Ok(Piece::Messages(messages)) if messages.is_empty() => Ok(()),
            Ok(piece) if piece.is_empty() => {
                self.found.empty.add(|| at(self.name));
                Ok(())
            }
            Ok(piece) => {
                if let Piece::Messages(messages) = &piece
                    && messages.last().is_some_and(|last| last.role != crate::text::chat::ASSISTANT)
                {
                    self.found.unanswered.add(|| at(self.name));
                }
                self.some = true;
                (self.each)(piece)
            }
        }
    }

    /// A record that cannot be read: an error, or left out and counted.
    pub(super) fn bad(&mut self, error: Error) -> Result<()> {
        if !self.rules.skip_bad {
            return Err(error);
        }
        self.found.bad.add(|| error.to_string());
        self.first_bad.get_or_insert(error);
        Ok(())
    }

    /// Counts what was read as U+FFFD.
    pub(super) fn replaced(&mut self, times: u64) {
        self.found.bytes.replaced.add_times(times, || self.name.to_owned());
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// If there was no text.
    pub(super) fn end(self) -> Result<()> {
        for note in [self.columns.note(), self.columns.roles_note()].into_iter().flatten() {
            self.found.say(note, self.name);
        }
        let unanswered = self.columns.left.unanswered;
        self.found.left.add(&self.columns.left);
        match self.first_bad {
            _ if self.some => Ok(()),
            None if unanswered > 0 => {
                let what = many(unanswered, "conversation", "conversations");
                Err(Error::Data(format!("{}: {what}, but no answer to learn from", self.name)))
            }
            Some(error) => Err(Error::Data(format!("{}: no record can be read; the first error: {error}", self.name))),
            None => Err(Error::Data(format!("{} is empty", self.name))),
        }
    }
}

/// What a record could have been, for messages.
pub(super) fn nothing_to_read(field: &str, names: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let names: Vec<_> = names.into_iter().collect();
    format!(
        "it has none of \"{field}\", \"messages\", or \"prompt\" and \"response\"; choose a field with --field: {}",
        listed(names.iter().map(AsRef::as_ref))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_sources_is_kept_as_far_as_it_is_told() {
        let mut found = Found::default();
        for i in 0..100 {
            found.say(format!("way {}", i % 50), &format!("file {i}"));
        }
        assert_eq!(found.said.len(), SAID);
        let notes = found.notes();
        assert_eq!(notes[0], "file 0 and 1 more file: way 0");
        assert_eq!(notes[SAID..], ["84 more files have yet other fields"]);
    }
}
