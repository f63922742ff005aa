//! The device `/dev/fuse` beyond read and write: its ioctls, and receiving it from the mount helper.

use std::ffi::c_ulong;
use std::fs::OpenOptions;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use super::{Errno, Result};

/// The device everyone opens to speak FUSE.
pub const FUSE_DEVICE: &str = "/dev/fuse";

/// Argument of BACKING_OPEN.
#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

const FUSE_MAGIC: u8 = 229;

#[allow(missing_docs)]
mod raw {
    use super::{BackingMap, FUSE_MAGIC};

    nix::ioctl_read!(clone, FUSE_MAGIC, 0, u32);
    nix::ioctl_write_ptr!(backing_open, FUSE_MAGIC, 1, BackingMap);
    nix::ioctl_write_ptr!(backing_close, FUSE_MAGIC, 2, u32);
}

/// Opens the device, on a descriptor above 2. Errors: ENOENT, ENODEV (no FUSE in this kernel), EACCES, EPERM.
pub fn open_fuse_device() -> Result<OwnedFd> {
    let file = OpenOptions::new().read(true).write(true).open(FUSE_DEVICE).map_err(Errno::from_io)?;
    above_stdio(file.into())
}

/// A second descriptor for the connection of `fd`, with a queue of sent requests of its own.
pub fn clone_fuse_device(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    let fresh = open_fuse_device()?;
    let mut source = u32::try_from(fd.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    // SAFETY: `fresh` is open, and the kernel reads one u32 at the address given.
    unsafe { raw::clone(fresh.as_raw_fd(), &raw mut source) }?;
    Ok(fresh)
}

/// Registers `file` as a backing file of the connection; the number is at least 1.
pub fn open_backing(connection: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<u32> {
    let map = BackingMap { fd: file.as_raw_fd(), flags: 0, padding: 0 };
    // SAFETY: both descriptors are open, and the kernel reads one `BackingMap` at the address given.
    let id = unsafe { raw::backing_open(connection.as_raw_fd(), &raw const map) }?;
    u32::try_from(id).map_err(|_| Errno::EINVAL)
}

/// Gives a backing file back.
pub fn close_backing(connection: BorrowedFd<'_>, id: u32) -> Result<()> {
    // SAFETY: the descriptor is open, and the kernel reads one u32 at the address given.
    unsafe { raw::backing_close(connection.as_raw_fd(), &raw const id) }?;
    Ok(())
}

/// An ioctl whose argument is exactly the `_IOC_SIZE` bytes of `argument`, read and written in place.
/// Errors: EINVAL when the length is not the one `request` encodes; what the filesystem answers.
pub fn ioctl_in_place(fd: BorrowedFd<'_>, request: u32, argument: &mut [u8]) -> Result<()> {
    let encoded = (request >> 16) & 0x3fff;
    if usize::try_from(encoded) != Ok(argument.len()) {
        return Err(Errno::EINVAL);
    }
    // SAFETY: the descriptor is open; a filesystem that honours the encoded size touches only `argument`, which is
    // that long, and one that does not answers ENOTTY to a number it does not know.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), c_ulong::from(request), argument.as_mut_ptr()) })?;
    Ok(())
}

/// Receives one descriptor over `socket`, as the mount helper sends it. `None` when the peer closed without sending.
pub fn receive_fd(socket: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    let mut byte = [0u8; 1];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(std::os::fd::RawFd);
    let message =
        recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let Some(&number) = fds.first()
        {
            // SAFETY: the kernel installed this descriptor for us with the message, and nobody else knows it.
            return above_stdio(unsafe { OwnedFd::from_raw_fd(number) }).map(Some);
        }
    }
    Ok(None)
}

/// Writes one message made of `parts`; the device takes it whole or not at all.
pub fn write_message(fd: BorrowedFd<'_>, parts: &[IoSlice<'_>]) -> Result<()> {
    nix::sys::uio::writev(fd, parts)?;
    Ok(())
}

/// The same descriptor with a number above 2, so that nothing written to a standard stream can reach it.
fn above_stdio(fd: OwnedFd) -> Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    let raw = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(3))?;
    // SAFETY: fcntl has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// An io::Error as the errno it came from.
trait FromIo {
    fn from_io(error: std::io::Error) -> Errno;
}

impl FromIo for Errno {
    fn from_io(error: std::io::Error) -> Errno {
        error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
    }
}
