//! What a new object inherits from its directory's default ACL.
//!
//! Only objects built in the work directory need this; elsewhere the upper's own filesystem does it. The computation
//! is the kernel's: the mode given at creation limits the inherited ACL, and the ACL's entries then set the mode.

use crate::sys::{At, Errno, Kind, Result};

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
const ACCESS: &std::ffi::CStr = c"system.posix_acl_access";
const DEFAULT: &std::ffi::CStr = c"system.posix_acl_default";

/// What a new object starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inherited {
    /// Its permission bits.
    pub mode: u32,
    access: Option<Vec<u8>>,
    default: Option<Vec<u8>>,
}

impl Inherited {
    /// Sets the ACLs.
    pub(super) fn apply(&self, at: At<'_>) -> Result<()> {
        for (name, value) in [(ACCESS, &self.access), (DEFAULT, &self.default)] {
            if let Some(value) = value {
                at.setxattr(name, value, 0)?;
            }
        }
        Ok(())
    }
}

/// What an object of `kind` created in `parent` starts with.
pub(super) fn inherit(parent: At<'_>, kind: Kind, mode: u32, umask: u32) -> Result<Inherited> {
    let plain = Inherited { mode: mode & !umask & 0o7777, access: None, default: None };
    if kind == Kind::Symlink {
        return Ok(plain);
    }
    match parent.find_xattr(DEFAULT)? {
        None => Ok(plain),
        Some(acl) => from_default(&acl, kind, mode),
    }
}

/// One entry: tag, permissions, id.
type Entry = (u16, u16, u32);

fn parse(acl: &[u8]) -> Result<Vec<Entry>> {
    let (version, entries) = acl.split_first_chunk::<4>().ok_or(Errno::EINVAL)?;
    let (entries, rest) = entries.as_chunks::<8>();
    if u32::from_le_bytes(*version) != VERSION || !rest.is_empty() {
        return Err(Errno::EINVAL);
    }
    let entry = |[a, b, c, d, e, f, g, h]: [u8; 8]| {
        (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]), u32::from_le_bytes([e, f, g, h]))
    };
    Ok(entries.iter().map(|&e| entry(e)).collect())
}

fn write(entries: &[Entry]) -> Vec<u8> {
    let mut out = VERSION.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&perm.to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
    }
    out
}

fn from_default(default: &[u8], kind: Kind, mode: u32) -> Result<Inherited> {
    let mut entries = parse(default)?;
    let has_mask = entries.iter().any(|e| e.0 == MASK);
    let mut limited = mode & 0o7777;
    for (tag, perm, _) in &mut entries {
        let shift = match *tag {
            USER_OBJ => 6,
            OTHER => 0,
            MASK => 3,
            GROUP_OBJ if !has_mask => 3,
            _ => continue,
        };
        *perm &= ((mode >> shift) & 7) as u16;
        limited &= !(7 << shift) | (u32::from(*perm) << shift);
    }
    let is_minimal = entries.iter().all(|e| matches!(e.0, USER_OBJ | GROUP_OBJ | OTHER));
    Ok(Inherited {
        mode: limited,
        access: (!is_minimal).then(|| write(&entries)),
        default: (kind == Kind::Dir).then(|| default.to_vec()),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};

    use super::*;
    use crate::sys::{Dir, NameBuf};

    /// Every combination of a small set of ACLs and modes gives what the filesystem gives natively.
    #[test]
    fn inheritance_equals_the_filesystems_own_a4() {
        let t = tempfile::tempdir().unwrap();
        let dir = Dir::open_path(t.path()).unwrap();
        let mut n = 0;
        for bits in 0..512u16 {
            let (u, m, o) = (bits & 7, (bits >> 3) & 7, bits >> 6);
            for acl in [
                write(&[(USER_OBJ, u, u32::MAX), (GROUP_OBJ, m, u32::MAX), (OTHER, o, u32::MAX)]),
                write(&[
                    (USER_OBJ, u, u32::MAX),
                    (0x02, 6, 1000),
                    (GROUP_OBJ, 5, u32::MAX),
                    (MASK, m, u32::MAX),
                    (OTHER, o, u32::MAX),
                ]),
            ] {
                if dir.this().setxattr(DEFAULT, &acl, 0) == Err(Errno::EOPNOTSUPP) {
                    println!("skipped: no ACLs on this filesystem");
                    return;
                }
                let mode = u32::from(bits.wrapping_mul(37) & 0o777);
                n += 1;
                let name = NameBuf::new(format!("n{n}").as_bytes()).unwrap();
                let path = t.path().join(format!("n{n}"));
                let kind = if n % 2 == 0 { Kind::Dir } else { Kind::File };
                if kind == Kind::Dir {
                    std::fs::DirBuilder::new().mode(mode).create(&path).unwrap();
                } else {
                    std::fs::OpenOptions::new().create_new(true).write(true).mode(mode).open(&path).unwrap();
                }
                let ours = inherit(dir.this(), kind, mode, 0o777).unwrap();
                assert_eq!(dir.stat(&name).unwrap().mode & 0o7777, ours.mode, "{bits} {mode:o}");
                assert_eq!(dir.at(&name).find_xattr(ACCESS).unwrap(), ours.access);
                assert_eq!(dir.at(&name).find_xattr(DEFAULT).unwrap(), ours.default);
            }
        }
    }
}
