//! Weights in few bits on the CPU: where they are among the parameters, and products with them.
//!
//! They take the place of numbers in a buffer of parameters. Memory for these numbers is set aside and never touched, so that
//! the system does not provide it.

use crate::{
    config::Quantization,
    params::Span,
    quant::Rounded,
    threads::{self, for_each},
};
use kinglet_kernels::{
    Epilogue, Isa, MatMut,
    int8::{self, Inputs, Outputs, Panels},
};
use rayon::prelude::*;
use std::cell::RefCell;

/// Number of rows at which multiplying takes as long as reading the weights.
pub(super) const FEW_ROWS: usize = 8;

/// The matrices of few bits in a buffer of parameters.
#[derive(Debug, Default)]
pub(super) struct Integers(Vec<(Span, Panels)>);

impl Integers {
    /// Puts a matrix at a place.
    pub(super) fn place(&mut self, start: usize, w: &Rounded) {
        let (rows, cols) = w.shape();
        let panels = match w.scheme() {
            Quantization::W4 => Panels::of_groups(w.codes(), rows, w.scales()),
            _ => Panels::of_rows(w.codes(), w.scales()),
        };
        let span = Span { start, len: rows * cols };
        self.0.retain(|(other, _)| other.start != start);
        self.0.push((span, panels));
    }

    /// Forgets all that numbers have been written over.
    pub(super) fn overwrite(&mut self, start: usize, len: usize) {
        self.0.retain(|(span, _)| span.range().end <= start || start + len <= span.start);
    }

    /// How many numbers they stand for.
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|(span, _)| span.len).sum()
    }

    /// Bytes that they take.
    pub(super) fn bytes(&self) -> usize {
        self.0.iter().map(|(_, panels)| panels.bytes()).sum()
    }

    /// The matrix that begins at a place.
    pub(super) fn at(&self, start: usize) -> Option<&Panels> {
        self.0.iter().find(|(span, _)| span.start == start).map(|(_, panels)| panels)
    }

    /// Writes the numbers that matrices stand for over those at `start` and after it.
    pub(super) fn numbers(&self, start: usize, to: &mut [f32]) {
        for (span, panels) in &self.0 {
            let (_, cols) = panels.shape();
            let mut row = vec![0.0; cols];
            let (first, end) = (span.start.max(start), span.range().end.min(start + to.len()));
            let mut at = first;
            while at < end {
                let (number, skip) = ((at - span.start) / cols, (at - span.start) % cols);
                panels.row(number, &mut row);
                let len = (cols - skip).min(end - at);
                to[at - start..][..len].copy_from_slice(&row[skip..][..len]);
                at += len;
            }
        }
    }
}

/// `y (n, o) = x (n, i) W^T + bias`, with `epilogue` applied to strips of it. From `spread` multiply-adds on, the longer side of
/// `y` is split across threads.
pub(super) fn product(isa: Isa, y: &mut [f32], x: &[f32], w: Outputs, spread: usize, epilogue: Option<Epilogue>) {
    let (o, i) = w.panels.shape();
    let n = x.len() / i;
    let y = MatMut::new(&mut y[..n * o], n, o);
    with_inputs(|inputs| {
        inputs.round(isa, x, i);
        let threads = threads::current();
        if threads == 1 || n.max(FEW_ROWS) * o * i < spread {
            return int8::product(isa, y, &inputs.all(), w, epilogue);
        }
        let (rows, cols) = split(n, o, threads, int8::WIDTH);
        let blocks: Vec<_> = y.blocks(rows, cols).collect();
        for_each(blocks.into_par_iter(), |(rows, cols, y)| {
            let w = Outputs { first: cols.start, ..w };
            int8::product(isa, y, &inputs.all().part(rows), w, epilogue);
        });
    });
}

/// Rows and columns of the blocks that a product `(m, n)` is divided into, one or a few for each thread: its longer side is
/// divided, columns at multiples of `step`.
pub(super) fn split(m: usize, n: usize, threads: usize, step: usize) -> (usize, usize) {
    let width = n.div_ceil(threads).next_multiple_of(step);
    let enough_columns = n.div_ceil(width) >= threads.min(m);
    if n > m && enough_columns { (m, width) } else { (m.div_ceil(threads), n) }
}

/// Runs `work` with memory for rounded inputs, which the thread keeps for the next call.
fn with_inputs<R>(work: impl FnOnce(&mut Inputs) -> R) -> R {
    thread_local! {
        static INPUTS: RefCell<Vec<Inputs>> = RefCell::default();
    }
    // Off the list while in use: a thread that waits for others inside `work` may run another task that needs some too.
    let mut inputs = INPUTS.with_borrow_mut(Vec::pop).unwrap_or_default();
    let result = work(&mut inputs);
    INPUTS.with_borrow_mut(|kept| kept.push(inputs));
    result
}
