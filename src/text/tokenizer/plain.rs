//! ASCII spellings of typographic and accented characters.

/// Punctuation, spaces and ligatures.
const SIGNS: [(&str, &str); 13] = [
    ("'", "‘’‚‛′´"),
    ("\"", "“”„‟″«»"),
    ("-", "‐‑‒–—―−\u{ad}"),
    ("...", "…"),
    (
        " ",
        "\u{a0}\u{2000}\u{2001}\u{2002}\u{2003}\u{2004}\u{2005}\u{2006}\u{2007}\u{2008}\u{2009}\u{200a}\u{202f}\u{3000}",
    ),
    ("\n", "\u{85}\u{2028}\u{2029}\r"),
    ("*", "•·×"),
    ("/", "⁄÷"),
    ("fi", "ﬁ"),
    ("fl", "ﬂ"),
    ("ff", "ﬀ"),
    ("ffi", "ﬃ"),
    ("ffl", "ﬄ"),
];

/// The small letters of Latin-1 and Latin Extended-A.
const LETTERS: [(&str, &str); 25] = [
    ("a", "àáâãäåāăą"),
    ("ae", "æ"),
    ("c", "çćĉċč"),
    ("d", "ďđð"),
    ("e", "èéêëēĕėęě"),
    ("g", "ĝğġģ"),
    ("h", "ĥħ"),
    ("i", "ìíîïĩīĭįı"),
    ("ij", "ĳ"),
    ("j", "ĵ"),
    ("k", "ķĸ"),
    ("l", "ĺļľŀł"),
    ("n", "ñńņňŉŋ"),
    ("o", "òóôõöøōŏő"),
    ("oe", "œ"),
    ("r", "ŕŗř"),
    ("s", "śŝşšſ"),
    ("ss", "ß"),
    ("t", "ţťŧ"),
    ("th", "þ"),
    ("u", "ùúûüũūŭůűų"),
    ("w", "ŵ"),
    ("y", "ýÿŷ"),
    ("z", "źżž"),
    ("I", "İ"),
];

/// The ASCII spelling of a character, if there is one.
pub(super) fn plain(c: char) -> Option<String> {
    let find = |c: char| {
        let row = SIGNS.iter().chain(&LETTERS).find(|(_, characters)| characters.contains(c));
        row.map(|(plain, _)| *plain)
    };
    // The table lists lowercase letters only. A capital's lowercase form is one character, except for the Turkish İ,
    // which is listed itself.
    let capital = || find(c.to_lowercase().next()?).map(str::to_uppercase);
    find(c).map(str::to_owned).or_else(capital)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_accented_letter_and_usual_sign_has_a_plain_spelling() {
        for c in ('\u{c0}'..='\u{17f}').filter(|c| !"×÷".contains(*c)) {
            let plain = plain(c).unwrap_or_else(|| panic!("{c}"));
            assert!(plain.bytes().all(|byte| byte.is_ascii_alphabetic()), "{c}: {plain}");
            assert_eq!(c.is_uppercase(), plain.chars().all(char::is_uppercase), "{c}: {plain}");
        }
        for (c, text) in [('’', "'"), ('“', "\""), ('—', "-"), ('…', "..."), ('\u{a0}', " "), ('ﬁ', "fi"), ('Æ', "AE")]
        {
            assert_eq!(plain(c).as_deref(), Some(text));
        }
        assert_eq!((plain('a'), plain('Ω'), plain('語')), (None, None, None));
    }
}
