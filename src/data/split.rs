//! A split of a corpus as token ids, and the sequences drawn from it.

use super::token_file::TokenFile;
use crate::text::tokenizer::Tokenizer;
use kinglet_core::{
    batch::{Batch, IGNORE},
    config::Config,
    error::Result,
    rng::{self, Purpose, Rng},
};
use std::ops::Range;

/// Token ids, in memory or in files.
#[derive(Clone, Debug)]
pub(super) enum Ids {
    Memory(Vec<u32>),
    Files(Vec<TokenFile>),
}

impl Ids {
    fn len(&self) -> usize {
        match self {
            Ids::Memory(ids) => ids.len(),
            Ids::Files(files) => files.iter().map(TokenFile::len).sum(),
        }
    }

    /// Appends the ids in `range` to `out`.
    fn read(&self, range: Range<usize>, out: &mut Vec<u32>) -> Result<()> {
        match self {
            Ids::Memory(ids) => out.extend_from_slice(&ids[range]),
            Ids::Files(files) => {
                let mut first = 0;
                for file in files {
                    let (start, end) = (range.start.max(first), range.end.min(first + file.len()));
                    if start < end {
                        file.read(start - first..end - first, out)?;
                    }
                    first += file.len();
                }
            }
        }
        Ok(())
    }
}

/// A training or validation split of a corpus.
#[derive(Clone, Debug)]
pub struct Split {
    pub(super) content: Content,
    pub(super) block_size: usize,
    /// Tokens that count in the loss; `bytes` and `chars` give the size of their text.
    pub(super) measured: usize,
    pub(super) bytes: u64,
    pub(super) chars: u64,
    /// The token that begins documents and is never predicted, if there is one.
    pub(super) given: Option<u32>,
    pub(super) apart: Option<Apart>,
}

/// How much text the ids of a split are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Size {
    pub(super) bytes: u64,
    pub(super) chars: u64,
    /// Ids that are no part of it and never predicted: tokens that begin documents.
    pub(super) given: u64,
}

/// How the documents of a text are kept apart (`within_documents`).
#[derive(Clone, Debug)]
pub(super) struct Apart {
    /// The token that each document begins with: the one that ends the document before, which as an input belongs to the
    /// next, or one of its own.
    first: u32,
    /// Where each of the windows begins that measure the text exactly; they begin at documents where these fit.
    windows: Vec<usize>,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    /// One long text; it may consist of several documents.
    Text(Ids),
    /// Conversations, which share rows if they are packed.
    Conversations(Conversations),
}

/// Conversations as token ids.
#[derive(Clone, Debug, Default)]
pub(super) struct Conversations {
    pub(super) ids: Vec<u32>,
    /// Which tokens are trained on.
    pub(super) learned: Vec<bool>,
    /// Where each conversation ends in `ids`.
    pub(super) ends: Vec<usize>,
    /// Where each row ends in `ends`.
    pub(super) rows: Vec<usize>,
}

impl Conversations {
    /// The tokens of conversation `i`.
    fn range(&self, i: usize) -> Range<usize> {
        i.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[i]
    }

    /// The conversations in a row.
    pub(super) fn row(&self, row: usize) -> Range<usize> {
        row.checked_sub(1).map_or(0, |before| self.rows[before])..self.rows[row]
    }

    /// Tokens that the model reads in a row: all of each conversation except its last, which is only a target.
    pub(super) fn inputs(&self, row: usize) -> usize {
        self.row(row).map(|i| self.range(i).len() - 1).sum()
    }

    /// Tokens that are predicted and count in the loss.
    pub(super) fn targets(&self) -> usize {
        let of_one = |i: usize| self.learned[self.range(i)].iter().skip(1).filter(|&&learned| learned).count();
        (0..self.ends.len()).map(of_one).sum()
    }

    /// Appends a row to a batch. Its conversations do not see each other.
    fn load(&self, row: usize, batch: &mut Batch) {
        for (k, i) in self.row(row).enumerate() {
            let range = self.range(i);
            let tokens = &self.ids[range.clone()];
            let targets = if k == 0 { batch.add(tokens) } else { batch.add_document(tokens) };
            for (target, _) in targets.iter_mut().zip(&self.learned[range][1..]).filter(|(_, learned)| !**learned) {
                *target = IGNORE;
            }
        }
    }
}

impl Split {
    /// A text of token ids in memory.
    pub fn new(ids: Vec<u32>, block_size: usize) -> Split {
        let (measured, bytes) = (ids.len(), ids.len() as u64);
        Split {
            content: Content::Text(Ids::Memory(ids)),
            block_size,
            measured,
            bytes,
            chars: bytes,
            given: None,
            apart: None,
        }
    }

    /// A text of token ids in memory, measured as a text that was read for a model of this configuration.
    ///
    /// # Errors
    /// If a file cannot be read; there is none.
    pub(crate) fn of_ids(ids: Vec<u32>, tokenizer: &Tokenizer, config: &Config) -> Result<Split> {
        Split { given: tokenizer.given(), ..Split::new(ids, config.block_size) }.kept_apart(tokenizer, config)
    }

    /// Where the documents begin that are kept apart, in all inputs of a text in memory, and where the inputs end.
    pub(crate) fn documents(&self) -> Vec<usize> {
        let Content::Text(Ids::Memory(ids)) = &self.content else { return Vec::new() };
        let inputs = ids.len().saturating_sub(1);
        let begins = |at: &usize| self.apart.as_ref().is_some_and(|apart| apart.first == ids[*at]);
        [0].into_iter().chain((1..inputs).filter(begins)).chain([inputs]).collect()
    }

    /// Appends the sequence to a batch that reads the tokens in `inputs` of a text, and predicts those that follow them.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub(crate) fn stretch(&self, inputs: Range<usize>, batch: &mut Batch) -> Result<()> {
        match &self.content {
            Content::Text(ids) => self.push_text(ids, inputs.start..inputs.end + 1, batch),
            Content::Conversations(_) => unreachable!("of a text"),
        }
    }

    /// A text in files of token ids.
    pub(super) fn of_files(
        files: Vec<TokenFile>,
        Size { bytes, chars, given }: Size,
        tokenizer: &Tokenizer,
        config: &Config,
    ) -> Result<Split> {
        let measured = files.iter().map(TokenFile::len).sum::<usize>().saturating_sub(given as usize);
        let (content, given) = (Content::Text(Ids::Files(files)), tokenizer.given());
        let split = Split { content, block_size: config.block_size, measured, bytes, chars, given, apart: None };
        split.kept_apart(tokenizer, config)
    }

    /// The same split with its documents kept apart, if the configuration says so.
    pub(super) fn kept_apart(mut self, tokenizer: &Tokenizer, config: &Config) -> Result<Split> {
        self.apart = None;
        if let (Content::Text(ids), Some(first)) = (&self.content, parting(tokenizer, config)) {
            self.apart = Some(Apart { first, windows: windows_at_documents(ids, first, self.block_size)? });
        }
        Ok(self)
    }

    /// Tokens in it.
    pub fn tokens(&self) -> usize {
        match &self.content {
            Content::Text(ids) => ids.len(),
            Content::Conversations(conversations) => conversations.ids.len(),
        }
    }

    /// Tokens of it that are in memory, not in files.
    pub fn tokens_in_memory(&self) -> usize {
        if matches!(self.content, Content::Text(Ids::Files(_))) { 0 } else { self.tokens() }
    }

    /// Whether it consists of conversations.
    pub fn is_conversations(&self) -> bool {
        matches!(self.content, Content::Conversations(_))
    }

    /// The number of conversations, and of the rows that they share; `None` of text.
    pub fn conversations(&self) -> Option<(usize, usize)> {
        match &self.content {
            Content::Text(_) => None,
            Content::Conversations(Conversations { ends, rows, .. }) => Some((ends.len(), rows.len())),
        }
    }

    /// Mean number of tokens that the model reads in a sequence drawn from it.
    pub fn tokens_per_sequence(&self) -> f64 {
        match &self.content {
            Content::Text(_) => self.block_size as f64,
            Content::Conversations(Conversations { ids, ends, rows, .. }) => {
                (ids.len() - ends.len()) as f64 / rows.len().max(1) as f64
            }
        }
    }

    /// How often `sequences` sequences drawn from it go through all of it.
    pub fn epochs(&self, sequences: f64) -> f64 {
        match &self.content {
            Content::Text(ids) => sequences * self.block_size as f64 / ids.len() as f64,
            Content::Conversations(conversations) => sequences / conversations.rows.len() as f64,
        }
    }

    /// Tokens per byte and tokens per character of text (for conversations, of the answers). Multiply a loss per token
    /// by these to get the loss per byte or per character.
    pub fn tokens_per_byte_and_char(&self) -> (f64, f64) {
        let tokens = self.measured as f64;
        (tokens / self.bytes.max(1) as f64, tokens / self.chars.max(1) as f64)
    }

    /// The size of the text that it is.
    pub(super) fn size(&self) -> Size {
        Size { bytes: self.bytes, chars: self.chars, given: (self.tokens() - self.measured) as u64 }
    }

    /// The ids in a range, without those that only begin documents.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn ids(&self, range: Range<usize>) -> Result<Vec<u32>> {
        let mut out = Vec::new();
        match &self.content {
            Content::Text(ids) => ids.read(range, &mut out)?,
            Content::Conversations(Conversations { ids, .. }) => out.extend(&ids[range]),
        }
        if let Some(given) = self.given {
            out.retain(|&id| id != given);
        }
        Ok(out)
    }

    /// All ids, as they are stored.
    #[cfg(test)]
    pub(super) fn content_ids(&self) -> Vec<u32> {
        Split { given: None, ..self.clone() }.ids(0..self.tokens()).expect("they are in memory")
    }

    /// The first ids, at most `most`.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn first_ids(&self, most: usize) -> Result<Vec<u32>> {
        self.ids(0..self.tokens().min(most))
    }

    /// The last ids, at most `most`.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn last_ids(&self, most: usize) -> Result<Vec<u32>> {
        let n = self.tokens();
        self.ids(n - most.min(n)..n)
    }

    /// How many sequences [`Split::window`] cuts the split into. Together they predict every token of a text once,
    /// except the first; each row of conversations is one sequence.
    pub fn windows(&self) -> usize {
        self.apart.as_ref().map_or_else(|| self.windows_after(0), |apart| apart.windows.len())
    }

    /// How many sequences an epoch has that cuts the text `shift` tokens earlier, so that its first one is shorter.
    pub(super) fn windows_after(&self, shift: usize) -> usize {
        match &self.content {
            Content::Text(ids) if ids.len() > 1 => (shift + ids.len() - 1).div_ceil(self.block_size),
            Content::Text(_) => 0,
            Content::Conversations(conversations) => conversations.rows.len(),
        }
    }

    /// Appends sequence number `index` of those [`Split::windows`] to a batch.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn window(&self, index: usize, batch: &mut Batch) -> Result<()> {
        match (&self.content, &self.apart) {
            (Content::Text(ids), Some(Apart { windows, .. })) => {
                let end = windows.get(index + 1).copied().unwrap_or(ids.len() - 1);
                self.push_text(ids, windows[index]..end + 1, batch)
            }
            _ => self.window_after(0, index, batch),
        }
    }

    pub(super) fn window_after(&self, shift: usize, index: usize, batch: &mut Batch) -> Result<()> {
        match &self.content {
            Content::Text(ids) => {
                let end = (index + 1) * self.block_size - shift;
                self.push_text(ids, end.saturating_sub(self.block_size)..ids.len().min(end + 1), batch)
            }
            Content::Conversations(conversations) => {
                conversations.load(index, batch);
                Ok(())
            }
        }
    }

    /// Fills `batch` with the sequences of one update; a fraction `config.replay` of all sequences so far comes from
    /// `old`, the first ones of each update.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn load_step(&self, config: &Config, step: u64, old: Option<&Split>, batch: &mut Batch) -> Result<()> {
        batch.clear();
        let of = config.sequences_per_step();
        // How many sequences of the old data there were before an update. A share that is counted, not drawn, tells the
        // place in the epoch without a look back.
        let before = |step: u64| {
            let share = if old.is_some() { config.replay } else { 0.0 };
            (step as f64 * of as f64 * share) as u64
        };
        let (first, mut at) = (before(step + 1) - before(step), step * of as u64 - before(step));
        for i in 0..of {
            match old {
                Some(old) if (i as u64) < first => old.sample(config.seed, Purpose::Batch, step, i, batch)?,
                _ if config.replacement => self.sample(config.seed, Purpose::Batch, step, i, batch)?,
                _ => {
                    self.in_epochs(config.seed, at, batch)?;
                    at += 1;
                }
            }
        }
        Ok(())
    }

    /// Appends a random sequence, number `index` of this step and purpose, to a batch; every offset is equally likely.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn sample(&self, seed: u64, purpose: Purpose, step: u64, index: usize, batch: &mut Batch) -> Result<()> {
        let mut rng = Rng::new(seed, purpose, step, index as u64);
        match &self.content {
            Content::Text(ids) => {
                let offset = rng.below((ids.len() - self.block_size) as u64) as usize;
                self.push_text(ids, offset..offset + self.block_size + 1, batch)
            }
            Content::Conversations(Conversations { rows, .. }) => {
                self.window(rng.below(rows.len() as u64) as usize, batch)
            }
        }
    }

    /// Appends sequence number `at` of a run to a batch. Each epoch visits every token of text or every conversation
    /// once, in its own random order. Each epoch cuts text at different positions, so that `block_size` epochs cover
    /// every possible sequence.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub(super) fn in_epochs(&self, seed: u64, at: u64, batch: &mut Batch) -> Result<()> {
        // The number of ways to cut the text, and the total number of sequences over all of them.
        let (ways, together) = match &self.content {
            Content::Text(ids) => (self.block_size, ids.len() + self.block_size - 2),
            Content::Conversations(conversations) => (1, conversations.rows.len()),
        };
        let (ways, together) = (ways as u64, together as u64);
        let (mut epoch, mut left) = (at / together * ways, at % together);
        loop {
            let shift = rng::permute(seed, u64::MAX, epoch % ways, ways) as usize;
            let windows = self.windows_after(shift) as u64;
            if left < windows {
                return self.window_after(shift, rng::permute(seed, epoch, left, windows) as usize, batch);
            }
            (epoch, left) = (epoch + 1, left - windows);
        }
    }

    fn push_text(&self, ids: &Ids, range: Range<usize>, batch: &mut Batch) -> Result<()> {
        // Nobody asks a model for the token that begins a document.
        let hide = |targets: &mut [u32]| {
            let given = targets.iter_mut().filter(|target| Some(**target) == self.given);
            given.for_each(|target| *target = IGNORE);
        };
        let Some(Apart { first: begin, .. }) = self.apart else {
            return batch.add_read(|tokens| ids.read(range, tokens)).map(hide);
        };
        let mut tokens = Vec::with_capacity(range.len());
        ids.read(range, &mut tokens)?;
        let (mut first, last) = (0, tokens.len() - 1);
        while first < last {
            let next = (first + 1..last).find(|&at| tokens[at] == begin).unwrap_or(last);
            let document = &tokens[first..=next];
            hide(if first == 0 { batch.add(document) } else { batch.add_document(document) });
            first = next;
        }
        Ok(())
    }
}

/// The token with which documents begin that are kept apart, if they are.
pub(crate) fn parting(tokenizer: &Tokenizer, config: &Config) -> Option<u32> {
    tokenizer.begin_of_text().or(tokenizer.end_of_text()).filter(|_| config.within_documents)
}

/// Where each window begins that measures a text whose documents are kept apart: several whole documents, or a part of
/// one that is longer than `block_size`. Every token is predicted once, except the first of the text.
fn windows_at_documents(ids: &Ids, begin: u32, block_size: usize) -> Result<Vec<usize>> {
    let (mut windows, mut document, inputs) = (Vec::new(), 0, ids.len().saturating_sub(1));
    let mut place = |from: usize, to: usize| {
        let fits = windows.last().is_some_and(|window| to - window <= block_size);
        if !fits {
            windows.extend((from..to).step_by(block_size));
        }
    };
    let mut piece = Vec::new();
    for first in (0..inputs).step_by(READ) {
        piece.clear();
        ids.read(first..inputs.min(first + READ), &mut piece)?;
        for at in piece.iter().zip(first..).filter(|&(&id, at)| id == begin && at > 0).map(|(_, at)| at) {
            place(document, at);
            document = at;
        }
    }
    place(document, inputs);
    Ok(windows)
}

/// Ids to read at once when looking for where documents begin.
const READ: usize = 1 << 16;
