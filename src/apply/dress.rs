//! Giving an object the owner, attributes, mode and times that it has in the changes.

use std::collections::BTreeMap;
use std::ffi::CString;

use crate::diff::Seen;
use crate::layer::marks::Prefix;
use crate::sys::{At, Errno, Kind, Result, SetTime};

/// Owner first, since it takes privileges and set-id bits away; then attributes, of which an ACL changes the mode; then
/// the mode; then the times.
pub(super) fn dress(at: At<'_>, like: &Seen<'_>) -> Result<()> {
    let (stat, attr) = (at.stat()?, &like.attr);
    let differs = |is: u32, ought: u32| (is != ought).then_some(ought);
    let (uid, gid) = (differs(stat.uid, attr.owner.uid), differs(stat.gid, attr.owner.gid));
    if uid.is_some() || gid.is_some() {
        at.chown(uid, gid)?;
    }
    attributes(at, like)?;
    if attr.kind() != Kind::Symlink {
        at.chmod(attr.mode & 0o7777)?;
    }
    at.utimens(Some(SetTime::To(like.attr.atime)), Some(SetTime::To(like.attr.mtime)))
}

fn attributes(at: At<'_>, like: &Seen<'_>) -> Result<()> {
    let wanted: BTreeMap<CString, Vec<u8>> = like.xattrs()?.into_iter().collect();
    let listed = at.listxattr()?;
    for name in listed.split_inclusive(|b| *b == 0) {
        let name = std::ffi::CStr::from_bytes_with_nul(name).map_err(|_| Errno::EIO)?;
        let mark = [Prefix::Trusted, Prefix::User].iter().any(|prefix| prefix.owns(name.to_bytes()));
        if mark || wanted.contains_key(name) {
            continue;
        }
        match at.removexattr(name) {
            Ok(()) | Err(Errno::ENODATA) => {}
            // A label that the security module gives to everything.
            Err(Errno::EPERM | Errno::EACCES) if name.to_bytes().starts_with(b"security.") => {}
            Err(e) => return Err(e),
        }
    }
    for (name, value) in &wanted {
        if at.find_xattr(name)?.as_ref() == Some(value) {
            continue;
        }
        match at.setxattr(name, value, 0) {
            Ok(()) => {}
            Err(Errno::EOPNOTSUPP) if !is_protection(name.to_bytes()) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Attributes that must not be left out silently.
fn is_protection(name: &[u8]) -> bool {
    name.starts_with(b"system.posix_acl") || name.starts_with(b"security.")
}
