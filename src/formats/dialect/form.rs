//! What a table says.

use kinglet_core::config::{Activation, AttentionScale, Bias, NormKind, Position};

/// Whose names they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convention {
    /// Hugging Face's transformers.
    HuggingFace,
    /// GGUF, for llama.cpp and what is built on it.
    Gguf,
    /// nanoGPT and minGPT, whose names are kinglet's.
    NanoGpt,
    /// The code of the lecture "Let's build GPT", which has a module for each head.
    Lecture,
}

/// The rows of a kinglet tensor that are one tensor there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    All,
    Query,
    Key,
    Value,
    Gate,
    Up,
}

/// How the numbers are different there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Same,
    /// A weight is (in, out) there.
    Transposed,
    /// One less there: the norm adds one to its weight.
    MinusOne,
    /// The two channels that a rotation mixes are neighbours there, instead of being half a head apart.
    Interleaved,
    /// Query, key and value of a head side by side there, head after head.
    ByHead,
}

/// A line of a table. Weights and biases have the same line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) ours: &'static str,
    pub(super) part: Part,
    pub(super) theirs: &'static str,
    pub(super) how: How,
}

/// What becomes of `lm_head.weight` if it is the token embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tied {
    /// It is left out.
    LeftOut,
    /// It is written all the same.
    Written,
    /// They cannot be tied.
    Never,
}

/// What a model must be like to have this architecture.
#[derive(Clone, Copy, Debug)]
pub struct Holds {
    /// How it knows positions.
    pub position: Position,
    /// Its norm.
    pub norm: NormKind,
    /// Its activation functions.
    pub activations: &'static [Activation],
    /// What its scores are divided by the square root of.
    pub scale: AttentionScale,
    /// Biases that there may be.
    pub may: Bias,
    /// Biases that there must be: zeros are as good as none.
    pub must: Bias,
    /// Biases of which there must be all if there is one.
    pub together: Bias,
    /// Whether queries and keys are normalized.
    pub qk_norm: bool,
    /// Whether heads may share keys and values.
    pub grouped: bool,
    /// Whether heads may be wider or narrower than `n_embd / n_head`.
    pub head_size: bool,
    /// Whether the token embedding may be the head's weight.
    pub tied: Tied,
}

/// An architecture as another program knows it.
#[derive(Debug)]
pub struct Dialect {
    /// Its name there: transformers' `model_type`, GGUF's `general.architecture`.
    pub name: &'static str,
    /// Whose names these are.
    pub convention: Convention,
    /// The models that can be written with it.
    pub holds: Holds,
    /// What all names of blocks begin with, which files of a model without a head leave out.
    pub(super) prefix: &'static str,
    /// How the names of buffers end that hold nothing that was learned.
    pub(super) buffers: &'static [&'static str],
    pub(super) lines: &'static [Line],
}
