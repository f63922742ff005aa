//! Reads a whole tree into plain values, without leaving a trace in it where that is possible.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

use super::layer::literal;
use super::sys;

/// One object of a tree, as lstat, listing and reading show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path below the root of the tree; empty for the root.
    pub path: Vec<u8>,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device.
    pub device: (u32, u32),
    /// `st_size`.
    pub size: u64,
    /// `st_nlink`.
    pub links: u32,
    /// `st_dev` and `st_ino`.
    pub id: (u32, u32, u64),
    /// Whether a file has anything but holes.
    pub has_data: bool,
    /// Attributes of statx that concern change: immutable, append-only.
    pub flags: u64,
    /// Access, modification and change time.
    pub times: [(i64, u32); 3],
    /// Hash and beginning of the content of a file; target of a symbolic link.
    pub content: Result<Vec<u8>, Errno>,
    /// Extended attributes.
    pub xattrs: Result<BTreeMap<Vec<u8>, Vec<u8>>, Errno>,
    /// `d_ino` and `d_type` of its listing; none for the root.
    pub listed: Option<(u64, u8)>,
}

impl Entry {
    /// The type bits.
    pub fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind() == libc::S_IFDIR
    }

    /// Whether it is a whiteout of form A.
    pub fn is_whiteout(&self) -> bool {
        self.kind() == libc::S_IFCHR && self.device == (0, 0)
    }
}

/// A tree: objects by path, and what is wrong in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// What can be looked at.
    pub entries: BTreeMap<Vec<u8>, Entry>,
    /// Sentences about what should not be: failing lookups, duplicates in listings, `d_ino` that differs.
    pub problems: Vec<String>,
    /// Names that are listed and yet absent.
    pub ghosts: Vec<Vec<u8>>,
}

/// Letter of the type of a mode, as `find -printf %y`.
pub fn kind_letter(mode: u32) -> char {
    match mode & libc::S_IFMT {
        libc::S_IFREG => 'f',
        libc::S_IFDIR => 'd',
        libc::S_IFLNK => 'l',
        libc::S_IFCHR => 'c',
        libc::S_IFBLK => 'b',
        libc::S_IFIFO => 'p',
        libc::S_IFSOCK => 's',
        _ => '?',
    }
}

/// Reads the tree below `root`.
pub fn read(root: &Path) -> Tree {
    let mut tree = Tree::default();
    visit(root.as_os_str().as_bytes(), Vec::new(), None, &mut tree);
    tree
}

fn visit(root: &[u8], path: Vec<u8>, listed: Option<(u64, u8)>, tree: &mut Tree) {
    let at = if path.is_empty() { root.to_vec() } else { [root, b"/", &path].concat() };
    let entry = match look(&at, path.clone(), listed) {
        Ok(entry) => entry,
        Err(Errno::ENOENT) => return tree.ghosts.push(path),
        Err(errno) => return tree.problems.push(format!("stat {}: {errno:?}", literal(&path))),
    };
    if let Some((ino, kind)) = listed {
        if ino != entry.id.2 {
            tree.problems.push(format!("{}: d_ino differs from st_ino", literal(&path)));
        }
        if u32::from(kind) != entry.kind() >> 12 {
            tree.problems.push(format!("{}: d_type {kind} for type {:o}", literal(&path), entry.kind()));
        }
    }
    let is_dir = entry.is_dir();
    tree.entries.insert(path.clone(), entry);
    if is_dir {
        match list(&at) {
            Ok(entries) => children(root, &path, entries, tree),
            Err(errno) => tree.problems.push(format!("list {}: {errno:?}", literal(&path))),
        }
    }
}

fn children(root: &[u8], path: &[u8], entries: Vec<sys::Dirent>, tree: &mut Tree) {
    let own = tree.entries[path].id.2;
    let mut names = BTreeMap::new();
    for entry in entries {
        let told = (entry.ino, entry.kind);
        if entry.name == b"." && entry.ino != own {
            tree.problems.push(format!("{}: d_ino of . differs", literal(path)));
        }
        if names.insert(entry.name.clone(), told).is_some() {
            tree.problems.push(format!("{}: {} listed twice", literal(path), literal(&entry.name)));
        }
    }
    for dots in [&b"."[..], b".."] {
        if names.remove(dots).is_none() {
            tree.problems.push(format!("{}: {} missing in the listing", literal(path), literal(dots)));
        }
    }
    for (name, told) in names {
        let below = if path.is_empty() { name } else { [path, b"/", &name].concat() };
        visit(root, below, Some(told), tree);
    }
}

fn list(path: &[u8]) -> sys::Answer<Vec<sys::Dirent>> {
    let fd = sys::open(path, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOATIME, 0)?;
    let mut all = Vec::new();
    loop {
        let some = sys::getdents(fd.as_raw_fd(), 32768)?;
        if some.is_empty() {
            return Ok(all);
        }
        all.extend(some);
    }
}

/// Looks at one object.
pub fn look(at: &[u8], path: Vec<u8>, listed: Option<(u64, u8)>) -> sys::Answer<Entry> {
    let stat = sys::stat(at)?;
    let mode = u32::from(stat.stx_mode);
    let moment = |time: libc::statx_timestamp| (time.tv_sec, time.tv_nsec);
    let mut has_data = false;
    let content = match mode & libc::S_IFMT {
        libc::S_IFREG => content(at).map(|(content, data)| {
            has_data = data;
            content
        }),
        libc::S_IFLNK => sys::readlink(at),
        _ => Ok(Vec::new()),
    };
    let xattrs = sys::listxattr(at).map(|names| {
        let value = |name: &Vec<u8>| match sys::getxattr(at, name) {
            Ok(value) => value,
            Err(errno) => format!("listed, but {errno:?}").into_bytes(),
        };
        names.into_iter().map(|name| (name.clone(), value(&name))).collect()
    });
    Ok(Entry {
        path,
        mode,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        device: (stat.stx_rdev_major, stat.stx_rdev_minor),
        size: stat.stx_size,
        links: stat.stx_nlink,
        id: (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino),
        has_data,
        flags: stat.stx_attributes & (libc::STATX_ATTR_IMMUTABLE | libc::STATX_ATTR_APPEND) as u64,
        times: [moment(stat.stx_atime), moment(stat.stx_mtime), moment(stat.stx_ctime)],
        content,
        xattrs,
        listed,
    })
}

/// The beginning of the file with a hash of everything in it that is not zero, and whether it has data.
fn content(at: &[u8]) -> sys::Answer<(Vec<u8>, bool)> {
    let fd = sys::open(at, libc::O_RDONLY | libc::O_NOATIME | libc::O_NOFOLLOW, 0)?;
    let mut start = sys::pread(fd.as_raw_fd(), 0, 40)?;
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let (mut offset, mut has_data) = (0, false);
    loop {
        match sys::lseek(fd.as_raw_fd(), offset, libc::SEEK_DATA) {
            Ok(data) => offset = data & !4095,
            Err(Errno::ENXIO) => break,
            Err(_) => {}
        }
        let block = sys::pread(fd.as_raw_fd(), offset, 4096)?;
        if block.is_empty() {
            break;
        }
        has_data = true;
        if block != [0; 4096][..block.len()] {
            let mut padded = [0_u8; 4096];
            padded[..block.len()].copy_from_slice(&block);
            for word in std::iter::once(&offset.to_le_bytes()).chain(padded.as_chunks().0) {
                hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x0100_0000_01b3).rotate_left(29);
            }
        }
        offset += 4096;
    }
    start.extend(format!(" #{hash:016x}").into_bytes());
    Ok((start, has_data))
}

/// The lines in which two maps of lines differ: `-` only or different on the left, `+` on the right.
pub fn difference(left: &BTreeMap<String, String>, right: &BTreeMap<String, String>) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, line) in left {
        if right.get(path) != Some(line) {
            lines.push(format!("- {path} {line}"));
            if let Some(other) = right.get(path) {
                lines.push(format!("+ {path} {other}"));
            }
        }
    }
    for (path, line) in right {
        if !left.contains_key(path) {
            lines.push(format!("+ {path} {line}"));
        }
    }
    lines
}
