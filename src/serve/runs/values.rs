//! Values of queries, and of answers.

use crate::{
    run::Cursor,
    serve::answer::{Asked, Failure},
};
use kinglet_core::config::Config;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// The value of a parameter of the query.
pub(super) fn parameter<'a>(asked: &'a Asked, key: &str) -> Option<&'a str> {
    asked.query.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

/// The same as a number.
pub(super) fn number(asked: &Asked, key: &str) -> Result<Option<u64>, Failure> {
    let wrong = |text: &str| {
        let what = format!("{key} must be a whole number that is not negative, not {text:?}");
        Failure::bad(Some(key), Some("invalid_value"), what)
    };
    let text = parameter(asked, key).filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(|_| wrong(text))).transpose()
}

pub(super) fn unknown(id: &str) -> Failure {
    Failure::of(404, "run_not_found", format!("the run {id:?} does not exist"))
}

/// A value of a configuration.
pub(super) fn value(config: &Config, key: &str) -> Value {
    serde_json::to_value(config.value(key)).expect("plain values")
}

/// A number, unless it is none.
pub(super) fn finite(x: f64) -> Value {
    if x.is_finite() { json!(x) } else { Value::Null }
}

pub(super) fn unix_s(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Reads a cursor; one that is not ours is none.
pub(super) fn cursor(text: Option<&str>) -> Option<Cursor> {
    text.and_then(|text| text.parse().ok())
}
