//! Requests about what is known of a node: attributes, extended attributes, the target of a link.

use std::borrow::Cow;
use std::ffi::CStr;

use super::{Reply, Turn};
use crate::fuse::wire::abi::{self, fattr};
use crate::fuse::wire::{attr_out, statfs_out, statx_out};
use crate::sys::{Errno, Result, Time};
use crate::union::ids::{Ids, is_acl};
use crate::union::{HandleId, NodeId, SetAttr, SetTime, SetXattrMode};

/// What a SETATTR asks for. One that changes nothing at all means: a write is about to happen that must clear suid
/// and sgid (F-42). FATTR_CTIME comes only with a writeback cache, which is not negotiated; ctime follows by itself.
fn change(args: &abi::SetattrIn, ids: &Ids) -> Result<SetAttr> {
    let asked = |bit: u32| args.valid & bit != 0;
    let time = |given: u32, now: u32, secs: u64, nanos: u32| -> Result<Option<SetTime>> {
        match (asked(now), asked(given)) {
            (true, _) => Ok(Some(SetTime::Now)),
            (false, true) if nanos < 1_000_000_000 => {
                Ok(Some(SetTime::To(Time { secs: secs.cast_signed(), nanos })))
            }
            (false, true) => Err(Errno::EINVAL),
            (false, false) => Ok(None),
        }
    };
    let changes_nothing = args.valid & !(fattr::FH | fattr::LOCKOWNER | fattr::CTIME) == 0;
    Ok(SetAttr {
        mode: asked(fattr::MODE).then_some(args.mode & 0o7777),
        uid: asked(fattr::UID).then(|| ids.stored_uid(args.uid)).transpose()?,
        gid: asked(fattr::GID).then(|| ids.stored_gid(args.gid)).transpose()?,
        size: asked(fattr::SIZE).then_some(args.size),
        atime: time(fattr::ATIME, fattr::ATIME_NOW, args.atime, args.atimensec)?,
        mtime: time(fattr::MTIME, fattr::MTIME_NOW, args.mtime, args.mtimensec)?,
        kill_priv: changes_nothing || asked(fattr::KILL_SUIDGID),
    })
}

fn handle(given: bool, raw: u64) -> Option<HandleId> {
    given.then_some(HandleId(raw))
}

impl Turn<'_> {
    pub(super) fn getattr(&mut self, node: NodeId, args: &abi::GetattrIn) -> Result<Reply> {
        let handle = handle(args.getattr_flags & abi::GETATTR_FH != 0, args.fh);
        let reply = self.union.getattr(node, handle)?;
        self.put(&attr_out(&self.view().attr(reply)))
    }

    pub(super) fn statx(&mut self, node: NodeId, args: &abi::StatxIn) -> Result<Reply> {
        let handle = handle(args.getattr_flags & abi::GETATTR_FH != 0, args.fh);
        let reply = self.union.getattr(node, handle)?;
        self.put(&statx_out(&self.view().attr(reply)))
    }

    pub(super) fn setattr(&mut self, node: NodeId, args: &abi::SetattrIn) -> Result<Reply> {
        let handle = handle(args.valid & fattr::FH != 0, args.fh);
        let reply = self.union.setattr(&self.caller(), node, handle, &change(args, self.union.ids())?)?;
        self.put(&attr_out(&self.view().attr(reply)))
    }

    pub(super) fn readlink(&mut self, node: NodeId) -> Result<Reply> {
        let target = self.union.readlink(node)?;
        self.put_bytes(&target)
    }

    pub(super) fn statfs(&mut self) -> Result<Reply> {
        let numbers = self.union.statfs()?;
        self.put(&statfs_out(&numbers))
    }

    pub(super) fn setxattr(
        &mut self,
        node: NodeId,
        args: &abi::SetxattrIn,
        name: &CStr,
        value: &[u8],
    ) -> Result<Reply> {
        if self.union.config().noxattrs {
            return Err(Errno::ENOSYS);
        }
        let mode = match args.flags.cast_signed() {
            0 => SetXattrMode::Any,
            libc::XATTR_CREATE => SetXattrMode::Create,
            libc::XATTR_REPLACE => SetXattrMode::Replace,
            _ => return Err(Errno::EINVAL),
        };
        let value = &*self.recorded(node, name, value)?;
        let kill_sgid = args.setxattr_flags & abi::SETXATTR_ACL_KILL_SGID != 0;
        self.union.setxattr(&self.caller(), node, name, value, mode, kill_sgid)?;
        Ok(Reply::Body(0))
    }

    pub(super) fn getxattr(&mut self, node: NodeId, size: u32, name: &CStr) -> Result<Reply> {
        if self.union.config().noxattrs {
            return Err(Errno::ENOSYS);
        }
        let value = self.union.getxattr(&self.caller(), node, name)?;
        let ids = self.union.ids();
        let value = match name.to_bytes() {
            b"security.capability" => ids.capability_shown(&value)?,
            _ if is_acl(name) => ids.acl_shown(&value)?,
            _ => value,
        };
        self.put_sized(size, &value)
    }

    pub(super) fn removexattr(&mut self, node: NodeId, name: &CStr) -> Result<Reply> {
        if self.union.config().noxattrs {
            return Err(Errno::ENOSYS);
        }
        self.union.removexattr(&self.caller(), node, name).map(|()| Reply::Body(0))
    }

    /// A value as it is to be stored: attributes that name users are shifted like owners. Errors: EOVERFLOW when the
    /// ACL that is replaced names somebody the caller could not see, and so would lose; EINVAL for ids without a
    /// counterpart.
    fn recorded<'v>(&self, node: NodeId, name: &CStr, value: &'v [u8]) -> Result<Cow<'v, [u8]>> {
        let ids = self.union.ids();
        if *ids == Ids::default() {
            return Ok(value.into());
        }
        Ok(match name.to_bytes() {
            b"security.capability" => ids.capability_stored(value)?.into(),
            _ if is_acl(name) => {
                match self.union.getxattr(&self.caller(), node, name) {
                    Ok(before) if ids.acl_hides(&before) => return Err(Errno::EOVERFLOW),
                    Ok(_) | Err(Errno::ENODATA | Errno::EOPNOTSUPP) => {}
                    Err(e) => return Err(e),
                }
                ids.acl_stored(value)?.into()
            }
            _ => value.into(),
        })
    }

    pub(super) fn listxattr(&mut self, node: NodeId, size: u32) -> Result<Reply> {
        if self.union.config().noxattrs {
            return Err(Errno::ENOSYS);
        }
        let names = self.union.listxattr(&self.caller(), node)?;
        self.put_sized(size, &names)
    }

    /// `value` into a buffer of `size`, or its length when the caller has none.
    fn put_sized(&mut self, size: u32, value: &[u8]) -> Result<Reply> {
        if size == 0 {
            let size = u32::try_from(value.len()).map_err(|_| Errno::E2BIG)?;
            return self.put(&abi::GetxattrOut { size, padding: 0 });
        }
        if value.len() > size as usize {
            return Err(Errno::ERANGE);
        }
        self.put_bytes(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setattr_that_changes_nothing_clears_privileges() {
        for valid in [0, fattr::FH, fattr::CTIME, fattr::FH | fattr::LOCKOWNER] {
            let asked = change(&abi::SetattrIn { valid, ..Default::default() }, &Ids::default()).unwrap();
            assert_eq!(asked, SetAttr { kill_priv: true, ..SetAttr::default() }, "{valid:#x}");
        }
        let chmod = abi::SetattrIn { valid: fattr::MODE, mode: 0o104_755, ..Default::default() };
        assert_eq!(
            change(&chmod, &Ids::default()).unwrap(),
            SetAttr { mode: Some(0o4755), ..SetAttr::default() }
        );
        let truncate =
            abi::SetattrIn { valid: fattr::SIZE | fattr::KILL_SUIDGID, size: 1 << 40, ..Default::default() };
        assert_eq!(
            change(&truncate, &Ids::default()).unwrap(),
            SetAttr { size: Some(1 << 40), kill_priv: true, ..SetAttr::default() }
        );
    }

    #[test]
    fn negative_and_sub_second_times_and_large_ids_survive() {
        let args = abi::SetattrIn {
            valid: fattr::UID | fattr::GID | fattr::ATIME | fattr::MTIME | fattr::MTIME_NOW,
            uid: 3_000_000_000,
            gid: u32::MAX - 1,
            atime: (-2i64).cast_unsigned(),
            atimensec: 999_999_999,
            mtime: 5,
            ..Default::default()
        };
        let asked = change(&args, &Ids::default()).unwrap();
        assert_eq!(asked.uid, Some(3_000_000_000));
        assert_eq!(asked.gid, Some(u32::MAX - 1));
        assert_eq!(asked.atime, Some(SetTime::To(Time { secs: -2, nanos: 999_999_999 })));
        assert_eq!(asked.mtime, Some(SetTime::Now));
    }

    #[test]
    fn impossible_nanoseconds_are_einval() {
        let args = abi::SetattrIn { valid: fattr::ATIME, atimensec: 1_000_000_000, ..Default::default() };
        assert_eq!(change(&args, &Ids::default()), Err(Errno::EINVAL));
    }
}
