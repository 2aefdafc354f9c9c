//! The mathematics of kinglet: small GPT language models on a CPU, forward and backward.
//!
//! This crate reads no files, knows nothing about text and prints nothing; it uses the clock only to profile and to let
//! idle threads sleep. It takes token ids and returns logits, losses, gradients and updated parameters, so another
//! program, a browser or a device backend can use it without the rest. Files, tokenizers, training runs and the
//! `kinglet` program are in the crate `kinglet`.
//!
//! Each module imports only those above it in this table.
//!
//! | module | what |
//! |---|---|
//! | [`error`] | what can go wrong |
//! | [`config`] | everything that defines a run |
//! | [`rng`] | every random number, a function of (seed, purpose, step, sequence) |
//! | [`threads`] | the thread pool of a training run |
//! | [`ngram`] | n-gram models, which a GPT must beat |
//! | [`batch`] | sequences of token ids |
//! | [`params`] | names, shapes and places of the parameters; [`params::edit`] merges adapters and adds tokens |
//! | [`quant`] | weights in eight and four bits |
//! | [`backend`] | the operations a model is made of: defined by `Reference`, computed by `Cpu`, measured by `Timed` |
//! | [`model`] | the GPT, forward and backward, in the order of the lecture; [`model::inside`] looks into it |
//! | [`sample`] | how the next token is drawn |
//! | [`shards`] | a batch divided over threads |
//! | [`optim`] | AdamW and Muon |
//! | [`masters`] | what the optimizer changes, and what the model computes with where weights are in few bits |
//! | [`guard`] | stops a step that went wrong |
#![forbid(unsafe_code)]

pub mod backend;
pub mod batch;
pub mod config;
pub mod error;
pub mod guard;
pub mod masters;
pub mod model;
pub mod ngram;
pub mod optim;
pub mod params;
pub mod quant;
pub mod ranks;
pub mod replica;
pub mod rng;
pub mod sample;
pub mod shards;
pub mod threads;
