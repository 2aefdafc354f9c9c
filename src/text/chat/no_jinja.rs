//! Stub for templates when the feature `chat` is off.

use super::message::Message;
use kinglet_core::error::{Error, Result};

/// What templates are told besides the messages.
#[derive(Clone, Debug, Default)]
#[expect(dead_code, reason = "there are no templates")]
pub(super) struct Told {
    /// How the token is written that ends a text, if there is one.
    pub(super) end_of_text: Option<String>,
    /// How the token is written that begins one, if there is one.
    pub(super) begin_of_text: Option<String>,
    /// What time it is, in seconds since 1970; 0 is now.
    pub(super) time: u64,
}

/// A compiled template; it cannot be constructed.
pub(super) struct Jinja {
    /// Never there.
    pub(super) marks: Option<[char; 2]>,
    never: std::convert::Infallible,
}

impl Jinja {
    /// Always an error: templates are not built in.
    pub(super) fn new(_: &str, _: &Told, _: [char; 2]) -> Result<Jinja> {
        Err(Error::BadConfig("conversations: this kinglet was built without the feature `chat`".into()))
    }

    /// Never called.
    pub(super) fn with_marks(&self, _: [char; 2]) -> Result<Jinja> {
        match self.never {}
    }

    /// Never called.
    pub(super) fn at(self, _: u64) -> Result<Jinja> {
        match self.never {}
    }

    /// Never called.
    pub(super) fn has(&self, _: char) -> bool {
        match self.never {}
    }

    /// Never called.
    pub(super) fn render(&self, _: &[Message], _: bool) -> Result<String> {
        match self.never {}
    }
}
