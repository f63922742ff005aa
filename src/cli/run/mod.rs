//! `acetate run`: a command that changes nothing but an upper.
//!
//! Whoever tries something out wants the command to notice nothing, the tree to stay as it is, and to be told
//! afterwards exactly what would have been different. So three processes take part. The one the user started stays
//! where it is, in front of the real tree, and is the one that reports and applies. The *server* lives in a mount
//! namespace of its own, in which the union lies over the directory; no other process ever sees that mount, and it
//! ends with the namespace, whoever is killed. The *command* is a child of the first, so that its terminal, its
//! signals and its exit status are what they would be without us, and joins the namespace just before it starts.

mod args;
mod command;
mod ending;
mod inside;
mod server;
mod tree;

pub use args::Args;

use std::process::ExitCode;

use super::{Failure, Format, Output, logging, output};
use crate::error::SetupError;
use crate::sys::process::{self, End};
use crate::sys::{Errno, namespace};

/// Exit status when acetate itself failed, as chroot(1), env(1) and containers have it.
const FAILED: u8 = 125;

/// Runs `run`.
pub fn run(args: Args, output: Output) -> ExitCode {
    match session(args, output) {
        Ok(End::Exited(status)) => ExitCode::from(u8::try_from(status).unwrap_or(FAILED)),
        Ok(End::Killed(signal)) => ExitCode::from(u8::try_from(128 + signal as i32).unwrap_or(FAILED)),
        Err(failure) => {
            output::complain(failure.sentence());
            match failure {
                Failure::Usage(_) => ExitCode::from(2),
                Failure::Failed(_) => ExitCode::from(FAILED),
            }
        }
    }
}

/// From the arguments to what is left of the changes.
fn session(args: Args, output: Output) -> Result<End, Failure> {
    process::fill_standard_streams().map_err(|e| SetupError::new("open /dev/null", e))?;
    logging::install(if output.is_quiet() { log::LevelFilter::Error } else { log::LevelFilter::Warn });
    let wanted = args.check()?;
    if !namespace::may_mount() {
        let enter = if wanted.is_image() { namespace::own_users_as_root } else { namespace::own_users };
        enter().map_err(|errno| no_namespace("user", errno))?;
    }
    let trees = wanted.trees()?;
    let server = server::start(&trees)?;
    let streams =
        if output.format() == Format::Json { command::Stdout::ToStderr } else { command::Stdout::Own };
    let ended =
        command::run(&wanted.command, streams, &server, trees.iter().find_map(|tree| tree.inside.as_ref()))?;
    if let Err(error) = server.end() {
        return Err(ending::interrupted(trees, error).into());
    }
    ending::finish(trees, wanted.after, output)?;
    Ok(ended)
}

/// Why there is no namespace, and what can be done about it.
fn no_namespace(kind: &str, errno: Errno) -> SetupError {
    let failed = SetupError::new(format!("make a {kind} namespace"), errno.desc());
    match errno {
        Errno::EPERM | Errno::EACCES => failed.hint(
            "they are not allowed to ordinary users here: see kernel.unprivileged_userns_clone, \
             kernel.apparmor_restrict_unprivileged_userns, or run as root",
        ),
        Errno::ENOSPC | Errno::EUSERS => failed.hint("see user.max_user_namespaces"),
        _ => failed,
    }
}
