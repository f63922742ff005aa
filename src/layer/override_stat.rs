//! Owner, mode and type as an attribute, where the file system cannot keep them (`xattr_permissions`).
//!
//! The value is `uid:gid:mode`, with the mode in octal, or `uid:gid:mode:type`, where the type is `file`, `dir`,
//! `symlink`, `pipe`, `socket`, `block-MAJOR-MINOR` or `char-MAJOR-MINOR`.

use std::ffi::CStr;

use crate::sys::{Dev, Kind};

/// The attributes that are understood; the first is the one that containers/storage shares.
pub const NAMES: [&CStr; 3] = [
    c"user.containers.override_stat",
    c"user.fuseoverlayfs.override_stat",
    c"security.fuseoverlayfs.override_stat",
];

/// Whether an attribute is one of [`NAMES`].
pub fn is_name(attr: &CStr) -> bool {
    NAMES.contains(&attr)
}

/// What an object is to be shown as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverrideStat {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits, and whatever type bits were stored.
    pub mode: u32,
    /// Type, if it is told.
    pub kind: Option<Kind>,
    /// Device number of a device; else 0:0.
    pub rdev: Dev,
}

/// Reads a value. `None` for one that makes no sense.
pub fn parse(value: &[u8]) -> Option<OverrideStat> {
    let text = std::str::from_utf8(value).ok()?;
    let mut words = text.split(':');
    let (uid, gid) = (decimal(words.next()?)?, decimal(words.next()?)?);
    let mode = words.next().filter(|w| w.bytes().all(|b| b.is_ascii_digit()))?;
    let mode = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o177_777)?;
    let (kind, rdev) = match words.next() {
        None => (None, Dev::default()),
        Some(word) => kind_of(word).map(|(kind, rdev)| (Some(kind), rdev))?,
    };
    match words.next() {
        None => Some(OverrideStat { uid, gid, mode, kind, rdev }),
        Some(_) => None,
    }
}

fn decimal(word: &str) -> Option<u32> {
    word.bytes().all(|b| b.is_ascii_digit()).then(|| word.parse().ok()).flatten()
}

fn kind_of(word: &str) -> Option<(Kind, Dev)> {
    let plain = |kind| Some((kind, Dev::default()));
    match word {
        "file" => return plain(Kind::File),
        "dir" => return plain(Kind::Dir),
        "symlink" => return plain(Kind::Symlink),
        "pipe" => return plain(Kind::Fifo),
        "socket" => return plain(Kind::Socket),
        _ => {}
    }
    let mut parts = word.split('-');
    let kind = match parts.next()? {
        "block" => Kind::Block,
        "char" => Kind::Char,
        _ => return None,
    };
    let (major, minor) = (decimal(parts.next()?)?, decimal(parts.next()?)?);
    parts.next().is_none().then_some((kind, Dev { major, minor }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let short = parse(b"1000:100:0755").unwrap();
        assert_eq!((short.uid, short.gid, short.mode, short.kind), (1000, 100, 0o755, None));
        let device = parse(b"0:0:644:block-8-1").unwrap();
        assert_eq!((device.kind, device.rdev), (Some(Kind::Block), Dev { major: 8, minor: 1 }));
        assert_eq!(parse(b"0:0:40755:dir").unwrap().kind, Some(Kind::Dir));
    }

    #[test]
    fn anything_else_is_none() {
        for bad in [
            "",
            "1",
            "1:2",
            "1:2:9",
            "-1:2:755",
            "1:2:755:",
            "1:2:755:dir:x",
            "1:2:755:char-1",
            "+1:2:755",
            "1:2:7777777",
            "4294967296:0:755",
            "1:2:755:file-1-2",
            " 1:2:755",
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
