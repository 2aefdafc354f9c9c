//! Text in UTF-16, read as UTF-8.

use super::refused::refused;
use kinglet_core::config::InvalidUtf8;
use std::io::{self, Read};

/// Bytes that are read at once.
const CHUNK: usize = 1 << 14;

/// A reader of UTF-16 behind its byte order mark, which gives UTF-8.
pub(super) struct Utf16<R> {
    raw: R,
    big_endian: bool,
    policy: Option<InvalidUtf8>,
    /// Bytes read that are not yet a character, at most three.
    left: Vec<u8>,
    /// UTF-8 to be handed out, from `at` on; what is no character is a byte that UTF-8 does not have, to be replaced.
    out: Vec<u8>,
    at: usize,
    /// Bytes of the file before `left`, and line ends in them.
    offset: u64,
    line: u64,
}

impl<R: Read> Utf16<R> {
    /// Without a policy, what is no character is refused, and nobody can set anything about it.
    pub(super) fn new(raw: R, big_endian: bool, policy: impl Into<Option<InvalidUtf8>>) -> Utf16<R> {
        Utf16 { raw, big_endian, policy: policy.into(), left: Vec::new(), out: Vec::new(), at: 0, offset: 2, line: 1 }
    }

    /// Reads and decodes some bytes. Returns whether there were any.
    fn fill(&mut self) -> io::Result<bool> {
        self.at = 0;
        self.out.clear();
        let read = self.raw.by_ref().take(CHUNK as u64).read_to_end(&mut self.left)?;
        let bytes = std::mem::take(&mut self.left);
        let unit = |pair: &[u8]| {
            let pair = [pair[0], pair[1]];
            if self.big_endian { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) }
        };
        let units: Vec<u16> = bytes.chunks_exact(2).map(unit).collect();
        // The second half of a pair may not be read yet, nor the second byte of a unit.
        let last = read > 0 && units.last().is_some_and(|unit| (0xD800..0xDC00).contains(unit));
        let whole = units.len() - usize::from(last);
        let mut at = self.offset;
        for decoded in char::decode_utf16(units[..whole].iter().copied()) {
            match decoded {
                Ok(c) => {
                    self.line += u64::from(c == '\n');
                    at += 2 * c.len_utf16() as u64;
                    self.out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                Err(half) => {
                    self.invalid(at, &format!("unpaired surrogate 0x{:04x}", half.unpaired_surrogate()))?;
                    at += 2;
                }
            }
        }
        self.offset += 2 * whole as u64;
        self.left = bytes[2 * whole..].to_vec();
        if read == 0 && !self.left.is_empty() {
            self.invalid(self.offset, "half a character")?;
            self.left.clear();
        }
        Ok(read > 0 || !self.out.is_empty())
    }

    /// Something that is no character.
    fn invalid(&mut self, at: u64, what: &str) -> io::Result<()> {
        if self.policy == Some(InvalidUtf8::Replace) {
            self.out.push(0xFF);
            return Ok(());
        }
        let or = self.policy.map_or("", |_| "; invalid_utf8 = \"replace\" reads it as U+FFFD");
        Err(refused(format!(
            " is not valid UTF-16 text, although it has a UTF-16 byte order mark: {what} at offset {at} (line {}){or}",
            self.line
        )))
    }
}

impl<R: Read> Read for Utf16<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if to.is_empty() {
            return Ok(0);
        }
        while self.at == self.out.len() {
            if !self.fill()? {
                return Ok(0);
            }
        }
        let n = to.len().min(self.out.len() - self.at);
        to[..n].copy_from_slice(&self.out[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(units: &[u16], extra: &[u8], big_endian: bool, policy: InvalidUtf8) -> Result<String, String> {
        let bytes = units.iter().flat_map(|unit| if big_endian { unit.to_be_bytes() } else { unit.to_le_bytes() });
        let bytes: Vec<u8> = bytes.chain(extra.iter().copied()).collect();
        let mut text = Vec::new();
        let read = Utf16::new(&bytes[..], big_endian, policy).read_to_end(&mut text);
        read.map(|_| String::from_utf8_lossy(&text).into_owned()).map_err(|error| error.to_string())
    }

    #[test]
    fn text_in_utf_16_is_the_same_text() {
        // Every place of a pair around the end of a chunk.
        for before in CHUNK / 2 - 3..CHUNK / 2 + 3 {
            let text = "a".repeat(before) + "🐦é日\r\n\u{feff}";
            let units: Vec<u16> = text.encode_utf16().collect();
            for big_endian in [false, true] {
                assert!(read(&units, b"", big_endian, InvalidUtf8::Error).unwrap() == text);
            }
        }
        assert_eq!(read(&[], b"", true, InvalidUtf8::Error).unwrap(), "");
    }

    #[test]
    fn halves_are_refused_with_their_place_or_replaced() {
        for (units, extra, message, replaced) in [
            (
                &[0x61, 0x0a, 0xD83D, 0x62][..],
                &b""[..],
                "unpaired surrogate 0xd83d at offset 6 (line 2)",
                "a\n\u{fffd}b",
            ),
            (&[0xDC26], b"", "unpaired surrogate 0xdc26 at offset 2 (line 1)", "\u{fffd}"),
            (&[0xD83D, 0xDC26, 0xD83D], b"", "unpaired surrogate 0xd83d at offset 6 (line 1)", "🐦\u{fffd}"),
            (&[0x61], b"b", "half a character at offset 4", "a\u{fffd}"),
        ] {
            let error = read(units, extra, true, InvalidUtf8::Error).unwrap_err();
            assert!(error.contains(message), "{error}");
            assert_eq!(read(units, extra, true, InvalidUtf8::Replace).unwrap(), replaced);
        }
    }
}
