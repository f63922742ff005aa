//! The filesystem itself, as methods on plain values: `&self`, any number of threads, no mount needed.
//!
//! One module per subject: `lookup` decides what a name means, `node` holds what the kernel knows, `place` leads from
//! a node to the real objects, `copy_up`, `create`, `remove` and `rename` change the upper, `listing` reads
//! directories and `below` remembers which layers know a name, `io` moves data, `attr`, `xattr` and `fileattr` are about metadata, `index` ties upper objects to
//! where they came from, `setup` opens it all.

mod acl;
mod answers;
mod attr;
mod below;
mod config;
pub mod control;
mod copy_up;
mod create;
mod export;
mod fileattr;
mod handles;
pub mod ids;
mod index;
mod io;
mod kept;
mod listing;
mod lookup;
mod mode;
mod node;
mod owner;
mod place;
mod remove;
mod rename;
mod setup;
mod sweep;
mod types;
mod xattr;
mod xino;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};

pub use config::{Atime, Config, Fsync, Overrides, Passthrough, Redirect, Uuid, Writeback, Xino};
pub use types::*;

use crate::layer::index::{LayerIndex, Trust};
use crate::layer::marks::Prefix;
use crate::layer::{DirCache, Object, Reader};
use crate::sys::clone::ClonedMount;
use crate::sys::{Errno, Name, Result};
use crate::upper::Upper;

/// One lower layer of a stack.
#[derive(Debug)]
struct LayerInfo {
    path: PathBuf,
    root: Arc<Object>,
    reader: Reader,
    /// Its filesystem's number among the distinct ones.
    fsid: xino::FsId,
    dev: u64,
    uuid: [u8; 16],
    /// Whether handles can be told apart from those of other filesystems of the stack.
    decodes: bool,
    clone: ClonedMount,
    /// Its mount is idmapped: owners are as callers see them, not as the other layers record them.
    shifted: bool,
    /// Whether its index is believed without looking.
    trust: Trust,
    /// Loaded when a directory of many contributors is first listed; `None` where there is none that can be used.
    index: OnceLock<Option<LayerIndex>>,
}

impl LayerInfo {
    fn index(&self) -> Option<&LayerIndex> {
        let load = || {
            let file = crate::layer::index::beside(&self.path)?;
            LayerIndex::load(&file).unwrap_or_else(|e| {
                log::warn!("{e}");
                None
            })
        };
        self.index.get_or_init(load).as_ref()
    }
}

/// Whether a write-back error of the upper was seen on a volatile mount.
#[derive(Debug, Default)]
struct SyncState {
    failed: std::sync::atomic::AtomicBool,
}

impl SyncState {
    /// Remembers a failure for good: what was lost does not come back. Errors: EIO for any.
    fn observe(&self, outcome: Result<()>) -> Result<()> {
        outcome.map_err(|e| {
            log::error!("the upper lost data: {e}");
            self.failed.store(true, std::sync::atomic::Ordering::Relaxed);
            Errno::EIO
        })
    }

    /// Errors: EIO once an error was seen.
    fn check(&self) -> Result<()> {
        if self.failed.load(std::sync::atomic::Ordering::Relaxed) { Err(Errno::EIO) } else { Ok(()) }
    }
}

/// A mounted stack.
pub struct Union {
    config: Config,
    /// Who this process is towards the layers.
    keeper: u32,
    prefix: Prefix,
    /// Layer 1 is the first.
    layers: Vec<LayerInfo>,
    data_layers: Vec<LayerInfo>,
    upper: Option<Upper>,
    /// Told to the kernel with every node whose id does not outlast the mount: with `nfs_export` a number of this mount's
    /// own, so that a handle of an earlier mount is stale and never another object (F-13); else 0.
    generation: u64,
    exports: export::Exports,
    /// Device and inode numbers of the roots of all layers and of the work directory.
    roots: HashSet<(u64, u64)>,
    /// Handle records carry UUIDs (`uuid=off` leaves them out).
    keeps_uuids: bool,
    numbers: xino::InodeNumbers,
    root: Arc<node::Node>,
    nodes: node::Table,
    handles: io::Handles,
    kept_files: kept::Kept<io::FileHandle>,
    kept_backings: kept::Kept<node::Backing>,
    kept_dirs: kept::Kept<Mutex<listing::Stream>>,
    cache: DirCache,
    transport: Arc<dyn Transport>,
    interrupts: copy_up::Interrupts,
    sync_state: SyncState,
    /// Objects copied up since the mount.
    copies: AtomicU64,
    /// Bytes of contents copied for that.
    copied_bytes: AtomicU64,
    /// Nodes that went since freed memory was last collected.
    forgotten: std::sync::atomic::AtomicUsize,
    /// One rename between directories at a time, so that the ancestor check holds. Outermost lock of a rename.
    renames: Mutex<()>,
}

impl std::fmt::Debug for Union {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Union").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Union {
    fn root_node(&self) -> &Arc<node::Node> {
        &self.root
    }

    /// The number of lower layers, which is also the index of the lowest.
    fn lower_count(&self) -> u32 {
        self.layers.len() as u32
    }

    /// Whether a new directory in a merged one is marked opaque although nothing is below it now (D-6).
    fn marks_new_dirs(&self) -> bool {
        self.config.index
            || self.config.metacopy
            || self.config.redirect == Redirect::On
            || self.config.xino == Xino::On
    }

    /// With `whiteout=oci`, names of markers cannot be created (L-14).
    fn hides_markers(&self, name: &Name) -> bool {
        self.config.oci_whiteouts && name.as_bytes().starts_with(b".wh.")
    }

    /// What `name` of `parent` is. `None`: there is no such name, and that may be cached until this mount creates it.
    pub fn lookup(&self, _caller: &Caller, parent: NodeId, name: &Name) -> Result<Option<Entry>> {
        self.lookup_entry(parent, name)
    }

    /// The directory a directory is in (F-13).
    pub fn lookup_parent(&self, node: NodeId) -> Result<Entry> {
        let node = self.directory(node)?;
        let parent = node.any_alias().map_or_else(|| Arc::clone(&self.root), |a| a.parent);
        let parent = self.nodes.acquire(parent.id).ok_or(Errno::ESTALE)?;
        self.entry(&parent, None)
    }

    /// Gives lookup references back.
    pub fn forget(&self, node: NodeId, references: u64) {
        self.forget_node(node, references);
    }

    /// The target of a symlink. Errors: EINVAL for anything else.
    pub fn readlink(&self, node: NodeId) -> Result<Vec<u8>> {
        let node = self.node(node)?;
        self.steadily(&node, |at| match at.readlink() {
            // A regular file that stands for a link.
            Err(Errno::EINVAL) if self.overrides() && node.kind == crate::sys::Kind::Symlink => {
                let mut target = vec![0; libc::PATH_MAX as usize];
                let fd = at.open(libc::O_RDONLY)?;
                let length = nix::sys::uio::pread(&fd, &mut target, 0)?;
                target.truncate(length);
                Ok(target)
            }
            done => done,
        })
    }

    /// How owners are converted for callers; the adapter does it.
    pub fn ids(&self) -> &ids::Ids {
        &self.config.ids
    }

    /// The stack and its options, as they were settled.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The caller as the layers would record it. Where idmapped mounts are possible only creating requests say it, and
    /// the process is asked.
    pub(crate) fn owner_of(&self, caller: &Caller) -> Owner {
        match caller.owner {
            Owner { uid: ids::NO_ID, .. } => match crate::sys::caller_ids(caller.pid) {
                Some((uid, gid)) => self.config.ids.stored(Owner { uid, gid }),
                None => caller.owner,
            },
            known => known,
        }
    }

    /// syncfs(2) on the upper's filesystem.
    pub fn sync(&self) -> Result<()> {
        self.sync_state.check()?;
        match &self.upper {
            Some(upper) if upper.syncs() => upper.root().syncfs(),
            _ => Ok(()),
        }
    }

    /// Asks the request numbered `request` to stop early with EINTR, if it is a long copy-up (C-18).
    pub fn interrupt(&self, request: u64) {
        self.interrupts.interrupt(request);
    }
}
