//! Words of a command that a person pastes into a shell.

/// A word as a shell takes it: quoted where it has to be. What begins with a dash is marked as a path.
///
/// Elsewhere than on Windows the quotes are those of POSIX shells. On Windows they are double ones, which `cmd` and
/// PowerShell share; no name of a file there has one.
pub fn quoted(word: &str) -> String {
    let word = if word.starts_with('-') { format!("./{word}") } else { word.to_owned() };
    let plain = |c: char| c.is_alphanumeric() || "_./@%+=:,-".contains(c) || (cfg!(windows) && c == '\\');
    match word.chars().all(plain) && !word.is_empty() {
        true => word,
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
}
