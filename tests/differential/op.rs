//! What a program can do to a filesystem, as values: they run on both sides, are printed when the answers
//! differ, and can be left out one by one to find the shortest sequence that shows it.

use std::fmt;

use crate::support::layer::literal;
pub use crate::support::sys::Stamp;

/// Number of a kept descriptor.
pub type Slot = u8;

/// A path below the mount. `@3/x` starts at the directory open in slot 3.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rel(pub Vec<u8>);

impl<T: AsRef<[u8]> + ?Sized> From<&T> for Rel {
    fn from(path: &T) -> Self {
        Self(path.as_ref().to_vec())
    }
}

impl From<String> for Rel {
    fn from(path: String) -> Self {
        Self(path.into_bytes())
    }
}

impl From<Vec<u8>> for Rel {
    fn from(path: Vec<u8>) -> Self {
        Self(path)
    }
}

impl fmt::Debug for Rel {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.into()", literal(&self.0))
    }
}

/// Where an operation on attributes reaches its object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// By name; symbolic links are not followed, except by chmod and truncate.
    Path(Rel),
    /// Through a descriptor.
    Slot(Slot),
}

impl<T: AsRef<[u8]> + ?Sized> From<&T> for At {
    fn from(path: &T) -> Self {
        Self::Path(path.into())
    }
}

impl From<Rel> for At {
    fn from(path: Rel) -> Self {
        Self::Path(path)
    }
}

impl From<Vec<u8>> for At {
    fn from(path: Vec<u8>) -> Self {
        Self::Path(path.into())
    }
}

impl From<Slot> for At {
    fn from(slot: Slot) -> Self {
        Self::Slot(slot)
    }
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// Effective uid.
    pub uid: u32,
    /// Effective gid.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    // Callers.
    Become(Who),
    Umask(u32),

    // Descriptors and data.
    Open {
        slot: Slot,
        path: Rel,
        flags: i32,
        mode: u32,
    },
    Close(Slot),
    Read {
        slot: Slot,
        len: usize,
    },
    Pread {
        slot: Slot,
        offset: i64,
        len: usize,
    },
    Write {
        slot: Slot,
        data: Vec<u8>,
    },
    Pwrite {
        slot: Slot,
        offset: i64,
        data: Vec<u8>,
    },
    DirectRead {
        slot: Slot,
        offset: i64,
        len: usize,
    },
    DirectWrite {
        slot: Slot,
        offset: i64,
        data: Vec<u8>,
    },
    Seek {
        slot: Slot,
        offset: i64,
        whence: i32,
    },
    Fsync(Slot),
    Fdatasync(Slot),
    Syncfs(Slot),
    Fallocate {
        slot: Slot,
        mode: i32,
        offset: i64,
        len: i64,
    },
    CopyRange {
        from: Slot,
        from_at: i64,
        to: Slot,
        to_at: i64,
        len: usize,
    },
    Clone {
        from: Slot,
        to: Slot,
    },
    Flock {
        slot: Slot,
        operation: i32,
    },
    OfdLock {
        slot: Slot,
        kind: i16,
    },
    Map {
        map: Slot,
        slot: Slot,
        len: usize,
        writable: bool,
        shared: bool,
    },
    MapRead {
        map: Slot,
        offset: usize,
        len: usize,
    },
    MapWrite {
        map: Slot,
        offset: usize,
        data: Vec<u8>,
    },
    MapSync(Slot),
    Unmap(Slot),
    /// Opens, reads all and closes.
    ReadFile(Rel),
    /// Creates or truncates, writes and closes.
    WriteFile {
        path: Rel,
        data: Vec<u8>,
    },
    /// Appends and closes; does not create.
    Append {
        path: Rel,
        data: Vec<u8>,
    },
    /// Loads and executes a program image; answers its exit status.
    Execute(Rel),

    // Names.
    Mkdir {
        path: Rel,
        mode: u32,
    },
    Mknod {
        path: Rel,
        mode: u32,
        device: (u32, u32),
    },
    Symlink {
        target: Rel,
        path: Rel,
    },
    Link {
        old: Rel,
        new: Rel,
    },
    /// Gives a name to an open file.
    LinkSlot {
        slot: Slot,
        new: Rel,
    },
    Unlink(Rel),
    Rmdir(Rel),
    Rename {
        from: Rel,
        to: Rel,
        flags: u32,
    },
    Readlink(Rel),

    // Attributes.
    Stat(At),
    /// Access and modification time.
    Times(At),
    /// Whether two things are one inode: same device and inode number.
    Same(At, At),
    /// Keeps the identity and times of an object under its name, to be compared later, also after a remount.
    Remember(Rel),
    /// What is different since: of ino, atime, mtime, ctime, links, mode, size; and `otherdev` if it shows another
    /// device than the root.
    Changed {
        path: Rel,
        since: Rel,
    },
    Chmod {
        at: At,
        mode: u32,
    },
    Chown {
        at: At,
        uid: u32,
        gid: u32,
    },
    Utimens {
        at: At,
        atime: Stamp,
        mtime: Stamp,
    },
    Truncate {
        at: At,
        len: i64,
    },
    Access {
        path: Rel,
        mode: i32,
    },
    Statfs(Rel),
    Blocks(Rel),
    GetFlags(At),
    SetFlags {
        at: At,
        flags: u32,
    },
    GetFsx(At),
    SetFsx {
        at: At,
        flags: u32,
        project: u32,
    },
    Ioctl {
        at: At,
        request: u64,
    },
    Setxattr {
        at: At,
        name: String,
        value: Vec<u8>,
        flags: i32,
    },
    Getxattr {
        at: At,
        name: String,
    },
    Listxattr(At),
    Removexattr {
        at: At,
        name: String,
    },

    // Listings.
    /// Opens and lists: names with their types, sorted; complains about duplicates and wrong `d_ino`.
    List(Rel),
    /// Everything from the current position of a directory descriptor on, sorted.
    ListSlot {
        slot: Slot,
        buffer: usize,
    },
    /// Reads `count` entries and stands after the last of them.
    ListSome {
        slot: Slot,
        count: usize,
    },
    /// Goes back to where the entries read by `ListSome` ended, or began for the first `keep` of them.
    SeekEntry {
        slot: Slot,
        keep: usize,
    },
    /// Removes up to `count` entries of a directory, of those that `ListSome` has given or has not.
    RemoveListed {
        slot: Slot,
        count: usize,
        given: bool,
    },
    /// The rest of the stream; complains about names that came twice, or survive and never came.
    ListRest {
        slot: Slot,
        buffer: usize,
    },
    /// Removes every entry right after reading it; answers the sorted names and how often each came.
    Drain {
        slot: Slot,
        buffer: usize,
    },

    // Events and handles.
    Watch {
        path: Rel,
        mask: u32,
    },
    Events,
    Handle {
        name: Slot,
        path: Rel,
    },
    OpenHandle {
        name: Slot,
        slot: Slot,
        flags: i32,
    },

    // Behind the mount.
    /// The object in the upper layer, with its private attributes.
    Upper(Rel),
    /// The names in a directory of the work directory.
    Work(Rel),

    /// Unmounts and mounts again; all descriptors are closed before.
    Remount,
}
