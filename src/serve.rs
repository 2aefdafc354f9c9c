//! A server with OpenAI's interface. One thread has all sockets; handlers run on a few threads beside it, and what they ask for
//! is computed by the engine, on one more. The page that shows it is a part of the program. Without being told otherwise, it answers this machine alone.

mod answer;
mod assets;
mod coding;
mod connection;
mod fields;
mod given;
mod guard;
mod http;
mod insight;
mod memorized;
mod metrics;
mod models;
mod openai;
mod options;
mod room;
mod routes;
mod runs;
mod score;
mod server;
mod service;
mod sse;

pub use options::{Limits, Options, Root};
pub use server::{Server, Stopper, addresses, random_hex};

#[cfg(test)]
mod tests;
