//! Messages between rank 0 and the ranks that train runs for it: a header of fixed length, and then what it says follows.

use kinglet_core::{
    error::{Error, Result},
    ranks::Ranks,
};
use std::ops::Range;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Nothing has happened, but the sender is there.
    Beat,
    /// To train a run, with this number: how. Its files follow.
    Task,
    /// A file of a run: the length of its name, the name, and what is in it.
    File,
    /// All files of the run are there: it begins.
    Go,
    /// To save a checkpoint and send the run back.
    Stop,
    /// There will be no more runs. It is the last message of rank 0.
    Quit,
    /// An update was made: numbers.
    Step,
    /// A loss is being measured: numbers.
    Measuring,
    /// A note on the run.
    Note,
    /// A warning about the run: the step, and the words.
    Warning,
    /// This rank was asked to stop.
    Asked,
    /// The run of this number is back, and how it ended.
    Ended,
    /// The run of this number has failed, and why.
    Failed,
    /// The answer to [`Kind::Quit`], and the last message of a rank.
    Bye,
}

impl Kind {
    const ALL: [Kind; 14] = [
        Kind::Beat,
        Kind::Task,
        Kind::File,
        Kind::Go,
        Kind::Stop,
        Kind::Quit,
        Kind::Step,
        Kind::Measuring,
        Kind::Note,
        Kind::Warning,
        Kind::Asked,
        Kind::Ended,
        Kind::Failed,
        Kind::Bye,
    ];

    /// Whether nothing follows.
    fn is_last(self) -> bool {
        matches!(self, Kind::Quit | Kind::Bye)
    }
}

/// A message.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Message {
    pub(super) kind: Kind,
    /// The number of the run that it is about.
    pub(super) number: usize,
    pub(super) bytes: Vec<u8>,
}

/// Bytes of a header: the kind, the number, and how many bytes follow.
const HEAD: usize = 24;

/// The bytes that follow come in pieces of at most so many: each shows that the sender is there.
const PIECE: usize = 1 << 20;

fn pieces(len: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(PIECE).map(move |start| start..len.min(start + PIECE))
}

impl Message {
    /// A message without bytes.
    pub(super) fn plain(kind: Kind, number: usize) -> Message {
        Message { kind, number, bytes: Vec::new() }
    }

    /// A file of a run.
    pub(super) fn file(number: usize, name: &str, content: &[u8]) -> Message {
        let len = (name.len() as u64).to_le_bytes();
        Message { kind: Kind::File, number, bytes: [&len[..], name.as_bytes(), content].concat() }
    }

    /// The name and the content of a file.
    pub(super) fn as_file(&self) -> Option<(&str, &[u8])> {
        let (len, rest) = self.bytes.split_first_chunk()?;
        let (name, content) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
        Some((std::str::from_utf8(name).ok()?, content))
    }

    /// A message of numbers.
    pub(super) fn numbers(kind: Kind, number: usize, numbers: &[f64]) -> Message {
        Message { kind, number, bytes: numbers.iter().flat_map(|x| x.to_le_bytes()).collect() }
    }

    /// The numbers, if there are so many.
    pub(super) fn as_numbers<const N: usize>(&self) -> Option<[f64; N]> {
        let all: Vec<f64> =
            self.bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("eight"))).collect();
        all.try_into().ok()
    }

    /// A message of words.
    pub(super) fn of_words(kind: Kind, number: usize, words: &str) -> Message {
        Message { kind, number, bytes: words.as_bytes().to_vec() }
    }

    /// The words.
    pub(super) fn words(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// Begins to send it.
    ///
    /// # Errors
    /// If the rank is known to be lost.
    pub(super) fn send(self, ranks: &dyn Ranks, to: usize) -> Result<()> {
        let words = [self.kind as u64, self.number as u64, self.bytes.len() as u64];
        ranks.send(to, words.iter().flat_map(|word| word.to_le_bytes()).collect())?;
        pieces(self.bytes.len()).try_for_each(|piece| ranks.send(to, self.bytes[piece].to_vec()))
    }
}

/// What comes from one rank.
pub(super) struct Inbox {
    from: usize,
    /// The message whose bytes are coming, and how many there will be.
    coming: Option<(Message, usize)>,
    over: bool,
}

/// What has come.
pub(super) enum Came {
    Nothing,
    /// A part of a message.
    Part,
    Message(Message),
}

impl Inbox {
    /// Begins to listen to a rank.
    ///
    /// # Errors
    /// If it is known to be lost.
    pub(super) fn new(ranks: &dyn Ranks, from: usize) -> Result<Inbox> {
        ranks.expect(from, HEAD)?;
        Ok(Inbox { from, coming: None, over: false })
    }

    /// What has come.
    ///
    /// # Errors
    /// If the rank is known to be lost, or says what no version of this program says.
    pub(super) fn poll(&mut self, ranks: &dyn Ranks) -> Result<Came> {
        if self.over {
            return Ok(Came::Nothing);
        }
        let Some(bytes) = ranks.poll(self.from)? else { return Ok(Came::Nothing) };
        let (mut message, len) = match self.coming.take() {
            Some((mut message, len)) => {
                message.bytes.extend(bytes);
                (message, len)
            }
            None => {
                let head = head(&bytes).ok_or_else(|| Error::Ranks(format!("rank {} is not understood", self.from)))?;
                pieces(head.1).try_for_each(|piece| ranks.expect(self.from, piece.len()))?;
                head
            }
        };
        if message.bytes.len() < len {
            message.bytes.reserve_exact(len - message.bytes.len());
            self.coming = Some((message, len));
            return Ok(Came::Part);
        }
        self.over = message.kind.is_last();
        if !self.over {
            ranks.expect(self.from, HEAD)?;
        }
        Ok(Came::Message(message))
    }
}

fn head(bytes: &[u8]) -> Option<(Message, usize)> {
    let mut words = bytes.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().expect("eight")));
    let mut word = || usize::try_from(words.next()?).ok();
    let (kind, number, len) = (word()?, word()?, word()?);
    Some((Message::plain(*Kind::ALL.get(kind)?, number), len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kinglet_core::ranks::threads;

    #[test]
    fn messages_arrive_as_they_were_sent() {
        let ranks = threads(2);
        let long = vec![7; 2 * PIECE + 3];
        let sent = [
            Message::plain(Kind::Beat, 0),
            Message::file(3, "checkpoints/step-000001/é", &long),
            Message::file(3, "", b""),
            Message::numbers(Kind::Step, 9, &[1.0, f64::INFINITY]),
            Message::plain(Kind::Quit, 0),
        ];
        let mut inbox = Inbox::new(&*ranks[1], 0).unwrap();
        assert!(matches!(inbox.poll(&*ranks[1]), Ok(Came::Nothing)));
        for message in &sent {
            message.clone().send(&*ranks[0], 1).unwrap();
        }
        let mut came = Vec::new();
        while came.len() < sent.len() {
            if let Came::Message(message) = inbox.poll(&*ranks[1]).unwrap() {
                came.push(message);
            }
        }
        assert_eq!(came, sent);
        assert_eq!(came[1].as_file(), Some(("checkpoints/step-000001/é", &long[..])));
        assert_eq!(came[3].as_numbers(), Some([1.0, f64::INFINITY]));
        assert_eq!(came[3].as_numbers::<3>(), None);
        assert_eq!(Message::plain(Kind::File, 0).as_file(), None);
        // After the last message nothing is expected any more.
        assert!(matches!(inbox.poll(&*ranks[1]), Ok(Came::Nothing)));
    }

    #[test]
    fn who_is_gone_or_speaks_otherwise_is_noticed() {
        let mut ranks = threads(3);
        let mut inboxes = [1, 2].map(|from| Inbox::new(&*ranks[0], from).unwrap());
        ranks[2].send(0, vec![255; HEAD]).unwrap();
        assert!(inboxes[1].poll(&*ranks[0]).is_err_and(|error| error.to_string().contains("rank 2 is not understood")));
        ranks.remove(1);
        assert!(inboxes[0].poll(&*ranks[0]).is_err());
    }
}
