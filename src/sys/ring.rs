//! One io_uring that carries one command at a time, with the memory that the command exchanges.
//!
//! A driver that takes commands of 128 bytes (FUSE does) answers a command when it has something to hand over, and is
//! answered by the next command. So there is never more than one under way, and its memory belongs to the kernel only
//! while this thread is in [`Exchange::send`] or [`Exchange::wait`]: the ring is set up so that completions, and the
//! copying they do, run in no other place (DEFER_TASKRUN).

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, opcode, squeue};

use super::memory::Mapping;
use super::{Errno, Result, errno_of};

/// Bytes that a command carries.
pub const COMMAND: usize = 80;
/// Where a submission holds its number of memory parts, and where their address (`io_uring_sqe`).
const SQE_LEN: usize = 24;

/// Whether a command tells the kernel where the memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tells {
    /// It names both parts.
    Memory,
    /// The kernel knows them already.
    Nothing,
}

/// A ring with its memory: a head of fixed size, right before it a payload.
pub struct Exchange {
    // Dropped first: closing it ends whatever is under way.
    ring: IoUring<squeue::Entry128>,
    memory: Mapping,
    parts: Box<[libc::iovec; 2]>,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("fd", &self.ring.as_raw_fd()).finish_non_exhaustive()
    }
}

impl Exchange {
    /// A ring for the thread that calls this, and for no other. `head` is a multiple of the page size.
    ///
    /// # Errors
    /// ENOSYS without io_uring, EPERM where it is forbidden, EINVAL for a kernel that is too old, EOPNOTSUPP for one
    /// without commands; ENOMEM, EMFILE.
    pub fn new(head: usize, payload: usize) -> Result<Exchange> {
        let ring = IoUring::<squeue::Entry128>::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(1)
            .map_err(errno_of)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe).map_err(errno_of)?;
        if !probe.is_supported(opcode::UringCmd80::CODE) {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut memory = Mapping::new(head + payload)?;
        let (first, second) = memory.bytes().split_at_mut_checked(head).ok_or(Errno::EINVAL)?;
        let part =
            |bytes: &mut [u8]| libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let parts = Box::new([part(first), part(second)]);
        Ok(Exchange { ring, memory, parts })
    }

    /// The memory. Between two calls of the other methods it is this thread's alone.
    pub fn memory(&mut self) -> &mut Mapping {
        &mut self.memory
    }

    /// Sends the command `operation` to `device` and waits for what it says, at most for `limit`.
    ///
    /// # Errors
    /// As io_uring_enter(2). What the command says is the result itself: negative errnos of the device included.
    pub fn send(
        &mut self,
        device: BorrowedFd<'_>,
        operation: u32,
        command: [u8; COMMAND],
        tells: Tells,
        limit: Limit,
    ) -> Result<Option<i32>> {
        let mut sqe = opcode::UringCmd80::new(Fd(device.as_raw_fd()), operation).cmd(command);
        if tells == Tells::Memory {
            sqe = sqe.addr(Some(self.parts.as_ptr() as u64));
        }
        let mut sqe = sqe.build();
        if tells == Tells::Memory {
            let count = (self.parts.len() as u32).to_ne_bytes();
            // SAFETY: an Entry128 is the 128 bytes of an io_uring_sqe (repr(C), checked by the crate's own tests), plain
            // data, and the four bytes of its member `len` are inside it.
            unsafe {
                let at = std::ptr::from_mut(&mut sqe).cast::<u8>().add(SQE_LEN);
                at.copy_from_nonoverlapping(count.as_ptr(), count.len());
            }
        }
        // SAFETY: what the submission points to is owned by `self`, and dropped after the ring. The device is open until
        // the submission, which the next call makes, and after that the kernel holds it itself.
        unsafe { self.ring.submission().push(&sqe) }.map_err(|_| Errno::EBUSY)?;
        self.wait(limit)
    }

    /// Waits on, after [`Exchange::send`] returned without a result.
    ///
    /// # Errors
    /// As [`Exchange::send`].
    pub fn wait(&mut self, limit: Limit) -> Result<Option<i32>> {
        loop {
            if let Some(said) = self.ring.completion().next() {
                return Ok(Some(said.result()));
            }
            let entered = match limit {
                Limit::None => self.ring.submit_and_wait(1),
                Limit::Now => self.ring.submit(),
                Limit::After(duration) => {
                    let time = Timespec::from(duration);
                    self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time))
                }
            };
            match entered.map_err(errno_of) {
                Ok(_) if limit == Limit::Now => {
                    return Ok(self.ring.completion().next().map(|said| said.result()));
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::ETIME) => return Ok(self.ring.completion().next().map(|said| said.result())),
                Err(errno) => return Err(errno),
            }
        }
    }
}

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// For ever.
    None,
    /// Not at all: only what the kernel says at once.
    Now,
    /// At least so long, at most twice.
    After(Duration),
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_device_that_takes_no_commands_says_so() {
        let mut exchange = match Exchange::new(4096, 4096) {
            Ok(exchange) => exchange,
            Err(errno) => {
                println!("skipped: no io_uring here ({errno})");
                return;
            }
        };
        let null = std::fs::File::open("/dev/zero").unwrap();
        exchange.memory().bytes()[0] = 1;
        let said = exchange.send(null.as_fd(), 1, [0; COMMAND], Tells::Memory, Limit::None).unwrap();
        assert_eq!(said, Some(-libc::EOPNOTSUPP));
        assert_eq!(exchange.wait(Limit::After(Duration::from_millis(1))), Ok(None));
    }
}
