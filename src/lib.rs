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
//! Training can use what is in memory instead of files: a text, documents or token ids ([`train::Job::start_on`],
//! [`data::Origin`]), and a model can be built without a run directory ([`Model::from_parts`]). `examples/` has a program
//! for each, and one that writes its own training loop.
//!
//! # Module layout
//! A module imports only modules above it in this table; `tests/layering.rs` enforces this. The first row is the crate
//! `kinglet-core`, which does no file I/O, handles no text, and can be used on its own.
//!
//! | module | what |
//! |---|---|
//! | [`error`], [`config`], [`rng`], [`threads`], [`batch`], [`params`], [`backend`], [`model`], [`sample`], [`shards`], [`optim`], [`guard`] | the mathematics: see [`kinglet_core`] |
//! | [`system`] | atomic file writes, and what hardware the machine has |
//! | [`text`] | text sources and tokenizers |
//! | [`data`] | token ids, and the batches drawn from them |
//! | [`run`] | the run directory: the only thing passed between commands |
//! | [`report`] | plots, run comparisons, and baseline losses |
//! | [`train`] | one run: its starting point and the training loop |
//! | [`hands`] | many runs: one after another, or handed to ranks |
//! | [`tune`] | hyperparameter search |
//! | [`grid`] | every combination of settings, each with several seeds |
//! | [`inference`] | generating text with a trained model, and evaluating it |
//! | [`formats`] | models of other programs, read and written |
//! | [`engine`] | many texts at once, on one thread |
//! | `serve` | a server with OpenAI's interface; with the feature of that name |
//! | `cli` | the command `kinglet`, as a function of its words; with the feature of that name |
//!
//! # Threads
//! Training and evaluation compute in a pool of the number of threads that they are given. Reading and encoding text is divided
//! among the threads of the pool that the caller is in, or else of rayon's global one. [`threads::whole`] runs all of a
//! program in one pool, so that no more threads work than it has; the `kinglet` program does this with `--threads`.
//!
//! # Exactness
//! A run's result is a function of its configuration, its text and its seed. It is bit-identical for any number of
//! threads, and whether or not the run was stopped and resumed. Instruction sets (and platforms) differ in summation
//! order, so results differ between them, within rounding. With `precision = "bf16"` they also differ between
//! processors that multiply bf16 in tiles, in vectors, or not at all; the last fall back to f32.
#![forbid(unsafe_code)]

#[cfg(feature = "cli")]
pub mod cli;
pub mod data;
pub mod engine;
pub mod formats;
pub mod grid;
pub mod hands;
pub mod inference;
pub mod quantize;
pub mod report;
pub mod run;
#[cfg(feature = "serve")]
pub mod serve;
pub mod system;
pub mod text;
pub mod train;
pub mod tune;

pub use inference::Model;
pub use kinglet_core::{
    backend, batch, config, error, guard, model, optim, params, quant, ranks, replica, rng, sample, shards, threads,
};
