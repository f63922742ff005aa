//! Making things where nobody sees them.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;

use super::super::digest::Digest;
use super::{Held, Store, lock};
use crate::error::SetupError;
use crate::sys::{Dir, remove_tree};

/// A directory of this process alone. Dropped: removed, with all that was not published.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Drop for Staging {
    fn drop(&mut self) {
        discard(&self.path);
    }
}

/// Removes something nobody needs; if that fails, whoever stages next tries again.
pub fn discard(path: &Path) {
    if let Err(errno) = remove_tree(path) {
        log::warn!("{} cannot be removed now: {}", path.display(), errno.desc());
    }
}

/// Writes a file and brings it to the disk.
pub fn write_durably(path: &Path, data: &[u8]) -> std::io::Result<()> {
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(data)?;
    file.sync_all()
}

/// Brings the names in a directory to the disk.
pub fn sync_dir(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

impl Store {
    /// A new place to make things. What dead processes left in theirs is removed first.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn stage(&self) -> Result<Staging, SetupError> {
        self.sweep();
        let staging = self.dir("staging");
        let failed = |e: std::io::Error| SetupError::new("make a directory in", e).at(&staging);
        let pid = std::process::id();
        for attempt in 0..1000 {
            let path = staging.join(format!("{pid}-{attempt}"));
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(failed(e)),
            }
            // Somebody who sweeps just now may have taken it for a dead process's: then the next name is tried.
            if let Some(lock) = lock::take(&path).map_err(failed)? {
                return Ok(Staging { path, _lock: lock });
            }
        }
        Err(failed(std::io::Error::other("every name is taken")))
    }

    /// Removes what dead processes left: staged things, and locks that nobody holds.
    pub fn sweep(&self) {
        let each = |name: &str| std::fs::read_dir(self.dir(name)).into_iter().flatten().flatten();
        for entry in each("staging") {
            match lock::take(&entry.path()) {
                Ok(Some(_lock)) => discard(&entry.path()),
                Ok(None) => {}
                Err(e) => log::warn!("{}: {e}", entry.path().display()),
            }
        }
        for entry in each("locks") {
            let file = File::options().write(true).open(entry.path());
            let lock = file.map(|file| Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock));
            if let Ok(Ok(_lock)) = lock
                && let Err(e) = std::fs::remove_file(entry.path())
            {
                log::debug!("{}: {e}", entry.path().display());
            }
        }
    }

    /// Brings the names in one of the store's directories to the disk.
    ///
    /// # Errors
    /// As fsync(2).
    pub fn sync_names(&self, directory: &str) -> std::io::Result<()> {
        sync_dir(&self.dir(directory))
    }

    /// Brings everything staged to the disk.
    ///
    /// # Errors
    /// As syncfs(2): also when a write failed long ago.
    pub fn sync(&self) -> Result<(), SetupError> {
        Dir::open_path(&self.root)
            .and_then(|dir| dir.syncfs())
            .map_err(|errno| SetupError::new("bring the layers to the disk of", errno.desc()).at(&self.root))
    }
}

impl Staging {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The place of a layer that is being made.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn layer(&self, layer: &Digest) -> std::io::Result<PathBuf> {
        let path = self.path.join(layer.hex());
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700).create(&path)?;
        builder.create(path.join("tree"))?;
        Ok(path)
    }

    /// Gives what was staged at `from` its place `to`, and holds it there. What is there already stays, if something
    /// is; it is held then.
    ///
    /// # Errors
    /// As rename(2).
    pub fn publish(&self, from: &Path, to: &Path) -> std::io::Result<Held> {
        loop {
            if let Some(held) = lock::hold(to)? {
                return Ok(held);
            }
            let held = lock::hold(from)?.ok_or_else(|| std::io::Error::other("what was staged is gone"))?;
            match std::fs::rename(from, to) {
                Ok(()) => return Ok(held),
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTEMPTY | libc::EEXIST)) => {}
                Err(e) => return Err(e),
            }
        }
    }
}
