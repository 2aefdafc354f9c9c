//! The mathematics: each operation against the reference, and the reference against differences.

mod batches;
mod close;
mod conformance;
mod few_bits;
mod gradcheck;
mod masters;
mod sampling;
mod unchecked;

use kinglet_core::{
    backend::{Gradients, Pass, Rows},
    params::{Linear, Param, Span},
};

fn param(start: usize, len: usize) -> Param {
    Param { span: Span { start, len }, trainable: true }
}

fn rows(n: usize) -> Rows<'static> {
    Rows::new(1, n)
}

/// A layer without adapter.
fn plain(w: Param, b: Option<Param>, i: usize, o: usize) -> Linear {
    Linear { w, b, i, o, lora: None }
}

/// A pass without dropout.
fn pass<'a, Buf>(p: &'a Buf, rows: Rows<'a>) -> Pass<'a, Buf> {
    Pass { p, rows, dropout: None }
}

/// Gradients that are added to what is there.
fn add_to<Buf>(g: &mut Buf) -> Gradients<'_, Buf> {
    Gradients { g, add: true }
}
