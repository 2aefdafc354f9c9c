//! x
pub mod backend;
pub mod config;
pub mod corpus;
pub mod data;
pub mod error;
pub mod eval;
pub mod model;
pub mod optim;
pub mod params;
pub mod plot;
pub mod rng;
pub mod run;
pub mod sample;
pub mod session;
pub mod shards;
pub mod tokenizer;
pub mod train;
