//! Mounts by descriptor: make one, clone a part of it, put it somewhere, tell which one is there, take it away.
//!
//! Every step names a mount by an open descriptor, never by a path that someone may have mounted over meanwhile.

use std::ffi::{CStr, CString, c_int, c_long, c_uint};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::ptr;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::{Errno, Result};

const FSOPEN_CLOEXEC: c_uint = 1;
const FSMOUNT_CLOEXEC: c_uint = 1;
const FSCONFIG_SET_FLAG: c_uint = 0;
const FSCONFIG_SET_STRING: c_uint = 1;
const FSCONFIG_CMD_CREATE: c_uint = 6;
const OPEN_TREE_CLONE: c_uint = 1;
const OPEN_TREE_CLOEXEC: c_uint = libc::O_CLOEXEC as c_uint;
const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 0x04;
const MOVE_MOUNT_T_EMPTY_PATH: c_uint = 0x40;
const STATX_MNT_ID: c_uint = 0x1000;
const STATX_MNT_ID_UNIQUE: c_uint = 0x4000;

/// Attributes of a mount (not of its filesystem).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountAttr {
    /// No writing.
    pub read_only: bool,
    /// No set-user-id programs.
    pub nosuid: bool,
    /// No devices.
    pub nodev: bool,
    /// No programs.
    pub noexec: bool,
    /// No access times.
    pub noatime: bool,
}

impl MountAttr {
    fn bits(self) -> u64 {
        let choices = [
            (self.read_only, 0x1),
            (self.nosuid, 0x2),
            (self.nodev, 0x4),
            (self.noexec, 0x8),
            (self.noatime, 0x10),
        ];
        choices.iter().filter(|(chosen, _)| *chosen).fold(0, |bits, (_, bit)| bits | bit)
    }
}

/// A filesystem being configured.
#[derive(Debug)]
pub struct FsContext(OwnedFd);

/// The outcome of a system call that returns a new descriptor.
fn new_fd(result: c_long) -> Result<OwnedFd> {
    let raw = Errno::result(result)?;
    let raw = c_int::try_from(raw).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

impl FsContext {
    /// Starts a filesystem of type `name`. Errors: EPERM without CAP_SYS_ADMIN, ENODEV for an unknown type, ENOSYS
    /// before kernel 5.2.
    pub fn open(name: &CStr) -> Result<FsContext> {
        // SAFETY: `name` is a C string that outlives the call.
        new_fd(unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), FSOPEN_CLOEXEC) }).map(FsContext)
    }

    /// Sets an option with a value. Errors: EINVAL for a NUL in `value` or an option the filesystem refuses.
    pub fn set(&self, key: &CStr, value: &str) -> Result<()> {
        let value = CString::new(value).map_err(|_| Errno::EINVAL)?;
        self.configure(FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr())
    }

    /// Sets an option without a value.
    pub fn set_flag(&self, key: &CStr) -> Result<()> {
        self.configure(FSCONFIG_SET_FLAG, key.as_ptr(), ptr::null())
    }

    /// Makes the filesystem.
    pub fn create(&self) -> Result<()> {
        self.configure(FSCONFIG_CMD_CREATE, ptr::null(), ptr::null())
    }

    fn configure(&self, command: c_uint, key: *const libc::c_char, value: *const libc::c_char) -> Result<()> {
        // SAFETY: the descriptor is open; both pointers are null or C strings that outlive the call.
        let done = unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, key, value, 0) };
        Errno::result(done).map(drop)
    }

    /// A mount of the filesystem, in no namespace yet. It goes when the descriptor does, unless it was attached.
    pub fn mount(&self, attr: MountAttr) -> Result<OwnedFd> {
        let bits = c_uint::try_from(attr.bits()).map_err(|_| Errno::EINVAL)?;
        // SAFETY: plain numbers and an open descriptor.
        new_fd(unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), FSMOUNT_CLOEXEC, bits) })
    }

    /// What the kernel says about the last failure, without its level and prefix; empty when it says nothing.
    pub fn complaint(&self) -> String {
        let mut text = [0u8; 512];
        match nix::unistd::read(&self.0, &mut text) {
            Ok(n) => String::from_utf8_lossy(text.get(..n).unwrap_or_default())
                .trim_start_matches("e ")
                .trim()
                .into(),
            // There is no message: the errno alone has to tell.
            Err(_) => String::new(),
        }
    }
}

/// A private copy of the mount at `path` below `dir`, in no namespace. Errors: EINVAL where the kernel does not clone
/// mounts that are in no namespace (before 6.15).
pub fn clone_tree(dir: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
    // SAFETY: an open descriptor and a C string that outlives the call.
    new_fd(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })
}

/// A private, read-only copy of the mount at `path` and of every mount in it, in no namespace.
pub fn clone_read_only(path: &CStr) -> Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as c_uint;
    // SAFETY: a C string that outlives the call.
    let tree = new_fd(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })?;
    // struct mount_attr: set, clear, propagation, user namespace.
    let attr: [u64; 4] = [MountAttr { read_only: true, ..MountAttr::default() }.bits(), 0, 0, 0];
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: an open descriptor, a C string, and the four numbers of the kernel's structure with their size.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            attr.as_ptr(),
            size_of_val(&attr),
        )
    })?;
    Ok(tree)
}

/// Puts the mount `tree` onto the directory `at`.
pub fn attach(tree: BorrowedFd<'_>, at: BorrowedFd<'_>) -> Result<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    let empty = c"".as_ptr();
    // SAFETY: open descriptors and C strings that outlive the call.
    let done =
        unsafe { libc::syscall(libc::SYS_move_mount, tree.as_raw_fd(), empty, at.as_raw_fd(), empty, flags) };
    Errno::result(done).map(drop)
}

/// Takes the mount whose root `tree` is out of its peer group: what is mounted in it, or unmounted, stays its own.
pub fn make_private(tree: BorrowedFd<'_>) -> Result<()> {
    use nix::mount::{MsFlags, mount};
    let path = format!("/proc/self/fd/{}", tree.as_raw_fd());
    let none = None::<&str>;
    mount(none, path.as_str(), none, MsFlags::MS_PRIVATE, none)
}

/// Whether the kernel clones mounts that are in no namespace, tried on a filesystem of our own.
pub fn clones_detached_trees() -> bool {
    let attempt = || -> Result<OwnedFd> {
        let context = FsContext::open(c"tmpfs")?;
        context.create()?;
        let tree = context.mount(MountAttr::default())?;
        nix::sys::stat::mkdirat(&tree, c"probe", Mode::S_IRWXU)?;
        clone_tree(borrow(&tree), c"probe")
    };
    attempt().is_ok()
}

fn borrow(fd: &OwnedFd) -> BorrowedFd<'_> {
    std::os::fd::AsFd::as_fd(fd)
}

/// Which mount a descriptor is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountFacts {
    /// Its id: never reused since boot from kernel 6.8 on, reused after unmounting before.
    pub id: u64,
    /// Minor device number of its filesystem; for FUSE the number of the connection.
    pub minor: u32,
}

/// Says which mount `fd` is in, without asking its filesystem anything.
pub fn mount_of(fd: BorrowedFd<'_>) -> Result<MountFacts> {
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;
    let mask = STATX_MNT_ID | STATX_MNT_ID_UNIQUE;
    // SAFETY: an open descriptor, a C string, and room for one `statx`.
    let done = unsafe { libc::statx(fd.as_raw_fd(), c"".as_ptr(), flags, mask, found.as_mut_ptr()) };
    Errno::result(done)?;
    // SAFETY: every byte pattern is a valid `statx`, and it was zeroed before the call.
    let found = unsafe { found.assume_init() };
    Ok(MountFacts { id: found.stx_mnt_id, minor: found.stx_dev_minor })
}

/// A handle on what is at `path` now, for the calls of this module; a symlink at its end is not followed.
pub fn locate(path: &Path) -> Result<OwnedFd> {
    open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
}

/// Detaches the mount whose root `root` is. Users of it keep it until they are done. Errors: EPERM without
/// CAP_SYS_ADMIN, EINVAL when it is in no namespace of ours.
pub fn detach(root: BorrowedFd<'_>) -> Result<()> {
    let path = CString::new(format!("/proc/self/fd/{}", root.as_raw_fd())).map_err(|_| Errno::EINVAL)?;
    // SAFETY: a C string that outlives the call.
    Errno::result(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) }).map(drop)
}

/// mount(2), for kernels without fsopen.
pub fn mount_by_path(source: &str, target: &Path, kind: &str, attr: MountAttr, data: &str) -> Result<()> {
    use nix::mount::{MsFlags, mount};
    let choices = [
        (attr.read_only, MsFlags::MS_RDONLY),
        (attr.nosuid, MsFlags::MS_NOSUID),
        (attr.nodev, MsFlags::MS_NODEV),
        (attr.noexec, MsFlags::MS_NOEXEC),
        (attr.noatime, MsFlags::MS_NOATIME),
    ];
    let flags =
        choices.iter().filter(|(chosen, _)| *chosen).fold(MsFlags::empty(), |all, (_, flag)| all | *flag);
    mount(Some(source), target, Some(kind), flags, Some(data))
}

/// Asks the mounted filesystem with the anonymous device number `minor` for its figures, without any path to it.
///
/// # Errors
/// EINVAL when there is no such filesystem (any more), ENOSYS where the system call is missing or forbidden.
pub fn ask_superblock(minor: u32) -> Result<()> {
    #[cfg(target_arch = "x86_64")]
    {
        // struct ustat is 32 bytes of which nothing is read here.
        let mut figures = [0u64; 8];
        let device = (minor & 0xff) | ((minor & !0xff) << 12);
        // SAFETY: the kernel writes 32 bytes to memory twice as long.
        Errno::result(unsafe { libc::syscall(libc::SYS_ustat, device, figures.as_mut_ptr()) })?;
        Ok(())
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _: u32 = minor;
        Err(Errno::ENOSYS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_descriptors_of_one_mount_give_one_id() {
        let root = locate(Path::new("/")).unwrap();
        let again = locate(Path::new("/")).unwrap();
        assert_eq!(mount_of(borrow(&root)).unwrap(), mount_of(borrow(&again)).unwrap());
        let proc = locate(Path::new("/proc")).unwrap();
        assert_ne!(mount_of(borrow(&root)).unwrap().id, mount_of(borrow(&proc)).unwrap().id);
    }
}
