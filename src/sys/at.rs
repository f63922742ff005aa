//! One real object, and the system calls on it.
//!
//! An object is reached either by one name beneath an open directory or by a descriptor kept on it. Both forms are
//! [`At`], so that no code above has to care which it holds. No call here follows a symbolic link.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Dev, Errno, Name, Result, Stat, Time};

const SYS_SETXATTRAT: libc::c_long = 463;
const SYS_GETXATTRAT: libc::c_long = 464;
const SYS_LISTXATTRAT: libc::c_long = 465;
const SYS_REMOVEXATTRAT: libc::c_long = 466;
const SYS_FCHMODAT2: libc::c_long = 452;

/// Whether the kernel has the `*xattrat` family (6.13); cleared at the first ENOSYS.
static XATTRAT: AtomicBool = AtomicBool::new(true);
/// Whether the kernel has fchmodat2 (6.6); cleared at the first ENOSYS.
static FCHMODAT2: AtomicBool = AtomicBool::new(true);

/// Which object a call is about.
#[derive(Clone, Copy, Debug)]
pub enum At<'a> {
    /// The entry `name` of a directory.
    Name(BorrowedFd<'a>, &'a Name),
    /// The object the descriptor (possibly `O_PATH`) is on.
    Fd(BorrowedFd<'a>),
}

#[repr(C)]
struct XattrArgs {
    value: u64,
    size: u32,
    flags: u32,
}

/// A path through /proc for calls that take neither a directory descriptor nor an `O_PATH` one.
struct ProcPath {
    buf: Vec<u8>,
}

impl ProcPath {
    fn of(at: At<'_>) -> ProcPath {
        let (fd, name) = match at {
            At::Name(fd, name) => (fd, Some(name)),
            At::Fd(fd) => (fd, None),
        };
        let mut buf = format!("/proc/self/fd/{}", fd.as_raw_fd()).into_bytes();
        if let Some(name) = name {
            buf.push(b'/');
            buf.extend_from_slice(name.as_bytes());
        }
        buf.push(0);
        ProcPath { buf }
    }

    fn as_ptr(&self) -> *const libc::c_char {
        self.buf.as_ptr().cast()
    }
}

pub(super) fn check(ret: libc::c_long) -> Result<usize> {
    if ret < 0 { Err(Errno::last()) } else { Ok(ret as usize) }
}

pub(super) fn check_fd(ret: libc::c_int) -> Result<OwnedFd> {
    if ret < 0 {
        return Err(Errno::last());
    }
    // SAFETY: the kernel just returned this descriptor to us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(ret) })
}

impl<'a> At<'a> {
    fn parts(self) -> (libc::c_int, *const libc::c_char, libc::c_int) {
        match self {
            At::Name(fd, name) => (fd.as_raw_fd(), name.as_cstr().as_ptr(), libc::AT_SYMLINK_NOFOLLOW),
            At::Fd(fd) => (fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW),
        }
    }

    /// statx(2). Errors: ENOENT when there is no such entry.
    pub fn stat(self) -> Result<Stat> {
        let (fd, path, flags) = self.parts();
        let mut buf = std::mem::MaybeUninit::<libc::statx>::zeroed();
        let mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
        // SAFETY: `path` is NUL-terminated and `buf` is large enough; both outlive the call.
        check(unsafe { libc::statx(fd, path, flags | libc::AT_NO_AUTOMOUNT, mask, buf.as_mut_ptr()) }
            as libc::c_long)?;
        // SAFETY: zeroed is a valid statx, and the kernel filled it in.
        let s = unsafe { buf.assume_init() };
        Ok(stat_of(&s))
    }

    /// readlink(2). Errors: EINVAL when it is not a symlink.
    pub fn readlink(self) -> Result<Vec<u8>> {
        let (fd, path, _) = self.parts();
        let mut buf = vec![0u8; libc::PATH_MAX as usize];
        // SAFETY: `buf` is writable for the length given.
        let n =
            check(unsafe { libc::readlinkat(fd, path, buf.as_mut_ptr().cast(), buf.len()) } as libc::c_long)?;
        buf.truncate(n);
        Ok(buf)
    }

    /// Sets owner and group; `None` leaves one alone.
    pub fn chown(self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let (fd, path, flags) = self.parts();
        let (uid, gid) = (uid.unwrap_or(u32::MAX), gid.unwrap_or(u32::MAX));
        // SAFETY: `path` is NUL-terminated.
        check(unsafe { libc::fchownat(fd, path, uid, gid, flags) } as libc::c_long).map(drop)
    }

    /// Sets the permission bits of anything but a symlink (EOPNOTSUPP there).
    pub fn chmod(self, mode: u32) -> Result<()> {
        let mode = mode & 0o7777;
        if let At::Name(fd, name) = self
            && FCHMODAT2.load(Ordering::Relaxed)
        {
            // SAFETY: the name is NUL-terminated.
            let ret = unsafe {
                libc::syscall(
                    SYS_FCHMODAT2,
                    fd.as_raw_fd(),
                    name.as_cstr().as_ptr(),
                    mode,
                    libc::AT_SYMLINK_NOFOLLOW,
                )
            };
            match check(ret) {
                Err(Errno::ENOSYS) => FCHMODAT2.store(false, Ordering::Relaxed),
                done => return done.map(drop),
            }
        }
        let held;
        let at = match self {
            At::Name(fd, name) => {
                held = open_at(fd, name.as_cstr(), libc::O_PATH | libc::O_NOFOLLOW, 0)?;
                At::Fd(held.as_fd())
            }
            fd => fd,
        };
        let path = ProcPath::of(at);
        // SAFETY: the path is NUL-terminated.
        check(unsafe { libc::chmod(path.as_ptr(), mode) } as libc::c_long).map(drop)
    }

    /// utimensat(2); `None` leaves a time alone.
    pub fn utimens(self, atime: Option<SetTime>, mtime: Option<SetTime>) -> Result<()> {
        let spec = |t: Option<SetTime>| match t {
            None => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
            Some(SetTime::Now) => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_NOW },
            Some(SetTime::To(t)) => libc::timespec { tv_sec: t.secs, tv_nsec: i64::from(t.nanos) },
        };
        let times = [spec(atime), spec(mtime)];
        let (fd, path, flags) = self.parts();
        // SAFETY: `times` has two elements and `path` is NUL-terminated.
        check(unsafe { libc::utimensat(fd, path, times.as_ptr(), flags) } as libc::c_long).map(drop)
    }

    /// Reads an attribute whole. Errors: ENODATA when it is not set, EOPNOTSUPP where there are none.
    pub fn getxattr(self, attr: &CStr) -> Result<Vec<u8>> {
        let mut buf = [0u8; 512];
        match self.getxattr_into(attr, &mut buf) {
            Ok(n) => return Ok(buf.get(..n).unwrap_or_default().to_vec()),
            Err(Errno::ERANGE) => {}
            Err(e) => return Err(e),
        }
        let mut buf = vec![0u8; 65536];
        let n = self.getxattr_into(attr, &mut buf)?;
        buf.truncate(n);
        Ok(buf)
    }

    /// Like [`At::getxattr`], where not having it is no error: `None` for ENODATA and EOPNOTSUPP.
    pub fn find_xattr(self, attr: &CStr) -> Result<Option<Vec<u8>>> {
        match self.getxattr(attr) {
            Ok(v) => Ok(Some(v)),
            Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn getxattr_into(self, attr: &CStr, buf: &mut [u8]) -> Result<usize> {
        if let At::Name(fd, name) = self
            && XATTRAT.load(Ordering::Relaxed)
        {
            let mut args = XattrArgs { value: buf.as_mut_ptr() as u64, size: buf.len() as u32, flags: 0 };
            // SAFETY: `args` describes `buf`, which is writable for its length.
            let ret = unsafe {
                libc::syscall(
                    SYS_GETXATTRAT,
                    fd.as_raw_fd(),
                    name.as_cstr().as_ptr(),
                    libc::AT_SYMLINK_NOFOLLOW,
                    attr.as_ptr(),
                    &raw mut args,
                    size_of::<XattrArgs>(),
                )
            };
            match check(ret) {
                Err(Errno::ENOSYS) => XATTRAT.store(false, Ordering::Relaxed),
                done => return done,
            }
        }
        let path = ProcPath::of(self);
        // SAFETY: `buf` is writable for its length; the strings are NUL-terminated.
        check(unsafe {
            match self {
                At::Name(..) => {
                    libc::lgetxattr(path.as_ptr(), attr.as_ptr(), buf.as_mut_ptr().cast(), buf.len())
                }
                At::Fd(_) => libc::getxattr(path.as_ptr(), attr.as_ptr(), buf.as_mut_ptr().cast(), buf.len()),
            }
        } as libc::c_long)
    }

    /// The names of all attributes, each followed by a NUL. Empty where there are none.
    pub fn listxattr(self) -> Result<Vec<u8>> {
        let mut buf = vec![0u8; 1024];
        loop {
            match self.listxattr_into(&mut buf) {
                Ok(n) => {
                    buf.truncate(n);
                    return Ok(buf);
                }
                Err(Errno::ERANGE) if buf.len() < 65536 => buf.resize(65536, 0),
                Err(Errno::EOPNOTSUPP) => return Ok(Vec::new()),
                Err(e) => return Err(e),
            }
        }
    }

    fn listxattr_into(self, buf: &mut [u8]) -> Result<usize> {
        if let At::Name(fd, name) = self
            && XATTRAT.load(Ordering::Relaxed)
        {
            // SAFETY: `buf` is writable for its length.
            let ret = unsafe {
                libc::syscall(
                    SYS_LISTXATTRAT,
                    fd.as_raw_fd(),
                    name.as_cstr().as_ptr(),
                    libc::AT_SYMLINK_NOFOLLOW,
                    buf.as_mut_ptr(),
                    buf.len(),
                )
            };
            match check(ret) {
                Err(Errno::ENOSYS) => XATTRAT.store(false, Ordering::Relaxed),
                done => return done,
            }
        }
        let path = ProcPath::of(self);
        // SAFETY: `buf` is writable for its length.
        check(unsafe {
            match self {
                At::Name(..) => libc::llistxattr(path.as_ptr(), buf.as_mut_ptr().cast(), buf.len()),
                At::Fd(_) => libc::listxattr(path.as_ptr(), buf.as_mut_ptr().cast(), buf.len()),
            }
        } as libc::c_long)
    }

    /// setxattr(2) with its flags (0, XATTR_CREATE, XATTR_REPLACE).
    pub fn setxattr(self, attr: &CStr, value: &[u8], flags: i32) -> Result<()> {
        if let At::Name(fd, name) = self
            && XATTRAT.load(Ordering::Relaxed)
        {
            let args =
                XattrArgs { value: value.as_ptr() as u64, size: value.len() as u32, flags: flags as u32 };
            // SAFETY: `args` describes `value`, which is readable for its length.
            let ret = unsafe {
                libc::syscall(
                    SYS_SETXATTRAT,
                    fd.as_raw_fd(),
                    name.as_cstr().as_ptr(),
                    libc::AT_SYMLINK_NOFOLLOW,
                    attr.as_ptr(),
                    &raw const args,
                    size_of::<XattrArgs>(),
                )
            };
            match check(ret) {
                Err(Errno::ENOSYS) => XATTRAT.store(false, Ordering::Relaxed),
                done => return done.map(drop),
            }
        }
        let path = ProcPath::of(self);
        // SAFETY: `value` is readable for its length.
        check(unsafe {
            match self {
                At::Name(..) => {
                    libc::lsetxattr(path.as_ptr(), attr.as_ptr(), value.as_ptr().cast(), value.len(), flags)
                }
                At::Fd(_) => {
                    libc::setxattr(path.as_ptr(), attr.as_ptr(), value.as_ptr().cast(), value.len(), flags)
                }
            }
        } as libc::c_long)
        .map(drop)
    }

    /// removexattr(2). Errors: ENODATA when it is not set.
    pub fn removexattr(self, attr: &CStr) -> Result<()> {
        if let At::Name(fd, name) = self
            && XATTRAT.load(Ordering::Relaxed)
        {
            // SAFETY: both strings are NUL-terminated.
            let ret = unsafe {
                libc::syscall(
                    SYS_REMOVEXATTRAT,
                    fd.as_raw_fd(),
                    name.as_cstr().as_ptr(),
                    libc::AT_SYMLINK_NOFOLLOW,
                    attr.as_ptr(),
                )
            };
            match check(ret) {
                Err(Errno::ENOSYS) => XATTRAT.store(false, Ordering::Relaxed),
                done => return done.map(drop),
            }
        }
        let path = ProcPath::of(self);
        // SAFETY: both strings are NUL-terminated.
        check(unsafe {
            match self {
                At::Name(..) => libc::lremovexattr(path.as_ptr(), attr.as_ptr()),
                At::Fd(_) => libc::removexattr(path.as_ptr(), attr.as_ptr()),
            }
        } as libc::c_long)
        .map(drop)
    }

    /// Opens the object itself again, with `flags` of open(2) plus O_CLOEXEC. A symlink gives ELOOP.
    pub fn open(self, flags: i32) -> Result<OwnedFd> {
        match self {
            At::Name(fd, name) => open_at(fd, name.as_cstr(), flags | libc::O_NOFOLLOW, 0),
            At::Fd(_) => {
                let path = ProcPath::of(self);
                // SAFETY: the path is NUL-terminated.
                check_fd(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) })
            }
        }
    }

    /// An `O_PATH` descriptor on the object, whatever its kind.
    pub fn pin(self) -> Result<OwnedFd> {
        match self {
            At::Name(fd, name) => open_at(fd, name.as_cstr(), libc::O_PATH | libc::O_NOFOLLOW, 0),
            At::Fd(fd) => {
                fd.try_clone_to_owned().map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))
            }
        }
    }
}

/// A time to set on an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The system's clock.
    Now,
    /// This value.
    To(Time),
}

pub(super) fn open_at(dir: BorrowedFd<'_>, path: &CStr, flags: i32, mode: u32) -> Result<OwnedFd> {
    // SAFETY: the path is NUL-terminated.
    check_fd(unsafe { libc::openat(dir.as_raw_fd(), path.as_ptr(), flags | libc::O_CLOEXEC, mode) })
}

fn stat_of(s: &libc::statx) -> Stat {
    let time = |t: libc::statx_timestamp| Time { secs: t.tv_sec, nanos: t.tv_nsec };
    Stat {
        dev: libc::makedev(s.stx_dev_major, s.stx_dev_minor),
        ino: s.stx_ino,
        mode: u32::from(s.stx_mode),
        uid: s.stx_uid,
        gid: s.stx_gid,
        nlink: s.stx_nlink,
        size: s.stx_size,
        blocks: s.stx_blocks,
        blksize: s.stx_blksize,
        rdev: Dev { major: s.stx_rdev_major, minor: s.stx_rdev_minor },
        atime: time(s.stx_atime),
        mtime: time(s.stx_mtime),
        ctime: time(s.stx_ctime),
        btime: (s.stx_mask & libc::STATX_BTIME != 0).then(|| time(s.stx_btime)),
        immutable: s.stx_attributes & libc::STATX_ATTR_IMMUTABLE as u64 != 0,
        append_only: s.stx_attributes & libc::STATX_ATTR_APPEND as u64 != 0,
    }
}
