//! The `kinglet` program: parses the command line, runs one command, prints one error.

use kinglet::cli::{self, Program};

fn main() -> std::process::ExitCode {
    cli::main(Program::of_process()).into()
}
