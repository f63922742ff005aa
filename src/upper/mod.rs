//! Changing the writable layer.
//!
//! Every change of the tree becomes visible by one rename, link, mknod or unlink on a fully built object; until then
//! the object is a [`Staged`], garbage that a crash leaves in the work directory and the next mount sweeps (C-14,
//! C-15). Nothing here looks at the layers below.

mod stage;
mod workdir;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use stage::Staged;
pub use workdir::{OpenUpper, open, open_frozen, remove_tree};

use crate::layer::Reader;
use crate::layer::marks::{self, Mark, Opaque};
use crate::sys::{At, Dev, Dir, Errno, Kind, Name, NameBuf, RenameFlag, Result};

/// What the upper's filesystem can do; probed once at mount.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// O_TMPFILE.
    pub tmpfile: bool,
    /// RENAME_WHITEOUT.
    pub rename_whiteout: bool,
    /// Character devices with number 0:0. Another overlay refuses them, since they are its own whiteouts.
    pub device_whiteouts: bool,
    /// Attributes of the private prefix can be set.
    pub xattr: bool,
}

/// A name of an upper directory that no object has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// There is no entry.
    Free,
    /// There is a whiteout, of either form.
    Whiteout,
}

/// The writable layer with its scratch directory.
#[derive(Debug)]
pub struct Upper {
    root: Arc<Dir>,
    work: Dir,
    index: Option<Arc<Dir>>,
    reader: Reader,
    features: Features,
    sync: bool,
    /// A whiteout in `work` that new ones are hard links of (L-18). Leaf lock.
    spare: Mutex<Option<NameBuf>>,
    next_temp: AtomicU64,
    /// Cleared when the filesystem refuses to link whiteouts.
    link_whiteouts: AtomicBool,
    _held: Option<([crate::sys::WorkLock; 2], Option<OwnedFd>)>,
}

/// What is left of a removed directory: to be deleted after the namespace locks are released.
#[must_use]
#[derive(Debug)]
pub struct Debris(Option<(NameBuf, Kind)>);

impl Debris {
    /// Nothing is left.
    pub fn none() -> Debris {
        Debris(None)
    }
}

impl Upper {
    /// The layer's root.
    pub fn root(&self) -> &Arc<Dir> {
        &self.root
    }

    /// The index directory, with `index=on`.
    pub fn index(&self) -> Option<&Arc<Dir>> {
        self.index.as_ref()
    }

    /// How its marks are spelled.
    pub fn reader(&self) -> Reader {
        self.reader
    }

    /// What its filesystem can do.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Whether copied-up data is synced before it is published (C-16).
    pub fn syncs(&self) -> bool {
        self.sync
    }

    /// A name in the work directory that nobody else uses now.
    fn temp_name(&self) -> Result<NameBuf> {
        NameBuf::new(format!("#{:x}", self.next_temp.fetch_add(1, Ordering::Relaxed)).as_bytes())
    }

    /// Runs `make` with fresh names until one is free.
    fn with_temp_name<T>(&self, mut make: impl FnMut(&Name) -> Result<T>) -> Result<(NameBuf, T)> {
        loop {
            let name = self.temp_name()?;
            match make(&name) {
                Err(Errno::EEXIST) => {}
                Err(e) => return Err(e),
                Ok(made) => return Ok((name, made)),
            }
        }
    }

    /// Sets a private mark. Errors: EOPNOTSUPP where attributes cannot be set.
    pub fn mark(&self, at: At<'_>, mark: Mark, value: &[u8]) -> Result<()> {
        at.setxattr(self.reader.prefix.attr(mark), value, 0)
    }

    /// Sets a private mark that only an optimisation or a later mount depends on: kinds and filesystems that cannot
    /// carry it are left without (C-13).
    pub fn mark_if_possible(&self, at: At<'_>, mark: Mark, value: &[u8]) -> Result<()> {
        match self.mark(at, mark, value) {
            Err(Errno::EOPNOTSUPP | Errno::EPERM) => Ok(()),
            done => done,
        }
    }

    /// Puts a whiteout where `dir` has no entry `name` (D-1). One system call publishes it. Errors: EEXIST.
    pub fn whiteout(&self, dir: &Dir, name: &Name) -> Result<()> {
        if !self.features.device_whiteouts {
            self.expect_whiteouts(dir)?;
            return self.stage_attribute_whiteout()?.publish_new(dir, name);
        }
        if self.link_whiteouts.load(Ordering::Relaxed) {
            match self.link_spare(dir, name) {
                Ok(()) => return Ok(()),
                Err(Errno::EMLINK) => self.drop_spare(),
                Err(e @ (Errno::EEXIST | Errno::ENOSPC | Errno::EDQUOT | Errno::EIO | Errno::EROFS)) => {
                    return Err(e);
                }
                Err(_) => self.link_whiteouts.store(false, Ordering::Relaxed),
            }
        }
        dir.mknod(name, libc::S_IFCHR, Dev::default())
    }

    /// Says that empty files in `dir` may be whiteouts (form B, L-10), before the first one is there.
    pub fn expect_whiteouts(&self, dir: &Dir) -> Result<()> {
        if self.features.device_whiteouts || marks::opaque(dir.this(), self.reader.prefix)? != Opaque::No {
            return Ok(());
        }
        self.mark(dir.this(), Mark::Opaque, b"x")
    }

    /// A whiteout of form B: an empty file with an attribute.
    fn stage_attribute_whiteout(&self) -> Result<Staged<'_>> {
        let (name, _) = self.with_temp_name(|n| self.work.create(n, libc::O_WRONLY, 0o600))?;
        let staged = Staged::named(self, name, Kind::File);
        self.mark(staged.at(), Mark::Whiteout, b"y")?;
        Ok(staged)
    }

    fn link_spare(&self, dir: &Dir, name: &Name) -> Result<()> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let source = match &*spare {
            Some(source) => source.clone(),
            None => {
                let (made, ()) =
                    self.with_temp_name(|n| self.work.mknod(n, libc::S_IFCHR, Dev::default()))?;
                spare.insert(made).clone()
            }
        };
        dir.link(self.work.at(&source), name)
    }

    /// Gives up the spare whiteout; it has as many links as its filesystem allows.
    fn drop_spare(&self) {
        let gone = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(name) = gone
            && let Err(e) = self.work.unlink(&name)
        {
            log::warn!("cannot remove the spare whiteout {name} from the work directory: {e}");
        }
    }

    /// A whiteout in the work directory, to be renamed over something.
    fn staged_whiteout(&self) -> Result<Staged<'_>> {
        if !self.features.device_whiteouts {
            return self.stage_attribute_whiteout();
        }
        let (name, ()) = self.with_temp_name(|n| self.whiteout(&self.work, n))?;
        Ok(Staged::named(self, name, Kind::Char))
    }

    /// Replaces the entry `name` of `dir` by a whiteout, atomically (D-2).
    pub fn replace_by_whiteout(&self, dir: &Dir, name: &Name, kind: Kind) -> Result<Debris> {
        self.expect_whiteouts(dir)?;
        let whiteout = self.staged_whiteout()?;
        if kind != Kind::Dir {
            whiteout.publish_over(dir, name)?;
            return Ok(Debris(None));
        }
        whiteout.publish_exchange(dir, name, Kind::Dir)
    }

    /// Removes the entry `name` of `dir`, leaving nothing. A directory may still hold whiteouts.
    pub fn remove(&self, dir: &Dir, name: &Name, kind: Kind) -> Result<Debris> {
        if kind != Kind::Dir {
            dir.unlink(name)?;
            return Ok(Debris(None));
        }
        match dir.rmdir(name) {
            Ok(()) => Ok(Debris(None)),
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
                let (temp, ()) =
                    self.with_temp_name(|n| dir.rename(name, &self.work, n, RenameFlag::NoReplace))?;
                Ok(Debris(Some((temp, Kind::Dir))))
            }
            Err(e) => Err(e),
        }
    }

    /// Moves the entry `name` of `dir` onto `to_name` of `to`, replacing a directory there that holds only
    /// whiteouts: that one is exchanged for an empty one first (D-12).
    pub fn empty_of_whiteouts(&self, dir: &Dir, name: &Name) -> Result<Debris> {
        let stat = dir.stat(name)?;
        let fresh = self.stage_dir()?;
        self.mark(fresh.at(), Mark::Opaque, b"y")?;
        fresh.at().chown(Some(stat.uid), Some(stat.gid))?;
        copy_visible_xattrs(dir.at(name), fresh.at())?;
        fresh.at().chmod(stat.mode)?;
        fresh.publish_exchange(dir, name, Kind::Dir)
    }

    /// Deletes an entry of `dir` that nobody looks at, with all beneath it.
    pub fn discard(&self, dir: &Dir, name: &Name, kind: Kind) -> Result<()> {
        match kind {
            Kind::Dir => workdir::remove_tree(dir, name),
            _ => dir.unlink(name),
        }
    }

    /// Deletes what a removal left in the work directory. A failure is only litter, swept at the next mount.
    pub fn clean(&self, debris: Debris) {
        let Some((name, kind)) = debris.0 else { return };
        let done = match kind {
            Kind::Dir => workdir::remove_tree(&self.work, &name),
            _ => self.work.unlink(&name),
        };
        if let Err(e) = done {
            log::warn!("cannot remove {name} from the work directory: {e}; the next mount will");
        }
    }

    /// An unnamed or hidden regular file of mode 0600.
    pub fn stage_file(&self) -> Result<(Staged<'_>, OwnedFd)> {
        if self.features.tmpfile {
            match self.work.tmpfile(0o600) {
                Ok(fd) => {
                    let second = fd.as_fd().try_clone_to_owned().map_err(crate::sys::errno_of)?;
                    return Ok((Staged::unnamed(self, second), fd));
                }
                Err(Errno::EOPNOTSUPP) => {}
                Err(e) => return Err(e),
            }
        }
        let (name, fd) = self.with_temp_name(|n| self.work.create(n, libc::O_RDWR, 0o600))?;
        Ok((Staged::named(self, name, Kind::File), fd))
    }

    /// A hidden directory of mode 0700.
    pub fn stage_dir(&self) -> Result<Staged<'_>> {
        let (name, ()) = self.with_temp_name(|n| self.work.mkdir(n, 0o700))?;
        Ok(Staged::named(self, name, Kind::Dir))
    }

    /// A hidden symlink.
    pub fn stage_symlink(&self, target: &std::ffi::CStr) -> Result<Staged<'_>> {
        let (name, ()) = self.with_temp_name(|n| self.work.symlink(n, target))?;
        Ok(Staged::named(self, name, Kind::Symlink))
    }

    /// A hidden device, FIFO or socket of mode 0600.
    pub fn stage_node(&self, kind: Kind, rdev: Dev) -> Result<Staged<'_>> {
        let (name, ()) = self.with_temp_name(|n| self.work.mknod(n, kind.mode_bits() | 0o600, rdev))?;
        Ok(Staged::named(self, name, kind))
    }

    /// A hidden further name of an existing object.
    pub fn stage_link(&self, object: At<'_>, kind: Kind) -> Result<Staged<'_>> {
        let (name, ()) = self.with_temp_name(|n| self.work.link(object, n))?;
        Ok(Staged::named(self, name, kind))
    }

    /// What `dir` has at `name` that an object may be put in place of; `None`: an object is there.
    pub fn slot(&self, dir: &Dir, name: &Name) -> Result<Option<Slot>> {
        Ok(match dir.find(name)? {
            None => Some(Slot::Free),
            Some(stat) if stat.is_whiteout_device() => Some(Slot::Whiteout),
            Some(stat) if stat.kind() == Kind::File && stat.size == 0 => {
                let marks = marks::present(dir.at(name), self.reader.prefix)?;
                marks.has(Mark::Whiteout).then_some(Slot::Whiteout)
            }
            Some(_) => None,
        })
    }
}

/// Copies every attribute but private ones from one object to another; for objects of the upper itself.
fn copy_visible_xattrs(from: At<'_>, to: At<'_>) -> Result<()> {
    for name in from.listxattr()?.split(|&b| b == 0).filter(|n| !n.is_empty()) {
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        let name = std::ffi::CString::new(name).map_err(|_| Errno::EIO)?;
        if let Some(value) = from.find_xattr(&name)? {
            to.setxattr(&name, &value, 0)?;
        }
    }
    Ok(())
}
