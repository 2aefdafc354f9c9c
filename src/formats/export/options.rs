//! What is chosen of an export.

use crate::formats::{dialect::Convention, foreign::Dtype, gguf::Types, numbers, onnx, portable::Portable};
use kinglet_core::{
    config::Quantization,
    error::{Error, Result},
};

/// The largest difference of log-probabilities that rewriting may make, unless told otherwise.
pub const MAX_DIFFERENCE: f64 = 1e-4;

/// The same where weights have fewer bits than 32. Storing them makes a larger difference than this, and activations that are
/// written as others are nearer to them only with numbers that such types do not have.
pub const MAX_DIFFERENCE_ROUNDED: f64 = 1e-2;

/// A format that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// A folder for Hugging Face's transformers.
    HuggingFace,
    /// A GGUF, for llama.cpp, Ollama and others.
    Gguf,
    /// An ONNX graph.
    Onnx,
    /// The `state_dict` of the lecture's code.
    Lecture,
    /// nanoGPT's `ckpt.pt`.
    NanoGpt,
    /// Kinglet's own tensors, with configuration and tokenizer.
    Safetensors,
    /// C source.
    C,
    /// The adapters of a run, for PEFT, with the model they are on.
    Peft,
}

impl Target {
    /// All formats.
    pub const ALL: [Target; 8] = [
        Target::HuggingFace,
        Target::Gguf,
        Target::Onnx,
        Target::Lecture,
        Target::NanoGpt,
        Target::Safetensors,
        Target::C,
        Target::Peft,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Target::HuggingFace => "hf",
            Target::Gguf => "gguf",
            Target::Onnx => "onnx",
            Target::Lecture => "pth",
            Target::NanoGpt => "nanogpt",
            Target::Safetensors => "safetensors",
            Target::C => "c",
            Target::Peft => "peft",
        }
    }

    /// Whose names and shapes it has, if it has not kinglet's.
    pub(super) fn convention(self) -> Option<Convention> {
        match self {
            Target::HuggingFace | Target::Peft => Some(Convention::HuggingFace),
            Target::Gguf => Some(Convention::Gguf),
            Target::Lecture => Some(Convention::Lecture),
            Target::NanoGpt => Some(Convention::NanoGpt),
            Target::Onnx | Target::Safetensors | Target::C => None,
        }
    }
}

/// How a model is written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ExportOptions {
    /// How weights are stored. If it is none, as f32; in a GGUF, matrices in few bits in the type that has them, and in
    /// safetensors those that `scheme` made.
    pub dtype: Option<Dtype>,
    /// The largest difference of log-probabilities that rewriting may make; [`MAX_DIFFERENCE`] or
    /// [`MAX_DIFFERENCE_ROUNDED`] if it is none.
    pub max_difference: Option<f64>,
    /// The type of token ids in ONNX.
    pub ids: onnx::Ids,
    /// ONNX: a graph of one text of exactly `block_size` tokens.
    pub fixed: bool,
    /// What the matrices of the blocks are rounded to before.
    pub scheme: Quantization,
}

impl ExportOptions {
    /// The largest difference that rewriting may make where weights are stored so.
    pub(super) fn allowed(&self, dtype: Dtype) -> f64 {
        let usual = if matches!(dtype, Dtype::F32 | Dtype::I8) { MAX_DIFFERENCE } else { MAX_DIFFERENCE_ROUNDED };
        self.max_difference.unwrap_or(usual)
    }

    /// How the weights of a model are stored.
    pub(super) fn types(&self, target: Target, model: &Portable) -> Types {
        let own = |matrices| Types { matrices, tokens: Dtype::F32 };
        match (self.dtype, target, model.config.quantization) {
            (Some(dtype), ..) => dtype.into(),
            (None, Target::Gguf, Quantization::W8) => own(Dtype::Q8_0),
            (None, Target::Gguf, Quantization::W4) => own(Dtype::Q4_0),
            (None, Target::Safetensors, Quantization::W8) if self.scheme == Quantization::W8 => own(Dtype::I8),
            _ => Dtype::F32.into(),
        }
    }

    /// How numbers are rounded, if they are.
    pub(super) fn rounds(&self, dtype: Dtype) -> Option<String> {
        match (self.scheme, dtype) {
            (Quantization::None, Dtype::F32 | Dtype::I8) => None,
            (Quantization::None, dtype) => Some(format!("numbers are stored as {}", dtype.name())),
            (scheme, _) => Some(format!("matrices are rounded to {}", scheme.name())),
        }
    }
}

impl Default for ExportOptions {
    fn default() -> ExportOptions {
        let ids = onnx::Ids::default();
        ExportOptions { dtype: None, max_difference: None, ids, fixed: false, scheme: Quantization::None }
    }
}

/// Refuses what belongs to another format.
pub(super) fn refuse_options(target: Target, options: &ExportOptions, model: &Portable) -> Result<()> {
    refuse_scheme(target, options)?;
    let name = target.name();
    let refuse =
        |what: &str, of: &str| Err(Error::BadConfig(format!("{what} belongs to {of}, not to --format {name}")));
    if options.fixed && target != Target::Onnx {
        return refuse("--static", "--format onnx");
    }
    if options.ids != onnx::Ids::default() && target != Target::Onnx {
        return refuse("--ids", "--format onnx");
    }
    match (target, options.dtype) {
        (Target::Onnx | Target::C, Some(dtype)) if dtype != Dtype::F32 => refuse("--dtype", "other formats"),
        (Target::Safetensors, Some(Dtype::I8)) if of_eight_bits(options, model) => Ok(()),
        (Target::Safetensors, Some(Dtype::I8)) => Err(Error::BadConfig(
            "--dtype int8 writes the integers of a model that has eight bits: add --scheme w8".to_owned(),
        )),
        (_, Some(Dtype::I8)) => refuse("--dtype int8", "--format safetensors"),
        (_, None) | (Target::Gguf | Target::Onnx | Target::C, _) => Ok(()),
        (_, Some(dtype)) => numbers::check(dtype, name),
    }
}

fn of_eight_bits(options: &ExportOptions, model: &Portable) -> bool {
    [options.scheme, model.config.quantization].contains(&Quantization::W8)
}

/// Refuses to round for a format that would store the rounded weights as large as the others.
fn refuse_scheme(target: Target, options: &ExportOptions) -> Result<()> {
    let scheme = options.scheme;
    let stores = match target {
        Target::Gguf | Target::Onnx | Target::C => true,
        Target::Safetensors => scheme == Quantization::W8,
        Target::HuggingFace | Target::Lecture | Target::NanoGpt | Target::Peft => false,
    };
    if scheme.is_none() {
        return Ok(());
    }
    let name = scheme.name();
    if !stores {
        let of = if scheme == Quantization::W8 { "gguf, onnx, c and safetensors" } else { "gguf, onnx and c" };
        let target = target.name();
        return Err(Error::BadConfig(format!("--scheme {name} belongs to --format {of}, not to --format {target}")));
    }
    // Types that have all of its integers: what is stored in others would be rounded twice.
    let has = match (scheme, options.dtype) {
        (_, None) => true,
        (Quantization::W8, Some(dtype)) => matches!(dtype, Dtype::Q8_0 | Dtype::I8),
        (_, Some(dtype)) => matches!(dtype, Dtype::Q8_0 | Dtype::Q4_0),
    };
    if !has {
        let dtype = options.dtype.map_or("f32", Dtype::name);
        let what = format!("--scheme {name} rounds weights, but --dtype {dtype} does not store them so: choose one");
        return Err(Error::BadConfig(what));
    }
    Ok(())
}
