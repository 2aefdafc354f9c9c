//! Text in, token ids out: where text comes from, and the tokenizers.

pub mod builtin;
pub mod chat;
mod compression;
mod download;
pub mod source;
pub mod tokenizer;
mod utf8;
