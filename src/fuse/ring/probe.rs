//! Whether this kernel lets this process serve FUSE over io_uring, and if not, why, in words.

use crate::sys::Errno;

/// Set by the administrator; off in most distributions.
const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";
/// Restricts io_uring for everybody.
const DISABLED: &str = "/proc/sys/kernel/io_uring_disabled";

/// Why there can be no rings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::fuse) struct Obstacle {
    /// In words.
    pub why: String,
    /// What could be done.
    pub hint: String,
    /// Normal on most machines: nobody need be told.
    pub ordinary: bool,
}

/// Looks whether the kernel offers FUSE over io_uring at all.
pub(in crate::fuse) fn obstacle() -> Option<Obstacle> {
    not_offered(std::fs::read_to_string(SWITCH).as_deref().ok())
}

fn not_offered(switch: Option<&str>) -> Option<Obstacle> {
    let obstacle = |why: &str, hint: String| Some(Obstacle { why: why.into(), hint, ordinary: true });
    match switch.map(str::trim) {
        Some("Y" | "1") => None,
        Some(_) => obstacle(
            "the kernel's FUSE over io_uring is switched off",
            format!("as root: echo 1 > {SWITCH}; or mount with transport=dev"),
        ),
        None => obstacle(
            "the kernel offers no FUSE over io_uring",
            "Linux 6.14 or newer is needed; or mount with transport=dev".into(),
        ),
    }
}

/// The kernel did not take the offer.
pub(in crate::fuse) fn not_agreed() -> Obstacle {
    Obstacle {
        why: "the kernel did not agree to FUSE over io_uring".into(),
        hint: "mount with transport=dev".into(),
        ordinary: false,
    }
}

/// Why the rings could not be made.
pub(in crate::fuse) fn no_rings(errno: Errno) -> Obstacle {
    let restricted = std::fs::read_to_string(DISABLED).is_ok_and(|value| value.trim() != "0");
    words(errno, restricted)
}

fn words(errno: Errno, restricted: bool) -> Obstacle {
    let dev = "or mount with transport=dev";
    let (why, hint) = match errno {
        Errno::EPERM | Errno::EACCES if restricted => {
            (format!("io_uring is forbidden by {DISABLED}"), format!("set it to 0; {dev}"))
        }
        Errno::EPERM | Errno::EACCES | Errno::ENOSYS => (
            format!("io_uring is not allowed here ({})", errno.desc()),
            format!("in a container its seccomp profile forbids it; allow io_uring there, {dev}"),
        ),
        Errno::ENOMEM => (
            "io_uring may not have the memory it needs".to_string(),
            format!("raise the limit of locked memory (ulimit -l); {dev}"),
        ),
        Errno::EMFILE | Errno::ENFILE => (
            "there are too few descriptors for a ring on every CPU".to_string(),
            format!("raise the limit of open files (ulimit -n); {dev}"),
        ),
        Errno::EAGAIN => (
            "there may not be enough threads for a ring on every CPU".to_string(),
            format!("raise the limit of processes (ulimit -u); {dev}"),
        ),
        errno => {
            (format!("io_uring does not work here: {}", errno.desc()), dev.trim_start_matches("or ").into())
        }
    };
    Obstacle { why, hint, ordinary: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_told_in_its_own_words() {
        assert_eq!(not_offered(Some("Y\n")), None);
        assert!(not_offered(Some("N\n")).unwrap().why.contains("switched off"));
        assert!(not_offered(None).unwrap().why.contains("offers no"));
        assert!(words(Errno::EPERM, true).why.contains("io_uring_disabled"));
        assert!(words(Errno::EPERM, false).hint.contains("seccomp"));
        assert!(words(Errno::ENOMEM, false).hint.contains("ulimit -l"));
        assert!(!words(Errno::EMFILE, false).ordinary);
    }
}
