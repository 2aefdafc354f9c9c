//! GGUF, the file of llama.cpp and Ollama: a model with its tokenizer.
//!
//! Versions 2 and 3 are read, version 3 is written.

mod blocks;
mod keys;
mod pre;
mod read;
mod vocabulary;
mod write;

pub use keys::{Described, describe};
pub use read::{read, read_bytes};
pub use vocabulary::{ends, leaves_out, needs_end, tokenizer};
pub use write::{Types, Written};

use super::{
    dialect::{Convention, Dialect},
    folder::chat_template,
    foreign::{Dtype, Foreign},
    portable::Portable,
};
use kinglet_core::error::{Error, Result};
use std::path::Path;
use write::Kv;

/// Writes a model as a file, whole or not at all.
///
/// `tensors` are what the architecture makes of the model: [`Dialect::write`]. `last` is the name of the model's last token
/// if that ends a text, though the tokenizer need not have it.
///
/// Matrices in few bits have their own integers in the file, where its type has them.
///
/// # Errors
/// If the architecture cannot have one of the model's settings, llama.cpp has no such tokenizer, a number does not fit
/// into its type, or the file cannot be written.
pub fn write(
    path: &Path,
    model: &Portable,
    dialect: &Dialect,
    tensors: &Foreign,
    types: impl Into<Types>,
    last: Option<&str>,
) -> Result<Written> {
    if dialect.convention != Convention::Gguf {
        return Err(Error::Data(format!("{} is not an architecture of llama.cpp's", dialect.name)));
    }
    let (config, types) = (&model.config, types.into());
    let dtype = types.matrices;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut keys = vec![
        ("general.architecture".to_owned(), Kv::Text(dialect.name.to_owned())),
        ("general.type".to_owned(), Kv::Text("model".to_owned())),
        ("general.name".to_owned(), Kv::Text(name)),
        ("general.file_type".to_owned(), Kv::U32(write::file_type(dtype)?)),
    ];
    if matches!(dtype, Dtype::Q4_0 | Dtype::Q5_0 | Dtype::Q8_0) {
        keys.push(("general.quantization_version".to_owned(), Kv::U32(2)));
    }
    keys.extend(keys::write(config, dialect)?);
    let tokenizer = model.tokenizer.clone().with_ends(&config.bos_token, &config.eos_token)?;
    let (vocabulary, notes) = vocabulary::write(&tokenizer, config.vocab_size, last)?;
    keys.extend(vocabulary);
    if let Some(template) = chat_template(config) {
        keys.push(("tokenizer.chat_template".to_owned(), Kv::Text(template)));
    }
    let mut written = write::file(path, &keys, tensors, types)?;
    written.notes.splice(0..0, notes);
    Ok(written)
}
