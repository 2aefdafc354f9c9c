//! Files that something happened to.

use proptest::{collection, prelude::*, sample::Index};

/// Where a file is changed, with which byte, and how.
pub(crate) type Changes = Vec<(Index, u8, u8)>;

/// A few changes.
pub(crate) fn changes() -> impl Strategy<Value = Changes> {
    collection::vec((any::<Index>(), any::<u8>(), 0..4u8), 1..6)
}

/// Applies them: a byte becomes another, one is put in, the rest is cut off, or a piece is there twice.
pub(crate) fn damage(bytes: &mut Vec<u8>, changes: Changes) {
    for (at, byte, how) in changes {
        let at = at.index(bytes.len().max(1)).min(bytes.len());
        match how {
            0 if at < bytes.len() => bytes[at] = byte,
            1 => bytes.insert(at, byte),
            2 => bytes.truncate(at),
            _ => {
                let piece = bytes[at..bytes.len().min(at + usize::from(byte))].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
}
