//! From a node to the real objects behind it.
//!
//! The upper mirrors the union's own paths, so an upper object is reached through the node's parent and name, which
//! rename keeps up to date; descriptors of directories come from the same bounded cache that the layers use. Indexed
//! files are reached through the index, orphans through the descriptor they keep.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::node::{Alias, Node, orphan_real};
use super::types::NodeId;
use super::{LayerInfo, ROOT, Union};
use crate::layer::{Object, Real};
use crate::sys::{At, Dir, Errno, Kind, NameBuf, Result, handle};

impl Union {
    pub(super) fn node(&self, id: NodeId) -> Result<Arc<Node>> {
        self.nodes.get(id).ok_or(Errno::ESTALE)
    }

    pub(super) fn directory(&self, id: NodeId) -> Result<Arc<Node>> {
        let node = self.node(id)?;
        if node.kind == crate::sys::Kind::Dir { Ok(node) } else { Err(Errno::ENOTDIR) }
    }

    pub(super) fn layer(&self, index: u32) -> Result<&LayerInfo> {
        let at = usize::try_from(index).map_err(|_| Errno::EIO)?.checked_sub(1).ok_or(Errno::EIO)?;
        self.layers.get(at).ok_or(Errno::EIO)
    }

    /// The upper directory of a directory node; `None` when it has none.
    pub(super) fn upper_dir(&self, node: &Arc<Node>) -> Result<Option<Arc<Dir>>> {
        let Some(upper) = &self.upper else { return Ok(None) };
        if !node.has_upper() {
            return Ok(None);
        }
        // Up to the first ancestor that is open, then down: depth must not cost stack.
        let mut missing: Vec<(Arc<Node>, NameBuf)> = Vec::new();
        let mut at = Arc::clone(node);
        let mut dir = loop {
            if at.id == ROOT {
                break Arc::clone(upper.root());
            }
            if let Some(dir) = self.cache.get(at.dir_key) {
                break dir;
            }
            let (orphan, alias) = {
                let state = at.state();
                (state.orphan.clone(), state.aliases.first().cloned())
            };
            if let Some(fd) = orphan {
                break fd;
            }
            let alias = alias.ok_or(Errno::ENOENT)?;
            missing.push((at, alias.name));
            at = alias.parent;
        };
        while let Some((node, name)) = missing.pop() {
            dir = Arc::new(dir.open_dir(&name)?);
            self.cache.put(node.dir_key, &dir);
        }
        Ok(Some(dir))
    }

    /// The upper object of a node that has one.
    pub(super) fn upper_real(&self, node: &Arc<Node>) -> Result<Option<Real>> {
        let Some(upper) = &self.upper else { return Ok(None) };
        let (index, orphan, alias) = {
            let state = node.state();
            let Some(part) = &state.upper else { return Ok(None) };
            let alias = state.aliases.iter().find(|a| a.upper).cloned();
            (part.index.clone(), state.orphan.clone(), alias)
        };
        if node.id == ROOT {
            return Ok(Some(Real::pinned(Arc::clone(upper.root()))));
        }
        if let Some(fd) = orphan {
            return Ok(Some(orphan_real(&fd)));
        }
        if let (Some(name), Some(dir)) = (index, upper.index())
            && node.kind != crate::sys::Kind::Dir
        {
            return Ok(Some(Real::named(Arc::clone(dir), name)));
        }
        let Some(alias) = alias else {
            let handle = node.state().found.clone().ok_or(Errno::ESTALE)?;
            let fd = handle::open(upper.root().open_readable()?.as_fd(), &handle)?;
            return Ok(Some(Real::pinned(Arc::new(Dir::from(fd)))));
        };
        let dir = self.upper_dir(&alias.parent)?.ok_or(Errno::ESTALE)?;
        Ok(Some(Real::named(dir, alias.name)))
    }

    /// The topmost real object of a node: its metadata is the node's (L-3).
    pub(super) fn top_real(&self, node: &Arc<Node>) -> Result<Real> {
        if let Some(real) = self.upper_real(node)? {
            return Ok(real);
        }
        let orphan = node.state().orphan.clone();
        if let Some(fd) = orphan {
            return Ok(orphan_real(&fd));
        }
        node.lower.first().ok_or(Errno::ESTALE)?.real(&self.cache)
    }

    /// Runs `act` on the topmost real object of a node. While it runs, no name of the directory it is reached through
    /// changes: without that, a removal in between would put a whiteout, or a stranger, in its place (D-2). Not for
    /// those who hold that directory's names already.
    pub(super) fn steadily<T>(&self, node: &Arc<Node>, act: impl FnOnce(At<'_>) -> Result<T>) -> Result<T> {
        loop {
            let alias = {
                let state = node.state();
                let by_name = node.id != ROOT
                    && state.orphan.is_none()
                    && state.upper.as_ref().is_some_and(|u| u.index.is_none() || node.kind == Kind::Dir);
                if by_name { state.aliases.iter().find(|a| a.upper).cloned() } else { None }
            };
            let Some(alias) = alias else { return act(self.top_real(node)?.at()) };
            let names = alias.parent.names();
            let still = |a: &&Alias| a.upper && a.parent.id == alias.parent.id && a.name == alias.name;
            if node.state().orphan.is_some() || node.state().aliases.iter().find(still).is_none() {
                continue;
            }
            let dir = self.upper_dir(&alias.parent)?.ok_or(Errno::ESTALE)?;
            let done = act(dir.at(&alias.name));
            drop(names);
            return done;
        }
    }

    /// The topmost real object of a node, kept open: it stays the same whatever happens to its names. As
    /// [`Union::steadily`], not for those who hold its directory's names.
    pub(super) fn steady(&self, node: &Arc<Node>) -> Result<Real> {
        self.steadily(node, |at| at.pin()).map(|fd| Real::pinned(Arc::new(Dir::from(fd))))
    }

    /// [`Union::steady`] of a node that has an upper. Errors: EROFS when it has none.
    pub(super) fn steady_upper(&self, node: &Arc<Node>) -> Result<Real> {
        if node.has_upper() { self.steady(node) } else { Err(Errno::EROFS) }
    }

    /// The lower object that has a file's data (C-25, C-27). Errors: ENOENT when no data-only layer has it, which is
    /// found out here at the earliest: looking the file up does not ask them.
    pub(super) fn lower_data(&self, node: &Node) -> Result<Real> {
        let Some(path) = &node.data_path else {
            return node.lower.last().ok_or(Errno::EIO)?.real(&self.cache);
        };
        for layer in &self.data_layers {
            match self.walk_plain(&layer.root, path) {
                Ok(object) => return object.real(&self.cache),
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG) => {}
                Err(e) => return Err(e),
            }
        }
        Err(Errno::ENOENT)
    }

    /// Walks a path in one layer without any mark having a meaning.
    pub(super) fn walk_plain(&self, root: &Arc<Object>, path: &[NameBuf]) -> Result<Arc<Object>> {
        let mut at = Arc::clone(root);
        for name in path {
            let stat = at.open(&self.cache)?.stat(name)?;
            at = Object::within(&at, name.clone(), &stat);
        }
        Ok(at)
    }
}

/// What is missing although the union knows it was taken away behind its back.
pub(super) fn gone(errno: Errno) -> Errno {
    if errno == Errno::ENOENT { Errno::ESTALE } else { errno }
}
