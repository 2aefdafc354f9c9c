//! How this program was started, and by what: its own file, or Python.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// How the command was started.
#[derive(Debug)]
pub struct Program {
    /// The words of the command line. The first starts the program again, from any folder.
    pub words: Vec<OsString>,
    /// The file that has this code: the program itself, or a module of Python's. Processes that share a run compare it.
    pub code: PathBuf,
}

static STARTED: OnceLock<Program> = OnceLock::new();

impl Program {
    /// This process, where the program is a file of its own.
    pub fn of_process() -> Program {
        let code = std::env::current_exe().unwrap_or_else(|_| "kinglet".into());
        let words = std::env::args_os().skip(1);
        Program { words: [code.clone().into()].into_iter().chain(words).collect(), code }
    }

    /// Remembers it. It is started once.
    pub(super) fn started(self) -> &'static Program {
        STARTED.get_or_init(|| self)
    }
}

/// What follows the program's name on the command line.
pub(super) fn args() -> &'static [OsString] {
    STARTED.get().and_then(|program| program.words.get(1..)).unwrap_or_default()
}

/// What starts this program again.
pub(super) fn itself() -> &'static OsStr {
    STARTED.get().and_then(|program| program.words.first()).map_or(OsStr::new("kinglet"), OsString::as_os_str)
}

/// The file that has this code.
pub(super) fn code() -> Option<&'static Path> {
    STARTED.get().map(|program| program.code.as_path())
}
