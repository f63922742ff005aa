//! Data of open files, at explicit offsets.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::Result;
use super::at::check;

/// pread(2) until `buf` is full or the file ends; returns the bytes read. Fewer than asked for mean the end of the file
/// and nothing else: the kernel would show zeros for what an error kept back.
pub fn read_at(fd: BorrowedFd<'_>, offset: u64, buf: &mut [u8]) -> Result<usize> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..)
        && !rest.is_empty()
    {
        // SAFETY: `rest` is writable for its length.
        let ret = unsafe {
            libc::pread(fd.as_raw_fd(), rest.as_mut_ptr().cast(), rest.len(), (offset + done as u64) as i64)
        };
        match check(ret as libc::c_long) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Whether a descriptor can be read, and written at any offset: neither write-only nor appending.
pub fn reads_and_writes_anywhere(fd: BorrowedFd<'_>) -> bool {
    use nix::fcntl::{FcntlArg, fcntl};
    fcntl(fd, FcntlArg::F_GETFL)
        .is_ok_and(|flags| flags & libc::O_ACCMODE == libc::O_RDWR && flags & libc::O_APPEND == 0)
}

/// pwrite(2) until all is written; returns the bytes written, short only when an error ended it after some.
pub fn write_at(fd: BorrowedFd<'_>, offset: u64, data: &[u8]) -> Result<usize> {
    let mut done = 0;
    while let Some(rest) = data.get(done..)
        && !rest.is_empty()
    {
        // SAFETY: `rest` is readable for its length.
        let ret = unsafe {
            libc::pwrite(fd.as_raw_fd(), rest.as_ptr().cast(), rest.len(), (offset + done as u64) as i64)
        };
        match check(ret as libc::c_long) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(_) if done > 0 => break,
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// ftruncate(2).
pub fn truncate(fd: BorrowedFd<'_>, size: u64) -> Result<()> {
    let size = i64::try_from(size).map_err(|_| super::Errno::EFBIG)?;
    // SAFETY: plain system call.
    check(unsafe { libc::ftruncate(fd.as_raw_fd(), size) } as libc::c_long).map(drop)
}

/// fsync(2), or fdatasync(2) when only data and size must be durable.
pub fn sync(fd: BorrowedFd<'_>, data_only: bool) -> Result<()> {
    let fd = fd.as_raw_fd();
    // SAFETY: plain system calls.
    check(unsafe { if data_only { libc::fdatasync(fd) } else { libc::fsync(fd) } } as libc::c_long).map(drop)
}

/// Begins to write the data of this file to its disk, and does not wait for it.
pub fn start_writing(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: plain system call.
    check(unsafe { libc::sync_file_range(fd.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) } as libc::c_long)
        .map(drop)
}

/// Whether writing back data of this file failed since it was opened; starts no writing. Errors: EIO, ENOSPC if so.
pub fn writeback_error(fd: BorrowedFd<'_>) -> Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE;
    // SAFETY: plain system call.
    check(unsafe { libc::sync_file_range(fd.as_raw_fd(), 0, 0, flags) } as libc::c_long).map(drop)
}

/// lseek(2) for SEEK_DATA and SEEK_HOLE. Errors: ENXIO beyond the end, and for what is a negative offset.
pub fn seek(fd: BorrowedFd<'_>, offset: u64, whence: i32) -> Result<u64> {
    let offset = i64::try_from(offset).map_err(|_| super::Errno::ENXIO)?;
    // SAFETY: plain system call.
    check(unsafe { libc::lseek(fd.as_raw_fd(), offset, whence) } as libc::c_long).map(|n| n as u64)
}

/// fallocate(2).
pub fn allocate(fd: BorrowedFd<'_>, mode: i32, offset: u64, length: u64) -> Result<()> {
    let big = |n: u64| i64::try_from(n).map_err(|_| super::Errno::EFBIG);
    // SAFETY: plain system call.
    check(unsafe { libc::fallocate(fd.as_raw_fd(), mode, big(offset)?, big(length)?) } as libc::c_long)
        .map(drop)
}

/// copy_file_range(2) at explicit offsets; returns the bytes copied.
pub fn copy_range(from: (BorrowedFd<'_>, u64), to: (BorrowedFd<'_>, u64), length: u64) -> Result<u64> {
    let (mut from_at, mut to_at) = (from.1 as i64, to.1 as i64);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    // SAFETY: both offsets are valid for the duration of the call.
    let ret = unsafe {
        libc::copy_file_range(from.0.as_raw_fd(), &mut from_at, to.0.as_raw_fd(), &mut to_at, length, 0)
    };
    check(ret as libc::c_long).map(|n| n as u64)
}

/// Whether somebody has a file open for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// Nobody, so nobody has a writable mapping of it either.
    None,
    /// Somebody.
    Open,
    /// It cannot be told: not our file, or a file system without leases.
    Unknown,
}

/// Asks whether the file that `fd`, opened for reading, is on is open for writing anywhere: a read lease is granted only
/// if it is not. The lease is given back at once; [`ignore_lease_breaks`] must have been called before.
pub fn writers(fd: BorrowedFd<'_>) -> Writers {
    // SAFETY: plain system calls without pointers.
    let lease = |kind: libc::c_int| unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, kind) };
    match check(lease(libc::F_RDLCK) as libc::c_long) {
        Ok(_) => match check(lease(libc::F_UNLCK) as libc::c_long) {
            Ok(_) => Writers::None,
            Err(_) => Writers::Unknown,
        },
        Err(super::Errno::EAGAIN) => Writers::Open,
        Err(_) => Writers::Unknown,
    }
}

/// Ignores the signal that says that somebody waits for a lease of ours; its default is to end the process.
pub fn ignore_lease_breaks() -> Result<()> {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: ignoring a signal installs no handler of ours.
    unsafe { signal(Signal::SIGIO, SigHandler::SigIgn) }.map(drop)
}

/// Tells the kernel not to read ahead. Advice: refusals do not matter.
pub fn advise_random(fd: BorrowedFd<'_>) {
    // SAFETY: plain system call.
    let refused = unsafe { libc::posix_fadvise(fd.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) };
    if refused != 0 {
        log::debug!("posix_fadvise: {refused}");
    }
}
