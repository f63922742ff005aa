//! Acting in the name of a caller, one thread at a time.
//!
//! New objects in a layer must belong to the caller from their first moment, but the layer itself must never refuse
//! the server: the caller was already checked against the merged tree. So a thread takes the caller's *file
//! system* user and group only, and keeps its capabilities. setfsuid(2) makes that awkward in two ways: it never
//! reports failure, and leaving uid 0 lowers the capabilities that override file permissions. Both are undone here.
//!
//! These are attributes of a thread, not of the process. A change also clears the thread's parent-death signal and
//! makes the process undumpable (commit_creds in the kernel), so neither is to be relied upon by this program.

use std::cell::Cell;

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use super::{Errno, Result};

/// `CAP_CHOWN` and so on: numbers of capabilities(7), for [`Capabilities::has`].
pub mod cap {
    /// Change owners.
    pub const CHOWN: u32 = 0;
    /// Ignore permission bits.
    pub const DAC_OVERRIDE: u32 = 1;
    /// Search anything, and open_by_handle_at(2).
    pub const DAC_READ_SEARCH: u32 = 2;
    /// Act as the owner of any file.
    pub const FOWNER: u32 = 3;
    /// Keep suid and sgid.
    pub const FSETID: u32 = 4;
    /// Change groups.
    pub const SETGID: u32 = 6;
    /// Change users.
    pub const SETUID: u32 = 7;
    /// Set the immutable and append-only flags.
    pub const LINUX_IMMUTABLE: u32 = 9;
    /// Mount, `trusted.*` attributes, passthrough.
    pub const SYS_ADMIN: u32 = 21;
    /// Exceed resource limits.
    pub const SYS_RESOURCE: u32 = 24;
    /// Make device nodes.
    pub const MKNOD: u32 = 27;
    /// Set file capabilities.
    pub const SETFCAP: u32 = 31;
}

/// The capability sets of a thread, one bit for each number in [`cap`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// In force now.
    pub effective: u64,
    /// May be put in force.
    pub permitted: u64,
    /// Survive execve(2).
    pub inheritable: u64,
}

impl Capabilities {
    /// Whether capability number `number` is in force.
    pub fn has(self, number: u32) -> bool {
        self.effective.checked_shr(number).is_some_and(|bits| bits & 1 == 1)
    }
}

/// The header of capget(2) and capset(2) for the calling thread, in the one version with 64-bit sets.
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

const CAP_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapHalf {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The capabilities of the calling thread, relative to its own user namespace. Errors: ENOSYS or EPERM where a
/// seccomp filter forbids capget(2).
pub fn own_capabilities() -> Result<Capabilities> {
    let mut header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let mut halves = [CapHalf::default(); 2];
    // SAFETY: the header names version 3, for which the kernel fills two halves; both pointers outlive the call.
    let code = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, halves.as_mut_ptr()) };
    Errno::result(code)?;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let [low, high] = halves;
    Ok(Capabilities {
        effective: join(low.effective, high.effective),
        permitted: join(low.permitted, high.permitted),
        inheritable: join(low.inheritable, high.inheritable),
    })
}

/// Puts `sets` in force for the calling thread. Errors: EPERM when something outside the permitted set is asked for.
fn set_own_capabilities(sets: Capabilities) -> Result<()> {
    let mut header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let half = |shift: u32| CapHalf {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let halves = [half(0), half(32)];
    // SAFETY: the header names version 3, for which the kernel reads two halves; both pointers outlive the call.
    let code = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, halves.as_ptr()) };
    Errno::result(code).map(drop)
}

/// Whether the thread `pid` (in our pid namespace) holds CAP_SYS_ADMIN, which decides who sees `trusted.*`
/// attributes. False for 0, for a thread that is gone, and for one we cannot look at. The answer is about the
/// thread's own user namespace, so it is only meaningful where that is ours.
pub fn caller_has_cap_sys_admin(pid: u32) -> bool {
    caller_has(pid, cap::SYS_ADMIN)
}

/// Whether the thread `pid` holds CAP_LINUX_IMMUTABLE, as [`caller_has_cap_sys_admin`].
pub fn caller_may_set_immutable(pid: u32) -> bool {
    caller_has(pid, cap::LINUX_IMMUTABLE)
}

/// Whether the thread `pid` holds CAP_FOWNER, as [`caller_has_cap_sys_admin`].
pub fn caller_owns_any_file(pid: u32) -> bool {
    caller_has(pid, cap::FOWNER)
}

/// Whether the thread `pid` holds CAP_FSETID, as [`caller_has_cap_sys_admin`].
pub fn caller_keeps_set_ids(pid: u32) -> bool {
    caller_has(pid, cap::FSETID)
}

/// Whether `gid` is among the supplementary groups of the thread `pid`, both as our namespaces name them. False for 0,
/// for a thread that is gone, and for one we cannot look at. The thread's fsgid is not among them.
pub fn caller_has_group(pid: u32, gid: u32) -> bool {
    status_of(pid, "Groups:", |text| {
        Some(text.split_ascii_whitespace().any(|group| group.parse() == Ok(gid)))
    })
    .unwrap_or(false)
}

/// fsuid and fsgid of the thread `pid`, as our user namespace names them. `None` for 0, for a thread that is gone, and
/// for one we cannot look at.
pub fn caller_ids(pid: u32) -> Option<(u32, u32)> {
    let id = |key| status_of(pid, key, |text| text.split_ascii_whitespace().nth(3)?.parse().ok());
    Some((id("Uid:")?, id("Gid:")?))
}

fn caller_has(pid: u32, number: u32) -> bool {
    status_of(pid, "CapEff:", |text| u64::from_str_radix(text, 16).ok())
        .is_some_and(|effective| effective >> number & 1 == 1)
}

/// What `parse` makes of one line of the thread's status in /proc.
fn status_of<T>(pid: u32, key: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    if pid == 0 {
        return None;
    }
    let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
    let line = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(key.as_bytes()))?;
    parse(std::str::from_utf8(line).ok()?.trim())
}

/// Who the calling thread is for file systems.
#[derive(Clone, Copy)]
struct Identity {
    uid: u32,
    gid: u32,
    capabilities: Capabilities,
}

thread_local! {
    /// What was last established on this thread. Everything in this program that changes it is in this file.
    static CURRENT: Cell<Option<Identity>> = const { Cell::new(None) };
}

/// An id that no file system call accepts: setfsuid(2) and setfsgid(2) then only tell the current one.
const ASK: u32 = u32::MAX;

fn current_uid() -> u32 {
    setfsuid(Uid::from_raw(ASK)).as_raw()
}

fn current_gid() -> u32 {
    setfsgid(Gid::from_raw(ASK)).as_raw()
}

impl Identity {
    fn of_thread() -> Result<Identity> {
        if let Some(known) = CURRENT.get() {
            return Ok(known);
        }
        let found = Identity { uid: current_uid(), gid: current_gid(), capabilities: own_capabilities()? };
        CURRENT.set(Some(found));
        Ok(found)
    }

    /// Makes the thread this identity. The group goes first: it needs a capability that the user may not.
    fn establish(self) -> Result<()> {
        setfsgid(Gid::from_raw(self.gid));
        setfsuid(Uid::from_raw(self.uid));
        if current_gid() != self.gid {
            return Err(self.refusal(cap::SETGID));
        }
        if current_uid() != self.uid {
            return Err(self.refusal(cap::SETUID));
        }
        set_own_capabilities(self.capabilities)?;
        CURRENT.set(Some(self));
        Ok(())
    }

    /// Why the kernel kept the id: it says nothing itself.
    fn refusal(self, needed: u32) -> Errno {
        if self.capabilities.has(needed) { Errno::EOVERFLOW } else { Errno::EPERM }
    }
}

/// Gives the thread back to `own`.
struct Assumed {
    own: Identity,
}

impl Drop for Assumed {
    fn drop(&mut self) {
        if self.own.establish().is_err() {
            // A thread that is stuck in somebody else's name must not serve the next caller.
            std::process::abort();
        }
    }
}

/// Runs `work` with the file system user and group of `owner` (uid, gid), all capabilities staying in force, and
/// restores the thread's own on return and on unwinding. Calls nest. Costs no system call when `owner` is already
/// the thread's identity. A thread must not change its ids or capabilities by other means after its first call.
///
/// What `work` creates then belongs to `owner`, as if they had made it; permission checks still never fail.
///
/// Errors: what `work` returns; EPERM when this thread may not change its ids; EOVERFLOW when an id does not exist in
/// its user namespace (also `u32::MAX`, which exists nowhere).
pub fn act_as<T>(owner: (u32, u32), work: impl FnOnce() -> Result<T>) -> Result<T> {
    let own = Identity::of_thread()?;
    let (uid, gid) = owner;
    if (own.uid, own.gid) == owner {
        return work();
    }
    if uid == ASK || gid == ASK {
        return Err(Errno::EOVERFLOW);
    }
    let _restore = Assumed { own };
    Identity { uid, gid, ..own }.establish()?;
    work()
}

/// Takes capability `number` from the calling thread for good, for tests of what happens without it.
#[cfg(test)]
pub(crate) fn without(number: u32) -> Result<()> {
    let all = own_capabilities()?;
    let keep = !(1_u64 << number);
    CURRENT.set(None);
    set_own_capabilities(Capabilities {
        effective: all.effective & keep,
        permitted: all.permitted & keep,
        ..all
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::sys::testing::root_or_skip;

    fn ids() -> (u32, u32) {
        (current_uid(), current_gid())
    }

    #[test]
    fn what_is_created_belongs_to_the_caller_even_in_a_directory_closed_to_them() {
        if !root_or_skip() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let file = dir.path().join("new");
        act_as((1234, 4321), || std::fs::File::create(&file).map(drop).map_err(|_| Errno::EIO)).unwrap();
        let found = std::fs::metadata(&file).unwrap();
        assert_eq!((found.uid(), found.gid()), (1234, 4321));
        assert_eq!(ids(), (0, 0));
    }

    #[test]
    fn capabilities_stay_as_they_were_inside_and_after() {
        if !root_or_skip() {
            return;
        }
        let before = own_capabilities().unwrap();
        assert_eq!(act_as((1234, 0), own_capabilities), Ok(before));
        assert_eq!(own_capabilities(), Ok(before));
    }

    #[test]
    fn calls_nest_and_each_restores_what_it_found() {
        if !root_or_skip() {
            return;
        }
        act_as((1, 2), || {
            assert_eq!(ids(), (1, 2));
            act_as((3, 4), || {
                assert_eq!(ids(), (3, 4));
                act_as((0, 0), || {
                    assert_eq!(ids(), (0, 0));
                    Ok(())
                })
            })?;
            assert_eq!(ids(), (1, 2));
            Ok(())
        })
        .unwrap();
        assert_eq!(ids(), (0, 0));
    }

    #[test]
    fn a_panic_or_an_error_inside_restores_the_thread() {
        if !root_or_skip() {
            return;
        }
        let panicked = std::panic::catch_unwind(|| act_as((5, 6), || -> Result<()> { panic!("inside") }));
        assert!(panicked.is_err());
        assert_eq!(ids(), (0, 0));
        assert_eq!(act_as((5, 6), || -> Result<()> { Err(Errno::ENOSPC) }), Err(Errno::ENOSPC));
        assert_eq!(ids(), (0, 0));
    }

    #[test]
    fn other_threads_keep_their_identity() {
        if !root_or_skip() {
            return;
        }
        act_as((7, 8), || {
            let seen = std::thread::spawn(ids).join().unwrap();
            // A new thread inherits; a thread that was there before is what this is about, so only ours may differ.
            assert_eq!(seen, (7, 8));
            Ok(())
        })
        .unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            wait.recv().unwrap();
            tell.send(ids()).unwrap();
        });
        act_as((7, 8), || {
            done.send(()).unwrap();
            assert_eq!(told.recv().unwrap(), (0, 0));
            Ok(())
        })
        .unwrap();
        other.join().unwrap();
    }

    #[test]
    fn ids_that_cannot_be_taken_are_errors_and_change_nothing() {
        let own = ids();
        assert_eq!(act_as((u32::MAX, 0), || Ok(())), Err(Errno::EOVERFLOW));
        if !root_or_skip() {
            assert_eq!(act_as((own.0 + 1, own.1), || Ok(())), Err(Errno::EPERM));
        }
        assert_eq!(ids(), own);
        // On a thread without the capability the kernel refuses silently; that must be seen.
        std::thread::spawn(|| {
            without(cap::SETUID).unwrap();
            let own = ids();
            assert_eq!(act_as((own.0 + 1, own.1), || Ok(())), Err(Errno::EPERM));
            assert_eq!(ids(), own);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn sys_admin_of_a_process_is_read_from_proc() {
        assert!(!caller_has_cap_sys_admin(0));
        assert!(!caller_has_cap_sys_admin(u32::MAX));
        let own = own_capabilities().unwrap().has(cap::SYS_ADMIN);
        assert_eq!(caller_has_cap_sys_admin(std::process::id()), own);
    }

    #[test]
    fn the_ids_of_a_thread_are_read_from_proc() {
        let tid = nix::unistd::gettid().as_raw().unsigned_abs();
        assert_eq!(caller_ids(tid), Some(ids()));
        assert_eq!(caller_ids(0), None);
        if root_or_skip() {
            act_as((1234, 4321), || {
                assert_eq!(caller_ids(tid), Some((1234, 4321)));
                Ok(())
            })
            .unwrap();
        }
    }

    #[test]
    fn supplementary_groups_of_a_process_are_read_from_proc() {
        let groups = nix::unistd::getgroups().unwrap();
        let own = std::process::id();
        assert!(groups.iter().all(|group| caller_has_group(own, group.as_raw())));
        assert!(!caller_has_group(own, 4_000_000_001));
        assert!(!caller_has_group(0, 0));
    }
}
