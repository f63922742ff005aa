//! File flags through the mount.
//!
//! Immutable and append-only are never set on an upper inode, which would keep us from changing it as well; they are
//! letters in `P.protattr`, and the server enforces them. All other flags are the upper file's own.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::Union;
use super::copy_up::Data;
use super::node::Node;
use super::types::{Caller, FileAttr, NodeId};
use crate::layer::marks::Mark;
use crate::sys::{At, Errno, Kind, Result, fileattr};

/// Copies the flags that a copy keeps (C-8). Filesystems and kinds without flags have none to keep.
pub(super) fn copy_flags(from: At<'_>, to: At<'_>, kind: Kind) -> Result<()> {
    const KEPT: u32 = fileattr::SYNC | fileattr::NOATIME;
    let mode = if kind == Kind::Dir { libc::O_DIRECTORY } else { 0 } | libc::O_RDONLY | libc::O_NONBLOCK;
    let Ok(source) = super::copy_up::open_quietly(from, mode) else { return Ok(()) };
    let Ok(flags) = fileattr::flags(source.as_fd()) else { return Ok(()) };
    if flags & KEPT == 0 {
        return Ok(());
    }
    let target = to.open(mode)?;
    let own = fileattr::flags(target.as_fd())?;
    fileattr::set_flags(target.as_fd(), own | (flags & KEPT))
}

impl Union {
    fn open_for_flags(&self, node: &Arc<Node>) -> Result<std::os::fd::OwnedFd> {
        let mode = match node.kind {
            Kind::Dir => libc::O_DIRECTORY,
            Kind::File => 0,
            _ => return Err(Errno::ENOTTY),
        };
        let flags = mode | libc::O_RDONLY | libc::O_NONBLOCK;
        self.steadily(node, |at| super::copy_up::open_quietly(at, flags))
    }

    /// FS_IOC_GETFLAGS and FS_IOC_FSGETXATTR. Errors: ENOTTY where the layer's filesystem has none.
    pub fn fileattr(&self, node: NodeId) -> Result<FileAttr> {
        let node = self.node(node)?;
        let fd = self.open_for_flags(&node)?;
        let mut flags = fileattr::flags(fd.as_fd())?;
        let mut x = fileattr::fsxattr(fd.as_fd()).unwrap_or_default();
        let state = node.state();
        if state.immutable {
            flags |= fileattr::IMMUTABLE;
            x.xflags |= fileattr::X_IMMUTABLE;
        }
        if state.append_only {
            flags |= fileattr::APPEND;
            x.xflags |= fileattr::X_APPEND;
        }
        Ok(FileAttr {
            flags,
            xflags: x.xflags,
            extsize: x.extsize,
            nextents: x.nextents,
            projid: x.projid,
            cowextsize: x.cowextsize,
        })
    }

    /// FS_IOC_SETFLAGS; copies the object up. Errors: EPERM when immutable or append-only change and the caller may
    /// not; EOPNOTSUPP for flags the upper's filesystem lacks.
    pub fn set_flags(&self, caller: &Caller, node: NodeId, flags: u32) -> Result<()> {
        let protect = (flags & fileattr::IMMUTABLE != 0, flags & fileattr::APPEND != 0);
        self.change_flags(caller, node, protect, |fd| {
            fileattr::set_flags(fd, flags & !(fileattr::IMMUTABLE | fileattr::APPEND))
        })
    }

    /// FS_IOC_FSSETXATTR; as [`Union::set_flags`].
    pub fn set_fsxattr(&self, caller: &Caller, node: NodeId, attr: &FileAttr) -> Result<()> {
        let protect = (attr.xflags & fileattr::X_IMMUTABLE != 0, attr.xflags & fileattr::X_APPEND != 0);
        let value = fileattr::FsXattr {
            xflags: attr.xflags & !(fileattr::X_IMMUTABLE | fileattr::X_APPEND),
            extsize: attr.extsize,
            nextents: attr.nextents,
            projid: attr.projid,
            cowextsize: attr.cowextsize,
            pad: [0; 8],
        };
        self.change_flags(caller, node, protect, |fd| fileattr::set_fsxattr(fd, &value))
    }

    fn change_flags(
        &self,
        caller: &Caller,
        node: NodeId,
        (immutable, append_only): (bool, bool),
        set: impl FnOnce(std::os::fd::BorrowedFd<'_>) -> Result<()>,
    ) -> Result<()> {
        let node = self.node(node)?;
        let upper = self.upper.as_ref().ok_or(Errno::EROFS)?;
        let before = {
            let state = node.state();
            (state.immutable, state.append_only)
        };
        if before != (immutable, append_only) && !crate::sys::caller_may_set_immutable(caller.pid) {
            return Err(Errno::EPERM);
        }
        let owner = self.node_seen(&node)?.uid;
        if self.owner_of(caller).uid != owner && !crate::sys::caller_owns_any_file(caller.pid) {
            return Err(Errno::EPERM);
        }
        self.copy_up(caller, &node, Data::MetaOnly)?;
        let fd = self.open_for_flags(&node)?;
        set(fd.as_fd())?;
        let real = self.steady_upper(&node)?;
        let letters: Vec<u8> = [(append_only, b'a'), (immutable, b'i')]
            .into_iter()
            .filter_map(|(on, letter)| on.then_some(letter))
            .collect();
        if letters.is_empty() {
            match real.at().removexattr(self.prefix.attr(Mark::Protattr)) {
                Ok(()) | Err(Errno::ENODATA | Errno::EOPNOTSUPP) => {}
                Err(e) => return Err(e),
            }
        } else {
            upper.mark(real.at(), Mark::Protattr, &letters)?;
        }
        {
            let mut state = node.state();
            state.immutable = immutable;
            state.append_only = append_only;
        }
        self.transport.forget_attributes(node.id);
        self.listing_is_due(&node);
        Ok(())
    }
}
