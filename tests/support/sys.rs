//! System calls as the tests need them: by bytes, with raw flags, answering the errno.
//!
//! Paths are absolute (or `/proc/self/fd/N/…`), symbolic links are never followed at the end unless the name of
//! the function says so. Credentials, umask, working directory and mount namespace belong to the calling
//! *thread*: the raw system calls are used, not libc's process-wide wrappers.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// A value, or the errno.
pub type Answer<T> = Result<T, Errno>;

fn check(result: i64) -> Answer<i64> {
    if result < 0 { Err(Errno::last()) } else { Ok(result) }
}

fn c(bytes: &[u8]) -> CString {
    CString::new(bytes).expect("names in tests hold no NUL")
}

// The sixth argument travels on the stack, so it must be as wide as the kernel reads it.
macro_rules! raw {
    ($number:ident $(, $argument:expr)*) => {
        // SAFETY: every pointer handed over outlives the call, and its length is passed with it.
        check(unsafe { libc::syscall(libc::$number $(, $argument)*) })
    };
}

/// Opens `path`; close-on-exec is always added.
pub fn open(path: &[u8], flags: i32, mode: u32) -> Answer<OwnedFd> {
    let path = c(path);
    let fd = raw!(SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags | libc::O_CLOEXEC, mode)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Reads at most `len` bytes from the descriptor's position.
pub fn read(fd: RawFd, len: usize) -> Answer<Vec<u8>> {
    let mut buffer = vec![0_u8; len];
    let got = raw!(SYS_read, fd, buffer.as_mut_ptr(), len)?;
    buffer.truncate(got as usize);
    Ok(buffer)
}

/// Reads at most `len` bytes at `offset`.
pub fn pread(fd: RawFd, offset: i64, len: usize) -> Answer<Vec<u8>> {
    let mut buffer = vec![0_u8; len];
    let got = raw!(SYS_pread64, fd, buffer.as_mut_ptr(), len, offset)?;
    buffer.truncate(got as usize);
    Ok(buffer)
}

/// Reads into a buffer aligned for direct I/O.
pub fn pread_aligned(fd: RawFd, offset: i64, len: usize) -> Answer<Vec<u8>> {
    let mut buffer = vec![0_u8; len + 4096];
    let shift = buffer.as_ptr().align_offset(4096);
    let got = raw!(SYS_pread64, fd, buffer[shift..].as_mut_ptr(), len, offset)?;
    Ok(buffer[shift..shift + got as usize].to_vec())
}

/// Writes from a buffer aligned for direct I/O.
pub fn pwrite_aligned(fd: RawFd, offset: i64, data: &[u8]) -> Answer<i64> {
    let mut buffer = vec![0_u8; data.len() + 4096];
    let shift = buffer.as_ptr().align_offset(4096);
    buffer[shift..shift + data.len()].copy_from_slice(data);
    raw!(SYS_pwrite64, fd, buffer[shift..].as_ptr(), data.len(), offset)
}

/// Writes at the descriptor's position.
pub fn write(fd: RawFd, data: &[u8]) -> Answer<i64> {
    raw!(SYS_write, fd, data.as_ptr(), data.len())
}

/// Writes at `offset`.
pub fn pwrite(fd: RawFd, offset: i64, data: &[u8]) -> Answer<i64> {
    raw!(SYS_pwrite64, fd, data.as_ptr(), data.len(), offset)
}

/// Moves the descriptor's position.
pub fn lseek(fd: RawFd, offset: i64, whence: i32) -> Answer<i64> {
    raw!(SYS_lseek, fd, offset, whence)
}

/// ftruncate(2).
pub fn ftruncate(fd: RawFd, len: i64) -> Answer<()> {
    raw!(SYS_ftruncate, fd, len).map(drop)
}

/// truncate(2), which follows symbolic links.
pub fn truncate(path: &[u8], len: i64) -> Answer<()> {
    raw!(SYS_truncate, c(path).as_ptr(), len).map(drop)
}

/// fsync(2).
pub fn fsync(fd: RawFd) -> Answer<()> {
    raw!(SYS_fsync, fd).map(drop)
}

/// fdatasync(2).
pub fn fdatasync(fd: RawFd) -> Answer<()> {
    raw!(SYS_fdatasync, fd).map(drop)
}

/// syncfs(2).
pub fn syncfs(fd: RawFd) -> Answer<()> {
    raw!(SYS_syncfs, fd).map(drop)
}

/// chmod(2), which follows symbolic links.
pub fn chmod(path: &[u8], mode: u32) -> Answer<()> {
    raw!(SYS_fchmodat, libc::AT_FDCWD, c(path).as_ptr(), mode).map(drop)
}

/// fchmod(2).
pub fn fchmod(fd: RawFd, mode: u32) -> Answer<()> {
    raw!(SYS_fchmod, fd, mode).map(drop)
}

/// lchown(2); `u32::MAX` leaves an id alone.
pub fn lchown(path: &[u8], uid: u32, gid: u32) -> Answer<()> {
    raw!(SYS_fchownat, libc::AT_FDCWD, c(path).as_ptr(), uid, gid, libc::AT_SYMLINK_NOFOLLOW).map(drop)
}

/// fchown(2).
pub fn fchown(fd: RawFd, uid: u32, gid: u32) -> Answer<()> {
    raw!(SYS_fchown, fd, uid, gid).map(drop)
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// Leave it.
    Omit,
    /// The present, by the kernel's clock.
    Now,
    /// Seconds and nanoseconds.
    At(i64, i64),
}

impl Stamp {
    fn timespec(self) -> libc::timespec {
        match self {
            Self::Omit => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
            Self::Now => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_NOW },
            Self::At(tv_sec, tv_nsec) => libc::timespec { tv_sec, tv_nsec },
        }
    }
}

/// Sets access and modification time of the object itself.
pub fn utimens(path: &[u8], atime: Stamp, mtime: Stamp) -> Answer<()> {
    let times = [atime.timespec(), mtime.timespec()];
    raw!(SYS_utimensat, libc::AT_FDCWD, c(path).as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW).map(drop)
}

/// futimens(3).
pub fn futimens(fd: RawFd, atime: Stamp, mtime: Stamp) -> Answer<()> {
    let times = [atime.timespec(), mtime.timespec()];
    raw!(SYS_utimensat, fd, std::ptr::null::<u8>(), times.as_ptr(), 0).map(drop)
}

/// mkdir(2).
pub fn mkdir(path: &[u8], mode: u32) -> Answer<()> {
    raw!(SYS_mkdirat, libc::AT_FDCWD, c(path).as_ptr(), mode).map(drop)
}

/// mknod(2).
pub fn mknod(path: &[u8], mode: u32, device: u64) -> Answer<()> {
    raw!(SYS_mknodat, libc::AT_FDCWD, c(path).as_ptr(), mode, device).map(drop)
}

/// symlink(2).
pub fn symlink(target: &[u8], path: &[u8]) -> Answer<()> {
    raw!(SYS_symlinkat, c(target).as_ptr(), libc::AT_FDCWD, c(path).as_ptr()).map(drop)
}

/// linkat(2) with raw flags.
pub fn link(old: &[u8], new: &[u8], flags: i32) -> Answer<()> {
    raw!(SYS_linkat, libc::AT_FDCWD, c(old).as_ptr(), libc::AT_FDCWD, c(new).as_ptr(), flags).map(drop)
}

/// unlink(2).
pub fn unlink(path: &[u8]) -> Answer<()> {
    raw!(SYS_unlinkat, libc::AT_FDCWD, c(path).as_ptr(), 0).map(drop)
}

/// rmdir(2).
pub fn rmdir(path: &[u8]) -> Answer<()> {
    raw!(SYS_unlinkat, libc::AT_FDCWD, c(path).as_ptr(), libc::AT_REMOVEDIR).map(drop)
}

/// renameat2(2).
pub fn rename(old: &[u8], new: &[u8], flags: u32) -> Answer<()> {
    raw!(SYS_renameat2, libc::AT_FDCWD, c(old).as_ptr(), libc::AT_FDCWD, c(new).as_ptr(), flags).map(drop)
}

/// readlink(2).
pub fn readlink(path: &[u8]) -> Answer<Vec<u8>> {
    let mut buffer = vec![0_u8; 4096];
    let got = raw!(SYS_readlinkat, libc::AT_FDCWD, c(path).as_ptr(), buffer.as_mut_ptr(), buffer.len())?;
    buffer.truncate(got as usize);
    Ok(buffer)
}

/// access(2) by the *effective* ids.
pub fn access(path: &[u8], mode: i32) -> Answer<()> {
    raw!(SYS_faccessat2, libc::AT_FDCWD, c(path).as_ptr(), mode, libc::AT_EACCESS).map(drop)
}

/// statx(2) of the object itself.
pub fn stat(path: &[u8]) -> Answer<libc::statx> {
    statx(libc::AT_FDCWD, path, libc::AT_SYMLINK_NOFOLLOW)
}

/// statx(2) of a descriptor.
pub fn fstat(fd: RawFd) -> Answer<libc::statx> {
    statx(fd, b"", libc::AT_EMPTY_PATH)
}

fn statx(fd: RawFd, path: &[u8], flags: i32) -> Answer<libc::statx> {
    let mut buffer = std::mem::MaybeUninit::<libc::statx>::zeroed();
    raw!(SYS_statx, fd, c(path).as_ptr(), flags, libc::STATX_ALL, buffer.as_mut_ptr())?;
    // SAFETY: zeroed memory is a valid statx, and the kernel has filled it.
    Ok(unsafe { buffer.assume_init() })
}

/// statfs(2).
pub fn statfs(path: &[u8]) -> Answer<libc::statfs64> {
    let mut buffer = std::mem::MaybeUninit::<libc::statfs64>::zeroed();
    let path = c(path);
    // SAFETY: the buffer is as large as the call writes.
    check(i64::from(unsafe { libc::statfs64(path.as_ptr(), buffer.as_mut_ptr()) }))?;
    // SAFETY: zeroed memory is a valid statfs64, and the kernel has filled it.
    Ok(unsafe { buffer.assume_init() })
}

/// lsetxattr(2).
pub fn setxattr(path: &[u8], name: &[u8], value: &[u8], flags: i32) -> Answer<()> {
    raw!(SYS_lsetxattr, c(path).as_ptr(), c(name).as_ptr(), value.as_ptr(), value.len(), flags).map(drop)
}

/// fsetxattr(2).
pub fn fsetxattr(fd: RawFd, name: &[u8], value: &[u8], flags: i32) -> Answer<()> {
    raw!(SYS_fsetxattr, fd, c(name).as_ptr(), value.as_ptr(), value.len(), flags).map(drop)
}

/// lgetxattr(2).
pub fn getxattr(path: &[u8], name: &[u8]) -> Answer<Vec<u8>> {
    let mut buffer = vec![0_u8; 65536];
    let got = raw!(SYS_lgetxattr, c(path).as_ptr(), c(name).as_ptr(), buffer.as_mut_ptr(), buffer.len())?;
    buffer.truncate(got as usize);
    Ok(buffer)
}

/// fgetxattr(2).
pub fn fgetxattr(fd: RawFd, name: &[u8]) -> Answer<Vec<u8>> {
    let mut buffer = vec![0_u8; 65536];
    let got = raw!(SYS_fgetxattr, fd, c(name).as_ptr(), buffer.as_mut_ptr(), buffer.len())?;
    buffer.truncate(got as usize);
    Ok(buffer)
}

/// llistxattr(2), sorted.
pub fn listxattr(path: &[u8]) -> Answer<Vec<Vec<u8>>> {
    let mut buffer = vec![0_u8; 65536];
    let got = raw!(SYS_llistxattr, c(path).as_ptr(), buffer.as_mut_ptr(), buffer.len())?;
    Ok(split_names(&buffer[..got as usize]))
}

/// flistxattr(2), sorted.
pub fn flistxattr(fd: RawFd) -> Answer<Vec<Vec<u8>>> {
    let mut buffer = vec![0_u8; 65536];
    let got = raw!(SYS_flistxattr, fd, buffer.as_mut_ptr(), buffer.len())?;
    Ok(split_names(&buffer[..got as usize]))
}

fn split_names(list: &[u8]) -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> =
        list.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect();
    names.sort();
    names
}

/// lremovexattr(2).
pub fn removexattr(path: &[u8], name: &[u8]) -> Answer<()> {
    raw!(SYS_lremovexattr, c(path).as_ptr(), c(name).as_ptr()).map(drop)
}

/// fremovexattr(2).
pub fn fremovexattr(fd: RawFd, name: &[u8]) -> Answer<()> {
    raw!(SYS_fremovexattr, fd, c(name).as_ptr()).map(drop)
}

/// One directory entry as getdents64 gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirent {
    /// The name.
    pub name: Vec<u8>,
    /// `d_ino`.
    pub ino: u64,
    /// `d_off`: the position after this entry.
    pub next: i64,
    /// `d_type`.
    pub kind: u8,
}

/// One getdents64 call with a buffer of `size` bytes; empty at the end.
pub fn getdents(fd: RawFd, size: usize) -> Answer<Vec<Dirent>> {
    let mut buffer = vec![0_u8; size];
    let got = raw!(SYS_getdents64, fd, buffer.as_mut_ptr(), size)? as usize;
    let mut entries = Vec::new();
    let mut at = 0;
    while at < got {
        let word =
            |from: usize| u64::from_ne_bytes(buffer[at + from..at + from + 8].try_into().expect("8 bytes"));
        let length = usize::from(u16::from_ne_bytes([buffer[at + 16], buffer[at + 17]]));
        let name = buffer[at + 19..at + length].split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        entries.push(Dirent { name, ino: word(0), next: word(8) as i64, kind: buffer[at + 18] });
        at += length;
    }
    Ok(entries)
}

/// fallocate(2).
pub fn fallocate(fd: RawFd, mode: i32, offset: i64, len: i64) -> Answer<()> {
    raw!(SYS_fallocate, fd, mode, offset, len).map(drop)
}

/// copy_file_range(2) between explicit offsets.
pub fn copy_file_range(from: RawFd, from_at: i64, to: RawFd, to_at: i64, len: usize) -> Answer<i64> {
    let (mut from_at, mut to_at) = (from_at, to_at);
    raw!(SYS_copy_file_range, from, &raw mut from_at, to, &raw mut to_at, len, 0_usize)
}

/// ioctl(2) with a buffer that it may read and write.
pub fn ioctl(fd: RawFd, request: u64, buffer: &mut [u8]) -> Answer<i64> {
    raw!(SYS_ioctl, fd, request, buffer.as_mut_ptr())
}

/// FICLONE.
pub fn clone_file(from: RawFd, to: RawFd) -> Answer<()> {
    raw!(SYS_ioctl, to, 0x4004_9409_u64, from).map(drop)
}

/// flock(2), never waiting.
pub fn flock(fd: RawFd, operation: i32) -> Answer<()> {
    raw!(SYS_flock, fd, operation | libc::LOCK_NB).map(drop)
}

/// An open-file-description lock on the whole file, never waiting.
pub fn ofd_lock(fd: RawFd, kind: i16) -> Answer<()> {
    let lock = libc::flock { l_type: kind, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 };
    raw!(SYS_fcntl, fd, libc::F_OFD_SETLK, &raw const lock).map(drop)
}

/// A new inotify instance that never waits.
pub fn inotify_init() -> Answer<OwnedFd> {
    let fd = raw!(SYS_inotify_init1, libc::IN_NONBLOCK | libc::IN_CLOEXEC)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Watches the object itself.
pub fn inotify_add(fd: RawFd, path: &[u8], mask: u32) -> Answer<i64> {
    raw!(SYS_inotify_add_watch, fd, c(path).as_ptr(), mask | libc::IN_DONT_FOLLOW)
}

/// A file mapping of `len` bytes.
#[derive(Debug)]
pub struct Mapping {
    address: usize,
    len: usize,
}

impl Mapping {
    /// Maps the beginning of the file; `writable` maps for reading and writing, `shared` shares it.
    pub fn new(fd: RawFd, len: usize, writable: bool, shared: bool) -> Answer<Self> {
        let protection = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        let sharing = if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
        let address =
            raw!(SYS_mmap, 0_usize, len, protection as usize, sharing as usize, fd as usize, 0_usize)?;
        Ok(Self { address: address as usize, len })
    }

    /// Reads from the mapping; EFAULT where touching it would be a SIGBUS.
    pub fn read(&self, offset: usize, len: usize) -> Answer<Vec<u8>> {
        let mut buffer = vec![0_u8; len];
        let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: len };
        let remote = libc::iovec { iov_base: (self.address + offset) as *mut _, iov_len: len };
        let own = std::process::id();
        let got =
            raw!(SYS_process_vm_readv, own, &raw const local, 1_usize, &raw const remote, 1_usize, 0_usize)?;
        buffer.truncate(got as usize);
        Ok(buffer)
    }

    /// Stores into the mapping; EFAULT where touching it would be a SIGBUS.
    pub fn write(&self, offset: usize, data: &[u8]) -> Answer<i64> {
        let local = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
        let remote = libc::iovec { iov_base: (self.address + offset) as *mut _, iov_len: data.len() };
        let own = std::process::id();
        raw!(SYS_process_vm_writev, own, &raw const local, 1_usize, &raw const remote, 1_usize, 0_usize)
    }

    /// msync(MS_SYNC) of all of it.
    pub fn sync(&self) -> Answer<()> {
        raw!(SYS_msync, self.address, self.len, libc::MS_SYNC).map(drop)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Err(errno) = raw!(SYS_munmap, self.address, self.len) {
            eprintln!("munmap: {errno}");
        }
    }
}

/// A file handle: its type and bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileHandle {
    /// `handle_type`.
    pub kind: i32,
    /// `f_handle`.
    pub bytes: Vec<u8>,
}

/// name_to_handle_at(2) of the object itself.
pub fn file_handle(path: &[u8]) -> Answer<FileHandle> {
    let mut buffer = [0_u8; 136];
    buffer[..4].copy_from_slice(&128_u32.to_ne_bytes());
    let mut mount_id = 0_i32;
    raw!(SYS_name_to_handle_at, libc::AT_FDCWD, c(path).as_ptr(), buffer.as_mut_ptr(), &raw mut mount_id, 0)?;
    let len = u32::from_ne_bytes(buffer[..4].try_into().expect("4 bytes")) as usize;
    let kind = i32::from_ne_bytes(buffer[4..8].try_into().expect("4 bytes"));
    Ok(FileHandle { kind, bytes: buffer[8..8 + len].to_vec() })
}

/// open_by_handle_at(2) on the filesystem that `anchor` is open on.
pub fn open_handle(anchor: BorrowedFd<'_>, handle: &FileHandle, flags: i32) -> Answer<OwnedFd> {
    let mut buffer = Vec::from((handle.bytes.len() as u32).to_ne_bytes());
    buffer.extend(handle.kind.to_ne_bytes());
    buffer.extend(&handle.bytes);
    let fd = raw!(SYS_open_by_handle_at, anchor.as_raw_fd(), buffer.as_ptr(), flags | libc::O_CLOEXEC)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// mount(2) with everything as bytes; an empty source or type stands for none.
pub fn mount(source: &[u8], target: &[u8], kind: &[u8], flags: u64, data: &[u8]) -> Answer<()> {
    let (source, target, kind, data) = (c(source), c(target), c(kind), c(data));
    raw!(SYS_mount, source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr()).map(drop)
}

/// umount2(2).
pub fn umount(target: &[u8], flags: i32) -> Answer<()> {
    raw!(SYS_umount2, c(target).as_ptr(), flags).map(drop)
}

/// An anonymous file in memory.
pub fn memory_file(name: &[u8]) -> Answer<OwnedFd> {
    let fd = raw!(SYS_memfd_create, c(name).as_ptr(), libc::MFD_CLOEXEC)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Attaches a file to a free loop device that vanishes with its last user; answers the open device and its path.
pub fn attach_loop(file: RawFd) -> Answer<(OwnedFd, String)> {
    const GET_FREE: u64 = 0x4c82;
    const CONFIGURE: u64 = 0x4c0a;
    const AUTOCLEAR: u32 = 4;
    const FLAGS_AT: usize = 8 + 52;
    let control = open(b"/dev/loop-control", libc::O_RDWR, 0)?;
    loop {
        let number = raw!(SYS_ioctl, control.as_raw_fd(), GET_FREE)?;
        let path = format!("/dev/loop{number}");
        let device = open(path.as_bytes(), libc::O_RDWR, 0)?;
        // struct loop_config: fd, block size, struct loop_info64 with the flags at its byte 52, reserved words.
        let mut config = [0_u8; 304];
        config[..4].copy_from_slice(&file.to_ne_bytes());
        config[FLAGS_AT..FLAGS_AT + 4].copy_from_slice(&AUTOCLEAR.to_ne_bytes());
        match ioctl(device.as_raw_fd(), CONFIGURE, &mut config) {
            Ok(_) => return Ok((device, path)),
            // Somebody else was faster.
            Err(Errno::EBUSY) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// unshare(2), for the calling thread.
pub fn unshare(flags: i32) -> Answer<()> {
    raw!(SYS_unshare, flags).map(drop)
}

/// setns(2), for the calling thread.
pub fn setns(fd: BorrowedFd<'_>, kind: i32) -> Answer<()> {
    raw!(SYS_setns, fd.as_raw_fd(), kind).map(drop)
}

/// chdir(2), for the calling thread once it has unshared its file system attributes.
pub fn chdir(path: &[u8]) -> Answer<()> {
    raw!(SYS_chdir, c(path).as_ptr()).map(drop)
}

/// umask(2), for the calling thread once it has unshared its file system attributes.
pub fn umask(mask: u32) -> u32 {
    raw!(SYS_umask, mask).map_or(0, |old| old as u32)
}

/// Takes on the effective ids and groups for the calling thread; effective capabilities follow the uid.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> Answer<()> {
    raw!(SYS_setresuid, u32::MAX, 0_u32, u32::MAX)?;
    raw!(SYS_setgroups, groups.len(), groups.as_ptr())?;
    raw!(SYS_setresgid, u32::MAX, gid, u32::MAX)?;
    raw!(SYS_setresuid, u32::MAX, uid, u32::MAX).map(drop)
}

/// Runs `handler` when the process exits normally.
pub fn at_exit(handler: extern "C" fn()) {
    // SAFETY: the handler is a plain function that lives as long as the program.
    unsafe { libc::atexit(handler) };
}

/// Whether the calling process is root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
