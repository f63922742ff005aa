//! Stops another process at its k-th system call that changes something, and kills it there.
//!
//! Only what happens between two calls of getppid(2) counts: the process makes them around the operation.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Killed before this system call took effect.
    Killed(i64),
    /// It made fewer changing calls.
    Completed,
}

const SETXATTRAT: i64 = 463;
const REMOVEXATTRAT: i64 = 466;
const FCHMODAT2: i64 = 452;
const O_TMPFILE_BIT: i32 = 0o20_000_000;
const CHANGING_IOCTLS: [u64; 3] = [0x4004_9409, 0x4008_6602, 0x401c_5820];

/// Whether a system call changes a filesystem.
fn changes(number: i64, args: &[u64; 6]) -> bool {
    let creates = |flags: u64| flags as i32 & (libc::O_CREAT | libc::O_TRUNC | O_TMPFILE_BIT) != 0;
    match number {
        libc::SYS_openat => creates(args[2]),
        libc::SYS_write => args[0] > 2,
        libc::SYS_ioctl => CHANGING_IOCTLS.contains(&args[1]),
        libc::SYS_mknodat
        | libc::SYS_mkdirat
        | libc::SYS_symlinkat
        | libc::SYS_linkat
        | libc::SYS_renameat2
        | libc::SYS_renameat
        | libc::SYS_unlinkat
        | libc::SYS_ftruncate
        | libc::SYS_pwrite64
        | libc::SYS_copy_file_range
        | libc::SYS_fallocate
        | libc::SYS_fchownat
        | libc::SYS_fchown
        | libc::SYS_fchmodat
        | libc::SYS_fchmod
        | libc::SYS_utimensat
        | libc::SYS_setxattr
        | libc::SYS_lsetxattr
        | libc::SYS_fsetxattr
        | libc::SYS_removexattr
        | libc::SYS_lremovexattr
        | libc::SYS_fremovexattr
        | libc::SYS_fsync
        | libc::SYS_fdatasync
        | libc::SYS_syncfs
        | FCHMODAT2
        | SETXATTRAT
        | REMOVEXATTRAT => true,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => creates(args[1]),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chmod => true,
        _ => false,
    }
}

fn wait(tid: Pid) -> nix::Result<WaitStatus> {
    waitpid(tid, Some(WaitPidFlag::__WALL))
}

/// Starts `command`, which says `tid N` and waits for a line, and kills it at the changing call number `at`.
pub fn run(command: &mut Command, at: usize) -> Result<End, String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("starting the process: {e}"))?;
    let mut traced = None;
    let end = follow(&mut child, at, &mut traced);
    if let Err(e) = child.kill() {
        return Err(format!("killing the process: {e}"));
    }
    // A traced thread is ours to bury before its process can be.
    while let Some(tid) = traced
        && matches!(wait(tid), Ok(WaitStatus::PtraceSyscall(_) | WaitStatus::PtraceEvent(..)))
    {}
    child.wait().map_err(|e| format!("waiting for the process: {e}"))?;
    end
}

fn follow(child: &mut Child, at: usize, traced: &mut Option<Pid>) -> Result<End, String> {
    let stdout = child.stdout.take().ok_or("no standard output")?;
    let mut lines = BufReader::new(stdout).lines();
    let tid = loop {
        let line = lines.next().ok_or("the process ended early")?.map_err(|e| e.to_string())?;
        if let Some((_, tid)) = line.split_once("tid ") {
            break Pid::from_raw(tid.trim().parse().map_err(|_| format!("not a number: {line}"))?);
        }
    };
    let failed = |what: &str| {
        let what = what.to_owned();
        move |e: nix::errno::Errno| format!("{what}: {e}")
    };
    ptrace::seize(tid, ptrace::Options::PTRACE_O_TRACESYSGOOD).map_err(failed("seize"))?;
    *traced = Some(tid);
    ptrace::interrupt(tid).map_err(failed("interrupt"))?;
    wait(tid).map_err(failed("wait"))?;
    ptrace::syscall(tid, None).map_err(failed("continue"))?;
    child.stdin.take().ok_or("no standard input")?.write_all(b"go\n").map_err(|e| e.to_string())?;
    let (mut marks, mut count) = (0, 0);
    loop {
        let mut pass: Option<Signal> = None;
        match wait(tid).map_err(failed("wait"))? {
            WaitStatus::PtraceSyscall(_) => {
                let info = ptrace::syscall_info(tid).map_err(failed("ask"))?;
                if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY
                    && let Some((number, args)) = entered(tid)?
                {
                    marks += usize::from(number == libc::SYS_getppid);
                    if marks == 2 {
                        return Ok(End::Completed);
                    }
                    if marks == 1 && changes(number, &args) {
                        count += 1;
                        if count == at {
                            return Ok(End::Killed(number));
                        }
                    }
                }
            }
            WaitStatus::Stopped(_, signal) => pass = Some(signal),
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return Err("the process died".into()),
            _ => {}
        }
        ptrace::syscall(tid, pass).map_err(failed("continue"))?;
    }
}

#[cfg(target_arch = "x86_64")]
fn entered(tid: Pid) -> Result<Option<(i64, [u64; 6])>, String> {
    let r = ptrace::getregs(tid).map_err(|e| format!("registers: {e}"))?;
    Ok(Some((r.orig_rax as i64, [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9])))
}

#[cfg(target_arch = "aarch64")]
fn entered(tid: Pid) -> Result<Option<(i64, [u64; 6])>, String> {
    let r = ptrace::getregs(tid).map_err(|e| format!("registers: {e}"))?;
    let a = r.regs;
    Ok(Some((a[8] as i64, [a[0], a[1], a[2], a[3], a[4], a[5]])))
}
