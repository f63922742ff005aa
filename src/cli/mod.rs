//! The command line.

pub mod diff;
pub mod grid;

/// Runs the program.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
