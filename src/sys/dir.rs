//! An open directory: the only way to change or walk a namespace in this program.
//!
//! Every call takes one checked [`Name`], so neither a race nor a symlink can lead out of the directory, and depth is
//! not limited by PATH_MAX. The descriptor is usually `O_PATH`; reading entries and syncing open `.` once more.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::at::{At, check, check_fd, open_at};
use super::{Errno, Name, NameBuf, Result, Stat};

/// Flags of renameat2(2) that this program uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameFlag {
    /// Replace the target.
    Replace,
    /// Fail with EEXIST when there is a target.
    NoReplace,
    /// Swap the two.
    Exchange,
    /// Leave a form-A whiteout at the source.
    Whiteout,
}

/// An open directory.
#[derive(Debug)]
pub struct Dir(OwnedFd);

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Dir {
    fn from(fd: OwnedFd) -> Dir {
        Dir(fd)
    }
}

/// One entry of a real directory.
#[derive(Clone, Debug)]
pub struct RawEntry {
    /// Its name; `.` and `..` are never given.
    pub name: NameBuf,
    /// `DT_…`; may be DT_UNKNOWN.
    pub d_type: u8,
    /// The raw inode number.
    pub ino: u64,
    /// The cookie that continues after it.
    pub next: i64,
}

impl Dir {
    /// Opens a directory by path, resolved by the kernel from the current directory, following symlinks.
    pub fn open_path(path: &Path) -> Result<Dir> {
        use std::os::unix::ffi::OsStrExt;
        let c = std::ffi::CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
        // SAFETY: the path is NUL-terminated.
        let fd = unsafe { libc::open(c.as_ptr(), libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC) };
        check_fd(fd).map(Dir)
    }

    /// The object `name`, for metadata calls.
    pub fn at<'a>(&'a self, name: &'a Name) -> At<'a> {
        At::Name(self.as_fd(), name)
    }

    /// The directory itself, for metadata calls.
    pub fn this(&self) -> At<'_> {
        At::Fd(self.as_fd())
    }

    /// Opens a subdirectory. Errors: ENOTDIR for anything else, symlinks included.
    pub fn open_dir(&self, name: &Name) -> Result<Dir> {
        open_at(self.as_fd(), name.as_cstr(), libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0).map(Dir)
    }

    /// The directory above; the root's is itself.
    pub fn parent(&self) -> Result<Dir> {
        open_at(self.as_fd(), c"..", libc::O_PATH | libc::O_DIRECTORY, 0).map(Dir)
    }

    /// A descriptor for reading entries and for fsync. Never changes the access time where that can be avoided.
    pub fn open_readable(&self) -> Result<OwnedFd> {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        match open_at(self.as_fd(), c".", flags | libc::O_NOATIME, 0) {
            Err(Errno::EPERM) => open_at(self.as_fd(), c".", flags, 0),
            done => done,
        }
    }

    /// statx(2) of `name`.
    pub fn stat(&self, name: &Name) -> Result<Stat> {
        self.at(name).stat()
    }

    /// `None` when there is no such entry.
    pub fn find(&self, name: &Name) -> Result<Option<Stat>> {
        match self.stat(name) {
            Ok(s) => Ok(Some(s)),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Creates and opens a regular file. Errors: EEXIST.
    pub fn create(&self, name: &Name, flags: i32, mode: u32) -> Result<OwnedFd> {
        open_at(self.as_fd(), name.as_cstr(), flags | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW, mode)
    }

    /// An unnamed file on this filesystem. Errors: EOPNOTSUPP where there are none.
    pub fn tmpfile(&self, mode: u32) -> Result<OwnedFd> {
        match open_at(self.as_fd(), c".", libc::O_TMPFILE | libc::O_RDWR, mode) {
            Err(Errno::EISDIR | Errno::ENOENT) => Err(Errno::EOPNOTSUPP),
            done => done,
        }
    }

    /// mkdirat(2).
    pub fn mkdir(&self, name: &Name, mode: u32) -> Result<()> {
        // SAFETY: the name is NUL-terminated.
        check(unsafe { libc::mkdirat(self.0.as_raw_fd(), name.as_cstr().as_ptr(), mode) } as libc::c_long)
            .map(drop)
    }

    /// mknodat(2) with the type in `mode`.
    pub fn mknod(&self, name: &Name, mode: u32, rdev: super::Dev) -> Result<()> {
        // SAFETY: the name is NUL-terminated.
        let ret = unsafe { libc::mknodat(self.0.as_raw_fd(), name.as_cstr().as_ptr(), mode, rdev.to_libc()) };
        check(ret as libc::c_long).map(drop)
    }

    /// symlinkat(2).
    pub fn symlink(&self, name: &Name, target: &CStr) -> Result<()> {
        // SAFETY: both strings are NUL-terminated.
        let ret = unsafe { libc::symlinkat(target.as_ptr(), self.0.as_raw_fd(), name.as_cstr().as_ptr()) };
        check(ret as libc::c_long).map(drop)
    }

    /// Gives `object` the further name `name` here. Errors: EEXIST, EXDEV, EMLINK.
    pub fn link(&self, object: At<'_>, name: &Name) -> Result<()> {
        let to = self.0.as_raw_fd();
        let to_name = name.as_cstr().as_ptr();
        let ret = match object {
            // SAFETY: both names are NUL-terminated.
            At::Name(dir, from) => unsafe {
                libc::linkat(dir.as_raw_fd(), from.as_cstr().as_ptr(), to, to_name, 0)
            },
            At::Fd(fd) => {
                // SAFETY: both strings are NUL-terminated.
                let ret =
                    unsafe { libc::linkat(fd.as_raw_fd(), c"".as_ptr(), to, to_name, libc::AT_EMPTY_PATH) };
                if ret == 0 || !matches!(Errno::last(), Errno::ENOENT | Errno::EPERM) {
                    ret
                } else {
                    // Without CAP_DAC_READ_SEARCH the empty path is refused; /proc is the other way.
                    let path = format!("/proc/self/fd/{}\0", fd.as_raw_fd());
                    // SAFETY: both strings are NUL-terminated.
                    unsafe {
                        libc::linkat(
                            libc::AT_FDCWD,
                            path.as_ptr().cast(),
                            to,
                            to_name,
                            libc::AT_SYMLINK_FOLLOW,
                        )
                    }
                }
            }
        };
        check(ret as libc::c_long).map(drop)
    }

    /// renameat2(2).
    pub fn rename(&self, name: &Name, to: &Dir, to_name: &Name, flag: RenameFlag) -> Result<()> {
        let flags = match flag {
            RenameFlag::Replace => 0,
            RenameFlag::NoReplace => libc::RENAME_NOREPLACE,
            RenameFlag::Exchange => libc::RENAME_EXCHANGE,
            RenameFlag::Whiteout => libc::RENAME_WHITEOUT,
        };
        // SAFETY: both names are NUL-terminated.
        let ret = unsafe {
            libc::syscall(
                libc::SYS_renameat2,
                self.0.as_raw_fd(),
                name.as_cstr().as_ptr(),
                to.0.as_raw_fd(),
                to_name.as_cstr().as_ptr(),
                flags,
            )
        };
        check(ret).map(drop)
    }

    /// Removes a non-directory.
    pub fn unlink(&self, name: &Name) -> Result<()> {
        self.remove(name, 0)
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, name: &Name) -> Result<()> {
        self.remove(name, libc::AT_REMOVEDIR)
    }

    fn remove(&self, name: &Name, flags: i32) -> Result<()> {
        // SAFETY: the name is NUL-terminated.
        let ret = unsafe { libc::unlinkat(self.0.as_raw_fd(), name.as_cstr().as_ptr(), flags) };
        check(ret as libc::c_long).map(drop)
    }

    /// All entries, `.` and `..` left out.
    pub fn entries(&self) -> Result<Vec<RawEntry>> {
        let fd = self.open_readable()?;
        let mut all = Vec::new();
        with_entry_buffer(|buf| {
            while read_entries(fd.as_fd(), buf, &mut |e| {
                all.push(e);
                true
            })? {}
            Ok(all)
        })
    }

    /// Reads from the directory, so that its filesystem advances the access time as its mount allows.
    pub fn access(&self) -> Result<()> {
        let fd = open_at(self.as_fd(), c".", libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
        read_entries(fd.as_fd(), &mut [0u8; 1024], &mut |_| false).map(drop)
    }

    /// fsync(2) of the directory.
    pub fn sync(&self) -> Result<()> {
        let fd = self.open_readable()?;
        // SAFETY: plain system call on an owned descriptor.
        check(unsafe { libc::fsync(fd.as_raw_fd()) } as libc::c_long).map(drop)
    }

    /// syncfs(2) of the filesystem the directory is on.
    pub fn syncfs(&self) -> Result<()> {
        let fd = self.open_readable()?;
        // SAFETY: plain system call on an owned descriptor.
        check(unsafe { libc::syncfs(fd.as_raw_fd()) } as libc::c_long).map(drop)
    }

    /// fstatvfs(2) numbers of the filesystem the directory is on.
    pub fn statfs(&self) -> Result<libc::statfs64> {
        let mut buf = std::mem::MaybeUninit::<libc::statfs64>::zeroed();
        // SAFETY: `buf` is large enough.
        check(unsafe { libc::fstatfs64(self.0.as_raw_fd(), buf.as_mut_ptr()) } as libc::c_long)?;
        // SAFETY: filled in by the kernel; zeroed is valid.
        Ok(unsafe { buf.assume_init() })
    }
}

/// Lends a buffer for [`read_entries`]. Each thread keeps one: clearing a fresh one costs more than reading a small
/// directory into it. Whoever is lent one while another is out gets a fresh one.
pub fn with_entry_buffer<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    const SIZE: usize = 32 * 1024;
    thread_local! {
        static KEPT: std::cell::Cell<Vec<u8>> = const { std::cell::Cell::new(Vec::new()) };
    }
    let mut buffer = KEPT.take();
    buffer.resize(SIZE, 0);
    let done = work(&mut buffer);
    KEPT.set(buffer);
    done
}

/// Reads one buffer of entries from a real directory descriptor and gives each to `each` until it says false.
/// Returns whether there may be more (true also when `each` stopped it).
pub fn read_entries(
    fd: BorrowedFd<'_>,
    buf: &mut [u8],
    each: &mut dyn FnMut(RawEntry) -> bool,
) -> Result<bool> {
    // SAFETY: `buf` is writable for its length.
    let n =
        check(unsafe { libc::syscall(libc::SYS_getdents64, fd.as_raw_fd(), buf.as_mut_ptr(), buf.len()) })?;
    let mut rest = buf.get(..n).unwrap_or_default();
    while let Some((entry, tail)) = split_entry(rest) {
        rest = tail;
        if let Some(entry) = entry
            && !each(entry)
        {
            break;
        }
    }
    Ok(n > 0)
}

/// Splits one `linux_dirent64` off; the entry is `None` for `.`, `..` and names nobody can look up.
fn split_entry(raw: &[u8]) -> Option<(Option<RawEntry>, &[u8])> {
    let ino = u64::from_ne_bytes(raw.get(0..8)?.try_into().ok()?);
    let next = i64::from_ne_bytes(raw.get(8..16)?.try_into().ok()?);
    let len = usize::from(u16::from_ne_bytes(raw.get(16..18)?.try_into().ok()?));
    let d_type = *raw.get(18)?;
    let name = CStr::from_bytes_until_nul(raw.get(19..len)?).ok()?;
    let entry = Name::new(name).ok().map(|n| RawEntry { name: n.to_owned(), d_type, ino, next });
    Some((entry, raw.get(len..)?))
}

/// Moves the position of a real directory descriptor to a cookie it gave.
pub fn seek_entries(fd: BorrowedFd<'_>, cookie: i64) -> Result<()> {
    // SAFETY: plain system call.
    check(unsafe { libc::lseek(fd.as_raw_fd(), cookie, libc::SEEK_SET) } as libc::c_long).map(drop)
}
