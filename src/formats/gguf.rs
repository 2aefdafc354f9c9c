//! GGUF, the file of llama.cpp and Ollama: a model with its tokenizer.
//!
//! Versions 2 and 3 are read, version 3 is written.

mod blocks;
mod read;
mod write;

pub use read::{read, read_bytes};
pub use write::Written;
