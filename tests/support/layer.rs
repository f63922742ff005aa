//! Builds one layer, object by object, through a mount that leaves access times alone.
//!
//! The same calls on two directories of one filesystem give two layers that differ in nothing but inode numbers:
//! every object gets fixed times at the end. Every call is logged as the Rust line that repeats it, so that a
//! random layer can be pasted into a named test.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::sys::{self, Answer, Stamp};

/// The flag that makes a file unchangeable (`chattr +i`).
pub const IMMUTABLE: u32 = 0x10;
/// The flag that lets a file only grow (`chattr +a`).
pub const APPEND_ONLY: u32 = 0x20;
/// The flag that keeps access times (`chattr +A`).
pub const NO_ATIME: u32 = 0x80;
/// The flag that makes writes synchronous (`chattr +S`).
pub const SYNC: u32 = 0x08;
const GET_FLAGS: u64 = 0x8008_6601;
const SET_FLAGS: u64 = 0x4008_6602;

/// A layer under construction.
#[derive(Debug)]
pub struct Layer {
    root: PathBuf,
    number: i64,
    times: RefCell<Vec<(Vec<u8>, Stamp, Stamp)>>,
    flags: RefCell<Vec<(Vec<u8>, u32)>>,
    log: RefCell<String>,
}

/// Bytes as they would stand in Rust source.
pub fn literal(bytes: &[u8]) -> String {
    if std::str::from_utf8(bytes).is_ok() && !bytes.iter().any(u8::is_ascii_control) {
        format!("\"{}\"", bytes.escape_ascii())
    } else {
        format!("b\"{}\"", bytes.escape_ascii())
    }
}

impl Layer {
    /// Starts with the existing empty directory `root`; layers with different numbers get different times.
    pub fn new(root: &Path, number: usize) -> Self {
        Self {
            root: root.to_path_buf(),
            number: number as i64,
            times: RefCell::default(),
            flags: RefCell::default(),
            log: RefCell::default(),
        }
    }

    fn note(&self, line: std::fmt::Arguments<'_>) {
        writeln!(self.log.borrow_mut(), "l.{line};").expect("writing to a string");
    }

    /// The absolute path of a name in the layer.
    pub fn path(&self, name: impl AsRef<[u8]>) -> Vec<u8> {
        [self.root.as_os_str().as_bytes(), b"/", name.as_ref()].concat()
    }

    fn with_parents(&self, name: &[u8]) -> Vec<u8> {
        for (at, byte) in name.iter().enumerate() {
            if *byte == b'/' {
                match sys::mkdir(&self.path(&name[..at]), 0o755) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(errno) => self.fail("parent of", name, errno),
                }
            }
        }
        self.path(name)
    }

    fn fail(&self, what: &str, name: &[u8], errno: Errno) -> ! {
        panic!("building {}: {what} {}: {errno}", self.root.display(), literal(name))
    }

    fn did<T>(&self, what: &str, name: &[u8], answer: Answer<T>) -> T {
        match answer {
            Ok(value) => value,
            Err(errno) => self.fail(what, name, errno),
        }
    }

    /// A directory with mode 0755; one that exists is left as it is.
    pub fn dir(&self, name: impl AsRef<[u8]>) -> &Self {
        let name = name.as_ref();
        self.note(format_args!("dir({})", literal(name)));
        match sys::mkdir(&self.with_parents(name), 0o755) {
            Ok(()) | Err(Errno::EEXIST) => self,
            Err(errno) => self.fail("mkdir", name, errno),
        }
    }

    /// A regular file with mode 0644.
    pub fn file(&self, name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> &Self {
        let (name, content) = (name.as_ref(), content.as_ref());
        if content.len() < 100 {
            self.note(format_args!("file({}, {})", literal(name), literal(content)));
        }
        let path = self.with_parents(name);
        let fd =
            self.did("open", name, sys::open(&path, libc::O_CREAT | libc::O_WRONLY | libc::O_EXCL, 0o644));
        let mut rest = content;
        while !rest.is_empty() {
            let wrote = self.did("write", name, sys::write(fd.as_raw_fd(), rest));
            rest = &rest[wrote as usize..];
        }
        self
    }

    /// A regular file of `size` bytes with nothing but `extents` (offset, content) in it.
    pub fn sparse(&self, name: impl AsRef<[u8]>, size: i64, extents: &[(i64, &[u8])]) -> &Self {
        let name = name.as_ref();
        self.note(format_args!("sparse({}, {size}, &{extents:?})", literal(name)));
        let path = self.with_parents(name);
        let fd =
            self.did("open", name, sys::open(&path, libc::O_CREAT | libc::O_WRONLY | libc::O_EXCL, 0o644));
        self.did("truncate", name, sys::ftruncate(fd.as_raw_fd(), size));
        for (offset, data) in extents {
            self.did("write", name, sys::pwrite(fd.as_raw_fd(), *offset, data));
        }
        self
    }

    /// A symbolic link.
    pub fn symlink(&self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> &Self {
        let (name, target) = (name.as_ref(), target.as_ref());
        self.note(format_args!("symlink({}, {})", literal(name), literal(target)));
        self.did("symlink", name, sys::symlink(target, &self.with_parents(name)));
        self
    }

    /// A device, FIFO or socket: `mode` with its type bits, and the device number.
    pub fn node(&self, name: impl AsRef<[u8]>, mode: u32, major: u32, minor: u32) -> &Self {
        let name = name.as_ref();
        self.note(format_args!("node({}, {mode:#o}, {major}, {minor})", literal(name)));
        let device = libc::makedev(major, minor);
        let path = self.with_parents(name);
        self.did("mknod", name, sys::mknod(&path, mode, device));
        self.did("chmod", name, sys::chmod(&path, mode & 0o7777));
        self
    }

    /// A FIFO.
    pub fn fifo(&self, name: impl AsRef<[u8]>) -> &Self {
        self.node(name, libc::S_IFIFO | 0o644, 0, 0)
    }

    /// A whiteout of form A: a character device 0:0.
    pub fn whiteout(&self, name: impl AsRef<[u8]>) -> &Self {
        self.node(name, libc::S_IFCHR, 0, 0)
    }

    /// A whiteout of form B: an empty file with an attribute, in a directory marked `x`.
    pub fn xattr_whiteout(&self, name: impl AsRef<[u8]>) -> &Self {
        let name = name.as_ref();
        let parent = name.iter().rposition(|byte| *byte == b'/').map_or(&b""[..], |at| &name[..at]);
        self.file(name, "").xattr(name, "trusted.overlay.whiteout", "y");
        self.xattr(parent, "trusted.overlay.opaque", "x")
    }

    /// A second name for `old`.
    pub fn link(&self, old: impl AsRef<[u8]>, new: impl AsRef<[u8]>) -> &Self {
        let (old, new) = (old.as_ref(), new.as_ref());
        self.note(format_args!("link({}, {})", literal(old), literal(new)));
        self.did("link", new, sys::link(&self.path(old), &self.with_parents(new), 0));
        self
    }

    /// Sets an attribute.
    pub fn xattr(&self, name: impl AsRef<[u8]>, key: &str, value: impl AsRef<[u8]>) -> &Self {
        let (name, value) = (name.as_ref(), value.as_ref());
        self.note(format_args!("xattr({}, {key:?}, {})", literal(name), literal(value)));
        self.did(key, name, sys::setxattr(&self.path(name), key.as_bytes(), value, 0));
        self
    }

    /// Marks a directory as opaque.
    pub fn opaque(&self, name: impl AsRef<[u8]>) -> &Self {
        self.xattr(name, "trusted.overlay.opaque", "y")
    }

    /// Redirects a directory or metacopy file.
    pub fn redirect(&self, name: impl AsRef<[u8]>, target: &str) -> &Self {
        self.xattr(name, "trusted.overlay.redirect", target)
    }

    /// Marks a file as metadata only.
    pub fn metacopy(&self, name: impl AsRef<[u8]>) -> &Self {
        self.xattr(name, "trusted.overlay.metacopy", "")
    }

    /// Sets the permission bits.
    pub fn chmod(&self, name: impl AsRef<[u8]>, mode: u32) -> &Self {
        let name = name.as_ref();
        self.note(format_args!("chmod({}, {mode:#o})", literal(name)));
        self.did("chmod", name, sys::chmod(&self.path(name), mode));
        self
    }

    /// Sets the owner. Clears set-id bits and capabilities, so it comes before those.
    pub fn chown(&self, name: impl AsRef<[u8]>, uid: u32, gid: u32) -> &Self {
        let name = name.as_ref();
        self.note(format_args!("chown({}, {uid}, {gid})", literal(name)));
        self.did("chown", name, sys::lchown(&self.path(name), uid, gid));
        self
    }

    /// Fixes the times of an object to something else than the default.
    pub fn times(&self, name: impl AsRef<[u8]>, atime: (i64, i64), mtime: (i64, i64)) -> &Self {
        let name = name.as_ref();
        self.note(format_args!("times({}, {atime:?}, {mtime:?})", literal(name)));
        let stamps = (name.to_vec(), Stamp::At(atime.0, atime.1), Stamp::At(mtime.0, mtime.1));
        self.times.borrow_mut().push(stamps);
        self
    }

    /// Sets file flags once everything else is done.
    pub fn flags(&self, name: impl AsRef<[u8]>, flags: u32) -> &Self {
        let name = name.as_ref();
        self.note(format_args!("flags({}, {flags:#x})", literal(name)));
        self.flags.borrow_mut().push((name.to_vec(), flags));
        self
    }

    /// Gives every object its times, then its flags; answers the log of the calls.
    pub fn finish(self) -> String {
        let mut serial = 0;
        self.stamp(self.root.as_os_str().as_bytes(), &mut serial);
        for (name, atime, mtime) in self.times.borrow().iter() {
            self.did("times", name, sys::utimens(&self.path(name), *atime, *mtime));
        }
        for (name, flags) in self.flags.borrow().iter() {
            self.did("flags", name, set_flags(&self.path(name), *flags));
        }
        self.log.into_inner()
    }

    fn stamp(&self, path: &[u8], serial: &mut i64) {
        let seconds = 1_000_000_000 + self.number * 1_000_000 + *serial * 100;
        *serial += 1;
        if is_directory(path) {
            for name in names(path) {
                self.stamp(&[path, b"/", &name].concat(), serial);
            }
        }
        let (atime, mtime) = (Stamp::At(seconds + 10, 111_111_111), Stamp::At(seconds, 123_456_789));
        self.did("times", path, sys::utimens(path, atime, mtime));
    }
}

fn is_directory(path: &[u8]) -> bool {
    sys::stat(path).is_ok_and(|stat| u32::from(stat.stx_mode) & libc::S_IFMT == libc::S_IFDIR)
}

/// The names in a directory, sorted, without `.` and `..`.
pub fn names(path: &[u8]) -> Vec<Vec<u8>> {
    let Ok(fd) = sys::open(path, libc::O_RDONLY | libc::O_DIRECTORY, 0) else { return Vec::new() };
    let mut names = Vec::new();
    while let Ok(entries) = sys::getdents(fd.as_raw_fd(), 32768)
        && !entries.is_empty()
    {
        names
            .extend(entries.into_iter().map(|entry| entry.name).filter(|name| name != b"." && name != b".."));
    }
    names.sort();
    names
}

/// FS_IOC_SETFLAGS.
pub fn set_flags(path: &[u8], flags: u32) -> Answer<()> {
    let fd = sys::open(path, libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOFOLLOW, 0)?;
    set_flags_of(fd.as_raw_fd(), flags)
}

/// The flags that tests set: synchronous, immutable, append-only, no dump, no access times. What other flags a
/// file has by itself (extents, inline data, …) depends on where it lies.
pub const FLAGS: u32 = 0xf8;

/// FS_IOC_SETFLAGS on a descriptor, for [`FLAGS`] only.
pub fn set_flags_of(fd: i32, flags: u32) -> Answer<()> {
    let mut word = u64::from(flags | all_flags_of(fd)? & !FLAGS).to_ne_bytes();
    sys::ioctl(fd, SET_FLAGS, &mut word).map(drop)
}

/// FS_IOC_GETFLAGS on a descriptor, for [`FLAGS`] only.
pub fn flags_of(fd: i32) -> Answer<u32> {
    all_flags_of(fd).map(|flags| flags & FLAGS)
}

fn all_flags_of(fd: i32) -> Answer<u32> {
    let mut word = [0_u8; 8];
    sys::ioctl(fd, GET_FLAGS, &mut word)?;
    Ok(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
}

/// Removes a tree whatever flags its objects carry.
pub fn remove_tree(path: &[u8]) {
    let is_dir = is_directory(path);
    if is_dir {
        for name in names(path) {
            remove_tree(&[path, b"/", &name].concat());
        }
    }
    let remove = || if is_dir { sys::rmdir(path) } else { sys::unlink(path) };
    if remove() == Err(Errno::EPERM) {
        let parent = &path[..path.iter().rposition(|byte| *byte == b'/').unwrap_or(0)];
        let cleared = set_flags(parent, 0).and_then(|()| set_flags(path, 0)).and_then(|()| {
            if is_dir {
                names(path).into_iter().for_each(|name| remove_tree(&[path, b"/", &name].concat()));
            }
            remove()
        });
        if let Err(errno) = cleared {
            eprintln!("removing {}: {errno}", literal(path));
        }
    }
}

/// An ACL as its attribute value: entries of (tag, permissions, id), in the order the kernel wants.
pub fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = Vec::from(2_u32.to_le_bytes());
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

/// An ACL that gives one user more: owner `rwx`-like bits from `mode`, plus `uid` with `permissions`.
pub fn acl_for_user(mode: u32, uid: u32, permissions: u16) -> Vec<u8> {
    let nobody = u32::MAX;
    let bits = |shift: u32| ((mode >> shift) & 7) as u16;
    acl(&[
        (0x01, bits(6), nobody),
        (0x02, permissions, uid),
        (0x04, bits(3), nobody),
        (0x10, bits(3) | permissions, nobody),
        (0x20, bits(0), nobody),
    ])
}

/// A `security.capability` value that grants CAP_NET_RAW.
pub fn capability() -> Vec<u8> {
    [0x0200_0001_u32, 1 << 13, 0, 0, 0].into_iter().flat_map(u32::to_le_bytes).collect()
}
