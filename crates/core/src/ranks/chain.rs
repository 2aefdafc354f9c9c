//! The sum of the gradients of all ranks, with the bits that one process would have.
//!
//! Floating-point sums depend on their order. So partial sums go along a chain: rank 0 adds up its shards, each next rank adds
//! its own to what it receives, in shard order, and the totals come back the same way. In chunks, so that all links work at the
//! same time: with `N` bytes of gradient a rank sends `N` up and `N` down, and the first chunk is back after `2 (R - 1)` hops.

use super::Team;
use crate::{backend::Backward, params::Span};
use half::bf16;

/// Numbers of a chunk: few enough that a chain of a small model is busy, enough that a message is worth its overhead. It is a
/// multiple of the pieces whose squares are summed by themselves.
pub const CHUNK: usize = 64 * 1024;

/// Chunks that may be under way from a rank, beyond those that the chain's length takes.
const AHEAD: usize = 4;

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
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Wire::F32 => 4,
            Wire::Bf16 => 2,
        }
    }

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

    fn read(self, bytes: &[u8], x: &mut Vec<f32>) {
        x.resize(bytes.len() / self.bytes(), 0.0);
        self.read_into(bytes, x);
    }

    pub(crate) fn read_into(self, bytes: &[u8], x: &mut [f32]) {
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

/// Adds up `grads`, the gradients of this rank's shards, and those of the ranks before and after it, in shard order; the total is
/// then in the first of them, on every rank. Returns the sum of its squares.
pub(crate) fn sum<B: Backward>(be: &B, team: &Team, wire: Wire, grads: &mut [&mut B::Buf], spans: &[Span]) -> f64 {
    let mut squares = Vec::new();
    if team.is_alone() {
        be.reduce(&[], grads, spans, &mut squares);
        return squares.iter().sum();
    }
    let (rank, last) = (team.rank(), team.size() - 1);
    let ranks = team.ranks();
    let chunks: Vec<Span> = spans.iter().flat_map(|&span| chunks(span)).collect();
    // What the last rank sends back with the last chunk: the sum of squares.
    let len = |i: usize| wire.bytes() * chunks[i].len;
    let window = 2 * (last - rank) + AHEAD;
    let expect = |from: usize, i: usize| {
        if i < chunks.len() {
            team.sure(ranks.expect(from, len(i)));
        }
    };
    for i in 0..window.min(chunks.len()) {
        if rank > 0 {
            expect(rank - 1, i);
        }
        if rank < last {
            expect(rank + 1, i);
        }
    }
    let mut numbers = Vec::new();
    // Chunks that went up, and that came back.
    let (mut up, mut down) = (0, 0);
    while down < chunks.len() {
        team.wait("the next chunk of gradients", || {
            let mut moved = false;
            if up < chunks.len() && up < down + window {
                numbers.clear();
                let arrived = rank == 0 || {
                    let bytes = team.sure(ranks.poll(rank - 1));
                    bytes.is_some_and(|bytes| {
                        wire.read(&bytes, &mut numbers);
                        true
                    })
                };
                if arrived {
                    let span = chunks[up];
                    // Rank 0 has nothing before its own.
                    be.reduce(&numbers, grads, &[span], &mut squares);
                    numbers.resize(span.len, 0.0);
                    be.download(grads[0], span.start, &mut numbers);
                    let bytes = wire.write(&numbers);
                    if rank == last {
                        down += 1;
                        if wire != Wire::F32 {
                            // All ranks have what the others receive.
                            wire.read(&bytes, &mut numbers);
                            be.upload(grads[0], span.start, &numbers);
                        }
                    }
                    team.sure(ranks.send(if rank == last { rank - 1 } else { rank + 1 }, bytes));
                    if rank > 0 {
                        expect(rank - 1, up + window);
                    }
                    up += 1;
                    moved = true;
                }
            }
            if rank < last
                && down < up
                && let Some(bytes) = team.sure(ranks.poll(rank + 1))
            {
                wire.read(&bytes, &mut numbers);
                be.upload(grads[0], chunks[down].start, &numbers);
                if rank > 0 {
                    team.sure(ranks.send(rank - 1, bytes));
                }
                expect(rank + 1, down + window);
                down += 1;
                moved = true;
            }
            moved.then_some(())
        });
    }
    // The last rank alone saw all totals.
    let total: f64 = squares.iter().sum();
    let total = if rank == last { total.to_le_bytes().to_vec() } else { team.receive(rank + 1, 8) };
    if rank > 0 {
        team.send(rank - 1, total.clone());
    }
    f64::from_le_bytes(total.try_into().expect("eight bytes"))
}

/// The chunks of a span.
fn chunks(span: Span) -> impl Iterator<Item = Span> {
    (0..span.len).step_by(CHUNK).map(move |at| Span { start: span.start + at, len: CHUNK.min(span.len - at) })
}
