//! The formats of text, by the names and by the first bytes of files; and what other files are, by theirs.

use crate::system::shell;
use std::{ffi::OsStr, path::Path};

/// How documents are written in a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    JsonLines,
    JsonArray,
    /// A table with this separator between its columns, and quotes around fields.
    Csv(u8),
    /// A table with tabs between its columns, and no quotes.
    Tsv,
}

impl Format {
    /// What it is, for messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Format::Text => "plain text",
            Format::JsonLines => "JSON lines",
            Format::JsonArray => "a JSON array",
            Format::Csv(_) => "a table with a header (CSV)",
            Format::Tsv => "a tab-separated table with a header (TSV)",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// What a file's name says of it: its compression, and its format if that has a name of its own. A name without any
/// extension says nothing.
pub(super) fn of_name(path: &Path) -> (Option<Format>, Compression) {
    let extension = |path: &Path| path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
    let (compression, inner) = match extension(path).as_deref() {
        Some("gz" | "gzip") => (Compression::Gzip, path.with_extension("")),
        Some("zst" | "zstd") => (Compression::Zstd, path.with_extension("")),
        _ => (Compression::None, path.to_owned()),
    };
    let format = extension(&inner).map(|extension| match extension.as_str() {
        "jsonl" | "jsonlines" | "jl" | "ndjson" => Format::JsonLines,
        "json" => Format::JsonArray,
        "csv" => Format::Csv(b','),
        "psv" => Format::Csv(b'|'),
        "tsv" | "tab" => Format::Tsv,
        _ => Format::Text,
    });
    (format, compression)
}

/// The compression that the first bytes of a file show.
pub(super) fn compression(head: &[u8]) -> Compression {
    // Skippable frames may come first in zstd.
    let skippable = head.len() >= 4 && head[0] & 0xF0 == 0x50 && head[1..4] == [0x2A, 0x4D, 0x18];
    if head.starts_with(b"\x1f\x8b") {
        Compression::Gzip
    } else if head.starts_with(b"\x28\xb5\x2f\xfd") || skippable {
        Compression::Zstd
    } else {
        Compression::None
    }
}

/// How the characters of a text are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Utf8,
    Utf16 { big_endian: bool },
}

/// The encoding that the byte order mark at the start of a text shows, and the mark's length.
pub(super) fn encoding(head: &[u8]) -> (Encoding, usize) {
    if head.starts_with(b"\xef\xbb\xbf") {
        (Encoding::Utf8, 3)
    } else if head.starts_with(b"\xff\xfe") {
        (Encoding::Utf16 { big_endian: false }, 2)
    } else if head.starts_with(b"\xfe\xff") {
        (Encoding::Utf16 { big_endian: true }, 2)
    } else {
        (Encoding::Utf8, 0)
    }
}

const PANDAS: &str =
    "write its text as JSON lines first, for example with pandas: to_json(orient=\"records\", lines=True)";
const PICTURE: &str = "it contains no text";
const UNPACK: &str = "unpack it and name the files in it";

/// What a ZIP archive begins with.
const ZIP: &[u8] = b"PK\x03\x04";

/// Documents that are ZIP archives inside, by the ends of their names: what they are, and what to do.
const DOCUMENTS: &[(&[&str], &str, &str)] = &[
    (&["docx", "odt", "epub"], "a formatted document", "convert it to text first: pandoc FILE -t plain -o FILE.txt"),
    (&["xlsx", "ods"], "a spreadsheet", "save it as CSV"),
    (&["pptx", "odp"], "a presentation", "save its text as a .txt file"),
    (
        &["npz"],
        "an archive of NumPy arrays",
        "token ids are read from .bin files, as nanoGPT writes them with tofile()",
    ),
];

/// What stands at the beginning of text with marks for a program, as lower-case letters; what it is, and what to do.
const MARKED_UP: &[(&str, &str, &str)] = &[
    ("<!doctype html", "an HTML page", "pandoc FILE -f html -t plain -o FILE.txt"),
    ("<html", "an HTML page", "pandoc FILE -f html -t plain -o FILE.txt"),
    ("{\\rtf", "an RTF document", "pandoc FILE -t plain -o FILE.txt"),
    ("%!ps", "PostScript", "ps2ascii FILE FILE.txt"),
];

/// A note on a text that has more marks for a program in it than words for a reader, judging by how it begins.
pub(super) fn marked_up(name: &str, head: &str) -> Option<String> {
    let begins = |mark: &str| head.trim_start().get(..mark.len()).is_some_and(|head| head.eq_ignore_ascii_case(mark));
    let (_, what, command) = MARKED_UP.iter().find(|(mark, ..)| begins(mark))?;
    let command = with_name(command, name);
    Some(format!("this is {what}, so the model also learns its markup; to extract the text: {command}"))
}

/// Advice with a file's name where it says FILE, and one for the text in the place of FILE.txt.
pub(super) fn with_name(advice: &str, name: &str) -> String {
    let mut to = Path::new(name).with_extension("txt");
    // The file itself must not be overwritten.
    if to == Path::new(name) {
        to.set_extension("plain.txt");
    }
    let text = shell::quoted(&to.display().to_string());
    advice.split("FILE.txt").map(|part| part.replace("FILE", &shell::quoted(name))).collect::<Vec<_>>().join(&text)
}

/// Kinds of files that are not text: the bytes at a place, what it is, and what to do. Bytes that a text could begin with
/// count only where there are control characters, which texts do not have.
const KINDS: &[(usize, &[u8], &str, &str)] = &[
    (0, b"\xff\xfe\0\0", "UTF-32 text", "convert it first: iconv -f utf-32 -t utf-8"),
    (0, b"\0\0\xfe\xff", "UTF-32 text", "convert it first: iconv -f utf-32 -t utf-8"),
    (0, b"\x1f\x8b", "compressed twice (gzip)", "unpack it once"),
    (0, b"\x28\xb5\x2f\xfd", "compressed twice (zstd)", "unpack it once"),
    (0, b"%PDF-", "a PDF", "convert it to text first: pdftotext FILE FILE.txt"),
    (0, ZIP, "a ZIP archive", "unpack it and name the files in it; in a ChatGPT export that is conversations.json"),
    (0, b"PK\x05\x06", "an empty ZIP archive", UNPACK),
    (0, b"PAR1", "a Parquet file", PANDAS),
    (0, b"ARROW1\0\0", "an Arrow or Feather file", PANDAS),
    (0, b"FEA1", "a Feather file", PANDAS),
    (0, b"\xff\xff\xff\xff", "an Arrow stream", PANDAS),
    (
        0,
        b"SQLite format 3\0",
        "an SQLite database",
        "write its text as CSV first: sqlite3 -header -csv FILE 'select ...'",
    ),
    (0, b"\xfd7zXZ\0", "compressed with xz", "unpack it first: xz -dc FILE | kinglet train -"),
    (0, b"BZh", "compressed with bzip2", "unpack it first: bzip2 -dc FILE | kinglet train -"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", UNPACK),
    (257, b"ustar", "a tar archive", UNPACK),
    (0, b"\x04\x22\x4d\x18", "compressed with lz4", "unpack it first: lz4 -dc FILE | kinglet train -"),
    (0, b"\x1f\x9d", "compressed with compress", "unpack it first: gzip -dc FILE | kinglet train -"),
    (0, b"LZIP", "compressed with lzip", "unpack it first: lzip -dc FILE | kinglet train -"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", PANDAS),
    (0, b"\x93NUMPY", "a NumPy array", "token ids are read from .bin files, as nanoGPT writes them with tofile()"),
    (8, b"{\"", "a safetensors file", "it contains weights, not text"),
    (0, b"GGUF", "a GGUF model", "it contains weights, not text"),
    (0, b"\x80\x02", "a Python pickle", PANDAS),
    (0, b"\x80\x03", "a Python pickle", PANDAS),
    (0, b"\x80\x04", "a Python pickle", PANDAS),
    (0, b"\x80\x05", "a Python pickle", PANDAS),
    (
        0,
        b"KINGLET\0",
        "token ids that kinglet wrote",
        "name the folder that kinglet data prepare wrote, or a \
         .bin file",
    ),
    (0, b"Obj\x01", "an Avro file", PANDAS),
    (0, b"ORC", "an ORC file", PANDAS),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document", "save it as text or CSV"),
    (0, b"\x89PNG\r\n\x1a\n", "a picture (PNG)", PICTURE),
    (0, b"\xff\xd8\xff", "a picture (JPEG)", PICTURE),
    (0, b"GIF8", "a picture (GIF)", PICTURE),
    (0, b"BM", "a picture (BMP)", PICTURE),
    (0, b"II*\0", "a picture (TIFF)", PICTURE),
    (0, b"MM\0*", "a picture (TIFF)", PICTURE),
    (0, b"RIFF", "audio, a video or a picture (RIFF)", PICTURE),
    (0, b"OggS\0", "audio (Ogg)", PICTURE),
    (0, b"fLaC\0", "audio (FLAC)", PICTURE),
    (0, b"ID3", "audio (MP3)", PICTURE),
    (4, b"ftyp", "a video (MP4)", PICTURE),
    (0, b"\x7fELF", "a program", PICTURE),
    (0, b"MZ", "a program", PICTURE),
    (0, b"\0asm", "a program (WebAssembly)", PICTURE),
];

/// Bytes from the start of a file by which its kind is known.
pub(super) const HEAD: usize = 512;

/// What a file is that is not text, judging by its first [`HEAD`] bytes and, where many kinds begin alike, by its name; and
/// what to do.
pub(super) fn foreign(name: &str, head: &[u8]) -> Option<(&'static str, &'static str)> {
    if head.starts_with(ZIP)
        && let Some(extension) = Path::new(name).extension().and_then(OsStr::to_str)
        && let Some((_, what, advice)) =
            DOCUMENTS.iter().find(|(ends, ..)| ends.iter().any(|end| extension.eq_ignore_ascii_case(end)))
    {
        return Some((what, advice));
    }
    let control = head.iter().any(|byte| matches!(byte, 0..=8 | 0x0e..=0x1a | 0x1c..=0x1f));
    let is = |at: usize, magic: &[u8]| {
        // A PDF may well be without a control character.
        let text_could = magic.iter().all(|byte| matches!(byte, b' '..=b'~')) && magic != b"%PDF-";
        head.get(at..).is_some_and(|rest| rest.starts_with(magic)) && (control || !text_could)
    };
    let found = KINDS.iter().find(|(at, magic, ..)| is(*at, magic));
    found.map(|(.., name, advice)| (*name, *advice)).or_else(|| utf16_without_mark(head))
}

/// Latin text in UTF-16 has a zero in every second place.
fn utf16_without_mark(head: &[u8]) -> Option<(&'static str, &'static str)> {
    let zeros = |odd: usize| head.iter().skip(odd).step_by(2).filter(|&&byte| byte == 0).count();
    let (even, odd, pairs) = (zeros(0), zeros(1), head.len() / 2);
    let marked = encoding(head).1 > 0;
    match (even, odd) {
        _ if marked || pairs < 2 => None,
        (0, odd) if odd * 10 >= pairs * 9 => {
            Some(("UTF-16 text without a byte order mark", "convert it first: iconv -f utf-16le -t utf-8"))
        }
        (even, 0) if even * 10 >= pairs * 9 => {
            Some(("UTF-16 text without a byte order mark", "convert it first: iconv -f utf-16be -t utf-8"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_files_are_known_by_their_first_bytes_and_texts_are_not_taken_for_them() {
        for (at, magic, name, _) in KINDS {
            let mut head = vec![1; *at];
            head.extend_from_slice(magic);
            head.extend_from_slice(b"\x01\x02\0\xff more");
            assert_eq!(foreign("", &head).map(|(name, _)| name), Some(*name), "{magic:?}");
        }
        for text in [
            "BMW and RIFFs",
            "ORCs",
            "GGUF is a format",
            "MZ",
            "ID3 tags",
            "PAR1S",
            "BZhang",
            "GIF89a is old",
            "LZIP",
            "1234ftypes",
            "01234567{\"a\": 1}",
            "",
            "a",
            "\u{1b}[1mbold\u{1b}[0m",
        ] {
            assert_eq!(foreign("", text.as_bytes()), None, "{text}");
        }
        assert_eq!(foreign("", b"BMW, caf\xe9"), None, "Latin-1");
        for (text, found) in [(&b"a\0b\0c\0"[..], "utf-16le"), (b"\0a\0b\0c\0d", "utf-16be")] {
            assert!(foreign("", text).unwrap().1.contains(found));
        }
        assert_eq!(foreign("", b"\xff\xfea\0b\0"), None);
        let zip = |name: &str| foreign(name, b"PK\x03\x04\x14\0\x06\0").unwrap().1;
        assert!(zip("a/b.DOCX").starts_with("convert it to text first: pandoc"));
        assert!(zip("b.xlsx").contains("CSV") && zip("export.zip").contains("conversations.json"));
        assert!(foreign("b.docx", b"PKWARE").is_none());
    }

    #[test]
    fn marks_for_a_program_are_told_of() {
        for (head, command) in [
            ("\n<!DOCTYPE html>\n<html>", "pandoc 'a FILE.html' -f html -t plain -o 'a FILE.txt'"),
            ("<HTML><body>", "pandoc 'a FILE.html' -f html"),
            ("{\\rtf1\\ansi", "pandoc 'a FILE.html' -t plain"),
            ("%!PS-Adobe-3.0", "ps2ascii 'a FILE.html' 'a FILE.txt'"),
        ] {
            assert!(marked_up("a FILE.html", head).unwrap().contains(command), "{head}");
        }
        let of_text = marked_up("page.txt", "<html>").unwrap();
        assert!(of_text.ends_with("pandoc page.txt -f html -t plain -o page.plain.txt"), "{of_text}");
        for head in ["", "<", "é<html>", "html", "<htm", "# Title"] {
            assert_eq!(marked_up("a", head), None, "{head}");
        }
    }

    #[test]
    fn names_say_what_they_can() {
        let of = |name: &str| of_name(Path::new(name));
        assert_eq!(of("a.JSONL.gz"), (Some(Format::JsonLines), Compression::Gzip));
        assert_eq!(of("a.b/c"), (None, Compression::None));
        assert_eq!(of("c.zst"), (None, Compression::Zstd));
        assert_eq!(of("c.txt"), (Some(Format::Text), Compression::None));
        assert_eq!(of("c.tsv"), (Some(Format::Tsv), Compression::None));
        assert_eq!(of("c.tab.zstd"), (Some(Format::Tsv), Compression::Zstd));
        assert_eq!(of("c.psv.gzip"), (Some(Format::Csv(b'|')), Compression::Gzip));
        assert_eq!([of("c.jl"), of("c.jsonlines")], [(Some(Format::JsonLines), Compression::None); 2]);
    }
}
