//! What rank 0 tells the others to do.

use super::team::Team;
use crate::{batch::Batch, params::Span};

/// A command of rank 0, which runs the loop; the others do as they are told.
#[derive(Debug)]
pub(crate) enum Command {
    /// A run begins.
    Begin {
        /// Its configuration (TOML).
        config: String,
        /// Whether each rank updates a part of the weights.
        parts: bool,
    },
    /// The weights follow; and the moments, where there have been updates since they were zero.
    State {
        /// Updates made with the moments.
        updates: u64,
        /// Whether the moments are all zero.
        fresh: bool,
    },
    /// Send the optimizer's moments of your part to rank 0.
    Fetch {
        /// Whether these are the second ones.
        second: bool,
        /// Which numbers, where they are yours.
        span: Span,
    },
    /// Compute the gradient of the loss of a batch.
    Gradient {
        /// The seed of dropout.
        seed: u64,
        /// The update that it is for.
        step: u64,
        /// All sequences, also those of the other ranks.
        batch: Batch,
    },
    /// Update the weights with the last gradient.
    Update {
        /// The gradient's norm.
        grad_norm: f64,
        /// The factor on all learning rates.
        lr_scale: f64,
        /// The update.
        step: u64,
    },
    /// Measure the losses of these sequences.
    Measure(Batch),
    /// The run is over.
    End,
    /// All is over.
    Quit,
}

/// A command's number and its three words.
type Head = [u64; 4];

/// Bytes of a header: [`Head`], and the length of what follows.
const HEAD: usize = 40;

impl Command {
    fn encode(&self) -> (Head, Vec<u8>) {
        match self {
            Command::Begin { config, parts } => ([0, (*parts).into(), 0, 0], config.as_bytes().to_vec()),
            &Command::State { updates, fresh } => ([1, updates, fresh.into(), 0], Vec::new()),
            Command::Gradient { seed, step, batch } => ([2, *seed, *step, 0], batch.to_bytes()),
            Command::Update { grad_norm, lr_scale, step } => {
                ([3, grad_norm.to_bits(), lr_scale.to_bits(), *step], Vec::new())
            }
            Command::Measure(batch) => ([4, 0, 0, 0], batch.to_bytes()),
            &Command::Fetch { second, span } => ([7, second.into(), span.start as u64, span.len as u64], Vec::new()),
            Command::End => ([5, 0, 0, 0], Vec::new()),
            Command::Quit => ([6, 0, 0, 0], Vec::new()),
        }
    }

    fn decode([number, a, b, c]: Head, bytes: Vec<u8>) -> Option<Command> {
        Some(match number {
            0 => Command::Begin { config: String::from_utf8(bytes).ok()?, parts: a != 0 },
            1 => Command::State { updates: a, fresh: b != 0 },
            2 => Command::Gradient { seed: a, step: b, batch: Batch::from_bytes(&bytes)? },
            3 => Command::Update { grad_norm: f64::from_bits(a), lr_scale: f64::from_bits(b), step: c },
            4 => Command::Measure(Batch::from_bytes(&bytes)?),
            5 => Command::End,
            6 => Command::Quit,
            7 => Command::Fetch { second: a != 0, span: Span { start: b as usize, len: c as usize } },
            _ => return None,
        })
    }
}

impl Team {
    /// Rank 0 tells the others what to do. Alone, there is nobody to tell.
    pub(crate) fn tell(&self, command: &Command) {
        if self.is_alone() {
            return;
        }
        let (head, bytes) = command.encode();
        let words = head.into_iter().chain([bytes.len() as u64]);
        self.broadcast(words.flat_map(u64::to_le_bytes).collect(), HEAD);
        if !bytes.is_empty() {
            let len = bytes.len();
            self.broadcast(bytes, len);
        }
    }

    /// What rank 0 tells this one to do.
    pub(crate) fn hear(&self) -> Command {
        let head = self.broadcast(Vec::new(), HEAD);
        let words: Vec<u64> = head.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().expect("eight"))).collect();
        let len = words[4] as usize;
        let bytes = if len > 0 { self.broadcast(Vec::new(), len) } else { Vec::new() };
        let command = Command::decode([words[0], words[1], words[2], words[3]], bytes);
        command.unwrap_or_else(|| self.abort("rank 0 sent a command that this program does not know: other versions?"))
    }
}
