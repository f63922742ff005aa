//! The locks by which two daemons never share an upper or a work directory (O-3).
//!
//! They are flocks on the directories themselves, so no file appears in them that another program would find strange, and
//! they end with the daemon however that ends. Anybody may flock a directory for reasons of his own; that it belongs to a
//! mount is said by a second lock, a read lock on a byte that no directory has.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::at::{At, check};
use super::{Errno, Result};

/// Locks an open directory or file, shared, until every copy of the descriptor is closed, in whatever process. Waits for
/// whoever has it alone. Errors: as flock(2).
pub fn share(fd: BorrowedFd<'_>) -> Result<()> {
    loop {
        // SAFETY: plain system call.
        match check(unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_SH) } as libc::c_long) {
            Err(Errno::EINTR) => {}
            done => return done.map(drop),
        }
    }
}

/// Held for the life of the mount.
#[derive(Debug)]
pub struct WorkLock {
    dir: OwnedFd,
}

/// Why the lock could not be had.
#[derive(Debug)]
pub enum Held {
    /// Another process has it; its pid where that can be told.
    By(Option<i32>),
    /// The lock could not be tried.
    Error(Errno),
}

impl WorkLock {
    /// Takes the lock on a directory, without waiting.
    pub fn try_take(dir: BorrowedFd<'_>) -> std::result::Result<WorkLock, Held> {
        let fd = At::Fd(dir).open(libc::O_RDONLY | libc::O_DIRECTORY).map_err(Held::Error)?;
        // SAFETY: plain system call.
        match check(unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } as libc::c_long) {
            Ok(_) => Ok(WorkLock { dir: fd }),
            Err(Errno::EWOULDBLOCK) => Err(Held::By(holder(At::Fd(dir)).unwrap_or(None))),
            Err(e) => Err(Held::Error(e)),
        }
    }

    /// Says to [`is_unclaimed`] that the directory is the upper or the work directory of a live mount. Errors: as fcntl(2),
    /// where the filesystem has no such locks.
    pub fn claim(&self) -> Result<()> {
        let wanted = claim(libc::F_RDLCK);
        // SAFETY: an open descriptor and a complete lock description.
        check(unsafe { libc::fcntl(self.dir.as_raw_fd(), libc::F_OFD_SETLK, &raw const wanted) }
            as libc::c_long)
        .map(drop)
    }
}

/// The byte whose lock says that a directory is the upper or the work directory of a live mount.
const CLAIM: libc::off_t = 0x0061_6365_7461_7465;

fn claim(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: CLAIM,
        l_len: 1,
        l_pid: 0,
    }
}

/// Says which mount has a directory as its upper or work directory, if one has. Locks nothing.
pub fn is_unclaimed(dir: BorrowedFd<'_>) -> std::result::Result<(), Held> {
    let fd = At::Fd(dir).open(libc::O_RDONLY | libc::O_DIRECTORY).map_err(Held::Error)?;
    let mut found = claim(libc::F_WRLCK);
    // SAFETY: an open descriptor and a lock description that the call may change.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_GETLK, &raw mut found) } as libc::c_long)
        .map_err(Held::Error)?;
    if i32::from(found.l_type) == libc::F_UNLCK {
        return Ok(());
    }
    Err(Held::By(holder(At::Fd(dir)).unwrap_or(None)))
}

/// The pid that /proc/locks names for an flock on the object.
fn holder(at: At<'_>) -> Result<Option<i32>> {
    let stat = at.stat()?;
    let (major, minor) = (libc::major(stat.dev), libc::minor(stat.dev));
    let wanted = format!("{major:02x}:{minor:02x}:{}", stat.ino);
    let locks = std::fs::read_to_string("/proc/locks").map_err(super::errno_of)?;
    Ok(locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_ours = words.contains(&"FLOCK") && words.contains(&wanted.as_str());
        is_ours.then(|| words.get(4).and_then(|pid| pid.parse().ok())).flatten()
    }))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::Dir;

    #[test]
    fn the_second_one_is_told_who_has_the_lock() {
        let t = tempfile::tempdir().unwrap();
        let dir = Dir::open_path(t.path()).unwrap();
        let first = WorkLock::try_take(dir.as_fd()).unwrap();
        match WorkLock::try_take(dir.as_fd()) {
            Err(Held::By(pid)) => assert_eq!(pid, Some(std::process::id() as i32)),
            other => panic!("{other:?}"),
        }
        assert!(is_unclaimed(dir.as_fd()).is_ok(), "locked is not claimed");
        first.claim().unwrap();
        assert!(matches!(is_unclaimed(dir.as_fd()), Err(Held::By(Some(_)))));
        drop(first);
        assert!(is_unclaimed(dir.as_fd()).is_ok());
        assert!(WorkLock::try_take(dir.as_fd()).is_ok());
    }
}
