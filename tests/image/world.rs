//! A scratch directory with a store in it, and trees as lines.

#![allow(dead_code, reason = "some of this is for tests that need programs")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::tarball::Layer;

pub struct World(pub tempfile::TempDir);

impl World {
    pub fn new() -> World {
        World(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// `acetate image …` on the store.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.arg("120").arg(env!("CARGO_BIN_EXE_acetate")).arg("image").args(words);
        command.arg("--store").arg(self.store()).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    pub fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    pub fn must(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && stderr.is_empty(), "{words:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The sentence with which it is refused.
    pub fn refused(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{words:?}: {stderr}");
        assert!(stderr.starts_with("acetate: cannot "), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        stderr
    }

    pub fn json(&self, words: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.must(&[words, &["--json"]].concat())).unwrap()
    }

    /// Imports one layer as an image of its own and returns the directory of the layer.
    pub fn layer(&self, name: &str, layer: Layer) -> PathBuf {
        self.image(name, &[layer]).remove(0)
    }

    /// Imports layers as an image and returns their directories, the topmost first.
    pub fn image(&self, name: &str, layers: &[Layer]) -> Vec<PathBuf> {
        crate::tarball::layout(&self.path(name), "t", layers);
        self.must(&["import", name]);
        let listed = self.json(&["ls"]);
        let row = listed.as_array().unwrap().iter().find(|row| row["name"] == format!("{name}:t")).unwrap();
        row["layers"].as_array().unwrap().iter().map(|path| PathBuf::from(path.as_str().unwrap())).collect()
    }
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether a program is there; says why a test does nothing otherwise.
pub fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let found = found.is_ok_and(|status| status.success());
    if !found {
        println!("skipped: needs {program}");
    }
    found
}

pub fn root_or_skip() -> bool {
    if !is_root() {
        println!("skipped: needs root");
    }
    is_root()
}

/// Every object below `root`, a line each: type, mode, owner, size, time, attributes, contents.
pub fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let at = if path.as_os_str().is_empty() { root.to_path_buf() } else { root.join(&path) };
        let meta = at.symlink_metadata().unwrap();
        if meta.is_dir() {
            waiting.extend(std::fs::read_dir(&at).unwrap().map(|e| path.join(e.unwrap().file_name())));
        }
        lines.insert(path.as_os_str().as_bytes().escape_ascii().to_string(), line(&at, &meta));
    }
    lines
}

fn line(at: &Path, meta: &std::fs::Metadata) -> String {
    let kind = meta.file_type();
    let what = if kind.is_file() {
        format!("file {} {}", meta.len(), crate::tarball::hex(&std::fs::read(at).unwrap()))
    } else if kind.is_symlink() {
        format!("symlink {:?}", std::fs::read_link(at).unwrap())
    } else if kind.is_char_device() {
        format!("char {:x}", meta.rdev())
    } else if kind.is_block_device() {
        format!("block {:x}", meta.rdev())
    } else if kind.is_fifo() {
        "fifo".to_string()
    } else {
        "dir".to_string()
    };
    let mode = meta.mode() & 0o7777;
    let (uid, gid) = (meta.uid(), meta.gid());
    let links = if kind.is_dir() { 0 } else { meta.nlink() };
    format!("{what} {mode:o} {uid}:{gid} {}.{:09} n{links} {}", meta.mtime(), meta.mtime_nsec(), xattrs(at))
}

/// Attributes, by getfattr; nothing where that is missing.
pub fn xattrs(at: &Path) -> String {
    let mut command = Command::new("getfattr");
    command.args(["-hd", "-m", "-", "--absolute-names"]).arg(at);
    let Ok(output) = command.output() else { return String::new() };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The names of everything below a directory, with sizes and times: enough to see that nothing was touched.
pub fn names(root: &Path) -> Vec<String> {
    let mut command = Command::new("find");
    command.arg(root).args(["-printf", "%P %y %m %s %T@ %i\\n"]);
    let output = command.output().unwrap();
    let mut lines: Vec<String> =
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_string).collect();
    lines.sort();
    lines
}

/// What differs, as lines.
pub fn difference(left: &BTreeMap<String, String>, right: &BTreeMap<String, String>) -> Vec<String> {
    let differs =
        |(path, line): &(&String, &String), other: &BTreeMap<String, String>| other.get(*path) != Some(*line);
    let minus = left.iter().filter(|e| differs(e, right)).map(|(path, line)| format!("- {path} {line}"));
    let plus = right.iter().filter(|e| differs(e, left)).map(|(path, line)| format!("+ {path} {line}"));
    minus.chain(plus).collect()
}

pub fn text(path: impl AsRef<OsStr>) -> String {
    std::fs::read_to_string(Path::new(path.as_ref())).unwrap()
}
