//! Copies of a file that nobody else can change.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::sys::{At, Dir, Errno, Result, Stat};

/// A file without a name in `dir`, or where temporary files are if there can be none.
pub(super) fn unnamed(dir: &Path) -> Result<OwnedFd> {
    let in_dir = Dir::open_path(dir).and_then(|d| d.tmpfile(0o600));
    match in_dir {
        Err(Errno::EOPNOTSUPP | Errno::EACCES | Errno::EPERM | Errno::EROFS | Errno::ENOENT) => {
            tempfile::tempfile().map(OwnedFd::from).map_err(crate::sys::errno_of)
        }
        done => done,
    }
}

/// A copy that shares the blocks of `file`, and what the metadata of the file was then, with the size of the copy.
/// `None` where no blocks can be shared.
pub(super) fn shared(file: BorrowedFd<'_>, beside: &Path) -> Result<Option<(OwnedFd, Stat)>> {
    let Ok(copy) = Dir::open_path(beside).and_then(|d| d.tmpfile(0o600)) else { return Ok(None) };
    if !crate::sys::copy::reflink(file, copy.as_fd()) {
        return Ok(None);
    }
    let size = At::Fd(copy.as_fd()).stat()?.size;
    let stat = At::Fd(file).stat()?;
    Ok(Some((copy, Stat { size, ..stat })))
}
