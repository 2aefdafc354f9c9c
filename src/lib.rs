//! kinglet trains, evaluates, samples and fine-tunes small GPT language models on a CPU.
//!
//! The same steps as the `kinglet` program, in Rust:
//!
//! ```
//! use kinglet::{Model, backend::Cpu, config::Config, inference::Part, train::{self, Job, Options}};
//!
//! # fn main() -> kinglet::error::Result<()> {
//! # let temp = tempfile::tempdir().unwrap();
//! # std::env::set_current_dir(&temp).unwrap();
//! // The published 0.2M model; 5000 steps for the real thing.
//! let config = Config::preset("big-0.2m")?.with(&["data=[\"builtin\"]", "max_iters=20", "eval_iters=2"])?;
//! let job = Job::start(config, "runs/first")?;
//! let done = train::run(job, Cpu::new()?, &Options::default(), |event| println!("{event:?}"))?;
//! println!("{done:?}");
//!
//! let model = Model::open("runs/first")?;
//! let measured = model.eval(model.dataset(None, Part::Val)?, Part::Val, 0, |_, _| ())?;
//! println!("{:.4} nats per character, entropy floor {:?}", measured.exact.loss, measured.floor);
//!
//! let mut text = model.generate("The ").max_tokens(100).temperature(0.8).stop("\n").seed(1);
//! for piece in &mut text {
//!     print!("{}", piece?.text);
//! }
//! println!("{:?}", text.finish());
//! # Ok(())
//! # }
//! ```
//!
//! A text in memory needs no file ([`train::Job::start_on_text`]), a model no folder ([`Model::from_parts`]). `examples/` has a
//! program for each, and one with a training loop of its own.
//!
//! # The house
//! A module imports only those above it in this table; `tests/layering.rs` holds that. The first row is the crate
//! `kinglet-core`, which knows no file, no clock and no text, and can be had alone.
//!
//! | module | what |
//! |---|---|
//! | [`error`], [`config`], [`rng`], [`threads`], [`batch`], [`params`], [`backend`], [`model`], [`sample`], [`shards`], [`optim`], [`guard`] | the mathematics: see [`kinglet_core`] |
//! | [`system`] | files that are whole or absent, and what the machine has |
//! | [`text`] | where text comes in, and tokenizers |
//! | [`data`] | token ids, and the batches that are drawn from them |
//! | [`run`] | the run directory: the only hand-over between commands |
//! | [`report`] | plots, comparisons, and what a loss is compared with |
//! | [`train`] | one run: what it starts from, and the loop |
//! | [`tune`] | many runs: which settings are best |
//! | [`inference`] | a trained model at work |
//!
//! # Exactness
//! A run's result is a function of its configuration, its text and its seed: the same bits for any number of threads,
//! stopped and resumed or not. Between instruction sets (and platforms) sums are formed in another order, so there
//! the bits differ, within rounding; with `precision = "bf16"` also between processors that multiply it in tiles, in vectors,
//! or not at all, which compute f32 instead.
#![forbid(unsafe_code)]

pub mod data;
pub mod inference;
pub mod report;
pub mod run;
pub mod system;
pub mod text;
pub mod train;
pub mod tune;

pub use inference::Model;
pub use kinglet_core::{backend, batch, config, error, guard, model, optim, params, rng, sample, shards, threads};
