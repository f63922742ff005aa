//! The command: a child of this process, in the server's mount namespace, with everything else as it would be
//! without us.
//!
//! Signals from the terminal reach the command by themselves, since it is in our process group; only those that
//! somebody sent to this process are passed on.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::inside::Inside;
use super::server::Server;
use crate::error::SetupError;
use crate::sys::process::{self, Child, End, Side};
use crate::sys::{Errno, namespace};

/// Where the command's standard output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdout {
    /// Where ours goes.
    Own,
    /// To our standard error: ours is for the report.
    ToStderr,
}

/// Signals that are passed on.
const PASSED_ON: [Signal; 9] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGCONT,
    Signal::SIGWINCH,
];

/// Signals held back from this process while the command runs; as before when dropped.
struct HeldBack {
    before: SigSet,
    arrive: SignalFd,
}

impl HeldBack {
    fn new() -> Result<HeldBack, Errno> {
        let set: SigSet = PASSED_ON.into_iter().collect();
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut before))?;
        let arrive = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(HeldBack { before, arrive })
    }

    fn restore(&self) -> Result<(), Errno> {
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None)
    }
}

impl Drop for HeldBack {
    fn drop(&mut self) {
        if let Err(errno) = self.restore() {
            log::error!("signals stay held back: {errno}");
        }
    }
}

/// Runs the command in the server's namespace and waits for its end.
///
/// # Errors
/// It could not be started at all; a command that is not there ends with 127, one that is no program with 126.
pub fn run(
    words: &[OsString],
    stdout: Stdout,
    server: &Server,
    inside: Option<&Inside>,
) -> Result<End, SetupError> {
    let here = std::env::current_dir().map_err(|e| {
        SetupError::new("find the current directory", e).hint("change to a directory that is there")
    })?;
    let failed = |errno: Errno| SetupError::new("start the command", errno.desc());
    let namespace = server.process()?;
    let held = HeldBack::new().map_err(failed)?;
    let parent = std::process::id();
    match process::fork().map_err(failed)? {
        Side::Child => {
            let prepared = namespace::end_with(parent)
                .and_then(|alive| if alive { Ok(()) } else { Err(Errno::ESRCH) })
                .and_then(|()| namespace::join_mounts(namespace.as_fd()))
                .and_then(|()| match stdout {
                    Stdout::Own => Ok(()),
                    Stdout::ToStderr => nix::unistd::dup2_stdout(std::io::stderr()),
                })
                .and_then(|()| held.restore());
            let error = match prepared {
                Ok(()) => match inside {
                    Some(inside) => inside.become_command(),
                    None => become_command(words, here),
                },
                Err(errno) => (failed(errno), super::FAILED.into()),
            };
            super::output::complain(&error.0);
            std::process::exit(error.1)
        }
        Side::Parent(child) => wait(&child, &held).map_err(failed),
    }
}

/// Never returns but with an error, and the exit status that says it.
fn become_command(words: &[OsString], here: PathBuf) -> (SetupError, i32) {
    let Some((program, arguments)) = words.split_first() else {
        return (SetupError::new("run a command", "none was given"), super::FAILED.into());
    };
    if let Err(e) = std::env::set_current_dir(&here) {
        let error = SetupError::new("enter the current directory", e).at(here);
        return (
            error.hint("is it in a directory that the run covers and that is not shown there?"),
            super::FAILED.into(),
        );
    }
    let error = Command::new(program).args(arguments).exec();
    let status = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
    (SetupError::new("run the command", error).at(program), status)
}

/// Passes signals on until the command has ended.
fn wait(child: &Child, held: &HeldBack) -> Result<End, Errno> {
    let watch = child.watch()?;
    loop {
        let mut fds = [
            PollFd::new(watch.as_fd(), PollFlags::POLLIN),
            PollFd::new(held.arrive.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        let [ended, _] = fds.map(|fd| fd.any().unwrap_or(false));
        while let Some(signal) = held.arrive.read_signal()? {
            // What the kernel sends, for a key of the terminal, it sends to the whole group.
            let sent = signal.ssi_code <= 0;
            if let Some(signal) = i32::try_from(signal.ssi_signo).ok().and_then(|n| Signal::try_from(n).ok())
                && sent
                && let Err(errno) = child.signal(signal)
            {
                log::warn!("{signal} is not passed on: {errno}");
            }
        }
        if ended {
            return child.end();
        }
    }
}
