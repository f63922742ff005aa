//! File flags: FS_IOC_GETFLAGS and its kin.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::Result;

/// `FS_SYNC_FL`.
pub const SYNC: u32 = 0x8;
/// `FS_IMMUTABLE_FL`.
pub const IMMUTABLE: u32 = 0x10;
/// `FS_APPEND_FL`.
pub const APPEND: u32 = 0x20;
/// `FS_NOATIME_FL`.
pub const NOATIME: u32 = 0x80;
/// `FS_XFLAG_IMMUTABLE`.
pub const X_IMMUTABLE: u32 = 0x8;
/// `FS_XFLAG_APPEND`.
pub const X_APPEND: u32 = 0x10;

/// struct fsxattr.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsXattr {
    /// `FS_XFLAG_*`.
    pub xflags: u32,
    /// Extent size hint, bytes.
    pub extsize: u32,
    /// Number of extents.
    pub nextents: u32,
    /// Project id.
    pub projid: u32,
    /// Copy-on-write extent size hint, bytes.
    pub cowextsize: u32,
    /// Unused.
    pub pad: [u8; 8],
}

// The kernel reads and writes 32 bits although the numbers say `long`.
mod raw {
    #![allow(missing_docs)]
    use super::*;
    nix::ioctl_read!(get_flags_raw, b'f', 1, libc::c_long);
    nix::ioctl_write_ptr!(set_flags_raw, b'f', 2, libc::c_long);
    nix::ioctl_read!(get_xattr_raw, b'X', 31, FsXattr);
    nix::ioctl_write_ptr!(set_xattr_raw, b'X', 32, FsXattr);
}

/// FS_IOC_GETFLAGS. Errors: ENOTTY where the filesystem has no flags.
pub fn flags(fd: BorrowedFd<'_>) -> Result<u32> {
    let mut out: libc::c_long = 0;
    // SAFETY: `out` has room for what the kernel writes.
    unsafe { raw::get_flags_raw(fd.as_raw_fd(), &raw mut out) }?;
    Ok(out as u32)
}

/// FS_IOC_SETFLAGS. Errors: EPERM without CAP_LINUX_IMMUTABLE, EOPNOTSUPP for flags the filesystem lacks.
pub fn set_flags(fd: BorrowedFd<'_>, flags: u32) -> Result<()> {
    let value = libc::c_long::from(flags as i32);
    // SAFETY: `value` is readable.
    unsafe { raw::set_flags_raw(fd.as_raw_fd(), &raw const value) }.map(drop)
}

/// FS_IOC_FSGETXATTR. Errors: ENOTTY.
pub fn fsxattr(fd: BorrowedFd<'_>) -> Result<FsXattr> {
    let mut out = FsXattr::default();
    // SAFETY: `out` has the layout of struct fsxattr.
    unsafe { raw::get_xattr_raw(fd.as_raw_fd(), &raw mut out) }?;
    Ok(out)
}

/// FS_IOC_FSSETXATTR.
pub fn set_fsxattr(fd: BorrowedFd<'_>, value: &FsXattr) -> Result<()> {
    // SAFETY: `value` has the layout of struct fsxattr.
    unsafe { raw::set_xattr_raw(fd.as_raw_fd(), value) }.map(drop)
}
