//! Names of a changed file that the upper does not mention.
//!
//! With an index, a file with several names is copied up under the one by which it was changed; its other names stay
//! in the lowers and lead to the copy all the same. Only the trees themselves tell which names those are, so they are
//! gone through side by side; this is done only for an upper whose index has entries.

use super::What;
use super::compare::{self, Bytes};
use super::tree::{Seen, Tree};
use super::walk::{Subject, Walk, joined, text};
use crate::layer::origin;
use crate::sys::{Dir, Kind, NameBuf, Result};

impl Walk {
    /// Adds the changes of such names.
    pub(super) fn linked(&mut self, index: &Dir, before: &Tree, now: &Tree) -> Result<()> {
        let mut todo: Vec<(Seen<'_>, Vec<NameBuf>)> = vec![(now.root()?, Vec::new())];
        while let Some((dir, place)) = todo.pop() {
            self.at.clone_from(&dir.path);
            let mut old_dir = None;
            for name in dir.names()? {
                let Some(child) = dir.child(&name)? else { continue };
                let path = text(&child.path);
                if child.attr.kind() == Kind::Dir {
                    match self.directories.get(&path) {
                        // New: everything in it is the upper's own.
                        Some(None) => {}
                        Some(Some(was)) => todo.push((child, was.clone())),
                        None => todo.push((child, joined(&place, &name))),
                    }
                    continue;
                }
                if self.visited.contains(&path) {
                    continue;
                }
                if old_dir.is_none() {
                    old_dir = before.at(&place)?;
                }
                let Some(old) = old_dir.as_ref().map(|dir| dir.child(&name)).transpose()?.flatten() else {
                    continue;
                };
                if old.attr.nlink > 1 {
                    self.other_name(index, &old, &child)?;
                }
            }
        }
        Ok(())
    }

    fn other_name(&mut self, index: &Dir, old: &Seen<'_>, now: &Seen<'_>) -> Result<()> {
        self.at.clone_from(&now.path);
        let record = old.record()?;
        if record.is_empty() {
            return Ok(());
        }
        let Some(raw) = index.find(&NameBuf::new(origin::index_name(&record).as_bytes())?)? else {
            return Ok(());
        };
        self.member(now, &raw, Some(old));
        let facets = compare::facets(old, now, Bytes::Compare)?;
        if !facets.is_empty() {
            let bytes = if facets.content { now.attr.size } else { 0 };
            self.push(Subject::changed(old, now), What::Changed(facets), bytes);
        }
        Ok(())
    }
}
