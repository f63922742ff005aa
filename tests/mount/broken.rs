//! The disk of the upper fails. The caller is told EIO at the call where kernel overlayfs tells it, nothing that was on the
//! disk before is lost, and nothing half-made appears or is left behind when the disk works again.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;

use crate::support::backing::{self, Fs, Unavailable};
use crate::support::fingerprint::Fingerprint;
use crate::support::mounts::{Mounted, Mounter};
use crate::support::{layer, sys};
use crate::world::{eventually, on_both_paths};

fn raw(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn or_skip<T, E: std::fmt::Display>(what: &str, outcome: Result<T, E>) -> T {
    outcome.unwrap_or_else(|error| std::panic::panic_any(Unavailable(format!("{what}: {error}"))))
}

/// An ext4 of its own, which can be made to fail.
struct Disk {
    image: OwnedFd,
    at: PathBuf,
}

impl Disk {
    fn new() -> Disk {
        let image = or_skip("memory", sys::memory_file(b"failing"));
        File::from(image.try_clone().unwrap()).set_len(64 << 20).unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), image.as_raw_fd());
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-F", "-N", "512", &path])
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .output();
        let made = or_skip("mkfs.ext4", made);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let at = backing::scratch("disk");
        attach(&image, &at);
        Disk { image, at }
    }

    /// Nothing works any more, until the file system is mounted again. What was written is on the disk.
    fn shut_down(&self) {
        const SHUTDOWN: u64 = 0x8004_587d;
        let root = File::open(&self.at).unwrap();
        sys::ioctl(root.as_raw_fd(), SHUTDOWN, &mut 0_u32.to_ne_bytes()).unwrap();
    }

    /// Unmounts and mounts again.
    fn again(&self) {
        sys::umount(raw(&self.at), 0).unwrap();
        attach(&self.image, &self.at);
    }
}

fn attach(image: &OwnedFd, at: &Path) {
    let (device, path) = or_skip("loop", sys::attach_loop(image.as_raw_fd()));
    sys::mount(path.as_bytes(), raw(at), b"ext4", 0, b"").unwrap();
    drop(device);
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(errno) = sys::umount(raw(&self.at), libc::MNT_DETACH) {
            eprintln!("{}: {errno}", self.at.display());
        }
    }
}

/// A lower layer and a disk for the upper, with the words for mounting them.
struct Stack {
    mounter: Mounter,
    options: String,
    mnt: PathBuf,
    work: PathBuf,
}

impl Stack {
    fn new(mounter: Mounter, lower: &Path, disk: &Disk, more: &str) -> Stack {
        let [upper, work] = ["upper", "work"].map(|kind| disk.at.join(kind));
        for dir in [&upper, &work] {
            fs::create_dir(dir).unwrap();
        }
        let more = if mounter == Mounter::Acetate { more } else { "" };
        let (l, u, w) = (lower.display(), upper.display(), work.display());
        let options = format!("lowerdir={l},upperdir={u},workdir={w}{more}");
        Stack { mounter, options, mnt: backing::scratch("mnt"), work }
    }

    fn mount(&self) -> Mounted {
        let mounted = self.mounter.mount(self.options.as_bytes(), &self.mnt, None);
        mounted.unwrap_or_else(|why| panic!("{}: {why:?}", self.options))
    }

    /// What is in the work directory, but for the one whiteout that may be kept there (L-18).
    fn left(&self) -> usize {
        let is_whiteout = |entry: &fs::DirEntry| entry.file_type().unwrap().is_char_device();
        let entries = fs::read_dir(self.work.join("work")).unwrap();
        entries.filter(|entry| !is_whiteout(entry.as_ref().unwrap())).count()
    }

    /// Descriptors that the server holds; none for the kernel.
    fn descriptors(&self) -> usize {
        if self.mounter == Mounter::Kernel {
            return 0;
        }
        let control = File::open(&self.mnt).unwrap();
        let answer =
            acetate::fuse::control::ask(std::os::fd::AsFd::as_fd(&control), br#"{"ask":"status"}"#).unwrap();
        let status: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(status["transport"]["panics"], 0);
        fs::read_dir(format!("/proc/{}/fd", status["pid"])).unwrap().count()
    }
}

/// What was done and what came of it.
#[derive(Default)]
struct Story(Vec<String>);

impl Story {
    fn tell<T>(&mut self, what: &str, done: Result<T, Errno>) {
        self.0.push(format!("{what}: {:?}", done.map(drop)));
    }

    fn see(&mut self, what: &str, seen: impl std::fmt::Debug) {
        self.0.push(format!("{what}: {seen:?}"));
    }
}

fn layer_below() -> PathBuf {
    let ext4 = backing::backing(Fs::Ext4).unwrap_or_else(|why| std::panic::panic_any(why));
    let lower = ext4.quiet.join(format!("broken{}", backing::serial()));
    fs::create_dir_all(lower.join("dir")).unwrap();
    fs::write(lower.join("small"), "below").unwrap();
    fs::write(lower.join("dir/inside"), "below").unwrap();
    lower
}

fn on_both_file_systems(more: &str, story: fn(&Stack, &Disk, &mut Story), expected: &str) {
    let lower = layer_below();
    let print = Fingerprint::take([lower.as_path()]);
    let stories = [Mounter::Kernel, Mounter::Acetate].map(|mounter| {
        let disk = Disk::new();
        let stack = Stack::new(mounter, &lower, &disk, more);
        let mut told = Story::default();
        story(&stack, &disk, &mut told);
        told.0
    });
    assert!(stories[0].iter().any(|line| line == expected), "{:#?}", stories[0]);
    assert_eq!(stories[0], stories[1], "on the left the kernel's");
    assert_eq!(print.changes(), Vec::<String>::new());
    layer::remove_tree(raw(&lower));
}

fn names(mnt: &Path) -> Vec<String> {
    let mut names: Vec<_> = layer::names(raw(mnt)).iter().map(|n| n.escape_ascii().to_string()).collect();
    names.sort();
    names
}

fn a_disk_that_is_gone(stack: &Stack, disk: &Disk, story: &mut Story) {
    let mounted = stack.mount();
    let at = |name: &str| stack.mnt.join(name);
    fs::write(at("kept"), "written before").unwrap();
    fs::create_dir(at("made")).unwrap();
    fs::write(at("made/inside"), "written before").unwrap();
    let open = sys::open(raw(&at("kept")), libc::O_RDWR, 0).unwrap();
    let before = stack.descriptors();
    disk.shut_down();
    for _ in 0..2 {
        story.tell("write", sys::pwrite(open.as_raw_fd(), 0, b"lost"));
        story.tell("fsync", sys::fsync(open.as_raw_fd()));
        story.tell("truncate", sys::ftruncate(open.as_raw_fd(), 1));
        story.tell("allocate", sys::fallocate(open.as_raw_fd(), 0, 0, 1 << 20));
        story.tell("create", sys::open(raw(&at("new")), libc::O_CREAT | libc::O_RDWR, 0o644));
        story.tell("mkdir", sys::mkdir(raw(&at("newdir")), 0o755));
        story.tell("mkdir below", sys::mkdir(raw(&at("dir/newdir")), 0o755));
        story.tell("symlink", sys::symlink(b"x", raw(&at("newlink"))));
        story.tell("mknod", sys::mknod(raw(&at("fifo")), libc::S_IFIFO | 0o600, 0));
        story.tell("link", sys::link(raw(&at("kept")), raw(&at("kept2")), 0));
        story.tell("unlink", sys::unlink(raw(&at("kept"))));
        story.tell("unlink below", sys::unlink(raw(&at("small"))));
        story.tell("rename", sys::rename(raw(&at("kept")), raw(&at("kept2")), 0));
        story.tell("rename below", sys::rename(raw(&at("small")), raw(&at("small2")), 0));
        story.tell("chmod", sys::chmod(raw(&at("kept")), 0o600));
        story.tell("chmod below", sys::chmod(raw(&at("small")), 0o600));
        story.tell("chown below", sys::lchown(raw(&at("dir")), 5, 5));
        story.tell("xattr", sys::setxattr(raw(&at("kept")), b"user.a", b"1", 0));
        story.tell("open for writing below", sys::open(raw(&at("dir/inside")), libc::O_RDWR, 0));
        story.tell("rmdir", sys::rmdir(raw(&at("made"))));
        story.see("below", fs::read_to_string(at("small")).ok());
        story.see("size", sys::fstat(open.as_raw_fd()).map(|s| s.stx_size));
    }
    drop(open);
    eventually("no descriptor leaks", || stack.descriptors() <= before);
    mounted.unmount().unwrap();
    disk.again();
    let mounted = stack.mount();
    assert_eq!(stack.left(), 0, "left in the work directory");
    story.see("names", (names(&stack.mnt), names(&at("dir")), names(&at("made"))));
    for name in ["kept", "made/inside", "small", "dir/inside"] {
        story.see(name, fs::read_to_string(at(name)).ok());
    }
    story.tell("rename below", sys::rename(raw(&at("small")), raw(&at("small2")), 0));
    mounted.unmount().unwrap();
}

#[test]
fn a_disk_of_the_upper_that_is_gone_is_eio_and_what_was_there_is_there_again() {
    on_both_paths(120, |path| {
        on_both_file_systems(&format!(",{path}"), a_disk_that_is_gone, "mkdir: Err(EIO)");
    });
}
