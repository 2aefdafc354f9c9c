//! Sequences of token ids: what a model is trained and evaluated on.

pub use kinglet_kernels::loss::IGNORE;

/// Sequences to train or evaluate on: tokens, and the target that should follow each.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    ids: Vec<u32>,
    /// One for each token; [`IGNORE`] marks those that do not count.
    targets: Vec<u32>,
    /// Where each sequence ends.
    ends: Vec<usize>,
}

impl Batch {
    /// Empties the batch.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.targets.clear();
        self.ends.clear();
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
        }
        Ok(&mut self.targets[first..])
    }

    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no sequences.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Ids and targets of a sequence.
    pub fn sequence(&self, index: usize) -> (&[u32], &[u32]) {
        let row = index.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[index];
        (&self.ids[row.clone()], &self.targets[row])
    }

    /// Number of targets that count.
    pub fn counted(&self) -> usize {
        self.targets.iter().filter(|&&target| target != IGNORE).count()
    }
}
