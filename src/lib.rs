//! kinglet trains, evaluates, samples and fine-tunes small GPT language models on a CPU.
//!
//! The same steps as the `kinglet` program, in Rust:
//!
//! ```
//! use kinglet::{backend::Cpu, config::Config, run::Which, sample::Sampling, session::{Part, Session}, train::{self, Job}};
//! use std::{ops::ControlFlow, path::Path, sync::atomic::AtomicBool};
//!
//! # fn main() -> kinglet::error::Result<()> {
//! # let temp = tempfile::tempdir().unwrap();
//! # std::env::set_current_dir(&temp).unwrap();
//! let out = Path::new("runs/first");
//! let mut config = Config::preset("big-0.2m")?; // the published 0.2M model
//! config.data = vec!["builtin".into()]; // or the paths of text files
//! config.set("max_iters=20")?; // 5000 for the real thing
//! config.set("eval_iters=2")?;
//!
//! let job = Job::start(config, out)?;
//! let done = train::run(&job, &Cpu::new()?, 0, &AtomicBool::new(false), |event| println!("{event:?}"))?;
//! println!("{done:?}");
//!
//! let session = Session::load(out, Which::Best)?;
//! let measured = session.eval(None, Part::Val, 0, |_, _| ())?;
//! println!("{:.4} nats per character, entropy floor {:?}", measured.exact.loss, measured.floor);
//! session.generate("The ", 100, &Sampling::default(), "", 0, |text| {
//!     print!("{text}");
//!     ControlFlow::Continue(())
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! # The pipeline
//! Text becomes a trained model in one direction, one module after the other:
//!
//! | step | module |
//! |---|---|
//! | text: files, the built-in corpora | [`source`], [`corpus`] |
//! | token ids in memory or in files, batches | [`data`], [`prepared`], [`instruct`] |
//! | what a text is, and what a model of it must beat | [`stats`], [`baselines`] |
//! | text to token ids and back | [`tokenizer`] |
//! | everything that defines a run | [`config`], [`rng`] |
//! | names and places of the parameters | [`params`] |
//! | forward and backward, in the order of the lecture | [`model`] |
//! | the operations they are made of: reference and CPU | [`backend`] |
//! | dividing the batch over threads | [`shards`] |
//! | AdamW and Muon | [`optim`] |
//! | the loop, and what another run begins with | [`train`], [`eval`], [`guard`], [`finetune`] |
//! | the run directory | [`run`], [`checkpoint`], [`plot`] |
//! | a trained model at work | [`session`], [`sample`] |
//! | which settings are best: a range test, and successive halving | [`tune`] |
//! | what a run takes, and what makes runs differ | [`plan`], [`trial`], [`machine`], [`compare`], [`overlay`] |
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
