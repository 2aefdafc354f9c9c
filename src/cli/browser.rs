//! Opens a page in the user's browser.

use super::terminal;
use std::{
    env,
    ffi::OsStr,
    io::{self, Write},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempPath;

/// What fails later than this has opened something: it is the browser that ended.
const SOON: Duration = Duration::from_secs(2);

/// Opens a page. Where that cannot be done, the address is said: the page is there all the same. All users of a machine can read
/// command lines, so an address with a secret is not put on one, but into a file that leads to it and that this user alone can
/// read. It is there until what is returned is dropped.
pub(super) fn open(url: &str, is_secret: bool) -> Option<TempPath> {
    if !has_screen() {
        say(url, "there is no screen here");
        return None;
    }
    let leads = match is_secret.then(|| file(url)).transpose() {
        Ok(leads) => leads,
        Err(error) => {
            say(url, &format!("no file could be written that leads to it: {error}"));
            return None;
        }
    };
    let mut command = leads.as_ref().map_or_else(|| command(url), |path| command(path.as_os_str()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Ctrl-C is for the server: a terminal sends it to all of a group.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let began = Instant::now();
    match command.spawn() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => say(url, "nothing is installed that opens a browser"),
        Err(error) => say(url, &error.to_string()),
        Ok(mut child) => {
            let url = url.to_owned();
            // Some run until the browser ends.
            thread::spawn(move || {
                let Ok(status) = child.wait() else { return };
                if !status.success() && began.elapsed() < SOON {
                    say(&url, &format!("{} ended with {status}", command.get_program().to_string_lossy()));
                }
            });
        }
    }
    leads
}

/// A file that leads to an address.
fn file(url: &str) -> io::Result<TempPath> {
    let own =
        env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_absolute() && folder.is_dir());
    let folder = own.unwrap_or_else(env::temp_dir);
    // It has mode 0600 from the beginning.
    let mut file = tempfile::Builder::new().prefix("kinglet-").suffix(".html").tempfile_in(folder)?;
    // An address of this server has nothing that means anything to HTML.
    writeln!(
        file,
        "<!doctype html><meta charset=\"utf-8\"><meta name=\"referrer\" content=\"no-referrer\">\
         <meta http-equiv=\"refresh\" content=\"0; url={url}\"><title>kinglet</title><a href=\"{url}\">kinglet</a>"
    )?;
    Ok(file.into_temp_path())
}

fn say(url: &str, why: &str) {
    terminal::note([&format!("no browser was opened ({why}): open {url}")]);
}

/// What the system opens addresses with.
fn command(url: impl AsRef<OsStr>) -> Command {
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
