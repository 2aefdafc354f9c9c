//! The ranks of kinglet as processes that MPI started.
//!
//! Nothing of MPI is linked: the library that belongs to the launcher is opened when there is a launcher of several processes.
//! So the same program runs where there is no MPI. Three interfaces are spoken ([`Interface`]). MPI only carries bytes from one
//! process to another; what is sent and how it is summed is decided by [`kinglet_core::ranks`].

mod calls;
mod launch;
mod library;
mod messages;
mod mpi;

pub use launch::{Launch, Library, Variables};
pub use library::Interface;
pub use mpi::{Mpi, end_now};
