//! Removing names (D-1 to D-3): either nothing is left in the upper, or a whiteout that appears in the same system
//! call in which the object vanishes. No data is ever copied for it.

use std::sync::Arc;

use super::Union;
use super::node::{Names, Node};
use super::place::gone;
use super::types::{Caller, NodeId};
use crate::sys::{Dir, Errno, Kind, Name, Result};
use crate::upper::Debris;

impl Union {
    /// Removes a non-directory. Errors: EISDIR, ENOENT, EPERM for immutable objects and in append-only directories.
    pub fn unlink(&self, caller: &Caller, parent: NodeId, name: &Name) -> Result<()> {
        self.remove_name(caller, parent, name, Kind::File)
    }

    /// Removes a directory whose merged listing is empty. Errors: ENOTEMPTY, ENOTDIR, ENOENT, EPERM.
    pub fn rmdir(&self, caller: &Caller, parent: NodeId, name: &Name) -> Result<()> {
        self.remove_name(caller, parent, name, Kind::Dir)
    }

    fn remove_name(&self, caller: &Caller, parent: NodeId, name: &Name, wanted: Kind) -> Result<()> {
        let upper = self.upper.as_ref().ok_or(Errno::EROFS)?;
        let parent = self.directory(parent)?;
        loop {
            let node = self.lookup_node(&parent, name)?.ok_or(Errno::ENOENT)?;
            let done = self.remove_node(caller, upper, &parent, name, &node, wanted);
            self.forget_node(node.id, 1);
            if let Some(debris) = done? {
                upper.clean(debris);
                return Ok(());
            }
        }
    }

    /// `None`: before the directory was locked, somebody else removed or replaced the name.
    fn remove_node(
        &self,
        caller: &Caller,
        upper: &crate::upper::Upper,
        parent: &Arc<Node>,
        name: &Name,
        node: &Arc<Node>,
        wanted: Kind,
    ) -> Result<Option<Debris>> {
        match (wanted, node.kind) {
            (Kind::Dir, Kind::Dir) => {}
            (Kind::Dir, _) => return Err(Errno::ENOTDIR),
            (_, Kind::Dir) => return Err(Errno::EISDIR),
            _ => {}
        }
        check_removable(parent, node)?;
        if node.kind == Kind::Dir {
            // Refused before anything is copied up.
            self.must_be_empty(node, &mut node.names_mut())?;
        }
        let dir = self.copy_up_dir(caller, parent)?;
        self.index_before_unlink(caller, node, parent, name)?;
        let mut names = parent.names_mut();
        if !node.is_named(parent, name) {
            return Ok(None);
        }
        // Directories are emptied under their own lock, so that nothing is created between the look and the removal.
        let mut inside = match node.kind {
            Kind::Dir => Some(node.names_mut()),
            _ => None,
        };
        if let Some(inside) = &mut inside {
            self.must_be_empty(node, inside)?;
        }
        let debris = self.take_away(upper, parent, &dir, name, node)?;
        if let Some(inside) = &mut inside {
            inside.dead = true;
            inside.listing = None;
        }
        drop(inside);
        self.name_vanished(&mut names, name);
        Ok(Some(debris))
    }

    /// The publishing system call, and what it means for the node.
    pub(super) fn take_away(
        &self,
        upper: &crate::upper::Upper,
        parent: &Arc<Node>,
        dir: &Dir,
        name: &Name,
        node: &Arc<Node>,
    ) -> Result<Debris> {
        let positive = self.lower_has(parent, name)?;
        let in_upper =
            node.state().aliases.iter().any(|a| a.upper && a.parent.id == parent.id && *a.name == *name);
        // The descriptor is taken before the name goes: afterwards there is no way to the object.
        let keep = self.keep_reachable(node).map_err(gone)?;
        let debris = match (in_upper, positive) {
            (true, false) => upper.remove(dir, name, node.kind).map_err(gone)?,
            (true, true) => upper.replace_by_whiteout(dir, name, node.kind).map_err(gone)?,
            (false, _) => {
                upper.whiteout(dir, name)?;
                Debris::none()
            }
        };
        self.unlinked(parent, name, node, keep)?;
        Ok(debris)
    }

    /// A descriptor for a node that is about to lose its last known name; `None` when it keeps another.
    pub(super) fn keep_reachable(&self, node: &Arc<Node>) -> Result<Option<Dir>> {
        let needed = {
            let state = node.state();
            let indexed = state.upper.as_ref().is_some_and(|u| u.index.is_some());
            let left = state.aliases.iter().filter(|a| a.upper || state.upper.is_none()).count();
            state.orphan.is_none()
                && left <= 1
                && !(indexed && node.kind != Kind::Dir && state.nlink.unwrap_or(0) > 1)
        };
        if !needed {
            return Ok(None);
        }
        self.top_real(node)?.at().pin().map(|fd| Some(Dir::from(fd)))
    }

    /// Bookkeeping of a name that is gone.
    pub(super) fn unlinked(
        &self,
        parent: &Arc<Node>,
        name: &Name,
        node: &Arc<Node>,
        keep: Option<Dir>,
    ) -> Result<()> {
        node.drop_alias(parent.id, name);
        if let Some(fd) = keep {
            node.state().orphan = Some(Arc::new(fd));
            // Nobody will open it again, and its blocks are to be free once nobody has it open.
            self.kept_backings.forget(node.id);
        }
        self.cache.forget(node.dir_key);
        self.index_after_unlink(node)
    }

    /// Errors: ENOTEMPTY when the merged listing has an entry (D-3).
    pub(super) fn must_be_empty(&self, node: &Arc<Node>, names: &mut Names) -> Result<()> {
        if self.is_empty_dir(node, names)? { Ok(()) } else { Err(Errno::ENOTEMPTY) }
    }
}

/// Errors: EPERM when a flag of the object or of its directory forbids the removal.
pub(super) fn check_removable(parent: &Node, node: &Node) -> Result<()> {
    let dir = parent.state();
    let (dir_immutable, dir_append) = (dir.immutable, dir.append_only);
    drop(dir);
    let state = node.state();
    if dir_immutable || dir_append || state.immutable || state.append_only {
        return Err(Errno::EPERM);
    }
    Ok(())
}
