//! What some tests need and not every machine has.

use std::path::PathBuf;

/// Says that a test, or a part of it, is left out and why; fails where `KINGLET_REQUIRE_ALL` is 1.
#[track_caller]
pub(crate) fn skip(why: &str) {
    let required = std::env::var_os("KINGLET_REQUIRE_ALL").is_some_and(|value| value == "1");
    assert!(!required, "KINGLET_REQUIRE_ALL is 1, and {why}");
    eprintln!("skipped: {why}");
}

/// The folder with Tiny Shakespeare.
#[track_caller]
pub(crate) fn data_folder() -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("KINGLET_DATA_DIR") else {
        skip("KINGLET_DATA_DIR is not set, so there is no Tiny Shakespeare");
        return None;
    };
    let folder = std::fs::canonicalize(folder).unwrap();
    assert!(folder.join("tinyshakespeare.txt").exists(), "KINGLET_DATA_DIR has no tinyshakespeare.txt");
    Some(folder)
}
