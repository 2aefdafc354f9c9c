//! Opens a page in the user's browser.

use super::terminal;
use std::{
    env, io,
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
    let any = [env::var_os("BROWSER"), env::var_os("DISPLAY"), env::var_os("WAYLAND_DISPLAY")];
    !cfg!(unix) || cfg!(target_os = "macos") || any.into_iter().flatten().any(|value| !value.is_empty())
}
