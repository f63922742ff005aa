//! The mounts that this process sees, and which of them a path or descriptor is in.
//!
//! Nothing here may wait for a server that hangs or is dead: mounts are recognised from /proc and from `O_PATH`
//! descriptors, which ask the file system nothing. [`responds`] alone does ask.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::mount::MntFlags;
use nix::sys::stat::Mode;

use super::{Errno, Result};

/// One line of /proc/self/mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// The mount's id, in use by one mount at a time.
    pub id: u64,
    /// Its file system's device number.
    pub device: (u32, u32),
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The file system's type, for instance `fuse.acetate`.
    pub kind: String,
    /// The source as mount(8) shows it.
    pub source: OsString,
    /// The file system's own options.
    pub options: String,
}

impl MountEntry {
    /// The user who mounted it, if it is a FUSE mount.
    pub fn user(&self) -> Option<u32> {
        self.options.split(',').find_map(|word| word.strip_prefix("user_id=")).and_then(|id| id.parse().ok())
    }
}

/// The mounts of this process's mount namespace that lie below its root, oldest first.
///
/// # Errors
/// When /proc cannot be read.
pub fn mounts() -> Result<Vec<MountEntry>> {
    let text = std::fs::read("/proc/self/mountinfo")
        .map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    Ok(text.split(|b| *b == b'\n').filter_map(parse).collect())
}

/// `36 35 98:0 /root /mnt/point options optional… - type source super`
fn parse(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|b| *b == b' ');
    let id = number(fields.next()?)?;
    let mut device = fields.nth(1)?.split(|b| *b == b':');
    let device = (number(device.next()?)?, number(device.next()?)?);
    let mountpoint = PathBuf::from(unescape(fields.nth(1)?));
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = unescape(fields.next()?);
    let options = String::from_utf8_lossy(fields.next()?).into_owned();
    Some(MountEntry { id, device, mountpoint, kind, source, options })
}

/// The mounts that shift ids (MOUNT_ATTR_IDMAP), as /proc lists them now.
#[derive(Debug)]
pub struct Idmapped(Vec<u64>);

impl Idmapped {
    /// Reads the list; empty without /proc.
    pub fn now() -> Idmapped {
        let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
        let idmapped = |line: &[u8]| {
            let mut fields = line.split(|b| *b == b' ');
            let id = fields.next().and_then(number)?;
            let flags = fields.nth(4)?;
            flags.split(|b| *b == b',').any(|flag| flag == b"idmapped").then_some(id)
        };
        Idmapped(text.split(|b| *b == b'\n').filter_map(idmapped).collect())
    }

    /// Whether the mount that `fd` is in is one of them.
    pub fn has(&self, fd: BorrowedFd<'_>) -> bool {
        !self.0.is_empty() && mount_id(fd).is_some_and(|id| self.0.contains(&id))
    }
}

fn number<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Undoes the kernel's `\040` for blanks, tabs, newlines and backslashes.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|digits| digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match (first, octal) {
            (b'\\', Some(digits)) => {
                out.push(
                    digits.iter().fold(0u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')),
                );
                rest = &tail[3..];
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out)
}

/// A handle on what is at `path`, symlinks followed; opens nothing and asks no file system that is mounted there.
///
/// # Errors
/// As open(2); ENOTDIR when it is no directory.
pub fn locate_dir(path: &Path) -> Result<OwnedFd> {
    open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

/// The path by which the kernel knows `fd` (L-8: never computed from words). `None` when it has none that leads back
/// there: deleted, outside this process's root, longer than a page, or no /proc.
pub fn path_of(fd: BorrowedFd<'_>) -> Option<PathBuf> {
    let path = std::fs::read_link(proc_path(fd)).ok()?;
    let bytes = path.as_os_str().as_bytes();
    let leads_back = || mount_id(locate_dir(&path).ok()?.as_fd()).zip(mount_id(fd)).map(|(a, b)| a == b);
    match bytes.first() {
        Some(b'/') if !bytes.ends_with(b" (deleted)") && leads_back() == Some(true) => Some(path),
        _ => None,
    }
}

/// `/proc/self/fd/N`, which opens exactly what `fd` is, for as long as `fd` is open.
pub fn proc_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// The id of the mount that `fd` is in.
pub fn mount_id(fd: BorrowedFd<'_>) -> Option<u64> {
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;
    // SAFETY: an open descriptor, a C string, and room for one `statx`.
    let done =
        unsafe { libc::statx(fd.as_raw_fd(), c"".as_ptr(), flags, libc::STATX_MNT_ID, found.as_mut_ptr()) };
    // SAFETY: every byte pattern is a valid `statx`, and it was zeroed before the call.
    let found = unsafe { found.assume_init() };
    if done == 0 && found.stx_mask & libc::STATX_MNT_ID != 0 {
        return Some(found.stx_mnt_id);
    }
    // Before kernel 5.8.
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

/// Asks the file system of `fd` for the attributes of `fd`, past every cache. Errors: ENOTCONN when its server is
/// dead. Waits as long as the server does.
pub fn responds(fd: BorrowedFd<'_>) -> Result<()> {
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_FORCE_SYNC | libc::AT_NO_AUTOMOUNT;
    // SAFETY: an open descriptor, a C string, and room for one `statx`.
    let done = unsafe {
        libc::statx(fd.as_raw_fd(), c"".as_ptr(), flags, libc::STATX_BASIC_STATS, found.as_mut_ptr())
    };
    Errno::result(done).map(drop)
}

/// Whether `fd` is on a FUSE mount whose server is gone: ENOTCONN, or ECONNABORTED while it goes.
pub fn is_dead(fd: BorrowedFd<'_>) -> bool {
    matches!(responds(fd), Err(Errno::ENOTCONN | Errno::ECONNABORTED))
}

/// The type number of the file system that holds `fd` (`f_type` of statfs(2)).
///
/// # Errors
/// As fstatfs(2).
pub fn filesystem_type(fd: BorrowedFd<'_>) -> Result<i64> {
    #[allow(clippy::unnecessary_cast)] // its width differs between C libraries
    nix::sys::statfs::fstatfs(fd).map(|s| s.filesystem_type().0 as i64)
}

/// When a mount is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// Only if nobody uses it.
    Unused,
    /// From sight at once; it ends when nobody uses it.
    Lazy,
}

/// Takes away the topmost mount at `path`; a symlink at its end is not followed.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN, EBUSY while somebody uses it, EINVAL when nothing is mounted there.
pub fn unmount(path: &Path, how: Unmount) -> Result<()> {
    let lazy = match how {
        Unmount::Unused => MntFlags::empty(),
        Unmount::Lazy => MntFlags::MNT_DETACH,
    };
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    nix::mount::umount2(path.as_c_str(), lazy | MntFlags::UMOUNT_NOFOLLOW)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn a_line_of_mountinfo_is_read_with_its_escapes() {
        let line = br"36 35 0:52 /child /mnt/a\040b\134c rw,nosuid shared:1 - fuse.acetate so\011urce rw,user_id=7,group_id=0";
        let entry = parse(line).unwrap();
        assert_eq!((entry.id, entry.device), (36, (0, 52)));
        assert_eq!(entry.mountpoint, PathBuf::from("/mnt/a b\\c"));
        assert_eq!((entry.kind.as_str(), entry.source.as_os_str()), ("fuse.acetate", OsStr::new("so\turce")));
        assert_eq!(entry.user(), Some(7));
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"1 2 x"), None);
    }

    #[test]
    fn the_root_is_a_mount_of_this_process_and_is_found_by_its_id() {
        let root = locate_dir(Path::new("/")).unwrap();
        let id = mount_id(root.as_fd()).unwrap();
        assert!(mounts().unwrap().iter().any(|m| m.id == id && m.mountpoint == Path::new("/")));
        assert_eq!(path_of(root.as_fd()), Some(PathBuf::from("/")));
        responds(root.as_fd()).unwrap();
    }

    #[test]
    fn a_path_is_what_the_kernel_says_and_not_what_the_words_say() {
        let dir = tempfile::tempdir().unwrap();
        let top = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::create_dir_all(top.join("a/b")).unwrap();
        std::fs::create_dir(top.join("c")).unwrap();
        std::os::unix::fs::symlink(top.join("a/b"), top.join("c/link")).unwrap();
        let fd = locate_dir(&top.join("c/link/..")).unwrap();
        assert_eq!(path_of(fd.as_fd()), Some(top.join("a")));
        std::fs::remove_dir_all(top.join("a")).unwrap();
        assert_eq!(path_of(fd.as_fd()), None);
        assert_eq!(locate_dir(&top.join("a")).unwrap_err(), Errno::ENOENT);
    }
}
