//! `acetate squash`: several layers become one.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::Serialize;

use super::steps::Progress;
use super::{Outcome, Output, logging, stack};
use crate::error::SetupError;
use crate::squash::{Request, Written, run as squash};
use crate::sys::process;
use crate::union::control::Text;

/// Arguments of `squash`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A layer; repeat it, top first. @FILE: one directory per line; ::DIR: a data-only layer.
    #[arg(long, value_name = "DIR|@FILE|::DIR", required = true)]
    pub lower: Vec<OsString>,
    /// Where the new layer is written: a directory that is not there yet, or is empty.
    #[arg(short = 'o', long, value_name = "DIR")]
    pub output: PathBuf,
    /// Nothing will lie below the new layer: leave out whiteouts and every other mark.
    #[arg(long)]
    pub base: bool,
    /// How the layers are to be read, as for mount -o: whiteout=oci, userxattr.
    #[arg(long, value_name = "OPTIONS")]
    pub options: Vec<OsString>,
}

#[derive(Serialize)]
struct Answer {
    output: Text,
    #[serde(flatten)]
    written: Written,
}

/// Runs `squash`.
///
/// # Errors
/// A layer that cannot be read, or an output that cannot be written; nothing is there then.
pub fn run(args: &Args, output: Output) -> Outcome {
    process::fill_standard_streams().map_err(|e| SetupError::new("open /dev/null", e))?;
    logging::install(if output.is_quiet() { log::LevelFilter::Error } else { log::LevelFilter::Warn });
    super::apply::be_own_root();
    let layers = stack::layers(&args.lower, &args.options, &[], !process::may_use_trusted_xattrs())?;
    let request = Request { layers, output: args.output.clone(), base: args.base };
    let mut progress = Progress::new("merged", output);
    let written = squash(&request, &mut |done| progress.count(done))?;
    drop(progress);
    output.give(&Answer { output: Text::from(args.output.as_path()), written }, |answer| {
        let Written { objects, bytes, whiteouts, opaque, redirects } = answer.written;
        format!(
            "{objects} objects, {bytes} bytes; {whiteouts} whiteouts, {opaque} opaque, {redirects} redirects"
        )
    })
}
