//! Reading ONE layer: what a name is there, and what marks it carries.
//!
//! Whatever dialect a layer is written in (character devices, xattr whiteouts, OCI markers), the answer of
//! [`Reader::probe`] is the same: absent, whiteout, or an entry with its marks. Nothing here knows that there are
//! several layers. The upper is read by the same code.

pub mod index;
pub mod marks;
mod object;
pub mod origin;
pub mod override_stat;
pub mod stand_in;
pub mod survey;

pub use object::{DirCache, DirKey, Object, Real};

use crate::sys::{Dir, Errno, Kind, Name, NameBuf, RawEntry, Result, Stat};
use marks::{Mark, MarkSet, Opaque, Prefix, RedirectTo};

const OCI_PREFIX: &[u8] = b".wh.";
const OCI_OPAQUE: &[u8] = b".wh..wh..opq";

/// How the marks of a layer are spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    /// Which attributes are private.
    pub prefix: Prefix,
    /// Whether `.wh.` markers have their OCI meaning (L-14); never for the upper.
    pub oci: bool,
    /// Whether an attribute says owner, mode and type of an object.
    pub overrides: bool,
}

/// What one layer says of one name.
#[derive(Clone, Debug)]
pub enum Probe {
    /// Nothing.
    Absent,
    /// It is deleted here; nothing below counts (L-9, L-10).
    Whiteout,
    /// An object.
    Entry(Found),
}

/// An object of one layer, with its marks.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its metadata.
    pub stat: Stat,
    /// Nothing below this directory counts (L-5).
    pub cut: bool,
    /// Where the layers below continue (L-19).
    pub redirect: Option<RedirectTo>,
    /// The data of this regular file is further down (L-23).
    pub metacopy: bool,
    /// Every mark that is set; read only where one could matter.
    pub marks: MarkSet,
}

/// Whether anything below the probed layer could matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Below {
    /// Yes: marks must be read.
    Some,
    /// No: marks of directories change nothing.
    Nothing,
}

/// One name of a listing of one layer.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The name.
    pub name: NameBuf,
    /// What it is; `None` for a whiteout.
    pub kind: Option<Kind>,
    /// Raw inode number.
    pub ino: u64,
}

impl Reader {
    /// What the layer whose directory is `dir` says of `name`. Errors: whatever the layer's filesystem says, but
    /// ENOENT and ENAMETOOLONG count as absent (L-6); EINVAL for malformed marks.
    pub fn probe(self, dir: &Dir, name: &Name, below: Below) -> Result<Probe> {
        if self.oci && name.as_bytes().starts_with(OCI_PREFIX) {
            return Ok(Probe::Absent);
        }
        let stat = match dir.stat(name) {
            Ok(stat) => stat,
            Err(Errno::ENOENT | Errno::ENAMETOOLONG) => {
                return Ok(if self.oci_hides(dir, name)? { Probe::Whiteout } else { Probe::Absent });
            }
            Err(e) => return Err(e),
        };
        if stat.is_whiteout_device() {
            return Ok(Probe::Whiteout);
        }
        let mut found =
            Found { stat, cut: false, redirect: None, metacopy: false, marks: MarkSet::default() };
        match stat.kind() {
            Kind::File => {
                found.marks = marks::present(dir.at(name), self.prefix)?;
                if stat.size == 0 && found.marks.has(Mark::Whiteout) {
                    return Ok(Probe::Whiteout);
                }
                self.read_file_marks(dir, name, &mut found)?;
            }
            Kind::Dir if below == Below::Some => {
                found.marks = marks::present(dir.at(name), self.prefix)?;
                self.read_dir_marks(dir, name, &mut found)?;
            }
            // Symlinks and special files carry an origin (C-13).
            _ if below == Below::Some => found.marks = marks::present(dir.at(name), self.prefix)?,
            _ => {}
        }
        if self.overrides {
            found.stat = stand_in::read(dir.at(name), stat)?;
        }
        Ok(Probe::Entry(found))
    }

    fn read_file_marks(self, dir: &Dir, name: &Name, found: &mut Found) -> Result<()> {
        found.metacopy = found.marks.has(Mark::Metacopy) && marks::metacopy(dir.at(name), self.prefix)?;
        if found.metacopy && found.marks.has(Mark::Redirect) {
            found.redirect = marks::redirect(dir.at(name), self.prefix)?;
        }
        Ok(())
    }

    fn read_dir_marks(self, dir: &Dir, name: &Name, found: &mut Found) -> Result<()> {
        found.cut = found.marks.has(Mark::Opaque) && marks::opaque(dir.at(name), self.prefix)? == Opaque::Yes;
        if !found.cut && self.oci {
            let opaque = NameBuf::new(OCI_OPAQUE)?;
            let sub = dir.open_dir(name)?;
            found.cut = self.oci_hides(dir, name)? || is_marker(sub.find(&opaque)?);
        }
        if !found.cut && found.marks.has(Mark::Redirect) {
            found.redirect = marks::redirect(dir.at(name), self.prefix)?;
        }
        Ok(())
    }

    /// Whether an OCI marker in `dir` hides `name` in the layers below (L-14).
    fn oci_hides(self, dir: &Dir, name: &Name) -> Result<bool> {
        if !self.oci || is_aufs_bookkeeping(name.as_bytes()) {
            return Ok(false);
        }
        match NameBuf::new(&[OCI_PREFIX, name.as_bytes()].concat()) {
            Ok(marker) => Ok(is_marker(dir.find(&marker)?)),
            Err(_) => Ok(false),
        }
    }

    /// Whether a layer's root directory cuts off the roots below it. Only OCI markers can (L-7).
    pub fn root_is_cut(self, dir: &Dir) -> Result<bool> {
        if !self.oci {
            return Ok(false);
        }
        Ok(is_marker(dir.find(&NameBuf::new(OCI_OPAQUE)?)?))
    }

    /// Every name the layer has an opinion on, in no particular order.
    pub fn list(self, dir: &Dir) -> Result<Vec<Listed>> {
        let xwhiteouts = match marks::opaque(dir.this(), self.prefix) {
            Ok(opaque) => opaque == Opaque::Xwhiteouts,
            Err(Errno::EACCES | Errno::EPERM) => false,
            Err(e) => return Err(e),
        };
        let mut listed = Vec::new();
        for raw in dir.entries()? {
            if self.oci && raw.name.as_bytes().starts_with(OCI_PREFIX) {
                if let Some(victim) = self.oci_victim(dir, &raw)? {
                    listed.push(Listed { name: victim, kind: None, ino: 0 });
                }
                continue;
            }
            if let Some(entry) = self.classify(dir, raw, xwhiteouts)? {
                listed.push(entry);
            }
        }
        Ok(listed)
    }

    /// What a raw entry is; `xwhiteouts` says that empty files may be whiteouts. `None` when it vanished meanwhile.
    pub fn classify(self, dir: &Dir, raw: RawEntry, xwhiteouts: bool) -> Result<Option<Listed>> {
        let known = Kind::of_d_type(raw.d_type);
        let doubtful = match known {
            None | Some(Kind::Char) => true,
            Some(Kind::File) => xwhiteouts || self.overrides,
            Some(_) => false,
        };
        if !doubtful {
            return Ok(Some(Listed { name: raw.name, kind: known, ino: raw.ino }));
        }
        Ok(match self.probe(dir, &raw.name, Below::Nothing)? {
            Probe::Absent => None,
            Probe::Whiteout => Some(Listed { name: raw.name, kind: None, ino: raw.ino }),
            Probe::Entry(found) => {
                Some(Listed { name: raw.name, kind: Some(found.stat.kind()), ino: raw.ino })
            }
        })
    }

    /// The name an OCI marker hides, if it is a valid marker (L-14, L-15).
    fn oci_victim(self, dir: &Dir, raw: &RawEntry) -> Result<Option<NameBuf>> {
        let victim = raw.name.as_bytes().strip_prefix(OCI_PREFIX).unwrap_or_default();
        if victim.starts_with(OCI_PREFIX) || is_aufs_bookkeeping(victim) {
            return Ok(None);
        }
        let Ok(victim) = NameBuf::new(victim) else { return Ok(None) };
        Ok(is_marker(dir.find(&raw.name)?).then_some(victim))
    }
}

/// `.wh..wh.plnk` and its like are bookkeeping, not whiteouts of `.wh.plnk` (L-15).
fn is_aufs_bookkeeping(victim: &[u8]) -> bool {
    victim.starts_with(OCI_PREFIX)
}

/// Only regular files count as OCI markers (L-14).
fn is_marker(stat: Option<Stat>) -> bool {
    stat.is_some_and(|s| s.kind() == Kind::File)
}

#[cfg(test)]
mod tests;
