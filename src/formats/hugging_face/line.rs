//! How a setting there is one here.

use kinglet_core::config::{Activation, Bias};

/// A line of a table: how a setting there is one here.
#[derive(Debug)]
pub(super) enum Line {
    /// A number that means the same. What is meant when theirs is missing is JSON; without it, it must be there.
    Same { theirs: &'static [&'static str], ours: &'static str, missing: Option<&'static str> },
    /// The name of an activation function.
    Activation { theirs: &'static str, missing: &'static str },
    /// Key and value heads: missing means as many as heads, or this many.
    KvHeads { missing: Option<usize> },
    /// Channels of a head: missing means `n_embd / n_head`, or this many.
    HeadSize { missing: Option<usize> },
    /// Whether some layers have a bias.
    Bias { theirs: &'static str, layers: &'static [&'static str], missing: bool },
    /// Layers that always have a bias.
    Biased(&'static [&'static str]),
    /// The base of the rotations, and that all of a head is rotated.
    Rotary { base: &'static str, share: &'static str, missing_share: f64 },
    /// Attention to the last tokens only, where another setting does not turn it off.
    Window { unless_off: Option<&'static str>, missing: Option<usize> },
    /// A setting that kinglet has only one value for.
    Only { theirs: &'static str, value: &'static str, missing: &'static str },
    /// A setting of training that kinglet does not have: what is written of it, and left out when it is read.
    Training { theirs: &'static str, written: &'static str },
}

/// Names of activation functions there: the first of each kind is written.
pub(super) const ACTIVATIONS: [(&str, Activation); 11] = [
    ("relu", Activation::Relu),
    ("relu2", Activation::ReluSquared),
    ("gelu", Activation::Gelu),
    ("gelu_python", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_python_tanh", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_accurate", Activation::GeluTanh),
    ("silu", Activation::Swiglu),
    ("swish", Activation::Swiglu),
];

/// The flag of the biases of some layers.
pub(super) fn flag<'a>(bias: &'a mut Bias, layers: &str) -> &'a mut bool {
    match layers {
        "qkv" => &mut bias.qkv,
        "proj" => &mut bias.proj,
        "mlp" => &mut bias.mlp,
        "head" => &mut bias.head,
        "norm" => &mut bias.norm,
        _ => unreachable!("the tables have no other"),
    }
}
