//! A corpus as token ids, piece by piece: what a dataset in memory and one in files are both made of.

use super::survey::{Survey, template_of};
use crate::text::{
    chat,
    source::{Corpus, Piece},
    tokenizer::{END_OF_TEXT, Tokenizer},
};
use kinglet_core::{
    config::Config,
    error::{Error, Result},
};
use rayon::prelude::*;

/// What a piece became.
pub(super) struct Encoded {
    /// The ids, an end of a text after a document's last piece.
    pub(super) ids: Vec<u32>,
    /// For conversations: which of them are learned.
    pub(super) learned: Vec<bool>,
    /// Bytes of the text, or of what is learned of it.
    pub(super) bytes: u64,
    /// Characters of that.
    pub(super) chars: u64,
}

/// Bytes of text that are encoded at once for each thread: two pieces.
const AT_ONCE: usize = 1 << 19;

/// Encodes a corpus, in order, on all threads: `sink` hears of each piece and whether it lies behind `cut`, in the
/// survey's units. The text that the cut falls into is divided.
pub(super) fn encode(
    corpus: &Corpus,
    survey: &Survey,
    tokenizer: &Tokenizer,
    config: &Config,
    cut: u64,
    mut sink: impl FnMut(bool, Encoded) -> Result<()>,
) -> Result<()> {
    let template = (survey.conversations > 0).then(|| template_of(config, tokenizer)).transpose()?;
    let end_of_text = tokenizer.end_of_text();
    let one = |piece: &Piece| -> Result<Encoded> {
        let (ids, learned, text) = match piece {
            Piece::Text { text, end } => {
                let mut ids = tokenizer.encode(text)?;
                ids.extend(end_of_text.filter(|_| *end));
                (ids, Vec::new(), std::borrow::Cow::from(text))
            }
            Piece::Messages(messages) => {
                let changed = || Error::Data(format!("{} changed while it was read", corpus.names()));
                let parts = template.as_ref().ok_or_else(changed)?.parts(messages)?;
                let (ids, learned) = chat::encode(&parts, tokenizer)?;
                // What the loss is of.
                let said = parts.iter().filter(|part| part.learned);
                let text: String = said.map(|part| part.text.replace(END_OF_TEXT, "")).collect();
                (ids, learned, text.into())
            }
        };
        Ok(Encoded { ids, learned, bytes: text.len() as u64, chars: text.chars().count() as u64 })
    };
    let mut flush = |waiting: &mut Vec<(bool, Piece)>| -> Result<()> {
        let encode = |(behind, piece): (bool, Piece)| Ok((behind, one(&piece)?));
        let encoded: Vec<Result<_>> = waiting.par_drain(..).map(encode).collect();
        // In order, so that the first error is the same however many threads there are.
        encoded.into_iter().try_for_each(|piece| piece.and_then(|(behind, encoded)| sink(behind, encoded)))
    };
    let (mut waiting, mut size, mut at) = (Vec::new(), 0, 0u64);
    corpus.pieces(tokenizer.cuts(), |piece| {
        let behind = at >= cut;
        match piece {
            Piece::Text { text, end } => {
                let chars = text.chars().count() as u64;
                at += chars;
                size += text.len();
                let inside = if behind { None } else { text.char_indices().nth((cut + chars - at) as usize) };
                if let Some((byte, _)) = inside {
                    waiting.push((false, Piece::Text { text: text[..byte].to_owned(), end: false }));
                    waiting.push((true, Piece::Text { text: text[byte..].to_owned(), end }));
                } else {
                    waiting.push((behind, Piece::Text { text, end }));
                }
            }
            Piece::Messages(messages) => {
                at += 1;
                size += messages.iter().map(|message| message.content.len()).sum::<usize>();
                waiting.push((behind, Piece::Messages(messages)));
            }
        }
        if size >= AT_ONCE * rayon::current_num_threads() {
            size = 0;
            flush(&mut waiting)?;
        }
        Ok(())
    })?;
    flush(&mut waiting)
}
