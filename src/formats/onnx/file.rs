//! The file of a graph.

mod graph;
mod model;
mod proto;

use super::options::Options;
use crate::formats::portable::Portable;
use std::{
    io::{self, Write},
    path::Path,
};

/// The version of ONNX's file format that came with an opset.
fn ir_version(opset: i64) -> i64 {
    if opset < 21 { 8 } else { 10 }
}

/// A file as protocol buffers have it may have 2 GiB; this leaves room for all but the tensors.
const LARGEST: u64 = (1 << 31) - (1 << 26);

/// A model's graph, ready to be written.
pub(super) struct File<'a> {
    graph: graph::Graph<'a>,
    opset: i64,
    largest: u64,
}

impl<'a> File<'a> {
    /// The graph of a model.
    pub(super) fn new(model: &'a Portable, options: &'a Options) -> File<'a> {
        File { graph: model::graph(model, options), opset: model::opset(&model.config), largest: LARGEST }
    }

    /// The same, with the numbers in a file of their own from this many bytes on.
    #[cfg(test)]
    pub(super) fn external_from(self, largest: u64) -> File<'a> {
        File { largest, ..self }
    }

    /// Whether the numbers are in a file of their own.
    pub(super) fn is_external(&self) -> bool {
        self.graph.bytes() > self.largest
    }

    /// Writes the graph; its numbers, if they are apart, are in the file `beside`.
    pub(super) fn write(&self, path: &Path, beside: &str) -> io::Result<()> {
        let opset = proto::OperatorSet { domain: String::new(), version: Some(self.opset) };
        let head = proto::Model {
            ir_version: Some(ir_version(self.opset)),
            producer_name: "kinglet".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            opset_import: vec![opset],
            metadata_props: Vec::new(),
        };
        buffered(path, |out| self.graph.write(&head, self.is_external().then_some(beside), out))
    }

    /// Writes the numbers that are apart.
    pub(super) fn write_numbers(&self, path: &Path) -> io::Result<()> {
        buffered(path, |out| self.graph.write_numbers(out))
    }
}

fn buffered(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = io::BufWriter::with_capacity(1 << 20, std::fs::File::create(path)?);
    write(&mut out)?;
    out.flush()
}
