//! The sum of the gradients of all ranks, with the bits that one process would have.
//!
//! Floating-point sums depend on their order. So partial sums go along a chain: rank 0 adds up its shards, each next rank adds
//! its own to what it receives, in shard order, and the totals come back the same way. In chunks, so that all links work at the
//! same time: with `N` bytes of gradient a rank sends `N` up and `N` down, and the first chunk is back after `2 (R - 1)` hops.
//!
//! The chunks go in the order in which a backward pass completes them, so the last layers' gradients travel while those of the
//! first layers are still computed.

use super::team::Team;
use crate::{
    config::{Config, Precision},
    params::{Layout, Span},
};
use half::bf16;
use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Instant,
};

/// Numbers of a chunk: 16 KiB, which every MPI sends at once. For longer messages it asks first, and the answer waits behind the
/// chunks that come from the other side: on a link of 100 Mbit/s the chain took up to twice the time.
const CHUNK: usize = 4 * 1024;

/// Chunks that may be under way from a rank, beyond those that the chain's length takes: half a megabyte, which is on its way on a
/// link of 10 Gbit/s while a rank that waits is asleep.
const AHEAD: usize = 32;

/// How a gradient's numbers travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wire {
    /// As they are.
    #[default]
    F32,
    /// Rounded to 16 bits at each hop. The bits of the result then depend on the number of ranks.
    Bf16,
}

impl Wire {
    /// What a run of `config` uses.
    pub fn of(config: &Config) -> Wire {
        if config.reduce_precision == Precision::Bf16 { Wire::Bf16 } else { Wire::F32 }
    }

    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Wire::F32 => 4,
            Wire::Bf16 => 2,
        }
    }

    /// The bytes of these numbers.
    pub(crate) fn write(self, x: &[f32]) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes() * x.len()];
        match self {
            Wire::F32 => {
                let each = bytes.chunks_exact_mut(4).zip(x);
                each.for_each(|(bytes, x)| bytes.copy_from_slice(&x.to_le_bytes()));
            }
            Wire::Bf16 => {
                let each = bytes.chunks_exact_mut(2).zip(x);
                each.for_each(|(bytes, &x)| bytes.copy_from_slice(&bf16::from_f32(x).to_le_bytes()));
            }
        }
        bytes
    }

    /// The numbers of these bytes.
    pub(crate) fn read(self, bytes: &[u8], x: &mut [f32]) {
        assert_eq!(bytes.len(), self.bytes() * x.len());
        match self {
            Wire::F32 => {
                let each = x.iter_mut().zip(bytes.chunks_exact(4));
                each.for_each(|(x, b)| *x = f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            }
            Wire::Bf16 => {
                let each = x.iter_mut().zip(bytes.chunks_exact(2));
                each.for_each(|(x, b)| *x = bf16::from_le_bytes([b[0], b[1]]).to_f32());
            }
        }
    }
}

/// Chunks that may be under way from a rank that has so many behind it.
fn window(behind: usize) -> usize {
    2 * behind + AHEAD
}

/// The chunks of a gradient, in the order in which a backward pass completes them.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    spans: Vec<Span>,
    /// Where the chunks of each stage end: see [`Layout::stage`].
    ends: Vec<usize>,
}

impl Chunks {
    /// Those of a model's gradient.
    pub(crate) fn of(layout: &Layout) -> Chunks {
        let trained = layout.trained();
        let stage = |chunk: Span| {
            let within = trained.iter().filter(|tensor| tensor.trains.within(chunk).is_some());
            within.map(|tensor| layout.stage(tensor)).max().unwrap_or(0)
        };
        let chunks = layout.trainable.iter().flat_map(|span| {
            span.range().step_by(CHUNK).map(|start| Span { start, len: CHUNK.min(span.range().end - start) })
        });
        let mut chunks: Vec<(usize, Span)> = chunks.map(|chunk| (stage(chunk), chunk)).collect();
        chunks.sort_by_key(|&(stage, _)| stage);
        let ends = (0..layout.stages()).map(|stage| chunks.partition_point(|chunk| chunk.0 <= stage)).collect();
        Chunks { spans: chunks.into_iter().map(|(_, span)| span).collect(), ends }
    }

    /// All of them.
    pub(crate) fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Those that a stage completes, with their numbers.
    pub(crate) fn of_stage(&self, stage: usize) -> impl Iterator<Item = (usize, Span)> {
        let start = stage.checked_sub(1).map_or(0, |before| self.ends[before]);
        (start..self.ends[stage]).map(|i| (i, self.spans[i]))
    }
}

/// What a sum over several ranks sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// The bytes of each chunk, in the order in which they go. A rank sends all of them to each neighbour that it has.
    pub chunks: Vec<usize>,
}

impl Traffic {
    /// That of a model's gradient.
    pub fn of(layout: &Layout, wire: Wire) -> Traffic {
        Traffic { chunks: Chunks::of(layout).spans.iter().map(|span| wire.bytes() * span.len).collect() }
    }

    /// Bytes of a gradient.
    pub fn bytes(&self) -> usize {
        self.chunks.iter().sum()
    }

    /// Chunks that rank 0 of so many has sent at most, and whose totals have not come back.
    pub fn window(ranks: usize) -> usize {
        window(ranks - 1)
    }

    /// Bytes of messages that a rank of so many holds at most: those that it expects, and those that have not left it.
    pub fn in_flight(&self, ranks: usize) -> usize {
        let largest = self.chunks.iter().max().unwrap_or(&0);
        if ranks == 1 { 0 } else { 2 * self.bytes().min(Traffic::window(ranks) * largest) }
    }
}

/// A chunk of the gradient of one of a rank's shards.
pub(crate) struct Part {
    /// Which of the rank's shards.
    pub(crate) shard: usize,
    /// Which chunk.
    pub(crate) chunk: usize,
    /// Its numbers.
    pub(crate) numbers: Vec<f32>,
}

/// What a rank's shards have computed of each chunk so far.
struct Own {
    /// Of each chunk, that of each shard.
    parts: Vec<Vec<Option<Vec<f32>>>>,
    shards: usize,
    /// How many parts are still to be computed.
    left: usize,
}

impl Own {
    fn add(&mut self, part: Part) {
        self.left -= 1;
        self.parts[part.chunk][part.shard] = Some(part.numbers);
    }

    fn has(&self, chunk: usize) -> bool {
        self.parts[chunk].iter().all(Option::is_some)
    }

    /// The sum of what came before, if anything did, and of each shard's, in this order.
    fn take(&mut self, chunk: usize, before: Option<Vec<f32>>) -> Vec<f32> {
        debug_assert_eq!(self.parts[chunk].len(), self.shards);
        let own = std::mem::take(&mut self.parts[chunk]).into_iter().flatten();
        let sum = before.into_iter().chain(own).reduce(|mut sum, next| {
            sum.iter_mut().zip(&next).for_each(|(sum, x)| *sum += x);
            sum
        });
        sum.expect("a rank has a shard")
    }
}

/// The totals of all chunks over all ranks, whose shards send their parts as they are computed. `None` if they cease to.
pub(crate) fn sum(
    team: &Team,
    wire: Wire,
    chunks: &Chunks,
    shards: usize,
    parts: &Receiver<Part>,
) -> Option<Vec<Vec<f32>>> {
    let (rank, last, ranks) = (team.rank(), team.size() - 1, team.ranks());
    let n = chunks.spans.len();
    let window = window(last - rank);
    let expect = |from: usize, chunk: usize| {
        if let Some(span) = chunks.spans.get(chunk) {
            team.sure(ranks.expect(from, wire.bytes() * span.len));
        }
    };
    let read = |bytes: &[u8]| {
        let mut numbers = vec![0.0; bytes.len() / wire.bytes()];
        wire.read(bytes, &mut numbers);
        numbers
    };
    for chunk in 0..window {
        if rank > 0 {
            expect(rank - 1, chunk);
        }
        if rank < last {
            expect(rank + 1, chunk);
        }
    }
    let mut own = Own { parts: vec![vec![None; shards]; n], shards, left: n * shards };
    // Those of chunks that came back, and the number of chunks that went up.
    let (mut totals, mut up) = (Vec::with_capacity(n), 0);
    let mut waiting = Instant::now();
    while totals.len() < n {
        parts.try_iter().for_each(|part| own.add(part));
        let mut moved = false;
        if up < n && up < totals.len() + window && own.has(up) {
            let before = if rank > 0 { team.sure(ranks.poll(rank - 1)) } else { None };
            if rank == 0 || before.is_some() {
                let sum = own.take(up, before.map(|bytes| read(&bytes)));
                let bytes = wire.write(&sum);
                if rank == last {
                    // All ranks have what the others receive.
                    totals.push(if wire == Wire::F32 { sum } else { read(&bytes) });
                }
                team.send(if rank == last { rank - 1 } else { rank + 1 }, bytes);
                if rank > 0 {
                    expect(rank - 1, up + window);
                }
                up += 1;
                moved = true;
            }
        }
        if rank < last
            && totals.len() < up
            && let Some(bytes) = team.sure(ranks.poll(rank + 1))
        {
            expect(rank + 1, totals.len() + window);
            totals.push(read(&bytes));
            if rank > 0 {
                team.send(rank - 1, bytes);
            }
            moved = true;
        }
        if moved {
            waiting = Instant::now();
        } else if own.left > 0 {
            // This rank itself is not done: nobody hangs, and its shards need the cores.
            waiting = Instant::now();
            match parts.recv_timeout(Team::PAUSE) {
                Ok(part) => own.add(part),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        } else {
            team.pause(waiting, "the next chunk of gradients");
        }
    }
    Some(totals)
}
