//! Words of a command that a person pastes into a shell.

/// A command as a shell takes it: its words, quoted where they have to be.
pub fn command(words: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    words.into_iter().map(|each| word(each.as_ref())).collect::<Vec<_>>().join(" ")
}

/// A path as a shell takes it: quoted where it has to be. One that begins with a dash is marked as a path, so that it
/// is not taken for an option.
pub fn quoted(path: &str) -> String {
    if path.starts_with('-') { word(&format!("./{path}")) } else { word(path) }
}

/// A word as a shell takes it: quoted where it has to be.
///
/// Elsewhere than on Windows the quotes are those of POSIX shells. On Windows they are double ones, which `cmd` and
/// PowerShell share; no name of a file there has one.
pub fn word(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_./@%+=:,-".contains(c) || (cfg!(windows) && c == '\\');
    match word.chars().all(plain) && !word.is_empty() {
        true => word.to_owned(),
        false if cfg!(windows) => format!("\"{word}\""),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for (word, want) in [
            ("runs/big-0.2m", "runs/big-0.2m"),
            ("max_iters=10000", "max_iters=10000"),
            ("runs/für_ü", "runs/für_ü"),
            ("runs/has space", "'runs/has space'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
            ("~/runs", "'~/runs'"),
            ("-out", "./-out"),
            ("a$HOME`b`\"c\"\\d*?[e]!#;&|<>(){}", "'a$HOME`b`\"c\"\\d*?[e]!#;&|<>(){}'"),
        ] {
            assert_eq!(quoted(word), want);
            let echo = Command::new("sh").arg("-c").arg(format!("printf %s {}", quoted(word))).output().unwrap();
            let back = String::from_utf8(echo.stdout).unwrap();
            assert_eq!(back.strip_prefix("./-").map_or(back.clone(), |rest| format!("-{rest}")), word);
        }
    }

    #[test]
    fn options_and_their_values_stay_what_they_are() {
        let words = ["kinglet", "sample", "--prompt=a b", "--prompt", "- hello", "--stop=$HOME", "-n", "3"];
        let want = "kinglet sample '--prompt=a b' --prompt '- hello' '--stop=$HOME' -n 3";
        assert_eq!(command(words), want);
    }
}
