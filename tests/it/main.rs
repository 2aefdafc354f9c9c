//! The library and the program as their users meet them. The mathematics has tests of its own in `crates/core/tests`.

#[path = "../common/mod.rs"]
mod common;

mod cli;
mod data;
mod earlier;
mod finetune;
mod lora;
mod mistakes;
mod model;
mod parsers;
mod tokenizers;
mod training;
mod tune;
