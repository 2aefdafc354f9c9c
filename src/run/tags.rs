//! The tags of a run: words of the user's, one a line, in a file of its own, because `config.toml` is sealed.

use super::files::TAGS;
use crate::system::disk;
use kinglet_core::error::{Error, Result};
use std::path::Path;

/// The most characters of a tag.
const LONGEST: usize = 60;

/// The tags of a run; none if there is no such file, or it cannot be read.
pub fn tags(run: &Path) -> Vec<String> {
    let text = disk::read_text(&run.join(TAGS), 1 << 20).unwrap_or_default();
    let mut tags: Vec<String> = text.lines().filter(|line| check_tag(line).is_ok()).map(str::to_owned).collect();
    tags.dedup();
    tags
}

/// Adds tags to a run and removes others; returns those that it has then, in order.
///
/// # Errors
/// If a tag is not allowed, or the file cannot be written.
pub fn change_tags(run: &Path, add: &[String], remove: &[String]) -> Result<Vec<String>> {
    add.iter().try_for_each(|tag| check_tag(tag))?;
    let before = tags(run);
    let mut now: Vec<String> = before.iter().chain(add).filter(|tag| !remove.contains(tag)).cloned().collect();
    now.sort();
    now.dedup();
    if now != before {
        let text: String = now.iter().map(|tag| format!("{tag}\n")).collect();
        let path = run.join(TAGS);
        disk::write_whole(&path, text.as_bytes()).map_err(Error::io("write", &path))?;
    }
    Ok(now)
}

/// Checks that this can be a tag.
///
/// # Errors
/// If it is empty or long, or has white space, a comma or a control character in it.
pub fn check_tag(tag: &str) -> Result<()> {
    let fits = !tag.is_empty() && tag.chars().count() <= LONGEST;
    if fits && !tag.contains(|c: char| c.is_whitespace() || c.is_control() || c == ',') {
        return Ok(());
    }
    let what = format!(
        "{tag:?} is not a valid tag: a tag has at most {LONGEST} characters, without white space \
         or commas"
    );
    Err(Error::BadConfig(what))
}
