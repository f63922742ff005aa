//! After the command: what has changed, and what becomes of it.
//!
//! Changes are never lost silently. They go where the flag says; without one the user is asked if there is somebody
//! to ask, and otherwise they stay where they are and he is told where that is.

use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::Path;

use serde::Serialize;

use super::super::diff::{self, JsonChange};
use super::super::grid::Style;
use super::super::{Failure, Format, Output, apply, output};
use super::tree::{Changes, Tree};
use crate::apply::Request;
use crate::diff::{Change, changes};
use crate::error::SetupError;
use crate::union::control::Text;

/// What becomes of the changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// They stay in the upper.
    Keep,
    /// They are made in the tree itself.
    Apply,
    /// They are thrown away.
    Discard,
    /// As the user says.
    Ask,
    /// Ask on a terminal; else keep.
    AsFits,
}

/// One tree in the report of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    on: Text,
    /// `kept`, `applied`, `discarded`, or `unchanged`.
    outcome: &'static str,
    /// Where the changes are, if they were kept.
    upper: Option<Text>,
    changes: Vec<JsonChange<'a>>,
}

/// Reports, and does with the changes of each tree as `after` says.
///
/// # Errors
/// A tree that cannot be compared or changed. Its changes are then still in the upper, and the error says where.
pub fn finish(trees: Vec<Tree>, after: After, output: Output) -> Result<(), Failure> {
    let mut reports = Vec::new();
    let several = trees.len() > 1;
    let mut all = Vec::new();
    for tree in trees {
        let found = changes(&tree.stack()).map_err(|e| safe(&tree, e))?;
        all.push((tree, found));
    }
    for (tree, found) in all {
        if output.format() == Format::Text && !output.is_quiet() {
            show(&tree, &found, several)?;
        }
        let on = tree.on.clone();
        let (outcome, upper) = settle(tree, &found, after, output)?;
        reports.push((on, outcome, upper, found));
    }
    if output.format() == Format::Json {
        let reports: Vec<Report<'_>> = reports
            .iter()
            .map(|(on, outcome, upper, found)| Report {
                on: Text::from(on.as_path()),
                outcome,
                upper: upper.clone(),
                changes: found.iter().map(JsonChange::new).collect(),
            })
            .collect();
        output.give(&reports, |_| String::new())?;
    }
    Ok(())
}

/// What is said when the server failed on the way: nothing is applied, nothing is thrown away.
pub fn interrupted(trees: Vec<Tree>, error: SetupError) -> SetupError {
    let uppers: Vec<String> = trees.iter().map(|tree| quoted(&tree.changes.upper())).collect();
    for tree in trees {
        if let Changes::Private(private) = tree.changes {
            private.keep();
        }
    }
    error.hint(format!("what was written until then is in {}", uppers.join(", ")))
}

/// Adds to an error where the changes are; nothing removes them then.
fn safe(tree: &Tree, error: SetupError) -> SetupError {
    error.hint(format!("the changes are in {}", tree.changes.upper().display()))
}

/// The same for changes that could not be applied, or not all of them.
fn left(tree: &Tree, error: SetupError) -> SetupError {
    let upper = tree.changes.upper();
    SetupError::quoted(error.to_string()).hint(format!(
        "the changes are in {0}; go on with: acetate apply {0} {1}",
        quoted(&upper),
        quoted(&tree.on)
    ))
}

fn show(tree: &Tree, found: &[Change], several: bool) -> Result<(), SetupError> {
    let mut err = std::io::stderr().lock();
    let shown = (if several { writeln!(err, "{}:", tree.on.display()) } else { Ok(()) }).and_then(|()| {
        if found.is_empty() {
            return writeln!(err, "no changes");
        }
        diff::lines(found, Style::of(&std::io::stderr()), &mut err)
    });
    match shown {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(SetupError::new("write the changes", e)),
        _ => Ok(()),
    }
}

type Settled = (&'static str, Option<Text>);

/// Does with the changes of one tree as `after` says.
fn settle(tree: Tree, found: &[Change], after: After, output: Output) -> Result<Settled, Failure> {
    let named = matches!(tree.changes, Changes::Named { .. });
    if found.is_empty() && !named {
        // There may be copies that nobody changed.
        if let Changes::Private(private) = tree.changes {
            private.discard();
        }
        return Ok(("unchanged", None));
    }
    let after = match after {
        After::Ask | After::AsFits if found.is_empty() => After::Keep,
        After::Ask => ask(&tree)?,
        After::AsFits if std::io::stdin().is_terminal() && std::io::stderr().is_terminal() => ask(&tree)?,
        After::AsFits => After::Keep,
        after => after,
    };
    match after {
        After::Apply => {
            let request = Request { stack: tree.stack(), dest: tree.on.clone(), force: false };
            apply::carry_out(&request, output).map_err(|e| left(&tree, e))?;
            if let Changes::Private(private) = tree.changes {
                private.discard();
            }
            Ok(("applied", None))
        }
        After::Discard => {
            if let Changes::Private(private) = tree.changes {
                private.discard();
            }
            Ok(("discarded", None))
        }
        After::Keep | After::Ask | After::AsFits => Ok(("kept", Some(keep(tree, found, output)?))),
    }
}

/// Leaves the changes where they are and says where that is.
fn keep(tree: Tree, found: &[Change], output: Output) -> Result<Text, Failure> {
    let (upper, tree_work) = (tree.changes.upper(), tree.changes.work());
    let named = matches!(tree.changes, Changes::Named { .. });
    if let Changes::Private(private) = tree.changes {
        private.keep();
    }
    let said = !(found.is_empty() || named && output.is_quiet() || output.format() == Format::Json);
    if said {
        output::remark(&format!("the changes are kept in {}", quoted(&upper)));
        if tree.applies {
            output::remark(&format!(
                "apply them with: acetate apply {} {}",
                quoted(&upper),
                quoted(&tree.on)
            ));
        }
        let all = match named {
            true => format!("{} {}", quoted(&upper), quoted(&tree_work)),
            false => quoted(upper.parent().unwrap_or(&upper)),
        };
        output::remark(&format!("throw them away with: rm -rf {all}"));
    }
    Ok(Text::from(upper.as_path()))
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+=:,@%".contains(&b));
    if plain { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Asks on the terminal, until there is an answer; without one (end of input) the changes are kept.
fn ask(tree: &Tree) -> Result<After, SetupError> {
    let failed = |e: std::io::Error| safe(tree, SetupError::new("ask on the terminal", e));
    let Ok(terminal) = std::fs::File::options().read(true).write(true).open("/dev/tty") else {
        return Ok(After::Keep);
    };
    take_terminal(&terminal);
    let mut answers = BufReader::new(&terminal);
    let question = match tree.applies {
        true => format!("Apply these changes to {}? [a]pply, [k]eep, [d]iscard: ", tree.on.display()),
        false => format!("Keep these changes of {}? [k]eep, [d]iscard: ", tree.on.display()),
    };
    loop {
        (&terminal).write_all(question.as_bytes()).map_err(failed)?;
        let mut line = String::new();
        let read = answers.read_line(&mut line).map_err(failed)?;
        match line.trim() {
            "a" | "apply" if tree.applies => return Ok(After::Apply),
            "k" | "keep" => return Ok(After::Keep),
            "d" | "discard" => return Ok(After::Discard),
            _ if read == 0 => return Ok(After::Keep),
            _ => {}
        }
    }
}

/// A command with job control may have left the terminal to a group that is gone.
fn take_terminal(terminal: &std::fs::File) {
    use nix::sys::signal::{SigSet, Signal};
    let set: SigSet = [Signal::SIGTTOU].into_iter().collect();
    let taken = set.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK).and_then(|before| {
        let taken = nix::unistd::tcsetpgrp(terminal, nix::unistd::getpgrp());
        before.thread_set_mask()?;
        taken
    });
    if let Err(errno) = taken {
        log::debug!("the terminal is somebody else's: {errno}");
    }
}
