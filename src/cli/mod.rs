//! The command line: the words people and other programs type, and what they get to read.
//!
//! A verb counts only as the first argument; everything else is the form that mount(8), podman and containerd use,
//! in which a directory could well be called `list`. Both end in the same plain requests, and every outcome is one
//! of three exit statuses: 0 done, 1 failed, 2 wrong usage.

mod apply;
mod args;
mod bench;
mod daemon;
pub mod diff;
mod generate;
pub mod grid;
pub mod image;
mod index;
mod layers;
mod list;
mod logging;
mod mount;
mod notify;
pub mod options;
mod output;
mod plain;
mod progress;
mod questions;
mod registry;
mod run;
mod scratch;
mod squash;
mod stack;
mod steps;
mod umount;
mod which;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use clap::Parser;

use crate::error::SetupError;
use args::{Cli, Verb};
pub use output::{Format, Output};

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// It was asked wrongly: exit status 2.
    Usage(SetupError),
    /// It could not: exit status 1.
    Failed(SetupError),
}

impl Failure {
    fn status(&self) -> ExitCode {
        match self {
            Failure::Usage(_) => ExitCode::from(2),
            Failure::Failed(_) => ExitCode::from(1),
        }
    }

    /// The sentence.
    pub fn sentence(&self) -> &SetupError {
        match self {
            Failure::Usage(e) | Failure::Failed(e) => e,
        }
    }
}

/// What could not be done, unless said otherwise.
impl From<SetupError> for Failure {
    fn from(e: SetupError) -> Failure {
        Failure::Failed(e)
    }
}

/// The outcome of a command.
pub type Outcome = Result<(), Failure>;

/// Runs the program on the arguments of this process.
pub fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let program = words.next().unwrap_or_default();
    let words: Vec<OsString> = words.collect();
    let outcome = match Form::of(&program, &words) {
        Form::Nothing => return usage(),
        Form::Verb => return verb(&words),
        Form::Mount(dialect) => plain::read(dialect, &words).and_then(|asked| match asked {
            plain::Asked::Mount(request) => mount::run(&request),
            plain::Asked::Rehearsal(request) => mount::rehearse(&request),
            plain::Asked::Help => print_help(),
            plain::Asked::Version => print_version(),
        }),
    };
    end(outcome)
}

/// Which form the arguments have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Nothing,
    Verb,
    Mount(plain::Dialect),
}

impl Form {
    fn of(program: &OsStr, words: &[OsString]) -> Form {
        let name = program.as_bytes().rsplit(|b| *b == b'/').next().unwrap_or_default();
        if name.starts_with(b"mount.") {
            return Form::Mount(plain::Dialect::MountHelper);
        }
        if name.starts_with(b"fuse-overlayfs") {
            return Form::Mount(plain::Dialect::FuseOverlayfs);
        }
        match words.first() {
            None => Form::Nothing,
            Some(first) if args::is_verb(first) => Form::Verb,
            Some(_) => Form::Mount(plain::Dialect::Direct),
        }
    }
}

fn verb(words: &[OsString]) -> ExitCode {
    let cli =
        match Cli::try_parse_from(std::iter::once(OsString::from("acetate")).chain(words.iter().cloned())) {
            Ok(cli) => cli,
            Err(e) => {
                // Nothing can be done where even the message cannot be written.
                drop(e.print());
                return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
            }
        };
    let output = Output::new(if cli.json { Format::Json } else { Format::Text }, cli.quiet);
    end(match cli.verb {
        Verb::Run(args) => return run::run(args, output),
        Verb::Mount(args) => args.into_request(output).and_then(|request| mount::run(&request)),
        Verb::Umount(args) => umount::run(&args, output),
        Verb::List => list::run(output),
        Verb::Status(args) => questions::status(&args.mountpoint, output),
        Verb::Sync(args) => questions::sync(&args.mountpoint, output),
        Verb::Which(args) => which::run(&args, output),
        Verb::Diff(args) => diff::run(&args, output),
        Verb::Bench(args) => bench::run(&args, output),
        Verb::Image(args) => image::run(&args, output),
        Verb::Index(args) => index::run(&args, output),
        Verb::Apply(args) => apply::run(&args, output),
        Verb::Squash(args) => squash::run(&args, output),
        Verb::Generate(args) => generate::run(&args, output),
    })
}

fn usage() -> ExitCode {
    eprintln!("{}", args::help());
    ExitCode::from(2)
}

fn print_help() -> Outcome {
    output::print(&args::help().to_string())
}

fn print_version() -> Outcome {
    output::print(concat!("acetate ", env!("CARGO_PKG_VERSION")))
}

fn end(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::complain(failure.sentence());
            failure.status()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(program: &str, words: &[&str]) -> Form {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        Form::of(OsStr::new(program), &words)
    }

    #[test]
    fn a_verb_counts_only_as_the_first_argument() {
        let direct = Form::Mount(plain::Dialect::Direct);
        assert_eq!(form("/usr/bin/acetate", &["list"]), Form::Verb);
        assert_eq!(form("acetate", &["-o", "lowerdir=a", "list"]), direct);
        assert_eq!(form("acetate", &["overlay", "/mnt"]), direct);
        assert_eq!(form("acetate", &["./list", "/mnt"]), direct);
        assert_eq!(form("acetate", &[]), Form::Nothing);
        let helper = Form::Mount(plain::Dialect::MountHelper);
        assert_eq!(form("/sbin/mount.acetate", &["list", "/mnt"]), helper);
        assert_eq!(form("/sbin/mount.fuse.acetate", &["list", "/mnt"]), helper);
        let engine = Form::Mount(plain::Dialect::FuseOverlayfs);
        assert_eq!(form("/usr/bin/fuse-overlayfs", &["list"]), engine);
        assert_eq!(form("fuse-overlayfs", &["--version"]), engine);
    }
}
