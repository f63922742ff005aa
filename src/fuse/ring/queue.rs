//! The threads of one queue, and how somebody else can tell that all of them are stuck.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::sys::thread::{Doing, Thread};

/// CPU time after which a request counts as long: one that copies from cache to cache never waits.
const LONG: Duration = Duration::from_millis(4);

/// What a thread shows of itself.
#[derive(Debug)]
pub(super) struct Post {
    thread: Thread,
    /// Odd while it serves a request; a number is never used again.
    turn: AtomicU64,
    /// It was let off its CPU during a long request.
    roams: AtomicBool,
}

impl Post {
    /// Of the thread that calls this or is about to begin.
    pub fn new(thread: Thread) -> Post {
        Post { thread, turn: AtomicU64::new(0), roams: AtomicBool::new(false) }
    }
}

/// One queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Threads that serve a request.
    busy: AtomicUsize,
    /// Threads that there are.
    present: AtomicUsize,
    /// Leaf lock; the keeper's and for coming and going.
    posts: Mutex<Vec<Arc<Post>>>,
}

/// What the keeper saw of a thread when it looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sight {
    turn: u64,
    /// CPU time at the first look at this turn.
    since: Duration,
}

/// What the keeper makes of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Somebody is free.
    Free,
    /// Nobody is, but somebody soon will be, or would be with a CPU.
    Busy,
    /// So many threads, and all of them are stuck in a request.
    Stuck(usize),
}

impl Queue {
    /// A thread entered service.
    pub fn arrived(&self, post: &Arc<Post>) {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(post));
        self.present.fetch_add(1, SeqCst);
    }

    /// A thread ended.
    pub fn left(&self, post: &Arc<Post>) {
        self.present.fetch_sub(1, SeqCst);
        self.posts.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| !Arc::ptr_eq(other, post));
    }

    /// A thread took a request. True: it was the last one that was free.
    pub fn taken(&self, post: &Post) -> bool {
        post.turn.fetch_add(1, SeqCst);
        self.busy.fetch_add(1, SeqCst) + 1 >= self.present.load(SeqCst)
    }

    /// A thread is done with its request; if it was let off its CPU it returns there.
    pub fn done(&self, post: &Post, cpu: usize) {
        post.turn.fetch_add(1, SeqCst);
        self.busy.fetch_sub(1, SeqCst);
        if post.roams.swap(false, SeqCst)
            && let Err(errno) = post.thread.stay_on(cpu)
        {
            log::debug!("a thread cannot return to CPU {cpu}: {errno}");
        }
    }

    /// Looks at every thread if all are busy. `seen` is what the last look found; it is replaced.
    pub fn look(&self, seen: &mut Vec<Option<Sight>>) -> Finding {
        if self.busy.load(SeqCst) < self.present.load(SeqCst) {
            seen.clear();
            return Finding::Free;
        }
        let posts = self.posts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        seen.resize(posts.len(), None);
        let mut stuck = 0;
        for (post, seen) in posts.iter().zip(seen.iter_mut()) {
            let turn = post.turn.load(SeqCst);
            let used = post.thread.cpu_time().unwrap_or_default();
            match *seen {
                Some(sight) if sight.turn == turn => {
                    stuck += usize::from(turn % 2 == 1 && post.is_stuck(used.saturating_sub(sight.since)));
                }
                _ => *seen = Some(Sight { turn, since: used }),
            }
        }
        if !posts.is_empty() && stuck == posts.len() { Finding::Stuck(stuck) } else { Finding::Busy }
    }
}

impl Post {
    /// Whether a thread that is in the same request as before is held up by something else than the want of a CPU.
    fn is_stuck(&self, used: Duration) -> bool {
        if used >= LONG {
            // It works hard: not on the CPU whose callers wait for others like it.
            if !self.roams.swap(true, SeqCst)
                && let Err(errno) = self.thread.go_anywhere()
            {
                log::debug!("a busy thread cannot leave its CPU: {errno}");
            }
            return true;
        }
        match self.thread.doing() {
            Doing::Waiting | Doing::Unknown => true,
            Doing::Running => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue_of(posts: &[&Arc<Post>]) -> Queue {
        let queue = Queue::default();
        posts.iter().for_each(|post| queue.arrived(post));
        queue
    }

    fn post() -> Arc<Post> {
        Arc::new(Post::new(Thread::current().unwrap()))
    }

    #[test]
    fn only_whoever_takes_the_last_free_thread_says_so() {
        let (one, two) = (post(), post());
        let queue = queue_of(&[&one, &two]);
        assert!(!queue.taken(&one));
        assert!(queue.taken(&two));
        queue.done(&one, 0);
        assert!(queue.taken(&one));
    }

    #[test]
    fn a_thread_that_runs_is_busy_and_one_that_waits_in_the_same_request_is_stuck() {
        let mine = post();
        let queue = queue_of(&[&mine]);
        let mut seen = Vec::new();
        assert_eq!(queue.look(&mut seen), Finding::Free);
        queue.taken(&mine);
        assert_eq!(queue.look(&mut seen), Finding::Busy);

        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let other = std::thread::spawn(move || {
            tell.send(Thread::current().unwrap()).unwrap();
            wait.recv().unwrap();
        });
        let thread = told.recv().unwrap();
        while thread.doing() != Doing::Waiting {}
        let waiting = Arc::new(Post::new(thread));
        let queue = queue_of(&[&waiting]);
        queue.taken(&waiting);
        let mut seen = Vec::new();
        assert_eq!(queue.look(&mut seen), Finding::Busy, "one look proves nothing");
        assert_eq!(queue.look(&mut seen), Finding::Stuck(1));
        queue.done(&waiting, 0);
        queue.taken(&waiting);
        assert_eq!(queue.look(&mut seen), Finding::Busy, "another request");
        go.send(()).unwrap();
        other.join().unwrap();
    }
}
