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

/// Where the inode number and the generation are in the handles of a filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    ino: usize,
    wide: bool,
    generation: usize,
}

impl Form {
    /// The forms of ext4 and its like, tmpfs, xfs, btrfs.
    fn of(kind: i32, length: usize) -> Option<Form> {
        match (kind, length) {
            (1, 8) => Some(Form { ino: 0, wide: false, generation: 4 }),
            (1, 12) => Some(Form { ino: 4, wide: true, generation: 0 }),
            (0x81, 12) => Some(Form { ino: 0, wide: true, generation: 8 }),
            (0x4d, 20) => Some(Form { ino: 0, wide: true, generation: 16 }),
            _ => None,
        }
    }
}

impl FileHandle {
    /// The inode number and the generation in a handle of a known form. `None` for another form, and for a number of
    /// more than 32 bits.
    pub fn parts(&self) -> Option<(u32, u32)> {
        let form = Form::of(self.kind, self.bytes.len())?;
        let word = |at: usize| self.bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
        let (low, high) = if cfg!(target_endian = "big") && form.wide {
            (form.ino + 4, form.ino)
        } else {
            (form.ino, form.ino + 4)
        };
        if form.wide && word(high)? != 0 {
            return None;
        }
        Some((word(low)?, word(form.generation)?))
    }

    /// The handle of another object of the same filesystem (and subvolume). `None` for an unknown form.
    pub fn of_another(&self, ino: u32, generation: u32) -> Option<FileHandle> {
        let form = Form::of(self.kind, self.bytes.len())?;
        let mut other = self.clone();
        let mut put = |at: usize, value: &[u8]| {
            other.bytes.get_mut(at..at + value.len()).map(|place| place.copy_from_slice(value))
        };
        match form.wide {
            true => put(form.ino, &u64::from(ino).to_ne_bytes())?,
            false => put(form.ino, &ino.to_ne_bytes())?,
        }
        put(form.generation, &generation.to_ne_bytes())?;
        Some(other)
    }
}

/// The type number of a handle that FUSE makes: node id and generation, words with the upper half first.
const FUSE_KIND: i32 = 0x81;

impl FileHandle {
    /// The node id in a handle of a FUSE filesystem, if the node is one that the server promises to know for good: such a
    /// node's generation is 0 (`union::types`). `None` for another form. Only the caller knows that it is FUSE's: some
    /// other filesystems have handles of the same type and length.
    pub fn fuse_node(&self) -> Option<u64> {
        let word = |at: usize| self.bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
        let lasts = self.kind == FUSE_KIND && self.bytes.len() == 12 && word(8)? == 0;
        lasts.then_some(u64::from(word(0)?) << 32 | u64::from(word(4)?))
    }

    /// The inverse of [`FileHandle::fuse_node`].
    pub fn of_fuse_node(node: u64) -> FileHandle {
        let words = [(node >> 32) as u32, node as u32, 0];
        FileHandle { kind: FUSE_KIND, bytes: words.into_iter().flat_map(u32::to_ne_bytes).collect() }
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
    fn a_handle_is_made_again_of_its_number_and_generation_i9() {
        for (kind, length) in [(1, 8), (1, 12), (0x81, 12), (0x4d, 20)] {
            let root = FileHandle { kind, bytes: vec![0; length] };
            let made = root.of_another(0x0102_0304, 0xa0b0_c0d0).unwrap();
            assert_eq!(made.parts(), Some((0x0102_0304, 0xa0b0_c0d0)));
            assert_eq!(root.of_another(0, 0), Some(root));
        }
        assert_eq!(FileHandle { kind: 1, bytes: vec![255; 12] }.parts(), None);
        assert_eq!(FileHandle { kind: 9, bytes: vec![0; 8] }.parts(), None);
    }

    #[test]
    fn a_handle_of_a_lasting_node_is_made_again_of_its_id_i9() {
        for node in [1, 12, 0x0102_0304_a0b0_c0d0, u64::MAX] {
            assert_eq!(FileHandle::of_fuse_node(node).fuse_node(), Some(node));
        }
        let mut passing = FileHandle::of_fuse_node(5);
        passing.bytes[8] = 1;
        assert_eq!(passing.fuse_node(), None);
        assert_eq!(FileHandle { kind: 1, bytes: vec![0; 12] }.fuse_node(), None);
    }

    #[test]
    fn handles_of_real_filesystems_are_made_again_i9() {
        let dir = Dir::open_path(std::path::Path::new("/dev/shm")).unwrap();
        let at = dir.this();
        let handle = of(at).unwrap();
        let (ino, generation) = handle.parts().unwrap();
        assert_eq!(u64::from(ino), at.stat().unwrap().ino);
        assert_eq!(handle.of_another(ino, generation), Some(handle));
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
