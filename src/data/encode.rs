//! Encodes a corpus into token ids piece by piece, for datasets in memory and in files.

use super::survey::{Survey, said, template_of};
use crate::text::{
    chat::{self, Doubts},
    source::{Corpus, Piece},
    tokenizer::{Loss, Tokenizer},
};
use kinglet_core::{
    config::Config,
    error::{Error, Result},
};
use rayon::prelude::*;

/// An encoded piece.
pub(super) struct Encoded {
    /// The ids, with the begin-of-text token before a document if there is one, and with the end-of-text token after its
    /// last piece if there are several documents.
    pub(super) ids: Vec<u32>,
    /// How many of them are given and never predicted: begin-of-text tokens.
    pub(super) given: u64,
    /// For conversations: which ids are trained on.
    pub(super) learned: Vec<bool>,
    /// Bytes of the text or, for conversations, of the part trained on.
    pub(super) bytes: u64,
    /// Characters of the same.
    pub(super) chars: u64,
    /// What the tokenizer did not keep.
    loss: Loss,
    /// For conversations: what is doubtful about their answers.
    pub(super) doubts: Doubts,
    /// For a conversation that is too long to be encoded: how many tokens it has at least, else 0.
    pub(super) at_least: usize,
}

impl Encoded {
    /// A conversation of at least this many tokens, which is not encoded.
    fn longer(tokens: usize) -> Encoded {
        let (ids, learned, loss, doubts) = Default::default();
        Encoded { ids, given: 0, learned, bytes: 0, chars: 0, loss, doubts, at_least: tokens }
    }
}

/// A piece that is to be encoded.
struct Waiting {
    /// Whether it lies behind the cut.
    behind: bool,
    /// The token that stands before it, if it is the first of its document.
    begin: Option<u32>,
    piece: Piece,
}

/// Bytes of text per thread to encode at once: two pieces.
const AT_ONCE: usize = 1 << 19;

/// Bytes that a piece counts for besides its text, so that short documents do not pile up by the hundred thousand.
const PIECE: usize = 256;

/// Encodes a corpus on all threads. `sink` receives each piece in order, and whether it lies behind `cut`, in the
/// survey's units. A piece of text that straddles the cut is divided there. Returns notes for the user.
pub(super) fn encode(
    corpus: &Corpus,
    survey: &Survey,
    tokenizer: &Tokenizer,
    config: &Config,
    cut: u64,
    mut sink: impl FnMut(bool, Encoded) -> Result<()>,
) -> Result<Vec<String>> {
    let template = (survey.conversations > 0).then(|| template_of(config, tokenizer)).transpose()?;
    // Behind a single text the end would occur once, at the very end of the validation part: nothing could learn it.
    let end_of_text = tokenizer.end_of_text().filter(|_| survey.documents > 1);
    let one = |piece: &Piece, begin: Option<u32>| -> Result<Encoded> {
        let mut loss = Loss::default();
        let mut doubts = Doubts::default();
        let (ids, learned, text) = match piece {
            Piece::Text { text, end } => {
                let mut ids = tokenizer.encode(text)?;
                loss.add(tokenizer.loss(text, &ids));
                ids.splice(0..0, begin);
                ids.extend(end_of_text.filter(|_| *end));
                (ids, Vec::new(), std::borrow::Cow::from(text))
            }
            Piece::Messages(messages) => {
                if said(messages) > config.block_size + 1 {
                    return Ok(Encoded::longer(said(messages)));
                }
                let changed = || Error::Data(format!("{} changed while it was read", corpus.names()));
                let template = template.as_ref().ok_or_else(changed)?;
                let parts = template.parts(messages)?;
                doubts = template.doubts(&parts);
                let (ids, learned) = chat::encode(&parts, tokenizer)?;
                for part in parts.iter().filter(|_| !tokenizer.keeps_everything()) {
                    loss.add(tokenizer.loss(&part.text, &part.encode(tokenizer)?));
                }
                let said = parts.iter().filter(|part| part.learned);
                let text: String = said.flat_map(|part| template.texts(part)).collect();
                (ids, learned, text.into())
            }
        };
        let (bytes, chars) = (text.len() as u64, text.chars().count() as u64);
        let given = u64::from(begin.is_some() && begin == tokenizer.given());
        Ok(Encoded { ids, given, learned, bytes, chars, loss, doubts, at_least: 0 })
    };
    let mut lost = Loss::default();
    let mut flush = |waiting: &mut Vec<Waiting>| -> Result<()> {
        let encode = |Waiting { behind, begin, piece }| Ok((behind, one(&piece, begin)?));
        let encoded: Vec<Result<_>> = waiting.par_drain(..).map(encode).collect();
        // In order, so that the first error does not depend on the number of threads.
        encoded.into_iter().try_for_each(|piece| {
            let (behind, mut encoded) = piece?;
            lost.add(std::mem::take(&mut encoded.loss));
            sink(behind, encoded)
        })
    };
    let (mut waiting, mut size, mut at) = (Vec::new(), 0, 0u64);
    // Where the same token begins and ends documents, the end of one is the beginning of the next.
    let mut next = tokenizer.begin_of_text();
    corpus.pieces(tokenizer.cuts(), |piece| {
        let behind = at >= cut;
        match piece {
            Piece::Text { text, end } => {
                let begin = std::mem::replace(&mut next, tokenizer.given().filter(|_| end));
                let chars = text.chars().count() as u64;
                at += chars;
                size += text.len() + PIECE;
                let inside = if behind { None } else { text.char_indices().nth((cut + chars - at) as usize) };
                if let Some((byte, _)) = inside {
                    let (before, after) = (text[..byte].to_owned(), text[byte..].to_owned());
                    waiting.push(Waiting { behind: false, begin, piece: Piece::Text { text: before, end: false } });
                    waiting.push(Waiting { behind: true, begin: None, piece: Piece::Text { text: after, end } });
                } else {
                    waiting.push(Waiting { behind, begin, piece: Piece::Text { text, end } });
                }
            }
            Piece::Messages(messages) => {
                at += 1;
                size += PIECE + messages.iter().map(|message| message.content.len()).sum::<usize>();
                waiting.push(Waiting { behind, begin: None, piece: Piece::Messages(messages) });
            }
        }
        if size >= AT_ONCE * rayon::current_num_threads() {
            size = 0;
            flush(&mut waiting)?;
        }
        Ok(())
    })?;
    flush(&mut waiting)?;
    let mut notes: Vec<String> = note(&lost, corpus)?.into_iter().collect();
    notes.extend(apart(survey, tokenizer, config).map(str::to_owned));
    Ok(notes)
}

/// A note where documents cannot be told apart, or settings about that have no effect.
fn apart(survey: &Survey, tokenizer: &Tokenizer, config: &Config) -> Option<&'static str> {
    let (chats, several) = (survey.conversations > 0, survey.documents > 1);
    if !chats && several && tokenizer.end_of_text().is_none() {
        return Some("the tokenizer has no end-of-text token, so nothing separates the documents");
    }
    match (config.within_documents, config.packing) {
        (true, _) if chats => Some("within_documents has no effect on conversations"),
        (true, _) if !several => Some("within_documents has no effect: the text is a single document"),
        (_, true) if !chats => Some("packing has no effect: it applies only to conversations"),
        _ => None,
    }
}

/// A note on what the tokenizer did not keep of a corpus, if anything; an error if it is too much to learn from.
fn note(lost: &Loss, corpus: &Corpus) -> Result<Option<String>> {
    let Some(summary) = lost.summary() else { return Ok(None) };
    if lost.is_large() {
        return Err(Error::Data(format!(
            "the tokenizer does not suit {}: {summary}; use a tokenizer made for such text, or --tokenizer \
             bpe:SIZE, byte or char",
            corpus.names()
        )));
    }
    Ok(Some(format!(
        "the tokenizer loses part of the text: {summary}; bits per byte and per character count the original \
         text, so they cannot be compared with those of a lossless tokenizer"
    )))
}
