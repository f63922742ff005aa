//! What the union may ask of the connection: backing files, and forgetting attributes.
//!
//! The union exists before the connection does (a mount that cannot be served must never appear), so the connection is
//! filled in later; until then nothing is offered.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use zerocopy::IntoBytes;

use super::nodes::Shape;
use super::wire::abi::{NOTIFY_INVAL_INODE, NotifyInvalInode, OutHeader};
use crate::sys::{Errno, Result, fusedev};
use crate::union::{BackingId, NodeId, Transport};

/// A connection as negotiated.
#[derive(Debug)]
pub(super) struct Live {
    pub fd: Arc<OwnedFd>,
    pub shape: Shape,
    pub passthrough: bool,
    pub writeback: bool,
}

/// The connection, once there is one.
#[derive(Debug, Default)]
pub(super) struct Connection(OnceLock<Live>);

impl Connection {
    /// Fills the connection in; it happens once.
    pub fn open(&self, live: Live) {
        if self.0.set(live).is_err() {
            log::error!("a connection was opened twice; the first one stays");
        }
    }

    /// Tells the kernel something it did not ask for.
    fn notify(fd: BorrowedFd<'_>, code: i32, body: &[u8]) -> Result<()> {
        let len = u32::try_from(size_of::<OutHeader>() + body.len()).map_err(|_| Errno::EINVAL)?;
        let header = OutHeader { len, error: code, unique: 0 };
        fusedev::write_message(fd, &[IoSlice::new(header.as_bytes()), IoSlice::new(body)])
    }
}

impl Connection {
    /// Makes the kernel drop what it caches of a node: its attributes, and its pages from `off` on unless that is negative.
    fn forget(&self, node: NodeId, off: i64, what: &str) {
        let Some(live) = self.0.get() else { return };
        let stale = NotifyInvalInode { ino: live.shape.to_wire(node), off, len: 0 };
        match Connection::notify(live.fd.as_fd(), NOTIFY_INVAL_INODE, stale.as_bytes()) {
            // ENOENT: the kernel does not know the node, so it caches nothing of it.
            Ok(()) | Err(Errno::ENOENT | Errno::ENODEV | Errno::ENOTCONN) => {}
            Err(errno) => log::warn!("the {what} of node {} may be stale: {errno}", node.0),
        }
    }
}

impl Transport for Connection {
    fn open_backing(&self, fd: BorrowedFd<'_>) -> Result<BackingId> {
        match self.0.get() {
            Some(live) if live.passthrough => fusedev::open_backing(live.fd.as_fd(), fd).map(BackingId),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn close_backing(&self, id: BackingId) {
        let Some(live) = self.0.get() else { return };
        match fusedev::close_backing(live.fd.as_fd(), id.0) {
            // After the connection ended the kernel has given all of them back.
            Ok(()) | Err(Errno::ENODEV | Errno::ENOTCONN) => {}
            Err(errno) => log::warn!("backing file {} could not be given back: {errno}", id.0),
        }
    }

    fn passes_through(&self) -> bool {
        self.0.get().is_some_and(|live| live.passthrough)
    }

    fn gathers_writes(&self) -> bool {
        self.0.get().is_some_and(|live| live.writeback)
    }

    fn forget_attributes(&self, node: NodeId) {
        // A negative offset leaves the pages alone, so the kernel waits for nothing that a request here could hold.
        self.forget(node, -1, "attributes");
    }

    fn forget_listing(&self, node: NodeId) {
        // A listing is cached in pages. They are locked only for as long as entries are copied to or from them.
        self.forget(node, 0, "listing");
    }
}
