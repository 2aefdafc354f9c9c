//! What the conversations of a corpus are like, also those that are too long for a model.

use crate::text::chat::{ASSISTANT, Message};
use serde::Serialize;
use std::collections::BTreeMap;

/// Roles that are counted one by one; in a broken file each message may have another.
const ROLES: usize = 32;

/// The share of the conversations that a context should hold.
const MOST: f64 = 0.99;

/// Contexts are multiples of this.
const STEP: usize = 32;

/// Largest context that a model may have.
const LARGEST: usize = 65_536;

/// What the conversations of a corpus are like.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Chats {
    /// Messages in all.
    pub messages: u64,
    /// Messages of each role.
    pub roles: BTreeMap<String, u64>,
    /// Messages of the assistant that are to be learned.
    pub answers: u64,
    /// Conversations with more than one message of the assistant.
    pub several_answers: u64,
    /// Tokens of each conversation, in ascending order.
    #[serde(skip)]
    lengths: Vec<usize>,
}

impl Chats {
    /// Counts a conversation's messages.
    pub(super) fn add(&mut self, messages: &[Message]) {
        self.messages += messages.len() as u64;
        for message in messages {
            let known = self.roles.len() < ROLES || self.roles.contains_key(&message.role);
            let role = if known { message.role.clone() } else { "(others)".to_owned() };
            *self.roles.entry(role).or_default() += 1;
        }
        let answers = || messages.iter().filter(|message| message.role == ASSISTANT);
        self.answers += answers().filter(|message| message.learned).count() as u64;
        self.several_answers += u64::from(answers().count() > 1);
    }

    /// The same with the tokens of each conversation.
    pub(super) fn with_lengths(mut self, mut lengths: Vec<usize>) -> Chats {
        lengths.sort_unstable();
        self.lengths = lengths;
        self
    }

    /// The number of conversations.
    pub fn count(&self) -> usize {
        self.lengths.len()
    }

    /// Tokens of the longest conversation.
    pub fn longest(&self) -> usize {
        self.lengths.last().copied().unwrap_or(0)
    }

    /// Tokens of the conversation in the middle, by length.
    pub fn median(&self) -> usize {
        self.lengths.get(self.lengths.len() / 2).copied().unwrap_or(0)
    }

    /// How many conversations a model with this context holds whole: one more token than it sees, because the last is only
    /// predicted.
    pub fn fitting(&self, block_size: usize) -> usize {
        self.lengths.partition_point(|&tokens| tokens <= block_size + 1)
    }

    /// The contexts 64, 128, ... up to the first that holds all conversations, each with the number that it holds.
    pub fn by_block_size(&self) -> Vec<(usize, usize)> {
        let mut sizes = Vec::new();
        let mut block_size = 64;
        loop {
            sizes.push((block_size, self.fitting(block_size)));
            if block_size == LARGEST || self.fitting(block_size) == self.count() {
                return sizes;
            }
            block_size *= 2;
        }
    }

    /// The smallest context, a multiple of 32, that holds 99 % of the conversations; `None` if no model may have it.
    pub fn block_size(&self) -> Option<usize> {
        let enough = (MOST * self.count() as f64).ceil() as usize;
        let tokens = *self.lengths.get(enough.checked_sub(1)?)?;
        let block_size = tokens.saturating_sub(1).max(1).next_multiple_of(STEP);
        (block_size <= LARGEST).then_some(block_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_lengths(lengths: impl IntoIterator<Item = usize>) -> Chats {
        Chats::default().with_lengths(lengths.into_iter().collect())
    }

    #[test]
    fn contexts_hold_what_they_are_said_to_hold() {
        let chats = of_lengths((1..=200).rev());
        assert_eq!((chats.count(), chats.longest(), chats.median()), (200, 200, 101));
        assert_eq!([63, 64, 199, 200].map(|block_size| chats.fitting(block_size)), [64, 65, 200, 200]);
        assert_eq!(chats.by_block_size(), [(64, 65), (128, 129), (256, 200)]);
        // 198 of 200 have up to 198 tokens, which takes a context of 197.
        assert_eq!(chats.block_size(), Some(224));
        for (lengths, block_size) in [(vec![33; 5], 32), (vec![34; 5], 64), (vec![2], 32), (vec![65_537; 3], 65_536)] {
            assert_eq!(of_lengths(lengths).block_size(), Some(block_size));
        }
        assert_eq!(of_lengths([70_000]).block_size(), None);
        assert_eq!(of_lengths([70_000]).by_block_size().last(), Some(&(65_536, 0)));
        assert_eq!(of_lengths([]).block_size(), None);
    }

    #[test]
    fn messages_are_counted_by_role() {
        let mut chats = Chats::default();
        let mut said = ["user", ASSISTANT, "user", ASSISTANT].map(|role| Message::new(role, "a"));
        chats.add(&said[..2]);
        said[3].learned = false;
        chats.add(&said);
        assert_eq!((chats.messages, chats.answers, chats.several_answers), (6, 2, 1));
        assert_eq!(chats.roles["user"], 3);
        (0..99).for_each(|i| chats.add(&[Message::new(&i.to_string(), "a")]));
        assert_eq!((chats.roles.len(), chats.roles["(others)"]), (ROLES + 1, 69));
    }
}
