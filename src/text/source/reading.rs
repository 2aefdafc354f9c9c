//! One reading of a source: hands its documents on, leaves out what is to be left out, and remembers what to tell.

use super::{
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
    /// What holds for a whole source, such as which columns were read, and of how many sources.
    said: Vec<(String, Count)>,
}

/// The most different things that are said of sources.
const SAID: usize = 8;

impl Found {
    /// Remembers something about a source.
    pub(super) fn say(&mut self, what: String, source: &str) {
        let known = self.said.iter().position(|(said, _)| *said == what);
        let at = known.unwrap_or_else(|| {
            self.said.push((what, Count::default()));
            self.said.len() - 1
        });
        self.said[at].1.add(|| source.to_owned());
    }

    /// The notes for the user.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes: Vec<_> = self.said.iter().take(SAID).map(|(what, of)| said(of, what)).collect();
        let more: u64 = self.said.iter().skip(SAID).map(|(_, of)| of.times).sum();
        notes.extend(
            (more > 0).then(|| format!("{} are read in yet other ways", many(more, "more file", "more files"))),
        );
        notes.extend(self.bytes.notes());
        let places = |n: u64, one: &str, several: &str, first: &str| {
            format!("left out {}{}: {first}", many(n, one, several), if n == 1 { "" } else { ", the first" })
        };
        notes.extend(self.empty.note(|n, first| places(n, "empty text", "empty texts", first)));
        notes.extend(self.unanswered.note(|n, first| {
            let what = many(n, "conversation ends", "conversations end");
            format!("{what} with a message that nobody answers, which is not learned, the first: {first}")
        }));
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
}

impl Columns {
    fn note(&self) -> Option<String> {
        let unread = self.unread.without(&self.read);
        let of_messages = self.of_messages.without(&Names::default()).map(|names| format!("of messages {names}"));
        let left: Vec<_> = unread.into_iter().chain(of_messages).collect();
        let read = self.read.without(&Names::default())?;
        (!left.is_empty()).then(|| format!("reads {read}; not read: {}", left.join(" and ")))
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
        if let Some(note) = self.columns.note() {
            self.found.say(note, self.name);
        }
        match self.first_bad {
            _ if self.some => Ok(()),
            Some(error) => Err(Error::Data(format!("{}: every record is bad; the first: {error}", self.name))),
            None => Err(Error::Data(format!("{} is empty", self.name))),
        }
    }
}

/// What a record could have been, for messages.
pub(super) fn nothing_to_read(field: &str, names: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let names: Vec<_> = names.into_iter().collect();
    format!(
        "there is no \"{field}\" in it, nor \"messages\", nor \"prompt\" and \"response\"; --field names another of {}",
        listed(names.iter().map(AsRef::as_ref))
    )
}
