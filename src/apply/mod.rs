//! Making the changes of an upper in a real tree.
//!
//! The tree must come out as if the commands had run in it, and a crash at any moment must leave something that the
//! same command finishes. So everything is decided first, and written down in a *stage*: a directory in the tree that
//! nobody else may enter. Then every new file is built there, and only when all are there does the first name of the
//! tree change. From then on each step either can be done again without harm, or shows by what is left in the stage
//! whether it was done. Directories get their owners, modes and times last, from the bottom up, since every step
//! before changes them.
//!
//! What the tree had become in the meantime must not be overwritten: before anything is touched, each place is
//! compared with what the changes were made on.

mod act;
mod conflict;
mod dress;
mod plan;
mod stage;

use std::path::{Path, PathBuf};

use crate::diff::{Change, Difference, Stack, examine, views};
use crate::error::SetupError;
use crate::sys::{Dir, Errno, Stat};

pub use act::Progress;

use act::Acting;
use plan::Plan;
use stage::Stage;

/// What to apply, and to what.
#[derive(Clone, Debug)]
pub struct Request {
    /// The changes.
    pub stack: Stack,
    /// The tree.
    pub dest: PathBuf,
    /// Whether places that have changed since are overwritten.
    pub force: bool,
}

/// What happened.
#[derive(Debug)]
pub enum Outcome {
    /// These changes were made.
    Applied(Vec<Change>),
    /// They had been made already.
    Already,
    /// What an earlier, interrupted call had begun was finished.
    Finished,
}

/// The changes that would be made, and the sentence why they are not.
#[derive(Debug)]
pub struct Rehearsal {
    /// The changes.
    pub changes: Vec<Change>,
    /// Places that have changed since, with the reason; empty if nothing is in the way.
    pub conflicts: Vec<String>,
    /// An earlier call was interrupted: the next one finishes that first.
    pub interrupted: bool,
}

/// Says what [`run`] would do. Touches nothing.
///
/// # Errors
/// A layer or the tree cannot be read, or the changes cannot be applied to it.
pub fn rehearse(request: &Request) -> Result<Rehearsal, SetupError> {
    let dest = Dest::open(request)?;
    let (before, now) = views(&request.stack)?;
    let difference = examine(&request.stack, &before, &now)?;
    let interrupted = Stage::find(&dest.dir).map_err(|e| dest.failed("read", e))?.is_some();
    let conflicts = if interrupted { Vec::new() } else { conflict::find(&dest, &difference, &now)? };
    Ok(Rehearsal { changes: changes_of(difference), conflicts, interrupted })
}

/// Makes the changes. Whatever stops it, calling it again finishes it.
///
/// # Errors
/// As [`rehearse`]; a conflict, unless forced; a step that fails. Once steps have begun, the sentence says how to go on.
pub fn run(request: &Request, progress: Progress<'_>) -> Result<Outcome, SetupError> {
    let dest = Dest::open(request)?;
    let (before, now) = views(&request.stack)?;
    if let Some(stage) = Stage::find(&dest.dir).map_err(|e| dest.failed("read", e))? {
        if let Some(plan) = stage.journal(&request.stack.upper).map_err(|e| e.at(&dest.path))? {
            Acting::new(&dest, &stage, &plan, &now, progress).run()?;
            finish(request, &dest, stage, &plan)?;
            return Ok(Outcome::Finished);
        }
        // It had only been begun.
        stage.remove(&dest.dir).map_err(|e| dest.failed("clear the stage in", e))?;
    }
    let difference = examine(&request.stack, &before, &now)?;
    let applied = stage::is_applied(request, &dest, difference.digest);
    if !request.force && applied.map_err(|e| dest.failed("finish the changes of", e))? {
        return Ok(Outcome::Already);
    }
    let conflicts = if request.force { Vec::new() } else { conflict::find(&dest, &difference, &now)? };
    if !conflicts.is_empty() {
        return Err(refuse(&dest, &conflicts));
    }
    let plan = Plan::new(&dest, &difference, &now)?;
    if !plan.is_empty() {
        let stage = Stage::create(&dest.dir).map_err(|e| dest.failed("make a stage in", e))?;
        stage.write(&plan, &request.stack.upper).map_err(|e| dest.failed("write the plan in", e))?;
        Acting::new(&dest, &stage, &plan, &now, progress).run()?;
        finish(request, &dest, stage, &plan)?;
    }
    Ok(Outcome::Applied(changes_of(difference)))
}

fn finish(request: &Request, dest: &Dest, stage: Stage, plan: &Plan) -> Result<(), SetupError> {
    let failed = |e| dest.failed("finish the changes of", e);
    dest.dir.syncfs().map_err(failed)?;
    let time = stage.root_time(plan);
    stage::mark_applied(request, dest, plan.digest, Some(time)).map_err(failed)?;
    stage.done().map_err(failed)?;
    stage.remove(&dest.dir).map_err(failed)?;
    stage::set_time(&dest.dir, time).map_err(failed)?;
    stage::mark_applied(request, dest, plan.digest, None).map_err(failed)
}

fn changes_of(difference: Difference) -> Vec<Change> {
    difference.differing.into_iter().map(|differing| differing.change).collect()
}

fn refuse(dest: &Dest, conflicts: &[String]) -> SetupError {
    let mut why = conflicts.iter().take(3).cloned().collect::<Vec<_>>().join("; ");
    if let more @ 1.. = conflicts.len().saturating_sub(3) {
        why.push_str(&format!("; and {more} more"));
    }
    SetupError::new("apply the changes to", why)
        .at(&dest.path)
        .hint("nothing was touched; --force overwrites what was changed since")
}

/// The tree that is changed.
#[derive(Debug)]
struct Dest {
    path: PathBuf,
    dir: Dir,
    stat: Stat,
    /// It is the lower that the changes were made on, not another tree like it.
    is_lower: bool,
}

impl Dest {
    fn open(request: &Request) -> Result<Dest, SetupError> {
        let path = request.dest.clone();
        let failed = |e: Errno| SetupError::new("apply the changes to", e.desc()).at(&path);
        let open =
            |path: &Path| Dir::open_path(path).and_then(|dir| dir.this().stat().map(|stat| (dir, stat)));
        let (dir, stat) = open(&path).map_err(failed)?;
        let mut is_lower = false;
        for lower in &request.stack.lower {
            let (_, other) = open(lower).map_err(failed)?;
            is_lower |= (other.dev, other.ino) == (stat.dev, stat.ino);
        }
        if is_lower && request.stack.lower.len() > 1 {
            return Err(SetupError::new(
                "apply the changes to",
                "it is one of several layers they were made on",
            )
            .at(&path)
            .hint("merge the layers with acetate squash, or apply to a copy of the merged tree"));
        }
        Ok(Dest { path, dir, stat, is_lower })
    }

    fn failed(&self, what: &str, errno: Errno) -> SetupError {
        SetupError::new(what, errno.desc()).at(&self.path)
    }
}
