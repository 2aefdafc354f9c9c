//! The tokens that a request is about: those of a text, or ids.

use super::{
    answer::Failure,
    fields::{Fields, whole},
    models::Served,
    openai::fault,
};
use kinglet_core::error::Error;
use serde_json::Value;

/// The tokens that a request is about.
pub(super) struct Given<'a> {
    /// They.
    pub(super) ids: Vec<u32>,
    /// The text that they are of, if that was given.
    pub(super) text: Option<&'a str>,
    /// What was damaged in the model, and what the tokenizer does not keep of the text.
    pub(super) notes: Vec<String>,
    /// The field that they are from.
    pub(super) field: &'static str,
}

impl Given<'_> {
    /// The failure that an error of the library about these tokens is.
    pub(super) fn refused(&self, error: &Error) -> Failure {
        fault(self.field, error)
    }
}

/// The tokens in the field `text` or `ids`, which are there to `act` on.
///
/// # Errors
/// If there is neither or both, one has the wrong type, or the text cannot be encoded.
pub(super) fn given<'a>(fields: &Fields<'a>, served: &Served, act: &str) -> Result<Given<'a>, Failure> {
    let mut notes = served.notes.clone();
    let ids = fields.get("ids").map(|ids| numbers(fields, ids)).transpose()?;
    match (fields.text("text")?, ids) {
        (Some(text), None) => {
            let (ids, note) = served.model.ids_of(text).map_err(|error| fault("text", &error))?;
            notes.extend(note);
            Ok(Given { ids, text: Some(text), notes, field: "text" })
        }
        (None, Some(ids)) => Ok(Given { ids, text: None, notes, field: "ids" }),
        (Some(_), Some(_)) => Err(fields.wrong("ids", "cannot stand beside text: name one of them")),
        (None, None) => {
            let what = format!("there is nothing to {act}: name a text, or ids");
            Err(Failure::bad(Some("text"), Some("missing_required_parameter"), what))
        }
    }
}

/// Token ids.
fn numbers(fields: &Fields, value: &Value) -> Result<Vec<u32>, Failure> {
    let all = value.as_array().ok_or_else(|| fields.wrong_type("ids", "a list of token ids", value))?;
    let one = |value: &Value| whole(value).and_then(|id| u32::try_from(id).ok());
    let wrong = |value: &Value| fields.wrong("ids", &format!("has {value}, which is no token id"));
    all.iter().map(|value| one(value).ok_or_else(|| wrong(value))).collect()
}
