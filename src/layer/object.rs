//! Where an object of a lower layer is, and how to get at it again.
//!
//! A descriptor per object is not affordable, and a path would be bounded by PATH_MAX and walk every component on
//! every use. So an object knows its parent and its name in it, and the descriptors of recently used directories are
//! kept in a bounded cache. Lower objects never move, so such a place stays right for the life of the mount.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use lru::LruCache;

use std::os::fd::AsFd;

use crate::sys::handle::{self, FileHandle};
use crate::sys::{At, Dir, NameBuf, Result};

/// A key of [`DirCache`]; never reused in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DirKey(u64);

impl DirKey {
    /// A key nobody else has.
    pub fn fresh() -> DirKey {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        DirKey(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

const SHARDS: usize = 16;

/// Open descriptors of recently used directories, of all layers together. Bounded; losing one costs an openat.
#[derive(Debug)]
pub struct DirCache {
    shards: Arc<Shards>,
}

/// Leaf locks: nothing else is taken while one is held.
type Shards = [Mutex<LruCache<DirKey, Arc<Dir>>>; SHARDS];

// The remainder keeps the index below SHARDS.
#[allow(clippy::indexing_slicing)]
fn shard(shards: &Shards, key: DirKey) -> std::sync::MutexGuard<'_, LruCache<DirKey, Arc<Dir>>> {
    shards[key.0 as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
}

impl DirCache {
    /// A cache of at most about `capacity` descriptors.
    pub fn new(capacity: usize) -> DirCache {
        let each = NonZeroUsize::new(capacity / SHARDS).unwrap_or(NonZeroUsize::MIN);
        DirCache { shards: Arc::new(std::array::from_fn(|_| Mutex::new(LruCache::new(each)))) }
    }

    /// The descriptor kept under `key`.
    pub fn get(&self, key: DirKey) -> Option<Arc<Dir>> {
        shard(&self.shards, key).get(&key).cloned()
    }

    /// Keeps `dir` under `key`, perhaps dropping the one used least recently.
    pub fn put(&self, key: DirKey, dir: &Arc<Dir>) {
        // The evicted descriptor is closed after the lock is released.
        let evicted = shard(&self.shards, key).push(key, Arc::clone(dir));
        drop(evicted);
    }

    /// Closes the descriptor kept under `key`.
    pub fn forget(&self, key: DirKey) {
        close(&self.shards, key);
    }

    /// How many descriptors are kept now.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The descriptor is closed after the lock is released.
fn close(shards: &Shards, key: DirKey) {
    let removed = shard(shards, key).pop(&key);
    drop(removed);
}

/// An object's place in the cache where its directory was kept: what is kept for it goes with it, or the descriptors
/// of forgotten objects would fill the cache.
#[derive(Debug)]
struct Kept {
    key: DirKey,
    cache: OnceLock<Arc<Shards>>,
}

impl Kept {
    fn nowhere() -> Kept {
        Kept { key: DirKey::fresh(), cache: OnceLock::new() }
    }

    fn put(&self, cache: &DirCache, dir: &Arc<Dir>) {
        self.cache.get_or_init(|| Arc::clone(&cache.shards));
        cache.put(self.key, dir);
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(shards) = self.cache.get() {
            close(shards, self.key);
        }
    }
}

/// An object of a lower layer.
#[derive(Debug)]
pub struct Object {
    /// The layer it is in: 1 is the topmost lower.
    pub layer: u32,
    /// Raw inode number.
    pub ino: u64,
    /// Links of the raw inode when it was seen first.
    pub nlink: u32,
    kept: Kept,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Root(Arc<Dir>),
    In(Arc<Object>, NameBuf),
    /// Has no known name.
    Pinned(Arc<Dir>),
    /// Found by this handle, through a directory of its filesystem; has no known name.
    Handle(Arc<Dir>, FileHandle),
}

/// A real object ready for system calls: keeps the directory it is in open.
#[derive(Debug)]
pub struct Real {
    dir: Arc<Dir>,
    name: Option<NameBuf>,
}

impl Real {
    /// The entry `name` of `dir`.
    pub fn named(dir: Arc<Dir>, name: NameBuf) -> Real {
        Real { dir, name: Some(name) }
    }

    /// The object `fd` is on (any kind of object).
    pub fn pinned(fd: Arc<Dir>) -> Real {
        Real { dir: fd, name: None }
    }

    /// For metadata calls and for opening.
    pub fn at(&self) -> At<'_> {
        match &self.name {
            Some(name) => self.dir.at(name),
            None => self.dir.this(),
        }
    }
}

impl Object {
    /// The root of layer `layer`.
    pub fn root(layer: u32, dir: Arc<Dir>, ino: u64) -> Arc<Object> {
        Arc::new(Object { layer, ino, nlink: 1, kept: Kept::nowhere(), place: Place::Root(dir) })
    }

    /// The entry `name` of `parent`.
    pub fn within(parent: &Arc<Object>, name: NameBuf, stat: &crate::sys::Stat) -> Arc<Object> {
        Arc::new(Object {
            layer: parent.layer,
            ino: stat.ino,
            nlink: stat.nlink,
            kept: Kept::nowhere(),
            place: Place::In(Arc::clone(parent), name),
        })
    }

    /// An object of `layer` reached only through a descriptor.
    pub fn pinned(layer: u32, fd: Arc<Dir>, stat: &crate::sys::Stat) -> Arc<Object> {
        Arc::new(Object {
            layer,
            ino: stat.ino,
            nlink: stat.nlink,
            kept: Kept::nowhere(),
            place: Place::Pinned(fd),
        })
    }

    /// An object of `layer` that `handle` leads to from `root`, each time it is used.
    pub fn by_handle(layer: u32, root: Arc<Dir>, handle: FileHandle, stat: &crate::sys::Stat) -> Arc<Object> {
        Arc::new(Object {
            layer,
            ino: stat.ino,
            nlink: stat.nlink,
            kept: Kept::nowhere(),
            place: Place::Handle(root, handle),
        })
    }

    /// Its name in its layer, and the directory holding it; `None` for a layer's root and for pinned objects.
    pub fn place(&self) -> Option<(&Arc<Object>, &NameBuf)> {
        match &self.place {
            Place::In(parent, name) => Some((parent, name)),
            Place::Root(_) | Place::Pinned(_) | Place::Handle(..) => None,
        }
    }

    /// The names from the layer's root down to it; `None` for a pinned object.
    pub fn path(&self) -> Option<Vec<NameBuf>> {
        let mut names = Vec::new();
        let mut at = self;
        loop {
            match &at.place {
                Place::Root(_) => break,
                Place::Pinned(_) | Place::Handle(..) => return None,
                Place::In(parent, name) => {
                    names.push(name.clone());
                    at = parent;
                }
            }
        }
        names.reverse();
        Some(names)
    }

    /// For metadata calls.
    pub fn real(&self, cache: &DirCache) -> Result<Real> {
        match &self.place {
            Place::Root(dir) | Place::Pinned(dir) => Ok(Real::pinned(Arc::clone(dir))),
            Place::In(parent, name) => Ok(Real::named(parent.open(cache)?, name.clone())),
            Place::Handle(root, handle) => reopen(root, handle).map(Real::pinned),
        }
    }

    /// The directory, opened or from the cache. Errors: ENOTDIR when it is not one.
    pub fn open(&self, cache: &DirCache) -> Result<Arc<Dir>> {
        // Walk up to the first ancestor that is open, then down again: depth must not cost stack.
        let mut missing: Vec<(&Object, &NameBuf)> = Vec::new();
        let mut at = self;
        let mut dir = loop {
            match &at.place {
                Place::Root(dir) | Place::Pinned(dir) => break Arc::clone(dir),
                Place::Handle(root, handle) => break reopen(root, handle)?,
                Place::In(parent, name) => {
                    if let Some(dir) = cache.get(at.kept.key) {
                        break dir;
                    }
                    missing.push((at, name));
                    at = parent;
                }
            }
        };
        while let Some((object, name)) = missing.pop() {
            dir = Arc::new(dir.open_dir(name)?);
            object.kept.put(cache, &dir);
        }
        Ok(dir)
    }
}

/// The object of a handle on the filesystem of `root`. Errors: ESTALE when it is gone.
fn reopen(root: &Dir, handle: &FileHandle) -> Result<Arc<Dir>> {
    handle::open(root.as_fd(), handle).map(|fd| Arc::new(Dir::from(fd)))
}
