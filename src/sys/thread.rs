//! Threads as the scheduler sees them: which CPU they run on, how much of it they used, what they wait for.

use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use super::{Errno, Result};

/// A thread of this process, told to others.
#[derive(Clone, Copy, Debug)]
pub struct Thread {
    id: Pid,
    clock: ClockId,
    /// Where it was allowed to run when it was asked.
    allowed: CpuSet,
}

/// What a thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It runs, or would if it had a CPU.
    Running,
    /// It waits for something else than a CPU.
    Waiting,
    /// Without /proc nobody can tell.
    Unknown,
}

impl Thread {
    /// The thread that calls this.
    ///
    /// # Errors
    /// As pthread_getcpuclockid(3) and sched_getaffinity(2).
    pub fn current() -> Result<Thread> {
        let mut clock = 0;
        // SAFETY: asks for the clock of the calling thread, which exists, into a variable that lives.
        let failed = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
        if failed != 0 {
            return Err(Errno::from_raw(failed));
        }
        let id = nix::unistd::gettid();
        Ok(Thread { id, clock: ClockId::from_raw(clock), allowed: sched_getaffinity(id)? })
    }

    /// CPU time it has used. Errors: EINVAL once it has ended.
    pub fn cpu_time(&self) -> Result<Duration> {
        clock_gettime(self.clock).map(Duration::from)
    }

    /// What it is doing now.
    pub fn doing(&self) -> Doing {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/self/task/{}/stat", self.id)) else {
            return Doing::Unknown;
        };
        // The name, in brackets, may contain anything.
        match stat.rsplit_once(')').map(|(_, rest)| rest.trim_start().as_bytes().first()) {
            Some(Some(b'R')) => Doing::Running,
            Some(Some(_)) => Doing::Waiting,
            _ => Doing::Unknown,
        }
    }

    /// Binds it to one CPU. Errors: EINVAL for one that is offline or was not allowed.
    pub fn stay_on(&self, cpu: usize) -> Result<()> {
        if !self.allowed.is_set(cpu)? {
            return Err(Errno::EINVAL);
        }
        let mut one = CpuSet::new();
        one.set(cpu)?;
        sched_setaffinity(self.id, &one)
    }

    /// Lets it run wherever it could before [`Thread::stay_on`].
    ///
    /// # Errors
    /// As sched_setaffinity(2).
    pub fn go_anywhere(&self) -> Result<()> {
        sched_setaffinity(self.id, &self.allowed)
    }
}

/// How many CPUs this machine can ever have; the kernel numbers them from 0. `None` without /sys.
pub fn possible_cpus() -> Option<usize> {
    count_cpus(&std::fs::read_to_string("/sys/devices/system/cpu/possible").ok()?)
}

/// The length of a list like `0-3,8`.
fn count_cpus(list: &str) -> Option<usize> {
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first).map(|more| more + 1)
    };
    list.trim().split(',').map(count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_counted() {
        assert_eq!(count_cpus("0-1\n"), Some(2));
        assert_eq!(count_cpus("0\n"), Some(1));
        assert_eq!(count_cpus("0-3,8,10-11"), Some(7));
        assert_eq!(count_cpus(""), None);
        assert_eq!(count_cpus("3-1"), None);
    }

    #[test]
    fn a_thread_that_waits_is_told_from_one_that_runs() {
        let (tell, told) = std::sync::mpsc::channel();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            tell.send(Thread::current().unwrap()).unwrap();
            wait.recv().unwrap();
        });
        let waiting = told.recv().unwrap();
        let start = std::time::Instant::now();
        while waiting.doing() != Doing::Waiting {
            assert!(start.elapsed().as_secs() < 10);
        }
        let me = Thread::current().unwrap();
        assert_eq!(me.doing(), Doing::Running);
        assert!(me.cpu_time().unwrap() > Duration::ZERO);
        // The first CPU may be one that this process is kept away from.
        assert!(matches!(me.stay_on(0), Ok(()) | Err(Errno::EINVAL)));
        me.go_anywhere().unwrap();
        go.send(()).unwrap();
        other.join().unwrap();
    }
}
