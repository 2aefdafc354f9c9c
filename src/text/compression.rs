//! Streaming decompression of text.

use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};
use std::io::{self, BufRead, BufReader, Read};

/// Largest window accepted in a zstd frame: 128 MiB, the limit of the `zstd` program.
const WINDOW: u64 = 1 << 27;

/// Decompresses a gzip file with one or more members.
pub(super) fn gzip<'a>(raw: impl BufRead + 'a) -> io::Result<Box<dyn BufRead + 'a>> {
    Ok(Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(raw))))
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
                return Err(damaged("the checksum of a frame does not fit"));
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

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        zstd(bytes)?.read_to_end(&mut text)?;
        Ok(text)
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
