//! The library and the program as their users meet them. The mathematics has tests of its own in `crates/core/tests`.

#[path = "../common/mod.rs"]
mod common;

mod c_file;
mod chat;
mod chats;
mod cli;
mod data;
mod discover;
mod docs;
mod earlier;
mod export;
mod few_bits;
mod finetune;
mod foreign;
mod formats;
mod hands;
mod help;
mod import;
mod input;
mod json;
mod lora;
mod measure;
mod memory;
mod mistakes;
mod model;
mod parsers;
mod peft;
mod qat;
mod quantize;
mod ranks;
mod ranks_mpi;
mod resume;
mod runs;
mod scaling;
mod score;
mod serve;
mod speedrun;
mod sweep;
mod teacher;
mod tensorboard;
mod terminal;
mod tokenizers;
mod training;
mod tune;
