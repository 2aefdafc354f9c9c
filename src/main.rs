//! The `kinglet` program: parses the command line, runs one command, prints one error.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
