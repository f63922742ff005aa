//! Who is measured, and how each of them is mounted and taken away.
//!
//! All get the same layers under the same short relative names, because mount(2) takes one page of options. What a
//! mount command starts in the background is a child of this process in the end (it is the first one of its pid
//! namespace), so "gone" can be waited for.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::Serialize;

use crate::error::SetupError;
use crate::sys::mountapi::{FsContext, MountAttr, attach, locate};

/// The most a page of mount options holds, with room for the other words.
const OPTION_PAGE: usize = 4000;

/// How a contender is started.
#[derive(Clone, Debug)]
enum Kind {
    Kernel,
    /// This program, with these words in `-o`.
    Acetate(Vec<String>),
    /// A program that takes the options of fuse-overlayfs.
    Rival(PathBuf),
}

/// One of those who are compared.
#[derive(Clone, Debug)]
pub struct Contender {
    /// A short name.
    pub name: String,
    /// What it is, with its version where it says one.
    pub about: String,
    kind: Kind,
}

/// What is mounted.
#[derive(Clone, Debug)]
pub struct Stack<'a> {
    /// The directory in which the names below are looked up.
    pub base: &'a Path,
    /// Lower layers, top first.
    pub lower: &'a [String],
    /// `upper` and `work` of the base are the writable layer; without them the mount is read-only.
    pub writable: bool,
    /// Nothing is synced, by those who know the word.
    pub volatile: bool,
    /// Where, a name in the base.
    pub mountpoint: &'a str,
}

/// A contender as the report names it.
#[derive(Clone, Debug, Serialize)]
pub struct Described {
    /// Its short name.
    pub name: String,
    /// What it is.
    pub about: String,
}

impl Contender {
    /// Kernel overlayfs.
    pub fn kernel() -> Contender {
        Contender {
            name: "kernel".into(),
            about: format!("kernel overlayfs, Linux {}", super::facts::kernel_release()),
            kind: Kind::Kernel,
        }
    }

    /// acetate with further mount options.
    pub fn acetate(name: &str, about: &str, words: &[&str]) -> Contender {
        Contender {
            name: name.into(),
            about: format!("acetate {}, {about}", env!("CARGO_PKG_VERSION")),
            kind: Kind::Acetate(words.iter().map(|w| (*w).to_string()).collect()),
        }
    }

    /// A rival program. Errors: when it cannot be run.
    pub fn rival(name: &str, program: &Path) -> Result<Contender, SetupError> {
        // It is started from other directories later.
        let found = program.to_str().filter(|word| !word.contains('/')).and_then(in_path);
        let program = &found
            .map_or_else(|| std::path::absolute(program), Ok)
            .map_err(|e| SetupError::new("use the rival", e).at(program))?;
        let said = Command::new(program).arg("--version").stdin(Stdio::null()).output().map_err(|e| {
            SetupError::new("run the rival", e).at(program).hint("name a program: --rival NAME=PROGRAM")
        })?;
        let text = [said.stdout, said.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let version = text.lines().find(|line| line.to_ascii_lowercase().contains("overlayfs"));
        let about = format!("{}: {}", program.display(), version.unwrap_or("tells no version").trim());
        Ok(Contender { name: name.into(), about, kind: Kind::Rival(program.to_path_buf()) })
    }

    /// As the report names it.
    pub fn described(&self) -> Described {
        Described { name: self.name.clone(), about: self.about.clone() }
    }

    /// Whether it is acetate.
    pub fn is_acetate(&self) -> bool {
        matches!(self.kind, Kind::Acetate(_))
    }

    /// Mounts; returns when the mount is live. Errors: what the mount command said.
    pub fn mount(&self, stack: &Stack<'_>) -> Result<(), String> {
        match &self.kind {
            Kind::Kernel => mount_kernel(stack),
            Kind::Acetate(words) => mount_acetate(stack, words),
            Kind::Rival(program) => {
                let mut command = Command::new(program);
                command.arg("-o").arg(options(stack, false)).arg(stack.mountpoint);
                run(command.current_dir(stack.base))
            }
        }
    }
}

/// The options in the kernel's words.
fn options(stack: &Stack<'_>, volatile: bool) -> String {
    let mut words = format!("lowerdir={}", stack.lower.join(":"));
    if stack.writable {
        words += ",upperdir=upper,workdir=work";
        if volatile && stack.volatile {
            words += ",volatile";
        }
    }
    words
}

fn mount_kernel(stack: &Stack<'_>) -> Result<(), String> {
    let words = options(stack, true);
    if words.len() < OPTION_PAGE {
        let mut command = Command::new("mount");
        command.args(["-t", "overlay", "overlay", "-o", &words, stack.mountpoint]);
        return run(command.current_dir(stack.base));
    }
    mount_kernel_by_steps(stack)
}

/// Layer by layer: the only way for more layers than a page of options holds.
fn mount_kernel_by_steps(stack: &Stack<'_>) -> Result<(), String> {
    let context = FsContext::open(c"overlay").map_err(|e| e.desc().to_string())?;
    let say = |e: Errno| match context.complaint() {
        text if text.is_empty() => e.desc().to_string(),
        text => text,
    };
    let path = |name: &str| stack.base.join(name).to_string_lossy().into_owned();
    for layer in stack.lower {
        context.set(c"lowerdir+", &path(layer)).map_err(say)?;
    }
    if stack.writable {
        context.set(c"upperdir", &path("upper")).map_err(say)?;
        context.set(c"workdir", &path("work")).map_err(say)?;
        if stack.volatile {
            context.set_flag(c"volatile").map_err(say)?;
        }
    }
    let attempt = || {
        context.create()?;
        let tree = context.mount(MountAttr::default())?;
        let place = locate(&stack.base.join(stack.mountpoint))?;
        attach(std::os::fd::AsFd::as_fd(&tree), std::os::fd::AsFd::as_fd(&place))
    };
    attempt().map_err(say)
}

fn mount_acetate(stack: &Stack<'_>, words: &[String]) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|e| format!("this program is not to be found: {e}"))?;
    let mut command = Command::new(program);
    command.args(["mount", "--quiet"]);
    for layer in stack.lower {
        command.arg("--lower").arg(layer);
    }
    if stack.writable {
        command.args(["--upper", "upper", "--work", "work"]);
    }
    let mut words = words.to_vec();
    if stack.writable && stack.volatile {
        words.push("volatile".into());
    }
    if !words.is_empty() {
        command.arg("-o").arg(words.join(","));
    }
    run(command.arg(stack.mountpoint).current_dir(stack.base))
}

/// Runs a command to its end. Errors: the last thing it said, or how it ended.
pub fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => format!("{program} is not installed"),
        _ => format!("{program}: {e}"),
    };
    // A server in the background would keep a pipe open for ever; a file has an end.
    let mut said = tempfile::tempfile().map_err(failed)?;
    let out = said.try_clone().map_err(failed)?;
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(out).status().map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    use std::io::{Read, Seek};
    let mut text = Vec::new();
    said.rewind().and_then(|()| said.read_to_end(&mut text)).map_err(failed)?;
    let text = String::from_utf8_lossy(&text);
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    Err(last.map_or_else(|| format!("{program}: {status}"), |line| line.trim().to_string()))
}

/// Unmounts, and waits until whoever served the mount is gone. Errors: when that takes too long; whatever still runs
/// is killed then.
pub fn unmount(mountpoint: &Path) -> Result<(), String> {
    let done = umount2(mountpoint, MntFlags::empty())
        .or_else(|_| umount2(mountpoint, MntFlags::MNT_DETACH))
        .map_err(|e| format!("cannot unmount: {}", e.desc()));
    let gone = wait_for_all(Duration::from_secs(60));
    done.and(gone)
}

/// Kills every process of this namespace but the first, which this is.
pub fn kill_all() -> Result<(), String> {
    match kill(Pid::from_raw(-1), Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => wait_for_all(Duration::from_secs(20)),
        Err(e) => Err(format!("cannot end what was started: {}", e.desc())),
    }
}

fn wait_for_all(patience: Duration) -> Result<(), String> {
    let began = Instant::now();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {}
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(_) => return Ok(()),
        }
        if began.elapsed() > patience {
            // Aborts the connections of servers that hang.
            kill(Pid::from_raw(-1), Signal::SIGKILL).map_err(|e| e.desc().to_string())?;
            return Err(format!("the server was still there after {} s", patience.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Where a program is, as a shell would find it.
pub fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let is_file = |p: &PathBuf| p.metadata().is_ok_and(|m| m.is_file());
    std::env::split_paths(&path).map(|dir| dir.join(OsStr::new(program))).find(is_file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_fails_gives_its_last_words() {
        let said = run(Command::new("sh").args(["-c", "echo first >&2; echo 'the reason' >&2; exit 3"]));
        assert_eq!(said, Err("the reason".into()));
        assert_eq!(run(&mut Command::new("/nowhere/at-all")), Err("/nowhere/at-all is not installed".into()));
        assert_eq!(run(Command::new("sh").args(["-c", "exit 0"])), Ok(()));
    }

    #[test]
    fn options_name_the_upper_only_where_there_is_one() {
        let lower = ["a".to_string(), "b".to_string()];
        let mut stack =
            Stack { base: Path::new("/"), lower: &lower, writable: true, volatile: true, mountpoint: "mnt" };
        assert_eq!(options(&stack, true), "lowerdir=a:b,upperdir=upper,workdir=work,volatile");
        assert_eq!(options(&stack, false), "lowerdir=a:b,upperdir=upper,workdir=work");
        stack.writable = false;
        assert_eq!(options(&stack, true), "lowerdir=a:b");
    }
}
