//! Encodes a corpus into token ids piece by piece, for datasets in memory and in files.

use super::survey::{Survey, template_of};
use crate::text::{
    chat::{self, Doubts},
    source::{Corpus, Piece},
    tokenizer::Tokenizer,
};
use kinglet_core::{
    config::Config,
    error::{Error, Result},
};
use rayon::prelude::*;

/// An encoded piece.
pub(super) struct Encoded {
    /// The ids, with the end-of-text token after a document's last piece.
    pub(super) ids: Vec<u32>,
    /// For conversations: which ids are trained on.
    pub(super) learned: Vec<bool>,
    /// Bytes of the text or, for conversations, of the part trained on.
    pub(super) bytes: u64,
    /// Characters of the same.
    pub(super) chars: u64,
    /// For conversations: what is doubtful about their answers.
    pub(super) doubts: Doubts,
}

/// Bytes of text per thread to encode at once: two pieces.
const AT_ONCE: usize = 1 << 19;

/// Encodes a corpus on all threads. `sink` receives each piece in order, and whether it lies behind `cut`, in the
/// survey's units. A piece of text that straddles the cut is divided there.
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
        let mut doubts = Doubts::default();
        let (ids, learned, text) = match piece {
            Piece::Text { text, end } => {
                let mut ids = tokenizer.encode(text)?;
                ids.extend(end_of_text.filter(|_| *end));
                (ids, Vec::new(), std::borrow::Cow::from(text))
            }
            Piece::Messages(messages) => {
                let changed = || Error::Data(format!("{} changed while it was read", corpus.names()));
                let template = template.as_ref().ok_or_else(changed)?;
                let parts = template.parts(messages)?;
                doubts = template.doubts(&parts);
                let (ids, learned) = chat::encode(&parts, tokenizer)?;
                // Only the text that counts in the loss, without the template's special tokens.
                let said = parts.iter().filter(|part| part.learned);
                let text: String = said.flat_map(|part| template.texts(part)).collect();
                (ids, learned, text.into())
            }
        };
        Ok(Encoded { ids, learned, bytes: text.len() as u64, chars: text.chars().count() as u64, doubts })
    };
    let mut flush = |waiting: &mut Vec<(bool, Piece)>| -> Result<()> {
        let encode = |(behind, piece): (bool, Piece)| Ok((behind, one(&piece)?));
        let encoded: Vec<Result<_>> = waiting.par_drain(..).map(encode).collect();
        // In order, so that the first error does not depend on the number of threads.
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
