//! Union mounts that undo themselves: kernel overlayfs, and acetate.
//!
//! A guard unmounts exactly the path that it mounted. If that fails because something still holds it, it is
//! detached lazily, and the caller is told.

use std::fs::OpenOptions;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::{sys, watchdog, way};

/// Who makes the union.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mounter {
    /// `mount -t overlay`.
    Kernel,
    /// The `acetate` binary of this package.
    Acetate,
}

impl Mounter {
    /// The side under test: acetate, or with `ACETATE_DIFFERENTIAL_CANDIDATE=kernel` the kernel itself, which
    /// proves that the tests are deterministic.
    pub fn candidate() -> Self {
        match std::env::var("ACETATE_DIFFERENTIAL_CANDIDATE").as_deref() {
            Ok("kernel") => Self::Kernel,
            Ok("acetate") | Err(_) => Self::Acetate,
            Ok(other) => panic!("ACETATE_DIFFERENTIAL_CANDIDATE={other}: kernel or acetate"),
        }
    }

    /// Mounts with the option string of overlayfs; `directory` is what relative paths in it start from.
    pub fn mount(self, options: &[u8], target: &Path, directory: Option<&Path>) -> Result<Mounted, Refusal> {
        match self {
            Self::Kernel => mount_kernel(options, target, directory)?,
            Self::Acetate => mount_acetate(options, target, directory)?,
        }
        let mounted = Mounted { mounter: self, target: target.to_path_buf(), live: true };
        if self == Self::Acetate {
            mounted.register_abort();
        }
        Ok(mounted)
    }
}

/// The program under test: the one just built, or the one named by `ACETATE_BINARY`.
pub fn binary() -> PathBuf {
    std::env::var_os("ACETATE_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_acetate").into(), PathBuf::from)
}

/// Why a mount was refused.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// By the kernel.
    Errno(Errno),
    /// By the program, with its words.
    Said(String),
}

fn mount_kernel(options: &[u8], target: &Path, directory: Option<&Path>) -> Result<(), Refusal> {
    if let Some(directory) = directory {
        sys::chdir(directory.as_os_str().as_bytes()).map_err(Refusal::Errno)?;
    }
    let mut flags = 0;
    let words: Vec<&[u8]> = options
        .split(|byte| *byte == b',')
        .filter(|word| {
            let flag = match *word {
                b"ro" => libc::MS_RDONLY,
                b"noatime" => libc::MS_NOATIME,
                b"nodiratime" => libc::MS_NODIRATIME,
                b"relatime" => libc::MS_RELATIME,
                b"strictatime" => libc::MS_STRICTATIME,
                _ => return true,
            };
            flags |= flag;
            false
        })
        .collect();
    let mounted =
        sys::mount(b"overlay", target.as_os_str().as_bytes(), b"overlay", flags, &words.join(&b','));
    if directory.is_some() {
        sys::chdir(b"/").map_err(Refusal::Errno)?;
    }
    mounted.map_err(Refusal::Errno)
}

fn mount_acetate(options: &[u8], target: &Path, directory: Option<&Path>) -> Result<(), Refusal> {
    let mut command = Command::new(binary());
    command.arg("-o").arg(way::option()).arg("-o").arg(std::ffi::OsStr::from_bytes(options)).arg(target);
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    let (status, words) = finish(command, Duration::from_secs(20)).map_err(Refusal::Said)?;
    if !status.success() {
        return Err(Refusal::Said(words));
    }
    if is_mount_point(target) {
        Ok(())
    } else {
        Err(Refusal::Said(format!("no mount after success: {words}")))
    }
}

/// Runs a command to its end, with its standard error; killed after `limit`.
fn finish(mut command: Command, limit: Duration) -> Result<(ExitStatus, String), String> {
    let said = super::backing::scratch("stderr");
    let log = said.join("log");
    let file = std::fs::File::create(&log).map_err(|e| e.to_string())?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file)
        .spawn()
        .map_err(|error| format!("{command:?}: {error}"))?;
    let status = wait(&mut child, limit);
    let words = std::fs::read_to_string(&log).unwrap_or_default();
    std::fs::remove_dir_all(&said).map_err(|e| e.to_string())?;
    match status {
        Some(status) => Ok((status, words)),
        None => Err(format!("{command:?}: not finished after {limit:?}: {words}")),
    }
}

fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    let mut pause = Duration::from_micros(200);
    while start.elapsed() < limit {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) => std::thread::sleep(pause),
            Err(error) => panic!("waiting for a child: {error}"),
        }
        pause = (pause * 2).min(Duration::from_millis(5));
    }
    if let Err(error) = child.kill().and_then(|()| child.wait().map(drop)) {
        eprintln!("killing a hung child: {error}");
    }
    None
}

/// The fields of this mount in mountinfo, if it is one.
fn mountinfo(target: &Path) -> Option<Vec<String>> {
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").ok()?;
    let line = table.lines().rfind(|line| line.split(' ').nth(4) == target.to_str())?;
    Some(line.split(' ').map(str::to_owned).collect())
}

/// Whether something is mounted exactly there.
pub fn is_mount_point(target: &Path) -> bool {
    mountinfo(target).is_some()
}

/// A live union mount.
#[derive(Debug)]
pub struct Mounted {
    mounter: Mounter,
    target: PathBuf,
    live: bool,
}

impl Mounted {
    fn register_abort(&self) {
        let Some(minor) =
            mountinfo(&self.target).and_then(|fields| fields[2].split_once(':').map(|d| d.1.to_owned()))
        else {
            return;
        };
        let path = format!("/sys/fs/fuse/connections/{minor}/abort");
        match OpenOptions::new().write(true).open(&path) {
            Ok(file) => watchdog::abort_on_hang(file),
            Err(error) => eprintln!("{path}: {error}"),
        }
    }

    /// Unmounts; an error says what was in the way, and the mount is then detached lazily.
    pub fn unmount(mut self) -> Result<(), String> {
        self.live = false;
        let target = self.target.as_os_str().as_bytes();
        let outcome = match self.mounter {
            Mounter::Kernel => unmount_patiently(target).map_err(|errno| format!("umount: {errno}")),
            Mounter::Acetate => unmount_by_program(&self.target),
        };
        if is_mount_point(&self.target) {
            let detached = sys::umount(target, libc::MNT_DETACH);
            return Err(format!(
                "{}: still mounted ({outcome:?}), detached: {detached:?}",
                self.target.display()
            ));
        }
        outcome
    }
}

/// Another thread that is between fork and exec may hold our descriptors for a moment.
fn unmount_by_program(target: &Path) -> Result<(), String> {
    let start = Instant::now();
    loop {
        let mut command = Command::new(binary());
        command.arg("umount").arg(target);
        match finish(command, Duration::from_secs(20))? {
            (status, _) if status.success() => return Ok(()),
            (_, words) if words.contains("in use") && start.elapsed() < Duration::from_secs(2) => {
                std::thread::sleep(Duration::from_millis(10));
            }
            (status, words) => return Err(format!("acetate umount: {status}: {words}")),
        }
    }
}

/// As [`unmount_by_program`].
fn unmount_patiently(target: &[u8]) -> sys::Answer<()> {
    let start = Instant::now();
    loop {
        match sys::umount(target, 0) {
            Err(Errno::EBUSY) if start.elapsed() < Duration::from_secs(2) => {
                std::thread::sleep(Duration::from_millis(2));
            }
            answer => return answer,
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.live && is_mount_point(&self.target) {
            let target = self.target.as_os_str().as_bytes();
            if unmount_patiently(target).is_err()
                && let Err(errno) = sys::umount(target, libc::MNT_DETACH)
            {
                eprintln!("{}: umount: {errno}", self.target.display());
            }
        }
    }
}
