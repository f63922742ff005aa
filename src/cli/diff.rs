//! `acetate diff`.

use std::path::PathBuf;

use super::{Failure, Outcome, Output};
use crate::error::SetupError;

/// Arguments of `diff`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A mount of ours, or an upper directory.
    #[arg(value_name = "STACK")]
    pub stack: PathBuf,
    /// Only count.
    #[arg(long)]
    pub stat: bool,
}

/// Runs `diff`.
///
/// # Errors
/// Always, for now.
pub fn run(args: &Args, _output: Output) -> Outcome {
    Err(Failure::Failed(SetupError::new("compare", "not there yet").at(&args.stack)))
}
