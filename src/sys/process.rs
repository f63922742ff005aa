//! The process itself: becoming a daemon, its limits and protections, its signals, and waiting for another one.
//!
//! A server of a file system is not an ordinary process: if it is killed to free memory, everything that waits for
//! the mount is lost; if its own writes wait for pages that it must clean itself, it waits for ever. What the kernel
//! offers against both is asked for here, and refusals are normal (no CAP_SYS_RESOURCE) and reported to the caller.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::stat::{Mode, umask};

use super::{Errno, Result};

/// Which of the two processes this is, after [`fork`].
#[derive(Debug)]
pub enum Side {
    /// The one that was there before; it may wait for the other.
    Parent(Child),
    /// The new one.
    Child,
}

/// A child process.
#[derive(Debug)]
pub struct Child(nix::unistd::Pid);

impl Child {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.as_raw().unsigned_abs()
    }

    /// Waits for its end and says it in words ("was killed by SIGKILL", "exited with status 3").
    pub fn wait(&self) -> Result<String> {
        Ok(match self.end()? {
            End::Exited(status) => format!("exited with status {status}"),
            End::Killed(signal) => format!("was killed by {signal}"),
        })
    }

    /// Waits for its end.
    pub fn end(&self) -> Result<End> {
        use nix::sys::wait::{WaitStatus, waitpid};
        loop {
            match waitpid(self.0, None) {
                Ok(WaitStatus::Exited(_, status)) => return Ok(End::Exited(status)),
                Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(End::Killed(signal)),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// A descriptor that is readable once it has ended. Errors: ENOSYS before Linux 5.3.
    pub fn watch(&self) -> Result<OwnedFd> {
        pidfd(self.0.as_raw())
    }

    /// Sends it a signal. It is not waited for yet, so its number is still its own.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        nix::sys::signal::kill(self.0, signal)
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Exited(i32),
    /// By this signal.
    Killed(Signal),
}

/// pidfd_open(2). Errors: ESRCH.
fn pidfd(pid: libc::pid_t) -> Result<OwnedFd> {
    // SAFETY: no pointers; the result is checked before it is owned.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Doubles the process.
///
/// # Errors
/// EAGAIN or ENOMEM as fork(2); EBUSY when this process has more than one thread, since the child would hold the
/// locks of threads that it does not have.
pub fn fork() -> Result<Side> {
    if threads() != Some(1) {
        return Err(Errno::EBUSY);
    }
    // SAFETY: checked above to be the only thread, so the child has every thread that could hold a lock.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Side::Parent(Child(child))),
        nix::unistd::ForkResult::Child => Ok(Side::Child),
    }
}

/// Threads of this process; `None` without /proc.
fn threads() -> Option<usize> {
    std::fs::read_dir("/proc/self/task").ok().map(Iterator::count)
}

/// Leaves the terminal, the current directory and the three standard streams of whoever started this process.
///
/// # Errors
/// As setsid(2), chdir(2) and open(2) of /dev/null.
pub fn detach() -> Result<()> {
    match nix::unistd::setsid() {
        // EPERM: already the leader of its group, as under a supervisor.
        Ok(_) | Err(Errno::EPERM) => {}
        Err(errno) => return Err(errno),
    }
    nix::unistd::chdir("/")?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(errno_of)?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)
}

/// Opens the standard streams that the caller left closed, so that no file of ours ever gets their numbers.
///
/// # Errors
/// As open(2) of /dev/null.
pub fn fill_standard_streams() -> Result<()> {
    loop {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(errno_of)?;
        if null.as_raw_fd() > 2 {
            return Ok(());
        }
        // Meant to stay: it is a standard stream now.
        std::mem::forget(null);
    }
}

/// Closes what whoever started this process left open, above the standard streams: somebody may wait for the end of
/// a pipe that a server would hold for months.
pub fn close_inherited() {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers: Vec<i32> = open
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|n| *n > 2)
        .collect();
    for number in numbers {
        // SAFETY: only asked for its flags here; a number that is no longer open gives EBADF.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let flags = fcntl(fd, FcntlArg::F_GETFD).map(FdFlag::from_bits_retain);
        if flags.is_ok_and(|flags| !flags.contains(FdFlag::FD_CLOEXEC)) {
            // SAFETY: everything this program opens is close-on-exec; what is not came through exec and has no owner.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
        }
    }
}

fn errno_of(e: std::io::Error) -> Errno {
    e.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// The umask is the callers' business; each request brings its own.
pub fn clear_umask() {
    umask(Mode::empty());
}

/// Raises the soft limit of open files to the hard one and returns it.
///
/// # Errors
/// As setrlimit(2).
pub fn raise_open_files() -> Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// Has the kernel make its table of this process's descriptors large enough for `count` of them, or for as many as there
/// may be. Growing it later makes every thread wait until all CPUs have let go of the old one, some milliseconds each
/// time; with a single thread it costs nothing.
///
/// # Errors
/// As open(2) and fcntl(2).
pub fn make_room_for_descriptors(count: usize) -> Result<()> {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let highest = i32::try_from(soft.saturating_sub(1)).unwrap_or(i32::MAX);
    let wanted = i32::try_from(count).unwrap_or(i32::MAX).min(highest);
    let any = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let raw = fcntl(&any, FcntlArg::F_DUPFD_CLOEXEC(wanted))?;
    // SAFETY: fcntl has just made this descriptor, and nobody else knows it.
    drop(unsafe { OwnedFd::from_raw_fd(raw) });
    Ok(())
}

/// Tells the out-of-memory killer to choose somebody else.
///
/// # Errors
/// EACCES without CAP_SYS_RESOURCE.
pub fn refuse_oom_kill() -> Result<()> {
    let mut file = OpenOptions::new().write(true).open("/proc/self/oom_score_adj").map_err(errno_of)?;
    file.write_all(b"-1000").map_err(errno_of)
}

/// Says that this thread, and those it starts from now on, clean pages that others wait for: their allocations do
/// not wait for writeback in turn.
///
/// # Errors
/// EPERM without CAP_SYS_RESOURCE; EINVAL before Linux 5.6.
pub fn become_io_flusher() -> Result<()> {
    const PR_SET_IO_FLUSHER: libc::c_int = 57;
    // SAFETY: no pointers; the arguments are those of prctl(2).
    Errno::result(unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) }).map(drop)
}

/// Makes the allocator give memory back when a server forgets what it held for a burst. By default glibc keeps an arena
/// for each of many threads, and stops giving large buffers back after the first was freed. To be called before the
/// first thread is started. False when a wish was refused, or the C library is another one.
pub fn give_freed_memory_back() -> bool {
    #[cfg(target_env = "gnu")]
    {
        const LARGE: libc::c_int = 128 << 10;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let arenas = libc::c_int::try_from(cpus.clamp(2, 8)).unwrap_or(2);
        let wishes =
            [(libc::M_ARENA_MAX, arenas), (libc::M_MMAP_THRESHOLD, LARGE), (libc::M_TRIM_THRESHOLD, LARGE)];
        // SAFETY: mallopt takes two numbers and changes the allocator's own settings; no other thread exists.
        wishes.into_iter().all(|(what, value)| unsafe { libc::mallopt(what, value) } == 1)
    }
    #[cfg(not(target_env = "gnu"))]
    false
}

/// Gives back the whole pages that the allocator holds free among used ones. Costs a walk over what is free.
pub fn give_free_pages_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers; the allocator takes its own locks. Whether there was anything to give back is of no interest.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Whether `trusted.*` attributes can be used: CAP_SYS_ADMIN, and in the initial user namespace.
pub fn may_use_trusted_xattrs() -> bool {
    const CAP_SYS_ADMIN: u32 = 21;
    // The inode number of the first user namespace is part of the kernel's ABI (PROC_USER_INIT_INO).
    const INITIAL: &str = "user:[4026531837]";
    let initial = std::fs::read_link("/proc/self/ns/user").is_ok_and(|link| link.as_os_str() == INITIAL);
    let effective = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(line.trim(), 16).ok()
    });
    initial && effective.is_some_and(|caps| caps & (1 << CAP_SYS_ADMIN) != 0)
}

/// The signals that ask the server to end.
const ENDING: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// The ending signals, held back from every thread; exists only once they are.
#[derive(Debug)]
pub struct EndingSignals(SigSet);

impl EndingSignals {
    /// Holds them back in this thread and those it starts, and ignores SIGPIPE. To be called before any thread is
    /// started.
    ///
    /// # Errors
    /// As sigprocmask(2).
    pub fn block() -> Result<EndingSignals> {
        let set: SigSet = ENDING.into_iter().collect();
        set.thread_block()?;
        // SAFETY: ignoring a signal installs no handler of ours.
        unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) }?;
        Ok(EndingSignals(set))
    }

    /// Waits for the next one and returns its name.
    ///
    /// # Errors
    /// As sigwait(3).
    pub fn wait(&self) -> Result<&'static str> {
        self.0.wait().map(Signal::as_str)
    }
}

/// Another process, held so that its number cannot come to mean somebody else.
#[derive(Debug)]
pub struct Process(OwnedFd);

impl Process {
    /// Finds the process `pid` that was started at `start` (clock ticks since boot, field 22 of /proc/PID/stat).
    /// `None`: it is gone.
    ///
    /// # Errors
    /// As pidfd_open(2) but ESRCH: ENOSYS before Linux 5.3.
    pub fn find(pid: u32, start: u64) -> Result<Option<Process>> {
        let raw = libc::pid_t::try_from(pid).map_err(|_| Errno::EINVAL)?;
        let process = match pidfd(raw) {
            Ok(fd) => Process(fd),
            Err(Errno::ESRCH) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        // Asked after opening: if the number still names the same start, the descriptor does too.
        match start_of(pid) {
            Some(found) if found == start => Ok(Some(process)),
            _ => Ok(None),
        }
    }

    /// Waits for its end, at most for `limit`; true when it has ended.
    ///
    /// # Errors
    /// As poll(2) but EINTR.
    pub fn wait(&self, limit: Duration) -> Result<bool> {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

/// When the process `pid` was started, in clock ticks since boot. `None`: there is no such process.
pub fn start_of(pid: u32) -> Option<u64> {
    let mut stat = String::new();
    File::open(format!("/proc/{pid}/stat")).ok()?.read_to_string(&mut stat).ok()?;
    start_in(&stat)
}

/// Field 22 of a stat line; the second field may hold blanks and parentheses. A zombie counts as gone.
fn start_in(stat: &str) -> Option<u64> {
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_ascii_whitespace();
    match fields.next()? {
        "Z" | "X" => None,
        _ => fields.nth(18)?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_a_process_is_found_behind_any_name() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21";
        assert_eq!(start_in(&format!("7 (a) b ( c) {tail}")), Some(4242));
        assert_eq!(start_in("7 (x) Z 1 2"), None);
        assert_eq!(start_in("garbage"), None);
    }

    #[test]
    fn a_process_is_recognised_by_its_start_and_its_end_is_seen() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let start = start_of(child.id()).unwrap();
        assert!(Process::find(child.id(), start + 1).unwrap().is_none());
        let process = Process::find(child.id(), start).unwrap().unwrap();
        assert!(!process.wait(Duration::ZERO).unwrap());
        child.kill().unwrap();
        assert!(process.wait(Duration::from_secs(10)).unwrap());
        child.wait().unwrap();
        assert!(Process::find(child.id(), start).unwrap().is_none());
    }

    #[test]
    fn a_process_with_several_threads_is_not_forked() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || stopped.recv());
        assert!(matches!(fork(), Err(Errno::EBUSY)));
        drop(stop);
        assert!(other.join().unwrap().is_err());
    }
}
