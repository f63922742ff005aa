//! The channel over io_uring: a queue for each CPU, served on that CPU.
//!
//! A request goes to the queue of the CPU its caller runs on, and waits there until an entry of that queue is free. So
//! every queue must have an entry before any request can flow, a queue whose threads all hang holds up everybody on
//! its CPU, and a thread that runs elsewhere loses what makes this channel fast. Each thread therefore owns a ring with
//! one entry (`entry`), is bound to its queue's CPU and sleeps in the kernel; it serves requests itself. A queue begins
//! with two threads, and [`keeper`] adds some when all of them are stuck.
//!
//! The choice is made before INIT: a connection that agreed on rings which nobody serves would hang, and one that did
//! not agree can have none. So the threads and their rings exist first ([`Prepared`]), and enter service afterwards.
//! FORGET, INTERRUPT and notifications stay on `/dev/fuse` beside them.

mod entry;
mod keeper;
mod probe;
mod queue;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{Builder, JoinHandle};

pub(super) use probe::{Obstacle, no_rings, not_agreed, obstacle};

use entry::{Entry, Said};
use keeper::Keeper;
use queue::{Post, Queue};

use super::channel::leave_signals_to_others;
use super::serve::{Handed, Server};
use crate::sys::thread::{Thread, possible_cpus};
use crate::sys::{Errno, Result};

/// Threads a queue begins with.
const FIRST: usize = 2;
/// On machines with more CPUs than this, one.
const FEW: usize = 32;
/// The most a queue gets.
const MOST: usize = 64;

/// What every thread of the rings needs.
struct Service {
    server: Arc<Server>,
    device: Arc<OwnedFd>,
    queues: Vec<Arc<Queue>>,
    keeper: Keeper,
    /// The most threads of one queue.
    most: usize,
    /// Device number of the mount, once there is one.
    mount: OnceLock<u32>,
    /// Leaf lock, held for a push or pop.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Threads that have their rings and wait for a connection. Dropped: they end.
pub(super) struct Prepared {
    queues: usize,
    most: usize,
    waiting: Vec<Waiting>,
}

/// One of them.
struct Waiting {
    thread: JoinHandle<()>,
    go: Sender<Arc<Service>>,
    said: Receiver<Result<()>>,
}

/// A connection that is served over rings.
pub(super) struct Rings {
    service: Arc<Service>,
    keeper: JoinHandle<()>,
}

impl Prepared {
    /// Starts a thread with its ring for every queue. `threads`: so many altogether, but one for every queue at least.
    ///
    /// # Errors
    /// Why there cannot be rings: an errno of [`Entry::new`] or of starting a thread; ENOSYS when nobody can say how many
    /// queues are needed.
    pub fn new(threads: Option<usize>) -> Result<Prepared> {
        let queues = possible_cpus().filter(|n| *n > 0 && u16::try_from(*n).is_ok()).ok_or(Errno::ENOSYS)?;
        let most = threads.map_or(MOST, |all| (all / queues).clamp(1, MOST));
        let first = if queues > FEW { 1 } else { FIRST.min(most) };
        let mut prepared = Prepared { queues, most, waiting: Vec::new() };
        for queue in (0..queues).flat_map(|queue| std::iter::repeat_n(queue, first)) {
            prepared.waiting.push(start(queue)?);
        }
        for waiting in &prepared.waiting {
            waiting.said.recv().unwrap_or(Err(Errno::EIO))?;
        }
        Ok(prepared)
    }

    /// Enters service on a connection that agreed to rings.
    ///
    /// # Errors
    /// What the kernel said to an entry. The connection is of no use then.
    pub fn serve(mut self, server: Arc<Server>, device: Arc<OwnedFd>) -> Result<Rings> {
        let queues = (0..self.queues).map(|_| Arc::new(Queue::default())).collect();
        let keeper = Keeper::default();
        let service = Arc::new(Service {
            server,
            device,
            queues,
            keeper,
            most: self.most,
            mount: OnceLock::new(),
            threads: Mutex::default(),
        });
        let for_keeper = Arc::clone(&service);
        let keeper = Builder::new().name("ring-keeper".into()).spawn(move || keeper::run(&for_keeper));
        let keeper = keeper.map_err(crate::sys::errno_of)?;
        service.keeper.is(keeper.thread().clone());
        let mut worst = Ok(());
        let mut begun = Vec::new();
        for waiting in self.waiting.drain(..) {
            // A thread that ended already has no word for us either.
            let sent = waiting.go.send(Arc::clone(&service));
            begun.push((sent.is_ok(), waiting.said));
            service.add(waiting.thread);
        }
        for (sent, said) in begun {
            let said = if sent { said.recv().unwrap_or(Err(Errno::EIO)) } else { Err(Errno::EIO) };
            worst = worst.and(said);
        }
        match worst {
            Ok(()) => Ok(Rings { service, keeper }),
            Err(errno) => {
                service.keeper.close();
                Err(errno)
            }
        }
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        for Waiting { thread, go, .. } in self.waiting.drain(..) {
            drop(go);
            if thread.join().is_err() {
                log::error!("a thread that waited for a connection panicked");
            }
        }
    }
}

impl Rings {
    /// Says what the mount's device number is: anonymous, so its minor part is enough.
    pub fn mounted_as(&self, minor: u32) {
        if self.service.mount.set(minor).is_err() {
            log::error!("the rings were told twice what they serve");
        }
    }

    /// Waits until every thread is gone; they go when the connection is over.
    pub fn join(self) {
        let Rings { service, keeper } = self;
        service.keeper.close();
        if keeper.join().is_err() {
            log::error!("the keeper of the rings panicked");
        }
        loop {
            let next = service.threads.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(next) = next else { break };
            if next.join().is_err() {
                log::error!("a thread that serves a ring panicked outside of a request");
            }
        }
    }
}

impl Service {
    fn add(&self, thread: JoinHandle<()>) {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
    }

    /// One more thread for a queue whose threads are stuck.
    fn grow(self: &Arc<Service>, queue: usize) -> Result<()> {
        let waiting = start(queue)?;
        waiting.said.recv().unwrap_or(Err(Errno::EIO))?;
        waiting.go.send(Arc::clone(self)).map_err(|_| Errno::EIO)?;
        self.add(waiting.thread);
        waiting.said.recv().unwrap_or(Err(Errno::EIO))
    }

    /// Has `requests` small requests made on the CPU of a queue. Requests that waited before a new entry came are not
    /// given to it: the kernel hands them out when an entry is done with another one.
    fn stir(self: &Arc<Service>, queue: usize, requests: usize) {
        let Some(&minor) = self.mount.get() else { return };
        let work = move || {
            leave_signals_to_others();
            if let Err(errno) = Thread::current().and_then(|thread| thread.stay_on(queue)) {
                log::debug!("no request can be made on CPU {queue}: {errno}");
            }
            for _ in 0..requests {
                if let Err(errno) = crate::sys::mountapi::ask_superblock(minor) {
                    log::debug!("no request could be made: {errno}");
                    return;
                }
            }
        };
        // A thread of its own: while the mount ends it can be held up, and who serves must not be.
        match Builder::new().name("ring-stir".into()).spawn(work) {
            Ok(thread) => self.add(thread),
            Err(error) => log::warn!("a thread that makes a request could not be started: {error}"),
        }
    }
}

/// Starts a thread, which says whether it has a ring, and then waits to be told to go.
fn start(queue: usize) -> Result<Waiting> {
    let (go, wait) = channel::<Arc<Service>>();
    let (say, said) = channel();
    let work = move || {
        leave_signals_to_others();
        match Worker::new(queue) {
            Ok(worker) => {
                // Whoever asked may have given up; then nobody will tell us to go.
                if say.send(Ok(())).is_ok()
                    && let Ok(service) = wait.recv()
                {
                    worker.run(&service, &say);
                }
            }
            Err(errno) => {
                say.send(Err(errno)).ok();
            }
        }
    };
    let thread = Builder::new().name(format!("ring-{queue}")).spawn(work).map_err(crate::sys::errno_of)?;
    Ok(Waiting { thread, go, said })
}

/// One thread with its ring.
struct Worker {
    queue: usize,
    entry: Entry,
    post: Arc<Post>,
    handed: Handed,
}

impl Worker {
    fn new(queue: usize) -> Result<Worker> {
        let thread = Thread::current()?;
        if let Err(errno) = thread.stay_on(queue) {
            log::debug!("a thread cannot stay on CPU {queue}: {errno}");
        }
        let number = u16::try_from(queue).map_err(|_| Errno::EINVAL)?;
        let entry = Entry::new(number)?;
        Ok(Worker { queue, entry, post: Arc::new(Post::new(thread)), handed: Handed::default() })
    }

    /// Serves until the connection is over. Says to `say` whether the kernel took the entry.
    fn run(mut self, service: &Service, say: &Sender<Result<()>>) {
        let Some(queue) = service.queues.get(self.queue) else { return };
        let registered = self.entry.register(service.device.as_fd());
        let serves = registered.is_ok();
        if serves {
            queue.arrived(&self.post);
        }
        // Whoever asked may have given up.
        say.send(registered).ok();
        if !serves {
            return;
        }
        service.server.stats().thread_started();
        self.serve(service, queue);
        queue.left(&self.post);
        service.server.stats().thread_ended();
    }

    fn serve(&mut self, service: &Service, queue: &Queue) {
        let mut said = self.entry.next();
        loop {
            match said {
                Ok(Said::Request) => {
                    self.handed.confirm();
                    if queue.taken(&self.post) {
                        service.keeper.look();
                    }
                    self.entry.serve(&service.server, &mut self.handed);
                    queue.done(&self.post, self.queue);
                    said = self.entry.commit(service.device.as_fd());
                }
                Ok(Said::Ended) => return,
                Ok(Said::Refused(errno)) => {
                    log::error!("the kernel refused the reply to a request: {errno}");
                    service.server.take_back(&mut self.handed);
                    said = self.entry.join(service.device.as_fd());
                    if let Ok(Said::Refused(errno)) = said {
                        log::error!("a ring of CPU {} is out of service: {errno}", self.queue);
                        return;
                    }
                }
                Err(errno) => {
                    log::error!("a ring of CPU {} failed: {errno}", self.queue);
                    return;
                }
            }
        }
    }
}
