//! `acetate umount`: taking a mount of ours away, and knowing that nothing of it is left to be written.
//!
//! The mount disappears at once, the server a little later, after syncing the upper. So the server is found and held
//! before the mount goes, and its end is waited for. Nothing here asks the mount's file system anything: it may hang
//! or be dead, and then unmounting is all the more wanted.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::args::UmountArgs;
use super::registry::{self, Record, State};
use super::{Failure, Outcome, Output};
use crate::error::SetupError;
use crate::sys::Errno;
use crate::sys::mountinfo::{self, MountEntry, Unmount};
use crate::sys::process::Process;
use crate::union::control::Text;

/// The type of our mounts in mountinfo.
pub const FILESYSTEM: &str = "fuse.acetate";

/// How long a server may go on as if nothing had happened before somebody is told.
const PATIENCE: Duration = Duration::from_secs(10);

/// A directory in a mount of ours.
#[derive(Debug)]
pub struct Place {
    /// The directory; `O_PATH`.
    pub dir: OwnedFd,
    /// The mount.
    pub entry: MountEntry,
    /// The directory is the mount's root.
    pub is_root: bool,
}

impl Place {
    /// Finds the mount of ours that the directory `path` is in, asking no file system.
    ///
    /// # Errors
    /// It does not exist, or is in no mount of ours.
    pub fn find(path: &Path, what: &str) -> Result<Place, SetupError> {
        let dir = mountinfo::locate_dir(path).map_err(|errno| unreachable(path, what, errno))?;
        let entry = mount_of(&dir)
            .ok_or_else(|| SetupError::new(what, "its mount is not listed in /proc").at(path))?;
        if entry.kind != FILESYSTEM {
            let why = format!(
                "it is not a mount of acetate, but on {} ({})",
                entry.mountpoint.display(),
                entry.kind
            );
            let refused = SetupError::new(what, why).at(path);
            return Err(refused.hint("acetate list shows the mounts of acetate"));
        }
        let is_root = mountinfo::path_of(dir.as_fd()).is_some_and(|path| path == entry.mountpoint);
        Ok(Place { dir, entry, is_root })
    }
}

fn unreachable(path: &Path, what: &str, errno: Errno) -> SetupError {
    let refused = SetupError::new(what, errno.desc()).at(path);
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => refused.hint("name a mount of acetate; acetate list shows them"),
        Errno::ENOTCONN => refused.hint("its server is dead: acetate umount its mount point"),
        _ => refused,
    }
}

/// Whether the filesystem with this device number is mounted anywhere that can be seen from here.
fn is_mounted(device: (u32, u32)) -> bool {
    mountinfo::mounts().is_ok_and(|mounts| mounts.iter().any(|entry| entry.device == device))
}

fn mount_of(dir: &OwnedFd) -> Option<MountEntry> {
    let id = mountinfo::mount_id(dir.as_fd())?;
    mountinfo::mounts().ok()?.into_iter().find(|entry| entry.id == id)
}

/// What `umount --json` prints.
#[derive(Debug, Serialize)]
struct Unmounted {
    /// The mount point.
    mountpoint: Text,
    /// The server has ended and everything is on disk.
    finished: bool,
}

/// Unmounts.
///
/// # Errors
/// It is no mount of ours, it is in use, or its server did not end.
pub fn run(args: &UmountArgs, output: Output) -> Outcome {
    let place = Place::find(&args.mountpoint, "unmount")?;
    if !place.is_root {
        let inside = SetupError::new("unmount", "it is a directory in a mount, not the mount itself");
        let hint = format!("acetate umount {}", place.entry.mountpoint.display());
        return Err(Failure::Failed(inside.at(&args.mountpoint).hint(hint)));
    }
    let entry = place.entry;
    // An open descriptor in the mount would keep it busy.
    drop(place.dir);
    let uid = entry.user().unwrap_or_else(|| nix::unistd::geteuid().as_raw());
    let record = registry::find(uid, entry.device.1);
    let server = record.as_ref().and_then(Record::server);
    let how = if args.lazy { Unmount::Lazy } else { Unmount::Unused };
    take_away(&entry.mountpoint, how)?;
    let finished = match (how, server, record) {
        // A bind mount of it, or of a part, has gone; the union itself is still there.
        _ if is_mounted(entry.device) => false,
        (Unmount::Unused, Some(server), Some(record)) => {
            wait(&server, uid, &record)?;
            true
        }
        (Unmount::Unused, _, _) => {
            log::warn!("the server of this mount is unknown here, so its end was not waited for");
            false
        }
        (Unmount::Lazy, _, _) => false,
    };
    output
        .give(&Unmounted { mountpoint: Text::from(entry.mountpoint.as_path()), finished }, |_| String::new())
}

/// Waits for the server's end. Syncing may take as long as it takes; only a server that does not even begin to end
/// is not waited for.
fn wait(server: &Process, uid: u32, record: &Record) -> Result<(), SetupError> {
    let began = Instant::now();
    let failed = |errno: Errno| SetupError::new("wait for the server", errno.desc());
    while !server.wait(Duration::from_millis(500)).map_err(failed)? {
        let ending = registry::again(uid, record).is_none_or(|now| now.state == State::Finishing);
        if !ending && began.elapsed() > PATIENCE {
            return Err(SetupError::new(
                "wait for the server",
                format!(
                    "process {} still serves the mount, which must be visible in another mount namespace too",
                    record.pid
                ),
            )
            .at(record.mountpoint.to_path())
            .hint(format!("unmount it there, or end it with: kill {}", record.pid)));
        }
    }
    Ok(())
}

/// Unmounts what is on top at `path`, through fusermount3 where we may not ourselves.
fn take_away(path: &Path, how: Unmount) -> Result<(), SetupError> {
    let refused = |why: &str| SetupError::new("unmount", why).at(path);
    match patiently(|| mountinfo::unmount(path, how)) {
        Ok(()) => Ok(()),
        Err(Errno::EPERM) => through_helper(path, how),
        Err(Errno::EBUSY) => Err(refused("it is in use").hint(format!(
            "fuser -vm {} shows by whom; acetate umount --lazy takes it from sight all the same",
            path.display()
        ))),
        Err(errno) => Err(refused(errno.desc())),
    }
}

/// Who only looks at a mount (a file manager, `status`, a walk through /proc) keeps it busy for a moment, which is
/// waited for.
fn patiently(mut unmount: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    const LOOK: Duration = Duration::from_millis(500);
    let began = Instant::now();
    loop {
        match unmount() {
            Err(Errno::EBUSY) if began.elapsed() < LOOK => std::thread::sleep(Duration::from_millis(20)),
            done => return done,
        }
    }
}

fn through_helper(path: &Path, how: Unmount) -> Result<(), SetupError> {
    let flags: &[&str] = match how {
        Unmount::Unused => &["-u"],
        Unmount::Lazy => &["-u", "-z"],
    };
    let refused = |why: String| SetupError::new("unmount", why).at(path);
    for helper in ["fusermount3", "fusermount"] {
        let mut said = String::new();
        let asked = patiently(|| {
            let done = Command::new(helper).args(flags).arg("--").arg(path).stdin(Stdio::null()).output();
            match done {
                Ok(done) if done.status.success() => Ok(()),
                Ok(done) => {
                    said = String::from_utf8_lossy(&done.stderr).trim().to_string();
                    Err(if said.contains("busy") { Errno::EBUSY } else { Errno::EPERM })
                }
                Err(e) => {
                    said = format!("{helper}: {e}");
                    Err(Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))
                }
            }
        });
        match asked {
            Ok(()) => return Ok(()),
            Err(Errno::ENOENT) => {}
            Err(Errno::EBUSY | Errno::EPERM) => {
                return Err(
                    refused(said).hint("only who mounted it, or root, may unmount it, once nobody uses it")
                );
            }
            Err(_) => return Err(refused(said)),
        }
    }
    Err(refused("an ordinary user needs fusermount3 for it".into()).hint("install the package fuse3"))
}

/// Detaches the dead mounts of ours that lie on `mountpoint`; a live mount stays and is mounted over, as the kernel
/// does.
///
/// # Errors
/// A dead mount of somebody else's is there.
pub fn clear_dead(mountpoint: &Path) -> Result<(), SetupError> {
    while let Some(dead) = dead_mount(mountpoint) {
        if dead.kind != FILESYSTEM {
            return Err(SetupError::new(
                "use the mount point",
                format!("a dead {} mount is there, which is not acetate's", dead.kind),
            )
            .at(mountpoint)
            .hint(format!("if nobody needs it: umount -l {}", mountpoint.display())));
        }
        take_away(mountpoint, Unmount::Lazy)?;
        log::warn!("detached a dead mount of acetate from {}", mountpoint.display());
    }
    Ok(())
}

/// The topmost mount at `mountpoint`, if it is one whose server is dead.
fn dead_mount(mountpoint: &Path) -> Option<MountEntry> {
    let dir = mountinfo::locate_dir(mountpoint).ok()?;
    let entry = mount_of(&dir)?;
    let on_it = entry.mountpoint == mountpoint && entry.kind.starts_with("fuse");
    (on_it && mountinfo::is_dead(dir.as_fd())).then_some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ours_is_not_unmounted() {
        let args = UmountArgs { lazy: false, mountpoint: "/".into() };
        let quiet = Output::new(super::super::Format::Text, true);
        let refused = run(&args, quiet).unwrap_err();
        assert!(refused.sentence().to_string().contains("not a mount of acetate"), "{}", refused.sentence());
        let args = UmountArgs { lazy: false, mountpoint: "/nowhere/at/all".into() };
        assert!(run(&args, quiet).unwrap_err().sentence().to_string().contains("acetate list"));
    }

    #[test]
    fn a_live_mount_on_the_mount_point_stays() {
        clear_dead(Path::new("/")).unwrap();
        clear_dead(Path::new("/proc")).unwrap();
    }
}
