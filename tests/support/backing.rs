//! The private mount namespace, and in it one scratch filesystem of each kind.
//!
//! The namespace is made by the first thread that asks and joined by all later ones, so a loop image is made and
//! mounted once per run. The images are anonymous files in memory, the mounts lie in one tmpfs over a temporary
//! directory: a killed run leaves an empty directory behind and nothing else. (An image *inside* that tmpfs would
//! pin it, and be pinned by the mount below it, for ever.)

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::sys;

/// A kind of filesystem that layers can lie on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fs {
    /// ext4: handles, attributes, file flags, no reflinks.
    Ext4,
    /// xfs: reflinks.
    Xfs,
    /// btrfs: reflinks, directories with one link.
    Btrfs,
    /// tmpfs.
    Tmpfs,
}

/// A mounted scratch filesystem.
#[derive(Clone, Debug)]
pub struct Backing {
    /// Where it is mounted with strict access times, as mounts under test see it.
    pub plain: PathBuf,
    /// The same tree through a mount that never changes access times, for building and looking.
    pub quiet: PathBuf,
}

/// Why something cannot run on this machine.
#[derive(Clone, Debug)]
pub struct Unavailable(pub String);

struct Namespace {
    handle: File,
    base: PathBuf,
    backings: Mutex<HashMap<Fs, Result<Backing, Unavailable>>>,
    serial: AtomicUsize,
}

static NAMESPACE: OnceLock<Result<Namespace, Unavailable>> = OnceLock::new();
static BASE: OnceLock<PathBuf> = OnceLock::new();

extern "C" fn remove_base() {
    // The main thread still sees the directory below the tmpfs: empty, and ours.
    if let Some(base) = BASE.get()
        && let Err(error) = std::fs::remove_dir(base)
    {
        eprintln!("{}: {error}", base.display());
    }
}

/// Puts the calling thread into the private namespace, with its own umask and working directory. Threads of a
/// test that did this hold nothing that outlives the process.
pub fn enter() -> Result<(), Unavailable> {
    if !sys::is_root() {
        return Err(Unavailable("needs root".into()));
    }
    match NAMESPACE.get_or_init(create) {
        Ok(namespace) => {
            let failed = |errno| Unavailable(format!("joining the test namespace: {errno}"));
            sys::unshare(libc::CLONE_FS).map_err(failed)?;
            sys::setns(namespace.handle.as_fd(), libc::CLONE_NEWNS).map_err(failed)?;
            sys::umask(0o022);
            Ok(())
        }
        Err(unavailable) => Err(unavailable.clone()),
    }
}

/// Made in a thread of its own, so that the namespace of the caller stays what it was until it joins.
fn create() -> Result<Namespace, Unavailable> {
    let made = std::thread::spawn(|| -> Result<Namespace, String> {
        let base =
            tempfile::Builder::new().prefix("acetate-tests-").tempdir().map_err(|e| e.to_string())?.keep();
        if BASE.set(base.clone()).is_ok() {
            sys::at_exit(remove_base);
        }
        let failed = |errno: nix::errno::Errno| format!("making a private mount namespace: {errno}");
        sys::unshare(libc::CLONE_FS | libc::CLONE_NEWNS).map_err(failed)?;
        sys::mount(b"", b"/", b"", libc::MS_REC | libc::MS_PRIVATE, b"").map_err(failed)?;
        sys::mount(b"tmpfs", base.as_os_str().as_bytes(), b"tmpfs", 0, b"mode=755").map_err(failed)?;
        std::fs::set_permissions(&base, PermissionsExt::from_mode(0o755)).map_err(|e| e.to_string())?;
        if std::fs::read_dir("/sys/fs/fuse/connections").is_ok_and(|mut list| list.next().is_none())
            && let Err(errno) = sys::mount(b"fusectl", b"/sys/fs/fuse/connections", b"fusectl", 0, b"")
        {
            eprintln!("no fusectl ({errno}): a hung mount can not be aborted");
        }
        let handle = File::open("/proc/thread-self/ns/mnt").map_err(|e| e.to_string())?;
        Ok(Namespace { handle, base, backings: Mutex::default(), serial: AtomicUsize::new(0) })
    })
    .join();
    match made {
        Ok(result) => result.map_err(Unavailable),
        Err(_) => Err(Unavailable("making the test namespace panicked".into())),
    }
}

fn namespace() -> &'static Namespace {
    match NAMESPACE.get() {
        Some(Ok(namespace)) => namespace,
        _ => panic!("the thread has not entered the test namespace"),
    }
}

/// The scratch filesystem of this kind, made on first use.
pub fn backing(fs: Fs) -> Result<Backing, Unavailable> {
    let namespace = namespace();
    let mut backings = namespace.backings.lock().unwrap_or_else(PoisonError::into_inner);
    backings.entry(fs).or_insert_with(|| make(&namespace.base, fs).map_err(Unavailable)).clone()
}

/// An empty directory on the tmpfs that holds everything, for mount points and such.
pub fn scratch(prefix: &str) -> PathBuf {
    let path = namespace().base.join(format!("{prefix}{}", serial()));
    std::fs::create_dir(&path).expect("a fresh directory on the scratch tmpfs");
    path
}

/// A number no other caller in this process gets.
pub fn serial() -> usize {
    namespace().serial.fetch_add(1, Ordering::Relaxed)
}

fn make(base: &Path, fs: Fs) -> Result<Backing, String> {
    let (name, size, mkfs): (&str, u64, &[&str]) = match fs {
        Fs::Ext4 => ("ext4", 512 << 20, &["mkfs.ext4", "-q", "-F", "-N", "65536", "-O", "^has_journal"]),
        Fs::Xfs => ("xfs", 512 << 20, &["mkfs.xfs", "-q", "-f"]),
        Fs::Btrfs => ("btrfs", 512 << 20, &["mkfs.btrfs", "-q", "-f"]),
        Fs::Tmpfs => ("tmpfs", 0, &[]),
    };
    let (plain, quiet) = (base.join(name), base.join(format!("{name}-quiet")));
    for directory in [&plain, &quiet] {
        std::fs::create_dir(directory).map_err(|e| e.to_string())?;
    }
    let at = plain.as_os_str().as_bytes();
    let failed = |errno: nix::errno::Errno| format!("{name}: {errno}");
    if mkfs.is_empty() {
        sys::mount(b"tmpfs", at, b"tmpfs", libc::MS_STRICTATIME, b"").map_err(failed)?;
    } else {
        mount_image(name, size, mkfs, &plain, libc::MS_STRICTATIME, b"")?;
    }
    std::fs::set_permissions(&plain, PermissionsExt::from_mode(0o755)).map_err(|e| e.to_string())?;
    let quiet_at = quiet.as_os_str().as_bytes();
    sys::mount(at, quiet_at, b"", libc::MS_BIND, b"").map_err(|e| format!("{name}: {e}"))?;
    let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_NOATIME | libc::MS_NODIRATIME;
    sys::mount(b"", quiet_at, b"", flags, b"").map_err(|e| format!("{name}: {e}"))?;
    Ok(Backing { plain, quiet })
}

/// Makes a filesystem in memory and mounts it.
fn mount_image(
    name: &str,
    size: u64,
    mkfs: &[&str],
    at: &Path,
    flags: u64,
    options: &[u8],
) -> Result<(), String> {
    let failed = |errno: nix::errno::Errno| format!("{name}: {errno}");
    let image = File::from(sys::memory_file(name.as_bytes()).map_err(failed)?);
    image.set_len(size).map_err(|e| e.to_string())?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), image.as_raw_fd());
    run(mkfs, &path)?;
    let (device, path) = sys::attach_loop(image.as_raw_fd()).map_err(failed)?;
    sys::mount(path.as_bytes(), at.as_os_str().as_bytes(), name.as_bytes(), flags, options)
        .map_err(failed)?;
    drop(device);
    Ok(())
}

/// A btrfs of its own, mounted with `options`, for what the shared ones cannot be made to do.
pub fn btrfs_with(options: &str) -> Result<PathBuf, Unavailable> {
    let at = scratch("btrfs");
    mount_image("btrfs", 256 << 20, &["mkfs.btrfs", "-q", "-f"], &at, 0, options.as_bytes())
        .map_err(Unavailable)?;
    Ok(at)
}

/// A btrfs in which `fill` wrote `mark` at the beginning of a block, and that block of data was damaged afterwards: reading it is EIO.
pub fn btrfs_damaged(fill: impl FnOnce(&Path), mark: &[u8]) -> Result<PathBuf, Unavailable> {
    let failed = |what: &str, error: &dyn std::fmt::Display| Unavailable(format!("btrfs: {what}: {error}"));
    let image = File::from(sys::memory_file(b"damaged").map_err(|e| failed("memory", &e))?);
    image.set_len(256 << 20).map_err(|e| failed("memory", &e))?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), image.as_raw_fd());
    run(&["mkfs.btrfs", "-q", "-f"], &path).map_err(Unavailable)?;
    let at = scratch("damaged");
    let target = at.as_os_str().as_bytes();
    let mount = || -> sys::Answer<()> {
        let (device, path) = sys::attach_loop(image.as_raw_fd())?;
        sys::mount(path.as_bytes(), target, b"btrfs", 0, b"")?;
        drop(device);
        Ok(())
    };
    mount().map_err(|e| failed("mount", &e))?;
    fill(&at);
    sys::umount(target, 0).map_err(|e| failed("umount", &e))?;
    // The beginning of a block of the file is the beginning of a block of the image.
    let mut place = None;
    let mut block = vec![0_u8; 1 << 20];
    for offset in (0..256 << 20).step_by(block.len()) {
        image.read_exact_at(&mut block, offset).map_err(|e| failed("read", &e))?;
        if let Some(number) = block.chunks(4096).position(|sector| sector.starts_with(mark)) {
            assert!(place.replace(offset + 4096 * number as u64).is_none(), "the mark is there twice");
        }
    }
    let place = place.expect("the mark is in the image");
    image.write_all_at(b"!", place).map_err(|e| failed("damage", &e))?;
    mount().map_err(|e| failed("mount again", &e))?;
    Ok(at)
}

fn run(command: &[&str], image: &str) -> Result<(), String> {
    let output = Command::new(command[0])
        .args(&command[1..])
        .arg(image)
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .map_err(|error| format!("{}: {error}", command[0]))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{}: {}", command[0], String::from_utf8_lossy(&output.stderr).trim()))
    }
}
