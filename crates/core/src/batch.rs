//! Sequences of token ids: what a model is trained on and measured with.

pub use kinglet_kernels::loss::IGNORE;

/// Sequences to learn from or to be measured on: tokens, and what should follow each.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    ids: Vec<u32>,
    /// As many, of which [`IGNORE`] does not count.
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

    /// Adds a sequence: each of `tokens` but the first is the target of the one before. Returns its targets, so that some can
    /// be made [`IGNORE`].
    pub fn add(&mut self, tokens: &[u32]) -> &mut [u32] {
        let added: Result<_, std::convert::Infallible> = self.add_read(|ids| {
            ids.extend_from_slice(tokens);
            Ok(())
        });
        added.unwrap_or_else(|never| match never {})
    }

    /// The same with the tokens that `read` appends to the vector that it is given.
    ///
    /// # Errors
    /// What `read` says; the batch is as before then.
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

    /// Sequences in it.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Ids and targets of a sequence.
    pub fn sequence(&self, index: usize) -> (&[u32], &[u32]) {
        let row = index.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[index];
        (&self.ids[row.clone()], &self.targets[row])
    }

    /// Targets that count.
    pub fn counted(&self) -> usize {
        self.targets.iter().filter(|&&target| target != IGNORE).count()
    }
}
