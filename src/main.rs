//! The `acetate` command.

fn main() -> std::process::ExitCode {
    acetate::cli::main()
}
