//! An object under construction: invisible until one system call publishes it, removed when dropped before that.

use std::os::fd::{AsFd, OwnedFd};

use super::{Debris, Upper};
use crate::sys::{At, Dir, Errno, Kind, Name, NameBuf, RenameFlag, Result};

/// See the module text.
#[must_use]
#[derive(Debug)]
pub struct Staged<'u> {
    upper: &'u Upper,
    state: State,
    kind: Kind,
}

#[derive(Debug)]
enum State {
    /// An O_TMPFILE; vanishes with its descriptor.
    Unnamed(OwnedFd),
    /// An entry of the work directory.
    Named(NameBuf),
    /// Published or disowned.
    Gone,
}

impl<'u> Staged<'u> {
    pub(super) fn unnamed(upper: &'u Upper, fd: OwnedFd) -> Staged<'u> {
        Staged { upper, state: State::Unnamed(fd), kind: Kind::File }
    }

    pub(super) fn named(upper: &'u Upper, name: NameBuf, kind: Kind) -> Staged<'u> {
        Staged { upper, state: State::Named(name), kind }
    }

    /// The object, for building it.
    pub fn at(&self) -> At<'_> {
        match &self.state {
            State::Unnamed(fd) => At::Fd(fd.as_fd()),
            State::Named(name) => self.upper.work.at(name),
            // Publishing consumes the value, so nobody can hold one in this state; any descriptor will do.
            State::Gone => self.upper.work.this(),
        }
    }

    /// Makes it visible as a new entry. Errors: EEXIST when the name is taken, also by a whiteout.
    pub fn publish_new(mut self, dir: &Dir, name: &Name) -> Result<()> {
        match &self.state {
            State::Unnamed(fd) => dir.link(At::Fd(fd.as_fd()), name)?,
            State::Named(temp) => match self.upper.work.rename(temp, dir, name, RenameFlag::NoReplace) {
                // A filesystem without RENAME_NOREPLACE; the caller's locks keep the name free.
                Err(Errno::EINVAL) if dir.find(name)?.is_none() => {
                    self.upper.work.rename(temp, dir, name, RenameFlag::Replace)?;
                }
                done => done?,
            },
            State::Gone => return Err(Errno::EIO),
        }
        self.state = State::Gone;
        Ok(())
    }

    /// Makes it visible in place of a non-directory (D-4).
    pub fn publish_over(mut self, dir: &Dir, name: &Name) -> Result<()> {
        self.give_name()?;
        if let State::Named(temp) = &self.state {
            self.upper.work.rename(temp, dir, name, RenameFlag::Replace)?;
        }
        self.state = State::Gone;
        Ok(())
    }

    /// Makes it visible in place of something it cannot be renamed over; what was there (of kind `old`) becomes
    /// debris.
    pub fn publish_exchange(mut self, dir: &Dir, name: &Name, old: Kind) -> Result<Debris> {
        self.give_name()?;
        let State::Named(temp) = std::mem::replace(&mut self.state, State::Gone) else {
            return Err(Errno::EIO);
        };
        match self.upper.work.rename(&temp, dir, name, RenameFlag::Exchange) {
            Ok(()) => Ok(Debris(Some((temp, old)))),
            Err(e) => {
                self.state = State::Named(temp);
                Err(e)
            }
        }
    }

    /// Keeps it without a name: the descriptor of an orphan. Errors: EIO for anything but an unnamed file.
    pub fn into_orphan(mut self) -> Result<OwnedFd> {
        self.forget_name()?;
        match std::mem::replace(&mut self.state, State::Gone) {
            State::Unnamed(fd) => Ok(fd),
            State::Named(_) | State::Gone => Err(Errno::EIO),
        }
    }

    fn give_name(&mut self) -> Result<()> {
        if let State::Unnamed(fd) = &self.state {
            let (name, ()) = self.upper.with_temp_name(|n| self.upper.work.link(At::Fd(fd.as_fd()), n))?;
            self.state = State::Named(name);
        }
        Ok(())
    }

    fn forget_name(&mut self) -> Result<()> {
        if let State::Named(name) = &self.state {
            let fd = self.upper.work.at(name).pin()?;
            self.upper.work.unlink(name)?;
            self.state = State::Unnamed(fd);
        }
        Ok(())
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if let State::Named(name) = std::mem::replace(&mut self.state, State::Gone) {
            self.upper.clean(Debris(Some((name, self.kind))));
        }
    }
}
