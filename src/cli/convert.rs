//! `acetate convert`: a layer in another dialect.

use std::path::PathBuf;

use super::source::look_through;
use super::{Outcome, Output};
use crate::convert::{Dialect, convert};
use crate::error::SetupError;
use crate::layer::marks::Prefix;
use crate::layer::survey::Survey;
use crate::sys::process;

/// Arguments of `convert`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The dialect to write: kernel (trusted.overlay. attributes), userxattr (user.overlay.), oci (.wh. files).
    #[arg(long, value_name = "DIALECT", value_enum)]
    pub to: Dialect,
    /// The dialect of SRC [default: as its marks tell].
    #[arg(long, value_name = "DIALECT", value_enum)]
    pub from: Option<Dialect>,
    /// The layer; it is only read.
    #[arg(value_name = "SRC")]
    pub source: PathBuf,
    /// Where the converted layer appears; must not exist.
    #[arg(value_name = "DST")]
    pub target: PathBuf,
}

/// Converts.
///
/// # Errors
/// The dialect cannot be told, something has no form in the other, or something cannot be read or written.
pub fn run(args: &Args, output: Output) -> Outcome {
    let source = super::layers::find(&args.source, super::layers::Purpose::Lower)?.path;
    let old = match args.from {
        Some(dialect) => dialect,
        None => told(&look_through(&source)?).map_err(|why| {
            SetupError::new("tell the dialect of", why).at(&args.source).hint("say it with --from")
        })?,
    };
    let report = convert(&source, old, &args.target, args.to)?;
    output.give(&report, |r| {
        let mut text = format!(
            "{}: {} objects, {} deletions, {} replaced directories",
            args.target.display(),
            r.objects,
            r.whiteouts,
            r.opaque
        );
        if r.dropped > 0 {
            text.push_str(&format!(
                "; {} marks that say where something came from have no place in it",
                r.dropped
            ));
        }
        text
    })
}

/// The dialect of a layer, if its marks agree.
fn told(survey: &Survey) -> Result<Dialect, &'static str> {
    let marks = match (&survey.trusted, &survey.user) {
        (Some(_), Some(_)) => return Err("it has marks of both spellings"),
        (Some(_), None) => Some(Dialect::Kernel),
        (None, Some(_)) => Some(Dialect::Userxattr),
        (None, None) => None,
    };
    match (&survey.marker, marks, &survey.device) {
        (Some(_), None, None) => Ok(Dialect::Oci),
        (Some(_), ..) => Err("it has .wh. files beside other marks"),
        (None, Some(dialect), _) => Ok(dialect),
        (None, None, _) => Ok(match survey.prefix(process::may_use_trusted_xattrs()) {
            Prefix::Trusted => Dialect::Kernel,
            Prefix::User => Dialect::Userxattr,
        }),
    }
}
