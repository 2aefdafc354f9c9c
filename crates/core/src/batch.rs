//! Sequences of token ids: what a model is trained and evaluated on.

pub use kinglet_kernels::loss::IGNORE;
use std::ops::Range;

/// Sequences to train or evaluate on: tokens, and the target that should follow each. A sequence is one document or
/// several, which do not see each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    ids: Vec<u32>,
    /// One for each token; [`IGNORE`] marks those that do not count.
    targets: Vec<u32>,
    /// Where each sequence ends.
    ends: Vec<usize>,
    /// The position of each token within its document; empty while every sequence is one document.
    positions: Vec<u32>,
}

/// Sequences of a batch side by side, as a pass takes them: shorter ones are padded at the end, where no target counts and
/// where no earlier position looks.
#[derive(Clone, Debug, Default)]
pub struct Padded {
    /// Positions of each sequence.
    pub t: usize,
    /// What the model reads (n).
    pub ids: Vec<u32>,
    /// What should follow (n).
    pub targets: Vec<u32>,
    /// The position of each row within its document (n); empty where each sequence is one document.
    pub positions: Vec<u32>,
}

impl Padded {
    /// Holds these sequences of a batch, instead of what it held.
    pub fn load(&mut self, batch: &Batch, sequences: Range<usize>) {
        self.ids.clear();
        self.targets.clear();
        self.positions.clear();
        self.t = sequences.clone().map(|i| batch.sequence(i).0.len()).max().unwrap_or(0);
        for (end, i) in (1..).map(|row| row * self.t).zip(sequences) {
            let (ids, targets) = batch.sequence(i);
            self.ids.extend_from_slice(ids);
            self.ids.resize(end, 0);
            self.targets.extend_from_slice(targets);
            self.targets.resize(end, IGNORE);
            let positions = batch.positions(i);
            if !positions.is_empty() {
                self.positions.extend_from_slice(positions);
                // The padding goes on with the last document.
                let next = positions.last().map_or(0, |last| last + 1);
                self.positions.extend((next..).take(end - self.positions.len()));
            }
        }
    }
}

impl Batch {
    /// Empties the batch.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.targets.clear();
        self.ends.clear();
        self.positions.clear();
    }

    /// Adds a sequence: each of `tokens` except the first is the target of the one before it. Returns its targets, so
    /// that the caller can set some to [`IGNORE`].
    pub fn add(&mut self, tokens: &[u32]) -> &mut [u32] {
        let added: Result<_, std::convert::Infallible> = self.add_read(|ids| {
            ids.extend_from_slice(tokens);
            Ok(())
        });
        added.unwrap_or_else(|never| match never {})
    }

    /// Like [`Batch::add`], with the tokens that `read` appends to the vector it is given.
    ///
    /// # Errors
    /// The error that `read` returns; the batch is then unchanged.
    pub fn add_read<E>(&mut self, read: impl FnOnce(&mut Vec<u32>) -> Result<(), E>) -> Result<&mut [u32], E> {
        let first = self.ids.len();
        read(&mut self.ids).inspect_err(|_| self.ids.truncate(first))?;
        if self.ids.len() > first {
            self.targets.extend(&self.ids[first + 1..]);
            self.ids.pop();
            self.ends.push(self.ids.len());
            if !self.positions.is_empty() {
                self.positions.extend(0..(self.ids.len() - first) as u32);
            }
        }
        Ok(&mut self.targets[first..])
    }

    /// Adds a document to the last sequence, like a sequence of its own: it does not see what is before it, and its
    /// positions count from 0. Returns its targets.
    pub fn add_document(&mut self, tokens: &[u32]) -> &mut [u32] {
        let before = self.ends.pop().unwrap_or(0);
        if self.positions.is_empty() {
            let starts = self
                .ends
                .iter()
                .copied()
                .chain([before])
                .scan(0, |start, end| Some(0..(end - std::mem::replace(start, end)) as u32));
            self.positions = starts.flatten().collect();
        }
        self.targets.extend(tokens.iter().skip(1));
        self.ids.extend(tokens.split_last().map_or(&[][..], |(_, inputs)| inputs));
        self.positions.extend(0..(self.ids.len() - before) as u32);
        self.ends.push(self.ids.len());
        &mut self.targets[before..]
    }

    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no sequences.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Number of tokens that the model reads.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// The batch as bytes, for [`Batch::from_bytes`].
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let lens = [self.ids.len(), self.ends.len(), self.positions.len()].map(|len| len as u32);
        let ends = self.ends.iter().map(|&end| end as u32);
        let words = lens.into_iter().chain(self.ids.iter().copied()).chain(self.targets.iter().copied()).chain(ends);
        words.chain(self.positions.iter().copied()).flat_map(u32::to_le_bytes).collect()
    }

    /// What [`Batch::to_bytes`] wrote; `None` if it is something else.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Batch> {
        let mut words = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let [ids, ends, positions] = [words.next()?, words.next()?, words.next()?].map(|len| len as usize);
        let mut take = |n: usize| {
            let some: Vec<u32> = words.by_ref().take(n).collect();
            (some.len() == n).then_some(some)
        };
        let (ids, targets) = (take(ids)?, take(ids)?);
        let ends = take(ends)?.into_iter().map(|end| end as usize).collect();
        Some(Batch { ids, targets, ends, positions: take(positions)? })
    }

    fn row(&self, index: usize) -> Range<usize> {
        index.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[index]
    }

    /// Ids and targets of a sequence.
    pub fn sequence(&self, index: usize) -> (&[u32], &[u32]) {
        let row = self.row(index);
        (&self.ids[row.clone()], &self.targets[row])
    }

    /// The position of each token of a sequence within its document; empty if no sequence of the batch has several.
    pub fn positions(&self, index: usize) -> &[u32] {
        self.positions.get(self.row(index)).unwrap_or_default()
    }

    /// Number of targets that count.
    pub fn counted(&self) -> usize {
        self.targets.iter().filter(|&&target| target != IGNORE).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_of_a_sequence_count_from_zero() {
        let mut batch = Batch::default();
        batch.add(&[1, 2, 3]);
        assert!(batch.positions(0).is_empty());
        batch.add(&[4, 5]);
        batch.add_document(&[6, 7, 8]).fill(IGNORE);
        assert_eq!(batch.sequence(0), (&[1, 2][..], &[2, 3][..]));
        assert_eq!(batch.sequence(1), (&[4, 6, 7][..], &[5, IGNORE, IGNORE][..]));
        batch.add(&[9, 9, 9]);
        let positions: Vec<_> = (0..3).map(|i| batch.positions(i)).collect();
        assert_eq!(positions, [&[0, 1][..], &[0, 0, 1], &[0, 1]]);
        assert_eq!((batch.len(), batch.tokens(), batch.counted()), (3, 7, 5));
        let mut padded = Padded::default();
        padded.load(&batch, 0..2);
        assert_eq!(
            (padded.t, &*padded.ids, &*padded.targets),
            (3, &[1, 2, 0, 4, 6, 7][..], &[2, 3, IGNORE, 5, IGNORE, IGNORE][..])
        );
        assert_eq!(padded.positions, [0, 1, 2, 0, 0, 1]);
        let bytes = batch.to_bytes();
        assert_eq!(Batch::from_bytes(&bytes).unwrap(), batch);
        assert!((0..bytes.len()).all(|len| Batch::from_bytes(&bytes[..len]).is_none()));
        batch.clear();
        batch.add_document(&[1, 2]);
        assert_eq!((batch.len(), batch.sequence(0)), (1, (&[1][..], &[2][..])));
    }
}
