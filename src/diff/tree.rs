//! A read-only view of a stack, walked by name.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::sync::Arc;

use crate::error::SetupError;
use crate::sys::{Errno, Name, NameBuf, Result};
use crate::union::{Attr, Caller, Config, HandleId, NoTransport, NodeId, Owner, ROOT, Union};

/// Reads as root would: a comparison must see `trusted.*` attributes too (L-27).
const READER: Caller = Caller { owner: Owner { uid: 0, gid: 0 }, pid: 0, request: 0 };

/// A stack that nobody changes through us.
#[derive(Debug)]
pub struct Tree {
    union: Union,
}

/// An object of a tree. It is forgotten when this is dropped.
#[derive(Debug)]
pub struct Seen<'t> {
    tree: &'t Tree,
    node: NodeId,
    /// Its metadata.
    pub attr: Attr,
    /// The names that lead to it from the root.
    pub path: Vec<NameBuf>,
}

impl Tree {
    pub(crate) fn open(config: &Config) -> std::result::Result<Tree, SetupError> {
        Ok(Tree { union: Union::open(config, Arc::new(NoTransport))? })
    }

    /// The root directory.
    pub(crate) fn root(&self) -> Result<Seen<'_>> {
        let attr = self.union.getattr(ROOT, None)?.attr;
        Ok(Seen { tree: self, node: ROOT, attr, path: Vec::new() })
    }

    /// The same for a path as one string of bytes, `.` for the root.
    pub(crate) fn find(&self, path: &[u8]) -> Result<Option<Seen<'_>>> {
        if path == b"." {
            return self.root().map(Some);
        }
        self.at(&path.split(|&b| b == b'/').map(NameBuf::new).collect::<Result<Vec<_>>>()?)
    }

    /// The object at a path from the root.
    pub(crate) fn at(&self, path: &[NameBuf]) -> Result<Option<Seen<'_>>> {
        let mut seen = self.root()?;
        for name in path {
            match seen.child(name)? {
                Some(next) => seen = next,
                None => return Ok(None),
            }
        }
        Ok(Some(seen))
    }
}

impl Drop for Seen<'_> {
    fn drop(&mut self) {
        if self.node != ROOT {
            self.tree.union.forget(self.node, 1);
        }
    }
}

impl<'t> Seen<'t> {
    /// The entry `name` of this directory; `None` also when this is no directory.
    pub(crate) fn child(&self, name: &Name) -> Result<Option<Seen<'t>>> {
        let entry = match self.tree.union.lookup(&READER, self.node, name) {
            Ok(Some(entry)) => entry,
            Ok(None) | Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut path = self.path.clone();
        path.push(name.to_owned());
        Ok(Some(Seen { tree: self.tree, node: entry.node, attr: entry.attr.attr, path }))
    }

    /// The names in this directory.
    pub(crate) fn names(&self) -> Result<BTreeSet<NameBuf>> {
        let union = &self.tree.union;
        let mut names = BTreeSet::new();
        let mut offset = Some(0);
        let mut outcome = Ok(());
        // A call may give a part of the listing; the end is a call that gives nothing.
        while let Some(from) = offset.take() {
            outcome = union.readdir(self.node, from, &mut |entry| {
                offset = Some(entry.next);
                // `.` and `..` are no names.
                if let Ok(name) = NameBuf::new(entry.name) {
                    names.insert(name);
                }
                true
            });
        }
        outcome.map(|()| names)
    }

    /// The target of a symlink.
    pub(crate) fn target(&self) -> Result<Vec<u8>> {
        self.tree.union.readlink(self.node)
    }

    /// All extended attributes that a user of the mount sees, sorted.
    pub(crate) fn xattrs(&self) -> Result<Vec<(CString, Vec<u8>)>> {
        let union = &self.tree.union;
        let listed = match union.listxattr(&READER, self.node) {
            Err(Errno::EOPNOTSUPP) => return Ok(Vec::new()),
            listed => listed?,
        };
        let mut all = Vec::new();
        for raw in listed.split_inclusive(|&b| b == 0) {
            let name = CStr::from_bytes_with_nul(raw).map_err(|_| Errno::EIO)?;
            match union.getxattr(&READER, self.node, name) {
                Ok(value) => all.push((name.to_owned(), value)),
                Err(Errno::ENODATA) => {}
                Err(e) => return Err(e),
            }
        }
        all.sort();
        Ok(all)
    }

    /// The handle record of the lower object, by which an index knows it; empty where there are no handles.
    pub(crate) fn record(&self) -> Result<Vec<u8>> {
        self.tree.union.lower_record(self.node)
    }

    /// Opens a regular file.
    pub(crate) fn data(&self) -> Result<Data<'t>> {
        let opened = self.tree.union.open_file(&READER, self.node, libc::O_RDONLY | libc::O_NOATIME)?;
        Ok(Data { tree: self.tree, handle: opened.handle })
    }
}

/// An open file; closed when dropped.
#[derive(Debug)]
pub struct Data<'t> {
    tree: &'t Tree,
    handle: HandleId,
}

impl Data<'_> {
    /// The real file, for copying it whole.
    pub(crate) fn file(&self) -> Result<Arc<std::os::fd::OwnedFd>> {
        self.tree.union.data_file(self.handle)
    }

    /// Reads until `buf` is full or the file ends.
    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.tree.union.read(self.handle, offset + done as u64, rest)? {
                0 => break,
                n => done += n,
            }
        }
        Ok(done)
    }
}

impl Data<'_> {
    /// lseek(2) for SEEK_DATA and SEEK_HOLE. Errors: ENXIO beyond the end.
    pub(crate) fn seek(&self, offset: u64, whence: i32) -> Result<u64> {
        self.tree.union.lseek(self.handle, offset, whence)
    }
}

impl Drop for Data<'_> {
    fn drop(&mut self) {
        self.tree.union.release(self.handle);
    }
}
