//! A tree as lines of text, read through a `Union` and through the kernel, so that the two can be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use acetate::sys::{Errno, Kind, NameBuf};
use acetate::union::{Caller, NodeId, Owner, ROOT, Union};

use crate::support::sys;

/// Path to description.
pub type View = BTreeMap<String, String>;

/// Times after this are "now": when exactly differs from run to run.
const NOW: i64 = 1_600_000_000;

pub fn caller() -> Caller {
    Caller { owner: Owner { uid: 0, gid: 0 }, pid: std::process::id(), request: 0 }
}

pub fn name(name: &str) -> NameBuf {
    NameBuf::new(name.as_bytes()).expect("a valid name")
}

/// What both sides say of an object.
struct Facts {
    mode: u32,
    owner: (u32, u32),
    size: u64,
    nlink: u32,
    mtime: i64,
    ino: u64,
    content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Facts {
    fn line(&self, lower: &BTreeSet<u64>) -> String {
        let is_dir = self.mode & libc::S_IFMT == libc::S_IFDIR;
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in &self.content {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let mut line = format!("{:o} {}:{}", self.mode, self.owner.0, self.owner.1);
        if !is_dir {
            let time = if self.mtime > NOW { "now".to_owned() } else { self.mtime.to_string() };
            line += &format!(" size {} links {} at {time} content {hash:x}", self.size, self.nlink);
        }
        if lower.contains(&self.ino) {
            line += &format!(" number {}", self.ino);
        }
        for (name, value) in &self.xattrs {
            line += &format!(" {}={}", name.escape_ascii(), value.escape_ascii());
        }
        line
    }
}

/// The inode numbers of the lower layers, the only ones that are the same in every run.
pub fn numbers(roots: &[std::path::PathBuf]) -> BTreeSet<u64> {
    let mut numbers = BTreeSet::new();
    let mut left: Vec<_> = roots.to_vec();
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).expect("a lower directory").flatten() {
            let meta = entry.metadata().expect("its metadata");
            numbers.insert(meta.ino());
            if meta.is_dir() {
                left.push(entry.path());
            }
        }
    }
    numbers
}

pub fn through_union(union: &Union, lower: &BTreeSet<u64>) -> Result<View, String> {
    let mut view = View::new();
    let mut left = vec![(ROOT, String::new())];
    while let Some((dir, at)) = left.pop() {
        let names = list(union, dir).map_err(|e| format!("listing /{at}: {e}"))?;
        for child in names {
            let path = format!("{at}/{child}");
            let entry = match union.lookup(&caller(), dir, &name(&child)) {
                Ok(Some(entry)) => entry,
                other => return Err(format!("{path} is listed, a lookup says {other:?}")),
            };
            let facts = facts_of(union, entry.node).map_err(|e| format!("{path}: {e}"))?;
            view.insert(path.clone(), facts.line(lower));
            if entry.attr.attr.kind() == Kind::Dir {
                left.push((entry.node, path));
            }
        }
    }
    Ok(view)
}

fn list(union: &Union, dir: NodeId) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    union.readdir(dir, 0, &mut |e| {
        names.push(String::from_utf8_lossy(e.name).into_owned());
        true
    })?;
    names.retain(|n| n != "." && n != "..");
    Ok(names)
}

fn facts_of(union: &Union, node: NodeId) -> Result<Facts, Errno> {
    let attr = union.getattr(node, None)?.attr;
    let content = match attr.kind() {
        Kind::File => {
            let handle = union.open_file(&caller(), node, libc::O_RDONLY)?.handle;
            let mut content = vec![0; attr.size as usize + 1];
            let got = union.read(handle, 0, &mut content)?;
            content.truncate(got);
            union.release(handle);
            content
        }
        Kind::Symlink => union.readlink(node)?,
        _ => Vec::new(),
    };
    let mut xattrs = BTreeMap::new();
    for name in union.listxattr(&caller(), node)?.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let c = std::ffi::CString::new(name).expect("split at NUL");
        xattrs.insert(name.to_vec(), union.getxattr(&caller(), node, &c)?);
    }
    Ok(Facts {
        mode: attr.mode,
        owner: (attr.owner.uid, attr.owner.gid),
        size: attr.size,
        nlink: attr.nlink,
        mtime: attr.mtime.secs,
        ino: attr.ino,
        content,
        xattrs,
    })
}

pub fn through_kernel(root: &Path, lower: &BTreeSet<u64>) -> Result<View, String> {
    let mut view = View::new();
    let mut left = vec![(root.to_path_buf(), String::new())];
    while let Some((dir, at)) = left.pop() {
        let entries = std::fs::read_dir(&dir).map_err(|e| format!("kernel: listing {at}: {e}"))?;
        for entry in entries {
            let entry = entry.map_err(|e| format!("kernel: listing {at}: {e}"))?;
            let path = format!("{at}/{}", entry.file_name().to_string_lossy());
            let facts = kernel_facts(&entry.path()).map_err(|e| format!("kernel: {path}: {e}"))?;
            view.insert(path.clone(), facts.line(lower));
            if facts.mode & libc::S_IFMT == libc::S_IFDIR {
                left.push((entry.path(), path));
            }
        }
    }
    Ok(view)
}

fn kernel_facts(path: &Path) -> std::io::Result<Facts> {
    let meta = std::fs::symlink_metadata(path)?;
    let content = if meta.is_file() {
        std::fs::read(path)?
    } else if meta.is_symlink() {
        std::fs::read_link(path)?.as_os_str().as_bytes().to_vec()
    } else {
        Vec::new()
    };
    let bytes = path.as_os_str().as_bytes();
    let mut xattrs = BTreeMap::new();
    for name in sys::listxattr(bytes)? {
        let value = sys::getxattr(bytes, &name)?;
        xattrs.insert(name, value);
    }
    Ok(Facts {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        size: meta.size(),
        nlink: meta.nlink() as u32,
        mtime: meta.mtime(),
        ino: meta.ino(),
        content,
        xattrs,
    })
}
