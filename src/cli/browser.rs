//! Opens a page in the user's browser.

use super::terminal;
use std::{
    io,
    process::{Command, Stdio},
    thread,
};

/// Opens a page. Where that cannot be done, the address is said: the page is there all the same.
pub(super) fn open(url: &str) {
    if !has_screen() {
        return say(url, "there is no screen here");
    }
    match command(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => say(url, "nothing is installed that opens a browser"),
        Err(error) => say(url, &error.to_string()),
        Ok(mut child) => {
            let url = url.to_owned();
            // Some run until the browser ends.
            thread::spawn(move || {
                if !child.wait().is_ok_and(|status| status.success()) {
                    say(&url, "the system knows of none");
                }
            });
        }
    }
}

fn say(url: &str, why: &str) {
    terminal::note([&format!("no browser was opened ({why}): open {url}")]);
}

/// What the system opens addresses with.
fn command(url: &str) -> Command {
    let (program, args): (_, &[&str]) = if cfg!(target_os = "macos") {
        ("open", &[])
    } else if cfg!(windows) {
        // Without a title, `start` would take the address for one. Nothing in it means anything to `cmd`.
        ("cmd", &["/C", "start", ""])
    } else {
        ("xdg-open", &[])
    };
    let mut command = Command::new(program);
    command.args(args).arg(url);
    command
}

/// Whether there is something to show a browser on. Elsewhere, what opens one may choose a browser for terminals.
fn has_screen() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !cfg!(unix) || cfg!(target_os = "macos") || ["DISPLAY", "WAYLAND_DISPLAY", "BROWSER"].into_iter().any(is_set)
}
