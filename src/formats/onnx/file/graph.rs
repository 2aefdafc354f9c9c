//! A graph that is built node by node, and written without ever being in memory as a whole.
//!
//! A message of protocol buffers begins with its length. So the lengths of all tensors are added up first; then their
//! numbers go from the model to the file in small pieces.

use super::proto::{
    self, Attribute, Dimension, Entry, GRAPH, INITIALIZER, Node, RAW_DATA, TensorShape, TensorType, Type, ValueInfo,
    attribute, element,
};
use crate::run::packed;
use kinglet_core::quant::Rounded;
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};
use std::{
    collections::HashSet,
    io::{self, Write},
};

/// The numbers of an initializer.
pub(super) enum Numbers<'a> {
    /// As they are.
    Floats(&'a [f32]),
    /// Made for the graph.
    Own(Vec<f32>),
    /// A matrix of rows of this length, to be written column by column.
    Columns(&'a [f32], usize),
    /// The integers of a matrix, to be written column by column.
    Bytes(&'a Rounded),
    /// The same, two to a byte.
    Nibbles(&'a Rounded),
    /// Indices and shapes.
    Integers(Vec<i64>),
    /// The same in half the size.
    Shorts(Vec<i32>),
}

impl Numbers<'_> {
    fn element(&self) -> i32 {
        match self {
            Numbers::Floats(_) | Numbers::Own(_) | Numbers::Columns(..) => element::FLOAT,
            Numbers::Bytes(_) => element::INT8,
            Numbers::Nibbles(_) => element::INT4,
            Numbers::Integers(_) => element::INT64,
            Numbers::Shorts(_) => element::INT32,
        }
    }

    /// Their size in a file.
    fn bytes(&self) -> usize {
        match self {
            Numbers::Floats(x) | Numbers::Columns(x, _) => 4 * x.len(),
            Numbers::Own(x) => 4 * x.len(),
            Numbers::Bytes(matrix) => matrix.codes().len(),
            Numbers::Nibbles(matrix) => matrix.codes().len().div_ceil(2),
            Numbers::Integers(x) => 8 * x.len(),
            Numbers::Shorts(x) => 4 * x.len(),
        }
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let floats = |out: &mut dyn Write, x: &[f32]| x.iter().try_for_each(|x| out.write_all(&x.to_le_bytes()));
        match self {
            Numbers::Floats(x) => floats(out, x),
            Numbers::Own(x) => floats(out, x),
            Numbers::Columns(x, cols) => (0..*cols).try_for_each(|i| {
                let column: Vec<f32> = x[i..].iter().step_by(*cols).copied().collect();
                floats(out, &column)
            }),
            Numbers::Bytes(matrix) => (0..matrix.shape().1).try_for_each(|i| {
                let column: Vec<u8> = column(matrix, i).map(i8::cast_unsigned).collect();
                out.write_all(&column)
            }),
            Numbers::Nibbles(matrix) => {
                let codes: Vec<i8> = (0..matrix.shape().1).flat_map(|i| column(matrix, i)).collect();
                out.write_all(&packed(&codes, codes.len(), 0))
            }
            Numbers::Integers(x) => x.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
            Numbers::Shorts(x) => x.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())),
        }
    }
}

/// The integers of a column.
fn column(matrix: &Rounded, i: usize) -> impl Iterator<Item = i8> {
    matrix.codes()[i..].iter().step_by(matrix.shape().1).copied()
}

/// A tensor of the file.
struct Initializer<'a> {
    name: String,
    dims: Vec<usize>,
    numbers: Numbers<'a>,
}

impl Initializer<'_> {
    /// All but the numbers; `at` is where they are in another file.
    fn head(&self, elsewhere: Option<(&str, u64)>) -> proto::Tensor {
        let entry = |key: &str, value: String| Entry { key: key.to_owned(), value };
        let external_data = elsewhere.map_or(Vec::new(), |(file, at)| {
            vec![
                entry("location", file.to_owned()),
                entry("offset", at.to_string()),
                entry("length", self.numbers.bytes().to_string()),
            ]
        });
        proto::Tensor {
            dims: self.dims.iter().map(|&dim| dim as i64).collect(),
            data_type: Some(self.numbers.element()),
            name: self.name.clone(),
            data_location: elsewhere.map(|_| 1),
            external_data,
        }
    }
}

/// How long a dimension of an input or output is.
#[derive(Clone, Copy)]
pub(super) enum Length<'a> {
    Is(usize),
    /// It differs from call to call.
    Called(&'a str),
}

/// An attribute of a node.
#[derive(Clone, Copy)]
pub(super) enum Setting<'a> {
    Int(&'a str, i64),
    Float(&'a str, f32),
    Ints(&'a str, &'a [i64]),
}

/// A graph that is being built. Values are known by their names.
#[derive(Default)]
pub(super) struct Graph<'a> {
    nodes: Vec<Node>,
    inputs: Vec<ValueInfo>,
    outputs: Vec<ValueInfo>,
    initializers: Vec<Initializer<'a>>,
    /// Names in use.
    names: HashSet<String>,
    /// What the next nodes belong to, such as `h.0.attn`.
    pub(super) scope: String,
}

impl<'a> Graph<'a> {
    /// A name of the present scope that nothing has yet.
    fn name(&mut self, of: &str) -> String {
        let plain = if self.scope.is_empty() { of.to_owned() } else { format!("{}.{of}", self.scope) };
        let numbered = (1..).map(|i| if i == 1 { plain.clone() } else { format!("{plain}.{i}") });
        let name = numbered.into_iter().find(|name| !self.names.contains(name)).expect("numbers do not end");
        self.names.insert(name.clone());
        name
    }

    /// An input of the graph.
    pub(super) fn input(&mut self, name: &str, element: i32, dims: &[Length]) -> String {
        self.names.insert(name.to_owned());
        self.inputs.push(value(name, element, dims));
        name.to_owned()
    }

    /// Makes a value, under another name, an output of the graph.
    pub(super) fn output(&mut self, name: &str, of: &str, dims: &[Length]) {
        self.node("Identity", &[of], &[], vec![name.to_owned()]);
        self.outputs.push(value(name, element::FLOAT, dims));
    }

    /// A tensor of the model, by its name there.
    pub(super) fn tensor(&mut self, name: &str, dims: &[usize], numbers: Numbers<'a>) -> String {
        self.names.insert(name.to_owned());
        self.initializers.push(Initializer { name: name.to_owned(), dims: dims.to_vec(), numbers });
        name.to_owned()
    }

    /// A number.
    pub(super) fn number(&mut self, what: &str, value: f64) -> String {
        let name = self.name(what);
        self.tensor(&name, &[], Numbers::Own(vec![value as f32]))
    }

    /// Integers in a row, such as a shape.
    pub(super) fn integers(&mut self, what: &str, values: &[i64]) -> String {
        let name = self.name(what);
        self.tensor(&name, &[values.len()], Numbers::Integers(values.to_vec()))
    }

    /// One integer, without a dimension.
    pub(super) fn integer(&mut self, what: &str, value: i64) -> String {
        let name = self.name(what);
        self.tensor(&name, &[], Numbers::Integers(vec![value]))
    }

    fn node(&mut self, op: &str, inputs: &[&str], settings: &[Setting], output: Vec<String>) {
        let blank =
            |name: &str, r#type| Attribute { name: name.to_owned(), f: None, i: None, ints: Vec::new(), r#type };
        let attribute = settings.iter().map(|setting| match *setting {
            Setting::Int(name, i) => Attribute { i: Some(i), ..blank(name, attribute::INT) },
            Setting::Float(name, f) => Attribute { f: Some(f), ..blank(name, attribute::FLOAT) },
            Setting::Ints(name, ints) => Attribute { ints: ints.to_vec(), ..blank(name, attribute::INTS) },
        });
        let input = inputs.iter().map(|&input| input.to_owned()).collect();
        let (name, op_type) = (format!("{}/{op}", output[0]), op.to_owned());
        self.nodes.push(Node { input, output, name, op_type, attribute: attribute.collect() });
    }

    /// A node with one output, which is named by what it is.
    pub(super) fn op(&mut self, op: &str, inputs: &[&str], settings: &[Setting], what: &str) -> String {
        let output = self.name(what);
        self.node(op, inputs, settings, vec![output.clone()]);
        output
    }

    /// Parts of a value along its last dimension.
    pub(super) fn split<const N: usize>(&mut self, of: &str, lengths: [usize; N], whats: [&str; N]) -> [String; N] {
        let lengths = self.integers("lengths", &lengths.map(|length| length as i64));
        let outputs = whats.map(|what| self.name(what));
        self.node("Split", &[of, &lengths], &[Setting::Int("axis", -1)], outputs.to_vec());
        outputs
    }

    /// Bytes of all tensors.
    pub(super) fn bytes(&self) -> u64 {
        self.initializers.iter().map(|tensor| tensor.numbers.bytes() as u64).sum()
    }

    /// Writes the file of `model` with this graph. With `elsewhere`, the numbers are not in it: they are in the file of that
    /// name, which [`Graph::write_numbers`] writes.
    pub(super) fn write(&self, model: &proto::Model, elsewhere: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
        let graph = proto::Graph {
            node: self.nodes.clone(),
            name: "kinglet".to_owned(),
            input: self.inputs.clone(),
            output: self.outputs.clone(),
        };
        let mut at = 0;
        let mut tensors = Vec::new();
        for tensor in &self.initializers {
            let head = tensor.head(elsewhere.map(|file| (file, at))).encode_to_vec();
            let raw = if elsewhere.is_some() { 0 } else { field_len(RAW_DATA, tensor.numbers.bytes()) };
            tensors.push((tensor, head.len() + raw, head));
            at += tensor.numbers.bytes() as u64;
        }
        let len: usize = tensors.iter().map(|(_, len, _)| field_len(INITIALIZER, *len)).sum();
        out.write_all(&model.encode_to_vec())?;
        out.write_all(&field(GRAPH, graph.encoded_len() + len))?;
        out.write_all(&graph.encode_to_vec())?;
        for (tensor, len, head) in tensors {
            out.write_all(&field(INITIALIZER, len))?;
            out.write_all(&head)?;
            if elsewhere.is_none() {
                out.write_all(&field(RAW_DATA, tensor.numbers.bytes()))?;
                tensor.numbers.write(out)?;
            }
        }
        Ok(())
    }

    /// Writes the numbers of all tensors, one after the other.
    pub(super) fn write_numbers(&self, out: &mut dyn Write) -> io::Result<()> {
        self.initializers.iter().try_for_each(|tensor| tensor.numbers.write(out))
    }
}

/// The description of an input or output.
fn value(name: &str, element: i32, dims: &[Length]) -> ValueInfo {
    let dim = dims.iter().map(|dim| match *dim {
        Length::Is(length) => Dimension { dim_value: Some(length as i64), dim_param: None },
        Length::Called(name) => Dimension { dim_value: None, dim_param: Some(name.to_owned()) },
    });
    let shape = Some(TensorShape { dim: dim.collect() });
    let tensor_type = Some(TensorType { elem_type: Some(element), shape });
    ValueInfo { name: name.to_owned(), r#type: Some(Type { tensor_type }) }
}

/// What stands before a field of `len` bytes.
fn field(tag: u32, len: usize) -> Vec<u8> {
    let mut head = Vec::new();
    encode_key(tag, WireType::LengthDelimited, &mut head);
    encode_varint(len as u64, &mut head);
    head
}

/// The size of a field of `len` bytes with what stands before it.
fn field_len(tag: u32, len: usize) -> usize {
    key_len(tag) + encoded_len_varint(len as u64) + len
}
