//! Repairing: marks alone, and the times of directories stay what they were.

use std::path::Path;

use super::{Finding, Place, Repair};
use crate::sys::{Dir, Errno, Kind, NameBuf, Result, SetTime};

/// Repairs one finding. False when it has no safe repair.
///
/// # Errors
/// What the file system says.
pub fn apply(upper: &Path, finding: &Finding) -> Result<bool> {
    let Some(repair) = &finding.repair else { return Ok(false) };
    match (&finding.place, repair) {
        (Place::Work(path), Repair::RemoveLeftover) => remove_leftover(path)?,
        (Place::Upper(path), repair) => {
            let root = Dir::open_path(upper)?;
            match path.split_last() {
                None => attribute(root.this(), repair)?,
                Some((name, parents)) => {
                    let mut dir = root;
                    for parent in parents {
                        dir = dir.open_dir(parent)?;
                    }
                    match repair {
                        Repair::RemoveWhiteout => remove_whiteout(&dir, name)?,
                        repair => attribute(dir.at(name), repair)?,
                    }
                }
            }
        }
        (Place::Work(_), _) => return Ok(false),
    }
    Ok(true)
}

fn attribute(at: crate::sys::At<'_>, repair: &Repair) -> Result<()> {
    match repair {
        Repair::RemoveAttr(attr) => at.removexattr(attr),
        Repair::SetAttr(attr, value) => at.setxattr(attr, value, 0),
        Repair::RemoveWhiteout | Repair::RemoveLeftover => Err(Errno::EINVAL),
    }
}

fn remove_whiteout(dir: &Dir, name: &NameBuf) -> Result<()> {
    let stat = dir.stat(name)?;
    // Looked at once more: nothing that could be data is ever removed.
    if !(stat.is_whiteout_device() || stat.kind() == Kind::File && stat.size == 0) {
        return Err(Errno::ESTALE);
    }
    let times = dir.this().stat()?;
    dir.unlink(name)?;
    dir.this().utimens(Some(SetTime::To(times.atime)), Some(SetTime::To(times.mtime)))
}

fn remove_leftover(path: &Path) -> Result<()> {
    let metadata = std::fs::symlink_metadata(path).map_err(crate::sys::errno_of)?;
    let removed = if metadata.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    removed.map_err(crate::sys::errno_of)
}
