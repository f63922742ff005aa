//! Owner, mode and type of an object, written in an attribute in place of its inode.
//!
//! A user without a range of ids can neither give files to others nor make devices; container tools then record what an
//! object should be in `user.containers.override_stat`, as `UID:GID:MODE` or `UID:GID:MODE:TYPE` with an octal mode.
//! Anybody may write `user.*` attributes of his own files, so whoever believes these must also keep callers from setting
//! them. Only regular files and directories can carry them; everything but a directory and a symbolic link is
//! therefore stored as a regular file, whose type says what it stands for.

use std::ffi::CStr;

use super::override_stat;
use crate::sys::{At, Dev, Errno, Kind, Result, Stat};

/// What is written and read first, and what fuse-overlayfs wrote before.
const ATTR: &CStr = override_stat::NAMES[0];
const OLDER: &CStr = override_stat::NAMES[1];

/// Whether `name` is an attribute of this kind.
pub fn is_override(name: &[u8]) -> bool {
    override_stat::NAMES.iter().any(|known| known.to_bytes() == name)
}

/// What an attribute says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Override {
    uid: u32,
    gid: u32,
    /// Permission bits.
    mode: u32,
    kind: Option<(Kind, Dev)>,
}

impl Override {
    /// Errors: EINVAL for what is not of the form.
    fn parse(value: &[u8]) -> Result<Override> {
        let length = value.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        let found = override_stat::parse(value.get(..length).unwrap_or_default()).ok_or(Errno::EINVAL)?;
        let kind = found.kind.map(|kind| (kind, found.rdev));
        Ok(Override { uid: found.uid, gid: found.gid, mode: found.mode & 0o7777, kind })
    }

    fn of(stat: &Stat, real: Kind) -> Override {
        let kind = (stat.kind() != real).then_some((stat.kind(), stat.rdev));
        Override { uid: stat.uid, gid: stat.gid, mode: stat.mode & 0o7777, kind }
    }

    /// The form with three fields where that says all: older programs know no other.
    fn write(self) -> String {
        let Override { uid, gid, mode, kind } = self;
        match kind {
            None => format!("{uid}:{gid}:0{mode:o}"),
            Some((kind, dev)) => format!("{uid}:{gid}:0{mode:o}:{}", word(kind, dev)),
        }
    }

    /// The object it describes, given the one that carries it. A type that its carrier cannot stand for does not count.
    fn apply(self, stat: Stat) -> Stat {
        let (kind, rdev) = match self.kind {
            Some((Kind::Char, dev)) if dev == Dev::default() => (stat.kind(), stat.rdev),
            Some((kind, dev)) if stat.kind() == Kind::File && kind != Kind::Dir => (kind, dev),
            _ => (stat.kind(), stat.rdev),
        };
        Stat { uid: self.uid, gid: self.gid, mode: kind.mode_bits() | self.mode, rdev, ..stat }
    }
}

fn word(kind: Kind, dev: Dev) -> String {
    match kind {
        Kind::File => "file".into(),
        Kind::Dir => "dir".into(),
        Kind::Symlink => "symlink".into(),
        Kind::Fifo => "pipe".into(),
        Kind::Socket => "socket".into(),
        Kind::Block => format!("block-{}-{}", dev.major, dev.minor),
        Kind::Char => format!("char-{}-{}", dev.major, dev.minor),
    }
}

/// Whether an object of this kind can carry the attribute.
pub fn can_carry(kind: Kind) -> bool {
    matches!(kind, Kind::File | Kind::Dir)
}

/// The kind of object that is made to stand for one of `kind`.
pub fn carrier(kind: Kind) -> Kind {
    match kind {
        Kind::Dir | Kind::Symlink => kind,
        _ => Kind::File,
    }
}

/// What the object `at`, whose inode says `stat`, stands for. A malformed attribute says nothing.
pub fn read(at: At<'_>, stat: Stat) -> Result<Stat> {
    if !can_carry(stat.kind()) {
        return Ok(stat);
    }
    for attr in [ATTR, OLDER] {
        match at.find_xattr(attr) {
            Ok(None) => {}
            Ok(Some(value)) => match Override::parse(&value) {
                Ok(found) => return Ok(found.apply(stat)),
                Err(_) => log::warn!("{} of inode {} makes no sense", attr.to_string_lossy(), stat.ino),
            },
            Err(Errno::EOPNOTSUPP) => return Ok(stat),
            Err(e) => return Err(e),
        }
    }
    Ok(stat)
}

/// Whose an object is that can carry no attribute, in layers where attributes say it. The files of such layers belong to
/// whoever keeps them, so where that is an ordinary user (`keeper`) his name on a symbolic link says nothing, and it is
/// root's.
pub fn unrecorded(stat: Stat, keeper: u32) -> Stat {
    let says_nothing = !can_carry(stat.kind()) && keeper != 0 && stat.uid == keeper;
    if says_nothing { Stat { uid: 0, gid: 0, ..stat } } else { stat }
}

/// Makes the object `at`, which is of kind `real`, stand for `stat`.
pub fn write(at: At<'_>, real: Kind, stat: &Stat) -> Result<()> {
    at.setxattr(ATTR, Override::of(stat, real).write().as_bytes(), 0)
}

/// Whether `at` has one.
pub fn is_there(at: At<'_>) -> Result<bool> {
    Ok(at.find_xattr(ATTR)?.is_some() || at.find_xattr(OLDER)?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_the_shorter_one_is_written_where_it_says_all() {
        let dev = |major, minor| Dev { major, minor };
        for (text, uid, gid, mode, kind) in [
            ("0:0:755", 0, 0, 0o755, None),
            ("1000:5:04755", 1000, 5, 0o4755, None),
            ("0:0:0644:file", 0, 0, 0o644, Some((Kind::File, dev(0, 0)))),
            ("0:0:100644:file", 0, 0, 0o644, Some((Kind::File, dev(0, 0)))),
            ("0:0:0666:char-1-3", 0, 0, 0o666, Some((Kind::Char, dev(1, 3)))),
            ("0:6:0660:block-259-1", 0, 6, 0o660, Some((Kind::Block, dev(259, 1)))),
            ("0:0:0600:pipe", 0, 0, 0o600, Some((Kind::Fifo, dev(0, 0)))),
            ("0:0:0600:socket", 0, 0, 0o600, Some((Kind::Socket, dev(0, 0)))),
            ("0:0:0777:symlink", 0, 0, 0o777, Some((Kind::Symlink, dev(0, 0)))),
            ("0:0:0755:dir", 0, 0, 0o755, Some((Kind::Dir, dev(0, 0)))),
        ] {
            let found = Override::parse(text.as_bytes()).unwrap();
            assert_eq!(found, Override { uid, gid, mode, kind }, "{text}");
            assert_eq!(Override::parse(found.write().as_bytes()).unwrap(), found, "{text}");
        }
        for bad in [
            "",
            "0",
            "0:0",
            "0:0:9",
            "0:0:755:door",
            "-1:0:755",
            "0:0:0755:char-1",
            "a:0:755",
            "0:0:0755:block-1-x",
        ] {
            assert_eq!(Override::parse(bad.as_bytes()), Err(Errno::EINVAL), "{bad}");
        }
    }

    #[test]
    fn what_is_written_on_a_file_is_what_it_stands_for() {
        let t = tempfile::tempdir().unwrap();
        std::fs::write(t.path().join("f"), "").unwrap();
        let dir = crate::sys::Dir::open_path(t.path()).unwrap();
        let name = crate::sys::NameBuf::new(b"f").unwrap();
        let raw = dir.stat(&name).unwrap();
        assert_eq!(read(dir.at(&name), raw).unwrap(), raw);
        let device =
            Stat { uid: 7, gid: 8, mode: libc::S_IFCHR | 0o640, rdev: Dev { major: 1, minor: 3 }, ..raw };
        match write(dir.at(&name), Kind::File, &device) {
            Err(Errno::EOPNOTSUPP) => println!("skipped: no user attributes on this filesystem"),
            done => {
                done.unwrap();
                assert_eq!(read(dir.at(&name), raw).unwrap(), device);
                // A directory cannot be a device, and nothing can be a whiteout by its attribute.
                write(dir.this(), Kind::Dir, &device).unwrap();
                let top = dir.this().stat().unwrap();
                assert_eq!(read(dir.this(), top).unwrap().kind(), Kind::Dir);
                let whiteout = Stat { rdev: Dev::default(), ..device };
                write(dir.at(&name), Kind::File, &whiteout).unwrap();
                assert_eq!(read(dir.at(&name), raw).unwrap().kind(), Kind::File);
            }
        }
    }
}
