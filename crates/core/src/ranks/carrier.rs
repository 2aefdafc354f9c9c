//! What carries messages between ranks.

use crate::error::Result;

/// Processes (or, in tests, threads) that exchange messages. Messages from one rank to another arrive in the order in which they
/// were sent, whole, and with the length that the receiver expects.
///
/// No method waits. Bytes may travel only while some method runs, so whoever waits calls [`Ranks::poll`] again and again, as
/// [`Team`](super::Team) does.
pub trait Ranks: Send + Sync {
    /// Which of them this is, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// Begins to send a message to another rank.
    ///
    /// # Errors
    /// If that rank is known to be lost.
    fn send(&self, to: usize, bytes: Vec<u8>) -> Result<()>;

    /// Begins to receive a message of `len` bytes from another rank, after those that are already expected from it. Whoever
    /// expects several has the next one under way while the first is dealt with.
    ///
    /// # Errors
    /// If that rank is known to be lost.
    fn expect(&self, from: usize, len: usize) -> Result<()>;

    /// The oldest message that is expected from this rank, if it has arrived.
    ///
    /// # Errors
    /// If that rank is known to be lost.
    ///
    /// # Panics
    /// If no message is expected from it.
    fn poll(&self, from: usize) -> Result<Option<Vec<u8>>>;

    /// The messages that have not left this rank yet.
    ///
    /// # Errors
    /// If a rank that one of them is for is known to be lost.
    fn unsent(&self) -> Result<usize>;

    /// Ends all ranks at once, saying why. It is for what cannot go on; nothing is cleaned up.
    fn abort(&self, why: &str) -> !;
}
