//! Text in, token ids out: text sources and tokenizers.

pub mod builtin;
pub mod chat;
#[cfg_attr(not(feature = "compression"), path = "text/no_compression.rs")]
mod compression;
#[cfg_attr(not(feature = "csv"), path = "text/no_csv.rs")]
mod csv;
mod download;
mod names;
mod refused;
pub mod source;
pub mod tokenizer;
mod utf16;
mod utf8;

pub(crate) use names::many;
