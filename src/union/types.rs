//! The plain values that cross the boundary between the union and whoever speaks for its callers.
//!
//! Nothing here knows the FUSE protocol; the adapter converts each way in one place.

pub use crate::sys::{Dev, SetTime};
use crate::sys::{Kind, Time};

/// Names a live object towards the kernel. Never reused within one mount, so its generation is always 0 (I-10);
/// it says nothing about `st_ino`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

/// The union's root.
pub const ROOT: NodeId = NodeId(1);

/// Names an open file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HandleId(pub u64);

/// An owner as the layers record it. All conversion of ids happens in the adapter that makes this value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Who asks, and the number by which the request can be interrupted.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// fsuid and fsgid of the calling task, as the layers would record them; [`super::ids::NO_ID`] where they cannot, or
    /// where the request does not say.
    pub owner: Owner,
    /// Its process id in our pid namespace; 0 when it cannot be named there.
    pub pid: u32,
    /// The request's number, for [`super::Union::interrupt`].
    pub request: u64,
}

/// What stat(2) shows of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// `st_ino` (I-1, I-3).
    pub ino: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Reported hard links (I-5 to I-8).
    pub nlink: u32,
    /// Owner and group.
    pub owner: Owner,
    /// Device number of a device node.
    pub rdev: Dev,
    /// Length in bytes.
    pub size: u64,
    /// Allocated 512-byte blocks.
    pub blocks: u64,
    /// Preferred I/O size in bytes.
    pub blksize: u32,
    /// Last access.
    pub atime: Time,
    /// Last change of contents.
    pub mtime: Time,
    /// Last change of metadata.
    pub ctime: Time,
    /// Birth, where known (I-11).
    pub btime: Option<Time>,
}

impl Attr {
    /// The type bits of `mode`.
    pub fn kind(&self) -> Kind {
        Kind::of_mode(self.mode)
    }
}

/// How long an answer stays true without being asked again (F-38).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Valid {
    /// Until this mount itself changes it.
    Unlimited,
    /// Ask again next time: something can change it unseen (a writable passthrough mapping).
    Never,
}

/// Attributes, and how long they may be cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttrReply {
    /// The attributes.
    pub attr: Attr,
    /// Their validity.
    pub valid: Valid,
}

/// A name that resolved. Handing one out takes one lookup reference, given back by [`super::Union::forget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The object.
    pub node: NodeId,
    /// Distinguishes reuses of `node`; 0 unless `nfs_export`.
    pub generation: u64,
    /// Its attributes and their validity.
    pub attr: AttrReply,
    /// How long the name itself stays known: for a name of a file that is to be copied up under just that name (I-6),
    /// it must be said again each time it is used.
    pub name: Valid,
}

/// A change of attributes; `None` leaves a field alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits (type bits ignored).
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New length in bytes.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Modification time.
    pub mtime: Option<SetTime>,
    /// Clear suid, sgid if group-executable, and `security.capability` (A-3, F-42).
    pub kill_priv: bool,
}

/// How an object comes into being.
#[derive(Clone, Debug, Default)]
pub struct NewNode {
    /// Permission bits as the program gave them, umask not applied.
    pub mode: u32,
    /// The caller's umask; applies only where the parent has no default ACL.
    pub umask: u32,
    /// Security attributes computed by the kernel for the new inode: full xattr name, value.
    pub security: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What the kernel may do with the data of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataPath {
    /// Through its page cache; `keep` when pages cached earlier are still right.
    Cached {
        /// Keep the pages cached by earlier opens.
        keep: bool,
    },
    /// Not through the page cache: the server's descriptor cannot do what the cache would ask of it.
    Direct,
    /// Straight to the backing file registered under this number.
    Passthrough(BackingId),
}

/// A backing file registered with the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BackingId(pub u32);

/// A file that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// To be given back by [`super::Union::release`].
    pub handle: HandleId,
    /// Where its data flows.
    pub data: DataPath,
}

/// Which open file a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// One that was opened by [`super::Union::open_file`].
    Handle(HandleId),
    /// A file of a mount without an upper that nobody was asked to open (F-7).
    Unasked(NodeId),
}

impl From<HandleId> for Open {
    fn from(handle: HandleId) -> Open {
        Open::Handle(handle)
    }
}

/// One name of a listing.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// The same number as `st_ino`.
    pub ino: u64,
    /// `DT_…`.
    pub kind: Kind,
    /// The offset that continues after this entry (I-13).
    pub next: u64,
    /// `.`, `..` or a name.
    pub name: &'a [u8],
}

/// Flags of renameat2(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// Replace what is there.
    Replace,
    /// RENAME_NOREPLACE.
    NoReplace,
    /// RENAME_EXCHANGE.
    Exchange,
}

/// Flags of setxattr(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetXattrMode {
    /// Create or replace.
    Any,
    /// XATTR_CREATE.
    Create,
    /// XATTR_REPLACE.
    Replace,
}

/// Numbers of statfs(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// Size of the filesystem in `frsize` units.
    pub blocks: u64,
    /// Free blocks.
    pub bfree: u64,
    /// Blocks free to ordinary users.
    pub bavail: u64,
    /// Inodes.
    pub files: u64,
    /// Free inodes.
    pub ffree: u64,
    /// Block size in bytes.
    pub bsize: u32,
    /// Longest name in bytes.
    pub namelen: u32,
    /// Fragment size in bytes.
    pub frsize: u32,
}

/// Attributes of FS_IOC_FSGETXATTR and FS_IOC_GETFLAGS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileAttr {
    /// `FS_*_FL` bits.
    pub flags: u32,
    /// `FS_XFLAG_*` bits.
    pub xflags: u32,
    /// Extent size hint, bytes.
    pub extsize: u32,
    /// Number of extents.
    pub nextents: u32,
    /// Project id.
    pub projid: u32,
    /// Copy-on-write extent size hint, bytes.
    pub cowextsize: u32,
}

/// What the union needs from the transport. Every method must be callable from any thread, also while a request is
/// being served.
pub trait Transport: Send + Sync {
    /// Registers `fd` as a backing file. Errors: EOPNOTSUPP when this mount has no passthrough; what
    /// FUSE_DEV_IOC_BACKING_OPEN says otherwise.
    fn open_backing(&self, fd: std::os::fd::BorrowedFd<'_>) -> crate::sys::Result<BackingId>;
    /// Gives a backing file back once no handle uses it.
    fn close_backing(&self, id: BackingId);
    /// Whether files can be read and written past the server.
    fn passes_through(&self) -> bool {
        false
    }
    /// Whether the kernel keeps written data back for a while, together with its own idea of sizes and times (F-36).
    fn gathers_writes(&self) -> bool {
        false
    }
    /// Makes the kernel ask for the attributes of `node` again.
    fn forget_attributes(&self, node: NodeId);
    /// Makes the kernel ask for the listing of the directory `node` again.
    fn forget_listing(&self, node: NodeId);
}

/// A transport that offers nothing; for a union that is used without a mount.
#[derive(Debug)]
pub struct NoTransport;

impl Transport for NoTransport {
    fn open_backing(&self, _: std::os::fd::BorrowedFd<'_>) -> crate::sys::Result<BackingId> {
        Err(crate::sys::Errno::EOPNOTSUPP)
    }
    fn close_backing(&self, _: BackingId) {}
    fn forget_attributes(&self, _: NodeId) {}
    fn forget_listing(&self, _: NodeId) {}
}
