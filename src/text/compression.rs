//! Streaming decompression of text.

use flate2::bufread::GzDecoder;
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};
use std::io::{self, BufRead, BufReader, Read};

/// Largest window accepted in a zstd frame: 128 MiB, the limit of the `zstd` program.
const WINDOW: u64 = 1 << 27;

/// Decompresses a gzip file with one or more members; zeros behind them are padding, as for gzip(1).
pub(super) fn gzip<'a>(raw: impl BufRead + 'a) -> io::Result<Box<dyn BufRead + 'a>> {
    Ok(Box::new(BufReader::new(Members { decoder: Some(GzDecoder::new(raw)) })))
}

/// Decompresses a zstd file with one or more frames.
pub(super) fn zstd<'a>(raw: impl BufRead + 'a) -> io::Result<Box<dyn BufRead + 'a>> {
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(WINDOW);
    Ok(Box::new(BufReader::new(Frames { raw, decoder, inside: false })))
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged zstd data: {what}"))
}

/// A sequence of gzip members, each checked by its length and checksum.
struct Members<R> {
    /// The current member; none behind the last.
    decoder: Option<GzDecoder<R>>,
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while let Some(decoder) = &mut self.decoder {
            let read = decoder.read(to)?;
            if read > 0 || to.is_empty() {
                return Ok(read);
            }
            let mut raw = self.decoder.take().expect("it has just been read").into_inner();
            let zeros = skip_zeros(&mut raw)?;
            if raw.fill_buf()?.is_empty() {
                break;
            }
            if zeros || !raw.fill_buf()?.starts_with(b"\x1f") {
                let why = "other data follows the end of the gzip stream";
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            self.decoder = Some(GzDecoder::new(raw));
        }
        Ok(0)
    }
}

/// Reads over zeros; returns whether there were any.
fn skip_zeros(raw: &mut impl BufRead) -> io::Result<bool> {
    let mut some = false;
    loop {
        let zeros = raw.fill_buf()?.iter().take_while(|&&byte| byte == 0).count();
        if zeros == 0 {
            return Ok(some);
        }
        some = true;
        raw.consume(zeros);
    }
}

/// A sequence of zstd frames. Only a window of the text and one block are in memory.
struct Frames<R> {
    raw: R,
    decoder: FrameDecoder,
    /// Whether a frame has begun.
    inside: bool,
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if to.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.inside && !self.begin()? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.raw, one).map_err(|error| damaged(&error.to_string()))?;
            }
            let read = self.decoder.read(to)?;
            if read > 0 {
                return Ok(read);
            }
            self.inside = false;
            let stored = self.decoder.get_checksum_from_data();
            if stored.is_some() && stored != self.decoder.get_calculated_checksum() {
                return Err(damaged("the checksum of a frame does not match"));
            }
        }
    }
}

impl<R: BufRead> Frames<R> {
    /// Starts the next frame; returns whether there is one. Skippable frames hold no text and are skipped.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.raw.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.raw) {
                Ok(()) => {
                    self.inside = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    io::copy(&mut self.raw.by_ref().take(length.into()), &mut io::sink())?;
                }
                Err(error) => return Err(damaged(&error.to_string())),
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    use std::io::Write;

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        zstd(bytes)?.read_to_end(&mut text)?;
        Ok(text)
    }

    fn gzipped(text: &[u8]) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(text).unwrap();
        gzip.finish().unwrap()
    }

    #[test]
    fn members_of_gzip_are_joined_padding_is_none_and_damage_is_noticed() {
        let read = |bytes: &[u8]| -> io::Result<Vec<u8>> {
            let mut text = Vec::new();
            // Small reads, so that members end everywhere in a buffer.
            gzip(BufReader::with_capacity(7, bytes))?.read_to_end(&mut text)?;
            Ok(text)
        };
        let file = [gzipped(b"one "), gzipped(b""), gzipped(&b"two ".repeat(9999))].concat();
        let text = [&b"one "[..], &b"two ".repeat(9999)].concat();
        assert!(read(&file).unwrap() == text);
        for zeros in [1, 7, 512, 10240] {
            assert!(read(&[&file[..], &vec![0; zeros]].concat()).unwrap() == text);
            let garbage = read(&[&file[..], &vec![0; zeros], b"x"].concat()).unwrap_err();
            assert!(garbage.to_string().contains("data follows the end"), "{garbage}");
        }
        assert!(read(&[&file[..], b"x"].concat()).is_err());
        let end = file.len();
        for cut in [1, 2, 5, 12, end / 2, end - 9, end - 8, end - 1] {
            assert!(read(&file[..cut]).is_err(), "cut at {cut}");
        }
        let mut damaged = file.clone();
        damaged[end - 6] ^= 1;
        assert!(read(&damaged).is_err());
    }

    #[test]
    fn frames_of_zstd_are_joined_and_damage_is_noticed() {
        let long = "a line that is repeated\n".repeat(100_000);
        let frame = |text: &str| compress_to_vec(text.as_bytes(), CompressionLevel::Fastest);
        let skipped = [&0x184D_2A50u32.to_le_bytes()[..], &3u32.to_le_bytes(), b"xyz"].concat();
        let file = [frame(&long), skipped, frame(""), frame("end")].concat();
        assert!(read(&file).unwrap() == (long.clone() + "end").as_bytes());
        assert!(read(b"").unwrap().is_empty());
        assert!(read(&file[..file.len() - 1]).is_err() && read(&[&file[..], b"more"].concat()).is_err());
        // What the program `zstd` makes of two bytes; the last four are the checksum.
        let mut summed = *b"\x28\xb5\x2f\xfd\x24\x02\x11\x00\x00a\n\x55\xc8\xcc\x1e";
        assert_eq!(read(&summed).unwrap(), b"a\n");
        summed[14] ^= 1;
        assert!(read(&summed).unwrap_err().to_string().contains("checksum"));
    }
}
