//! How owners, modes and kinds are kept in a store, by what the store's owner may do.
//!
//! Root keeps everything as it is. Root of a user namespace does too, within the ids of the namespace, but may make no
//! device nodes. An ordinary user owns every file and writes down what it should be, in the attribute that podman and
//! fuse-overlayfs have for that; symlinks cannot have such an attribute, so theirs is lost. A whiteout is a 0:0
//! device everywhere: that one, anybody may make.

use std::ffi::CString;

use serde::{Deserialize, Serialize};

use super::super::refusal::{Refusal, Result};
use super::super::tar::{Entry, EntryKind};
use crate::layer::marks::Prefix;
use crate::sys::{At, Errno, Kind, SetTime, Time};

/// The attribute that says what a file should be: `uid:gid:mode[:type]`, the mode in octal.
pub const OVERRIDE: &std::ffi::CStr = c"user.containers.override_stat";

/// What the owner of a store may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// Anything.
    Root,
    /// Give files to the ids of a user namespace.
    Namespace,
    /// Own files.
    User,
}

impl Dialect {
    /// Where the marks of overlayfs are kept.
    pub fn prefix(self) -> Prefix {
        match self {
            Dialect::Root => Prefix::Trusted,
            Dialect::Namespace | Dialect::User => Prefix::User,
        }
    }

    /// The permission bits an object really has.
    pub fn real_mode(self, kind: Kind, mode: u32) -> u32 {
        match (self, kind) {
            (Dialect::User, Kind::Dir) => mode & 0o777 | 0o700,
            (Dialect::User, _) => mode & 0o777 | 0o600,
            _ => mode & 0o7777,
        }
    }

    /// The kind an object really has.
    pub fn real_kind(self, kind: Kind) -> Kind {
        match (self, kind) {
            (_, Kind::File | Kind::Dir | Kind::Symlink) | (Dialect::Root, _) => kind,
            (Dialect::Namespace, Kind::Fifo | Kind::Socket) => kind,
            _ => Kind::File,
        }
    }

    /// The value of [`OVERRIDE`], where there is to be one.
    pub fn override_stat(self, kind: Kind, attributes: &Attributes) -> Option<String> {
        if kind == Kind::Symlink || (self != Dialect::User && self.real_kind(kind) == kind) {
            return None;
        }
        let Attributes { uid, gid, mode, .. } = attributes;
        let (major, minor) = attributes.device;
        let suffix = match kind {
            Kind::Char => format!(":char-{major}-{minor}"),
            Kind::Block => format!(":block-{major}-{minor}"),
            Kind::Fifo => ":pipe".to_string(),
            Kind::Socket => ":socket".to_string(),
            _ => String::new(),
        };
        Some(format!("{uid}:{gid}:0{:o}{suffix}", mode & 0o7777))
    }
}

/// What an object should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When it was changed.
    pub mtime: Time,
    /// When it was read.
    pub atime: Time,
    /// The number of a device.
    pub device: (u32, u32),
    /// Attributes as they are stored.
    pub xattrs: Vec<(CString, Vec<u8>)>,
}

impl Attributes {
    /// Those of a directory that no entry describes.
    pub fn implicit() -> Attributes {
        Attributes {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            atime: Time::default(),
            device: (0, 0),
            xattrs: Vec::new(),
        }
    }

    /// Those of an entry. Counts what cannot be kept in `lost`.
    ///
    /// # Errors
    /// A name of an attribute that is none.
    pub fn of(entry: &Entry, dialect: Dialect, lost: &mut Lost) -> Result<Attributes> {
        let mut xattrs = Vec::new();
        for (name, value) in &entry.xattrs {
            if let Some(stored) = stored_name(name, value, dialect, lost)? {
                xattrs.push((stored, value.clone()));
            }
        }
        let device = match entry.kind {
            EntryKind::Char(major, minor) | EntryKind::Block(major, minor) => (major, minor),
            _ => (0, 0),
        };
        Ok(Attributes {
            mode: entry.mode & 0o7777,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            atime: entry.atime.unwrap_or(entry.mtime),
            device,
            xattrs,
        })
    }

    /// Gives them to an object that is complete otherwise: owner, mode, attributes, times, each of which can undo the
    /// one before. `now` are the owner and the mode it was made with.
    ///
    /// # Errors
    /// As chown(2), chmod(2), setxattr(2), utimensat(2).
    pub fn give(
        &self,
        to: At<'_>,
        kind: Kind,
        dialect: Dialect,
        own: (u32, u32),
        lost: &mut Lost,
    ) -> Result<()> {
        let is_given = dialect != Dialect::User && (self.uid, self.gid) != own;
        if is_given {
            to.chown(Some(self.uid), Some(self.gid)).map_err(|errno| match errno {
                Errno::EINVAL => Refusal::new(format!("the owner {}:{} is not in this user namespace", self.uid, self.gid))
                    .hint("give the namespace more ids (/etc/subuid, /etc/subgid), or use another store outside of it"),
                errno => errno.into(),
            })?;
        }
        let real = dialect.real_mode(kind, self.mode);
        // A change of the owner clears set-id bits; directories were made closed.
        if kind == Kind::Dir || (is_given && real & 0o6000 != 0 && kind != Kind::Symlink) {
            to.chmod(real)?;
        }
        if let Some(value) = dialect.override_stat(kind, self) {
            to.setxattr(OVERRIDE, value.as_bytes(), 0).map_err(|errno| match errno {
                Errno::EOPNOTSUPP => Refusal::new(
                    "the file system of the store has no user attributes, which say who owns a file",
                )
                .hint("name a store on another file system with --store DIR"),
                errno => errno.into(),
            })?;
        }
        for (name, value) in &self.xattrs {
            match to.setxattr(name, value, 0) {
                Ok(()) => {}
                Err(Errno::EPERM | Errno::EOPNOTSUPP) => lost.attribute(name.as_bytes()),
                Err(errno) => {
                    return Err(Refusal::new(format!(
                        "its attribute {name:?} cannot be set: {}",
                        errno.desc()
                    )));
                }
            }
        }
        to.utimens(Some(SetTime::To(self.atime)), Some(SetTime::To(self.mtime)))?;
        Ok(())
    }
}

/// What could not be kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Attributes, by the first parts of their names.
    pub attributes: std::collections::BTreeMap<String, u64>,
}

impl Lost {
    fn attribute(&mut self, name: &[u8]) {
        let name = String::from_utf8_lossy(name).into_owned();
        if self.attributes.len() < 64 || self.attributes.contains_key(&name) {
            *self.attributes.entry(name).or_default() += 1;
        }
    }

    /// Adds those of another.
    pub fn merge(&mut self, other: Lost) {
        for (name, count) in other.attributes {
            *self.attributes.entry(name).or_default() += count;
        }
    }
}

/// The name under which an attribute of an archive is stored. `None`: it is left out.
///
/// Marks of overlayfs would be obeyed, so they are stored one `overlay.` deeper, where a mount shows them under their
/// own name and obeys nothing (L-24). Nobody may say through an archive what another file should be.
fn stored_name(name: &[u8], value: &[u8], dialect: Dialect, lost: &mut Lost) -> Result<Option<CString>> {
    let named = || Refusal::new(format!("its attribute '{}'", name.escape_ascii()));
    let c = CString::new(name).map_err(|_| named().hint("a name of an attribute contains no NUL"))?;
    if name.is_empty() || name.len() > 255 || value.len() > 65536 {
        return Err(Refusal::new(format!(
            "its attribute '{}' has a name or a value longer than Linux has",
            name.escape_ascii()
        )));
    }
    if name.starts_with(b"user.containers.override_") || name.starts_with(b"user.fuseoverlayfs.") {
        lost.attribute(name);
        return Ok(None);
    }
    let is_ours =
        dialect == Dialect::User && !name.starts_with(b"user.") && !name.starts_with(b"system.posix_acl_");
    if is_ours {
        lost.attribute(name);
        return Ok(None);
    }
    match dialect.prefix().stored(&c) {
        Ok(stored) => Ok(Some(stored)),
        Err(_) => {
            lost.attribute(name);
            Ok(None)
        }
    }
}
