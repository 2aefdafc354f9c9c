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
    pub(super) within: Option<u32>,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    /// One long text; it may consist of several documents.
    Text(Ids),
    /// Conversations, with the tokens marked that are trained on; row `i` ends before `ends[i]`.
    Conversations { ids: Vec<u32>, learned: Vec<bool>, ends: Vec<usize> },
}

impl Split {
    /// A text of token ids in memory.
    pub fn new(ids: Vec<u32>, block_size: usize) -> Split {
        let (measured, bytes) = (ids.len(), ids.len() as u64);
        Split { content: Content::Text(Ids::Memory(ids)), block_size, measured, bytes, chars: bytes, within: None }
    }

    /// A text in files of token ids.
    pub(super) fn of_files(
        files: Vec<TokenFile>,
        bytes: u64,
        chars: u64,
        tokenizer: &Tokenizer,
        config: &Config,
    ) -> Split {
        let (within, measured) = (within(tokenizer, config), files.iter().map(TokenFile::len).sum());
        Split {
            content: Content::Text(Ids::Files(files)),
            block_size: config.block_size,
            measured,
            bytes,
            chars,
            within,
        }
    }

    /// Tokens in it.
    pub fn tokens(&self) -> usize {
        match &self.content {
            Content::Text(ids) => ids.len(),
            Content::Conversations { ids, .. } => ids.len(),
        }
    }

    /// Tokens of it that are in memory, not in files.
    pub fn tokens_in_memory(&self) -> usize {
        if matches!(self.content, Content::Text(Ids::Files(_))) { 0 } else { self.tokens() }
    }

    /// Whether it consists of conversations.
    pub fn is_conversations(&self) -> bool {
        matches!(self.content, Content::Conversations { .. })
    }

    /// Tokens per byte and tokens per character of text (for conversations, of the answers). Multiply a loss per token
    /// by these to get the loss per byte or per character.
    pub fn tokens_per_byte_and_char(&self) -> (f64, f64) {
        let tokens = self.measured as f64;
        (tokens / self.bytes.max(1) as f64, tokens / self.chars.max(1) as f64)
    }

    /// The ids in a range.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn ids(&self, range: Range<usize>) -> Result<Vec<u32>> {
        let mut out = Vec::new();
        match &self.content {
            Content::Text(ids) => ids.read(range, &mut out)?,
            Content::Conversations { ids, .. } => out.extend(&ids[range]),
        }
        Ok(out)
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
        self.windows_after(0)
    }

    /// The same with the text cut `shift` tokens earlier, so that its first sequence is shorter.
    pub(super) fn windows_after(&self, shift: usize) -> usize {
        match &self.content {
            Content::Text(ids) if ids.len() > 1 => (shift + ids.len() - 1).div_ceil(self.block_size),
            Content::Text(_) => 0,
            Content::Conversations { ends, .. } => ends.len(),
        }
    }

    /// Appends sequence number `index` of those [`Split::windows`] to a batch.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn window(&self, index: usize, batch: &mut Batch) -> Result<()> {
        self.window_after(0, index, batch)
    }

    pub(super) fn window_after(&self, shift: usize, index: usize, batch: &mut Batch) -> Result<()> {
        match &self.content {
            Content::Text(ids) => {
                let end = (index + 1) * self.block_size - shift;
                self.push_text(ids, end.saturating_sub(self.block_size)..ids.len().min(end + 1), batch)
            }
            Content::Conversations { ids, learned, ends } => {
                let row = index.checked_sub(1).map_or(0, |before| ends[before])..ends[index];
                let targets = batch.add(&ids[row.clone()]);
                for (target, _) in targets.iter_mut().zip(&learned[row][1..]).filter(|(_, learned)| !**learned) {
                    *target = IGNORE;
                }
                Ok(())
            }
        }
    }

    /// Fills `batch` with the sequences of one update; a fraction `config.replay` of them comes from `old`.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn load_step(&self, config: &Config, step: u64, old: Option<&Split>, batch: &mut Batch) -> Result<()> {
        batch.clear();
        for i in 0..config.sequences_per_step() {
            let mut rng = Rng::new(config.seed, Purpose::Replay, step, i as u64);
            match old {
                Some(old) if rng.uniform() < config.replay => {
                    old.sample(config.seed, Purpose::Batch, step, i, batch)?
                }
                _ => self.draw(config, step, i, batch)?,
            }
        }
        Ok(())
    }

    /// Appends sequence number `index` of one update to a batch.
    fn draw(&self, config: &Config, step: u64, index: usize, batch: &mut Batch) -> Result<()> {
        if config.replacement {
            self.sample(config.seed, Purpose::Batch, step, index, batch)
        } else {
            self.in_epochs(config.seed, step, config.sequences_per_step(), index, batch)
        }
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
            Content::Conversations { ends, .. } => self.window(rng.below(ends.len() as u64) as usize, batch),
        }
    }

    /// Appends sequence number `index` of a step with `of` sequences to a batch. Each epoch visits every token of text
    /// or every conversation once, in its own random order. Each epoch cuts text at different positions, so that
    /// `block_size` epochs cover every possible sequence.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub(super) fn in_epochs(&self, seed: u64, step: u64, of: usize, index: usize, batch: &mut Batch) -> Result<()> {
        // The number of ways to cut the text, and the total number of sequences over all of them.
        let (ways, together) = match &self.content {
            Content::Text(ids) => (self.block_size, ids.len() + self.block_size - 2),
            Content::Conversations { ends, .. } => (1, ends.len()),
        };
        let at = step * of as u64 + index as u64;
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
        let targets = batch.add_read(|tokens| ids.read(range, tokens))?;
        if let Some(end) = self.within {
            let after = targets.iter().position(|&target| target == end).map_or(targets.len(), |at| at + 1);
            targets[after..].fill(IGNORE);
        }
        Ok(())
    }
}

/// The token that ends a sequence, if sequences must not continue into the next document.
pub(super) fn within(tokenizer: &Tokenizer, config: &Config) -> Option<u32> {
    tokenizer.end_of_text().filter(|_| config.within_documents)
}
