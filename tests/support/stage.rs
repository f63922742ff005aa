//! A scratch directory in which the program is run as others run it.

#![allow(dead_code, reason = "each test target uses its own part of this")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

#[path = "way.rs"]
mod way;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Pid;

/// A scratch directory with layers `a` and `b`, `u`, `w`, `m`; unmounted and removed at the end.
pub struct Stage(pub tempfile::TempDir);

impl Stage {
    /// `None`, with a word why, where nothing can be mounted.
    pub fn new() -> Option<Stage> {
        if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
            println!("skipped: needs root and /dev/fuse");
            return None;
        }
        // A namespace of this thread's own: a mount that somebody else's new namespace copied would not end with ours.
        let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
        let own = unshare(CloneFlags::CLONE_NEWNS).and_then(|()| mount(none, "/", none, private, none));
        if let Err(errno) = own {
            println!("skipped: a mount namespace is refused: {errno}");
            return None;
        }
        let stage = Stage(tempfile::tempdir().unwrap());
        for name in ["a", "b", "u", "w", "m"] {
            std::fs::create_dir(stage.path(name)).unwrap();
        }
        std::fs::write(stage.path("a/from-a"), "a").unwrap();
        std::fs::write(stage.path("b/from-b"), "b").unwrap();
        Some(stage)
    }

    /// A path in the scratch directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }

    /// A command of acetate, in the scratch directory.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_acetate"));
        match words {
            ["mount", rest @ ..] => command.args(["mount", "-o", &way::option()]).args(rest),
            ["-o", ..] => command.args(["-o", &way::option()]).args(words),
            _ => command.args(words),
        };
        command.current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs a command that is to succeed and say nothing on stderr.
    pub fn must(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && stderr.is_empty(), "{words:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What `list` says of the mounts here, the topmost last.
    pub fn listed(&self) -> Vec<serde_json::Value> {
        let all: Vec<serde_json::Value> = serde_json::from_str(&self.must(&["list", "--json"])).unwrap();
        let here = self.path("m");
        all.into_iter().filter(|mount| mount["mountpoint"].as_str() == here.to_str()).collect()
    }

    /// The server of the topmost mount on `m`.
    pub fn server(&self) -> Pid {
        let pid = self.listed().last().unwrap()["pid"].as_i64().unwrap();
        Pid::from_raw(i32::try_from(pid).unwrap())
    }

    /// Whether anything is mounted on `m`.
    pub fn is_mounted(&self) -> bool {
        mounted_on(&self.path("m")) > 0
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        while nix::mount::umount2(&self.path("m"), nix::mount::MntFlags::MNT_DETACH).is_ok() {}
    }
}

/// How many mounts lie on `path`.
pub fn mounted_on(path: &Path) -> usize {
    let text = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    text.lines().filter(|line| line.split(' ').nth(4) == path.to_str()).count()
}
