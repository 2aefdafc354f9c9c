//! Plain text: one document, in pieces.

use super::{input::Input, reading::Reading};
use crate::text::{
    refused::unreadable,
    tokenizer::Cuts,
    utf8::{MOST_OF_CHAR, NEAR, Utf8, line_to_cut, place_to_cut},
};
use kinglet_core::error::Result;
use std::io::Read;

/// Bytes of text from which on to look for a place to cut. Pieces are small because Hugging Face's encoder needs 150
/// times their memory.
pub(super) const PIECE: usize = 1 << 18;

/// Reads a text. Where there is no suitable place to cut, it is cut anyway at the length of the longest record.
pub(super) fn read(reading: &mut Reading, input: Input, cuts: Cuts) -> Result<()> {
    let (mut reader, name, rules) = (input.reader, reading.name, reading.rules);
    let mut text = Utf8::new(name, rules.invalid_utf8, input.mark);
    let (mut bytes, mut searched) = (Vec::new(), 0);
    loop {
        // Double the amount if there was no place to cut, so that the total time is linear in the text.
        let wanted = if cuts == Cuts::Whole { usize::MAX } else { PIECE.max(2 * bytes.len()) - bytes.len() };
        let read =
            reader.by_ref().take(wanted as u64).read_to_end(&mut bytes).map_err(|error| unreadable(name, error))?;
        if read < wanted {
            // The last piece, which may be empty: the document ends.
            let last = text.check(bytes)?;
            reading.replaced(text.replaced);
            return reading.part(last, true);
        }
        let anywhere = cuts == Cuts::Anywhere || bytes.len() >= rules.longest;
        let from = if cuts == Cuts::Anywhere { bytes.len().saturating_sub(NEAR) } else { searched };
        let cut = line_to_cut(&bytes, from).or_else(|| anywhere.then(|| place_to_cut(&bytes)));
        let rest = cut.map_or_else(|| bytes.len(), |cut| bytes.len() - cut);
        // Search the end again: a line end is a place to cut only if the text after it, not yet read, is suitable.
        searched = rest.saturating_sub(MOST_OF_CHAR + 1);
        let Some(cut) = cut else { continue };
        let rest = bytes.split_off(cut);
        reading.part(text.check(std::mem::replace(&mut bytes, rest))?, false)?;
    }
}
