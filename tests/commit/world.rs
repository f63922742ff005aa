//! Layers on a scratch filesystem, the kernel's union of them, and what a layer unpacks to.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::backing::{self, Fs};
use crate::support::fingerprint::Fingerprint;
use crate::support::layer::{self, Layer, literal};
use crate::support::mounts::{Mounted, Mounter, binary};
use crate::support::rng::Rng;
use crate::support::sys::{self, Stamp};
use crate::support::tree;

/// `lower` (bottom), `middle`, `upper`, `work` and a mount point.
pub struct World {
    /// Where everything is, through a mount that changes access times.
    pub base: PathBuf,
    quiet: PathBuf,
    target: PathBuf,
    options: String,
}

/// Whether a program is there; says what is skipped if not.
pub fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdin(Stdio::null()).output().is_ok();
    if !found {
        println!("skipped: needs {program}");
    }
    found
}

impl World {
    /// Empty layers; `options` are those of the kernel's mount. `None`, with a word why, where nothing can be mounted.
    pub fn new(fs: Fs, options: &str) -> Option<World> {
        let backing = backing::enter().and_then(|()| backing::backing(fs));
        let backing = match backing {
            Ok(backing) => backing,
            Err(unavailable) => {
                println!("skipped: {}", unavailable.0);
                return None;
            }
        };
        let name = format!("commit-{}", backing::serial());
        let (base, quiet) = (backing.plain.join(&name), backing.quiet.join(&name));
        for dir in ["", "lower", "middle", "upper", "work"] {
            std::fs::create_dir(base.join(dir)).unwrap();
        }
        Some(World { base, quiet, target: backing::scratch("union"), options: options.into() })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.base.join(name)
    }

    /// Builds a layer.
    pub fn build(&self, name: &str, number: usize, with: impl FnOnce(&Layer)) {
        let layer = Layer::new(&self.path(name), number);
        with(&layer);
        layer.finish();
    }

    /// Mounts `layers`, top first, without an upper, or with `upper` and `work` when `writable`.
    pub fn mount(&self, mounter: Mounter, layers: &[&str], writable: bool) -> Mounted {
        let lower: Vec<String> = layers.iter().map(|l| self.path(l).display().to_string()).collect();
        let mut options = format!("lowerdir={},{}", lower.join(":"), self.options);
        if writable {
            let (upper, work) = (self.path("upper"), self.path("work"));
            options += &format!(",upperdir={},workdir={}", upper.display(), work.display());
        }
        mounter.mount(options.trim_end_matches(',').as_bytes(), &self.target, None).unwrap()
    }

    /// Where it is mounted.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Changes the union of `middle` and `lower` through the kernel.
    pub fn change(&self, with: impl FnOnce(&Path)) {
        let mounted = self.mount(Mounter::Kernel, &["middle", "lower"], true);
        with(&self.target);
        mounted.unmount().unwrap();
    }

    /// What the kernel shows of upper, middle and lower.
    pub fn truth(&self) -> BTreeMap<String, String> {
        let mounted = self.mount(Mounter::Kernel, &["upper", "middle", "lower"], false);
        let lines = lines(&self.target);
        mounted.unmount().unwrap();
        lines
    }

    /// Everything that must not change.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::take(
            ["lower", "middle", "upper"].map(|name| self.quiet.join(name)).iter().map(PathBuf::as_path),
        )
    }

    /// Runs acetate in the world's directory.
    pub fn run(&self, words: &[&str]) -> Output {
        acetate(&self.base, words)
    }

    /// Runs acetate; it must succeed.
    pub fn must(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs acetate; it must refuse. Returns what it says.
    pub fn refused(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(!output.status.success(), "{words:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// The image of all three layers: `images:all`.
    pub fn image(&self) {
        self.must(&["commit", "lower", "--oci", "images:lower", "--base", "scratch", "--compress", "none"]);
        self.must(&["commit", "middle", "--oci", "images:middle", "--base", "lower", "--lower", "lower"]);
        let words = ["commit", "upper", "--oci", "images:all", "--base", "middle"];
        self.must(&[&words[..], &["--lower", "middle", "--lower", "lower"]].concat());
    }

    /// What umoci makes of an image.
    pub fn unpacked(&self, image: &str) -> BTreeMap<String, String> {
        let bundle = self.path(&format!("bundle-{}", backing::serial()));
        let output = Command::new("umoci")
            .args(["unpack", "--image", image])
            .arg(&bundle)
            .current_dir(&self.base)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "umoci: {}", String::from_utf8_lossy(&output.stderr));
        let lines = lines(&bundle.join("rootfs"));
        layer::remove_tree(bundle.as_os_str().as_bytes());
        lines
    }
}

impl Drop for World {
    fn drop(&mut self) {
        layer::remove_tree(self.base.as_os_str().as_bytes());
    }
}

/// Runs acetate in a directory.
pub fn acetate(dir: &Path, words: &[&str]) -> Output {
    Command::new(binary()).args(words).current_dir(dir).stdin(Stdio::null()).output().unwrap()
}

/// A tree as one line for each object; hard links are told by the first of their names.
pub fn lines(root: &Path) -> BTreeMap<String, String> {
    let tree = tree::read(root);
    let mut first: BTreeMap<(u32, u32, u64), String> = BTreeMap::new();
    let mut lines = BTreeMap::new();
    for (path, entry) in &tree.entries {
        if entry.kind() == libc::S_IFSOCK {
            continue;
        }
        let name = literal(path);
        let group = match entry.is_dir() {
            true => String::new(),
            false => first.entry(entry.id).or_insert_with(|| name.clone()).clone(),
        };
        let mode = if entry.kind() == libc::S_IFLNK { libc::S_IFLNK } else { entry.mode };
        let xattrs: BTreeMap<String, String> = entry.xattrs.iter().flatten().map(shown).collect();
        let size = if entry.is_dir() { 0 } else { entry.size };
        let line = format!(
            "{mode:o} {}:{} {:?} {size} mtime={:?} {:?} {xattrs:?} same as {group}",
            entry.uid, entry.gid, entry.device, entry.times[1], entry.content
        );
        lines.insert(name, line);
    }
    lines
}

fn shown(attribute: (&Vec<u8>, &Vec<u8>)) -> (String, String) {
    (literal(attribute.0), literal(attribute.1))
}

/// The lines in which two trees differ.
pub fn assert_same(what: &str, expected: &BTreeMap<String, String>, found: &BTreeMap<String, String>) {
    let difference = tree::difference(expected, found);
    assert!(difference.is_empty(), "{what}\n{}", difference.join("\n"));
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn name(rng: &mut Rng) -> String {
    let depth = 1 + rng.below(3);
    (0..depth).map(|_| *rng.pick(&NAMES)).collect::<Vec<_>>().join("/")
}

/// Makes random calls beneath `root`; most collide, and many fail.
pub fn shuffle(root: &Path, rng: &mut Rng, calls: usize) {
    let mut made = 0;
    for _ in 0..calls {
        let path = |name: &str| root.join(name).as_os_str().as_bytes().to_vec();
        let (at, other) = (path(&name(rng)), path(&name(rng)));
        // Whether a call succeeds does not matter: the tree is what it is.
        let answer = match rng.below(17) {
            0..3 => sys::mkdir(&at, *rng.pick(&[0o755, 0o700, 0o1777, 0o2775])),
            3..6 => file(&at, rng),
            6 => sys::symlink(b"../a/b", &at),
            7 => sys::link(&at, &other, 0),
            8 => sys::unlink(&at),
            9 => {
                std::fs::remove_dir_all(std::ffi::OsStr::from_bytes(&at)).map_err(|_| nix::errno::Errno::EIO)
            }
            10..12 => sys::rename(&at, &other, 0),
            12 => sys::lchown(&at, *rng.pick(&[0, 1000, 3_000_000]), *rng.pick(&[0, 100, 4_000_000])),
            13 => sys::chmod(&at, *rng.pick(&[0o644, 0o4755, 0o2711, 0o400])),
            14 => attribute(&at, rng),
            15 => sys::utimens(
                &at,
                Stamp::Omit,
                Stamp::At(*rng.pick(&[0, -5, 1_234_567_890]), *rng.pick(&[0, 5, 500_000_000])),
            ),
            _ => sys::mknod(
                &at,
                *rng.pick(&[libc::S_IFIFO | 0o644, libc::S_IFCHR | 0o600]),
                libc::makedev(1, 3),
            ),
        };
        made += u32::from(answer.is_ok());
    }
    println!("{made} of {calls} calls changed something");
}

fn file(at: &[u8], rng: &mut Rng) -> sys::Answer<()> {
    use std::os::fd::AsRawFd;
    // Without waiting for a reader, should it be a FIFO.
    let fd = sys::open(at, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC | libc::O_NONBLOCK, 0o644)?;
    let byte = *rng.pick(b"xyz");
    match rng.below(3) {
        0 => {
            sys::ftruncate(fd.as_raw_fd(), 1 << 20)?;
            sys::pwrite(fd.as_raw_fd(), 300_000, &vec![byte; 5000]).map(drop)
        }
        1 => sys::write(fd.as_raw_fd(), &vec![byte; 70_000]).map(drop),
        _ => sys::write(fd.as_raw_fd(), &[byte; 3]).map(drop),
    }
}

fn attribute(at: &[u8], rng: &mut Rng) -> sys::Answer<()> {
    // Not an empty value: a PAX record without one counts as absent for readers written in Go, umoci among them.
    match rng.below(4) {
        0 => sys::setxattr(at, b"user.x", b"v\0\n=", 0),
        1 => sys::setxattr(at, b"trusted.y", b"t", 0),
        2 => sys::setxattr(at, b"security.capability", &layer::capability(), 0),
        _ => sys::setxattr(at, b"system.posix_acl_access", &layer::acl_for_user(0o644, 1000, 6), 0),
    }
}
