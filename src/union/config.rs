//! What a stack is made of and how it behaves: the kernel's mount options as plain values (overlay-spec section 6).
//!
//! Words and their conflicts are parsed in `cli`; this is what is left when every default has been settled.

use std::path::PathBuf;

/// `redirect_dir=` (L-22, D-9, D-10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Redirect {
    /// Followed and created.
    On,
    /// Followed, not created.
    #[default]
    Follow,
    /// Meeting one makes the directory inaccessible.
    NoFollow,
}

/// `xino=` (I-2, I-3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Xino {
    /// The kernel's default; a FUSE mount has one st_dev, so numbers are made unique all the same.
    Off,
    /// Encode where the bits are free.
    #[default]
    Auto,
    /// Encode.
    On,
}

/// `uuid=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Uuid {
    /// Kept in `P.uuid` on the upper root.
    On,
    /// Handle records carry a zero UUID.
    Off,
    /// As the kernel before 6.6: nothing is stored.
    Null,
    /// On for a fresh upper, else null.
    #[default]
    Auto,
}

/// `fsync=` and `volatile` (C-16, A-18).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fsync {
    /// Nothing is ever synced; the work directory carries the marker.
    Volatile,
    /// A copied-up file is synced before it is published.
    #[default]
    Auto,
    /// Like auto, and metadata-only copies too.
    Strict,
}

/// `passthrough=` (F-10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Passthrough {
    /// All data goes through the page cache of the mount.
    Off,
    /// Files of the upper; and everything when there is no upper.
    #[default]
    Auto,
}

/// `writeback_cache=` (F-36).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writeback {
    /// Each write is a request.
    Off,
    /// Gathered by the kernel for ordinary users, whose writes cannot pass the daemon by.
    #[default]
    Auto,
    /// Gathered by the kernel; nothing passes the daemon by.
    On,
}

/// When reading advances access times: `relatime`, `noatime`, `strictatime`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Atime {
    /// When they are older than the last change, or than a day.
    #[default]
    Relative,
    /// Never.
    Never,
    /// Always.
    Strict,
}

/// What `user.containers.override_stat` and its like are (`xattr_permissions=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overrides {
    /// Attributes like any other.
    #[default]
    Plain,
    /// Hidden, and nobody may set them through the mount: another mount of these layers may believe them.
    Hidden,
    /// Hidden, and they say owner, mode and type of the object in place of its inode.
    Believed,
}

/// A stack and its behaviour.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Lower directories, top first.
    pub lower: Vec<PathBuf>,
    /// Data-only layers (C-27), top first.
    pub data_only: Vec<PathBuf>,
    /// The writable layer.
    pub upper: Option<PathBuf>,
    /// The upper's scratch directory; present exactly when `upper` is.
    pub work: Option<PathBuf>,
    /// The upper is looked at and never written: nothing is locked, swept or marked, and no change can be made. `work`
    /// may then be missing; it is wanted only for its index.
    pub frozen: bool,
    /// Private attributes are `user.overlay.` instead of `trusted.overlay.`.
    pub userxattr: bool,
    /// `redirect_dir=`.
    pub redirect: Redirect,
    /// `metacopy=on`.
    pub metacopy: bool,
    /// `index=on`.
    pub index: bool,
    /// `nfs_export=on`.
    pub nfs_export: bool,
    /// `xino=`.
    pub xino: Xino,
    /// `uuid=`.
    pub uuid: Uuid,
    /// `fsync=` or `volatile`.
    pub fsync: Fsync,
    /// `whiteout=oci`: read `.wh.` markers in lower layers (L-14).
    pub oci_whiteouts: bool,
    /// `passthrough=`.
    pub passthrough: Passthrough,
    /// `writeback_cache=`.
    pub writeback: Writeback,
    /// No POSIX ACLs through the mount.
    pub noacl: bool,
    /// How owners are converted for callers.
    pub ids: super::ids::Ids,
    /// What root makes belongs to the layers' root where root itself has no counterpart in them: a container engine
    /// prepares the tree of a container whose ids are not its own.
    pub root_stands_in: bool,
    /// `xattr_permissions=`.
    pub overrides: Overrides,
    /// Every directory shows one link.
    pub static_nlink: bool,
    /// Inode numbers are folded into 32 bits.
    pub ino32: bool,
    /// No extended attributes through the mount.
    pub noxattrs: bool,
    /// The marker that an earlier volatile mount left on the upper is neither heeded nor left.
    pub unmarked_volatile: bool,
    /// Lower layers that their keeper knows to be immutable: their index is used without comparing.
    pub immutable: Vec<PathBuf>,
    /// When reading advances access times.
    pub atime: Atime,
    /// Reading directories does not (`nodiratime`).
    pub nodiratime: bool,
    /// The same settings as words that differ from the defaults; `status` repeats them, nothing else reads them.
    pub words: Vec<String>,
}
