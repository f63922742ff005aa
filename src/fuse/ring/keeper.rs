//! Adds threads to a queue when all it has are stuck, so that forty hanging copy-ups hold up nobody.
//!
//! That a queue is exhausted for a moment is normal: two programs ask at once, or somebody else has the CPU. More
//! threads would not help then, and would stay. So whoever takes the last free thread of a queue wakes the keeper, which
//! looks twice, some time apart: only threads that are in the same request at both times and wait for something, or
//! compute for long, are stuck. When no queue is exhausted the keeper sleeps for good.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Duration;

use super::Service;
use super::queue::Finding;
use crate::sys::Errno;

/// Between two looks at an exhausted queue: the least.
const SOON: Duration = Duration::from_millis(1);
/// And the most.
const LATER: Duration = Duration::from_millis(20);

/// How others reach the keeper.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    thread: OnceLock<Thread>,
    /// It sleeps until it is woken.
    asleep: AtomicBool,
    closed: AtomicBool,
}

impl Keeper {
    /// Says which thread it is.
    pub fn is(&self, thread: Thread) {
        // It is set once, right after the thread was started.
        if self.thread.set(thread).is_err() {
            log::error!("the rings have two keepers");
        }
    }

    /// Asks for a look, unless one is coming anyway.
    pub fn look(&self) {
        if self.asleep.swap(false, SeqCst) {
            self.wake();
        }
    }

    /// Ends it.
    pub fn close(&self) {
        self.closed.store(true, SeqCst);
        self.wake();
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

/// How many threads to add to a queue of `now`.
fn growth(now: usize, most: usize) -> usize {
    let wanted = if now <= super::FIRST { now + 3 } else { now * 4 };
    wanted.min(most).saturating_sub(now)
}

/// The keeper's work, until the rings are closed.
pub(super) fn run(service: &Arc<Service>) {
    super::leave_signals_to_others();
    let keeper = &service.keeper;
    let mut seen = vec![Vec::new(); service.queues.len()];
    let mut pause = SOON;
    while !keeper.closed.load(SeqCst) {
        // Before looking: whoever exhausts a queue after the look finds the keeper asleep, and wakes it.
        keeper.asleep.store(true, SeqCst);
        let mut exhausted = false;
        for (number, (queue, seen)) in service.queues.iter().zip(&mut seen).enumerate() {
            match queue.look(seen) {
                Finding::Free => {}
                Finding::Busy => exhausted = true,
                Finding::Stuck(now) => {
                    exhausted = true;
                    add(service, number, now);
                }
            }
        }
        if exhausted {
            keeper.asleep.store(false, SeqCst);
            std::thread::park_timeout(pause);
            pause = (pause * 2).min(LATER);
        } else {
            pause = SOON;
            // A wake-up may come early for no reason.
            while keeper.asleep.load(SeqCst) && !keeper.closed.load(SeqCst) {
                std::thread::park();
            }
        }
    }
}

fn add(service: &Arc<Service>, queue: usize, now: usize) {
    let mut added = 0;
    for _ in 0..growth(now, service.most) {
        match service.grow(queue) {
            Ok(()) => added += 1,
            // The mount is ending.
            Err(Errno::ENOTCONN | Errno::ECONNABORTED | Errno::ECANCELED) => return,
            Err(errno) => {
                log::warn!("no further thread for the ring of CPU {queue}: {errno}");
                break;
            }
        }
    }
    if added > 0 {
        log::debug!("{now} threads of the ring of CPU {queue} are stuck; {added} more");
        service.stir(queue, added);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_grows_by_a_few_and_then_fourfold_up_to_its_most() {
        let mut now = 2;
        let mut steps = Vec::new();
        while growth(now, 64) > 0 {
            now += growth(now, 64);
            steps.push(now);
        }
        assert_eq!(steps, [5, 20, 64]);
        assert_eq!(growth(1, 1), 0);
        assert_eq!(growth(1, 64), 3);
    }
}
