//! What the channels have in common: how they end, and how an outcome becomes the header of a reply.

use std::sync::Arc;

use nix::sys::signal::{SigSet, Signal};

use super::dev;
use super::ring::Rings;
use super::serve::{Answer, Reply};
use super::wire::abi::OutHeader;
use crate::sys::Errno;

/// Which way requests are to come (`transport=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Over io_uring where that is possible, else over `/dev/fuse`.
    #[default]
    Auto,
    /// Over io_uring, or the mount is refused.
    Uring,
    /// Over `/dev/fuse`.
    Dev,
}

/// How a channel came to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct End {
    /// The connection was aborted (through sysfs) instead of unmounted.
    pub aborted: bool,
    /// Reading failed in a way that has no explanation.
    pub failed: Option<Errno>,
}

/// What serves one connection.
pub(super) struct Serving {
    /// All requests, or what does not come through the rings.
    pub device: Arc<dev::Channel>,
    /// The requests.
    pub rings: Option<Rings>,
}

impl Serving {
    /// Waits until the connection has ended and every thread with it.
    pub fn join(self) -> End {
        let end = self.device.join();
        if let Some(rings) = self.rings {
            rings.join();
        }
        end
    }
}

/// Signals are for the thread that waits for them; one that serves must not be disturbed in a system call.
pub(super) fn leave_signals_to_others() {
    let mut all = SigSet::all();
    for fault in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGABRT] {
        all.remove(fault);
    }
    if let Err(errno) = all.thread_block() {
        log::warn!("signals cannot be blocked: {errno}");
    }
}

/// An errno as a reply carries it. The kernel would drop a reply with any other number, and the caller would hang.
fn failure(errno: Errno) -> i32 {
    match errno as i32 {
        number @ 1..512 => -number,
        _ => -libc::EIO,
    }
}

/// The header of a reply; `None` when there is no reply.
pub(super) fn header(answer: Answer) -> Option<OutHeader> {
    let (error, body) = match answer.reply {
        Reply::Nothing => return None,
        Reply::Failed(errno) => (failure(errno), 0),
        Reply::Body(length) => (0, length),
    };
    let len = u32::try_from(size_of::<OutHeader>() + body).ok()?;
    Some(OutHeader { len, error, unique: answer.unique })
}
