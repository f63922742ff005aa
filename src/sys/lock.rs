//! The lock by which two daemons never share an upper (O-3).
//!
//! It is an flock on the work directory itself, so no file appears in it that another program would find strange, and
//! it ends with the daemon however that ends.

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
    _dir: OwnedFd,
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
            Ok(_) => Ok(WorkLock { _dir: fd }),
            Err(Errno::EWOULDBLOCK) => Err(Held::By(holder(At::Fd(dir)).unwrap_or(None))),
            Err(e) => Err(Held::Error(e)),
        }
    }
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
        drop(first);
        assert!(WorkLock::try_take(dir.as_fd()).is_ok());
    }
}
