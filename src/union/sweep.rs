//! The index directory at mount: entries that lead nowhere any more are taken out before anyone follows them.
//!
//! A crash, or changes to the layers between two mounts, leave entries whose upper object is gone, whose lower object is
//! gone, or that were never finished. What is not understood refuses the mount: another program may rely on it.

use std::os::fd::AsFd;

use super::LayerInfo;
use super::index::{locate, parse_nlink};
use crate::layer::marks::{Mark, Prefix};
use crate::layer::origin;
use crate::sys::{At, Dir, Errno, Kind, Name, Result, Stat, handle};
use crate::upper::Upper;

/// What becomes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    /// It says something that is not so: removed.
    Stale,
    /// Its object has no names left: removed, or with `nfs_export` replaced by a whiteout, which makes handles to it stale
    /// (I-9).
    Orphan,
}

/// What the verdicts depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sweep<'a> {
    pub layers: &'a [LayerInfo],
    pub upper: &'a Upper,
    pub prefix: Prefix,
    pub nfs_export: bool,
}

impl Sweep<'_> {
    /// Sweeps the index of the upper, if it has one. Errors: EINVAL and ENODATA for an entry that is none, and what the
    /// upper's filesystem says.
    pub(super) fn run(&self) -> Result<()> {
        let Some(index) = self.upper.index() else { return Ok(()) };
        for entry in index.entries()? {
            let stat = index.stat(&entry.name)?;
            if entry.name.as_bytes().starts_with(b"#") {
                self.upper.discard(index, &entry.name, stat.kind())?;
                continue;
            }
            match self.verdict(index, &entry.name, &stat)? {
                Verdict::Keep => {}
                Verdict::Orphan if self.nfs_export => {
                    let debris = self.upper.replace_by_whiteout(index, &entry.name, stat.kind())?;
                    self.upper.clean(debris);
                }
                Verdict::Stale | Verdict::Orphan => {
                    log::info!("removing an index entry without an object: {}", entry.name);
                    self.upper.discard(index, &entry.name, stat.kind())?;
                }
            }
        }
        Ok(())
    }

    fn verdict(&self, index: &Dir, name: &Name, stat: &Stat) -> Result<Verdict> {
        let record = origin::of_index_name(name.as_bytes()).ok_or(Errno::EINVAL)?;
        let is_dir = stat.kind() == Kind::Dir;
        // Whether a directory's entry is stale matters only to handles.
        if stat.is_whiteout_device() || (is_dir && !self.nfs_export) {
            return Ok(Verdict::Keep);
        }
        let directory;
        let object = if is_dir {
            let Some(value) = index.at(name).find_xattr(self.prefix.attr(Mark::Upper))? else {
                return Ok(Verdict::Stale);
            };
            let Some(upper) = origin::decode(&value) else { return Ok(Verdict::Stale) };
            let root = self.upper.root().open_readable()?;
            match handle::open(root.as_fd(), &upper.handle) {
                Ok(found) => directory = found,
                Err(Errno::ESTALE) => return Ok(Verdict::Orphan),
                Err(e) => return Err(e),
            }
            At::Fd(directory.as_fd())
        } else {
            index.at(name)
        };
        let from = object.find_xattr(self.prefix.attr(Mark::Origin))?.ok_or(Errno::ENODATA)?;
        if from != record {
            return Ok(Verdict::Stale);
        }
        if is_dir || stat.nlink > 1 {
            return Ok(Verdict::Keep);
        }
        let Some(decoded) = origin::decode(&record) else { return Ok(Verdict::Stale) };
        let Some((_, lower)) = locate(self.layers, &decoded)? else { return Ok(Verdict::Stale) };
        let links = object.find_xattr(self.prefix.attr(Mark::Nlink))?;
        let left = links.and_then(|value| parse_nlink(&value, stat.nlink, lower.nlink));
        Ok(if left.is_none() { Verdict::Orphan } else { Verdict::Keep })
    }
}
