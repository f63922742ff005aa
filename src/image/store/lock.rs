//! Locks on what is in the store, and on what is about to be.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::super::digest::Digest;
use super::{Store, open_dir};
use crate::error::SetupError;
use crate::sys::lock::share;

/// Keeps a layer or an image from being removed, for as long as this is there, here or in a process that was made with
/// it: nobody unlocks it, the last one closes it.
#[derive(Debug)]
pub struct Held {
    _dir: File,
}

/// Whether `path` still is what `file` is.
fn is_still(path: &Path, file: &File) -> bool {
    let same = |a: std::fs::Metadata, b: std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    match (path.symlink_metadata(), file.metadata()) {
        (Ok(now), Ok(held)) => same(now, held),
        _ => false,
    }
}

/// Locks the directory `path`, shared: it stays. `None`: it is not there (any more).
///
/// # Errors
/// As open(2) and flock(2).
pub fn hold(path: &Path) -> std::io::Result<Option<Held>> {
    let dir = match open_dir(path) {
        Ok(dir) => dir,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    share(dir.as_fd())?;
    Ok(is_still(path, &dir).then_some(Held { _dir: dir }))
}

/// Locks the directory `path` alone, to remove it. `None`: somebody uses it, or it is gone.
///
/// # Errors
/// As open(2) and flock(2).
pub fn take(path: &Path) -> std::io::Result<Option<Flock<File>>> {
    let dir = match open_dir(path) {
        Ok(dir) => dir,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(is_still(path, &lock).then_some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

/// The right to make a layer. Dropped: given up.
#[derive(Debug)]
pub struct Making {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Drop for Making {
    fn drop(&mut self) {
        // Removed while it is locked: who waits for it sees that it is gone and takes the next.
        if let Err(e) = std::fs::remove_file(&self.path) {
            log::debug!("{}: {e}", self.path.display());
        }
    }
}

impl Store {
    /// Waits for the right to make each of these layers. Always taken in the order of the digests, so two imports
    /// never wait for each other. `waiting` is told before waiting.
    ///
    /// # Errors
    /// As open(2) and flock(2).
    pub fn make_layers(
        &self,
        mut layers: Vec<Digest>,
        waiting: &dyn Fn(),
    ) -> Result<Vec<Making>, SetupError> {
        layers.sort();
        layers.dedup();
        layers.iter().map(|layer| self.make_layer(layer, waiting)).collect()
    }

    fn make_layer(&self, layer: &Digest, waiting: &dyn Fn()) -> Result<Making, SetupError> {
        let path = self.dir("locks").join(layer.hex());
        let failed = |e: std::io::Error| SetupError::new("lock a layer of the store", e).at(&path);
        let open = || File::options().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut told = false;
        loop {
            let lock = match Flock::lock(open().map_err(failed)?, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
                    if !std::mem::replace(&mut told, true) {
                        waiting();
                    }
                    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| failed(errno.into()))?
                }
                Err((_, errno)) => return Err(failed(errno.into())),
            };
            if is_still(&path, &lock) {
                return Ok(Making { path, _lock: lock });
            }
        }
    }
}
