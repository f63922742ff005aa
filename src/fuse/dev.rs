//! The channel `/dev/fuse`: threads that read a request, have it served, write the reply.
//!
//! A request can take long (copying a large file up) and every other request must still find a reader. So whoever takes
//! a request while nobody else is reading starts another thread first, up to a limit; threads beyond the base number
//! end when they find enough others reading. Each thread has a clone of the device, whose list of requests under way is
//! its own.
//!
//! Both buffers are aligned so that bulk data starts on a page: a WRITE is read to an address 80 bytes below a page
//! boundary, where the data follows its two headers; a reply's body starts on a page and its header right before it, so
//! that one write sends both.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use zerocopy::IntoBytes;

use super::channel::{End, header, leave_signals_to_others};
use super::handshake::MAX_WRITE;
use super::serve::{Handed, Server};
use super::wire::abi::{InHeader, OutHeader, WriteIn};
use crate::sys::{Errno, fusedev};

const PAGE: usize = 4096;
/// Room for the largest message: its data and a page for everything before it.
const BUFFER: usize = PAGE + MAX_WRITE as usize;
/// Where a request is read to, so that the data of a WRITE starts on a page.
const REQUEST_START: usize = PAGE - size_of::<InHeader>() - size_of::<WriteIn>();
/// Where a reply starts, so that its body starts on a page.
const REPLY_START: usize = PAGE - size_of::<OutHeader>();
/// Threads of a channel whose number was not chosen: no more than this.
const MOST: usize = 64;
/// Threads of a channel whose number was not chosen: no fewer than this.
const LEAST: usize = 4;

/// A buffer that starts on a page.
struct Pages {
    storage: Vec<u8>,
    start: usize,
}

impl Pages {
    /// Zeroed memory that costs nothing until it is used.
    fn new() -> Pages {
        let storage = vec![0u8; BUFFER + PAGE];
        let start = storage.as_ptr().align_offset(PAGE).min(PAGE);
        Pages { storage, start }
    }

    fn bytes(&mut self) -> &mut [u8] {
        self.storage.get_mut(self.start..self.start + BUFFER).unwrap_or_default()
    }
}

/// How many threads read the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Threads {
    /// As many as needed.
    AsNeeded,
    /// Exactly so many.
    Exactly(usize),
    /// Few: the requests come another way, and what is left needs no reply.
    BesideRings,
}

impl Threads {
    /// The fewest, and the most.
    fn range(self) -> (usize, usize) {
        match self {
            Threads::AsNeeded => {
                let cpus = std::thread::available_parallelism().map_or(1, usize::from);
                (cpus.clamp(LEAST, MOST), MOST)
            }
            Threads::Exactly(number) => (number.max(1), number.max(1)),
            Threads::BesideRings => (1, LEAST),
        }
    }
}

/// The threads of one connection.
pub(super) struct Channel {
    server: Arc<Server>,
    fd: Arc<OwnedFd>,
    base: usize,
    most: usize,
    /// Threads waiting for a request.
    idle: AtomicUsize,
    /// Threads that exist.
    live: AtomicUsize,
    /// Numbers the threads' names.
    started: AtomicUsize,
    aborted: AtomicBool,
    /// Leaf locks, held for a push or pop.
    handles: Mutex<Vec<JoinHandle<()>>>,
    failed: Mutex<Option<Errno>>,
}

impl Channel {
    /// Starts serving.
    pub fn start(server: Arc<Server>, fd: Arc<OwnedFd>, threads: Threads) -> std::io::Result<Arc<Channel>> {
        let (base, most) = threads.range();
        let channel = Arc::new(Channel {
            server,
            fd,
            base,
            most,
            idle: AtomicUsize::new(0),
            live: AtomicUsize::new(0),
            started: AtomicUsize::new(0),
            aborted: AtomicBool::new(false),
            handles: Mutex::default(),
            failed: Mutex::default(),
        });
        for _ in 0..base {
            channel.spawn()?;
        }
        Ok(channel)
    }

    /// Waits until the connection has ended and every thread with it.
    pub fn join(&self) -> End {
        loop {
            let next = self.handles.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(next) = next else { break };
            if next.join().is_err() {
                log::error!("a thread that serves requests panicked outside of a request");
            }
        }
        let failed = *self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        End { aborted: self.aborted.load(SeqCst), failed }
    }

    fn spawn(self: &Arc<Channel>) -> std::io::Result<()> {
        let number = self.started.fetch_add(1, SeqCst);
        self.live.fetch_add(1, SeqCst);
        // A new thread counts as waiting from the start, else a burst would start one thread per request.
        self.idle.fetch_add(1, SeqCst);
        let channel = Arc::clone(self);
        let handle = Builder::new().name(format!("serve-{number}")).spawn(move || channel.run());
        match handle {
            Ok(handle) => {
                self.server.stats().thread_started();
                let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
                handles.retain(|handle| !handle.is_finished());
                handles.push(handle);
                Ok(())
            }
            Err(error) => {
                self.live.fetch_sub(1, SeqCst);
                self.idle.fetch_sub(1, SeqCst);
                Err(error)
            }
        }
    }

    fn run(self: Arc<Channel>) {
        leave_signals_to_others();
        let own = fusedev::clone_fuse_device(self.fd.as_fd());
        let fd = match &own {
            Ok(own) => own.as_fd(),
            Err(errno) => {
                log::debug!("the device cannot be cloned ({errno}); threads share it");
                self.fd.as_fd()
            }
        };
        let mut worker = Worker {
            channel: &self,
            fd,
            request: Pages::new(),
            reply: Pages::new(),
            handed: Handed::default(),
        };
        // A thread is counted as waiting by whoever started it, and then by itself.
        while worker.turn() && !self.may_end() {
            self.idle.fetch_add(1, SeqCst);
        }
        self.live.fetch_sub(1, SeqCst);
        self.server.stats().thread_ended();
    }

    /// Whether enough others are waiting for requests.
    fn may_end(&self) -> bool {
        self.live.load(SeqCst) > self.base && self.idle.load(SeqCst) >= self.base
    }

    /// Someone took a request: makes sure that someone else waits for the next.
    fn taken(self: &Arc<Channel>) {
        if self.idle.fetch_sub(1, SeqCst) == 1
            && self.live.load(SeqCst) < self.most
            && let Err(error) = self.spawn()
        {
            log::warn!("no further thread could be started: {error}");
        }
    }

    /// Notes why reading ended.
    fn ended(&self, errno: Errno) {
        // Before the other threads have noticed: a mount of the same upper may be waiting for the word already.
        crate::sys::say_leaving();
        match errno {
            Errno::ENODEV => {}
            Errno::ECONNABORTED => self.aborted.store(true, SeqCst),
            errno => {
                log::error!("reading requests failed: {errno}");
                *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(errno);
            }
        }
    }
}

/// One thread's device and buffers.
struct Worker<'c> {
    channel: &'c Arc<Channel>,
    fd: BorrowedFd<'c>,
    request: Pages,
    reply: Pages,
    handed: Handed,
}

impl Worker<'_> {
    /// Serves one request; false when there will be none any more.
    fn turn(&mut self) -> bool {
        let room = self.request.bytes().get_mut(REQUEST_START..).unwrap_or_default();
        let read = loop {
            match nix::unistd::read(self.fd, &mut *room) {
                // ENOENT: the request was withdrawn while it was being read.
                Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOENT) => {}
                other => break other,
            }
        };
        match read {
            Ok(length) => {
                self.channel.taken();
                self.serve(length);
                true
            }
            Err(errno) => {
                self.channel.idle.fetch_sub(1, SeqCst);
                self.channel.ended(errno);
                false
            }
        }
    }

    fn serve(&mut self, length: usize) {
        let message = self.request.bytes().get(REQUEST_START..REQUEST_START + length).unwrap_or_default();
        let Some((head, body)) = self.reply.bytes().split_at_mut_checked(PAGE) else { return };
        let server = &self.channel.server;
        let Some(answer) = server.serve(message, body, &mut self.handed) else { return };
        let Some(header) = header(answer) else {
            self.handed.confirm();
            return;
        };
        let head = head.get_mut(REPLY_START..).unwrap_or_default();
        if header.write_to(head).is_err() {
            log::error!("the reply's header does not fit its place");
        }
        let whole =
            self.reply.bytes().get(REPLY_START..REPLY_START + header.len as usize).unwrap_or_default();
        match nix::unistd::write(self.fd, whole) {
            Ok(_) => self.handed.confirm(),
            Err(errno) => {
                // ENOENT: the request was withdrawn meanwhile. ENODEV: so was the mount.
                if !matches!(errno, Errno::ENOENT | Errno::ENODEV | Errno::ECONNABORTED) {
                    log::error!("the kernel refused the reply to request {}: {errno}", answer.unique);
                }
                server.take_back(&mut self.handed);
            }
        }
    }
}
