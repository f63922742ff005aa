//! `acetate apply`: the changes of an upper, made in a real tree.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::diff::{JsonChange, lines};
use super::grid::Style;
use super::layers::{Purpose, find};
use super::stack::{Meant, StackArgs};
use super::steps::Progress;
use super::{Failure, Format, Outcome, Output, logging, output};
use crate::apply::{self, Rehearsal, Request};
use crate::diff::{Change, Stack};
use crate::error::SetupError;
use crate::sys::lock::{Held, WorkLock};
use crate::sys::{Dir, namespace, process};

/// Arguments of `apply`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The changes. Without --lower they were made on DEST.
    #[command(flatten)]
    pub stack: StackArgs,
    /// The tree to change.
    #[arg(value_name = "DEST")]
    pub dest: PathBuf,
    /// Show what would be changed and what is in the way, and touch nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Overwrite what was changed in DEST since.
    #[arg(long)]
    pub force: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Answer<'a> {
    /// `applied`, `finished` (an interrupted call), `already`, `possible`, `refused`.
    outcome: &'static str,
    changes: Vec<JsonChange<'a>>,
    conflicts: &'a [String],
}

/// Runs `apply`.
///
/// # Errors
/// The changes cannot be applied; the sentence says whether anything was touched.
pub fn run(args: &Args, output: Output) -> Outcome {
    process::fill_standard_streams().map_err(|e| SetupError::new("open /dev/null", e))?;
    logging::install(if output.is_quiet() { log::LevelFilter::Error } else { log::LevelFilter::Warn });
    be_own_root();
    let dest = find(&args.dest, Purpose::On)?.path;
    let Meant { stack, live } = args.stack.find(std::slice::from_ref(&dest))?;
    let _lock = claim(&stack, live, &dest)?;
    let request = Request { stack, dest, force: args.force };
    if args.dry_run {
        return tell(&apply::rehearse(&request)?, output);
    }
    let outcome = carry_out(&request, output)?;
    let (word, changes) = match &outcome {
        apply::Outcome::Applied(changes) => ("applied", changes.as_slice()),
        apply::Outcome::Finished => ("finished", &[][..]),
        apply::Outcome::Already => ("already", &[][..]),
    };
    match output.format() {
        Format::Json => give(word, changes, &[], output),
        Format::Text if output.is_quiet() => Ok(()),
        Format::Text => {
            match outcome {
                apply::Outcome::Already => {
                    output::remark("nothing to do: these changes are in the tree already")
                }
                apply::Outcome::Finished => output::remark("finished what an interrupted call had begun"),
                apply::Outcome::Applied(_) => {}
            }
            show(changes)
        }
    }
}

/// Applies, with a line of progress.
///
/// # Errors
/// As [`apply::run`].
pub(super) fn carry_out(request: &Request, output: Output) -> Result<apply::Outcome, SetupError> {
    let mut progress = Progress::new("applying", output);
    apply::run(request, &mut |done, all| progress.set(done, all))
}

/// An ordinary user reads and changes what is his whatever its mode, as the server of the changes could.
pub(super) fn be_own_root() {
    if !namespace::may_mount()
        && let Err(errno) = namespace::own_users()
    {
        log::debug!("no user namespace: {errno}");
    }
}

/// Nobody may write to the upper meanwhile, and no mount may stand on the tree.
fn claim(stack: &Stack, live: bool, dest: &Path) -> Result<Option<WorkLock>, Failure> {
    let busy = |why: &str, hint: &str| {
        Err(Failure::Failed(SetupError::new("apply the changes of", why).at(&stack.upper).hint(hint)))
    };
    if live {
        let beneath = stack.lower.iter().any(|lower| lower.starts_with(dest) || dest.starts_with(lower));
        return match beneath {
            true => busy("they are mounted on the tree itself", "unmount it first: acetate umount MNT"),
            false => Ok(None),
        };
    }
    let Some(work) = &stack.work else { return Ok(None) };
    let lock = Dir::open_path(work).map_err(Held::Error).and_then(|dir| WorkLock::try_take(dir.as_fd()));
    match lock {
        Ok(lock) => Ok(Some(lock)),
        Err(Held::By(_)) => busy("a mount writes to them", "unmount it first; acetate list shows it"),
        Err(Held::Error(errno)) => {
            log::debug!("{} is not locked: {errno}", work.display());
            Ok(None)
        }
    }
}

fn tell(rehearsal: &Rehearsal, output: Output) -> Outcome {
    let Rehearsal { changes, conflicts, interrupted } = rehearsal;
    match output.format() {
        Format::Json => {
            give(if conflicts.is_empty() { "possible" } else { "refused" }, changes, conflicts, output)?
        }
        Format::Text if output.is_quiet() => {}
        Format::Text => {
            show(changes)?;
            if *interrupted {
                output::remark("an interrupted call is finished first");
            }
            conflicts.iter().for_each(|conflict| output::remark(conflict));
        }
    }
    match conflicts.len() {
        0 => Ok(()),
        n => {
            Err(Failure::Failed(SetupError::new("apply the changes", format!("{n} of them are in conflict"))))
        }
    }
}

fn give(outcome: &'static str, changes: &[Change], conflicts: &[String], output: Output) -> Outcome {
    let changes = changes.iter().map(JsonChange::new).collect();
    output.give(&Answer { outcome, changes, conflicts }, |_| String::new())
}

fn show(changes: &[Change]) -> Outcome {
    match lines(changes, Style::of_stdout(), std::io::BufWriter::new(std::io::stdout().lock())) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Failed(SetupError::new("write the changes", e)))
        }
        _ => Ok(()),
    }
}
