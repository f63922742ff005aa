//! File handles: names of objects that survive renames and remounts.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::at::{At, check, check_fd};
use super::{Dir, Errno, Result};

/// The most bytes a handle has.
const MAX: usize = 128;

/// What name_to_handle_at(2) gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileHandle {
    /// The filesystem's own type number.
    pub kind: i32,
    /// The filesystem's own bytes.
    pub bytes: Vec<u8>,
}

impl FileHandle {
    /// Whether this looks like the handle that the kernel's generic 32-bit encoder writes (ext4, f2fs, squashfs, …):
    /// type 1, inode number, generation. `ino` is the inode's number. Such a filesystem never uses the upper half of an
    /// inode number, which overlayfs relies upon for `xino` (I-3).
    pub fn is_ino32(&self, ino: u64) -> bool {
        self.kind == 1
            && self.bytes.len() == 8
            && self
                .bytes
                .get(..4)
                .is_some_and(|low| u32::try_from(ino).is_ok_and(|ino| low == ino.to_ne_bytes()))
    }
}

#[repr(C)]
struct Raw {
    len: u32,
    kind: i32,
    bytes: [u8; MAX],
}

/// The handle of an object. Errors: EOPNOTSUPP where the filesystem has none.
pub fn of(at: At<'_>) -> Result<FileHandle> {
    let mut raw = Raw { len: MAX as u32, kind: 0, bytes: [0; MAX] };
    let mut mount_id = 0i32;
    let (fd, path, flags) = match at {
        At::Name(dir, name) => (dir.as_raw_fd(), name.as_cstr().as_ptr(), 0),
        At::Fd(fd) => (fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH),
    };
    // SAFETY: `raw` starts like struct file_handle and says how many bytes follow; the path is NUL-terminated.
    let done = check(unsafe {
        libc::syscall(libc::SYS_name_to_handle_at, fd, path, &raw mut raw, &raw mut mount_id, flags)
    });
    match done {
        Ok(_) => {}
        // There is room for every handle, so this too says that the filesystem made none.
        Err(Errno::EOVERFLOW) => return Err(Errno::EOPNOTSUPP),
        Err(e) => return Err(e),
    }
    let bytes = raw.bytes.get(..raw.len as usize).ok_or(Errno::EOVERFLOW)?.to_vec();
    Ok(FileHandle { kind: raw.kind, bytes })
}

/// An `O_PATH` descriptor of the object a handle names, on the filesystem of `mount` (a real descriptor, not an
/// `O_PATH` one). Errors: ESTALE when it is gone, EPERM without CAP_DAC_READ_SEARCH.
pub fn open(mount: BorrowedFd<'_>, handle: &FileHandle) -> Result<OwnedFd> {
    let mut raw = Raw { len: handle.bytes.len() as u32, kind: handle.kind, bytes: [0; MAX] };
    raw.bytes.get_mut(..handle.bytes.len()).ok_or(Errno::ESTALE)?.copy_from_slice(&handle.bytes);
    let flags = libc::O_PATH | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    // SAFETY: `raw` is a complete struct file_handle.
    let fd = unsafe { libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), &raw mut raw, flags) };
    check_fd(fd as libc::c_int)
}

#[repr(C)]
struct FsUuid {
    len: u8,
    uuid: [u8; 16],
}

mod raw {
    #![allow(missing_docs)]
    use super::*;
    nix::ioctl_read!(get_fs_uuid, 0x15, 0, FsUuid);
    nix::ioctl_read!(get_btrfs_info, 0x94, 31, BtrfsInfo);
}

/// The UUID of the filesystem a directory is on; zeros where it has none, and for a directory that cannot be read.
pub fn filesystem_uuid(dir: &Dir) -> [u8; 16] {
    let mut out = FsUuid { len: 0, uuid: [0; 16] };
    // The question is not answered on an `O_PATH` descriptor.
    let Ok(readable) = dir.open_readable() else { return out.uuid };
    // SAFETY: `out` has the layout of struct fsuuid2.
    match unsafe { raw::get_fs_uuid(readable.as_raw_fd(), &raw mut out) } {
        Ok(_) if out.len == 16 => out.uuid,
        _ => btrfs_uuid(&readable),
    }
}

/// struct btrfs_ioctl_fs_info_args, as far as it is read here.
#[repr(C)]
struct BtrfsInfo {
    max_id: u64,
    devices: u64,
    fsid: [u8; 16],
    rest: [u8; 992],
}

/// The UUID of a btrfs filesystem, which does not answer the general question; zeros for any other.
fn btrfs_uuid(dir: &OwnedFd) -> [u8; 16] {
    let mut out = BtrfsInfo { max_id: 0, devices: 0, fsid: [0; 16], rest: [0; 992] };
    // SAFETY: `out` has the size that the ioctl number says, 1,024 bytes.
    match unsafe { raw::get_btrfs_info(dir.as_raw_fd(), &raw mut out) } {
        Ok(_) => out.fsid,
        Err(_) => [0; 16],
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::NameBuf;

    #[test]
    fn a_handle_finds_its_object_again_after_a_rename() {
        let t = tempfile::tempdir().unwrap();
        std::fs::write(t.path().join("a"), "x").unwrap();
        let dir = Dir::open_path(t.path()).unwrap();
        let name = NameBuf::new(b"a").unwrap();
        let ino = dir.stat(&name).unwrap().ino;
        let handle = of(dir.at(&name)).unwrap();
        std::fs::rename(t.path().join("a"), t.path().join("b")).unwrap();
        let mount = dir.open_readable().unwrap();
        match open(mount.as_fd(), &handle) {
            Err(Errno::EPERM) => println!("skipped: needs CAP_DAC_READ_SEARCH"),
            found => assert_eq!(At::Fd(found.unwrap().as_fd()).stat().unwrap().ino, ino),
        }
    }

    #[test]
    fn the_uuid_of_a_filesystem_is_the_one_it_was_made_with() {
        use crate::sys::testing::{mount_ext4, with_private_mounts};
        with_private_mounts(|| {
            let t = tempfile::tempdir().unwrap();
            let disk = t.path().join("disk");
            if mount_ext4(&t.path().join("image"), "00112233-4455-6677-8899-aabbccddeeff", &disk) {
                let expected = std::array::from_fn(|i| i as u8 * 0x11);
                assert_eq!(filesystem_uuid(&Dir::open_path(&disk).unwrap()), expected);
            }
            assert_eq!(filesystem_uuid(&Dir::open_path(std::path::Path::new("/proc")).unwrap()), [0; 16]);
        });
    }
}
