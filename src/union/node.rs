//! Live objects: what the kernel knows by a node id.
//!
//! A node's kind and its lower parts never change. What changes is where its upper is and by which names it is known;
//! both sit behind one short lock. No node keeps a descriptor, except an orphan: an object whose last known name is
//! gone while the kernel still refers to it.
//!
//! Lock order, outermost first: `copying` of the node, `copying` of nothing else; [`Node::dir`] of directories in
//! rank (node id) order; [`Node::state`]; the table's shards; leaf locks of caches. `copying` may be held while a
//! directory lock is taken, never the reverse.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use super::below::Known;
use super::listing::Listing;
use super::types::{BackingId, NodeId, Transport};
use super::xino::FsId;
use crate::layer::marks::RedirectTo;
use crate::layer::{DirKey, Object, Real};
use crate::sys::handle::FileHandle;
use crate::sys::{Dir, Errno, Kind, Name, NameBuf, Result, Stat};

/// Two names with the same key are one object (I-5, I-6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// The inode of the upper.
    Upper(u64),
    /// The inode of a layer's filesystem, by its number among the distinct ones.
    Lower(FsId, u64),
}

/// One name a node is known by.
#[derive(Clone, Debug)]
pub(super) struct Alias {
    pub parent: Arc<Node>,
    pub name: NameBuf,
    /// Whether this name exists in the upper; false for a lower name of an indexed file (I-6).
    pub upper: bool,
}

/// The upper half of a node.
#[derive(Clone, Debug, Default)]
pub(super) struct UpperPart {
    /// The data is still in a lower layer (C-25).
    pub metacopy: bool,
    /// The redirect that is stored on it.
    pub redirect: Option<RedirectTo>,
    /// Nothing below counts for it.
    pub opaque: bool,
    /// It was copied up, now or by an earlier mount.
    pub origin: bool,
    /// Its entry of the index directory.
    pub index: Option<NameBuf>,
}

/// A registered backing file; given back when dropped.
pub(super) struct Backing {
    pub id: BackingId,
    pub transport: Arc<dyn Transport>,
}

impl std::fmt::Debug for Backing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.id.fmt(f)
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        self.transport.close_backing(self.id);
    }
}

/// How open handles use the data (F-9, F-10).
#[derive(Debug, Default)]
pub(super) struct DataUse {
    pub cached: u32,
    pub through: u32,
    /// Handles open for writing.
    pub writers: u32,
    /// Handles open for both reading and writing in passthrough: a mapping of theirs changes times unseen (F-38).
    pub mappable: u32,
    pub backing: Option<Arc<Backing>>,
    /// Written in passthrough since the page cache was last known right (F-41).
    pub bypassed: bool,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub aliases: Vec<Alias>,
    pub orphan: Option<Arc<Dir>>,
    /// An upper object that a program's handle led to, before any of its names is known (I-9).
    pub found: Option<FileHandle>,
    pub upper: Option<UpperPart>,
    pub ino: u64,
    pub key: Option<Key>,
    /// The lower object it alone may have been copied up from.
    pub claim: Option<(FsId, u64)>,
    /// The link count of an indexed file (I-6).
    pub nlink: Option<u32>,
    /// Kernel flags that the server must enforce.
    pub immutable: bool,
    pub append_only: bool,
    pub data: DataUse,
}

/// What a directory's lock protects: its names.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Children the kernel knows, by name.
    pub children: HashMap<NameBuf, NodeId>,
    /// The merged listing of this version.
    pub listing: Option<Arc<Listing>>,
    /// Changes with every change of names.
    pub version: u64,
    /// Whether the upper directory's default ACL is known to exist or not.
    pub default_acl: Option<bool>,
    /// `P.impure` is known to be set.
    pub impure: bool,
    /// Removed: nothing can be created in it (D-15).
    pub dead: bool,
    /// The kernel may have cached its listing since its access time was last looked after.
    pub listed: bool,
}

impl Names {
    /// A child was copied up and may have another number, now (I-5) or once its node is forgotten (no origin).
    pub(super) fn renumbered(&mut self, name: &Name) {
        if let Some(listing) = &mut self.listing {
            Arc::make_mut(listing).forget_ino(name);
        }
    }
}

/// See the module text.
#[derive(Debug)]
pub(super) struct Node {
    pub id: NodeId,
    pub kind: Kind,
    /// The id says which object this is, to the next server as well (I-9).
    pub lasting: bool,
    pub dir_key: DirKey,
    /// Directories: the contributors below the upper, top first. Files: the topmost lower, and below a metacopy what
    /// leads to the data.
    pub lower: Vec<Arc<Object>>,
    /// Names of the data file in the data-only layers (C-27).
    pub data_path: Option<Vec<NameBuf>>,
    /// Has an upper whose data is its own: what readers of a lower descriptor check (C-19).
    pub has_upper_data: AtomicBool,
    /// References the kernel holds. Only changed under the table shard's lock.
    pub references: AtomicU64,
    /// Directories: which contributors know which names.
    pub known: Known,
    copying: Mutex<bool>,
    copied: Condvar,
    state: Mutex<State>,
    dir: RwLock<Names>,
}

/// How long an interrupted waiter may go on waiting.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The right to copy a node up.
#[derive(Debug)]
pub(super) struct Copying<'a>(&'a Node);

impl Drop for Copying<'_> {
    fn drop(&mut self) {
        *self.0.copying.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.0.copied.notify_one();
    }
}

impl Node {
    pub(super) fn new(id: NodeId, kind: Kind, lower: Vec<Arc<Object>>, state: State) -> Node {
        Node {
            id,
            kind,
            lasting: false,
            dir_key: DirKey::fresh(),
            lower,
            data_path: None,
            has_upper_data: AtomicBool::new(state.upper.as_ref().is_some_and(|u| !u.metacopy)),
            references: AtomicU64::new(0),
            known: Known::default(),
            copying: Mutex::new(false),
            copied: Condvar::new(),
            state: Mutex::new(state),
            dir: RwLock::new(Names::default()),
        }
    }

    /// Held by whoever copies this node up. Errors: EINTR when `stop` is set while somebody else copies (C-18).
    pub(super) fn copying(&self, stop: &AtomicBool) -> Result<Copying<'_>> {
        let mut taken = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken {
            if stop.load(Ordering::Relaxed) {
                return Err(Errno::EINTR);
            }
            taken = self.copied.wait_timeout(taken, LOOK_AGAIN).unwrap_or_else(PoisonError::into_inner).0;
        }
        *taken = true;
        Ok(Copying(self))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn names(&self) -> RwLockReadGuard<'_, Names> {
        self.dir.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn names_mut(&self) -> RwLockWriteGuard<'_, Names> {
        self.dir.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_upper(&self) -> bool {
        self.state().upper.is_some()
    }

    /// More than one layer contributes (L-3); tells the link count of directories (I-8).
    pub(super) fn is_merged(&self) -> bool {
        if self.has_upper() { !self.lower.is_empty() } else { self.lower.len() > 1 }
    }

    /// The kernel's "merge or lower": has lower contributors that a move would lose (D-9).
    pub(super) fn has_lower_part(&self) -> bool {
        !self.lower.is_empty()
    }

    /// A name of it: the one that was preferred last, else the one known longest.
    pub(super) fn any_alias(&self) -> Option<Alias> {
        self.state().aliases.first().cloned()
    }

    pub(super) fn add_alias(&self, parent: &Arc<Node>, name: &Name, upper: bool) {
        let mut state = self.state();
        match state.aliases.iter_mut().find(|a| a.parent.id == parent.id && *a.name == *name) {
            Some(known) => known.upper |= upper,
            None => {
                state.aliases.push(Alias { parent: Arc::clone(parent), name: name.to_owned(), upper });
            }
        }
    }

    /// What happens next is about this name: a copy-up of a file with several goes there first.
    pub(super) fn prefer_alias(&self, parent: NodeId, name: &Name) {
        let mut state = self.state();
        if let Some(at) = state.aliases.iter().position(|a| a.parent.id == parent && *a.name == *name) {
            state.aliases.swap(0, at);
        }
    }

    /// Whether it is known by this name.
    pub(super) fn is_named(&self, parent: &Node, name: &Name) -> bool {
        self.state().aliases.iter().any(|a| a.parent.id == parent.id && *a.name == *name)
    }

    pub(super) fn drop_alias(&self, parent: NodeId, name: &Name) {
        let removed;
        {
            let mut state = self.state();
            let at = state.aliases.iter().position(|a| a.parent.id == parent && *a.name == *name);
            removed = at.map(|i| state.aliases.swap_remove(i));
        }
        drop(removed);
    }

    /// Takes over the flags that the server enforces.
    pub(super) fn note_flags(&self, stat: &Stat) {
        let mut state = self.state();
        state.immutable |= stat.immutable;
        state.append_only |= stat.append_only;
    }
}

/// A real object, or the descriptor of an orphan.
pub(super) fn orphan_real(fd: &Arc<Dir>) -> Real {
    Real::pinned(Arc::clone(fd))
}

const SHARDS: usize = 64;

/// The id that an object should have, and the name by which it was found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted<'a> {
    pub id: Option<NodeId>,
    pub name: Option<(NodeId, &'a Name)>,
}

impl Wanted<'_> {
    /// Whether a node of the same identity is this object. A directory that is known by another name is not: two
    /// directories may lead to one lower directory (I-9), and the kernel takes no directory at two places.
    fn may_be(&self, node: &Node) -> bool {
        let Some((parent, name)) = self.name else { return true };
        node.kind != Kind::Dir
            || node.any_alias().is_none_or(|alias| alias.parent.id == parent && *alias.name == *name)
    }
}

/// All nodes the kernel knows. The shards are leaf locks towards nodes: no node lock is taken while one is held.
#[derive(Debug)]
pub(super) struct Table {
    nodes: Vec<Mutex<HashMap<NodeId, Arc<Node>>>>,
    keys: Vec<Mutex<HashMap<Key, NodeId>>>,
    /// Who was copied up from which lower object. Leaf lock.
    claims: Mutex<HashMap<(FsId, u64), NodeId>>,
    next: AtomicU64,
}

impl Table {
    pub(super) fn new() -> Table {
        Table {
            nodes: (0..SHARDS).map(|_| Mutex::default()).collect(),
            keys: (0..SHARDS).map(|_| Mutex::default()).collect(),
            claims: Mutex::default(),
            next: AtomicU64::new(2),
        }
    }

    #[allow(clippy::indexing_slicing)]
    fn shard(&self, id: NodeId) -> MutexGuard<'_, HashMap<NodeId, Arc<Node>>> {
        self.nodes[id.0 as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[allow(clippy::indexing_slicing)]
    fn key_shard(&self, key: Key) -> MutexGuard<'_, HashMap<Key, NodeId>> {
        let (Key::Upper(n) | Key::Lower(_, n)) = key;
        self.keys[n as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fresh_id(&self) -> NodeId {
        NodeId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn get(&self, id: NodeId) -> Option<Arc<Node>> {
        self.shard(id).get(&id).cloned()
    }

    /// Takes a reference for the kernel. `None` when the node is gone already.
    pub(super) fn acquire(&self, id: NodeId) -> Option<Arc<Node>> {
        let shard = self.shard(id);
        let node = shard.get(&id)?;
        node.references.fetch_add(1, Ordering::Relaxed);
        Some(Arc::clone(node))
    }

    /// Finds the node of `key`, or else of the lasting id `wanted`, and takes a reference; or inserts what `make` gives,
    /// under `wanted` where that is free, with one reference.
    pub(super) fn intern(
        &self,
        key: Option<Key>,
        wanted: Wanted<'_>,
        make: impl FnOnce(NodeId) -> Node,
    ) -> Arc<Node> {
        let mut keys = key.map(|k| (k, self.key_shard(k)));
        if let Some((key, map)) = &keys
            && let Some(id) = map.get(key)
            && let Some(node) = self.acquire(*id)
        {
            return node;
        }
        let node = self.insert(wanted, make);
        if let Some((key, map)) = &mut keys {
            map.insert(*key, node.id);
        }
        node
    }

    /// The node of the lasting id, or a new one.
    fn insert(&self, wanted: Wanted<'_>, make: impl FnOnce(NodeId) -> Node) -> Arc<Node> {
        let mut lasting = wanted.id;
        loop {
            let id = lasting.unwrap_or_else(|| self.fresh_id());
            let mut shard = self.shard(id);
            match shard.get(&id) {
                Some(node) if lasting.is_some() && node.lasting && wanted.may_be(node) => {
                    node.references.fetch_add(1, Ordering::Relaxed);
                    return Arc::clone(node);
                }
                Some(_) => lasting = None,
                None => {
                    let mut node = make(id);
                    node.lasting = lasting.is_some();
                    node.references.store(1, Ordering::Relaxed);
                    let node = Arc::new(node);
                    shard.insert(id, Arc::clone(&node));
                    return node;
                }
            }
        }
    }

    /// Makes an already known node findable by `key`.
    pub(super) fn set_key(&self, key: Key, id: NodeId) {
        self.key_shard(key).insert(key, id);
    }

    /// Gives `count` references back. Returns the node when none is left.
    pub(super) fn release(&self, id: NodeId, count: u64) -> Option<Arc<Node>> {
        let shard = self.shard(id);
        let node = shard.get(&id)?;
        let before = node.references.load(Ordering::Relaxed);
        node.references.store(before.saturating_sub(count), Ordering::Relaxed);
        (before <= count).then(|| Arc::clone(node))
    }

    /// Takes a node without references out. False when one was taken meanwhile.
    pub(super) fn remove(&self, node: &Arc<Node>) -> bool {
        {
            let mut shard = self.shard(node.id);
            if node.references.load(Ordering::Relaxed) > 0 || shard.remove(&node.id).is_none() {
                return false;
            }
        }
        let (key, claim) = {
            let state = node.state();
            (state.key, state.claim)
        };
        if let Some(claim) = claim {
            let mut claims = self.claims();
            if claims.get(&claim) == Some(&node.id) {
                claims.remove(&claim);
            }
        }
        if let Some(key) = key {
            let mut keys = self.key_shard(key);
            if keys.get(&key) == Some(&node.id) {
                keys.remove(&key);
            }
        }
        true
    }

    fn claims(&self) -> MutexGuard<'_, HashMap<(FsId, u64), NodeId>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `node` is the one live object that was copied up from the lower object `origin`. False: another one that
    /// has a name says the same of itself.
    pub(super) fn claim(&self, origin: (FsId, u64), node: &Arc<Node>) -> bool {
        let before = self.claims().get(&origin).copied();
        let rival = before.filter(|id| *id != node.id).and_then(|id| self.get(id));
        if rival.is_some_and(|rival| rival.any_alias().is_some()) {
            return false;
        }
        node.state().claim = Some(origin);
        self.claims().insert(origin, node.id);
        true
    }

    pub(super) fn insert_root(&self, node: &Arc<Node>) {
        node.references.store(1, Ordering::Relaxed);
        self.shard(node.id).insert(node.id, Arc::clone(node));
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// I-10: the inode number of a removed object may come back at once; what the kernel calls it by does not.
    #[test]
    fn an_object_with_the_number_of_one_that_is_gone_is_another_node() {
        let table = Table::new();
        let key = Some(Key::Upper(12));
        let make = |id| Node::new(id, Kind::File, Vec::new(), State { key, ..State::default() });
        let first = table.intern(key, Wanted::default(), make);
        assert_eq!(table.intern(key, Wanted::default(), make).id, first.id, "while it lives it is one node");
        assert!(table.release(first.id, 1).is_none());
        let gone = table.release(first.id, 1).unwrap();
        assert!(table.remove(&gone));
        let second = table.intern(key, Wanted::default(), make);
        assert!(second.id.0 > first.id.0);
        assert!(table.get(first.id).is_none());
    }
}
