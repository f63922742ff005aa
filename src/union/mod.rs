//! The filesystem itself, as methods on plain values: `&self`, any number of threads, no mount needed.

mod config;
mod types;

use std::sync::Arc;

pub use config::{Config, Fsync, Passthrough, Redirect, Uuid, Xino};
pub use types::*;

use crate::error::SetupError;
use crate::sys::{Name, Result};

/// A mounted stack.
pub struct Union {}

#[allow(unused_variables, missing_docs, clippy::todo)]
impl Union {
    /// Opens the layers, checks them (O-1), takes the upper's lock and sweeps its work directory.
    pub fn open(config: &Config, transport: Arc<dyn Transport>) -> std::result::Result<Union, SetupError> {
        todo!()
    }
    /// `None`: there is no such name, and that may be cached until this mount creates it.
    pub fn lookup(&self, caller: &Caller, parent: NodeId, name: &Name) -> Result<Option<Entry>> {
        todo!()
    }
    /// `..` of a directory and `.` of any node, for NFS (F-13).
    pub fn lookup_parent(&self, node: NodeId) -> Result<Entry> {
        todo!()
    }
    pub fn lookup_self(&self, node: NodeId) -> Result<Entry> {
        todo!()
    }
    pub fn forget(&self, node: NodeId, references: u64) {
        todo!()
    }
    pub fn getattr(&self, node: NodeId, handle: Option<HandleId>) -> Result<AttrReply> {
        todo!()
    }
    pub fn setattr(
        &self,
        caller: &Caller,
        node: NodeId,
        handle: Option<HandleId>,
        change: &SetAttr,
    ) -> Result<AttrReply> {
        todo!()
    }
    pub fn readlink(&self, node: NodeId) -> Result<Vec<u8>> {
        todo!()
    }
    /// Regular files, FIFOs, sockets and devices (`kind` says which).
    pub fn mknod(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &Name,
        kind: crate::sys::Kind,
        rdev: Dev,
        new: &NewNode,
    ) -> Result<Entry> {
        todo!()
    }
    pub fn mkdir(&self, caller: &Caller, parent: NodeId, name: &Name, new: &NewNode) -> Result<Entry> {
        todo!()
    }
    pub fn symlink(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &Name,
        target: &std::ffi::CStr,
        new: &NewNode,
    ) -> Result<Entry> {
        todo!()
    }
    pub fn unlink(&self, caller: &Caller, parent: NodeId, name: &Name) -> Result<()> {
        todo!()
    }
    pub fn rmdir(&self, caller: &Caller, parent: NodeId, name: &Name) -> Result<()> {
        todo!()
    }
    pub fn rename(
        &self,
        caller: &Caller,
        from: (NodeId, &Name),
        to: (NodeId, &Name),
        mode: RenameMode,
    ) -> Result<()> {
        todo!()
    }
    pub fn link(&self, caller: &Caller, node: NodeId, parent: NodeId, name: &Name) -> Result<Entry> {
        todo!()
    }
    /// `flags` are the `O_…` bits of open(2).
    pub fn open_file(&self, caller: &Caller, node: NodeId, flags: i32) -> Result<Opened> {
        todo!()
    }
    pub fn create(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &Name,
        flags: i32,
        new: &NewNode,
    ) -> Result<(Entry, Opened)> {
        todo!()
    }
    pub fn tmpfile(
        &self,
        caller: &Caller,
        parent: NodeId,
        flags: i32,
        new: &NewNode,
    ) -> Result<(Entry, Opened)> {
        todo!()
    }
    pub fn release(&self, handle: HandleId) {
        todo!()
    }
    pub fn read(&self, handle: HandleId, offset: u64, buf: &mut [u8]) -> Result<usize> {
        todo!()
    }
    /// `kill_priv`: the kernel asks to clear suid and sgid with this write.
    pub fn write(&self, handle: HandleId, offset: u64, data: &[u8], kill_priv: bool) -> Result<usize> {
        todo!()
    }
    pub fn fsync(&self, handle: HandleId, data_only: bool) -> Result<()> {
        todo!()
    }
    pub fn fallocate(
        &self,
        caller: &Caller,
        handle: HandleId,
        mode: i32,
        offset: u64,
        length: u64,
    ) -> Result<()> {
        todo!()
    }
    pub fn lseek(&self, handle: HandleId, offset: u64, whence: i32) -> Result<u64> {
        todo!()
    }
    pub fn copy_file_range(
        &self,
        caller: &Caller,
        from: (HandleId, u64),
        to: (HandleId, u64),
        length: u64,
    ) -> Result<u64> {
        todo!()
    }
    pub fn opendir(&self, caller: &Caller, node: NodeId) -> Result<OpenedDir> {
        todo!()
    }
    pub fn releasedir(&self, handle: HandleId) {
        todo!()
    }
    /// Gives entries from `offset` on until `sink` says false (the refused entry is given again next time).
    pub fn readdir(
        &self,
        handle: HandleId,
        offset: u64,
        sink: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<()> {
        todo!()
    }
    /// As readdir; each accepted entry but `.` and `..` may carry a looked-up [`Entry`], whose reference is then the
    /// sink's. A refused entry's reference is given back here.
    pub fn readdirplus(
        &self,
        caller: &Caller,
        handle: HandleId,
        offset: u64,
        sink: &mut dyn FnMut(DirEntry<'_>, Option<Entry>) -> bool,
    ) -> Result<()> {
        todo!()
    }
    pub fn fsyncdir(&self, handle: HandleId, data_only: bool) -> Result<()> {
        todo!()
    }
    pub fn getxattr(&self, caller: &Caller, node: NodeId, name: &std::ffi::CStr) -> Result<Vec<u8>> {
        todo!()
    }
    /// Names, each followed by a NUL.
    pub fn listxattr(&self, caller: &Caller, node: NodeId) -> Result<Vec<u8>> {
        todo!()
    }
    /// `kill_sgid`: FUSE_SETXATTR_ACL_KILL_SGID.
    pub fn setxattr(
        &self,
        caller: &Caller,
        node: NodeId,
        name: &std::ffi::CStr,
        value: &[u8],
        mode: SetXattrMode,
        kill_sgid: bool,
    ) -> Result<()> {
        todo!()
    }
    pub fn removexattr(&self, caller: &Caller, node: NodeId, name: &std::ffi::CStr) -> Result<()> {
        todo!()
    }
    pub fn statfs(&self) -> Result<StatFs> {
        todo!()
    }
    pub fn fileattr(&self, node: NodeId) -> Result<FileAttr> {
        todo!()
    }
    pub fn set_flags(&self, caller: &Caller, node: NodeId, flags: u32) -> Result<()> {
        todo!()
    }
    pub fn set_fsxattr(&self, caller: &Caller, node: NodeId, attr: &FileAttr) -> Result<()> {
        todo!()
    }
    /// syncfs(2) on the upper's filesystem.
    pub fn sync(&self) -> Result<()> {
        todo!()
    }
    /// Asks the request numbered `request` to stop early with EINTR, if it is a long copy-up (C-18).
    pub fn interrupt(&self, request: u64) {
        todo!()
    }
    /// A question of `acetate which|status|sync`, as JSON bytes in and JSON bytes out. `node` is the directory asked about.
    pub fn control(&self, caller: &Caller, node: NodeId, question: &[u8]) -> Result<Vec<u8>> {
        todo!()
    }
}
