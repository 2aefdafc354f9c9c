//! Tensors as another program names, shapes and stores them.

use half::{bf16, f16};
use kinglet_core::{
    error::{Error, Result},
    quant::Rounded,
};
use serde_json::Value;
use std::{borrow::Cow, collections::BTreeMap, fmt};

/// How the numbers of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 64-bit floats.
    F64,
    /// 32-bit floats.
    F32,
    /// 16-bit floats of IEEE 754.
    F16,
    /// The upper half of 32-bit floats.
    Bf16,
    /// Signed bytes.
    I8,
    /// Bytes.
    U8,
    /// 16-bit integers.
    I16,
    /// 32-bit integers.
    I32,
    /// 64-bit integers.
    I64,
    /// Truth values, a byte each.
    Bool,
    /// ggml's blocks of 32 signed bytes and a scale.
    Q8_0,
    /// ggml's blocks of 32 values of 4 bits and a scale.
    Q4_0,
    /// ggml's blocks of 32 values of 5 bits and a scale.
    Q5_0,
}

impl Dtype {
    /// The name that users know.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F64 => "f64",
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
            Dtype::I8 => "i8",
            Dtype::U8 => "u8",
            Dtype::I16 => "i16",
            Dtype::I32 => "i32",
            Dtype::I64 => "i64",
            Dtype::Bool => "bool",
            Dtype::Q8_0 => "q8_0",
            Dtype::Q4_0 => "q4_0",
            Dtype::Q5_0 => "q5_0",
        }
    }

    /// Bytes of a number; none for ggml's blocks, which hold many.
    pub fn size(self) -> Option<usize> {
        match self {
            Dtype::F64 | Dtype::I64 => Some(8),
            Dtype::F32 | Dtype::I32 => Some(4),
            Dtype::F16 | Dtype::Bf16 | Dtype::I16 => Some(2),
            Dtype::I8 | Dtype::U8 | Dtype::Bool => Some(1),
            Dtype::Q8_0 | Dtype::Q4_0 | Dtype::Q5_0 => None,
        }
    }

    /// Whether it holds whole numbers or truth values, which no weight is: they mean something only with scales.
    pub fn is_whole(self) -> bool {
        matches!(self, Dtype::I8 | Dtype::U8 | Dtype::I16 | Dtype::I32 | Dtype::I64 | Dtype::Bool)
    }

    /// Little-endian numbers as f32, rounded where they have more digits.
    ///
    /// # Panics
    /// For ggml's blocks.
    pub fn to_f32(self, bytes: &[u8]) -> Vec<f32> {
        fn each<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
            bytes.as_chunks().0.iter().map(|bytes| number(*bytes)).collect()
        }
        match self {
            Dtype::F64 => each(bytes, |x| f64::from_le_bytes(x) as f32),
            Dtype::F32 => each(bytes, f32::from_le_bytes),
            Dtype::F16 => each(bytes, |x| f16::from_le_bytes(x).to_f32()),
            Dtype::Bf16 => each(bytes, |x| bf16::from_le_bytes(x).to_f32()),
            Dtype::I8 => each(bytes, |[x]| f32::from(x as i8)),
            Dtype::U8 | Dtype::Bool => each(bytes, |[x]| f32::from(x)),
            Dtype::I16 => each(bytes, |x| f32::from(i16::from_le_bytes(x))),
            Dtype::I32 => each(bytes, |x| i32::from_le_bytes(x) as f32),
            Dtype::I64 => each(bytes, |x| i64::from_le_bytes(x) as f32),
            Dtype::Q8_0 | Dtype::Q4_0 | Dtype::Q5_0 => unreachable!("blocks are read where their format is"),
        }
    }
}

/// The numbers of a tensor, when they are wanted.
type Read<'a> = Box<dyn Fn() -> Result<Cow<'a, [f32]>> + Send + Sync + 'a>;

/// One tensor of a file: of one that is read, or of one that will be written.
pub struct Tensor<'a> {
    /// PyTorch's shape, the slowest dimension first.
    pub shape: Vec<usize>,
    /// How a file that was read stores it; what is to be written, or was put together by the reader, is f32.
    pub dtype: Dtype,
    /// Its integers and scales, if it is a matrix in few bits that will be written: what it reads as is multiplied out.
    pub rounded: Option<Rounded>,
    read: Read<'a>,
}

impl fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.dtype.name(), self.shape)
    }
}

impl<'a> Tensor<'a> {
    /// A tensor whose numbers `read` produces, row by row as C orders them.
    pub fn new(shape: Vec<usize>, dtype: Dtype, read: impl Fn() -> Result<Cow<'a, [f32]>> + Send + Sync + 'a) -> Self {
        Tensor { shape, dtype, rounded: None, read: Box::new(read) }
    }

    /// A tensor of f32 that is in memory.
    ///
    /// # Panics
    /// If there are not as many numbers as the shape says.
    pub fn of(shape: Vec<usize>, numbers: impl Into<Cow<'a, [f32]>>) -> Self {
        let numbers = numbers.into();
        assert_eq!(numbers.len(), shape.iter().product::<usize>());
        Tensor::new(shape, Dtype::F32, move || Ok(numbers.clone()))
    }

    /// The same tensor with the integers that its numbers are made of.
    #[must_use]
    pub fn with_rounded(mut self, rounded: Option<Rounded>) -> Self {
        self.rounded = rounded;
        self
    }

    /// How many numbers it has.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no numbers.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its numbers.
    ///
    /// # Errors
    /// If the file cannot be read, or has less than it claims.
    pub fn read(&self) -> Result<Cow<'a, [f32]>> {
        let numbers = (self.read)()?;
        if numbers.len() != self.len() {
            let (has, wants, shape) = (numbers.len(), self.len(), &self.shape);
            return Err(Error::Data(format!("a tensor of shape {shape:?} has {has} numbers instead of {wants}")));
        }
        Ok(numbers)
    }
}

/// What a file, or a folder of files, of another program holds.
#[derive(Debug, Default)]
pub struct Foreign<'a> {
    /// The tensors by their names.
    pub tensors: BTreeMap<String, Tensor<'a>>,
    /// What else is said of the model: a `config.json`, the keys of a GGUF, nanoGPT's `model_args`; null if nothing is.
    pub meta: Value,
    /// What a reader has to tell the user, such as what it left out.
    pub notes: Vec<String>,
}
