//! What an upper says by itself, when there are no lowers to compare it with.
//!
//! A whiteout is a deletion and a redirect a renamed directory. Everything else may be new, changed, or copied up and
//! never touched; none of that is guessed.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::walk::{Upper, joined, text};
use super::{Change, What};
use crate::layer::marks::RedirectTo;
use crate::layer::{Found, Object, Probe};
use crate::sys::{Errno, Kind, NameBuf};

/// A directory to go through.
struct Frame {
    raw: Arc<Object>,
    /// Where it is.
    path: Vec<NameBuf>,
    /// Where it was before the renames above it.
    old: Vec<NameBuf>,
}

/// The changes, in no particular order. An error comes with the place it was met at.
pub(super) fn changes(upper: &Upper) -> Result<Vec<Change>, (Vec<NameBuf>, Errno)> {
    let mut changes = Vec::new();
    let mut deleted: Vec<(Vec<NameBuf>, Change)> = Vec::new();
    let mut moved = BTreeSet::new();
    let mut todo = vec![Frame { raw: Arc::clone(&upper.root), path: Vec::new(), old: Vec::new() }];
    while let Some(frame) = todo.pop() {
        for (name, probe) in upper.entries(&frame.raw).map_err(|e| (frame.path.clone(), e))? {
            let path = joined(&frame.path, &name);
            match probe {
                Probe::Absent => {}
                Probe::Whiteout => {
                    let gone = Change { path: text(&path), what: What::Deleted, kind: None, bytes: 0 };
                    deleted.push((joined(&frame.old, &name), gone));
                }
                Probe::Entry(found) => {
                    let old = old_place(&frame, &name, &found);
                    let what = if old == joined(&frame.old, &name) {
                        What::Undecided
                    } else {
                        moved.insert(old.clone());
                        What::Renamed { from: text(&old) }
                    };
                    changes.push(change(&path, what, &found));
                    if found.stat.kind() == Kind::Dir {
                        let raw = Object::within(&frame.raw, name, &found.stat);
                        todo.push(Frame { raw, path, old });
                    }
                }
            }
        }
    }
    changes.extend(deleted.into_iter().filter(|(old, _)| !moved.contains(old)).map(|(_, change)| change));
    Ok(changes)
}

/// Where an object was, as far as its own redirect and those above it tell.
fn old_place(frame: &Frame, name: &NameBuf, found: &Found) -> Vec<NameBuf> {
    match &found.redirect {
        Some(RedirectTo::Absolute(path)) if found.stat.kind() == Kind::Dir => path.clone(),
        Some(RedirectTo::Sibling(old)) if found.stat.kind() == Kind::Dir => joined(&frame.old, old),
        _ => joined(&frame.old, name),
    }
}

fn change(path: &[NameBuf], what: What, found: &Found) -> Change {
    let kind = found.stat.kind();
    let bytes = if kind == Kind::File { found.stat.size } else { 0 };
    Change { path: text(path), what, kind: Some(kind), bytes }
}
