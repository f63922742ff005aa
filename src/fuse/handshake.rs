//! INIT: what this server wants of a connection, negotiated through fuser.
//!
//! fuser reads the kernel's INIT and answers it; nothing else of it runs here. Its session is built on a duplicate of
//! our descriptor with `Session::from_fd`, which owns no mount: dropping it closes the duplicate and unmounts nothing.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

use fuser::{InitFlags, KernelConfig, Session, SessionACL, Version};

use crate::error::SetupError;

/// The largest WRITE, and with it READ. Larger ones need a sysctl and bring nothing measurable.
pub(super) const MAX_WRITE: u32 = 1 << 20;
/// The smallest WRITE the kernel agrees to.
pub(super) const SMALLEST_WRITE: u32 = 4096;
/// Requests the kernel may have under way for readahead and asynchronous direct I/O.
const MAX_BACKGROUND: u16 = 64;
/// From here on the kernel holds readahead back.
const CONGESTED: u16 = 48;
/// The oldest protocol whose structures are those of `wire` (kernel 3.15).
const OLDEST: Version = Version(7, 23);

/// What depends on the mount's options.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wishes {
    pub acl: bool,
    pub export: bool,
    pub passthrough: bool,
    /// The kernel may gather writes.
    pub writeback: bool,
    pub stacked: bool,
    /// At most so many bytes in one WRITE.
    pub max_write: u32,
    /// Rings are ready to serve requests.
    pub rings: bool,
    /// The kernel opens files without asking.
    pub unasked: bool,
}

/// What both sides agreed on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Negotiated {
    pub flags: InitFlags,
    pub version: Version,
}

impl Negotiated {
    /// Whether `flag` was agreed on.
    pub fn has(&self, flag: InitFlags) -> bool {
        self.flags.contains(flag)
    }
}

impl Wishes {
    /// The capabilities to ask for.
    ///
    /// Layers are private to the mount, so data is invalidated where the union says so (EXPLICIT_INVAL_DATA) and not
    /// whenever a time changed. No locks: the kernel keeps them. NO_OPEN and ATOMIC_O_TRUNC exclude each other:
    /// the kernel would drop O_TRUNC silently (F-7).
    fn flags(self) -> InitFlags {
        let mut flags = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_BIG_WRITES
            | InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_HAS_IOCTL_DIR
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_ABORT_ERROR
            | InitFlags::FUSE_MAX_PAGES
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            | InitFlags::FUSE_SETXATTR_EXT
            | InitFlags::FUSE_SECURITY_CTX
            | InitFlags::FUSE_CREATE_SUPP_GROUP
            | InitFlags::FUSE_ALLOW_IDMAP
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT
            | InitFlags::FUSE_HAS_EXPIRE_ONLY;
        flags.set(InitFlags::FUSE_NO_OPEN_SUPPORT, self.unasked);
        flags.set(InitFlags::FUSE_ATOMIC_O_TRUNC, !self.unasked);
        flags.set(InitFlags::FUSE_POSIX_ACL, self.acl);
        flags.set(InitFlags::FUSE_EXPORT_SUPPORT, self.export);
        flags.set(InitFlags::FUSE_NO_EXPORT_SUPPORT, !self.export);
        flags.set(InitFlags::FUSE_PASSTHROUGH, self.passthrough);
        flags.set(InitFlags::FUSE_WRITEBACK_CACHE, self.writeback);
        flags.set(InitFlags::FUSE_OVER_IO_URING, self.rings);
        flags
    }

    /// What of it to take when the kernel offers `offered`: passthrough and gathered writes exclude each other (F-36).
    fn among(self, offered: InitFlags) -> InitFlags {
        let mut flags = self.flags() & offered;
        if flags.contains(InitFlags::FUSE_PASSTHROUGH) {
            flags.remove(InitFlags::FUSE_WRITEBACK_CACHE);
        }
        flags
    }

    /// How deep the filesystems below may be stacked (F-39).
    fn stack_depth(self) -> u32 {
        1 + u32::from(self.stacked)
    }
}

struct Handshake {
    wishes: Wishes,
    outcome: Arc<Mutex<Option<Negotiated>>>,
}

impl fuser::Filesystem for Handshake {
    fn init(&mut self, _: &fuser::Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let version = config.kernel_abi();
        if version < OLDEST {
            return Err(std::io::Error::from_raw_os_error(libc::EPROTO));
        }
        let refused = || std::io::Error::from_raw_os_error(libc::EINVAL);
        let flags = self.wishes.among(config.capabilities());
        config.add_capabilities(flags).map_err(|_| refused())?;
        config.set_max_write(self.wishes.max_write).map_err(|_| refused())?;
        config.set_max_background(MAX_BACKGROUND).map_err(|_| refused())?;
        config.set_congestion_threshold(CONGESTED).map_err(|_| refused())?;
        config.set_max_stack_depth(self.wishes.stack_depth()).map_err(|_| refused())?;
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(Negotiated { flags, version });
        Ok(())
    }
}

/// Answers the INIT that waits on `device`.
pub(super) fn negotiate(device: BorrowedFd<'_>, wishes: Wishes) -> Result<Negotiated, SetupError> {
    let failed = |why: String| SetupError::new("agree with the kernel on the FUSE protocol", why);
    let duplicate = device.try_clone_to_owned().map_err(|e| failed(e.to_string()))?;
    let outcome = Arc::default();
    let handshake = Handshake { wishes, outcome: Arc::clone(&outcome) };
    let session = Session::from_fd(handshake, duplicate, SessionACL::All, fuser::Config::default());
    drop(session.map_err(|e| failed(e.to_string()).hint("kernel 3.15 or newer is needed"))?);
    let negotiated = outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
    let negotiated = negotiated.ok_or_else(|| failed("it ended without an agreement".into()))?;
    log::debug!(
        "kernel speaks FUSE {}.{}, agreed on {:?}",
        negotiated.version.0,
        negotiated.version.1,
        negotiated.flags
    );
    Ok(negotiated)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every wish there is.
    fn wishes() -> impl Iterator<Item = Wishes> {
        (0..128).map(|bits| Wishes {
            acl: bits & 1 != 0,
            export: bits & 2 != 0,
            passthrough: bits & 4 != 0,
            stacked: bits & 8 != 0,
            max_write: MAX_WRITE,
            rings: bits & 16 != 0,
            writeback: bits & 32 != 0,
            unasked: bits & 64 != 0,
        })
    }

    /// F-7, F-35: no O_TRUNC lost, no write-back that was not wished for, no locks taken from the kernel.
    #[test]
    fn nothing_is_asked_for_that_excludes_something_else() {
        for wish in wishes() {
            let flags = wish.among(InitFlags::all());
            assert_eq!(flags.contains(InitFlags::FUSE_NO_OPEN_SUPPORT), wish.unasked, "{wish:?}");
            assert_eq!(flags.contains(InitFlags::FUSE_ATOMIC_O_TRUNC), !wish.unasked, "{wish:?}");
            let both = InitFlags::FUSE_WRITEBACK_CACHE | InitFlags::FUSE_PASSTHROUGH;
            assert!(!flags.contains(both), "{wish:?}");
            assert!(!flags.intersects(InitFlags::FUSE_POSIX_LOCKS | InitFlags::FUSE_FLOCK_LOCKS), "{wish:?}");
        }
    }

    /// F-3, F-4 (rings that nobody serves would block the mount), F-8, F-11, F-12, F-13, F-14, F-39
    #[test]
    fn what_is_asked_for_follows_the_wishes() {
        for wish in wishes() {
            let flags = wish.flags();
            assert_eq!(flags.contains(InitFlags::FUSE_POSIX_ACL), wish.acl);
            assert_eq!(flags.contains(InitFlags::FUSE_EXPORT_SUPPORT), wish.export);
            assert_eq!(flags.contains(InitFlags::FUSE_NO_EXPORT_SUPPORT), !wish.export);
            assert_eq!(flags.contains(InitFlags::FUSE_PASSTHROUGH), wish.passthrough);
            assert_eq!(flags.contains(InitFlags::FUSE_OVER_IO_URING), wish.rings);
            let always = InitFlags::FUSE_DONT_MASK
                | InitFlags::FUSE_PARALLEL_DIROPS
                | InitFlags::FUSE_HANDLE_KILLPRIV_V2;
            assert!(flags.contains(always));
            assert_eq!(wish.stack_depth(), if wish.stacked { 2 } else { 1 });
        }
    }
}
