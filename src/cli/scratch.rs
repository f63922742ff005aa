//! Directories that a server makes for itself: the upper of an `--ephemeral` mount, a work directory nobody named.
//!
//! A server can be killed, so what it leaves must be recognised later by the next one. An ephemeral directory is
//! locked for as long as its server lives; one that can be locked is a dead server's and is removed. It lies in
//! `$TMPDIR` or `/var/tmp`, on a disk, because a tree that is thrown away can still be larger than memory.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::error::SetupError;
use crate::sys::{Dir, Errno, Result as SysResult, SetTime};

/// The upper and work directory of an ephemeral mount. Dropped: removed, unless made to last.
#[derive(Debug)]
pub struct Ephemeral {
    path: PathBuf,
    left: Left,
    _lock: Flock<File>,
}

impl Ephemeral {
    /// Makes one whose upper looks like `top`, the topmost lower layer: the root of the mount is the upper's (L-3).
    /// Removes what dead servers left first.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn create(top: &Path) -> Result<Ephemeral, SetupError> {
        Ephemeral::create_in(&base(), top, Left::Removed)
    }

    /// As [`Ephemeral::create`], for changes that must not be lost: while there are any, nobody removes it who was not
    /// told to.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn create_lasting(top: &Path) -> Result<Ephemeral, SetupError> {
        Ephemeral::create_in(&base(), top, Left::Kept)
    }

    fn create_in(base: &Path, top: &Path, left: Left) -> Result<Ephemeral, SetupError> {
        let failed = |e: &dyn std::fmt::Display| {
            SetupError::new("make a private upper directory in", e)
                .at(base)
                .hint("set TMPDIR to a directory that you may write, or use --upper")
        };
        remove_stale(base);
        let prefix = left.prefix();
        for attempt in 0..100 {
            let path = base.join(format!("{prefix}{}-{attempt}", std::process::id()));
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(failed(&e)),
            }
            // Somebody who just swept may have taken it for a dead server's; then the next name is tried.
            if let Some(lock) = lock(&path) {
                let made = Ephemeral { path, left, _lock: lock };
                made.fill(top).map_err(|e| failed(&e))?;
                return Ok(made);
            }
        }
        Err(failed(&"every name is taken"))
    }

    fn fill(&self, top: &Path) -> std::io::Result<()> {
        for dir in [self.upper(), self.work()] {
            std::fs::DirBuilder::new().mode(0o700).create(dir)?;
        }
        dress_as(top, &self.upper()).map_err(Into::into)
    }

    /// The upper directory.
    pub fn upper(&self) -> PathBuf {
        self.path.join("upper")
    }

    /// The work directory: the one that belongs to an upper of this name when none is named.
    pub fn work(&self) -> PathBuf {
        self.path.join(".upper.work")
    }

    /// Leaves it where it is.
    pub fn keep(mut self) {
        self.left = Left::Always;
    }

    /// Removes it, whatever is in it.
    pub fn discard(mut self) {
        self.left = Left::Removed;
    }
}

/// What becomes of a directory that nobody said anything about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// It is removed; if its process is killed, by the next one.
    Removed,
    /// It stays if there are changes in it.
    Kept,
    /// It stays.
    Always,
}

impl Left {
    fn prefix(self) -> String {
        let word = match self {
            Left::Removed => "ephemeral",
            Left::Kept | Left::Always => "run",
        };
        format!("acetate-{word}-{}-", nix::unistd::geteuid())
    }
}

fn base() -> PathBuf {
    let base = std::env::var_os("TMPDIR").map(PathBuf::from).filter(|dir| dir.is_absolute());
    base.unwrap_or_else(|| PathBuf::from("/var/tmp"))
}

/// Makes the new directory `to` look like `like`: owner, mode, times, attributes.
///
/// # Errors
/// As the calls it takes.
pub fn dress_as(like: &Path, to: &Path) -> SysResult<()> {
    copy_attributes(&Dir::open_path(like)?, &Dir::open_path(to)?)
}

impl Drop for Ephemeral {
    fn drop(&mut self) {
        let empty = || std::fs::read_dir(self.upper()).is_ok_and(|mut entries| entries.next().is_none());
        match self.left {
            Left::Always => {}
            Left::Kept if !empty() => {}
            Left::Kept | Left::Removed => remove_tree(&self.path),
        }
    }
}

/// Owner, attributes and ACLs, mode, times: in this order, since each step can undo the one before.
fn copy_attributes(from: &Dir, to: &Dir) -> SysResult<()> {
    let (from, to) = (from.this(), to.this());
    let stat = from.stat()?;
    // An ordinary user's upper is his own.
    match to.chown(Some(stat.uid), Some(stat.gid)) {
        Ok(()) | Err(Errno::EPERM | Errno::EINVAL) => {}
        Err(errno) => return Err(errno),
    }
    for name in from.listxattr()?.split_inclusive(|b| *b == 0) {
        let Ok(name) = std::ffi::CStr::from_bytes_with_nul(name) else { continue };
        let private =
            [&b"trusted.overlay."[..], b"user.overlay."].iter().any(|p| name.to_bytes().starts_with(p));
        if private {
            continue;
        }
        if let Err(errno) = to.setxattr(name, &from.getxattr(name)?, 0) {
            log::debug!("{name:?} of the top layer is not on the ephemeral upper: {errno}");
        }
    }
    to.chmod(stat.mode & 0o7777)?;
    to.utimens(Some(SetTime::To(stat.atime)), Some(SetTime::To(stat.mtime)))
}

/// A work directory that nobody named and that was not there. Dropped: removed; kept once the mount is live.
#[derive(Debug)]
pub struct MadeWork(Option<PathBuf>);

impl MadeWork {
    /// `path` was made just now.
    pub fn new(path: PathBuf) -> MadeWork {
        MadeWork(Some(path))
    }

    /// It is in use now.
    pub fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for MadeWork {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            remove_tree(path);
        }
    }
}

/// Locks the directory `path`; `None` when it is locked or gone.
fn lock(path: &Path) -> Option<Flock<File>> {
    let file =
        File::options().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path).ok()?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
    let (now, held) = (path.symlink_metadata().ok()?, lock.metadata().ok()?);
    let same = (now.dev(), now.ino()) == (held.dev(), held.ino());
    (same && held.uid() == nix::unistd::geteuid().as_raw()).then_some(lock)
}

/// Removes the ephemeral directories of servers that are dead.
fn remove_stale(base: &Path) {
    let Ok(entries) = std::fs::read_dir(base) else { return };
    let prefix = Left::Removed.prefix();
    for entry in entries.flatten().filter(|entry| entry.file_name().as_bytes().starts_with(prefix.as_bytes()))
    {
        if let Some(_lock) = lock(&entry.path()) {
            remove_tree(&entry.path());
        }
    }
}

/// Removes `path` and everything in it; what cannot be removed stays and is reported.
fn remove_tree(path: &Path) {
    if let Err(errno) = crate::sys::remove_tree(path) {
        log::error!("cannot remove {}: {}", path.display(), errno.desc());
    }
}

/// Says whether `dir` can be reached still; for tests of what a drop leaves.
#[cfg(test)]
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_ephemeral_upper_looks_like_the_top_layer_and_is_gone_after_use() {
        let base = tempfile::tempdir().unwrap();
        let top = base.path().join("top");
        std::fs::create_dir(&top).unwrap();
        std::fs::set_permissions(&top, std::fs::Permissions::from_mode(0o1751)).unwrap();
        let made = Ephemeral::create_in(base.path(), &top, Left::Removed).unwrap();
        let (upper, path) = (made.upper(), made.path.clone());
        assert_eq!(upper.metadata().unwrap().mode() & 0o7777, 0o1751);
        assert_eq!(upper.metadata().unwrap().mtime_nsec(), top.metadata().unwrap().mtime_nsec());
        std::fs::write(upper.join("file"), "x").unwrap();
        drop(made);
        assert!(!is_there(&path));
    }

    #[test]
    fn what_a_killed_server_left_is_removed_and_what_a_live_one_uses_is_not() {
        let base = tempfile::tempdir().unwrap();
        let stale = base.path().join(format!("{}1-0", Left::Removed.prefix()));
        std::fs::create_dir_all(stale.join("upper/dir")).unwrap();
        let live = Ephemeral::create_in(base.path(), base.path(), Left::Removed).unwrap();
        assert!(!is_there(&stale));
        let other = Ephemeral::create_in(base.path(), base.path(), Left::Removed).unwrap();
        assert!(is_there(&live.upper()) && is_there(&other.upper()));
    }

    #[test]
    fn a_work_directory_is_removed_unless_it_is_kept() {
        let base = tempfile::tempdir().unwrap();
        let (gone, kept) = (base.path().join("gone"), base.path().join("kept"));
        std::fs::create_dir_all(gone.join("work/x")).unwrap();
        std::fs::create_dir(&kept).unwrap();
        drop(MadeWork::new(gone.clone()));
        MadeWork::new(kept.clone()).keep();
        assert!(!is_there(&gone) && is_there(&kept));
    }

    #[test]
    fn the_lock_outlives_the_name() {
        let base = tempfile::tempdir().unwrap();
        let made = Ephemeral::create_in(base.path(), base.path(), Left::Removed).unwrap();
        assert!(lock(&made.path).is_none());
        assert!(made._lock.as_fd().try_clone_to_owned().is_ok());
    }
}
