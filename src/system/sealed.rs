//! A file of JSON with its checksum: `{"sha256":"...","NAME":{...}}`.

use super::disk;
use kinglet_core::error::{Error, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::Path;

/// The start of the file.
const SEAL: &str = "{\"sha256\":\"";

/// What is between the checksum and the checksummed content.
fn between(name: &str) -> String {
    format!("\",\"{name}\":")
}

/// The text of a file with this content.
pub(crate) fn text(name: &str, json: &str) -> String {
    format!("{SEAL}{}{}{json}}}\n", disk::sha256(json.as_bytes()), between(name))
}

/// The content of a file, whose `format_version` must be at most `version`.
///
/// # Errors
/// If it cannot be read, is damaged, or is of a later version.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, name: &str, version: u64) -> Result<T> {
    let text = disk::read_text(path, 1 << 28)?;
    let inside = text.trim_end().strip_prefix(SEAL).and_then(|rest| rest.strip_suffix('}'));
    let parts = inside.and_then(|rest| rest.split_once(&between(name))).map(|(sum, json)| (json, sum));
    let json = disk::unseal(path, parts, "")?;
    let found = serde_json::from_str::<Value>(json).ok().and_then(|value| value["format_version"].as_u64());
    if found.is_some_and(|found| found > version) {
        return Err(Error::run(path, "this file needs a newer kinglet"));
    }
    serde_json::from_str(json).map_err(|error| Error::run(path, format!("damaged: {error}")))
}
