//! A private view of a layer.
//!
//! Whoever holds a descriptor beneath an ordinary mount depends on that mount's flags, and can be made to write
//! through it. A clone of the mount that is attached nowhere belongs to this process alone: it can be made read-only
//! and noatime without anybody noticing, the kernel itself then refuses a writable reopen (C-23) and leaves access
//! times alone, and file systems mounted inside the layer later do not appear in it.
//!
//! Not every process may clone a mount; then the plain directory serves, and the caller is told.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::NixPath;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use super::{Dir, Errno, NameBuf, Result};

/// What may be done beneath a clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing changes: writing is EROFS, and reading leaves no access time where the kernel allows us to say so.
    ReadOnly,
    /// As the mount it was cloned from.
    ReadWrite,
}

/// When reading beneath a clone advances access times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessTimes {
    /// Of whatever is read.
    pub when: When,
    /// Of directories too.
    pub directories: bool,
}

/// See mount(8): `relatime`, `noatime`, `strictatime`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// When they are older than the last change, or than a day.
    Due,
    /// Never.
    Never,
    /// Always.
    Always,
}

/// How the directory was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// Through a clone of its mount.
    Clone {
        /// Reading leaves access times alone. False for [`Access::ReadWrite`], and for a read-only clone in a user
        /// namespace (the kernel allows read-only there, not noatime): open with O_NOATIME where that is possible.
        noatime: bool,
    },
    /// As it is, because cloning failed with this errno: EPERM without CAP_SYS_ADMIN, EINVAL where the mount cannot be
    /// cloned (`/` of a user namespace), ENOSYS on a kernel without open_tree or mount_setattr.
    Plain(Errno),
}

/// A directory and the private mount it was opened beneath. The mount goes when both descriptors, and everything
/// opened beneath them, are closed.
#[derive(Debug)]
pub struct ClonedMount {
    /// The root of the clone (O_PATH).
    pub tree: OwnedFd,
    /// The same directory, opened for reading: for listing it, and for resolving file handles, which an O_PATH
    /// descriptor does not serve.
    pub root: OwnedFd,
    /// What it is.
    pub kind: MountKind,
}

/// Opens the directory `path` beneath a clone of its mount. The kernel resolves `path`, symbolic links included; what
/// is mounted inside the directory is not part of the clone.
///
/// Two clones of one file system are two mounts: rename and link between them are EXDEV, so an upper directory and its
/// work directory have to be reached through one clone of a directory that holds both.
///
/// Errors: ENOTDIR when `path` is no directory; ENOENT, ELOOP, EACCES, ENAMETOOLONG of resolving it; EMFILE, ENFILE,
/// ENOMEM. That a clone cannot be had is not an error, see [`MountKind::Plain`].
pub fn private_clone(path: &Path, access: Access) -> Result<ClonedMount> {
    match clone_tree(path).and_then(|tree| Ok((restrict(tree.as_fd(), access)?, tree))) {
        Ok((noatime, tree)) => {
            let root = open_root(tree.as_fd())?;
            Ok(ClonedMount { tree, root, kind: MountKind::Clone { noatime } })
        }
        Err(errno @ (Errno::EPERM | Errno::EINVAL | Errno::ENOSYS)) => {
            let tree = open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
            let root = open_root(tree.as_fd())?;
            Ok(ClonedMount { tree, root, kind: MountKind::Plain(errno) })
        }
        Err(errno) => Err(errno),
    }
}

/// Two directories beneath one private clone of the mount that both are in. It goes when all three are closed.
#[derive(Debug)]
pub struct ClonedPair {
    /// The root of the clone (O_PATH).
    pub tree: OwnedFd,
    /// The same directories as those given.
    pub dirs: [Dir; 2],
}

/// Finds two directories again beneath one clone of their mount, with access times of its own. Rename and link work
/// between them. Errors: EPERM without CAP_SYS_ADMIN, and where these flags are locked; ESTALE when they are in two mounts
/// or have no path; others as open_tree(2).
pub fn private_pair(dirs: [&Dir; 2], times: AccessTimes) -> Result<ClonedPair> {
    let paths = dirs.map(path_of);
    let [Ok(one), Ok(other)] = &paths else { return Err(Errno::ESTALE) };
    let both = one.components().zip(other.components()).take_while(|(a, b)| a == b).map(|(a, _)| a);
    let top: PathBuf = both.collect();
    let tree = clone_tree(&top)?;
    let attributes = libc::mount_attr {
        attr_set: match times.when {
            When::Due => libc::MOUNT_ATTR_RELATIME,
            When::Never => libc::MOUNT_ATTR_NOATIME,
            When::Always => libc::MOUNT_ATTR_STRICTATIME,
        } | if times.directories { 0 } else { libc::MOUNT_ATTR_NODIRATIME },
        attr_clr: libc::MOUNT_ATTR__ATIME | libc::MOUNT_ATTR_NODIRATIME,
        propagation: 0,
        userns_fd: 0,
    };
    set_attributes(tree.as_fd(), &attributes)?;
    let below = |dir: &Dir, path: &Path| -> Result<Dir> {
        let mut at = Dir::from(tree.try_clone().map_err(super::errno_of)?);
        for name in path.strip_prefix(&top).map_err(|_| Errno::ESTALE)? {
            at = match at.open_dir(&NameBuf::new(name.as_bytes())?) {
                Err(Errno::ENOENT | Errno::ENOTDIR) => return Err(Errno::ESTALE),
                found => found?,
            };
        }
        let (found, wanted) = (at.this().stat()?, dir.this().stat()?);
        if (found.dev, found.ino) == (wanted.dev, wanted.ino) { Ok(at) } else { Err(Errno::ESTALE) }
    };
    let found = [below(dirs[0], one)?, below(dirs[1], other)?];
    Ok(ClonedPair { tree, dirs: found })
}

/// The path that the kernel knows an open directory by.
fn path_of(dir: &Dir) -> Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd())).map_err(super::errno_of)
}

/// A real descriptor of the directory that `tree` names.
fn open_root(tree: BorrowedFd<'_>) -> Result<OwnedFd> {
    openat(tree, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

fn clone_tree(path: &Path) -> Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::O_CLOEXEC as u32;
    let raw = path.with_nix_path(|path| {
        // SAFETY: the path ends with NUL and outlives the call; the kernel only reads it.
        unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) }
    })?;
    let raw = i32::try_from(Errno::result(raw)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Sets the flags of the clone; tells whether it is noatime.
fn restrict(tree: BorrowedFd<'_>, access: Access) -> Result<bool> {
    if access == Access::ReadWrite {
        return Ok(false);
    }
    let quiet = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOATIME,
        attr_clr: libc::MOUNT_ATTR__ATIME,
        propagation: 0,
        userns_fd: 0,
    };
    match set_attributes(tree, &quiet) {
        Ok(()) => Ok(true),
        Err(Errno::EPERM) => {
            let still = libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, ..quiet };
            set_attributes(tree, &still).map(|()| false)
        }
        Err(errno) => Err(errno),
    }
}

fn set_attributes(tree: BorrowedFd<'_>, attributes: &libc::mount_attr) -> Result<()> {
    // SAFETY: an empty path with AT_EMPTY_PATH names the descriptor itself; the structure has the size given.
    let code = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(code).map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::sys::testing::{mount_tmpfs, root_or_skip, with_private_mounts};

    fn try_create(root: &OwnedFd) -> Result<()> {
        let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        openat(root, "made", flags, Mode::from_bits_truncate(0o644)).map(drop)
    }

    #[test]
    fn a_read_only_clone_refuses_writing_and_the_original_does_not() {
        if !root_or_skip() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let clone = private_clone(dir.path(), Access::ReadOnly).unwrap();
        assert_eq!(clone.kind, MountKind::Clone { noatime: true });
        assert_eq!(try_create(&clone.root), Err(Errno::EROFS));
        std::fs::write(dir.path().join("made"), b"x").unwrap();
        let file = openat(&clone.root, "made", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
        let reopen = format!("/proc/self/fd/{}", file.as_raw_fd());
        assert_eq!(std::fs::File::options().write(true).open(reopen).unwrap_err().raw_os_error(), Some(30));
    }

    #[test]
    fn reading_through_a_read_only_clone_leaves_no_access_time() {
        use std::os::unix::fs::MetadataExt;
        with_private_mounts(|| {
            let dir = tempfile::tempdir().unwrap();
            mount_tmpfs(dir.path());
            let path = dir.path().join("f");
            std::fs::write(&path, b"x").unwrap();
            let old = std::time::SystemTime::UNIX_EPOCH;
            let times = std::fs::FileTimes::new().set_accessed(old).set_modified(old);
            File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
            let clone = private_clone(dir.path(), Access::ReadOnly).unwrap();
            let file = openat(&clone.root, "f", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
            assert_eq!(nix::unistd::read(&file, &mut [0; 4]), Ok(1));
            assert_eq!(std::fs::metadata(&path).unwrap().atime(), 0);
            assert_eq!(std::fs::read(&path).unwrap(), b"x");
            assert_ne!(
                std::fs::metadata(&path).unwrap().atime(),
                0,
                "the original mount keeps its own habits"
            );
        });
    }

    #[test]
    fn a_writable_clone_lets_rename_work_inside_and_not_across() {
        if !root_or_skip() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let one = private_clone(dir.path(), Access::ReadWrite).unwrap();
        let two = private_clone(dir.path(), Access::ReadWrite).unwrap();
        try_create(&one.root).unwrap();
        nix::fcntl::renameat(&one.root, "made", &one.root, "moved").unwrap();
        assert_eq!(nix::fcntl::renameat(&one.root, "moved", &two.root, "again"), Err(Errno::EXDEV));
    }

    #[test]
    fn a_pair_is_found_again_beneath_one_clone_with_times_of_its_own() {
        if !root_or_skip() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
            Dir::open_path(&dir.path().join(name)).unwrap()
        };
        let (one, other) = (place("a/deep/one"), place("a/other"));
        let times = AccessTimes { when: When::Never, directories: true };
        let pair = private_pair([&one, &other], times).unwrap();
        std::fs::write(dir.path().join("a/deep/one/f"), b"x").unwrap();
        nix::fcntl::renameat(&pair.dirs[0], "f", &pair.dirs[1], "f").unwrap();
        let path = dir.path().join("a/other/f");
        let old = std::fs::FileTimes::new().set_accessed(std::time::SystemTime::UNIX_EPOCH);
        File::options().write(true).open(&path).unwrap().set_times(old).unwrap();
        let file = openat(&pair.dirs[1], "f", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
        assert_eq!(nix::unistd::read(&file, &mut [0; 4]), Ok(1));
        let atime = |path| std::os::unix::fs::MetadataExt::atime(&std::fs::metadata(path).unwrap());
        assert_eq!(atime(&path), 0);
        std::fs::remove_dir_all(dir.path().join("a/deep")).unwrap();
        assert_eq!(private_pair([&one, &other], times).map(drop), Err(Errno::ESTALE));
    }

    #[test]
    fn what_is_mounted_inside_the_directory_does_not_show() {
        with_private_mounts(|| {
            let dir = tempfile::tempdir().unwrap();
            mount_tmpfs(&dir.path().join("inner"));
            std::fs::write(dir.path().join("inner/hidden"), b"x").unwrap();
            let clone = private_clone(dir.path(), Access::ReadOnly).unwrap();
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            let found = openat(&clone.root, "inner/hidden", flags, Mode::empty()).map(drop);
            assert_eq!(found, Err(Errno::ENOENT));
        });
    }

    #[test]
    fn symlinks_are_followed_and_a_file_is_enotdir() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), b"x").unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::fs::write(dir.path().join("real/inside"), b"x").unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        let open = |name: &str| private_clone(&dir.path().join(name), Access::ReadOnly);
        assert_eq!(open("file").map(|_| ()), Err(Errno::ENOTDIR));
        assert_eq!(open("none").map(|_| ()), Err(Errno::ENOENT));
        let through = open("link").unwrap();
        assert!(openat(&through.root, "inside", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).is_ok());
    }

    #[test]
    fn without_the_right_to_clone_the_plain_directory_serves() {
        if !root_or_skip() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        std::thread::spawn(move || {
            if let Err(errno) = crate::sys::cred::without(crate::sys::cred::cap::SYS_ADMIN) {
                println!("skipped: {errno}");
                return;
            }
            let plain = private_clone(&path, Access::ReadOnly).unwrap();
            assert_eq!(plain.kind, MountKind::Plain(Errno::EPERM));
            assert_eq!(try_create(&plain.root), Ok(()));
        })
        .join()
        .unwrap();
    }
}
