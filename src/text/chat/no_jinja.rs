//! Stub for templates when the feature `chat` is off.

use super::message::Message;
use kinglet_core::error::{Error, Result};

/// A compiled template; it cannot be constructed.
pub(super) enum Jinja {}

impl Jinja {
    /// Always an error: templates are not built in.
    pub(super) fn new(_: &str) -> Result<Jinja> {
        Err(Error::BadConfig("conversations: this kinglet was built without the feature `chat`".into()))
    }

    /// Never called.
    pub(super) fn render(&self, _: &[Message], _: bool, _: &str) -> Result<String> {
        match *self {}
    }
}
