//! Models of other programs: read into kinglet's form, and written from it.
//!
//! The form in the middle is a kinglet model ([`Portable`]). Import reads a file's tensors ([`Foreign`]), gives each its
//! place by the table of its architecture ([`dialect`]), and ends in a run. Export makes a model that the other side
//! can express, and reads the same table in the other direction.

mod adapt;
mod arrival;
mod bytes;
pub mod c;
pub mod chain;
pub mod dialect;
pub mod export;
mod folder;
mod foreign;
pub mod gguf;
mod guess;
pub mod hugging_face;
mod import;
mod int8;
mod llm_c;
mod numbers;
mod ollama;
pub mod onnx;
mod opened;
mod peft;
mod pickle;
mod portable;
mod pth;
#[cfg_attr(not(feature = "pytorch"), path = "formats/no_pytorch.rs")]
mod pytorch;
pub mod rewrite;
mod rounded;
mod safetensors;
mod shape;
mod written;

pub use adapt::{ImportedAdapters, adapter_base, adapter_folder, import_adapters};
pub use arrival::{Arrival, Arrived};
pub use export::{ExportOptions, Exported, Source, Target, export};
pub use foreign::{Dtype, Foreign, Tensor};
pub use guess::{Certainty, Guess};
pub use import::{ImportOptions, ImportReport, Imported, import};
pub use opened::Format;
pub use peft::{Adapters, Factors};
pub use portable::Portable;
pub use written::Written;
