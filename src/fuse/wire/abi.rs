//! The structures and numbers of FUSE 7.45 that this server reads or writes, in the layout of the kernel.
//!
//! Everything is native-endian and padded to 8 bytes by explicit fields, so that a struct can be taken from a message
//! and put into one without any code that knows its members. Times are unsigned on the wire; a negative second is its
//! two's complement.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Declares wire structs: all fields public, all readable from and writable to plain bytes.
macro_rules! wire {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $ty:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
            #[repr(C)]
            #[allow(missing_docs)]
            pub struct $name { $(pub $field: $ty),* }
        )*
    };
}

wire! {
    /// Starts every request. `total_extlen` counts 8-byte units at the end of the message.
    InHeader { len: u32, opcode: u32, unique: u64, nodeid: u64, uid: u32, gid: u32, pid: u32, total_extlen: u16, padding: u16 }
    /// Starts every reply (`error` is 0 or a negative errno) and every notification (`unique` is 0, `error` its code).
    OutHeader { len: u32, error: i32, unique: u64 }
    /// What stat(2) shows.
    Attr {
        ino: u64, size: u64, blocks: u64, atime: u64, mtime: u64, ctime: u64, atimensec: u32, mtimensec: u32,
        ctimensec: u32, mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32, blksize: u32, flags: u32,
    }
    /// Reply to everything that hands out a node.
    EntryOut {
        nodeid: u64, generation: u64, entry_valid: u64, attr_valid: u64, entry_valid_nsec: u32, attr_valid_nsec: u32,
        attr: Attr,
    }
    /// FORGET.
    ForgetIn { nlookup: u64 }
    /// One element of BATCH_FORGET.
    ForgetOne { nodeid: u64, nlookup: u64 }
    /// BATCH_FORGET.
    BatchForgetIn { count: u32, dummy: u32 }
    /// GETATTR.
    GetattrIn { getattr_flags: u32, dummy: u32, fh: u64 }
    /// Reply to GETATTR and SETATTR.
    AttrOut { attr_valid: u64, attr_valid_nsec: u32, dummy: u32, attr: Attr }
    /// STATX.
    StatxIn { getattr_flags: u32, reserved: u32, fh: u64, sx_flags: u32, sx_mask: u32 }
    /// A time of STATX.
    SxTime { tv_sec: i64, tv_nsec: u32, reserved: i32 }
    /// What statx(2) shows.
    Statx {
        mask: u32, blksize: u32, attributes: u64, nlink: u32, uid: u32, gid: u32, mode: u16, spare0: u16, ino: u64,
        size: u64, blocks: u64, attributes_mask: u64, atime: SxTime, btime: SxTime, ctime: SxTime, mtime: SxTime,
        rdev_major: u32, rdev_minor: u32, dev_major: u32, dev_minor: u32, spare2: [u64; 14],
    }
    /// Reply to STATX.
    StatxOut { attr_valid: u64, attr_valid_nsec: u32, flags: u32, spare: [u64; 2], stat: Statx }
    /// SETATTR.
    SetattrIn {
        valid: u32, padding: u32, fh: u64, size: u64, lock_owner: u64, atime: u64, mtime: u64, ctime: u64,
        atimensec: u32, mtimensec: u32, ctimensec: u32, mode: u32, unused4: u32, uid: u32, gid: u32, unused5: u32,
    }
    /// MKNOD.
    MknodIn { mode: u32, rdev: u32, umask: u32, padding: u32 }
    /// MKDIR.
    MkdirIn { mode: u32, umask: u32 }
    /// RENAME.
    RenameIn { newdir: u64 }
    /// RENAME2.
    Rename2In { newdir: u64, flags: u32, padding: u32 }
    /// LINK.
    LinkIn { oldnodeid: u64 }
    /// OPEN and OPENDIR.
    OpenIn { flags: u32, open_flags: u32 }
    /// CREATE and TMPFILE.
    CreateIn { flags: u32, mode: u32, umask: u32, open_flags: u32 }
    /// Reply to OPEN and OPENDIR, second part of the reply to CREATE and TMPFILE.
    OpenOut { fh: u64, open_flags: u32, backing_id: i32 }
    /// RELEASE and RELEASEDIR.
    ReleaseIn { fh: u64, flags: u32, release_flags: u32, lock_owner: u64 }
    /// READ, READDIR and READDIRPLUS.
    ReadIn { fh: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: u32, padding: u32 }
    /// WRITE.
    WriteIn { fh: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: u32, padding: u32 }
    /// Reply to WRITE and COPY_FILE_RANGE.
    WriteOut { size: u32, padding: u32 }
    /// Reply to STATFS.
    Kstatfs {
        blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64, bsize: u32, namelen: u32, frsize: u32,
        padding: u32, spare: [u32; 6],
    }
    /// FSYNC and FSYNCDIR.
    FsyncIn { fh: u64, fsync_flags: u32, padding: u32 }
    /// SETXATTR with SETXATTR_EXT; without it the first half.
    SetxattrIn { size: u32, flags: u32, setxattr_flags: u32, padding: u32 }
    /// SETXATTR without SETXATTR_EXT.
    SetxattrInShort { size: u32, flags: u32 }
    /// GETXATTR and LISTXATTR.
    GetxattrIn { size: u32, padding: u32 }
    /// Reply to GETXATTR and LISTXATTR of size 0.
    GetxattrOut { size: u32, padding: u32 }
    /// INTERRUPT.
    InterruptIn { unique: u64 }
    /// IOCTL.
    IoctlIn { fh: u64, flags: u32, cmd: u32, arg: u64, in_size: u32, out_size: u32 }
    /// Reply to IOCTL; data follows.
    IoctlOut { result: i32, flags: u32, in_iovs: u32, out_iovs: u32 }
    /// FALLOCATE.
    FallocateIn { fh: u64, offset: u64, length: u64, mode: u32, padding: u32 }
    /// LSEEK.
    LseekIn { fh: u64, offset: u64, whence: u32, padding: u32 }
    /// Reply to LSEEK.
    LseekOut { offset: u64 }
    /// COPY_FILE_RANGE and COPY_FILE_RANGE_64.
    CopyFileRangeIn { fh_in: u64, off_in: u64, nodeid_out: u64, fh_out: u64, off_out: u64, len: u64, flags: u64 }
    /// Reply to COPY_FILE_RANGE_64.
    CopyFileRangeOut { bytes_copied: u64 }
    /// Starts a directory record; the name follows, padded to 8 bytes.
    Dirent { ino: u64, off: u64, namelen: u32, kind: u32 }
    /// Starts an extension of a creating request. A `kind` up to 31 is a count of security contexts.
    ExtHeader { size: u32, kind: u32 }
    /// One security context: its name (NUL-terminated) and `size` bytes of value follow.
    Secctx { size: u32, padding: u32 }
    /// Notification that a node's attributes (and pages) are stale.
    NotifyInvalInode { ino: u64, off: i64, len: i64 }
    /// `struct fsxattr` of FS_IOC_FSGETXATTR.
    Fsxattr { xflags: u32, extsize: u32, nextents: u32, projid: u32, cowextsize: u32, pad: [u8; 8] }
    /// What a ring entry says about its payload; `commit_id` names the request in the command that replies to it.
    RingEntry { flags: u64, commit_id: u64, payload_sz: u32, padding: u32, reserved: u64 }
    /// What a ring command carries.
    RingCommand { flags: u64, commit_id: u64, qid: u16, padding: [u8; 6] }
}

/// The head of a ring entry: where its parts are. The request's or reply's header is at 0.
pub mod ring {
    /// Where the fixed arguments of the request are.
    pub const ARGUMENTS: usize = 128;
    /// How long they can be.
    pub const ARGUMENTS_MAX: usize = 128;
    /// Where the [`super::RingEntry`] is.
    pub const ENTRY: usize = 256;
    /// Command: here is an entry.
    pub const REGISTER: u32 = 1;
    /// Command: the reply is there, give the next request.
    pub const COMMIT_AND_FETCH: u32 = 2;
}

/// Bits of `GetattrIn::getattr_flags`.
pub const GETATTR_FH: u32 = 1;

/// Bits of `SetattrIn::valid`.
#[allow(missing_docs)]
pub mod fattr {
    pub const MODE: u32 = 1;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const FH: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
    pub const LOCKOWNER: u32 = 1 << 9;
    pub const CTIME: u32 = 1 << 10;
    pub const KILL_SUIDGID: u32 = 1 << 11;
}

/// Bits of `OpenOut::open_flags`.
#[allow(missing_docs)]
pub mod fopen {
    pub const DIRECT_IO: u32 = 1;
    pub const KEEP_CACHE: u32 = 1 << 1;
    pub const CACHE_DIR: u32 = 1 << 3;
    pub const PASSTHROUGH: u32 = 1 << 7;
}

/// In `OpenIn::open_flags` and `CreateIn::open_flags`: clear suid and sgid while truncating.
pub const OPEN_KILL_SUIDGID: u32 = 1;
/// In `WriteIn::write_flags`: clear suid and sgid.
pub const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// In `SetxattrIn::setxattr_flags`: clear sgid while setting an access ACL.
pub const SETXATTR_ACL_KILL_SGID: u32 = 1;
/// In `FsyncIn::fsync_flags`: the data only.
pub const FSYNC_FDATASYNC: u32 = 1;
/// In `IoctlIn::flags`: the arguments are pointers of a 32-bit program.
pub const IOCTL_COMPAT: u32 = 1;
/// In `IoctlIn::flags`: `fh` is a directory's.
pub const IOCTL_DIR: u32 = 1 << 4;
/// The largest `ExtHeader::kind` that means security contexts.
pub const MAX_NR_SECCTX: u32 = 31;
/// `ExtHeader::kind` of a list of groups.
pub const EXT_GROUPS: u32 = 32;
/// Node id of the mount's superblock root.
pub const ROOT_ID: u64 = 1;
/// Notification code of [`NotifyInvalInode`].
pub const NOTIFY_INVAL_INODE: i32 = 2;

/// `size` rounded up to the 8 bytes on which records start.
pub const fn aligned(size: usize) -> usize {
    size.saturating_add(7) & !7
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::size_of;

    #[test]
    fn structs_have_the_sizes_of_the_kernel() {
        let sizes = [
            (size_of::<InHeader>(), 40),
            (size_of::<OutHeader>(), 16),
            (size_of::<Attr>(), 88),
            (size_of::<EntryOut>(), 128),
            (size_of::<AttrOut>(), 104),
            (size_of::<StatxIn>(), 24),
            (size_of::<Statx>(), 256),
            (size_of::<StatxOut>(), 288),
            (size_of::<SetattrIn>(), 88),
            (size_of::<ReadIn>(), 40),
            (size_of::<WriteIn>(), 40),
            (size_of::<Kstatfs>(), 80),
            (size_of::<IoctlIn>(), 32),
            (size_of::<CopyFileRangeIn>(), 56),
            (size_of::<Dirent>(), 24),
            (size_of::<Fsxattr>(), 28),
            (size_of::<RingEntry>(), 32),
            (size_of::<RingCommand>(), 24),
        ];
        for (index, (ours, kernels)) in sizes.iter().enumerate() {
            assert_eq!(ours, kernels, "struct number {index}");
        }
    }
}
