//! Namespaces of our own: a place to mount in that ends with the processes in it.
//!
//! Whoever may not mount gets a user namespace in which he may. It maps nobody but the user and his group, to
//! themselves: files keep their owners, and nothing outside the namespace can be reached that could not be before.

use std::os::fd::BorrowedFd;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{getegid, geteuid};

use super::cred::{cap, own_capabilities};
use super::{Errno, Result};

/// Whether this process may mount in a mount namespace of its own without a user namespace of its own.
pub fn may_mount() -> bool {
    own_capabilities().is_ok_and(|capabilities| capabilities.has(cap::SYS_ADMIN))
}

/// Enters a new user namespace in which the user and the group are who they were, and have every capability over
/// what is theirs until the next exec. Only for a process of a single thread.
///
/// # Errors
/// EPERM, ENOSPC or EUSERS where user namespaces are not allowed; EINVAL with several threads.
pub fn own_users() -> Result<()> {
    enter_users((geteuid().as_raw(), getegid().as_raw()))
}

/// As [`own_users`], and the user is root in it.
///
/// # Errors
/// As [`own_users`].
pub fn own_users_as_root() -> Result<()> {
    enter_users((0, 0))
}

fn enter_users(inside: (u32, u32)) -> Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER)?;
    let write =
        |file: &str, text: &str| std::fs::write(format!("/proc/self/{file}"), text).map_err(super::errno_of);
    match write("setgroups", "deny") {
        // Before Linux 3.19 there is no such file, and no need for it.
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno),
    }
    write("uid_map", &format!("{} {uid} 1", inside.0))?;
    write("gid_map", &format!("{} {gid} 1", inside.1))
}

/// Enters a new mount namespace. What is mounted outside appears in it too; what is mounted in it, nowhere else.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN.
pub fn own_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
}

/// Enters the mount namespace of `process`, a descriptor of pidfd_open(2). The current directory is then the root.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN in the namespaces concerned; ESRCH when the process is gone.
pub fn join_mounts(process: BorrowedFd<'_>) -> Result<()> {
    setns(process, CloneFlags::CLONE_NEWNS)
}

/// Asks for SIGKILL when the process `parent`, which has just made this one, ends first. False: it has ended.
///
/// # Errors
/// As prctl(2).
pub fn end_with(parent: u32) -> Result<bool> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    Ok(u32::try_from(nix::unistd::getppid().as_raw()) == Ok(parent))
}
